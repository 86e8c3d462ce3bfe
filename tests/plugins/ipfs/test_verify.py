"""`verify`: what holds is told as holding, and nothing else is."""

from __future__ import annotations

import random
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pointsman import ConfigError, InvalidRequestError, Router, Store
from pointsman_ipfs import Blocks, Kubo, Receipts
from pointsman_ipfs.dag import car, cbor
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cbor import Ref
from pointsman_ipfs.evidence import About, Evidence
from pointsman_ipfs.proof import Check, verify
from pointsman_ipfs.receipts._signature import public_key

Chain = Callable[..., list[str]]
KEY = b64encode(bytes(range(32))).decode()
PUBLIC = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")  # RFC 8032 says how


@pytest.fixture
def car_of(kept: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes the chain of a receipt to a CAR file."""

    def car_of(receipt: str) -> Path:
        path = tmp_path / "chain.car"
        with Store([Blocks(path=kept)]) as store, path.open("wb") as file:
            assert all(check.holds for check in verify(receipt, store=store, copy=file.write))
        return path

    return car_of


CarOf = Callable[[str], Path]


def failing(checks: Iterable[Check]) -> list[str]:
    """Return what fails."""
    return [str(check) for check in checks if check.status == "fails"]


def test_a_chain_of_a_thousand_answers_verifies(kept: Path, chain: Chain, car_of: CarOf) -> None:
    """In the folder, in a CAR file, and from its newest receipt; signed."""
    receipts = chain(1000, key=KEY)
    path = car_of(receipts[-1])
    for what in (kept, path):
        checks = list(verify(what, key=PUBLIC))
        assert all(check.holds for check in checks)
        assert "receipts 0 to 999, signed; each names the one before it" in "\n".join(map(str, checks))
    whole, some = path.read_bytes(), random.Random(1)
    for place in some.sample(range(len(whole)), 12):
        path.write_bytes(changed(whole, place, some))
        assert failing(verify(path))


def changed(whole: bytes, place: int, some: random.Random) -> bytes:
    """Return the same with another byte at a place."""
    return whole[:place] + bytes((whole[place] ^ some.randrange(1, 256),)) + whole[place + 1 :]


@pytest.mark.parametrize("options", [{}, {"key": KEY}, {"content": False}], ids=["plain", "signed", "digests"])
def test_any_byte_of_a_car_that_changes_is_found(chain: Chain, kept: Path, car_of: CarOf, options: Any) -> None:
    """Every byte, from the header to the last: the line that fails names the file and the byte, a block, or a chain."""
    with Store([Blocks(path=kept)]) as store:
        path = kept.parent / "chain.car"
        with path.open("wb") as file:
            list(verify(chain(3, **options)[-1], store=store, copy=file.write))
    whole, some = path.read_bytes(), random.Random(2)
    named = re.compile(r"byte \d+|block ba|receipt ba|chain [0-9a-f]{32}|found none of either")
    for place in range(len(whole)):
        path.write_bytes(changed(whole, place, some))
        assert any(named.search(line) for line in failing(verify(path))), place


@pytest.mark.parametrize("options", [{}, {"key": KEY, "content": False}], ids=["plain", "signed digests"])
def test_any_byte_of_a_store_that_changes_is_found(chain: Chain, kept: Path, options: Any) -> None:
    """Every byte of the packs, their headers and marks too, and of the files that say how far each chain has come."""
    chain(2, **options)
    chain(1)
    some = random.Random(3)
    for path in [*(kept / "packs").iterdir(), *(kept / "receipts").iterdir()]:
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(changed(whole, place, some))
            assert failing(verify(kept)), (path, place)
        path.write_bytes(whole)
    assert failing(verify(kept)) == []


def test_a_codec_that_changes_is_found(kept: Path, says: Any) -> None:
    """A block under a CID of another codec has the right hash: it has another form, or is missed elsewhere."""
    with Router([says], receipts=True) as router:
        router.generate("A long letter. " * 400)
        router.generate("A short one.")
    (path,) = (kept / "packs").iterdir()
    whole = path.read_bytes()
    places = [match.start() for match in re.finditer(rb"\x01[\x55\x71]\x12\x20", whole)]
    assert len(places) >= 8
    for place in places:
        for codec in {0x55, 0x70, 0x71} - {whole[place + 1]}:
            path.write_bytes(whole[: place + 1] + bytes((codec,)) + whole[place + 2 :])
            assert failing(verify(kept)), place


def test_anybody_can_verify_with_a_library_for_dag_cbor(
    chain: Chain, car_of: CarOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program of docs/receipts.md, which imports nothing of ours, takes a signed chain, and none that changed."""
    page = (Path(__file__).parents[3] / "docs" / "receipts.md").read_text("utf-8")
    (program,) = (one for one in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "import dag_cbor" in one)
    assert "pointsman" not in program
    path = car_of(chain(3, key=KEY)[-1])
    monkeypatch.chdir(path.parent)
    exec(program, {})
    whole, some = path.read_bytes(), random.Random(4)
    for place in some.sample(range(60, len(whole)), 100):
        path.write_bytes(changed(whole, place, some))
        with pytest.raises(Exception):  # noqa: B017, PT011 - of whatever kind: it is a program of a few lines
            exec(program, {})


def test_receipts_of_version_1_verify_for_good() -> None:
    """A chain that was written when the schema was: whatever is changed since, it must hold."""
    path = Path(__file__).with_name("receipts-v1.car")
    checks = list(verify(path, key=PUBLIC))
    assert all(check.holds for check in checks)
    told = "\n".join(map(str, checks))
    assert told.count("chain ") == 6
    assert "it begins behind receipt" in told
    with path.open("rb") as file:
        (root,) = car.Reader(file).roots
    assert cids.to_text(root) == "bafyreie4emlvsd7icecrd3zjedhjvkrf27ss5p6fumge3p4jzofnh4c7aq"


def test_a_file_that_is_cut_is_found(chain: Chain, car_of: CarOf) -> None:
    """At every place where it may end, within a block or between two."""
    path = car_of(chain(3)[-1])
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert failing(verify(path)), end


# -- what was put together by hand -----------------------------------------------------------------------


def record(number: int, previous: str | None, /, **more: Any) -> dict[str, Any]:
    """Return a receipt."""
    said = {
        "receipt": 1,
        "by": "hand",
        "chain": "0" * 32,
        "number": number,
        "previous": previous,
        "time": f"2026-01-01T00:00:0{number}.000000Z",
        "request": {"messages": [{"role": "user", "content": "hi"}]},
        "answer": {"text": "hello", "finish_reason": "stop"},
        "attempts": [],
    }
    return {name: value for name, value in {**said, **more}.items() if value is not ...}


@pytest.fixture
def forged(tmp_path: Path) -> Callable[..., list[Check]]:
    """A function that verifies a CAR file with these records, each a function of the CIDs of those before it."""

    def forged(*records: Callable[[list[str]], Mapping[str, Any]], **options: Any) -> list[Check]:
        blocks = list[tuple[bytes, bytes]]()
        for one in records:
            data = cbor.encode(dict(one([cids.to_text(cid) for cid, _ in blocks])))
            blocks.append((cids.cbor_cid(data), data))
        path = tmp_path / "forged.car"
        path.write_bytes(b"".join(car.write([blocks[-1][0]], blocks)))
        return list(verify(path, **options))

    return forged


Forged = Callable[..., list[Check]]


def numbered(number: int, /, **more: Any) -> Callable[[list[str]], dict[str, Any]]:
    return lambda before: record(number, before[-1] if number else None, **more)


def test_what_was_put_together_well_holds(forged: Forged) -> None:
    """The records that the following tests change are right by themselves."""
    assert all(check.holds for check in forged(numbered(0), numbered(1), numbered(2)))


def test_a_block_that_is_there_twice_is_one(forged: Forged) -> None:
    """A store may have a block in two packs: that is no fork."""
    assert all(check.holds for check in forged(numbered(0), numbered(1), numbered(0)))


def test_a_gap_is_named(forged: Forged) -> None:
    """Receipts that are missing in the middle, or at the beginning."""
    (line,) = failing(forged(numbered(0), numbered(3)))
    assert "receipts 1 to 2 are not here, before receipt bafy" in line
    (line,) = failing(forged(lambda _: record(1, cids.to_text(cids.cbor_cid(b"absent")))))
    assert "receipt 0 is not here" in line


def test_a_fork_is_named(forged: Forged) -> None:
    """Two receipts with one number: somebody wrote another history."""
    lines = failing(forged(numbered(0), numbered(1), lambda before: record(1, before[0], by="me")))
    assert any("there is a fork: receipt bafy" in line for line in lines)


def test_a_wrong_predecessor_is_named(forged: Forged) -> None:
    """A receipt that names another one than the one before it."""
    other = cids.to_text(cids.cbor_cid(b"another"))
    (line,) = failing(forged(numbered(0), lambda _: record(1, other)))
    assert f"names {other} as the one before it" in line


def test_a_time_that_goes_back_is_named(forged: Forged) -> None:
    """Times never go back in a chain."""
    (line,) = failing(forged(numbered(0), numbered(1, time="2025-12-31T23:59:59.000000Z")))
    assert "has the time 2025-12-31T23:59:59.000000Z, before that of number 0" in line


def test_what_a_chain_begins_behind_is_looked_at(forged: Forged) -> None:
    """A receipt of the same chain, or one which is not here. A clock that was set back between two routers is told."""
    checks = forged(lambda _: record(3, None, number=0), lambda before: record(0, None, chain="1" * 32, after=before))
    (line,) = [check.text for check in checks if "it begins behind" in check.text]
    assert "; the clock was set back, or one of the times is wrong: 2026-01-01T00:00:03" in line
    assert failing(checks) == []
    lines = failing(forged(numbered(0), lambda before: record(0, None, after=before)))
    assert any("it begins behind receipt" in line for line in lines)
    absent = cids.to_text(cids.cbor_cid(b"absent"))
    checks = forged(numbered(0, after=[absent]))
    assert [check.text for check in checks if not check.holds] == [
        f"it begins behind receipt {absent}, which is not here"
    ]
    assert failing(checks) == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"receipt": 2}, r"receipt: found 2, expected 1\n"),
        ({"number": -1}, "number: found -1, expected a whole number from 0"),
        ({"number": True}, "number: found True"),
        ({"chain": "x"}, "chain: found text of 1 characters, expected 32 hexadecimal digits"),
        ({"previous": "x"}, "previous: found text of 1 characters, expected nothing or a CID"),
        ({"time": "2026-02-30T00:00:00.000000Z"}, "time: found '2026-02-30T.*, expected a time such as 2026-"),
        ({"time": "yesterday"}, "time: found text of 9 characters"),
        ({"answer": ...}, "answer: it is missing"),
        ({"answer": {"text": "x"}}, "answer.finish_reason: it is missing"),
        ({"request": {"messages": [{"role": "user"}]}}, r"request.messages\[0\].content: it is missing"),
        ({"request": {"messages": "hi"}}, "request.messages: found text, expected a list"),
        ({"usage": {"input_tokens": 1}}, "usage.output_tokens: it is missing"),
        ({"salt": bytes(16)}, "request.digest: it is missing"),
        ({"signature": bytes(64)}, "signature: found it, or its key, without the other"),
        ({"key": bytes(31)}, "key: found 31 bytes, expected 32 bytes"),
        ({"evidence": ["x"]}, r"evidence\[0\]: found text of 1 characters, expected a CID in base32"),
        ({"evidence": [Ref(b"\x01\x55\x00\x02hi")]}, r"evidence\[0\]: found a link, expected a CID"),
        ({"altered": ["more"]}, r'altered\[0\]: found text of 4 characters, expected "keys" or "values"'),
        ({"more": 1}, "more: this version has no such field"),
        ({"attempts": [{}]}, r"attempts\[0\].backend: it is missing"),
    ],
)
def test_a_record_of_another_form_is_named(forged: Forged, more: dict[str, Any], says: str) -> None:
    """The field, what was found there, and what was expected."""
    assert re.search(says, "\n".join(failing(forged(numbered(0, **more)))))


def test_a_later_receipt_without_predecessor_is_named(forged: Forged) -> None:
    """Only the first has none, and only the first may begin behind others."""
    lines = "\n".join(failing(forged(lambda _: record(2, None))))
    assert "previous: found none of a later receipt" in lines
    name = cids.to_text(cids.cbor_cid(b""))
    assert "after: found it in another receipt" in "\n".join(failing(forged(lambda _: record(2, name, after=[name]))))


# -- signatures ------------------------------------------------------------------------------------------


def test_another_key_is_said(chain: Chain, kept: Path) -> None:
    """With the key that must have signed: another one, or none, does not hold."""
    chain(2, key=KEY)
    (line,) = failing(verify(kept, key=bytes(32)))
    assert f"it is signed with the key {PUBLIC.hex()}, expected the key {bytes(32).hex()}" in line
    assert failing(verify(kept, key=PUBLIC)) == []


@pytest.mark.parametrize("key", ["03" * 32, b"\x03" * 31])
def test_what_is_no_public_key_is_told(chain: Chain, kept: Path, key: Any) -> None:
    """Before anything is read: as text it would be no key that anything is signed with."""
    chain(1, key=KEY)
    with pytest.raises(ConfigError, match=r"key: found .*, expected a public key of Ed25519: 32 bytes"):
        list(verify(kept, key=key))


