"""The mediator's evidence: what goes in, what comes out, and what is said when that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mediator import Mediator, State
from pointsman import ConfigError, ContentNotFoundError, InvalidRequestError, Store, UnusableAnswer
from pointsman.testing import Scripted, faults
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence

LEASE = b"The lease of 1 May. " * 40
UNKNOWN = "bafkreiceze73ajatq3vaohh4fwwoylyw4vjm3erclr5swdt2mus3cgvske"
MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_node(usual_address: Callable[[str], None]) -> Iterator[None]:
    """No node is on this machine, whatever is on it."""
    with faults.nobody_listens() as nobody:
        usual_address(nobody.removesuffix("/v1"))
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the case is kept."""
    return tmp_path / "case"


@pytest.fixture
def mediator(folder: Path, no_leaks: None) -> Iterator[Mediator]:
    """A mediator with a folder of its own, that needs no backend."""
    with Mediator(path=folder) as mediator:
        yield mediator


def damage(folder: Path, content: bytes) -> None:
    """Flip one bit of this content in the files of an embedded store."""
    for pack in folder.rglob("*.car"):
        data = bytearray(pack.read_bytes())
        if (place := data.find(content)) >= 0:
            data[place] ^= 1
            pack.write_bytes(data)


# -- in and out -----------------------------------------------------------------------------------------


def test_what_is_submitted_is_returned_with_its_record(mediator: Mediator) -> None:
    """Everything that was said, what is known of the bytes, when, and which stores have it."""
    before = datetime.now(UTC)
    result = mediator.submit_evidence(LEASE, "document", "anna", "The lease", "eviction", {"page": 1})
    assert result["user_id"] == result["username"] == "anna"
    assert result["type"] == result["evidence_type"] == "document"
    assert (result["description"], result["claim_type"], result["metadata"]) == ("The lease", "eviction", {"page": 1})
    assert (result["size"], result["media_type"], result["encrypted"]) == (len(LEASE), "text/plain", False)
    assert (result["stored_in"], result["waiting_for"], result["ipfs_available"]) == (["blocks"], [], False)
    assert result["id"] == result["record_id"]
    assert before <= datetime.fromisoformat(result["timestamp"]) <= datetime.now(UTC)
    assert mediator.store.get(result["cid"]) == LEASE
    assert mediator.evidence.find(result["record_cid"])[0].id == result["record_id"]


@pytest.mark.parametrize("by", ["cid", "record_cid"])
def test_it_is_found_by_its_cid_and_by_that_of_its_record(mediator: Mediator, by: str) -> None:
    """With all that was said, the bytes, and the word that they were verified now."""
    result = mediator.submit_evidence(LEASE, "document", description="The lease")
    found = mediator.get_evidence_by_cid(result[by])
    assert found is not None
    said = {name: value for name, value in result.items() if name not in ("stored_in", "waiting_for", "ipfs_available")}
    assert found == {**said, "verified": True, "data": LEASE, "records": [said], "unsound": []}
    assert mediator.retrieve_evidence(result[by]) == LEASE
    without = mediator.get_evidence_by_cid(result[by], with_data=False)
    assert without == {**said, "verified": True, "records": [said], "unsound": []}


def test_the_same_bytes_submitted_twice_keep_both_records(mediator: Mediator) -> None:
    """By the CID of the bytes both are found, the last as the answer; by that of a record, that one alone."""
    first = mediator.submit_evidence(LEASE, "document", "anna", "The lease")
    second = mediator.submit_evidence(LEASE, "image", "bob", "A scan of the lease")
    assert first["cid"] == second["cid"]
    assert first["record_cid"] != second["record_cid"]
    found = mediator.get_evidence_by_cid(first["cid"])
    assert found is not None
    assert found["description"] == "A scan of the lease"
    assert [one["record_id"] for one in found["records"]] == [first["record_id"], second["record_id"]]
    alone = mediator.get_evidence_by_cid(first["record_cid"])
    assert alone is not None
    assert [one["description"] for one in (alone, *alone["records"])] == ["The lease"] * 2


