"""Collections beside what is pinned meanwhile, and blocks that are linked to in more than one way."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from pointsman import ContentNotFoundError, InvalidRequestError, Store, UnavailableError, UnusableAnswer
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import car
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cbor import Ref, encode
from pointsman_ipfs.embedded import _holding, _index, _places, _writer
from pointsman_ipfs.embedded._packs import HEADER
from pointsman_ipfs.embedded._places import Places


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


def test_what_was_just_put_without_a_pin_is_collected(store: Store) -> None:
    """It is kept until the next collection, and not until the one after it, though no index knew of it yet."""
    for data in b"first", b"second":
        cid = store.put(data, pin=False).cid
        assert [one.blocks for one in store.gc().values()] == [1]
        assert not store.has(cid)


def test_the_last_word_on_a_root_is_believed_though_the_clock_was_set_back(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both programs ran before that: what one puts anew after the other one has unpinned it stays."""
    real = _writer.time_ns
    other.put(b"before")
    cid = store.put(b"hello").cid
    store.unpin(cid)
    monkeypatch.setattr(_writer, "time_ns", lambda: real() - 3600 * 10**9)
    assert other.put(b"hello").cid == cid
    other.gc()
    assert {entry.cid for entry in store.ls()} >= {cid}
    assert store.get(cid) == b"hello"


