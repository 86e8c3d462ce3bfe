"""`verify` with stores that were used as people use them: by many threads, with copies of others, and mended."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyrage
import pytest
from pointsman import PointsmanError, Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import car
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.evidence import About, Evidence
from pointsman_ipfs.evidence._records import as_bytes
from pointsman_ipfs.proof import _scan, verify

ABOUT = About("letter")
#: Of what nobody keeps here.
CID = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


def troubles(folder: Path) -> list[str]:
    """Return the lines that do not hold."""
    return [str(check) for check in verify(folder) if not check.holds]


def test_evidence_of_many_threads_is_proven(kept: Path) -> None:
    """A record and the plain bytes of it, to which the next one links, are written together: the record must stand."""
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence, ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda n: evidence.submit(b"%d" % n, ABOUT), range(60)))
    assert troubles(kept) == []


def test_steady_submissions_meanwhile_are_no_failure(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a pack was read, evidence is written into it, and the record of that into another one."""
    read, more = _scan.Scan.through_pack, iter(range(60))
    with (
        Store({"b": Blocks(path=kept)}) as one,
        Store({"b": Blocks(path=kept)}) as two,
        Evidence(one) as here,
        Evidence(two) as there,
    ):
        for evidence in here, there:
            evidence.submit(os.urandom(3000), ABOUT)
        first = min((kept / "packs").glob("*.car"))
        whole = first.read_bytes()
        one.put(b"whose pack is the first?")
        store, evidence = (two, here) if first.read_bytes() == whole else (one, there)

        def through(scan: _scan.Scan, *given: Any) -> Iterator[_scan.Read]:
            yield from read(scan, *given)
            if next(more, None) is not None:
                letter = os.urandom(5 << 20)
                store.put(letter)
                evidence.submit(letter, ABOUT)

        monkeypatch.setattr(_scan.Scan, "through_pack", through)
        assert [str(check) for check in verify(kept) if check.status == "fails"] == []
    monkeypatch.undo()
    assert troubles(kept) == []


@pytest.mark.parametrize("first", ["plain", "record"])
def test_a_record_that_is_kept_as_plain_bytes_too_is_proven(kept: Path, tmp_path: Path, first: str) -> None:
    """Whichever came first, and after a collection has moved what is of use."""
    with Store([Blocks(path=tmp_path / "other")]) as other, Evidence(other) as evidence:
        record = evidence.submit(b"The deposit was 900 dollars.", ABOUT).record.record_cid
        copy, plain = b"".join(other.export_car(record)), other.get(cids.to_text(as_bytes(cids.parse(record))))
    with Store([Blocks(path=kept)]) as store:
        for one in ("plain", "record") if first == "plain" else ("record", "plain"):
            if one == "plain":
                store.put(plain)
            else:
                store.import_car(copy)
            store.put(bytes(1 << 20), pin=False)
            assert one == "plain" or troubles(kept) == []
        store.gc()
        assert troubles(kept) == []


@pytest.mark.parametrize("first", ["unixfs-v1-2025", "cid-v0"])
def test_blocks_that_are_kept_under_a_cid_of_another_version_are_proven(kept: Path, tmp_path: Path, first: str) -> None:
    """The same block is kept once, whichever came first: an empty folder, say, in folders of two profiles."""
    (tmp_path / "folder" / "empty").mkdir(parents=True)
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        for profile in first, "cid-v0", "unixfs-v1-2025":
            store.put(tmp_path / "folder", profile=profile)
        evidence.submit(b"The deposit was 900 dollars.", ABOUT)
    assert troubles(kept) == []