def test_a_file_is_kept_with_its_name(mediator: Mediator, tmp_path: Path) -> None:
    """The name, without the folders, which are nobody's business; the media type follows from it."""
    path = tmp_path / "The lease.pdf"
    path.write_bytes(LEASE)
    given = {"page": 1}
    for one in path, str(path):
        result = mediator.submit_evidence_file(one, "document", metadata=given)
        assert result["metadata"] == {"page": 1, "filename": "The lease.pdf"}
        assert result["media_type"] == "application/pdf"
        assert mediator.retrieve_evidence(result["cid"]) == LEASE
    assert given == {"page": 1}


def test_metadata_may_name_the_media_type(mediator: Mediator) -> None:
    """As `mime_type`; else the file name in them tells it; else the bytes do."""
    types = [
        mediator.submit_evidence(b"x", "email", metadata=metadata)["media_type"]
        for metadata in (
            {"mime_type": "message/rfc822", "filename": "a.pdf"},
            {"filename": "a.pdf"},
            {"filename": 5},
            {},
        )
    ]
    assert types == ["message/rfc822", "application/pdf", "text/plain", "text/plain"]


def test_what_is_returned_may_be_changed(mediator: Mediator) -> None:
    """It is a copy: the next one who asks gets what the record says."""
    result = mediator.submit_evidence(LEASE, "document", metadata={"pages": [1]})
    result["metadata"]["pages"].append(2)
    mediator.get_user_evidence()[0]["metadata"].clear()
    assert mediator.get_user_evidence()[0]["metadata"] == {"pages": [1]}


def test_a_large_file_is_never_in_memory(mediator: Mediator, tmp_path: Path) -> None:
    """Submitted, and verified without its bytes, it takes a few pieces of memory."""
    path, piece = tmp_path / "video.mp4", os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(96):
            file.write(bytes([number]) + piece[1:])
    mediator.submit_evidence(b"warm", "text")
    tracemalloc.start()
    try:
        result = mediator.submit_evidence_file(path, "video")
        found = mediator.get_evidence_by_cid(result["cid"], with_data=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found is not None
    assert (found["size"], found["verified"]) == (96 * MIB, True)
    assert peak < 40 * MIB


# -- what cannot be -------------------------------------------------------------------------------------


def test_the_unknown_is_none(mediator: Mediator) -> None:
    """A right CID that nobody submitted; its bytes cannot be had, and the error says what to look at."""
    assert mediator.get_evidence_by_cid(UNKNOWN) is None
    assert mediator.evidence_state.get_evidence_by_cid(UNKNOWN) is None
    with pytest.raises(ContentNotFoundError, match=rf"{UNKNOWN}: no record has this CID, .*see that the CID is whole"):
        mediator.retrieve_evidence(UNKNOWN)


def test_bytes_without_a_record_can_be_had(mediator: Mediator) -> None:
    """What is in the store came there somehow: it is given out, and nobody pretends to know more of it."""
    cid = mediator.store.put(b"put by hand").cid
    assert mediator.get_evidence_by_cid(cid) is None
    assert mediator.retrieve_evidence(cid) == b"put by hand"


@pytest.mark.parametrize(
    "cid", ["", "nonsense", "QmXxxxx...", "../../etc/passwd", f"{UNKNOWN}/a", UNKNOWN[:-1], "b" * 999]
)
def test_what_is_no_cid_is_an_error(mediator: Mediator, cid: Any) -> None:
    """Whoever has mistyped one is told so, and not that there is no such evidence."""
    for ask in mediator.get_evidence_by_cid, mediator.retrieve_evidence, mediator.evidence_state.get_evidence_by_cid:
        with pytest.raises(InvalidRequestError, match=r"CID.*; copy it whole, as it was shown"):
            ask(cid)


def test_white_space_around_a_cid_is_not_minded(mediator: Mediator) -> None:
    """People copy it with what stands around it."""
    cid, put = mediator.submit_evidence(LEASE, "document")["cid"], mediator.store.put(b"put by hand").cid
    assert mediator.retrieve_evidence(f" {cid}\n") == LEASE
    assert mediator.retrieve_evidence(f" {put}\n") == b"put by hand"
    assert mediator.get_evidence_by_cid(f"\t{cid}") == mediator.get_evidence_by_cid(cid)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("The lease", r"found text, expected bytes: give its bytes \(text\.encode\(\)\)"),
        (None, "found NoneType, expected bytes"),
        (["a"], "found list, expected bytes"),
    ],
)
def test_what_is_no_bytes_is_refused(mediator: Mediator, data: Any, words: str) -> None:
    """Text has no bytes of its own: nobody chooses an encoding for it unasked. Nothing is kept of it."""
    with pytest.raises(InvalidRequestError, match=words):
        mediator.submit_evidence(data, "text")
    assert mediator.get_user_evidence() == []


