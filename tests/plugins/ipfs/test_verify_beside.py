"""`verify` beside what happens to a folder: other threads, forks, writers that were killed, imports."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest
from pointsman import ConfigError, Router, Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import car
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.evidence import About, Evidence, Record
from pointsman_ipfs.proof import _index, _scan, verify
from pointsman_ipfs.proof._found import Found

ABOUT = About("letter")


def submitted(folder: Path, *pieces: bytes) -> list[Record]:
    """Submit pieces of evidence to the store in a folder."""
    with Store([Blocks(path=folder)]) as store, Evidence(store) as evidence:
        return [evidence.submit(piece, ABOUT).record for piece in pieces]


def troubles(what: Path) -> list[str]:
    """Return the lines that do not hold."""
    return [str(check) for check in verify(what) if not check.holds]


@pytest.fixture
def left_open(kept: Path, start: Any) -> None:
    """The index of evidence in `kept` as a process leaves it that is killed: what was entered is in its log."""
    program = f"""
import os
from pathlib import Path
from pointsman import Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence
evidence = Evidence(Store([Blocks(path=Path({str(kept)!r}))]))
evidence.submit(b"one", About("letter"))
os._exit(0)
"""
    assert start(program).wait(60) == 0
    assert (kept / "evidence.sqlite-wal").stat().st_size


# -- in the same process ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("left_open")
def test_who_opens_the_evidence_meanwhile_can_submit(kept: Path) -> None:
    """SQLite lets nobody of a process write a file that is open in it to be read only: `verify` keeps none open."""
    checks = verify(kept)
    assert any("evidence.sqlite" in check.what for check in checks)  # there it waits for us
    assert len(submitted(kept, b"two")) == 1
    assert list(checks) == []


@pytest.mark.usefixtures("left_open")
def test_a_child_that_was_forked_meanwhile_holds_up_nobody(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits the file of the lock, which is let go all the same; it has no connection to the index."""
    reading, children = _index.reading, list[int]()

    def forks(path: Path) -> Any:
        children.append(os.fork())
        if not children[-1]:
            signal.pause()
            os._exit(0)
        return reading(path)

    monkeypatch.setattr(_index, "reading", forks)
    try:
        assert troubles(kept) == []
        began = monotonic()
        submitted(kept, b"two")
        assert monotonic() - began < 30
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert len(children) == 1


