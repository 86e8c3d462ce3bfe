"""Collections beside what is pinned meanwhile, and blocks that are linked to in more than one way."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pointsman import ContentNotFoundError, InvalidRequestError, Store, UnavailableError, UnusableAnswer
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import car
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cbor import Ref, encode
from pointsman_ipfs.embedded import _collect, _index, _writer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store([Blocks(path=tmp_path)]) as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """Another program that has the same folder open."""
    with Store([Blocks(path=tmp_path)]) as store:
        yield store


def node(value: Any) -> tuple[bytes, bytes]:
    """A block of DAG-CBOR, with its CID."""
    data = encode(value)
    return cids.cbor_cid(data), data


def kept(store: Store, root: tuple[bytes, bytes], *more: tuple[bytes, bytes]) -> None:
    """Pin a root, with blocks that it links to."""
    store.import_car(b"".join(car.write([root[0]], [root, *more])))


@pytest.mark.parametrize("number", range(8))
def test_a_block_that_is_linked_to_as_bytes_too_keeps_what_it_links_to(store: Store, number: int) -> None:
    """Whichever of its two CIDs a collection meets first, the links of what is pinned as a node are followed."""
    data = b"content %d" % number
    first = node({"data": Ref(cids.raw_cid(data))})
    as_bytes = cids.raw_cid(first[1])
    kept(store, first, (cids.raw_cid(data), data))
    kept(store, node({"number": number, "previous": Ref(as_bytes)}), (as_bytes, first[1]))
    assert len(list(store.ls())) == 2  # and the index knows all of it
    assert store.gc()["blocks"].blocks == 0
    assert store.get(cids.to_text(cids.raw_cid(data))) == data


class Collection(threading.Thread):
    """A collection that has looked at all pins, and waits before it removes anything."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.removed = 0
        self._store = store
        self._looked, self._go = threading.Event(), threading.Event()
        away: Callable[..., Any] = _index.Sweep.away

        def waiting(sweep: Any, before: int) -> Any:
            self._looked.set()
            assert self._go.wait(20)
            return away(sweep, before)

        monkeypatch.setattr(_index.Sweep, "away", waiting)

    def run(self) -> None:
        self.removed = self._store.gc()["blocks"].blocks

    def look(self) -> None:
        self.start()
        assert self._looked.wait(20)

    def end(self) -> None:
        self._go.set()
        self.join(20)


@pytest.mark.parametrize("way", ["import_car", "pin"])
@pytest.mark.parametrize("moment", ["before", "between"])
def test_what_is_pinned_beside_a_collection_stays(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, moment: str, way: str
) -> None:
    """A collection that has looked before there was a pin spares what is pinned before it removes anything."""
    data = b"what was put, and is pinned later"
    cid = store.put(data, pin=False).cid
    root = node({"data": Ref(cids.parse(cid))})
    collection = Collection(other, monkeypatch)
    if moment == "before":
        collection.look()
    else:
        before = _writer.Writer.add

        def add(*arguments: Any) -> None:
            if not collection.ident:
                collection.look()
            before(*arguments)

        monkeypatch.setattr(_writer.Writer, "add", add)
    if way == "pin":
        store.pin(cid)
    else:
        kept(store, root)
    collection.end()
    assert store.get(cid) == data
    assert collection.removed == 0


