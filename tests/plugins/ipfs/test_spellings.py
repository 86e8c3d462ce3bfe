"""One thing has many names: a path that leads to it, and CIDs in every base. All of them do the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from multiformats import CID
from pointsman import ContentNotFoundError, InvalidRequestError, Store
from pointsman_ipfs import Blocks

Spelled = Callable[[str], str]
SPELLINGS: dict[str, Spelled] = {
    "as it is": str,
    "a URL": lambda cid: f"ipfs://{cid}",
    "a path of IPFS": lambda cid: f"/ipfs/{cid}/",
    "capitals": str.upper,
    "base58": lambda cid: CID.decode(cid).encode("base58btc"),
}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Store]:
    """Two embedded stores: what the first one keeps, the second one gets from the outbox."""
    with Store({"home": Blocks(path=tmp_path / "home"), "office": Blocks(path=tmp_path / "office")}) as store:
        yield store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a folder in it."""
    (tmp_path / "case" / "letters").mkdir(parents=True)
    (tmp_path / "case" / "letters" / "first").write_bytes(b"Dear Sir")
    return tmp_path / "case"


def pins(store: Store, where: str) -> set[str]:
    return {entry.cid for entry in store.ls(store=where)}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_pins_reach_every_store_whatever_the_cid_looks_like(two: Store, folder: Path, spelled: Spelled) -> None:
    """Both have it, nothing waits for ever, and both let it go."""
    cid = two.put(folder, pin=False).cid
    two.pin(spelled(cid))
    assert two.sync() == ()
    assert pins(two, "home") == pins(two, "office") == {cid}
    assert [copy.state for copy in two.status(spelled(cid))] == ["kept", "kept"]
    two.unpin(spelled(cid))
    assert two.sync() == ()
    assert pins(two, "home") == pins(two, "office") == set()


def test_a_path_is_pinned_and_let_go_where_its_folder_is_not(two: Store, folder: Path) -> None:
    """The other store has what the path leads to, and not the folder in which it lies."""
    cid = two.put(folder, pin=False).cid
    (letters,) = (entry.cid for entry in two.ls(cid))
    two.pin(f"{cid}/letters")
    assert two.sync() == ()
    assert pins(two, "home") == pins(two, "office") == {letters}
    assert [copy.state for copy in two.status(f"ipfs://{cid}/letters")] == ["kept", "kept"]
    two.unpin(f"{cid}/letters")
    assert pins(two, "home") == pins(two, "office") == set()


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_what_waits_is_taken_back(two: Store, tmp_path: Path, spelled: Spelled) -> None:
    """What was unpinned under another of its names is brought nowhere later."""
    (tmp_path / "office").touch()  # where a folder should be
    cid = two.put(b"Dear Sir").cid
    assert [waiting.what for waiting in two.sync()] == ["put"]
    assert two.status(spelled(cid))[1].state == "waiting"
    two.unpin(spelled(cid))
    assert [waiting.what for waiting in two.sync()] == ["unpin"]
    (tmp_path / "office").unlink()
    assert two.sync() == ()
    assert not two.has(cid, store="office")


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_what_is_damaged_is_mended(two: Store, folder: Path, tmp_path: Path, spelled: Spelled) -> None:
    """And not what the first part of the name looks like."""
    cid = two.put(folder).cid
    assert two.sync() == ()
    (pack,) = (tmp_path / "home" / "packs").glob("*.car")
    pack.write_bytes(pack.read_bytes().replace(b"Dear Sir", b"Dear Sur"))
    first = spelled(cid).rstrip("/") + "/letters/first"
    assert two.get(first) == b"Dear Sir"
    assert two.sync() == ()
    assert two.get(first, store="home") == b"Dear Sir"


@pytest.mark.parametrize("path", ["nothing", "letters/second", "letters/first/page", "../case", "caf\udce9"])
def test_a_path_that_leads_to_nothing_is_not_there(two: Store, folder: Path, tmp_path: Path, path: str) -> None:
    """In a folder or under a file: who asks whether it is there hears no, and who wants it that it is not."""
    nowhere = f"{two.put(folder).cid}/{path}"
    two.sync()
    assert not two.has(nowhere)
    assert [copy.state for copy in two.status(nowhere)] == ["absent", "absent"]
    assert [(one.store, one.unchecked) for one in two.verify(nowhere)] == [("home", False), ("office", False)]
    for ask in (
        two.get,
        two.open,
        two.ls,
        two.pin,
        two.unpin,
        two.export_car,
        lambda path: two.extract(path, tmp_path / "out"),
    ):
        with pytest.raises(ContentNotFoundError, match=r"nothing of the name .* in that |has no .*: found 'file'"):
            ask(nowhere)
    with pytest.raises(InvalidRequestError, match="expected a CID"):
        two.has(f"no-cid/{path}")
    assert not (tmp_path / "out").exists()
    assert two.sync() == ()


@pytest.mark.parametrize("call", ["get", "has", "pin", "unpin", "status"])
def test_what_is_no_cid_is_told_and_waits_for_no_store(two: Store, call: str) -> None:
    """In the outbox it would wait for ever: no store can ever do what is asked. It need not even be a text."""
    for bad in "bad", "caf\udce9":
        with pytest.raises(InvalidRequestError, match=re.escape(f"{bad!r}: found none")):
            getattr(two, call)(bad)
    assert two.waiting() == ()