@pytest.mark.parametrize("path", [None, 5, b"lease.pdf"])
def test_what_is_no_path_is_refused(mediator: Mediator, path: Any) -> None:
    """By its type."""
    with pytest.raises(InvalidRequestError, match=f"file_path: found {type(path).__name__}, expected a path"):
        mediator.submit_evidence_file(path, "document")
    with pytest.raises(InvalidRequestError, match="file_path: found an empty path, expected that of a file"):
        mediator.submit_evidence_file("", "document")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.pdf", "nowhere.pdf: .*No such file"),
        ("", "found a folder: submit its files"),
        ("half \ud800", r"file_path: found '.*half \\ud800', which no file is called"),
    ],
)
def test_what_is_no_file_is_refused(mediator: Mediator, tmp_path: Path, path: str, words: str) -> None:
    """A file that is not there, and a folder, are named with their path."""
    with pytest.raises(InvalidRequestError, match=words):
        mediator.submit_evidence_file(tmp_path / path, "document")


def test_a_file_whose_name_is_no_text_can_be_submitted(tmp_path: Path, mediator: Mediator) -> None:
    """Names of other times are bytes of another encoding: what cannot be read of one is marked in the metadata."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/K\xfcndigung.pdf"))
    path.write_bytes(b"x")
    assert mediator.submit_evidence_file(path, "document")["metadata"] == {"filename": "K\ufffdndigung.pdf"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"evidence_type": " "}, "evidence_type: found ' '"),
        ({"evidence_type": None}, "evidence_type: found None"),
        ({"user_id": 7}, "user: found int"),
        ({"description": b"x"}, "description: found bytes"),
        ({"metadata": {"date": datetime.now(UTC)}}, "metadata.date: found datetime"),
        ({"metadata": ["page 1"]}, "metadata: found list, expected a mapping"),
    ],
)
def test_what_a_record_cannot_hold_is_refused(mediator: Mediator, arguments: dict[str, Any], words: str) -> None:
    """The error names the place; nothing is kept."""
    with pytest.raises(InvalidRequestError, match=words):
        mediator.submit_evidence(LEASE, **{"evidence_type": "document", **arguments})
    assert mediator.evidence_state.get_evidence_statistics()["total_count"] == 0


def test_damaged_bytes_are_an_error_that_says_what_to_do(mediator: Mediator, folder: Path) -> None:
    """It names the evidence as a person knows it, and the record. Submitted again, it is mended."""
    result = mediator.submit_evidence(LEASE, "document", description="The lease")
    damage(folder, LEASE)
    for ask in mediator.get_evidence_by_cid, mediator.retrieve_evidence:
        with pytest.raises(UnusableAnswer) as caught:
            ask(result["cid"])
        for words in (result["cid"], "'The lease'", result["timestamp"], result["record_cid"], "submitted again"):
            assert words in str(caught.value)
    mediator.submit_evidence(LEASE, "document", description="The lease, again")
    found = mediator.get_evidence_by_cid(result["cid"])
    assert found is not None
    assert (found["data"], found["verified"], len(found["records"])) == (LEASE, True, 2)


def test_lost_bytes_are_an_error_that_says_what_to_do(mediator: Mediator) -> None:
    """The record is still found by itself; only its bytes are not."""
    result = mediator.submit_evidence(LEASE, "document", description="The lease")
    mediator.store.unpin(result["record_cid"])
    mediator.store.gc()
    with pytest.raises(ContentNotFoundError, match=r"'The lease', submitted .*submitted again"):
        mediator.get_evidence_by_cid(result["cid"])
    found = mediator.evidence_state.get_evidence_by_cid(result["cid"])
    assert found is not None
    assert found["description"] == "The lease"


def test_damaged_bytes_come_from_another_store(tmp_path: Path, no_leaks: None) -> None:
    """Nobody notices, and the damaged store is mended."""
    homes = {"home": Blocks(path=tmp_path / "home"), "office": Blocks(path=tmp_path / "office")}
    with Store(homes) as store, Mediator(store=store) as mediator:
        result = mediator.submit_evidence(LEASE, "document")
        assert store.sync() == ()
        damage(tmp_path / "home", LEASE)
        assert mediator.retrieve_evidence(result["cid"]) == LEASE
        assert store.sync() == ()
        assert store.get(result["cid"], store="home") == LEASE


# -- whose it is ----------------------------------------------------------------------------------------


def test_whoever_is_not_named_is_the_one_of_the_state(mediator: Mediator) -> None:
    """`username`, else `hashed_username`, else "anonymous"; a call that names a user goes before them."""
    assert mediator.submit_evidence(b"1", "text")["user_id"] == "anonymous"
    mediator.state.hashed_username = "5f4dcc3b"
    assert mediator.submit_evidence(b"2", "text")["user_id"] == "5f4dcc3b"
    mediator.state.username = "anna"
    assert mediator.submit_evidence(b"3", "text")["user_id"] == "anna"
    assert mediator.submit_evidence(b"4", "text", user_id="bob")["user_id"] == "bob"
    assert [mediator.retrieve_evidence(one["cid"]) for one in mediator.get_user_evidence()] == [b"3"]
    mediator.state = State()
    assert [mediator.retrieve_evidence(one["cid"]) for one in mediator.get_user_evidence()] == [b"1"]


def test_evidence_of_a_user_is_listed_the_newest_first(mediator: Mediator) -> None:
    """That of nobody else is among it."""
    cids = [mediator.submit_evidence(bytes([number]), "text", "anna")["cid"] for number in range(5)]
    mediator.submit_evidence(b"of bob", "text", "bob")
    assert [one["cid"] for one in mediator.get_user_evidence("anna")] == cids[::-1]
    assert mediator.evidence_state.get_user_evidence("anna") == mediator.get_user_evidence("anna")
    assert mediator.get_user_evidence("nobody") == []


def test_statistics(mediator: Mediator) -> None:
    """Of all, and of one user."""
    for user, kind in ("anna", "text"), ("anna", "email"), ("bob", "email"):
        mediator.submit_evidence(LEASE, kind, user)
    names = ("total_count", "total_size", "type_count", "user_count")
    every, anna, nobody = (mediator.evidence_state.get_evidence_statistics(user) for user in (None, "anna", "carl"))
    assert [every[name] for name in names] == [3, 3 * len(LEASE), 2, 2]
    assert [anna[name] for name in names] == [2, 2 * len(LEASE), 2, 1]
    assert [nobody[name] for name in names] == [0, 0, 0, 0]
    record = mediator.evidence_state.get_evidence_by_cid(mediator.get_user_evidence("bob")[0]["cid"])
    assert record is not None
    assert (record["username"], record["type"]) == ("bob", "email")


# -- many at once, and again ----------------------------------------------------------------------------


def test_threads_may_share_one(mediator: Mediator) -> None:
    """What eight of them submit is all there, in one chain of records."""

    def submit(user: str) -> None:
        for number in range(10):
            mediator.submit_evidence(f"{user} {number}".encode(), "text", user)

    threads = [threading.Thread(target=submit, args=[f"user{number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mediator.evidence_state.get_evidence_statistics()["total_count"] == 80
    for number in range(8):
        found = [mediator.retrieve_evidence(one["cid"]) for one in mediator.get_user_evidence(f"user{number}")]
        assert found == [f"user{number} {place}".encode() for place in range(9, -1, -1)]
    assert len(mediator.evidence.ends()) == 1


def test_processes_may_share_a_folder(mediator: Mediator, folder: Path) -> None:
    """What two of them submit, while a third one looks, is all there, in one chain; each saw what it submitted."""
    code = (
        "import sys\nfrom mediator import Mediator\n"
        "with Mediator(path=sys.argv[1]) as mediator:\n"
        "    for number in range(20):\n"
        "        one = mediator.submit_evidence(f'{sys.argv[2]} {number}'.encode(), 'text', sys.argv[2])\n"
        "        assert mediator.get_evidence_by_cid(one['cid'])['username'] == sys.argv[2]\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(folder)]
    running = [subprocess.Popen([*command, name], stderr=subprocess.PIPE) for name in ("anna", "bob")]
    while any(one.poll() is None for one in running):
        mediator.evidence_state.get_evidence_statistics()
    assert [one.communicate()[1] for one in running] == [b"", b""]
    assert [len(mediator.get_user_evidence(name)) for name in ("anna", "bob")] == [20, 20]
    assert len(mediator.evidence.ends()) == 1


def test_what_was_submitted_is_there_after_a_restart(folder: Path) -> None:
    """Also when the index is damaged, or lost: it is made from the records."""
    with Mediator(path=folder) as mediator:
        result = mediator.submit_evidence(LEASE, "document", "anna", "The lease")
    index = folder / "evidence.sqlite"
    for change in lambda: None, lambda: index.write_bytes(b"damaged"), index.unlink:
        change()
        with Mediator(path=folder) as mediator:
            found = mediator.get_evidence_by_cid(result["cid"])
            assert found is not None
            assert (found["record_id"], found["description"], found["data"]) == (
                result["record_id"],
                "The lease",
                LEASE,
            )
            assert [one["cid"] for one in mediator.get_user_evidence("anna")] == [result["cid"]]


def test_a_program_that_is_killed_has_lost_nothing_that_it_was_told_is_kept(folder: Path, tmp_path: Path) -> None:
    """Every CID that it printed is there, and verifies."""
    code = (
        "import sys\nfrom mediator import Mediator\nmediator = Mediator(path=sys.argv[1])\nnumber = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    print(mediator.submit_evidence(str(number).encode(), 'text', 'anna')['record_cid'], flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        told = [program.stdout.readline().decode().strip() for _ in range(30)]
        program.kill()
        told += [line.decode().strip() for line in program.stdout if line.endswith(b"\n")]
    with Mediator(path=folder) as mediator:
        for number, cid in enumerate(told, 1):
            assert mediator.retrieve_evidence(cid) == str(number).encode()
        assert len(mediator.get_user_evidence("anna")) >= len(told)


# -- where it is ----------------------------------------------------------------------------------------


def test_without_a_word_it_is_in_the_store_of_this_machine(tmp_path: Path, no_leaks: None) -> None:
    """The embedded one, where every program of this person finds it, with the index beside it."""
    with Mediator() as mediator, Evidence(mediator.store) as evidence:
        result = mediator.submit_evidence(LEASE, "document")
        assert (tmp_path / "store" / "evidence.sqlite").exists()
        assert [record.cid for record in evidence.records()] == [result["cid"]]


def test_a_store_that_is_given_stays_open(tmp_path: Path, no_leaks: None) -> None:
    """It is its owner's; what others put into it as evidence is found. `path` is then where the index is."""
    with Store({"home": Blocks(path=tmp_path / "home")}) as store:
        with Evidence(store) as evidence:
            other = evidence.submit(b"of another program", About("text")).record
        with Mediator([], store, tmp_path / "case") as mediator:
            assert mediator.retrieve_evidence(other.record_cid) == b"of another program"
            result = mediator.submit_evidence(LEASE, "document")
        mediator.close()
        assert store.get(result["cid"]) == LEASE
        assert {path.name for path in (tmp_path / "case").iterdir()} >= {"evidence.sqlite"}


