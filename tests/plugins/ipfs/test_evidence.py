"""Evidence: what is submitted, what a record says of it, and how it is found again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

import dag_cbor
import pytest
from attrs import evolve
from multiformats import CID
from pointsman import ConfigError, InvalidRequestError, Store, UnusableAnswer
from pointsman_ipfs.dag import car, cbor
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.evidence import ANYONE, About, Evidence, Statistics

UNKNOWN = cids.to_text(cids.raw_cid(b"nobody has this"))
NOTICE = About("document", "The notice of 3 May", "eviction", "anna", metadata={"page": 1})


def block(store: Store, cid: str) -> bytes:
    """The block of a record: its bytes as they are."""
    return store.get(cids.to_text(cids.raw_cid(b"")[:4] + cids.parse(cid)[-32:]))


def test_a_record_says_all_that_was_said(evidence: Evidence) -> None:
    """And what is known of the bytes; its CID and that of the bytes are those that every IPFS program gives."""
    before = datetime.now(UTC)
    filed = evidence.submit(b"The deposit was 900 dollars.", NOTICE)
    record = filed.record
    assert filed.stored_in == ("home",)
    assert record.cid == record.plain_cid == "bafkreiceze73ajatq3vaohh4fwwoylyw4vjm3erclr5swdt2mus3cgvske"
    assert (record.evidence_type, record.description) == ("document", "The notice of 3 May")
    assert (record.claim_type, record.user, record.metadata) == ("eviction", "anna", {"page": 1})
    assert (record.size, record.media_type, record.encrypted, record.previous) == (28, "text/plain", False, ())
    assert before <= record.time <= datetime.now(UTC)
    assert evidence.find(record.cid) == evidence.find(record.record_cid) == tuple(evidence.records()) == (record,)
    assert evidence.read(record) == b"The deposit was 900 dollars."
    evidence.confirm(record)


def test_a_record_is_canonical_dag_cbor(evidence: Evidence, store: Store) -> None:
    """Of the library `dag-cbor`, byte for byte; its links are CIDs, and its name is the digest of its block."""
    first = evidence.submit(b"one", NOTICE).record
    second = evidence.submit(b"two", About("text")).record
    raw = block(store, second.record_cid)
    said: Any = dag_cbor.decode(raw)
    assert dag_cbor.encode(said) == raw
    assert bytes(CID.decode(second.record_cid))[-32:] == sha256(raw).digest()
    assert said["data"] == CID.decode(second.cid)
    assert said["previous"] == CID("base32", 1, "raw", CID.decode(first.record_cid).digest)
    expected = {"schema": "pointsman.evidence.v1", "id": second.id, "size": 3, "media_type": "text/plain"}
    expected |= {"evidence_type": "text", "description": None, "claim_type": None, "user": None, "metadata": {}}
    assert {name: value for name, value in said.items() if name not in ("data", "previous", "time")} == expected
    assert datetime.fromisoformat(said["time"]) == second.time


def test_each_record_follows_the_one_before(evidence: Evidence) -> None:
    """So that whoever knows the last one can show that none was taken away."""
    records = [evidence.submit(b"%d" % n, NOTICE).record for n in range(5)]
    assert [one.previous for one in records] == [(), *[(one.record_cid,) for one in records[:-1]]]
    assert evidence.ends() == (records[-1].record_cid,)
    assert list(evidence.records()) == records
    plain = cids.to_text(cids.raw_cid(b"")[:4] + cids.parse(records[0].record_cid)[-32:])
    assert evidence.find(plain) == (records[0],), "also as the next one links to it"


def test_the_same_bytes_may_be_submitted_twice(evidence: Evidence) -> None:
    """Both records are kept, each with what was said."""
    first = evidence.submit(b"same", NOTICE).record
    second = evidence.submit(b"same", About("photo", user="ben")).record
    assert first.cid == second.cid
    assert first.record_cid != second.record_cid
    assert evidence.find(first.cid) == (first, second)
    assert evidence.find(second.record_cid) == (second,)


def test_what_is_unknown_and_what_is_no_cid(evidence: Evidence, store: Store) -> None:
    """Nothing, for one that is well formed; an error, for one that is not. A block of something else is no record."""
    evidence.submit(b"x", NOTICE)
    other = cbor.encode({"schema": "somebody's"})
    (kept,) = store.import_car(_car(other))
    assert evidence.find(UNKNOWN) == evidence.find(cids.to_text(cids.cbor_cid(b"?"))) == evidence.find(kept.cid) == ()
    for wrong in ("", "no CID", "bafkrei", "../../etc/passwd", UNKNOWN + "a", "Qm" + "1" * 200):
        with pytest.raises(InvalidRequestError):
            evidence.find(wrong)


def test_by_user_and_by_claim(evidence: Evidence) -> None:
    """Records of anyone, of one user, of those who are not named; all of them, or of one claim."""
    who = [("anna", "rent"), ("anna", "repairs"), ("ben", "rent"), (None, None), (None, "rent")]
    kept = [evidence.submit(b"%d" % n, About("text", None, c, u)).record for n, (u, c) in enumerate(who)]
    for user in (ANYONE, "anna", "ben", "nobody", None):
        for claim in (None, "rent", "repairs", "x"):
            expected = [one for one in kept if user in (ANYONE, one.user) and claim in (None, one.claim_type)]
            assert list(evidence.records(user, claim)) == expected
    totals = evidence.statistics()
    assert totals == Statistics(5, 5, frozenset({"text"}), frozenset({"anna", "ben"}))
    assert evidence.statistics("anna") == Statistics(2, 2, frozenset({"text"}), frozenset({"anna"}))
    assert (evidence.statistics(None).records, evidence.statistics("nobody").size) == (2, 0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"user": 5}, "user: found int, expected text or None"),
        ({"user": "\ud800"}, r"user: found half a surrogate pair in '\\ud800'"),
        ({"claim_type": {"x"}}, "claim_type: found set, expected text or None"),
    ],
)
def test_who_and_what_is_asked_for_must_be_text(evidence: Evidence, asked: dict[str, Any], told: str) -> None:
    """It is no question to which the answer is that there is nothing."""
    with pytest.raises(InvalidRequestError, match=told):
        list(evidence.records(**asked))
    if "user" in asked:
        with pytest.raises(InvalidRequestError, match=told):
            evidence.statistics(**asked)


def test_many_records_come_page_by_page(evidence: Evidence) -> None:
    """In their order, also those that are submitted while they are read."""
    kept = [evidence.submit(b"%d" % n, NOTICE).record for n in range(205)]
    reading = evidence.records()
    found = [next(reading) for _ in range(150)]
    kept.append(evidence.submit(b"late", NOTICE).record)
    assert [*found, *reading] == kept


class Kind(StrEnum):
    PHOTO = "photo"


def test_metadata_comes_back_as_it_was(evidence: Evidence, store: Store) -> None:
    """Nested, in any script, with numbers at their limits, bytes, and members of enumerations as their values."""
    said = {
        "straße": {"глубже": [{"更深": ["x", None, True, False]}], "": ""},
        "numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, -0.0, 1e308, 5e-324],
        "bytes": b"\x00\xff",
        "long": "ü" * 10_000,
        "kind": Kind.PHOTO,
        "control": "\x00\n\u2028 😀",
    }
    record = evidence.submit(b"x", About(Kind.PHOTO, "ünïcode 😀", metadata=said)).record
    expected = {**said, "kind": "photo"}
    assert record.metadata == expected
    assert type(record.evidence_type) is str
    found: Any = dag_cbor.decode(block(store, record.record_cid))
    assert found["metadata"] == expected
    assert about(metadata={"tuple": (1, 2), "array": bytearray(b"x")}).metadata == {"tuple": [1, 2], "array": b"x"}


def about(**fields: Any) -> About:
    return About(**{"evidence_type": "text", **fields})


def test_what_is_said_is_copied(evidence: Evidence) -> None:
    """Who changes their metadata afterwards changes no record."""
    said: dict[str, Any] = {"a": [1]}
    one = about(metadata=said)
    said["a"].append(2)
    assert evidence.submit(b"x", one).record.metadata == {"a": [1]}


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"metadata": {"a": [1, {"b": float("nan")}]}}, "metadata.a[1].b: found nan, expected a finite number"),
        ({"metadata": {"a": float("-inf")}}, "metadata.a: found -inf"),
        ({"metadata": {"a": {1: 2}}}, "metadata.a: found a key of int, expected text"),
        ({"metadata": {None: 2}}, "metadata: found a key of NoneType, expected text"),
        *(
            ({"metadata": {"a": n}}, "metadata.a: found an integer that takes more than 64 bits")
            for n in (2**63, -(2**64))
        ),
        ({"metadata": {"a": "\ud800"}}, "metadata.a: found half a surrogate pair in '\\ud800'"),
        ({"metadata": {"\ud800": 1}}, "a key of metadata: found half a surrogate pair"),
        ({"metadata": {"when": datetime.now(UTC)}}, "metadata.when: found datetime, expected what JSON can hold"),
        ({"metadata": {"a": _deep(40)}}, "found more than 32 levels"),
        ({"metadata": [("a", 1)]}, "metadata: found list, expected a mapping"),
        ({"evidence_type": " "}, "evidence_type: found ' ', expected text that is not empty"),
        ({"evidence_type": None}, "evidence_type: found None"),
        ({"user": 5}, "user: found int, expected text or None"),
        ({"description": "\udcff"}, "description: found half a surrogate pair"),
    ],
)
def test_what_no_record_can_hold_is_refused_with_its_place(fields: dict[str, Any], told: str) -> None:
    """Before anything is stored, with what was found and what to do."""
    with pytest.raises(InvalidRequestError) as caught:
        about(**fields)
    assert told in caught.value.message


def test_what_describes_evidence_may_be_long_and_not_too_long(evidence: Evidence) -> None:
    """A record has a megabyte, and its evidence any size: what is longer is evidence of its own."""
    long = about(description="x" * 1_000_000)
    assert evidence.find(evidence.submit(b"x", long).record.cid)[0].description == long.description
    with pytest.raises(InvalidRequestError, match=r"found 11\d{5} bytes that describe it, expected at most 1048576"):
        evidence.submit(b"y", about(metadata={"a": "x" * 1_100_000}))
    assert evidence.find(cids.to_text(cids.raw_cid(b"y"))) == ()


def test_what_is_submitted_must_be_bytes_or_a_file(evidence: Evidence, tmp_path: Path) -> None:
    """A text has no bytes of its own; a folder, a pipe or what is not there is refused with its path.

    What is said of it is an `About`, and the index has a path.
    """
    os.mkfifo(tmp_path / "pipe")
    for given, told in (
        ("text", "data: found text, expected bytes: give its bytes"),
        (5, "data: found int, expected bytes or a path"),
        (tmp_path, f"{tmp_path}: found a folder"),
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path / "pipe", "found a pipe or a device, expected a file"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            evidence.submit(given, NOTICE)  # type: ignore[arg-type]
        assert told in caught.value.message
    with pytest.raises(InvalidRequestError, match="about: found str, expected an About"):
        evidence.submit(b"x", "document")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="path: found int, expected the path of the index"):
        Evidence(evidence.store, 3)  # type: ignore[arg-type]
    for data in (b"", bytearray(b"ab"), memoryview(b"abc")):
        record = evidence.submit(data, NOTICE).record  # type: ignore[arg-type]
        assert (evidence.read(record), record.size) == (bytes(data), len(data))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.pdf", b"", "application/pdf"),
        ("none", b"%PDF-1.7 ...", "application/pdf"),
        ("none", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("none", "é".encode() * 300, "text/plain"),
        ("none", b"\xff\xfe\x00", "application/octet-stream"),
        ("none", b"", "application/octet-stream"),
    ],
)
def test_the_media_type_is_guessed(evidence: Evidence, tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    """By the name of a file, else by how it begins; what is said counts more."""
    path = tmp_path / name
    path.write_bytes(content)
    assert evidence.submit(path, NOTICE).record.media_type == kind
    assert evidence.submit(path, about(media_type="x/y")).record.media_type == "x/y"


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_a_file_that_changes_while_it_is_read_is_refused(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whether it is read at once or in pieces: nobody could say which bytes these were."""
    path = tmp_path / "growing"
    path.write_bytes(bytes(size))
    fstat, put = os.fstat, Store.put

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    def looked(number: int) -> os.stat_result:
        found = fstat(number)
        if size == 1000 and found.st_size == size:
            grow()
        return found

    def put_it(self: Store, content: Any, **options: Any) -> Any:
        grow()
        return put(self, content, **options)

    monkeypatch.setattr(os, "fstat", looked)
    monkeypatch.setattr(Store, "put", put_it)
    with pytest.raises(InvalidRequestError, match=f"{path}: it was changed while it was read"):
        evidence.submit(path, NOTICE)
    assert list(evidence.records()) == []


