"""Encrypted evidence: pyrage, which speaks the format of `age`, is the judge of what is stored."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import TracebackException
from typing import Any

import dag_cbor
import pyrage
import pytest
from attrs import evolve
from multiformats import CID
from pointsman import AuthenticationError, ConfigError, Secret, Store, UnavailableError, UnusableAnswer
from pointsman_ipfs.dag import car, cbor
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.evidence import About, Evidence, Statistics
from pointsman_ipfs.evidence._age import Keys
from pointsman_ipfs.evidence._records import Envelope

ALICE, BOB = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
ABOUT = About("photograph", "Mould in bedroom", "habitability", "anna.karenina", metadata={"camera": "Leica"})
SECRETS = ("photograph", "Mould", "habitability", "karenina", "Leica", "image/png", "camera")
PICTURE = b"\x89PNG\r\n\x1a\n" + b"what is to be seen in it" * 100
TESTS = Path(__file__).parent

Open = Callable[..., Evidence]


@pytest.fixture
def open_(store: Store) -> Iterator[Open]:
    """A function that opens the evidence in the store, with the keys that it is given."""
    opened = list[Evidence]()

    def open_(*recipients: Any, identity: Any = None, path: Path | None = None) -> Evidence:
        public = [str(one) for one in recipients] or None
        opened.append(Evidence(store, path, recipients=public, identity=identity))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.fixture
def ssh(tmp_path: Path) -> tuple[str, Path]:
    """A public key of SSH, and the file of its private one."""
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text(), path


def sealed_in(store: Store, record_cid: str) -> tuple[Any, bytes]:
    """What the block of a record shows to anybody, and the age file that it links to."""
    raw = cids.to_text(cids.raw_cid(b"")[:4] + cids.parse(record_cid)[-32:])
    said: Any = dag_cbor.decode(store.get(raw))
    return said, store.get(str(said["sealed"]))


def test_what_is_stored_is_an_age_file(open_: Open, store: Store) -> None:
    """That any program which reads the format opens; its CID is that of the ciphertext."""
    filed = open_(ALICE.to_public()).submit(PICTURE, ABOUT)
    stored = store.get(filed.record.cid)
    assert stored.startswith(b"age-encryption.org/v1\n")
    assert pyrage.decrypt(stored, [ALICE]) == PICTURE
    assert filed.record.cid == cids.to_text(cids.raw_cid(stored))
    assert filed.record.plain_cid == cids.to_text(cids.raw_cid(PICTURE))
    assert (filed.record.encrypted, filed.record.size) == (True, len(PICTURE))


def test_the_record_is_within_another_age_file(open_: Open, store: Store) -> None:
    """Its block shows links alone; what was encrypted is DAG-CBOR, and names the bytes as they were."""
    evidence = open_(ALICE.to_public(), identity=str(ALICE))
    records = [evidence.submit(PICTURE, ABOUT).record for _ in range(2)]
    said, sealed = sealed_in(store, records[1].record_cid)
    assert said.keys() == {"schema", "id", "data", "previous", "sealed"}
    inside: Any = dag_cbor.decode(pyrage.decrypt(sealed, [ALICE]))
    assert inside["plain"] == CID.decode(records[1].plain_cid)
    assert inside["data"] == said["data"] == CID.decode(records[1].cid)
    assert (inside["id"], inside["description"], inside["user"]) == (said["id"], "Mould in bedroom", "anna.karenina")
    assert (inside["metadata"], inside["media_type"], inside["size"]) == ({"camera": "Leica"}, "image/png", 2408)
    assert [one.previous for one in records] == [(), (records[0].record_cid,)]


def test_whoever_has_the_key_finds_and_reads_it(open_: Open, tmp_path: Path) -> None:
    """As if it were not encrypted: by user and claim, in numbers, and from an index that is made anew."""
    evidence = open_(ALICE.to_public(), identity=str(ALICE))
    mine = evidence.submit(PICTURE, ABOUT).record
    theirs = evidence.submit(b"other", About("text", user="ben")).record
    for again in (evidence, open_(identity=str(ALICE)), open_(identity=ALICE_FILE, path=tmp_path / "new.sqlite")):
        assert list(again.records()) == [mine, theirs]
        assert list(again.records("anna.karenina", "habitability")) == [mine]
        assert list(again.records("ben", "habitability")) == list(again.records(None)) == []
        totals = again.statistics()
        assert (totals.records, totals.size) == (2, len(PICTURE) + 5)
        assert sorted(totals.users) == ["anna.karenina", "ben"]
        assert again.statistics("ben").evidence_types == {"text"}
        assert again.find(mine.cid) == again.find(mine.record_cid) == (mine,)
        assert again.read(mine) == PICTURE
        again.confirm(mine)


ALICE_FILE = f"# created: 2026-05-03\n# public key: {ALICE.to_public()}\n{ALICE}\n"


@pytest.mark.parametrize(
    "inside", [b"no CBOR", {}, {"time": "0001-01-01T00:00:00+23:00"}, {"size": None}, {"id": "f" * 32}]
)
def test_what_others_have_sealed_and_is_nonsense_keeps_nobody_from_the_rest(
    open_: Open, store: Store, inside: Any
) -> None:
    """Also where it names the same evidence: it is in no list, is counted, and is an error by its own CID."""
    evidence = open_(ALICE.to_public(), identity=str(ALICE))
    record = evidence.submit(PICTURE, ABOUT).record
    said, sealed = sealed_in(store, record.record_cid)
    if isinstance(inside, dict):
        whole = cbor.decode(pyrage.decrypt(sealed, [ALICE]))
        inside = cbor.encode({**whole, **inside} if inside else {})
    age = pyrage.encrypt(inside, [ALICE.to_public()])
    block = dag_cbor.encode({**said, "sealed": CID.decode(cids.to_text(cids.raw_cid(age)))})
    blocks = [(cids.cbor_cid(block), block), (cids.raw_cid(age), age)]
    (forged,) = store.import_car(b"".join(car.write([blocks[0][0]], blocks)))
    assert evidence.reindex().records == 2
    assert list(evidence.records("anna.karenina")) == [record]
    assert (evidence.statistics().records, evidence.statistics().sealed) == (1, 1)
    assert evidence.find(record.cid) == (record,)
    with pytest.raises(UnusableAnswer, match=forged.cid):
        evidence.find(forged.cid)


def test_nothing_of_it_is_in_clear(open_: Open, store: Store, tmp_path: Path) -> None:
    """In no file of the store or of the index, whether it was made by us or made anew, with and without the key."""
    evidence = open_(ALICE.to_public(), identity=str(ALICE))
    record = evidence.submit(PICTURE, ABOUT).record
    large = tmp_path / "large.png"
    large.write_bytes(PICTURE * 3000)
    evidence.submit(large, ABOUT)
    large.unlink()
    assert evidence.read(record) == PICTURE
    evidence.statistics()
    evidence.reindex()
    with Evidence(store, tmp_path / "another.sqlite") as keyless:
        assert keyless.reindex().records == 2
    secret = [word.encode() for word in (*SECRETS, record.time.isoformat()[:16], record.plain_cid)]
    secret += [cids.parse(record.plain_cid)[-32:], b"what is to be seen", str(ALICE).encode()]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"evidence.sqlite", "another.sqlite", "index.sqlite"}
    for path in files:
        data = path.read_bytes()
        assert [word for word in secret if word in data] == [], path


def test_the_same_bytes_are_never_encrypted_alike(open_: Open) -> None:
    """Nobody sees that something was submitted twice; only who has the key knows that it is the same."""
    evidence = open_(ALICE.to_public())
    first, second = (evidence.submit(PICTURE, ABOUT).record for _ in range(2))
    assert first.cid != second.cid
    assert first.plain_cid == second.plain_cid


def test_each_recipient_can_open_it(open_: Open, tmp_path: Path, ssh: tuple[str, Path]) -> None:
    """With a key of age or of SSH, as text, as a Secret or in a file."""
    record = open_(ALICE.to_public(), BOB.to_public(), ssh[0]).submit(PICTURE, ABOUT).record
    (tmp_path / "alice").write_text(ALICE_FILE)
    for identity in (str(ALICE), Secret(str(BOB)), tmp_path / "alice", ssh[1], ssh[1].read_text(), [str(BOB), ssh[1]]):
        reader = open_(identity=identity, path=tmp_path / "index.sqlite")
        assert list(reader.records()) == [record]
        assert reader.read(record) == PICTURE


def test_a_large_file_is_encrypted_in_pieces(
    open_: Open, store: Store, tmp_path: Path, noise: Callable[[int, int], bytes]
) -> None:
    """And comes back byte for byte; the standard format has no other form for it."""
    path, back = tmp_path / "film", tmp_path / "back"
    path.write_bytes(noise(9_000_001, 1))
    evidence = open_(ALICE.to_public(), identity=str(ALICE))
    record = evidence.submit(path, ABOUT).record
    with back.open("wb") as file:
        evidence.write(record, file)
    assert back.read_bytes() == path.read_bytes() == pyrage.decrypt(store.get(record.cid), [ALICE])
    assert record.size == 9_000_001


def test_without_the_key_it_is_refused(open_: Open, store: Store) -> None:
    """With which record it is, and what to do; the wrong key is told from none. More can be submitted all the same."""
    record = open_(ALICE.to_public()).submit(PICTURE, ABOUT).record
    told = {
        open_(): f"record {record.record_cid} is encrypted: give identity=, the private key of one of its recipients",
        open_(BOB.to_public()): f"record {record.record_cid} is encrypted: give identity=",
        open_(identity=str(BOB)): f"record {record.record_cid} is encrypted for others: no identity that was given",
    }
    for evidence, text in told.items():
        calls: list[Callable[[], Any]] = [
            lambda evidence=evidence: evidence.find(record.cid),  # type: ignore[misc]
            lambda evidence=evidence: list(evidence.records()),  # type: ignore[misc]
            lambda evidence=evidence: list(evidence.records("nobody")),  # type: ignore[misc]
            lambda evidence=evidence: evidence.statistics(),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(AuthenticationError) as caught:
                call()
            assert text in caught.value.message
        with pytest.raises(AuthenticationError, match=f"evidence {record.cid} is encrypted"):
            evidence.read(record)
    assert open_(BOB.to_public()).submit(b"x", ABOUT).record.previous == (record.record_cid,)


def test_what_is_sealed_for_others_hides_nothing_else(open_: Open) -> None:
    """It is left out of lists, and counted as sealed; only where nothing at all can be read that is an error."""
    hers = open_(ALICE.to_public()).submit(b"hers", About("note", user="alice")).record
    for evidence in open_(), open_(identity=str(BOB)):
        with pytest.raises(AuthenticationError, match=f"record {hers.record_cid} is encrypted.*identity"):
            list(evidence.records("bob"))
        his = evidence.submit(b"his", About("note", user="bob")).record
        for same in evidence, open_(identity=str(BOB)):
            assert list(same.records("bob"))[-1] == his
            assert list(same.records("carol")) == []
            assert same.statistics("carol") == Statistics(0, 0, frozenset(), frozenset(), 1)
            assert same.statistics().sealed == same.statistics("bob").sealed == 1
            with pytest.raises(AuthenticationError, match=f"record {hers.record_cid} is encrypted"):
                same.find(hers.record_cid)
        evidence.store.unpin(his.record_cid)
        evidence.path.unlink()  # the new one has hers alone
    assert list(open_(identity=[str(ALICE), str(BOB)]).records()) == [hers]


def test_what_was_altered_is_refused(open_: Open, store: Store) -> None:
    """A record whose age file belongs to another one, or is cut, is named; so is evidence that is no age file."""
    evidence = open_(identity=str(ALICE))
    first, second = (evidence.submit(data, ABOUT).record for data in (b"first", b"second"))
    opened = pyrage.decrypt(sealed_in(store, first.record_cid)[1], [ALICE])
    block = store.get(cids.to_text(cids.raw_cid(b"")[:4] + cids.parse(second.record_cid)[-32:]))
    envelope = Envelope.read(cids.parse(second.record_cid), block)
    with pytest.raises(UnusableAnswer, match=f"record {second.record_cid}: what is sealed in it belongs to another"):
        envelope.record(opened)
    plain = store.put(b"no age file").cid
    cut = store.put(store.get(first.cid)[:-1]).cid
    for cid in (plain, cut):
        with pytest.raises(UnusableAnswer, match=f"evidence {cid}: no age file, or not as it was made"):
            evidence.read(evolve(first, cid=cid))
    with pytest.raises(UnusableAnswer, match="found other bytes than those that were submitted"):
        evidence.read(evolve(first, cid=second.cid))


def test_records_in_clear_and_encrypted_ones_are_one_log(open_: Open) -> None:
    """Who begins to encrypt keeps what was; without the key what is in clear can still be found by its CID."""
    clear = open_().submit(b"clear", ABOUT).record
    hidden = open_(identity=str(ALICE)).submit(b"hidden", ABOUT).record
    assert hidden.previous == (clear.record_cid,)
    assert list(open_(identity=str(ALICE)).records()) == [clear, hidden]
    assert open_().find(clear.cid) == (clear,)
    assert open_().read(clear) == b"clear"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"recipients": ["age1nope"]}, r"recipients\[0\]: found age1nope, expected a public key"),
    ({"recipients": [str(BOB.to_public()), str(ALICE)]}, r"recipients\[1\]: found a private key, expected a public"),
    ({"recipients": [5]}, r"recipients\[0\]: found int"),
    ({"identity": "nonsense"}, "identity: found a text that is no private key"),
    ({"identity": str(ALICE)[:-3] + "ABC"}, "identity: found a private key that is damaged"),
    ({"identity": [str(ALICE), 5]}, "identity: found int, expected a private key, or the path of one"),
    ({"identity": 5}, "identity: found int"),
    (
        {"identity": Path(str(ALICE))},
        "identity: found the text of a private key that was given as a path; give the key's",
    ),
    (
        {"identity": [Path("/home", str(ALICE).lower()[:30])]},
        "found the text of a private key that was given as a path",
    ),
    ({"identity": Path(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{ALICE}")}, "that was given as a path"),
    ({"recipients": [Path(str(ALICE))]}, r"recipients\[0\]: found a private key, expected a public"),
    ({"identity": Path("nowhere")}, "identity: nowhere cannot be read: No such file"),
    ({"identity": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{ALICE}"}, "damaged, or protected by a passphrase"),
]


def test_keys_of_pyrage_are_taken_as_they_are(store: Store) -> None:
    """Whoever has made one with the library need not write it out."""
    with Evidence(store, recipients=[ALICE.to_public(), BOB.to_public()], identity=BOB) as evidence:
        filed = evidence.submit(PICTURE, ABOUT)
        assert evidence.read(filed.record) == PICTURE
    assert pyrage.decrypt(store.get(filed.record.cid), [ALICE]) == PICTURE
    with Evidence(store, identity=[ALICE]) as evidence:
        assert evidence.find(filed.record.cid) == (filed.record,)


@pytest.mark.parametrize(("keys", "told"), WRONG)
def test_keys_that_are_none_are_refused(store: Store, keys: dict[str, Any], told: str) -> None:
    """At once, with the place and what was expected, and without the key."""
    with pytest.raises(ConfigError, match=told) as caught:
        Evidence(store, **keys)
    assert str(ALICE)[20:50] not in shown(caught.value)


def shown(error: BaseException) -> str:
    """All that an error shows, with the local variables of whoever raised it; those of this file apart."""
    trace = error.__traceback__
    while trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(TESTS):
        trace = trace.tb_next
    told = TracebackException(type(error), error, trace, capture_locals=True).format()
    return "".join(told) + repr(vars(error))


def test_no_key_is_shown(open_: Open, store: Store) -> None:
    """By no repr, and by no traceback with the local variables of every frame."""
    record = open_(identity=str(ALICE)).submit(PICTURE, ABOUT).record
    evidence = open_(identity=[str(BOB), Secret(str(pyrage.x25519.Identity.generate()))])
    with pytest.raises(AuthenticationError) as caught:
        evidence.read(record)
    everything = shown(caught.value) + "".join(repr(value) for value in vars(evidence).values())
    assert str(BOB)[20:50] not in everything
    assert "AGE-SECRET" not in everything


def test_an_ssh_key_alone_reads_and_does_not_encrypt(open_: Open, store: Store, ssh: tuple[str, Path]) -> None:
    """It does not tell its public key: what cannot be encrypted is refused, not stored in clear."""
    record = open_(ssh[0]).submit(PICTURE, ABOUT).record
    evidence = open_(identity=ssh[1])
    assert evidence.read(record) == PICTURE
    for content in (b"small", ssh[1]):
        with pytest.raises(ConfigError, match="recipients: found none; give the public keys"):
            evidence.submit(content, ABOUT)
    assert len(list(store.ls())) == 1


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    """And evidence in clear needs none."""
    program = """