def test_the_arguments_of_the_authors_are_taken(tmp_path: Path, no_leaks: None) -> None:
    """The index is where `evidence_db_path` says, in an empty file too; the other databases are nothing of ours."""
    named = tmp_path / "statefiles" / "evidence.duckdb"
    for _ in range(2):
        with Mediator(
            backends=[], evidence_db_path=str(named), legal_authority_db_path="l", claim_support_db_path="c"
        ) as m:
            m.submit_evidence(LEASE, "document")
    assert named.exists()
    (tmp_path / "empty.duckdb").touch()
    with Mediator(path=tmp_path / "case", evidence_db_path=tmp_path / "empty.duckdb") as mediator:
        mediator.submit_evidence(LEASE, "document")
    assert (tmp_path / "empty.duckdb").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"store": "case-17"}, r"Mediator\.store: found str, expected a pointsman\.Store; for the folder .*path="),
        ({"path": b"case"}, r"Mediator\.path: found bytes, expected a path"),
        ({"path": ""}, r"Mediator\.path: found an empty text, expected a path"),
        ({"path": "a\0b"}, r"Mediator\.path: found 'a\\x00b', which nothing is called, expected a path"),
        ({"path": "a\ud800"}, r"Mediator\.path: found 'a\\ud800', which nothing is called, expected a path"),
        (
            {"path": "~nobody-of-that-name/a"},
            r"Mediator\.path: found '~nobody-of-that-name/a', which nothing is called",
        ),
        ({"evidence_db_path": "a\0"}, r"Mediator\.evidence_db_path: found 'a\\x00', which nothing is called"),
        ({"evidence_db_path": 5}, r"Mediator\.evidence_db_path: found int, expected a path"),
    ],
)
def test_arguments_of_the_wrong_type_are_told(arguments: Any, words: str) -> None:
    """With the name, and what was meant perhaps."""
    with pytest.raises(ConfigError, match=words):
        Mediator([], **arguments)


