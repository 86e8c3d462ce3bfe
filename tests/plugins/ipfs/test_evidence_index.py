"""The index of evidence: it holds nothing that the records do not say, and is made from them whenever it must be."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pointsman import AllBackendsFailed, ConfigError, Store, StoreBackend, UnavailableError, UnusableAnswer, hookimpl
from pointsman_ipfs import Blocks, Gateway, Kubo, _sqlite
from pointsman_ipfs.dag import car, cbor
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.evidence import About, Evidence, Record, _locked
from pointsman_ipfs.evidence._locked import SharedLock

ABOUT = About("document", "The notice of 3 May", "eviction", "anna")


@pytest.fixture
def kept(evidence: Evidence) -> list[Record]:
    """Records that were submitted, one after another."""
    return [evidence.submit(b"%d" % n, About("text", f"number {n}", user=f"user {n % 2}")).record for n in range(8)]


def rows(path: Path) -> list[Any]:
    """All that is in an index."""
    with closing(sqlite3.connect(path)) as db:
        tables = ("records", "follows", "ends")
        return [db.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables]


def test_where_it_is(store: Store, tmp_path: Path) -> None:
    """Beside the content of the first store that has a path, or where one says; nothing is made before it is needed."""
    with Evidence(store) as beside, Evidence(store, tmp_path / "folder" / "mine.sqlite") as named:
        assert beside.path == tmp_path / "home" / "evidence.sqlite"
        assert not beside.path.exists()
        record = named.submit(b"x", ABOUT).record
        assert named.path.stat().st_mode & 0o777 == 0o600
        assert beside.find(record.cid) == (record,), "it is made from the records that there are"


def test_without_any_path_it_is_where_data_of_programs_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a store on a node, say, which is not asked for that."""
    monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "data" / "store"))
    with Store({"node": Kubo(url="http://127.0.0.1:9")}) as store, Evidence(store) as evidence:
        assert evidence.path == tmp_path / "data" / "evidence.sqlite"


def test_it_is_the_same_when_it_is_made_anew(evidence: Evidence, kept: list[Record], store: Store) -> None:
    """By `reindex`, or where there is none: row by row, whether something was submitted since or not."""
    before = rows(evidence.path)
    assert evidence.reindex().records == 8
    assert rows(evidence.path) == before
    evidence.close()
    for file in evidence.path.parent.glob("evidence.sqlite*"):
        file.unlink()
    with Evidence(store) as another:
        found = another.reindex()
    assert (found.records, found.unreadable) == (8, ())
    assert rows(evidence.path) == before
    assert list(evidence.records()) == kept, "what was closed is opened again"


def test_it_may_be_deleted_while_it_is_used(evidence: Evidence, kept: list[Record], store: Store) -> None:
    """The next question makes it anew; what SQLite had beside it counts for nothing."""
    for n in range(3):
        evidence.path.unlink()
        if n == 1:
            kept.append(evidence.submit(b"more", ABOUT).record)
        assert list(evidence.records()) == kept
        assert evidence.ends() == (kept[-1].record_cid,)
    with Evidence(store) as another:
        assert list(another.records()) == kept


def _overwritten(path: Path) -> None:
    path.write_bytes(b"\xff" * 100_000)


def _cut(path: Path) -> None:
    os.truncate(path, 5000)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"number 3")
    data[at + 7] ^= 1
    path.write_bytes(data)


def _changed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE records SET block = CAST(block || x'00' AS BLOB) WHERE place = 3")
        db.commit()


def _of_another_kind(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE records SET block = CAST(block AS TEXT) WHERE place = 3")
        db.commit()


def _without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE ends")
        db.commit()


def _unreadable(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"CREATE INDEX", b"CREATE IN\xc4EX", 1))


