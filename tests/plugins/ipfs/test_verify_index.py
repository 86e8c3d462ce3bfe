"""`verify` with the index of evidence, which proves nothing and must not lie, and with what is encrypted."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyrage
import pytest
from pointsman import ConfigError, Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import car, cbor
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cbor import Ref
from pointsman_ipfs.evidence import About, Evidence, Record
from pointsman_ipfs.evidence._records import block_of, sealed_of
from pointsman_ipfs.proof import Check, verify

PRIVATE = "in anna's words"


@pytest.fixture
def records(kept: Path) -> list[Record]:
    """Three records in the store in `kept`."""
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        about = About("letter", PRIVATE, "claim", "anna")
        return [evidence.submit(data, about).record for data in (b"one", b"two", b"three")]


def lines_of(kept: Path, status: str, **more: Any) -> list[str]:
    """Return the lines of this status."""
    return [str(check) for check in verify(kept, **more) if check.status == status]


def change(kept: Path, sql: str) -> None:
    """Change the index as somebody does who wants others to be told something else."""
    with closing(sqlite3.connect(kept / "evidence.sqlite")) as db, db:
        db.execute(sql)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE records SET user='ben' WHERE place=2", "of record {} it says another user than that says"),
        ("UPDATE records SET claim=NULL, type='x' WHERE place=2", "it says another claim and another type than that"),
        ("UPDATE records SET size=9 WHERE place=2", "it says another size"),
        ("UPDATE records SET size=x'33' WHERE place=2", "it says another size"),
        ("UPDATE records SET data=x'00' WHERE place=2", "it says another data"),
        ("UPDATE records SET block=x'00' WHERE place=2", "what it has in place 2 is not the record that it names"),
        ("UPDATE records SET cid=x'00' WHERE place=2", "what it has in place 2 is not the record that it names"),
        ("UPDATE records SET sealed=x'00' WHERE place=2", "it has another age file"),
        ("UPDATE records SET sealed='text' WHERE place=2", "it has another age file"),
        ("UPDATE records SET user=CAST(x'616e6e61ff' AS TEXT) WHERE place=2", "it says another user"),
        ("UPDATE records SET place=9 WHERE place=2", "stands in it before one that it follows"),
        ("DELETE FROM records WHERE place=2", "it lacks 1 record of this folder, {} for one"),
        ("DELETE FROM ends", "it names other records as the last ones"),
        ("INSERT INTO ends SELECT cid FROM records WHERE place=1", "it names other records as the last ones"),
        ("DELETE FROM follows", "it names other records as the last ones"),
    ],
)
def test_an_index_that_was_altered_is_named_and_healed(kept: Path, records: list[Record], sql: str, says: str) -> None:
    """Every column and every table of it: what people would be told is not what the records say."""
    assert lines_of(kept, "fails") == []
    change(kept, sql)
    lines = lines_of(kept, "fails")
    assert any(says.format(records[1].record_cid) in line for line in lines), lines
    assert all("`pointsman store reindex` makes it anew" in line for line in lines)
    assert not [line for line in lines if re.search(r"\b(anna|ben)\b", line)]  # a CID may hold these letters
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        evidence.reindex()
    assert lines_of(kept, "fails") == lines_of(kept, "unchecked") == []


def test_an_index_whose_search_tree_was_altered_is_named(kept: Path, records: list[Record]) -> None:
    """Not only its tables: SQLite finds the records of a user by a tree of its own."""
    path = kept / "evidence.sqlite"
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name='records_user'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    whole = path.read_bytes()
    start, end = (page - 1) * size, page * size
    assert whole[start:end].count(b"anna") == 3
    path.write_bytes(whole[:start] + whole[start:end].replace(b"anna", b"ames", 1) + whole[end:])
    (line,) = lines_of(kept, "fails")
    assert "evidence.sqlite: it is damaged (" in line


def test_an_index_that_is_damaged_or_another_file_is_said(kept: Path, records: list[Record]) -> None:
    """What is no database, what is one of another program or version, what has no tables, or whose SQL is no text."""
    path = kept / "evidence.sqlite"
    whole = path.read_bytes()
    path.write_bytes(b"no database at all, " * 99)
    assert any("it is damaged" in line for line in lines_of(kept, "fails"))
    path.write_bytes(whole.replace(b"CREATE INDEX", b"CREATE IN\xc4EX", 1))
    assert any("the SQL of its tables is damaged" in line for line in lines_of(kept, "fails"))
    path.write_bytes(whole[:60] + b"\0\0\0\x63" + whole[64:])
    assert any("it is no index of this version" in line for line in lines_of(kept, "unchecked"))
    path.write_bytes(b"")
    assert any("it is no index of this version" in line for line in lines_of(kept, "unchecked"))


def test_records_of_other_stores_are_not_told_as_holding(kept: Path, records: list[Record], tmp_path: Path) -> None:
    """An index may be of several stores: what is not in this one was not looked at."""
    with Store([Blocks(path=tmp_path / "other")]) as store, Evidence(store, kept / "evidence.sqlite") as evidence:
        other = evidence.submit(b"elsewhere", About("note")).record
    (line,) = lines_of(kept, "unchecked")
    assert f"it has 1 record from elsewhere, {other.record_cid} for one" in line
    assert lines_of(kept, "fails") == []


def test_nothing_is_written_and_a_store_in_use_is_right(kept: Path, records: list[Record]) -> None:
    """No file is made or changed; beside a program that submits, what was entered is right."""
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert lines_of(kept, "fails") == []
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        for number in range(30):
            evidence.submit(b"%d" % number, About("note"))
            assert lines_of(kept, "fails") == []
            assert any("it says what they say" in line for line in lines_of(kept, "holds"))


def test_what_was_submitted_last_before_a_kill_is_read(
    kept: Path, records: list[Record], start: Callable[[str], subprocess.Popen[str]]
) -> None:
    """It is in the log of the index. Without what processes share of that, the index could not be looked at."""
    program = f"""
