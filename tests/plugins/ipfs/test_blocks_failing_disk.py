"""A disk that fails for one process, while another one reads what that has written."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from pointsman import Store, UnavailableError
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.embedded import _database, _packs, _places
from pointsman_ipfs.embedded._index import Index

_LATER = b"what could not be brought to the disk"
_CID = cids.to_text(cids.raw_cid(_LATER))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store([Blocks(path=tmp_path)], max_retries=0) as store:
        store.put(b"before")
        yield store


@pytest.fixture
def other(tmp_path: Path, store: Store) -> Iterator[Store]:
    """Another program that has the same folder open."""
    with Store([Blocks(path=tmp_path)]) as other:
        yield other


def failed(file: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_what_others_have_brought_to_the_disk_stays(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer could not, and says so; but others have entered it, and may have built upon it."""

    def late(file: int) -> None:
        assert other.has(_CID)
        failed(file)

    with monkeypatch.context() as broken:
        broken.setattr(_packs, "sync_file", late)
        with pytest.raises(UnavailableError, match="Input/output error"):
            store.put(_LATER)
    assert other.get(_CID) == store.get(_CID) == _LATER
    assert not list(other.verify())
    other.gc()
    assert {entry.cid for entry in store.ls()} >= {_CID}
    store.put(b"and after that")
    assert len(list(other.ls())) == 3


def test_what_its_writer_has_taken_back_is_not_entered_by_who_read_it_before(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where something else stands in its place by then, which is found."""
    has_read, taken_back = threading.Event(), threading.Event()
    sync = _places.sync_file

    def slowly(file: int) -> None:
        sync(file)
        has_read.set()
        assert taken_back.wait(20)

    def late(file: int) -> None:
        reader.start()
        assert has_read.wait(20)
        failed(file)

    assert len(list(other.ls())) == 1
    reader = threading.Thread(target=other.has, args=(_CID,))
    with monkeypatch.context() as broken:
        broken.setattr(_places, "sync_file", slowly)
        with broken.context() as failing:
            failing.setattr(_packs, "sync_file", late)
            with pytest.raises(UnavailableError, match="Input/output error"):
                store.put(_LATER)
        after = store.put(b"and after that, in the same place, something that is a little longer").cid
        taken_back.set()
        reader.join()
    assert not other.has(_CID)
    assert not store.has(_CID)
    assert {entry.cid for entry in other.ls()} == {store.put(b"before").cid, after}
    assert not list(other.verify())
    assert other.get(after).startswith(b"and after that")


def test_an_index_that_can_be_opened_only_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that cannot be used: after a fork both connections are opened anew, and no file may be left for one."""
    index, opened, connected = Index(tmp_path / "index.sqlite"), count(), _database.connected

    def second_fails(path: str | Path) -> sqlite3.Connection:
        if next(opened) % 2:
            raise sqlite3.OperationalError("unable to open database file")
        return connected(path)

    index.before_fork()
    with monkeypatch.context() as full:
        full.setattr(_database, "connected", second_fails)
        with pytest.raises(UnavailableError, match=r"index\.sqlite cannot be used: unable to open database file"):
            index.next_seq()
    assert index.next_seq() > 0
    index.close()