@pytest.mark.parametrize("size", [0, 3, 40 << 20], ids=["empty", "small", "large"])
def test_a_node_that_is_kept_as_plain_bytes_too_is_proven(kept: Path, tmp_path: Path, size: int) -> None:
    """Of a folder, say; it is written once as what it is, and no more often."""
    folder = tmp_path / "folder"
    folder.mkdir()
    if size:
        (folder / "file").write_bytes(os.urandom(size))
    with Store([Blocks(path=tmp_path / "other")]) as other:
        cid = other.put(folder).cid
        nodes = [cids.to_text(one) for one, _ in car.Reader(other.export_car(cid)) if cids.codec_of(one) != cids.RAW]
        plain = [other.get(cids.to_text(cids.raw_cid(b"")[:4] + cids.parse(one)[-32:])) for one in nodes]
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        for node in plain:
            store.put(node)
        for _ in range(3):
            assert store.put(folder).cid == cid
        evidence.submit(b"The deposit was 900 dollars.", ABOUT)
        assert troubles(kept) == []
        if size > 1 << 20:
            packs = b"".join(pack.read_bytes() for pack in (kept / "packs").glob("*.car"))
            assert {packs.count(cids.parse(one) + node) for one, node in zip(nodes, plain, strict=True)} == {1}
        store.gc()
    assert troubles(kept) == []


def test_what_was_mended_is_proven(kept: Path) -> None:
    """What is damaged stays in its pack, and is named; the same bytes, submitted again, prove the first record, too."""
    letter = b"The deposit was 900 dollars."
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        evidence.submit(letter, ABOUT)
    (pack,) = (kept / "packs").glob("*.car")
    pack.write_bytes(pack.read_bytes().replace(letter, letter.replace(b"900", b"800")))
    assert len([line for line in troubles(kept) if line.startswith("fails")]) == 2
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        (found,) = evidence.records()
        with pytest.raises(PointsmanError):
            store.get(found.cid)
        evidence.submit(letter, ABOUT)
        assert store.get(found.cid) == letter
    assert troubles(kept) == []
    (line,) = [str(check) for check in verify(kept) if "mended" in check.text]
    says = "not those of its CID; that was mended: it is whole in "
    assert re.fullmatch(rf"holds .*{pack.name}, byte \d+: .*{says}.*\.car", line)


def test_times_of_encrypted_records_are_told(kept: Path) -> None:
    """With the key a log has all its times; without it is told how many are not known."""
    identity = pyrage.x25519.Identity.generate()
    with Store([Blocks(path=kept)]) as store:
        with Evidence(store) as evidence:
            evidence.submit(b"plain", ABOUT)
        with Evidence(store, recipients=[str(identity.to_public())], identity=str(identity)) as evidence:
            evidence.submit(b"sealed", ABOUT)
    (log,) = [check.text for check in verify(kept) if check.what.startswith("log ")]
    assert re.match(r"2 records, of \S+Z, but for 1 whose times are encrypted; each", log)
    (log,) = [check.text for check in verify(kept, identity=str(identity)) if check.what.startswith("log ")]
    assert re.match(r"2 records, from \S+Z to \S+Z; each", log)


@pytest.mark.parametrize(("size", "metadata"), [(1_000_000, 0), (10, 80_000)], ids=["large copy", "large records"])
def test_copies_of_records_are_proven(kept: Path, tmp_path: Path, size: int, metadata: int) -> None:
    """Each has the record before it as plain bytes, too, which are there before the record itself is imported."""
    about = About("letter", metadata={"note": "x" * metadata})
    with Store([Blocks(path=tmp_path / "other")]) as other, Evidence(other) as evidence:
        records = [evidence.submit(os.urandom(size), about).record.record_cid for _ in range(6)]
        whole = list[bytes]()
        assert all(check.holds for check in verify(records[-1], store=other, copy=whole.append))
        copies = [b"".join(whole)] if size > metadata else [b"".join(other.export_car(one)) for one in records[::-1]]
    with Store([Blocks(path=kept)]) as store:
        for copy in copies:
            store.import_car(copy)
            store.put(b"the index follows with the next one" + os.urandom(8))
            list(store.verify())
    assert troubles(kept) == []
    assert len([check for check in verify(kept) if check.what.startswith("record ")]) == 6


def test_who_reads_beside_the_first_put_finds_the_store(tmp_path: Path) -> None:
    """Reading where no store is finds nothing; the first put makes it, while others look."""
    for place in range(20):
        with Store([Blocks(path=tmp_path / str(place))]) as store, ThreadPoolExecutor(6) as threads:
            start = threading.Barrier(6)

            def work(n: int, store: Store = store, start: threading.Barrier = start) -> list[bool]:
                start.wait(20)
                if n % 2:
                    store.put(b"%d" % n)
                return [store.has(CID) for _ in range(20)]

            assert not any(any(found) for found in threads.map(work, range(6)))