import sys
sys.modules["pyrage"] = None
from pointsman import ConfigError, Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence
with Store([Blocks(path="store")]) as store:
    with Evidence(store) as evidence:
        evidence.submit(b"x", About("text"))
    try:
        Evidence(store, recipients=["age1"])
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "encryption needs a package that is not installed: pip install 'pointsman-ipfs[age]'" in done.stdout


def test_what_fails_while_it_is_encrypted_comes_out_as_it_is(
    open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no thread behind: a store that has no room says so."""
    path = tmp_path / "large"
    path.write_bytes(bytes(9 << 20))
    evidence = open_(identity=str(ALICE))

    def full(self: Store, content: Any, **options: Any) -> Any:
        next(iter(content))
        raise UnavailableError("no room")

    monkeypatch.setattr(Store, "put", full)
    before = threading.active_count()
    with pytest.raises(UnavailableError, match="no room"):
        evidence.submit(path, ABOUT)
    assert threading.active_count() == before


def test_what_no_key_here_opens_is_tried_once(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and counts of a store that is shared ask for the same records again and again."""
    for _ in range(3):
        open_(BOB.to_public()).submit(b"sealed", ABOUT)
    evidence, tried, decrypt = open_(identity=str(ALICE)), list[str](), Keys.decrypt
    evidence.submit(b"mine", ABOUT)

    def counted(keys: Keys, sealed: bytes, what: str) -> bytes:
        tried.append(what)
        return decrypt(keys, sealed, what)

    monkeypatch.setattr(Keys, "decrypt", counted)
    for _ in range(2):
        assert (evidence.statistics().sealed, len(list(evidence.records()))) == (3, 1)
    assert len(tried) == len(set(tried)) == 4
