"""Evidence that only those can read for whom it is: in the age format, before it reaches any store."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyrage
import pytest
from mediator import Mediator
from pointsman import AuthenticationError, ConfigError, Router, Store, UnusableAnswer
from pointsman.testing import Scripted
from pointsman_ipfs import Blocks, Receipts
from pointsman_ipfs.dag import car, cbor
from pointsman_ipfs.dag import cid as cids

from backends import load

SECRET = b"My landlord does not know that I have this. " * 30


@pytest.fixture
def store(tmp_path: Path, no_leaks: None) -> Iterator[Store]:
    with Store({"home": Blocks(path=tmp_path / "home")}) as store:
        yield store


@pytest.fixture(scope="module")
def anna() -> Any:
    """A person with a key."""
    return pyrage.x25519.Identity.generate()


@pytest.fixture(scope="module")
def bob() -> Any:
    """Another one."""
    return pyrage.x25519.Identity.generate()


def test_whoever_has_the_key_sees_all_of_it(store: Store, anna: Any, bob: Any, tmp_path: Path) -> None:
    """Each of the recipients, by the key itself or by the path of its file; the size is that of what was encrypted."""
    public = [str(anna.to_public()), str(bob.to_public())]
    with Mediator([], store, recipients=public) as mediator:
        result = mediator.submit_evidence(SECRET, "document", "anna", "The letter", "eviction", {"page": 1})
        assert (result["encrypted"], result["size"], result["description"]) == (True, len(SECRET), "The letter")
    (tmp_path / "key.txt").write_text(f"# created: today\n{bob}\n")
    for identity in str(anna), tmp_path / "key.txt", [str(anna), str(bob)]:
        with Mediator([], store, identity=identity) as mediator:
            found = mediator.get_evidence_by_cid(result["cid"])
            assert found is not None
            assert (found["data"], found["verified"], found["metadata"]) == (SECRET, True, {"page": 1})
            assert [one["description"] for one in mediator.get_user_evidence("anna")] == ["The letter"]
            assert mediator.evidence_state.get_evidence_statistics("anna")["total_size"] == len(SECRET)
            assert mediator.get_user_evidence("bob") == []


def test_the_store_has_nothing_of_it_to_read(store: Store, anna: Any, tmp_path: Path) -> None:
    """Neither bytes nor words are in any file, the index among them; the CID is that of the ciphertext."""
    with Mediator([], store, identity=str(anna)) as mediator:
        results = [mediator.submit_evidence(SECRET, "medical", "anna-smith", "The diagnosis") for _ in range(2)]
        assert results[0]["cid"] != results[1]["cid"]
        assert pyrage.decrypt(store.get(results[0]["cid"]), [anna]) == SECRET
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for word in SECRET[:40], b"medical", b"anna-smith", b"diagnosis", str(anna).encode():
        assert word not in written


def test_the_wrong_key_is_an_error_that_says_so(store: Store, anna: Any, bob: Any) -> None:
    """For every call that would read: no evidence is None, and no list is empty, because of it."""
    with Mediator([], store, recipients=str(anna.to_public())) as mediator:
        result = mediator.submit_evidence(SECRET, "document", "anna")
    for identity, words in (None, "give identity="), (str(bob), "no identity that was given opens it"):
        with Mediator([], store, identity=identity) as mediator:
            state, told = mediator.evidence_state, f"record {result['record_cid']} is encrypted.*{words}"
            for ask in mediator.get_evidence_by_cid, mediator.retrieve_evidence, state.get_evidence_by_cid:
                for cid in result["cid"], result["record_cid"]:
                    with pytest.raises(AuthenticationError, match=told):
                        ask(cid)
            for count in mediator.get_user_evidence, mediator.analyze_evidence, state.get_evidence_statistics:
                with pytest.raises(AuthenticationError, match=words):
                    count()


def test_what_is_sealed_for_others_hides_nothing_else(store: Store, anna: Any, bob: Any) -> None:
    """One's own records are listed, counted and analysed; how many could not be read is told."""
    with Mediator([], store, identity=str(anna)) as mediator:
        cid = mediator.submit_evidence(SECRET, "document", "anna", "The letter")["cid"]
    for number, identity in enumerate((None, str(bob)), 1):
        with Mediator([], store, identity=identity) as mediator:
            own = mediator.submit_evidence(b"The lease", "document", "bob", "The lease")["cid"]
            assert mediator.get_user_evidence("bob")[0]["cid"] == own
            found = mediator.evidence_state.get_evidence_statistics()
            assert (found["total_count"], found["sealed"]) == (number, 1)
            analysis = mediator.analyze_evidence("bob")
            assert (analysis["total_evidence"], analysis["sealed"]) == (number, 1)
            assert "no key here opens them (identity=)" in analysis["gaps"][-1]
            with pytest.raises(AuthenticationError, match="is encrypted"):
                mediator.get_evidence_by_cid(cid)
    with Mediator([], store, identity=[str(anna), str(bob)]) as mediator:
        analysis = mediator.analyze_evidence("anna")
        assert (analysis["total_evidence"], analysis["sealed"], len(analysis["gaps"])) == (1, 0, 2)


def test_damaged_ciphertext_is_never_decrypted(store: Store, anna: Any, tmp_path: Path) -> None:
    """It is the store that refuses it; encrypting the file again would not bring it back, and nobody says so."""
    with Mediator([], store, identity=str(anna)) as mediator:
        result = mediator.submit_evidence(SECRET, "document")
        sealed = store.get(result["cid"])
        for pack in tmp_path.rglob("*.car"):
            data = bytearray(pack.read_bytes())
            data[data.index(sealed) + len(sealed) // 2] ^= 1
            pack.write_bytes(data)
        with pytest.raises(UnusableAnswer, match="bring it back from a copy of the store"):
            mediator.retrieve_evidence(result["cid"])


def test_a_large_file_is_encrypted_in_pieces(store: Store, anna: Any, tmp_path: Path) -> None:
    """And comes back byte for byte."""
    path = tmp_path / "video.mp4"
    path.write_bytes(SECRET * 8000)
    with Mediator([], store, identity=str(anna)) as mediator:
        result = mediator.submit_evidence_file(path, "video")
        assert mediator.retrieve_evidence(result["record_cid"]) == path.read_bytes()
        assert result["metadata"] == {"filename": "video.mp4"}


def test_a_configuration_may_be_private(tmp_path: Path, anna: Any, no_leaks: None) -> None:
    """Keys are given by the program, never by the file."""
    source = {"STORES": [{"id": "home", "type": "blocks", "path": str(tmp_path / "home")}]}
    with Mediator.from_config(source, recipients=[str(anna.to_public())], identity=str(anna)) as mediator:
        result = mediator.submit_evidence(SECRET, "document")
        assert (result["encrypted"], mediator.retrieve_evidence(result["cid"])) == (True, SECRET)


@pytest.mark.parametrize("kind", ["router", "loaded", "configured"])
def test_no_receipt_shows_what_is_asked_of_sealed_evidence(store: Store, anna: Any, tmp_path: Path, kind: str) -> None:
    """Whatever the router says of its receipts, and whatever the call: they have digests only."""
    receipts = {"content": True, "store_id": "home", "trail_path": str(tmp_path / "trail")}
    stores = [{"id": "home", "type": "blocks", "path": str(tmp_path / "home")}]
    source = {"BACKENDS": [{"id": "echo", "type": "echo"}], "ROUTER": {"receipts": receipts}, "STORES": stores}
    with ExitStack() as made:
        if kind == "configured":
            mediator = made.enter_context(Mediator.from_config(source, store=store, identity=str(anna)))
        else:
            own = kind == "router"
            asked = Router([Scripted()], middleware=[Receipts(store=store)]) if own else load(source)["echo"]
            made.callback(asked.close)
            mediator = made.enter_context(Mediator([asked], store, identity=str(anna)))
        mediator.submit_evidence(SECRET, "medical", "anna-smith", "The diagnosis", "eviction")
        found = [mediator.analyze_evidence("anna-smith"), mediator.analyze_evidence("anna-smith", private=False)]
        assert all(one["receipt"] and "diagnosis" in one["recommendation"] for one in found)
        assert mediator.generate("What is Anna's diagnosis?")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert found[0]["evidence_items"][0]["cid"].encode() in written
    assert b"diagnosis" not in written


@pytest.mark.parametrize("options", [{"path": 5}, {"recipients": ["age1nobody"]}, {"evidence_db_path": 5}])
@pytest.mark.parametrize(
    "make",
    [
        lambda keys, **options: Mediator(**options, identity=keys.pop()),
        lambda keys, **options: Mediator(**options, identity=[keys.pop()]),
        lambda keys, **options: Mediator(**options, identity=Path(keys.pop())),
        lambda keys, **options: Mediator.from_config({}, **options, identity=keys.pop()),
        lambda keys, **options: Mediator(**{**options, "recipients": keys.pop()}),
    ],
    ids=["one", "several", "a path", "configured", "among public ones"],
)
def test_no_traceback_shows_the_key(tmp_path: Path, anna: Any, options: dict[str, Any], make: Any) -> None:
    """Whatever else is wrong, and though every local variable were printed."""
    keys = [str(anna)]
    with pytest.raises(
        ConfigError, match=r"path: found int, expected a path|recipients\[0\]|given as a path"
    ) as caught:
        make(keys, **{"path": tmp_path / "case", **options})
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert str(anna)[20:40] not in shown


def test_a_damaged_key_is_told_and_not_shown(tmp_path: Path, anna: Any) -> None:
    """Before anything is stored."""
    for identity, words in (str(anna)[:-4], "that is damaged"), (Path(str(anna)), "that was given as a path"):
        with pytest.raises(ConfigError, match=f"identity: found .* private key {words}") as caught:
            Mediator(path=tmp_path / "case", identity=identity)
        assert str(anna)[20:40] not in str(caught.value)
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize("keys", [{"recipients": []}, {"recipients": iter(())}, {"identity": []}, {"recipients": ()}])
def test_an_empty_list_of_keys_does_not_publish(store: Store, keys: dict[str, Any]) -> None:
    """A list that came out empty is an error: what was to be encrypted would be stored in the clear."""
    with pytest.raises(ConfigError, match="recipients: found none; give the public keys of those who may open"):
        Mediator([], store, **keys)
    with Mediator([], store, recipients=None, identity=None) as mediator:
        assert mediator.submit_evidence(SECRET, "document")["encrypted"] is False


@pytest.mark.parametrize(("private", "wrong"), [(True, "bytes"), (True, "size"), (True, "clear"), (False, "size")])
def test_who_makes_up_a_record_of_evidence_keeps_nobody_from_it(
    store: Store, anna: Any, private: bool, wrong: str
) -> None:
    """A later record of it, with other bytes or another size, or in clear of an age file, is passed over."""
    keys = {"identity": str(anna)} if private else {}
    with Mediator([], store, **keys) as mediator:
        result = mediator.submit_evidence(SECRET, "document", "anna", "The letter")
        before = cids.raw_cid(b"")[:4] + cids.parse(result["record_cid"])[-32:]
        blocks = {before: store.get(cids.to_text(before))}
        said = whole = cbor.decode(blocks[before])
        if private:
            whole = cbor.decode(pyrage.decrypt(store.get(cids.to_text(said.pop("sealed"))), [anna]))
        whole["size"] += wrong == "size"
        if wrong == "bytes":
            whole["plain"] = cbor.Ref(cids.raw_cid(b"of another"))
        if private and wrong != "clear":
            age = pyrage.encrypt(cbor.encode(whole), [anna.to_public()])
            said["sealed"] = cbor.Ref(cids.raw_cid(age))
            blocks[cids.raw_cid(age)] = age
        else:
            whole.pop("plain", None)
            said |= whole
        forged = cbor.encode({**said, "previous": cbor.Ref(before)})
        blocks[cids.cbor_cid(forged)] = forged
        (pinned,) = store.import_car(b"".join(car.write([cids.cbor_cid(forged)], blocks.items())))
        assert mediator.evidence.reindex().records == 2
        found = mediator.get_evidence_by_cid(result["cid"])
        assert found is not None
        assert (found["data"], found["size"], found["record_cid"]) == (SECRET, len(SECRET), result["record_cid"])
        assert found["records"][1]["record_cid"] == pinned.cid
        assert [pinned.cid in one for one in found["unsound"]] == [True] * (wrong != "clear")
        assert mediator.retrieve_evidence(result["cid"]) == SECRET
        if wrong == "size":
            with pytest.raises(UnusableAnswer, match=rf"{pinned.cid}.*1,320 bytes, and its record says 1,321"):
                mediator.get_evidence_by_cid(pinned.cid)