def test_what_another_program_has_collected_is_written_again(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was put a moment ago, and this program has not entered that into the index: it may be killed."""
    monkeypatch.setattr(_places, "_PAUSE_S", 20.0)
    store.put(b"hello", pin=False)
    other.gc()
    cid = store.put(b"hello").cid
    assert other.get(cid) == b"hello"
    other.gc()
    assert other.get(cid) == store.get(cid) == b"hello"
    assert list(other.verify()) == []


def test_what_another_program_has_collected_does_not_come_back(store: Store, other: Store) -> None:
    """Who put it enters it too late: something that is put then must not rely on a place that may be moved away."""
    cid = store.put(b"hello", pin=False).cid
    other.gc()
    assert list(store.ls()) == []  # it has entered all that it wrote
    assert not store.has(cid)
    assert not other.has(cid)


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


def before_the_next_write(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Let something come before what is written next, once."""
    add = _writer.Writer.add

    def beaten(*arguments: Any) -> None:
        monkeypatch.setattr(_writer.Writer, "add", add)
        work()
        add(*arguments)

    monkeypatch.setattr(_writer.Writer, "add", beaten)


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


def test_what_a_large_put_relies_on_stays_though_it_ends_beside_a_collection(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has looked at all pins before there was this one, and removes what no pin keeps after it."""
    some = random.Random(3)
    pieces = [some.randbytes(1 << 20) for _ in range(8)]
    store.put(pieces, pin=False)
    collection = Collection(other, monkeypatch)

    def slowly() -> Iterator[bytes]:
        yield from pieces[:-1]
        list(store.ls())  # the index knows what was put before
        collection.look()
        yield pieces[-1]

    cid = store.put(slowly()).cid
    collection.end()
    assert store.get(cid) == b"".join(pieces)
    assert list(other.verify()) == []


@pytest.mark.parametrize("way", ["import_car", "pin"])
def test_a_collection_that_was_faster_is_told(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What was removed between the look and the pin is an error, and nothing stays pinned that is not whole."""
    cid = store.put(b"what goes", pin=False).cid
    root = node({"data": Ref(cids.parse(cid))})
    before_the_next_write(monkeypatch, lambda: (list(other.ls()), other.gc()))  # listed: the index knows all of it
    pin = (lambda: store.pin(cid)) if way == "pin" else (lambda: kept(store, root))
    with pytest.raises(ContentNotFoundError):
        pin()
    assert list(store.ls()) == []


def test_what_was_pinned_before_stays_so_where_a_collection_was_faster(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CAR with two roots cannot be kept whole; one of them was pinned before, and nobody has unpinned that."""
    before = store.put(b"pinned before").cid
    lost = node({"data": Ref(cids.parse(store.put(b"what goes", pin=False).cid))})
    before_the_next_write(monkeypatch, lambda: (list(other.ls()), other.gc()))  # listed: the index knows all of it
    with pytest.raises(ContentNotFoundError):
        store.import_car(b"".join(car.write([cids.parse(before), lost[0]], [lost])))
    assert [entry.cid for entry in store.ls()] == [before]


@pytest.mark.parametrize("collects", [True, False])
def test_what_was_pinned_and_is_unpinned_meanwhile(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    """What a root links to counts as whole while it is pinned; if that ends meanwhile, it is looked at again."""
    first = node({"first": True})
    kept(store, first)
    list(store.ls())  # so that the index knows it
    second = node({"previous": Ref(first[0])})

    def unpinned() -> None:
        other.unpin(cids.to_text(first[0]))
        if collects:
            other.gc()

    before_the_next_write(monkeypatch, unpinned)
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
    assert monotonic() - began < _holding.PATIENCE_S
    assert (store.get(kept_one), store.has(gone)) == (b"stays", False)


def test_what_cannot_be_entered_is_not_said_to_be_absent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the index cannot be written, to pin what was just put is an error that says so."""
    store.put(b"before")
    with monkeypatch.context() as broken:
        nothing_entered(store, broken)
        cid = store.put(b"hello").cid
        assert store.get(cid) == b"hello"
        with pytest.raises(UnavailableError, match="the disk is full"):
            store.pin(cid)
    store.pin(cid)


@pytest.mark.parametrize("step", ["read", "collected"])
def test_a_large_put_that_the_index_did_not_get_is_kept(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It was acknowledged while the index could not be written: others read it, and a collection takes none of it."""
    other.put(b"of the other")
    store.put(b"of this one")
    nothing_entered(store, monkeypatch)
    data = random.Random(3).randbytes(5 << 20)
    cid = store.put(data).cid
    if step == "collected":
        assert other.gc()["blocks"].blocks == 0
    assert other.get(cid) == data
    assert cid in [entry.cid for entry in other.ls()]
    monkeypatch.undo()
    store.close()
    with Store([Blocks(path=tmp_path)]) as again:
        assert again.get(cid) == data


def test_a_large_put_that_ends_while_others_collect_is_kept(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the index did not get it: when packs are looked at that are to be written anew, its pack is left."""
    other.put(b"of the other")
    store.put(b"of this one")
    away, data, names = _index.Sweep.away, random.Random(4).randbytes(5 << 20), list[str]()

    def late(sweep: _index.Sweep, before: int) -> tuple[int, int]:
        names.append(store.put(data).cid)
        return away(sweep, before)

    nothing_entered(store, monkeypatch)
    monkeypatch.setattr(_index.Sweep, "away", late)
    other.gc()
    assert other.get(names[0]) == data


def test_what_others_have_said_of_a_pin_holds_though_the_index_did_not_get_ours(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one who spoke is believed: in a list, and by `unpin`."""
    store.put(b"before", pin=False)
    nothing_entered(store, monkeypatch)
    cid = store.put(b"hello").cid
    other.unpin(cid)
    assert list(other.ls()) == list(store.ls()) == []
    store.put(b"hello")
    store.unpin(cid)
    other.pin(cid)
    store.unpin(cid)
    assert list(store.ls()) == list(other.ls()) == []


def test_what_others_are_writing_is_on_the_disk_before_it_counts(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may still wait for that when this one builds upon it."""
    store.put(b"of this one")
    synced, sync = list[int](), _places.sync_file

    def note(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(_places, "sync_file", note)
    other.put(b"of the other")
    assert len(list(other.ls())) == 2
    (pack,) = {place.pack for place in map(blocks_of(store).find, [sha256(b"of this one").digest()]) if place}
    assert (blocks_of(other).folder / f"{pack}.car").stat().st_ino in synced

    def failing(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    cid = store.put(b"and this").cid
    with monkeypatch.context() as broken:
        broken.setattr(_places, "sync_file", failing)
        assert len(list(other.ls())) == 2
    assert cid in [entry.cid for entry in other.ls()]


def test_a_moment_without_memory_does_not_end_what_enters_into_the_index(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put then, and since, is entered when there is memory again."""
    store.put(b"before")
    entered, failed = _index.Index.entered, threading.Event()

    def without_memory(index: _index.Index, written: Any) -> set[str]:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        return entered(index, written)

    places = blocks_of(store)
    monkeypatch.setattr(_index.Index, "entered", without_memory)
    store.put(b"hello")
    assert failed.wait(10)
    store.put(b"hello again")
    ends = monotonic() + 10
    while places.index.totals()[0] < 3:
        assert monotonic() < ends
        sleep(0.01)


def nothing_entered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this store find the disk of the index full, and no other one."""
    entered, failing = _index.Index.entered, blocks_of(store).index

    def full(index: _index.Index, written: Any) -> set[str]:
        if index is failing:
            raise UnavailableError("the disk is full", retry_same=False)
        return entered(index, written)

    monkeypatch.setattr(_index.Index, "entered", full)


def blocks_of(store: Store) -> Places:
    """Where the only store of these has its blocks."""
    (one,) = store.stores
    blocks = one.provider
    assert isinstance(blocks, Blocks)
    return blocks._opened().places


@pytest.fixture
def wrong_head(tmp_path: Path) -> tuple[str, bytes]:
    """A pinned file in a pack of its own, which is mostly of no use any more and has a wrong byte in its first head."""
    source, some = tmp_path / "source", random.Random(1)
    source.mkdir()
    (source / "a").write_bytes(some.randbytes(8 << 20))
    data = some.randbytes((2 << 20) + 5)
    (source / "b").write_bytes(data)
    with Store([Blocks(path=tmp_path)]) as store:
        folder = store.put(source)
        cid = next(entry.cid for entry in store.ls(folder.cid) if entry.name == "b")
        store.pin(cid)
        store.unpin(folder.cid)
    pack = max((tmp_path / "packs").iterdir(), key=lambda path: path.stat().st_size)
    wrong = bytearray(pack.read_bytes())
    wrong[len(HEADER) + 2] ^= 0x80
    pack.write_bytes(wrong)
    return cid, data


def test_a_wrong_head_takes_no_other_block_in_a_collection(
    wrong_head: tuple[str, bytes], store: Store, tmp_path: Path
) -> None:
    """The pack is written anew with all that is of use in it, also when the index is lost then."""
    cid, data = wrong_head
    assert store.gc()["blocks"].blocks == 10
    assert store.get(cid) == data
    store.close()
    (tmp_path / "index.sqlite").unlink()
    with Store([Blocks(path=tmp_path)]) as again:
        assert again.get(cid) == data
        assert list(again.verify()) == []


def test_a_block_behind_a_wrong_head_is_moved_though_only_the_index_knows_it(store: Store, tmp_path: Path) -> None:
    """And `verify` reads it: with its own head wrong, its bytes are as they were."""
    some = random.Random(2)
    names = [store.put(some.randbytes(100_000)).cid for _ in range(9)]
    kept_one = some.randbytes(100_000)
    cid = store.put(kept_one).cid
    assert len(list(store.ls())) == 10
    (pack,) = (tmp_path / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[data.index(kept_one) - 37] ^= 0x80  # of the length before its CID
    pack.write_bytes(data)
    assert list(store.verify()) == []
    for name in names:
        store.unpin(name)
    assert store.gc()["blocks"].blocks == 9
    assert not pack.exists()
    assert store.get(cid) == kept_one
    (pack,) = (tmp_path / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    at = data.index(kept_one)
    data[at - 37] ^= 0x80
    data[at + 5] ^= 1
    pack.write_bytes(data)
    assert [found.cid for found in store.verify()] == [cid, cid, cid]  # its bytes; it is not here; and it is pinned


def test_with_the_index_gone_a_wrong_head_hides_one_block(
    wrong_head: tuple[str, bytes], store: Store, tmp_path: Path
) -> None:
    """What stands behind it is found by its hash, though no mark comes before the end."""
    cid, data = wrong_head
    store.close()
    (tmp_path / "index.sqlite").unlink(missing_ok=True)
    with Store([Blocks(path=tmp_path)]) as again:
        assert again.get(cid) == data
        assert list(again.verify()) == []


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


def test_what_others_unpin_and_collect_during_a_verify_is_not_told(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was pinned when the pins were listed, and not there when it was looked at."""
    cid, pins = store.put(b"hello").cid, Places.pins

    def meanwhile(places: Places) -> Iterator[bytes]:
        roots = list(pins(places))
        if places is blocks_of(store):
            other.unpin(cid)
            other.gc()
        yield from roots

    monkeypatch.setattr(Places, "pins", meanwhile)
    assert list(store.verify()) == []
    assert not store.has(cid)


def test_a_verify_waits_for_what_a_put_writes_again_after_its_pin(store: Store, other: Store, tmp_path: Path) -> None:
    """Its block was collected after it looked, and before its pin was written: it is not whole for a moment."""
    blocks, content = Blocks(path=tmp_path), b"collected just now"
    cid = cids.raw_cid(content)
    blocks._to_write().writer.add((), (cid,))
    blocks.close()
    again = threading.Timer(0.3, lambda: other.put(content))
    again.start()
    assert list(store.verify()) == []
    again.join()
    assert store.get(cids.to_text(cid)) == content