import time
from pointsman import Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence
evidence = Evidence(Store([Blocks(path={str(kept)!r})]))
print(evidence.submit(b"the last one", About("note")).record.record_cid, flush=True)
time.sleep(600)
"""
    process = start(program)
    assert process.stdout
    last = process.stdout.readline().strip()
    process.kill()
    process.wait()
    assert lines_of(kept, "fails") == []
    assert any("of 4 records it says what they say" in line for line in lines_of(kept, "holds"))
    (kept / "evidence.sqlite-shm").unlink()
    (line,) = lines_of(kept, "unchecked")
    assert "it could not be looked at" in line
    assert last in "\n".join(lines_of(kept, "holds"))


# -- what is encrypted -----------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Iterator[Path]:
    """A file with a private key."""
    path = tmp_path / "key.txt"
    path.write_text(str(pyrage.x25519.Identity.generate()))
    return path


def public(key: Path) -> str:
    return str(pyrage.x25519.Identity.from_str(key.read_text()).to_public())


@pytest.fixture
def sealed(kept: Path, key: Path) -> list[Record]:
    """Two records in the store in `kept`, encrypted; the evidence of the second one is large."""
    with Store([Blocks(path=kept)]) as store, Evidence(store, identity=key) as evidence:
        return [evidence.submit(data, About("letter", PRIVATE)).record for data in (b"hers", bytes(5 << 20))]


def test_what_is_encrypted_is_checked_as_far_as_it_can_be(kept: Path, sealed: list[Record]) -> None:
    """Without a key the ciphertext, whole and under its CID; that nobody looked into it is said."""
    (line,) = lines_of(kept, "unchecked")
    assert "encrypted records: what is in 2 of them was not looked at: --identity names the file" in line
    holding = "\n".join(lines_of(kept, "holds"))
    for one in sealed:
        assert f"record {one.record_cid}: " in holding
        assert f"bytes of evidence {one.cid}, encrypted, all here" in holding
        assert one.plain_cid not in holding
    assert lines_of(kept, "fails") == []


def test_with_the_key_what_was_encrypted_is_proven(kept: Path, sealed: list[Record], key: Path) -> None:
    """From the folder, and from a record in the store: the bytes have the CID and the size that the record says."""
    with Store([Blocks(path=kept)]) as store:
        from_record = [*verify(sealed[-1].record_cid, store=store, identity=key)]
    for checks in (from_record, [*verify(kept, identity=key)]):
        assert all(check.holds for check in checks), checks
        lines = "\n".join(map(str, checks))
        for one in sealed:
            assert f"it opens to {one.size:,} bytes {one.plain_cid}; submitted, it says, " in lines
        assert PRIVATE not in lines


def test_another_key_opens_nothing(kept: Path, sealed: list[Record], tmp_path: Path) -> None:
    """That is not told as a failure: it was not looked at. A file without a key is a mistake."""
    other = tmp_path / "other.txt"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    assert lines_of(kept, "fails", identity=other) == []
    unchecked = lines_of(kept, "unchecked", identity=other)
    assert len([line for line in unchecked if "the identity does not open it" in line]) == 2
    other.write_text("no key")
    with pytest.raises(ConfigError, match=f"identity: {other}: found a text that is no private key"):
        lines_of(kept, "fails", identity=other)


def forged(
    key: Path, tmp_path: Path, *, opened: bytes | None = None, data: bytes = b"hers", **more: Any
) -> list[Check]:
    """Verify a record whose encrypted part says something else than it should."""
    ciphertext = pyrage.encrypt(data, [pyrage.x25519.Recipient.from_str(public(key))])
    ciphertext = more.pop("ciphertext", ciphertext)
    cid, id = cids.raw_cid(ciphertext), "0" * 32
    said = {"size": 4, "media_type": "text/plain", "evidence_type": "note", "metadata": {}}
    said |= {"description": PRIVATE, "claim_type": None, "user": None, "time": "2026-01-01T00:00:00.000000Z"}
    inner = sealed_of(more.pop("id", id), more.pop("data_cid", cid), cids.raw_cid(b"hers"), {**said, **more})
    age = pyrage.encrypt(inner if opened is None else opened, [pyrage.x25519.Recipient.from_str(public(key))])
    block = block_of(id, cid, {"sealed": Ref(cids.raw_cid(age))}, ())
    blocks = [(cids.cbor_cid(block), block), (cid, ciphertext), (cids.raw_cid(age), age)]
    path = tmp_path / "forged.car"
    path.write_bytes(b"".join(car.write([blocks[0][0]], blocks)))
    return list(verify(path, identity=key))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"data": b"his words"}, "it opens to 9 bytes "),
        ({"size": 5}, "which are not those it says"),
        ({"id": "1" * 32}, "what is encrypted in it belongs to another record"),
        ({"data_cid": cids.raw_cid(b"x")}, "what is encrypted in it belongs to another record"),
        ({"user": [PRIVATE]}, "in it, user: found a list"),
        ({"opened": b"\x63\xff\xfe\xfd"}, "it does not open: no DAG-CBOR"),
        ({"opened": cbor.encode([PRIVATE])}, "found a list, expected a map"),
        ({"ciphertext": b"not encrypted at all"}, "is encrypted, it says, and "),
    ],
)
def test_what_is_encrypted_and_wrong_is_named(key: Path, tmp_path: Path, more: dict[str, Any], says: str) -> None:
    """Who has the public key can encrypt anything: with the private one it shows, and nothing of it is printed."""
    assert all(check.holds for check in forged(key, tmp_path))
    lines = [str(check) for check in forged(key, tmp_path, **more) if check.status == "fails"]
    assert any(says in line for line in lines), lines
    assert not [line for line in lines if PRIVATE in line or "his words" in line]


def test_without_the_package_there_is_advice(kept: Path, sealed: list[Record], key: Path) -> None:
    """To open what is encrypted takes a package; to check all else does not."""
    program = f"""
import sys
sys.modules["pyrage"] = None
from pointsman import ConfigError
from pointsman_ipfs.proof import verify
assert not [check for check in verify({str(kept)!r}) if check.status == "fails"]
try:
    list(verify({str(kept)!r}, identity={str(key)!r}))
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout
