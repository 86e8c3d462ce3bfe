"""A full disk: what makes room on it, and unpins, finds the room that is kept for that, whatever is put meanwhile."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pointsman import Store, UnavailableError
from pointsman_ipfs import Blocks
from pointsman_ipfs.embedded import _index, _reserve


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(_reserve, "_SOON_S", 0.0)  # what the disk says is heard at once
    with Store([Blocks(path=tmp_path)]) as store:
        yield store


def has_free(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk say that it has so many bytes for us."""
    disk = os.statvfs_result((4096, 4096, 1 << 20, size // 4096, size // 4096, 0, 0, 0, 0, 255))
    monkeypatch.setattr(_reserve.os, "fstatvfs", lambda _: disk)


def test_puts_do_not_take_what_was_given_up_to_make_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small or large, they find the disk full until the reserve is whole again; what unpins and collects does not."""
    cid = store.put(b"before").cid
    has_free(3 << 20, monkeypatch)
    store.put(b"there is room, and the reserve is whole")
    (tmp_path / "reserve").unlink()
    for size in (10, 5 << 20):
        with pytest.raises(UnavailableError, match="No space left on device; make room there"):
            store.put(random.Random(size).randbytes(size))
    store.unpin(cid)
    (tmp_path / "reserve").unlink()
    assert store.gc()["blocks"].blocks == 1
    assert (tmp_path / "reserve").stat().st_size == 4 << 20
    store.put(b"the reserve is whole again")


def test_packs_that_are_empty_go_though_there_is_no_room_for_what_others_hold(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection gives back what it can, and keeps all that is pinned."""
    source, some = tmp_path / "source", random.Random(1)
    source.mkdir()
    (source / "a").write_bytes(some.randbytes(8 << 20))
    (source / "b").write_bytes(b"stays" * 1000)
    folder = store.put(source).cid
    stays = next(entry.cid for entry in store.ls(folder) if entry.name == "b")
    store.pin(stays)
    goes = store.put(some.randbytes(6 << 20)).cid
    for cid in (folder, goes):
        store.unpin(cid)
    packs = tmp_path / "packs"
    before = sum(path.stat().st_size for path in packs.iterdir())
    moved = _index.Index.moved

    def full(index: _index.Index, old: str, places: dict[bytes, _index.Place], written: list[_index.Written]) -> None:
        if places:
            raise UnavailableError("the disk is full", retry_same=False)
        moved(index, old, places, written)

    monkeypatch.setattr(_index.Index, "moved", full)
    assert store.gc()["blocks"].bytes > 14 << 20
    assert sum(path.stat().st_size for path in packs.iterdir()) < before - (6 << 20)
    assert store.get(stays) == b"stays" * 1000
    monkeypatch.undo()
    store.gc()
    assert store.get(stays) == b"stays" * 1000
    assert list(store.verify()) == []