def test_a_file_of_another_program_is_not_touched(tmp_path: Path, no_leaks: None) -> None:
    """A database of DuckDB, which the authors' program has left there, is named, and stays as it is."""
    theirs = tmp_path / "evidence.duckdb"
    theirs.write_bytes(bytes(8) + b"DUCK" + bytes(4096))
    words = r"evidence\.duckdb: the file is no index of evidence.*name another one"
    with Mediator(path=tmp_path, evidence_db_path=theirs) as mediator, pytest.raises(ConfigError, match=words):
        mediator.submit_evidence(LEASE, "document")
    assert theirs.read_bytes() == bytes(8) + b"DUCK" + bytes(4096)
    assert [path.name for path in tmp_path.glob("evidence.*")] == ["evidence.duckdb"]


@pytest.mark.parametrize(
    "name", ["submit_evidence", "get_evidence_by_cid", "retrieve_evidence", "generate", "query_backend"]
)
def test_one_that_is_closed_says_so(folder: Path, name: str) -> None:
    """Nothing hangs, nothing is written, and nobody is asked, though the backend is open."""
    backend = Scripted()
    mediator = Mediator([backend], path=folder)
    cid = mediator.submit_evidence(LEASE, "document")["cid"]
    mediator.close()
    mediator.close()
    ask: Callable[..., Any] = getattr(mediator, name)
    with pytest.raises(ConfigError, match="this mediator is closed; make another one"):
        ask(*((b"more", "text") if name == "submit_evidence" else (cid,)))
    assert backend.calls == 0