def _of_others(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs(x)")
        db.commit()


def _older(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=0")
        db.commit()


DAMAGES: list[Callable[[Path], None]] = [_overwritten, _cut, _emptied, _flipped, _changed, _of_another_kind]
DAMAGES += [_without_a_table, _unreadable, _of_others, _older]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("first", ["reads", "submits"])
def test_a_damaged_one_is_put_aside_and_made_anew(
    evidence: Evidence, kept: list[Record], store: Store, damage: Callable[[Path], None], first: str
) -> None:
    """Whatever happened to it; no record is lost, nor taken for another one."""
    evidence.close()
    damage(evidence.path)
    with Evidence(store) as again:
        if first == "reads":
            assert list(again.records()) == kept
            assert again.ends() == (kept[-1].record_cid,)
        else:
            with suppress(UnavailableError):  # "it was damaged, and has been made anew; submit it again"
                again.submit(b"one", ABOUT)
        again.submit(b"more", ABOUT)
        kept += again.find(cids.to_text(cids.raw_cid(b"one"))) + again.find(cids.to_text(cids.raw_cid(b"more")))
        assert list(again.records()) == kept
        assert again.ends() == (kept[-1].record_cid,)
        assert {one.evidence_type for one in kept} == again.statistics().evidence_types


def test_damage_that_happens_while_it_is_used(evidence: Evidence, kept: list[Record]) -> None:
    """Is found by the next question that meets it."""
    _changed(evidence.path)
    assert list(evidence.records()) == kept
    assert len(list(evidence.path.parent.glob("evidence.sqlite.damaged-*"))) == 1


def test_a_file_of_others_that_was_named_is_not_touched(store: Store, tmp_path: Path) -> None:
    """It is an error that says what to do."""
    path = tmp_path / "theirs.sqlite"
    path.touch()
    for change in (_of_others, _overwritten):
        change(path)
        before = path.read_bytes()
        words = r"name another one\. If it was one, delete it"
        with Evidence(store, path) as evidence, pytest.raises(ConfigError, match=words):
            evidence.submit(b"x", ABOUT)
        assert path.read_bytes() == before
        assert list(tmp_path.glob("theirs*")) == [path]
    assert list(store.ls()) == []


def test_a_lock_that_was_taken_away_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited for it holds the new one; what we have not made stays."""
    path, waits, locks = tmp_path / "a.lock", threading.Event(), _locked.locks
    first, second, third = (SharedLock(path, 5.0, "it") for _ in range(3))
    held = threading.Event()

    def asked(file: int, kind: int) -> bool:
        if not (free := locks(file, kind)):
            waits.set()
        return free

    def wait() -> None:
        with second.held():
            with pytest.raises(UnavailableError), SharedLock(path, 0.0, "it").held():
                pass
            held.set()

    with first.held():
        thread = threading.Thread(target=wait)
        monkeypatch.setattr(_locked, "locks", asked)
        thread.start()
        assert waits.wait(60)
        first.forget()
        assert not path.exists()
    assert held.wait(60)
    thread.join(60)
    with third.held():
        third.forget()
    assert path.exists()


def test_one_that_cannot_be_written_is_told(store: Store, tmp_path: Path) -> None:
    """With its path, and before anything else is done."""
    (tmp_path / "file").touch()
    with (
        Evidence(store, tmp_path / "file" / "index") as evidence,
        pytest.raises(UnavailableError, match=r"the index .* cannot be used: .*; choose another path"),
    ):
        evidence.submit(b"x", ABOUT)
    assert list(store.ls()) == []


def test_one_that_another_program_holds_is_told(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute, a fraction of it here. Nothing is lost of what was there, and all goes on when it is let go."""
    monkeypatch.setattr(_sqlite, "BUSY_S", 0.1)
    with Evidence(store, tmp_path / "x") as evidence, closing(sqlite3.connect(evidence.path)) as other:
        other.isolation_level = None
        evidence.submit(b"x", ABOUT)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError, match="another program has held it; end that, and try again"):
            evidence.submit(b"y", ABOUT)
        assert len(list(evidence.records())) == 1
        other.execute("ROLLBACK")
        evidence.submit(b"z", ABOUT)
        assert len(list(evidence.records())) == 2


def test_a_store_that_is_none_is_no_source_of_records(store: Store) -> None:
    """Its id is mistyped, say: the index would lack what is in the right one."""
    for wrong in ["hom"], "home":
        with pytest.raises(ConfigError, match=r"^stores: found '.*', expected of 'home'$"):
            Evidence(store, stores=wrong)
    Evidence(store, stores=["home"]).close()


def test_a_damaged_record_is_named(evidence: Evidence, kept: list[Record], store: Store, tmp_path: Path) -> None:
    """By `reindex`, with its CID; what the index has of it stays. Reading it is an error, and its evidence is there."""
    (pack,) = (tmp_path / "home" / "packs").glob("*.car")
    data = bytearray(pack.read_bytes())
    places = [at for at in range(len(data)) if data.startswith(b"number 3", at)]
    assert len(places) == 1
    data[places[0] + 7] ^= 1
    pack.write_bytes(data)
    found = evidence.reindex()
    assert found.records == 8
    assert [one.cid for one in found.unreadable] == [kept[3].record_cid]
    assert list(evidence.records()) == kept
    with pytest.raises(UnusableAnswer, match=kept[3].record_cid[-40:]):
        evidence.confirm(kept[3])
    assert evidence.read(kept[3]) == b"3"
    assert kept[3].record_cid[-40:] in "".join(one.cid for one in store.verify())


def test_what_is_pinned_and_no_record_is_left_alone(evidence: Evidence, kept: list[Record], store: Store) -> None:
    """Files, folders and blocks of other programs; a block that says it is a record and is none is named."""
    store.put(b"a file")
    pinned = list[Any]()
    for said in ({"schema": "others"}, {"schema": "pointsman.evidence.v1", "id": "x"}):
        block = cbor.encode(said)
        pinned += store.import_car(b"".join(car.write([cids.cbor_cid(block)], [(cids.cbor_cid(block), block)])))
    found = evidence.reindex()
    assert found.records == 8
    assert [one.cid for one in found.unreadable] == [pinned[1].cid]
    assert "its id or its links are not what they should be" in found.unreadable[0].problem


def test_a_record_that_is_not_as_one_is_keeps_nobody_from_the_others(
    evidence: Evidence, kept: list[Record], store: Store
) -> None:
    """Whoever imports what somebody made up finds it named by `reindex`, in no list, and an error by its own CID."""
    whole: Any = cbor.decode(store.get(kept[7].record_cid.replace("bafyrei", "bafkrei", 1)))
    pinned = list[str]()
    for wrong in ({"size": -1}, {"user": 5}, {"time": "0001-01-01T00:00:00+23:00"}, {"more": 1}, {"metadata": None}):
        block = cbor.encode({**whole, **wrong})
        cid = cids.cbor_cid(block)
        pinned += [one.cid for one in store.import_car(b"".join(car.write([cid], [(cid, block)])))]
    found = evidence.reindex()
    assert found.records == 8
    assert {one.cid for one in found.unreadable} == set(pinned)
    assert list(evidence.records()) == kept
    assert evidence.statistics().records == 8
    assert evidence.find(kept[7].cid) == (kept[7],)
    for cid_ in pinned:
        with pytest.raises(UnusableAnswer, match=cid_):
            evidence.find(cid_)


def test_evidence_that_is_let_go_stays_known(evidence: Evidence, kept: list[Record], store: Store) -> None:
    """Until the index is deleted: `reindex` names it, and keeps what was said of it."""
    store.unpin(kept[7].record_cid)
    store.gc()
    found = evidence.reindex()
    assert [(one.cid, one.problem) for one in found.unreadable] == [
        (kept[7].record_cid, "it is in the index, and pinned in no store that could be listed")
    ]
    assert list(evidence.records()) == kept
    for file in evidence.path.parent.glob("evidence.sqlite*"):
        file.unlink()
    assert list(evidence.records()) == kept[:7]


class Away(Blocks):
    """A store that cannot be asked now."""

    @hookimpl
    def entries(self, cid: str | None, scope: Any) -> Iterator[Any]:
        """It is away."""
        raise UnavailableError("it is away")


def test_records_are_looked_for_in_every_store(tmp_path: Path) -> None:
    """Also where the first has none; a store that cannot be listed is told, and one that only reads is not asked."""
    office = Blocks(path=tmp_path / "office")
    with Store({"office": office}) as store, Evidence(store) as evidence:
        there = [evidence.submit(b"%d" % n, ABOUT).record for n in range(3)]
    home, world = Blocks(path=tmp_path / "home"), Gateway(url="http://127.0.0.1:9")
    off = StoreBackend(Away(path=tmp_path / "off"), enabled=False)
    with Store({"home": home, "office": office, "world": world, "off": off}) as store, Evidence(store) as evidence:
        assert list(evidence.records()) == there
        assert evidence.submit(b"more", ABOUT).record.previous == (there[-1].record_cid,)
        assert evidence.reindex().unreadable == ()
    away = Away(path=tmp_path / "office")
    with Store({"home": home, "office": away}) as store, Evidence(store) as evidence:
        found = evidence.reindex()
        assert [(one.store, one.problem) for one in found.unreadable if one.store] == [
            ("office", "it cannot be listed: it is away")
        ]
        assert (found.records, len(found.unreadable)) == (4, 4), "those that are only there, each"
        assert list(evidence.records())[:3] == there
    with Store({"office": away}) as store, Evidence(store, tmp_path / "new.sqlite") as evidence:
        with pytest.raises((UnavailableError, AllBackendsFailed), match="away"):
            evidence.reindex()
        with pytest.raises((UnavailableError, AllBackendsFailed), match="away"):
            evidence.submit(b"x", ABOUT)


def test_a_record_from_elsewhere_is_found_by_its_own_cid(evidence: Evidence, tmp_path: Path) -> None:
    """As soon as the store has it; by that of its evidence once it is in the index."""
    with Store({"x": Blocks(path=tmp_path / "elsewhere")}) as store, Evidence(store) as other:
        record = other.submit(b"x", ABOUT).record
        brought = b"".join(store.export_car(record.record_cid))
    evidence.submit(b"of our own", ABOUT)
    assert evidence.find(record.record_cid) == ()
    evidence.store.import_car(brought)
    assert evidence.find(record.record_cid) == (record,)
    assert evidence.find(record.cid) == ()
    assert evidence.reindex().records == 2
    assert evidence.find(record.cid) == (record,)
    assert len(evidence.ends()) == 2
    joined = evidence.submit(b"y", ABOUT).record
    assert record.record_cid in joined.previous
    assert evidence.ends() == (joined.record_cid,), "one log again"


def test_a_log_that_has_branched_is_put_in_order(tmp_path: Path) -> None:
    """Each record after those that it follows, the earlier ones first; all that stays open is joined by the next."""
    cars = []
    for name in "abc":
        with Store({"x": Blocks(path=tmp_path / name)}) as store, Evidence(store) as evidence:
            chain = [evidence.submit(b"%d" % n, About("text", name)).record for n in range(3)]
            cars += [b"".join(store.export_car(one.record_cid)) for one in chain]
    with Store({"x": Blocks(path=tmp_path / "all")}) as store, Evidence(store) as evidence:
        for one in reversed(cars):
            store.import_car(one)
        assert evidence.reindex().records == 9
        found = list(evidence.records())
        assert [one.description for one in found] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
        assert [one.size for one in found] == [1] * 9
        last = evidence.submit(b"all", ABOUT).record
        assert set(last.previous) == {found[n].record_cid for n in (2, 5, 8)}
        assert evidence.reindex().records == 10
        assert list(evidence.records()) == [*found, last]
        assert evidence.ends() == (last.record_cid,)