def test_no_more_is_submitted_of_a_file_than_it_had_at_first(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that grows as fast as it is read would never end, and fill the disk."""
    path, put, read = tmp_path / "log", Store.put, 0
    path.write_bytes(bytes(5 << 20))

    def put_it(self: Store, content: Any, **options: Any) -> Any:
        def growing() -> Iterator[bytes]:
            nonlocal read
            while piece := content.read(1 << 20):
                read += len(piece)
                assert read < 10 << 20
                with path.open("ab") as file:
                    file.write(piece)
                yield piece

        return put(self, growing(), **options)

    monkeypatch.setattr(Store, "put", put_it)
    with pytest.raises(InvalidRequestError, match=f"{path}: it was changed while it was read"):
        evidence.submit(path, NOTICE)


def test_a_file_of_any_size_is_read_back(
    evidence: Evidence, tmp_path: Path, noise: Callable[[int, int], bytes]
) -> None:
    """Around the size from which it is read in pieces; its CID does not depend on how it was read."""
    for size in (1 << 20, 4 << 20, (4 << 20) + 1, 9_000_001):
        path, back = tmp_path / "file", tmp_path / "back"
        path.write_bytes(noise(size, size))
        record = evidence.submit(path, NOTICE).record
        assert record.cid == evidence.submit(path.read_bytes(), NOTICE).record.cid
        if size > 1 << 20:  # then its root may be written in version 0, too
            old = CID("base58btc", 0, "dag-pb", CID.decode(record.cid).digest)
            assert record in evidence.find(str(old))
        assert record.size == size
        with back.open("wb") as file:
            evidence.write(record, file)
        assert back.read_bytes() == path.read_bytes()


def test_wrong_bytes_are_an_error(evidence: Evidence, store: Store) -> None:
    """A record that says something else than the one in the store, or whose evidence is other bytes, is refused."""
    first, second = (evidence.submit(data, NOTICE).record for data in (b"first", b"second"))
    with pytest.raises(UnusableAnswer, match="says something else"):
        evidence.confirm(evolve(first, description="Another one"))
    with pytest.raises(UnusableAnswer, match="found other bytes than those that were submitted"):
        evidence.read(evolve(first, cid=second.cid))


def test_a_pinned_record_keeps_what_it_links_to(evidence: Evidence, store: Store, tmp_path: Path) -> None:
    """Collections take neither its evidence nor the record before it; when it is let go, they go."""
    large = tmp_path / "large"
    large.write_bytes(bytes(9 << 20))
    records = [evidence.submit(data, NOTICE).record for data in (b"first", large, b"third")]
    store.unpin(records[0].record_cid)
    assert store.gc()["home"].bytes == 5, "the evidence of the record that was let go"
    assert evidence.read(records[1]) == bytes(9 << 20)
    evidence.confirm(records[0])
    assert [store.has(one.cid) for one in records] == [False, True, True]
    store.unpin(records[1].record_cid)
    store.gc()
    assert not store.has(records[1].cid)
    evidence.confirm(records[2])


def test_evidence_that_was_collected_before_its_record_is_put_again(
    evidence: Evidence, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is large is in the store before its record: a collection in between costs time, and nothing else."""
    large = tmp_path / "large"
    large.write_bytes(bytes(5 << 20))
    real, times = Store.import_car, list[int]()

    def collected(self: Store, *given: Any, **options: Any) -> Any:
        if not times:
            store.gc()
        times.append(1)
        return real(self, *given, **options)

    monkeypatch.setattr(Store, "import_car", collected)
    assert evidence.read(evidence.submit(large, NOTICE).record) == bytes(5 << 20)
    assert len(times) == 2


def _car(data: bytes) -> bytes:
    return b"".join(car.write([cids.cbor_cid(data)], [(cids.cbor_cid(data), data)]))
