"""A folder, or a pack, that somebody removes while a program has the store open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pointsman import Store, UnavailableError, UnusableAnswer
from pointsman_ipfs import Blocks

_GONE = "is not what was opened: it was removed, or its disk; bring it back"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store([Blocks(path=path)]) as store:
        yield store


@pytest.mark.parametrize("what", ["", "packs"])
def test_nothing_is_acknowledged_in_a_folder_that_was_removed(store: Store, path: Path, what: str) -> None:
    """A file that is open can be written though it has no name any more; what is written is gone when it is closed."""
    store.put(b"before")
    shutil.rmtree(path / what)
    for content in b"small", b"small", bytes(5 << 20):
        with pytest.raises(UnavailableError, match=_GONE):
            store.put(content)
    with pytest.raises(UnavailableError, match=_GONE):
        store.gc()


@pytest.mark.parametrize("size", [5, 6 << 20], ids=["small", "large"])
def test_a_folder_that_is_away_is_told_and_used_again_when_it_is_back(store: Store, path: Path, size: int) -> None:
    """Nothing is called damaged, or healthy, meanwhile; and nothing is struck out."""
    cid = store.put(bytes(size)).cid
    path.rename(path.with_name("away"))
    with pytest.raises(UnavailableError, match=_GONE):
        store.get(cid)
    with pytest.raises(UnavailableError, match=_GONE):
        store.put(bytes(7 << 20))
    (health,) = store.health().values()
    assert health.status == "unavailable"
    assert _GONE in health.reason
    assert not path.exists()
    path.with_name("away").rename(path)
    assert store.get(cid) == bytes(size)
    store.put(bytes(8))
    (health,) = store.health().values()
    assert health.status != "unavailable"
    assert list(store.verify()) == []


def test_another_store_in_the_place_of_a_folder_is_used(store: Store, path: Path) -> None:
    """What was in the old one is not there, and what is put is found by others."""
    store.put(b"before")
    shutil.rmtree(path)
    with Store([Blocks(path=path)]) as other:
        cid = other.put(b"of the other").cid
        assert store.get(cid) == b"of the other"
        mine = store.put(bytes(6 << 20)).cid
        assert other.get(mine) == bytes(6 << 20)
        assert {entry.cid for entry in store.ls()} == {cid, mine}


def test_of_a_pack_that_is_gone_nothing_is_put_aside(store: Store, path: Path) -> None:
    """There are no bytes that anybody could look at."""
    cid = store.put(b"hello").cid
    (pack,) = (path / "packs").iterdir()
    pack.unlink()
    with pytest.raises(UnusableAnswer, match=r"was damaged on this disk$"):
        store.get(cid)
    assert not (path / "quarantine").exists()
    assert {found.cid for found in store.verify()} == {cid}


def test_what_somebody_else_has_put_beside_the_packs_is_left_alone(path: Path) -> None:
    """A CAR file, a pack under another name, any file: nothing of it counts as ours, is cut, or taken away."""
    with Store([Blocks(path=path)]) as store:
        kept = store.put(b"hello").cid
        (pack,) = (path / "packs").iterdir()
        letter = b"".join(store.export_car(kept))
    theirs = {"letter.car": letter, "backup of a pack.car": pack.read_bytes(), "notes.new": b"mine"}
    for name, data in theirs.items():
        (path / "packs" / name).write_bytes(data)
    pack.unlink()
    with Store([Blocks(path=path)]) as store:
        store.put(b"another")
        store.gc()
        assert len(list(store.verify())) == 1  # the block that is gone
        for name in ("letter.car", "backup of a pack.car"):
            store.import_car(path / "packs" / name)
            assert store.get(kept) == b"hello"
    assert {name: (path / "packs" / name).read_bytes() for name in theirs} == theirs