def test_no_signature_is_said(chain: Chain, kept: Path) -> None:
    """Where there must be one."""
    chain(2)
    (line,) = failing(verify(kept, key=PUBLIC))
    assert f"it is signed with no key, expected the key {PUBLIC.hex()}" in line


def test_a_forged_signature_is_said(forged: Forged) -> None:
    """Whoever has not the private key cannot sign, although hashes and chain are right."""
    forgery = numbered(0, key=PUBLIC, signature=bytes(64))
    lines = failing(forged(forgery))
    assert any("(number 0): its signature is not one of the key in it" in line for line in lines)


def test_another_key_in_the_middle_is_said(forged: Forged) -> None:
    """One router has one key."""
    lines = failing(forged(numbered(0), numbered(1, key=PUBLIC, signature=bytes(64))))
    assert any(f"(number 1) is signed with the key {PUBLIC.hex()}, the first with no key" in line for line in lines)


def test_without_cryptography_signatures_are_not_told_as_holding(
    chain: Chain, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be checked is said as that, with what to install."""
    chain(2, key=KEY)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    (check,) = (check for check in verify(kept, key=PUBLIC) if not check.holds)
    assert check.status == "unchecked"
    assert 'pip install "pointsman-ipfs[sign]"' in check.text
    with pytest.raises(ConfigError, match=r"pip install .pointsman-ipfs\[sign\]"):
        chain(1, key=KEY)


def test_public_keys_are_read_in_every_form(tmp_path: Path) -> None:
    """Hexadecimal, base64, a PEM file; anything else is an error."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = Ed25519PublicKey.from_public_bytes(PUBLIC).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    for form in (PUBLIC.hex(), b64encode(PUBLIC).decode(), str(tmp_path / "key.pem")):
        assert public_key(form) == PUBLIC
    with pytest.raises(ConfigError, match="expected a public key of Ed25519"):
        public_key("nothing")


# -- evidence --------------------------------------------------------------------------------------------


def test_cited_evidence_is_looked_for(kept: Path, says: Any) -> None:
    """Present and whole, absent, or damaged: each is told as what it is."""
    with Store([Blocks(path=kept)]) as store:
        letter = store.put(b"The deposit was 900 dollars. " * 90).cid
    absent = cids.to_text(cids.raw_cid(b"not here"))
    with Router([says], receipts=True) as router:
        router.generate(f"Compare {letter} and {absent}")
    checks = list(verify(kept))
    assert [(check.status, check.what) for check in checks if not check.holds] == [("unchecked", f"evidence {absent}")]
    receipt = next(iter(re.findall(r"receipt (ba\w+) cites", "\n".join(map(str, checks)))))
    with Store([Blocks(path=kept)]) as store:
        for found in (checks, list(verify(receipt, store=store))):
            told = {check.what: check.status for check in found}
            assert (told[f"evidence {letter}"], told[f"evidence {absent}"]) == ("holds", "unchecked")


def test_what_is_no_receipt_is_said(kept: Path, chain: Chain) -> None:
    """A CID of something else, one that is not here, a path that is not there, a folder of something else."""
    chain(1)
    with Store([Blocks(path=kept)]) as store:
        letter, absent = store.put(b"a letter").cid, cids.to_text(cids.raw_cid(b"not here"))
        assert "it is neither a receipt nor a record of evidence" in "\n".join(failing(verify(letter, store=store)))
        assert "it is not here" in "\n".join(failing(verify(absent, store=store)))
        with pytest.raises(InvalidRequestError, match="expected a CID"):
            list(verify("nowhere.car", store=store))
    with pytest.raises(InvalidRequestError, match="there is no such file or folder"):
        list(verify("nowhere.car"))
    with pytest.raises(InvalidRequestError, match="expected the folder of an embedded store"):
        list(verify(kept / "packs"))


def test_a_damaged_store_is_said_from_a_receipt(kept: Path, chain: Chain) -> None:
    """The block that is damaged is named; the receipts behind it are told as not here."""
    receipts = chain(3)
    (path,) = (kept / "packs").iterdir()
    path.write_bytes(path.read_bytes().replace(b"question 1", b"question 7"))
    with Store([Blocks(path=kept)]) as store:
        lines = "\n".join(failing(verify(receipts[-1], store=store)))
    assert f"receipt {receipts[1]}: block {receipts[1]} was damaged" in lines
    assert "receipts 0 to 1 are not here, before" in lines


def test_a_store_that_is_away_is_not_told_as_damaged(kept: Path, chain: Chain, tmp_path: Path) -> None:
    """Of what could not be looked at nothing is known: neither that it holds, nor that it fails."""
    receipts = chain(3)
    (tmp_path / "file").touch()
    with Store([Blocks(path=tmp_path / "file")]) as store:
        (check,) = verify(receipts[-1], store=store)
    assert check.status == "unchecked"
    assert "it could not be looked at: " in check.text
    assert "cannot be used as a store" in check.text


@pytest.mark.kubo
def test_a_node_that_goes_away_meanwhile_leaves_the_rest_unchecked(spare_kubo: Any, running: Any, says: Any) -> None:
    """The receipts that were read hold; those before them are told as what could not be looked at, not as a gap."""
    with running(spare_kubo) as node, Store([Kubo(url=node.api)]) as store:
        with Router([says], middleware=[Receipts(store=store)]) as router:
            receipts = [str(router.generate("hi").receipt) for _ in range(4)]
        read = list[int]()

        def leave(size: int) -> None:
            read.append(size)
            if len(read) == 2:
                node.daemon.kill()
                node.daemon.wait()

        checks = list(verify(receipts[-1], store=store, progress=leave))
    assert failing(checks) == []
    away, gap = (str(check) for check in checks if check.status == "unchecked")
    assert away.startswith(f"unchecked  receipt {receipts[1]}: it could not be looked at: ")
    assert "receipts 0 to 1 are not here, before receipt" in gap


def test_a_store_in_use_can_be_verified(kept: Path, says: Any) -> None:
    """Beside a router that is writing, what was durable verifies."""
    with Router([says], receipts={"delay": 0}) as router:
        for _ in range(50):
            router.generate("hi")
            if (kept / "packs").is_dir():
                assert [line for line in failing(verify(kept)) if "found none" not in line] == []


def test_a_trail_that_is_empty_is_no_failure(kept: Path, chain: Chain) -> None:
    """A router makes it before it writes to it, and a power cut leaves such files: nothing of the receipts is wrong."""
    chain(2)
    (kept / "receipts" / ("0" * 32)).touch()
    (one,) = (check for check in verify(kept) if not check.holds)
    assert str(one).startswith("unchecked  file ")
    assert "it is empty" in str(one)


def test_evidence_beside_receipts_holds(kept: Path, chain: Chain) -> None:
    """Records link to those before them as to plain bytes: these are there, though under the CID of a record."""
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        for data in (b"one", b"two"):
            record = evidence.submit(data, About("text")).record
    assert record.previous
    chain(1)
    assert all(check.holds for check in verify(kept))