@pytest.mark.parametrize("way", ["import_car", "pin"])
def test_a_collection_that_was_faster_is_told(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What was removed between the look and the pin is an error, and nothing stays pinned that is not whole."""
    cid = store.put(b"what goes", pin=False).cid
    root = node({"data": Ref(cids.parse(cid))})
    add = _writer.Writer.add

    def beaten(*arguments: Any) -> None:
        monkeypatch.setattr(_writer.Writer, "add", add)
        list(other.ls())  # so that the index knows all of it
        other.gc()
        add(*arguments)

    monkeypatch.setattr(_writer.Writer, "add", beaten)
    pin = (lambda: store.pin(cid)) if way == "pin" else (lambda: kept(store, root))
    with pytest.raises(ContentNotFoundError):
        pin()
    assert list(store.ls()) == []


@pytest.mark.parametrize("collects", [True, False])
def test_what_was_pinned_and_is_unpinned_meanwhile(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    """What a root links to counts as whole while it is pinned; if that ends meanwhile, it is looked at again."""
    first = node({"first": True})
    kept(store, first)
    list(store.ls())  # so that the index knows it
    second = node({"previous": Ref(first[0])})
    add = _writer.Writer.add

    def beaten(*arguments: Any) -> None:
        monkeypatch.setattr(_writer.Writer, "add", add)
        other.unpin(cids.to_text(first[0]))
        if collects:
            other.gc()
        add(*arguments)

    monkeypatch.setattr(_writer.Writer, "add", beaten)
    if collects:
        with pytest.raises(ContentNotFoundError):
            kept(store, second)
        assert list(store.ls()) == []
    else:
        kept(store, second)
        assert other.gc()["blocks"].blocks == 0
        assert store.has(cids.to_text(second[0]))


def test_what_another_collection_has_taken_is_not_missed(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root that was pinned when the pins were listed, and was unpinned and collected since, keeps nobody waiting."""
    kept_one, gone = store.put(b"stays").cid, store.put(bytes(3_000_000)).cid
    pins = _index.Index.pins

    def listed(index: _index.Index) -> list[bytes]:
        monkeypatch.setattr(_index.Index, "pins", pins)
        found = list(pins(index))
        other.unpin(gone)
        assert other.gc()["blocks"].blocks > 0
        return found

    monkeypatch.setattr(_index.Index, "pins", listed)
    began = monotonic()
    assert store.gc()["blocks"].blocks == 0
    assert monotonic() - began < _collect._PATIENCE_S
    assert (store.get(kept_one), store.has(gone)) == (b"stays", False)


def inline(value: Any) -> bytes:
    """The CID of a block of DAG-CBOR that it holds itself."""
    data = encode(value)
    return b"\x01\x71\x00" + bytes((len(data),)) + data


def test_what_an_inline_root_links_to_is_pinned(store: Store) -> None:
    """A root that holds its own block cannot be kept. What it leads to can, and must be there; if there is anything."""
    leaf = cids.raw_cid(b"leaf")
    root = inline({"inner": Ref(inline(["", Ref(leaf), Ref(inline("hello"))])), "leaf": Ref(leaf)})
    assert store.import_car(car.header([inline("hello")])) == ()
    with pytest.raises(UnusableAnswer, match="are not there"):
        store.import_car(car.header([root]))
    (kept,) = store.import_car(car.header([root]) + car.record(leaf, b"leaf"))
    assert kept.cid == cids.to_text(leaf)
    assert store.gc()["blocks"].blocks == 0
    assert store.get(kept.cid) == b"leaf"
    foreign = inline([Ref(b"\x01\x55\x13\x40" + bytes(64))])
    with pytest.raises(InvalidRequestError, match="hash function 0x13"):
        store.import_car(car.header([foreign]))


@pytest.mark.parametrize("size", [9, 5 << 20], ids=["small", "large"])
def test_what_stands_behind_an_inline_block_in_a_car_is_kept(store: Store, other: Store, size: int) -> None:
    """Kubo writes such blocks out. In a pack it would hide the blocks behind it from who reads the pack."""
    within, leaves = inline("hello"), [bytes([n]) * min(size, 1 << 20) for n in range(max(size >> 20, 1))]
    blocks = [(cids.raw_cid(leaf), leaf) for leaf in leaves]
    root = node([Ref(within), *(Ref(cid) for cid, _ in blocks)])
    kept(store, root, (within, encode("hello")), *blocks)
    assert all(other.has(cids.to_text(cid)) for cid, _ in blocks)
    for _ in range(2):
        assert store.gc()["blocks"].blocks == 0
        assert list(store.verify()) == []
        assert store.has(cids.to_text(root[0]))


def test_room_is_given_back_while_the_store_stays_open(store: Store, tmp_path: Path) -> None:
    """A pack that is gone keeps its room on the disk for as long as anybody has its file open."""
    large = store.put(os.urandom(6 << 20))
    assert len(store.get(large.cid)) == large.size
    store.unpin(large.cid)
    assert store.gc()["blocks"].bytes > large.size
    mine = [os.stat(f"/dev/fd/{number}") for number in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{number}")]
    folder = os.stat(tmp_path).st_dev
    assert [one.st_size for one in mine if one.st_dev == folder and not one.st_nlink and one.st_size > 1 << 20] == []


@pytest.mark.parametrize("what", ["", "packs"])
def test_nothing_is_acknowledged_in_a_folder_that_was_removed(tmp_path: Path, what: str) -> None:
    """A file that is open can be written though it has no name any more; what is written is gone when it is closed."""
    with Store([Blocks(path=tmp_path / "home")]) as store:
        store.put(b"before")
        shutil.rmtree(tmp_path / "home" / what)
        for content in b"small", os.urandom(5 << 20):
            with pytest.raises(UnavailableError, match="cannot be written"):
                store.put(content)
        if not what:
            with pytest.raises(UnavailableError, match="cannot be written"):
                store.gc()
