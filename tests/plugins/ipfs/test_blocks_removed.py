"""A folder, or a pack, that somebody removes while a program has the store open."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pointsman import Store, UnavailableError, UnusableAnswer
from pointsman_ipfs import Blocks
from pointsman_ipfs.embedded import _holding
from pointsman_ipfs.embedded._index import Index

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


@pytest.mark.parametrize("size", [5, 6 << 20], ids=["small", "large"])
@pytest.mark.parametrize("what", ["a folder", "each pack"])
def test_nothing_is_acknowledged_in_a_pack_in_whose_place_a_backup_was_put(
    store: Store, path: Path, what: str, size: int
) -> None:
    """There is a pack of that name, and it is another file: what is written to the old one nobody would find."""
    before = store.put(b"before").cid
    copy = shutil.copytree(path, path.with_name("copy"), ignore=shutil.ignore_patterns("index*"))

    def put_back() -> Iterator[bytes]:
        store.put(b"since")
        yield bytes(size)
        if what == "a folder":
            path.rename(path.with_name("old"))
            shutil.copytree(copy, path)
        else:
            for pack in (copy / "packs").iterdir():
                (path / "other").write_bytes(pack.read_bytes())
                (path / "other").rename(path / "packs" / pack.name)

    mine = set[str]()
    with suppress(UnavailableError):
        mine.add(store.put(put_back()).cid)
    while len(mine) < 2:
        with suppress(UnavailableError):
            mine.add(store.put(b"since").cid)
            mine.add(store.put(b"and since").cid)
    with Store([Blocks(path=path)]) as other:
        assert {cid for cid in {before, *mine} if not other.has(cid)} == set()


@pytest.mark.parametrize("size", [100_000, 6 << 20], ids=["small", "large"])
def test_what_is_put_again_is_not_read_from_a_file_that_nobody_else_finds(store: Store, path: Path, size: int) -> None:
    """Its pack was removed, or is another one now; whoever has the old file open can still read it."""
    cid = store.put(bytes(size)).cid
    assert store.get(cid) == bytes(size)
    for pack in (path / "packs").iterdir():
        pack.unlink()
    with suppress(UnavailableError):
        store.put(b"its own pack is gone, too")
    assert store.put(bytes(size)).cid == cid
    store.close()
    with Store([Blocks(path=path)]) as other:
        assert other.get(cid) == bytes(size)


def test_a_pack_that_is_gone_takes_no_other_one_with_it(store: Store, path: Path) -> None:
    """Of the other one the end is lost, by which it says how far it counts: the index still knows what it holds."""
    store.put(b"hello")
    (first,) = (path / "packs").iterdir()
    cid = store.put(bytes(range(256)) * (3 << 13)).cid
    store.close()
    (second,) = {*(path / "packs").iterdir()} - {first}
    os.truncate(second, second.stat().st_size - 5)
    first.unlink()
    with Store([Blocks(path=path)]) as other:
        assert other.get(cid) == bytes(range(256)) * (3 << 13)


def test_a_pack_that_cannot_be_used_is_named(store: Store, path: Path) -> None:
    """As one that another user made, who wrote to this store: it says which one, and what to do."""
    cid = store.put(b"hello").cid
    wrong = path / "packs" / f"{0:032x}.car"
    wrong.mkdir()
    text = f"{wrong} cannot be used: Is a directory; see that it is a file that can be read and written"
    with pytest.raises(UnavailableError, match=text):
        store.gc()
    with Store([Blocks(path=path)]) as other, pytest.raises(UnavailableError, match=text):
        other.get(cid)
    wrong.rmdir()
    store.gc()
    assert store.get(cid) == b"hello"


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
        assert {found.cid for found in store.verify()} == {kept}
        for name in ("letter.car", "backup of a pack.car"):
            store.import_car(path / "packs" / name)
            store.gc()
            assert store.get(kept) == b"hello"
    assert {name: (path / "packs" / name).read_bytes() for name in theirs} == theirs


@pytest.fixture
def kept(store: Store, path: Path) -> dict[str, bytes]:
    """Pinned content in a pack that is mostly of no use: a collection moves it into another one."""
    kept = {store.put(content).cid: content for content in (b"one", b"two", bytes(3 << 20))}
    for n in range(4):
        store.put(bytes([n]) * 900_000 + b"of no use", pin=False)
    store.close()
    shutil.copytree(path, path.with_name("before"))
    with Store([Blocks(path=path)]) as store:
        store.gc()
    return kept


def check(path: Path, kept: dict[str, bytes]) -> None:
    """All of it is there after collections, and the last one leaves no pack that nobody knows."""
    with Store([Blocks(path=path)]) as store:
        store.gc()
        assert {entry.cid for entry in store.ls()} == kept.keys()
        assert {cid: store.get(cid) for cid in kept} == kept
        assert list(store.verify()) == []
    assert sum(file.stat().st_size for file in (path / "packs").iterdir()) < (3 << 20) + 10_000


def test_an_index_that_is_older_than_a_collection_loses_nothing(path: Path, kept: dict[str, bytes]) -> None:
    """A power cut takes its last commits back, and a backup has one of its own time: the pack that it knows is gone."""
    for file in path.glob("index.sqlite*"):
        file.unlink()
    shutil.copy(path.with_name("before") / "index.sqlite", path)
    check(path, kept)


@pytest.mark.parametrize("new", ["gone", "there"])
def test_a_pack_that_is_there_after_it_was_moved_is_entered_again(path: Path, kept: dict[str, bytes], new: str) -> None:
    """From a backup, without the pack that it was moved into; or who moved it was killed before he took it away."""
    if new == "gone":
        shutil.rmtree(path / "packs")
    shutil.copytree(path.with_name("before") / "packs", path / "packs", dirs_exist_ok=True)
    check(path, kept)


def test_a_collection_takes_nothing_where_the_last_block_of_something_pinned_is_not_here(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks without links count, too: what is pinned is not whole without them."""
    monkeypatch.setattr(_holding, "PATIENCE_S", 0.2)  # what was pinned so long ago is not being written
    content = random.Random(1).randbytes(3 << 20)
    cid, of_no_use = store.put(content).cid, store.put(b"of no use", pin=False).cid
    store.put(b"more of it" * 900_000, pin=False)
    (pack,) = {file for file in (path / "packs").iterdir() if content[-100:] in file.read_bytes()}
    damaged = bytearray(pack.read_bytes())
    damaged[damaged.find(content[-100:])] ^= 1
    pack.write_bytes(damaged)
    with pytest.raises(UnusableAnswer, match="damaged"):
        store.get(cid)
    with pytest.raises(UnusableAnswer, match=f"nothing was removed: {cid} is pinned and not whole: block"):
        store.gc()
    assert store.get(of_no_use) == b"of no use"
    store.put(content)
    assert store.gc()["blocks"].blocks > 1
    assert store.get(cid) == content


def test_an_interrupt_after_blocks_were_moved_takes_none_of_them(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index knows them in the new pack, though the collection does not know that it has entered them."""
    cid = store.put(b"pinned").cid
    store.put(bytes(900_000), pin=False)
    moved: Callable[..., None] = Index.moved

    def interrupted(*arguments: object) -> None:
        moved(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(Index, "moved", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.gc()
    assert store.get(cid) == b"pinned"
    check(path, {cid: b"pinned"})
