"""`verify` with evidence: the bytes that records name, their logs, and the index from which people are answered."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import pyrage
import pytest
from pointsman import Router, Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import car, cbor, dagpb
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cbor import Ref
from pointsman_ipfs.evidence import About, Evidence, Record
from pointsman_ipfs.proof import Check, verify

LETTER, SECRET = b"The deposit was 900 dollars.", "anna's own words"
ABOUT = About("letter", SECRET, "a claim of hers", "anna", metadata={"note": SECRET})
Submit = Callable[..., list[Record]]


@pytest.fixture
def submit(kept: Path) -> Submit:
    """A function that submits pieces of evidence to the store in `kept`, one after another, and returns the records."""

    def submit(*pieces: bytes, **keys: Any) -> list[Record]:
        with Store([Blocks(path=kept)]) as store, Evidence(store, **keys) as evidence:
            return [evidence.submit(piece, ABOUT).record for piece in pieces]

    return submit


def told(checks: Iterable[Check], status: str) -> list[str]:
    """Return the lines of this status, none of which shows what is private."""
    lines = list(map(str, checks))
    assert not [line for line in lines if SECRET in line or re.search(r"\b(anna|dollars)\b", line)]
    return [line for line in lines if line.startswith(status)]


def troubles(checks: Iterable[Check]) -> list[str]:
    """Return the lines that do not hold."""
    found = list(checks)
    return [*told(found, "fails"), *told(found, "unchecked")]


# -- what holds ------------------------------------------------------------------------------------------


def test_evidence_without_receipts_is_proven(kept: Path, submit: Submit) -> None:
    """Each record with its bytes, small ones and large ones; the log back to the first; the index."""
    first, large, last = submit(LETTER, os.urandom(3 << 20), b"")
    checks = list(verify(kept))
    assert troubles(checks) == []
    lines = "\n".join(told(checks, "holds"))
    for one, size in ((first, "28"), (large, "3,145,728"), (last, "0")):
        assert f"record {one.record_cid}: {size} bytes of evidence {one.cid}, all here; submitted, it says, " in lines
    assert f"log {last.record_cid}: 3 records, from " in lines
    assert "each names the one before it, back to the first" in lines
    assert "evidence.sqlite: of 3 records it says what they say themselves" in lines


def test_an_export_of_one_record_proves_its_bytes(kept: Path, submit: Submit, tmp_path: Path) -> None:
    """Of a later one, the evidence of the record before it, and what was before that, is told as not proven."""
    records = submit(LETTER, b"two", b"three")
    with Store([Blocks(path=kept)]) as store:
        for place, one in enumerate(records):
            path = tmp_path / f"{place}.car"
            path.write_bytes(b"".join(store.export_car(one.record_cid)))
            checks = list(verify(path))
            assert any(f"record {one.record_cid}: " in line for line in told(checks, "holds"))
            lines = troubles(checks)
            if place:
                (line,) = lines
                assert line.startswith(f"unchecked  log {one.record_cid}: 1 record, and 1 without their evidence")
                gap = f"{records[0].record_cid}, which record {records[1].record_cid} follows, is not here"
                assert (gap in line) == (place == 2)
            else:
                assert lines == []


def test_a_record_goes_back_to_the_first(kept: Path, submit: Submit, tmp_path: Path) -> None:
    """From the CID of the last one, in a store; the copy has all of it, and holds by itself."""
    *_, last = submit(LETTER, os.urandom(2 << 20), b"three")
    path = tmp_path / "log.car"
    with Store([Blocks(path=kept)]) as store, path.open("wb") as file:
        checks = list(verify(last.record_cid, store=store, copy=file.write))
    for found in (checks, list(verify(path))):
        assert troubles(found) == []
        assert len([one for one in found if one.what.startswith("record ")]) == 3


def test_a_copy_is_kept_whole_where_it_is_imported(kept: Path, submit: Submit, says: Any, tmp_path: Path) -> None:
    """Each record and receipt, and what receipts cite, is pinned there: the index finds it, no collection takes it."""
    records = submit(LETTER, bytes(2 << 20), b"three")
    with Router([says], receipts=True) as router:
        receipts = [str(router.generate(f"Look at {records[0].cid}").receipt) for _ in range(3)]
    for last in records[-1].record_cid, receipts[-1]:
        copy = list[bytes]()
        with Store([Blocks(path=kept)]) as store:
            list(verify(last, store=store, copy=copy.append))
        with Store([Blocks(path=tmp_path / last)]) as other, Evidence(other) as evidence:
            roots = [root.cid for root in other.import_car(b"".join(copy))]
            assert roots[0] == last
            assert other.gc()["blocks"].blocks == 0
            if last == receipts[-1]:
                assert set(roots) == {*receipts, records[0].cid}
            else:
                assert set(roots) == {one.record_cid for one in records}
                assert (evidence.reindex().records, len(list(evidence.records()))) == (3, 3)
        assert troubles(verify(tmp_path / last)) == []


def test_a_copy_of_a_log_without_all_evidence_can_be_imported(kept: Path, submit: Submit, tmp_path: Path) -> None:
    """The block of a record whose evidence was taken out is plain bytes, which expect nothing: the chain holds."""
    records, copy = submit(LETTER, bytes(3 << 20), b"3", b"4", b"5"), list[bytes]()
    with Store([Blocks(path=kept)]) as store:
        for gone in records[1], records[3]:
            store.unpin(gone.record_cid)
        store.gc()
        store.put(bytes(1 << 20))  # a part of what is gone
        assert len(troubles(verify(records[-1].record_cid, store=store, copy=copy.append))) == 2
    with Store([Blocks(path=tmp_path / "other")]) as other:
        roots = [root.cid for root in other.import_car(b"".join(copy))]
        assert roots == [records[at].record_cid for at in (4, 2, 0)]
        assert other.gc()["blocks"].blocks == 0
        checks = list(verify(records[-1].record_cid, store=other))
    assert len(troubles(checks)) == 2
    assert "5 records, from" in str(checks[-1])


def test_branches_of_a_log_are_told(kept: Path, submit: Submit) -> None:
    """A log with two ends is no failure: both are named; the next record joins them."""
    submit(LETTER)
    (kept / "evidence.sqlite").unlink()
    with Store([Blocks(path=kept)]) as store:
        (one,) = [entry.cid for entry in store.ls()]
        store.unpin(one)  # whoever makes the index anew now does not know of it
        submit(b"another beginning")
        store.pin(one)
        checks = list(verify(kept))
        assert len([line for line in told(checks, "holds") if " log " in line]) == 2
        with Evidence(store) as evidence:
            evidence.reindex()
    submit(b"joins them")
    checks = list(verify(kept))
    assert troubles(checks) == []
    (line,) = (line for line in told(checks, "holds") if " log " in line)
    assert "3 records" in line


# -- receipts and what they cite ------------------------------------------------------------------------


def test_a_copy_of_receipts_has_the_evidence_that_they_cite(
    kept: Path, submit: Submit, says: Any, tmp_path: Path
) -> None:
    """Evidence and records, of any size; nothing that is not cited; wherever the copy is cut, it does not hold."""
    one, two, other = submit(LETTER, bytes(2 << 20), b"not cited")
    with Router([says], receipts=True) as router:
        router.generate(f"Look at {one.cid}")
        receipt = router.generate(f"Compare {two.record_cid} with {one.cid}").receipt
    path = tmp_path / "chain.car"
    with Store([Blocks(path=kept)]) as store, path.open("wb") as file:
        checks = list(verify(str(receipt), store=store, copy=file.write))
    for found in (checks, list(verify(path))):
        assert troubles(found) == []
        holding = {check.what for check in found}
        assert {f"evidence {one.cid}", f"evidence {two.record_cid}", f"record {two.record_cid}"} <= holding
    bare = list[bytes]()
    with Store([Blocks(path=kept)]) as store:
        assert troubles(verify(str(receipt), store=store, copy=bare.append, cited=False)) == []
    assert LETTER not in b"".join(bare)
    whole = path.read_bytes()
    assert whole.count(LETTER) == 1
    assert b"not cited" not in whole
    assert other.record_cid not in "\n".join(map(str, verify(path)))
    ends, reader = list[int](), car.Reader([whole])
    for _ in reader:
        ends.append(reader.end)
    for end in [*ends[:-1], *random.Random(5).sample(range(len(whole)), 20)]:
        path.write_bytes(whole[:end])
        assert told(verify(path), "fails"), end


def test_cited_evidence_names_its_record(kept: Path, submit: Submit, says: Any) -> None:
    """Where the record is here, so that people know who has said what it is."""
    (one,) = submit(LETTER)
    with Router([says], receipts=True) as router:
        router.generate(f"Look at {one.cid}")
    assert any(f"cites it; record {one.record_cid} is of it" in line for line in told(verify(kept), "holds"))


# -- what was changed ------------------------------------------------------------------------------------


def changed(whole: bytes, place: int, some: random.Random) -> bytes:
    """Return the same with another byte at a place."""
    return whole[:place] + bytes((whole[place] ^ some.randrange(1, 256),)) + whole[place + 1 :]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_any_byte_that_changes_is_found(kept: Path, submit: Submit, encrypted: bool, tmp_path: Path) -> None:
    """Every byte of the packs, and of a copy: a line that fails names the file and the byte, a block, or a record."""
    key = {"recipients": [str(pyrage.x25519.Identity.generate().to_public())]} if encrypted else {}
    *_, last = submit(LETTER, b"two", **key)
    copy, some = tmp_path / "log.car", random.Random(6)
    with Store([Blocks(path=kept)]) as store, copy.open("wb") as file:
        list(verify(last.record_cid, store=store, copy=file.write))
    for path, what in [*((one, kept) for one in (kept / "packs").iterdir()), (copy, copy)]:
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(changed(whole, place, some))
            assert any(" byte " in line or "ba" in line for line in told(verify(what), "fails")), (path, place)
        path.write_bytes(whole)
        assert told(verify(what), "fails") == []


def test_a_codec_that_changes_is_found(kept: Path, submit: Submit) -> None:
    """Blocks under CIDs of another codec have the right hash: a record, or what names it, misses them."""
    submit(LETTER, bytes(2 << 20))
    for path in (kept / "packs").iterdir():
        whole = path.read_bytes()
        places = [at for at in range(1, len(whole)) if whole[at - 1] == 1 and whole[at + 1 : at + 3] == b"\x12\x20"]
        for place in places:
            for codec in {0x55, 0x70, 0x71} - {whole[place]}:
                path.write_bytes(whole[:place] + bytes((codec,)) + whole[place + 1 :])
                assert told(verify(kept), "fails"), place
        path.write_bytes(whole)


def test_what_was_taken_out_is_told_as_that(kept: Path, submit: Submit) -> None:
    """Evidence that was unpinned and collected fails nothing: the log says that it was there, and goes on."""
    first, second, last = submit(os.urandom(3 << 20), LETTER, b"three")
    with Store([Blocks(path=kept)]) as store:
        store.unpin(first.record_cid)
        store.gc()
        (kept / "evidence.sqlite").unlink()
        with Evidence(store) as evidence:
            evidence.reindex()
    found = list(verify(kept))
    (line,) = troubles(found)
    assert line.startswith(f"unchecked  record {first.record_cid}: not all of its evidence {first.cid} is here: ")
    assert line.endswith("; it was taken out, or is lost")
    (log,) = (line for line in told(found, "holds") if " log " in line)
    assert f"log {last.record_cid}: 3 records" in log
    (kept / "evidence.sqlite").unlink()
    with Store([Blocks(path=kept)]) as store:
        store.unpin(second.record_cid)
        store.gc()
    assert told(verify(kept), "fails") == []


def test_what_is_submitted_meanwhile_fails_nothing(kept: Path, submit: Submit) -> None:
    """A record that was read may name what came into a pack that had been read before: that is read again."""
    submit(LETTER)
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        evidence.submit(b"two", ABOUT)
        count = 2

        def meanwhile(_: int) -> None:
            nonlocal count
            if count < 8:
                count += 2
                with Store([Blocks(path=kept)]) as other, Evidence(other) as more:
                    more.submit(os.urandom(5 << 20), ABOUT)
                evidence.submit(b"small", ABOUT)

        checks = list(verify(kept, progress=meanwhile))
        assert told(checks, "fails") == []
        (log,) = (line for line in told(checks, "holds") if " log " in line)
        assert f"{count} records" in log


def test_what_is_collected_meanwhile_fails_nothing(kept: Path, submit: Submit) -> None:
    """A pack that is gone when it should be read: what was kept of it is in another one."""
    large, *_ = submit(os.urandom(3 << 20), LETTER, b"three")
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        evidence.submit(b"in a pack of another process", ABOUT)
        packs = set((kept / "packs").iterdir())
        store.unpin(large.record_cid)
        checks = list(verify(kept, progress=lambda _: store.gc()))
        assert set((kept / "packs").iterdir()) != packs
    assert told(checks, "fails") == []


def test_records_of_other_layouts_are_measured(kept: Path) -> None:
    """Evidence whose pieces stand in nodes, more than is held in memory: its blocks are asked for again."""
    with Store([Blocks(path=kept)]) as store:
        data = cids.parse(store.put(os.urandom(20 << 20), profile="cid-v0").cid)
        record = cbor.encode(said(data, size=20 << 20))
        cid = cids.cbor_cid(record)
        store.import_car(b"".join(car.write([cid], [(cid, record)])))
        assert troubles(verify(cids.to_text(cid), store=store)) == []
    assert troubles(verify(kept)) == []


# -- what was put together by hand -----------------------------------------------------------------------


def said(data: bytes, /, **more: Any) -> dict[str, Any]:
    """Return what a record says."""
    given = {
        "schema": "pointsman.evidence.v1",
        "id": "0" * 32,
        "data": Ref(data),
        "previous": None,
        "size": 4,
        "media_type": "text/plain",
        "evidence_type": "note",
        "description": SECRET,
        "claim_type": None,
        "user": "anna",
        "time": "2026-01-01T00:00:00.000000Z",
        "metadata": {},
    }
    return {name: value for name, value in {**given, **more}.items() if value is not ...}


@pytest.fixture
def forged(tmp_path: Path) -> Callable[..., list[Check]]:
    """A function that verifies a CAR file with these records, the last of which is its root, and plain blocks."""

    def forged(*records: dict[str, Any] | bytes, plain: Iterable[bytes] = (b"data",), **options: Any) -> list[Check]:
        encoded = [one if isinstance(one, bytes) else cbor.encode(one) for one in records]
        blocks = [(cids.cbor_cid(one), one) for one in encoded] + [(cids.raw_cid(one), one) for one in plain]
        path = tmp_path / "forged.car"
        path.write_bytes(b"".join(car.write([blocks[len(records) - 1][0]], blocks)))
        return list(verify(path, **options))

    return forged


DEEP: Any = reduce(lambda inner, _: [inner], range(32), 0)
DATA = cids.raw_cid(b"data")


def test_what_was_put_together_well_holds(forged: Callable[..., list[Check]]) -> None:
    """The records that the following tests change are right by themselves."""
    first = said(DATA)
    second = said(DATA, id="1" * 32, previous=Ref(cids.raw_cid(cbor.encode(first))))
    assert troubles(forged(first, second)) == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"size": 5}, "has 4 bytes; it says 5"),
        ({"size": -1}, "size: found -1"),
        ({"size": "4"}, "size: found '4', expected a whole number from 0"),
        ({"id": SECRET}, "id: found text of 16 characters"),
        ({"time": "2026-02-30T00:00:00.000000Z"}, "time: found '2026-02-30"),
        ({"time": SECRET}, "time: found text of 16 characters"),
        ({"time": ...}, "time: it is missing"),
        ({"user": 7}, "user: found a number, expected text or nothing"),
        ({"description": [SECRET]}, "description: found a list, expected text or nothing"),
        ({"metadata": SECRET}, "metadata: found text of 16 characters, expected a map"),
        ({"metadata": {"deep": DEEP}}, "metadata: found a map, expected a map that a record can hold"),
        ({"media_type": None}, "media_type: found nothing, expected text"),
        ({"more": SECRET}, "more: this version has no such field"),
        ({"data": SECRET}, "data: found text of 16 characters"),
        (
            {"data": Ref(cids.raw_cid(b"lost"))},
            f"block {cids.to_text(cids.raw_cid(b'lost'))} is not here",
        ),
        ({"previous": Ref(DATA)}, "which is no record of evidence"),
        ({"previous": Ref(cids.raw_cid(b"lost"))}, "which it follows, is not here"),
        (
            {"previous": Ref(cids.cbor_cid(b"data"))},
            f"previous: found a link to {cids.to_text(cids.cbor_cid(b'data'))}, expected nothing or a link to",
        ),
        ({"merges": []}, "merges: found none, or more than `previous` has"),
        ({"merges": [Ref(DATA)]}, "merges: found none, or more than `previous` has"),
        ({"previous": Ref(DATA), "merges": [Ref(DATA)]}, "merges: found the same record twice"),
        ({"sealed": Ref(DATA)}, "size: this version has no such field"),
    ],
)
def test_a_record_of_another_form_is_named(forged: Callable[..., list[Check]], more: dict[str, Any], says: str) -> None:
    """The field, what was found there, and what was expected, without what anybody wrote."""
    lines = told(forged(said(DATA, **more)), "fails")
    assert any(says in line for line in lines), lines


def test_an_integer_that_no_record_of_ours_has_is_named(forged: Callable[..., list[Check]]) -> None:
    """DAG-CBOR has a place for integers of 65 bits with their sign; some readers take another number from there."""
    most = cbor.encode(said(DATA, metadata={"number": (1 << 63) - 1}))
    assert told(forged(most), "fails") == []
    lines = told(forged(most.replace((2**63 - 1).to_bytes(8, "big"), (2**63).to_bytes(8, "big"))), "fails")
    assert "metadata: found a map, expected a map that a record can hold" in lines[0]


def test_a_record_that_is_not_canonical_is_named(forged: Callable[..., list[Check]]) -> None:
    """There is one form in which a record can be written."""
    block = cbor.encode(said(DATA, size=...))
    assert block[0] == 0xAB
    longer = b"\xb8\x0b" + block[1:]
    assert any("no dag-cbor" in line for line in told(forged(longer), "fails"))


def test_the_same_id_twice_is_named(forged: Callable[..., list[Check]]) -> None:
    """No two records have the same."""
    first = said(DATA)
    second = said(DATA, user=None, previous=Ref(cids.raw_cid(cbor.encode(first))))
    (line,) = told(forged(first, second), "fails")
    assert f"it has the id of record {cids.to_text(cids.cbor_cid(cbor.encode(first)))}" in line


def test_another_version_is_not_told_as_holding(forged: Callable[..., list[Check]]) -> None:
    """What a later program writes, this one cannot check."""
    lines = troubles(forged(said(DATA, schema="pointsman.evidence.v2")))
    assert any("unchecked  record " in line and "it is of another version" in line for line in lines)


def test_evidence_that_is_no_file_is_named(forged: Callable[..., list[Check]], tmp_path: Path) -> None:
    """A record is of bytes: a folder has none."""
    folder = b"\x0a\x02\x08\x01"
    record = cbor.encode(said(cids.pb_cid(folder)))
    path = tmp_path / "folder.car"
    blocks = [(cids.cbor_cid(record), record), (cids.pb_cid(folder), folder)]
    path.write_bytes(b"".join(car.write([blocks[0][0]], blocks)))
    assert any("found a block of kind 'folder', expected 'file'" in line for line in told(verify(path), "fails"))


def test_a_block_within_its_cid_stands_for_no_other(tmp_path: Path) -> None:
    """A block that its CID holds in itself, which is the digest of evidence that is lost: it is not that evidence."""
    lost = cids.raw_cid(b"lost")
    record = cbor.encode(said(lost, size=32))
    path = tmp_path / "forged.car"
    blocks = [(cids.cbor_cid(record), record), (b"\x01\x55\x00\x20" + lost[-32:], lost[-32:])]
    path.write_bytes(b"".join(car.write([blocks[0][0]], blocks)))
    assert any(f"block {cids.to_text(lost)} is not here" in line for line in told(verify(path), "fails"))


def test_evidence_that_unfolds_without_end_is_measured_soon(tmp_path: Path) -> None:
    """A record of 2^60 bytes, which are the same piece again and again: what it says is so, and nobody reads it all."""
    leaf = bytes(1 << 10)
    cid, size, blocks = cids.raw_cid(leaf), len(leaf), [(cids.raw_cid(leaf), leaf)]
    for _ in range(10):
        data = dagpb.encode([dagpb.PBLink(cid, b"", size)] * 32, dagpb.encode_file(32 * size, (size,) * 32))
        cid, size = cids.pb_cid(data), 32 * size
        blocks.append((cid, data))
    record = cbor.encode(said(cid, size=size))
    blocks.append((cids.cbor_cid(record), record))
    path = tmp_path / "bomb.car"
    path.write_bytes(b"".join(car.write([blocks[-1][0]], blocks)))
    assert troubles(verify(path)) == []
