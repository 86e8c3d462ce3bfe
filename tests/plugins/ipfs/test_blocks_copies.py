"""A block that stands in several places of a store, and is damaged in the one where it is read."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pointsman import Store, UnavailableError, UnusableAnswer
from pointsman_ipfs import Blocks
from pointsman_ipfs.embedded import _shelf

CONTENT = b"what is put again since it is damaged" * 9


def flip(pack: Path, at: int) -> None:
    data = bytearray(pack.read_bytes())
    data[data.index(CONTENT) + at] ^= 1
    with pack.open("r+b") as file:  # the file that others have open
        file.write(data)


def put_again(path: Path, *garbage: bytes) -> str:
    """Put it, damage it, and put it again with another process's memory; with garbage in the pack of the new one."""
    packs = path / "packs"
    with Store([Blocks(path=path)]) as first, Store([Blocks(path=path)]) as store:
        cid = first.put(CONTENT).cid
        first.put(b"it goes on there")
        list(store.ls())
        (pack,) = packs.iterdir()
        flip(pack, 3)
        for one in garbage:
            store.put(one, pin=False)
        assert store.put(CONTENT).cid == cid
    return cid


@pytest.mark.parametrize("how", ["verify", "gc", "verify and gc"])
def test_content_that_was_damaged_and_put_again_is_whole(tmp_path: Path, how: str) -> None:
    """Whoever finds the old place wrong takes the new one; and no collection drops the new one for the old one."""
    cid = put_again(tmp_path, *[os.urandom(300_000)] * ("gc" in how))
    with Store([Blocks(path=tmp_path)]) as store:
        before = {*(tmp_path / "packs").iterdir()}
        if "verify" in how:
            assert list(store.verify()) == []
        if "gc" in how:
            store.gc()
            assert before != {*(tmp_path / "packs").iterdir()}
        assert store.get(cid) == CONTENT
        assert list(store.verify()) == []
    for file in tmp_path.glob("index*"):
        file.unlink()
    with Store([Blocks(path=tmp_path)]) as store:
        assert list(store.verify()) == []
        store.gc()
        assert store.get(cid) == CONTENT


def test_what_a_process_has_put_itself_is_not_taken_on_trust(tmp_path: Path) -> None:
    """It remembers for long what it has written; when that is put again, it looks what stands there now."""
    with Store([Blocks(path=tmp_path)]) as store:
        cid = store.put(CONTENT).cid
        (pack,) = (tmp_path / "packs").iterdir()
        flip(pack, 3)
        assert store.put(CONTENT).cid == cid
        assert store.get(cid) == CONTENT
    with Store([Blocks(path=tmp_path)]) as store:
        assert store.get(cid) == CONTENT
        assert list(store.verify()) == []


def test_a_whole_copy_in_a_pack_that_is_emptied_is_moved(tmp_path: Path) -> None:
    """Of two copies in one pack the damaged one is read: the other one goes on to the new pack."""
    with Store([Blocks(path=tmp_path)]) as store:
        store.put(os.urandom(300_000), pin=False)
        cid = store.put(CONTENT).cid
    (pack,) = (tmp_path / "packs").iterdir()
    with Store([Blocks(path=tmp_path)]) as store:
        assert store.put(CONTENT).cid == cid
    flip(pack, 3)
    with Store([Blocks(path=tmp_path)]) as store:
        store.gc()
        assert not pack.exists()
        assert store.get(cid) == CONTENT
        assert list(store.verify()) == []


def test_a_whole_copy_stays_where_the_index_cannot_be_told_of_the_damaged_one(tmp_path: Path) -> None:
    """The index would go on to say that it is read from there, and the pack of the whole one would be gone."""
    cid = put_again(tmp_path, os.urandom(300_000))
    with Store([Blocks(path=tmp_path)]) as store, closing(sqlite3.connect(tmp_path / "index.sqlite")) as index:
        store.has(cid)
        index.execute("CREATE TRIGGER full BEFORE INSERT ON damaged BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(UnusableAnswer, match="has damaged blocks, and is left as it is"):
            store.gc()
        index.execute("DROP TRIGGER full")
        assert store.get(cid) == CONTENT


def test_what_stands_in_the_folder_is_verified(tmp_path: Path) -> None:
    """Not what is still open of a pack in whose place another one was put."""
    with Store([Blocks(path=tmp_path)]) as store:
        cid = store.put(CONTENT).cid
        assert store.get(cid) == CONTENT
        (pack,) = (tmp_path / "packs").iterdir()
        copy = tmp_path / "copy"
        copy.write_bytes(pack.read_bytes())
        flip(copy, 3)
        copy.rename(pack)
        assert cid in [one.cid for one in store.verify()]


def test_what_is_damaged_in_every_place_is_told_once(tmp_path: Path) -> None:
    """It is nowhere else: that is damage, whoever looks."""
    cid = put_again(tmp_path)
    for pack in (tmp_path / "packs").iterdir():
        data = pack.read_bytes().replace(CONTENT, bytes(len(CONTENT)))
        pack.write_bytes(data)
    with Store([Blocks(path=tmp_path)]) as store:
        wrong = [one for one in store.verify() if "are not those of its CID" in one.problem]
        assert [one.cid for one in wrong] == [cid]


def test_what_a_disk_cannot_read_for_a_moment_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection leaves the pack where it stands, and verify finds it again when the disk reads it."""
    with Store([Blocks(path=tmp_path)]) as store:
        cid = store.put(CONTENT).cid
        other = store.put(b"beside it").cid
        store.put(os.urandom(300_000), pin=False)
    (pack,) = (tmp_path / "packs").iterdir()
    pread = os.pread

    def read(file: int, length: int, offset: int) -> bytes:
        if length == len(CONTENT):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, length, offset)

    with Store([Blocks(path=tmp_path)]) as store:
        with monkeypatch.context() as failing:
            failing.setattr(_shelf.os, "pread", read)
            with pytest.raises(UnusableAnswer, match=f"{pack} has damaged blocks, and is left as it is"):
                store.gc()
        assert pack.exists()
        assert list(store.verify()) == []
        assert store.get(cid) == CONTENT
        store.gc()
        assert not pack.exists()
        assert store.get(cid) == CONTENT
        assert store.get(other) == b"beside it"


def test_a_pack_that_the_disk_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is what stands before a block; nothing is cut off there, or taken away."""
    with Store([Blocks(path=tmp_path)]) as store:
        kept = [store.put(CONTENT + bytes([number])).cid for number in range(4)]
    (pack,) = (tmp_path / "packs").iterdir()
    wrong, pread = pack.read_bytes().index(CONTENT + b"\1") - 10, os.pread

    def read(file: int, length: int, offset: int) -> bytes:
        if offset <= wrong < offset + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, length, offset)

    with monkeypatch.context() as failing:
        failing.setattr(_shelf.os, "pread", read)
        with Store([Blocks(path=tmp_path)]) as store:
            (found,) = store.verify()
            assert f"{pack} cannot be used: Input/output error" in found.problem
        for file in tmp_path.glob("index*"):
            file.unlink()
        with Store([Blocks(path=tmp_path)]) as store, pytest.raises(UnavailableError, match=f"{pack} cannot be used"):
            store.get(kept[0])
    with Store([Blocks(path=tmp_path)]) as store:
        assert [store.get(cid)[-1] for cid in kept] == [0, 1, 2, 3]