@pytest.mark.usefixtures("left_open")
def test_no_fork_comes_while_the_index_is_open(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants to fork waits until the copy is made: SQLite in the child would count on locks of its parent."""
    reading, forks = _index.reading, list[Thread]()

    def looks(path: Path) -> Any:
        forks.append(Thread(target=lambda: os.waitpid(os.fork() or os._exit(0), 0)))
        forks[0].start()
        forks[0].join(0.3)
        assert forks[0].is_alive()
        return reading(path)

    monkeypatch.setattr(_index, "reading", looks)
    assert troubles(kept) == []
    forks[0].join(20)
    assert not forks[0].is_alive()


def test_children_that_are_forked_meanwhile_can_use_sqlite(kept: Path, forked: Any) -> None:
    """A child that comes while SQLite works for `verify` finds none of its locks taken."""
    submitted(kept, *(b"%d" % number for number in range(50)))
    ends = Event()

    def verifies() -> None:
        while not ends.is_set():
            list(verify(kept))

    threads = [Thread(target=verifies) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(100):
            with Store([Blocks(path=kept)]) as store:
                child = forked(lambda store=store, number=number: store.put(b"of a child, %d" % number))
                assert os.waitpid(child, 0)[1] == 0
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def test_a_block_that_two_packs_have_is_found_when_one_of_them_goes(tmp_path: Path) -> None:
    """A collection writes it to another pack before it takes the first one away; both may have been read by then."""
    for first in range(2):
        packs = [tmp_path / "a.car", tmp_path / "b.car"]
        found = Found()
        for pack in packs:
            pack.write_bytes(b"......letter")
            with pack.open("rb") as file:
                found.begin(pack, file.fileno())
            found.add(cids.raw_cid(b"letter"), 6, 6)
        assert len(found) == 1
        found.forget(packs[first])
        packs[first].unlink()
        assert found.get(cids.raw_cid(b"letter")) == b"letter"
        found.forget(packs[1 - first])
        assert cids.raw_cid(b"letter") not in found
        found.close()


def test_what_is_collected_while_it_is_judged_is_read(kept: Path) -> None:
    """A collection takes packs away that were read through, and to which `verify` comes back: they stay open."""
    *old, _ = submitted(kept, bytes(1 << 20), b"two", b"three")
    before = set((kept / "packs").iterdir())
    with Store([Blocks(path=kept)]) as store:
        for record in old:
            store.unpin(record.record_cid)
        checks = verify(kept)
        told = [next(checks)]
        store.gc()
        assert before.isdisjoint((kept / "packs").iterdir())
        assert [str(check) for check in [*told, *checks] if check.status == "fails"] == []
    assert not [link for link in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(kept) in link]


def test_a_pack_that_is_gone_on_with_meanwhile_is_no_failure(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had no writer when it was begun to be read, and zeros behind its end; they are none when that is looked at."""
    submitted(kept, b"one")
    (pack,) = (kept / "packs").glob("*.car")
    counts, pieces = pack.stat().st_size, _scan._pieces
    os.truncate(pack, counts + 5000)
    os.utime(pack, (1, 1))

    def meanwhile(file: Any, end: int, start: int = 0) -> Iterator[bytes]:
        if start:
            with pack.open("r+b") as other:
                other.seek(counts)
                other.write(os.urandom(99))
        yield from pieces(file, end, start)

    monkeypatch.setattr(_scan, "_pieces", meanwhile)
    with closing(Found()) as found:
        read = list(_scan.Scan(found, lambda size: None).through_pack(pack))
    assert [one.never_counted for one in read if isinstance(one, _scan.Damage)] == [True]


# -- what was killed, or cut -----------------------------------------------------------------------------


def _begun(kept: Path) -> tuple[Path, bytes]:
    """Return a pack, and what a large put has written behind what counts in it, before it was killed."""
    (pack,) = (kept / "packs").glob("*.car")
    pieces = [os.urandom(1 << 20) for _ in range(2)]
    return pack, b"".join(car.record(cids.raw_cid(piece), piece) for piece in pieces)


@pytest.mark.parametrize("zeros", [0, 5000], ids=["", "before zeros"])
def test_what_a_killed_writer_left_is_no_failure(kept: Path, zeros: int) -> None:
    """Nobody was told of it. That is not told as proven either: the same is left where a pack was cut."""
    (record,) = submitted(kept, b"one")
    pack, more = _begun(kept)
    counts = pack.stat().st_size
    with pack.open("ab") as file:
        file.write(more + bytes(zeros))
    for size in len(more) + zeros, len(more) // 2, 40, 1:
        os.truncate(pack, counts + size)
        (line,) = troubles(kept)
        assert line.startswith(f"unchecked  {pack}, byte {counts}: found ")
        assert "a writer was killed before they counted, or it was cut" in line
    with pack.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as who writes it has
        (line,) = troubles(kept)
        assert line.endswith(" without a mark: somebody is writing it now")
    submitted(kept, b"two")
    assert troubles(kept) == []
    assert any(check.holds and record.record_cid in check.what for check in verify(kept))


def test_what_was_altered_is_not_taken_for_what_a_killed_writer_left(kept: Path) -> None:
    """A length that reaches behind the end, before what counts or before a whole block; a wrong block, or one less."""
    submitted(kept, b"one", b"two")
    pack, more = _begun(kept)
    whole, counts = pack.read_bytes(), pack.stat().st_size
    mark = whole.rindex(b"\x01\x71\x12\x20")
    lengths = [at for at in range(mark - 3, mark) if at >= 0]
    altered = [whole[:at] + bytes((whole[at] | 0x80,)) + whole[at + 1 :] for at in lengths]
    altered += [whole[:at] + b"\xff" + whole[at + 1 :] for at in lengths]
    altered.append(whole + more[:99] + bytes((more[99] ^ 1,)) + more[100:])
    altered.append(whole + b"\xff\xff\x7f" + more[3:])
    reader = car.Reader([whole])
    altered += [whole[: reader.begin] + whole[reader.end :] for _ in reader if reader.end < counts]
    for data in altered:
        pack.write_bytes(data)
        assert [line for line in troubles(kept) if line.startswith("fails")], data[counts - 50 : counts]


# -- what came from elsewhere, or was taken out -----------------------------------------------------------


def test_what_was_imported_fails_nothing(kept: Path, tmp_path: Path) -> None:
    """The index knows nothing of it before it is made anew: that is said, with the command that does it."""
    copy = list[bytes]()
    *_, last = submitted(tmp_path / "other", b"theirs", b"and more")
    with Store([Blocks(path=tmp_path / "other")]) as other:
        list(verify(last.record_cid, store=other, copy=copy.append))
    submitted(kept, b"ours")
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        store.import_car(b"".join(copy))
        evidence.submit(b"ours, later", ABOUT)
        (line,) = troubles(kept)
        assert line.startswith("unchecked  file ")
        assert "it lacks 2 records of this folder" in line
        assert "`pointsman store reindex` makes it anew" in line
        evidence.reindex()
    assert troubles(kept) == []


def test_a_copy_without_all_evidence_is_told_as_its_folder_is(kept: Path, tmp_path: Path) -> None:
    """What is not here of a record was not checked, whether it was taken out or is lost."""
    first, last = submitted(kept, bytes(3 << 20), b"two")
    with Store([Blocks(path=kept)]) as store, (tmp_path / "log.car").open("wb") as file:
        store.unpin(first.record_cid)
        store.gc()
        list(verify(last.record_cid, store=store, copy=file.write))
    for what in kept, tmp_path / "log.car":
        (line,) = troubles(what)
        assert line.startswith("unchecked")
        assert "evidence" in line


def test_a_copy_is_as_proven_as_what_it_was_made_of(kept: Path, tmp_path: Path, says: Any) -> None:
    """A receipt cites the third record of a log: the copy has that one, and what was before is no part of it."""
    *_, third = submitted(kept, b"one", b"two", b"three")
    with Router([says], receipts=True) as router:
        receipt = router.generate(f"Look at {third.record_cid}").receipt
    with Store([Blocks(path=kept)]) as store, (tmp_path / "chain.car").open("wb") as file:
        assert [check for check in verify(str(receipt), store=store, copy=file.write) if not check.holds] == []
    assert troubles(tmp_path / "chain.car") == []


def test_a_root_of_another_codec_is_found(kept: Path, tmp_path: Path) -> None:
    """Whoever imports such a file keeps the block of the record, and no evidence."""
    (record,) = submitted(kept, b"one")
    with Store([Blocks(path=kept)]) as store:
        whole = b"".join(store.export_car(record.record_cid))
    cid = cids.parse(record.record_cid)
    (tmp_path / "log.car").write_bytes(whole.replace(cid, cids.raw_cid(b"")[:4] + cid[4:], 1))
    (line,) = troubles(tmp_path / "log.car")
    assert line.startswith(f"fails      {tmp_path / 'log.car'}, byte 0: its root baf")


# -- the index -------------------------------------------------------------------------------------------


def test_a_database_of_the_program_keeps_its_locks(store: Store, tmp_path: Path, start: Any) -> None:
    """Evidence refuses it as an index; to read it otherwise than SQLite does would let go of what the program holds."""
    path = tmp_path / "complaints.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        own.execute("CREATE TABLE complaints(text)")
        own.execute("BEGIN EXCLUSIVE")
        own.execute("ROLLBACK")
        own.execute("BEGIN IMMEDIATE")
        own.execute("INSERT INTO complaints VALUES('mine')")
        with Evidence(store, path) as evidence, pytest.raises(ConfigError):
            list(evidence.records())
        program = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
        other = start(program)
        _, told = other.communicate(timeout=60)
        assert "database is locked" in told
        own.execute("COMMIT")
