"""What other programs do to a store between two steps of what this one does."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread, current_thread
from time import monotonic
from typing import Any

import pytest
from pointsman import BackendTimeout, ContentNotFoundError, Store, UnavailableError
from pointsman_ipfs import Blocks
from pointsman_ipfs._locked_files import locked_files
from pointsman_ipfs.dag import car
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cbor import Ref, encode
from pointsman_ipfs.embedded._index import Index
from pointsman_ipfs.embedded._opened import Opened
from pointsman_ipfs.embedded._places import Places
from pointsman_ipfs.embedded._shelf import Shelf
from pointsman_ipfs.embedded._writer import Writer

_ABSENT = cids.to_text(cids.raw_cid(b"nobody has put this"))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the same folder as one more program."""
    stores = list[Store]()

    def opened() -> Store:
        stores.append(Store([Blocks(path=tmp_path)]))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


def once(monkeypatch: pytest.MonkeyPatch, of: type, name: str, work: Callable[[], object], *, after: bool) -> None:
    """Let something come before or after the next call of a method."""
    real = getattr(of, name)

    def with_it(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(of, name, real)
        if not after:
            work()
        found = real(*arguments, **named)
        if after:
            work()
        return found

    monkeypatch.setattr(of, name, with_it)


def unpinned_and_collected(store: Store, cid: str) -> None:
    store.unpin(cid)
    store.gc()


@pytest.mark.parametrize("way", ["import_car", "pin"])
def test_what_is_pinned_again_and_collected_meanwhile_is_told(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """It was pinned, so nobody looked whether it is whole; the new pin is not taken for the one that was there."""
    store, other = opened(), opened()
    cid = store.put(b"hello").cid
    list(other.ls())
    headed = b"".join(car.write([cids.parse(cid)], []))
    once(monkeypatch, Writer, "add", lambda: unpinned_and_collected(other, cid), after=False)
    again = {"pin": lambda: store.pin(cid), "import_car": lambda: store.import_car(headed)}[way]
    with pytest.raises(ContentNotFoundError):
        again()
    assert list(other.ls()) == []
    other.gc()


def test_a_pin_that_others_have_put_meanwhile_is_not_taken_back(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CAR with two roots cannot be kept whole, since what one builds upon was collected: the other one is whole."""
    store, other = opened(), opened()
    store.put(b"collected", pin=False)
    data = encode({"data": Ref(cids.raw_cid(b"collected"))})
    blocks = [(cids.raw_cid(b"hello"), b"hello"), (cids.cbor_cid(data), data)]
    list(other.ls())
    once(monkeypatch, Writer, "add", lambda: other.put(b"hello"), after=True)
    once(monkeypatch, Writer, "add", other.gc, after=False)
    with pytest.raises(ContentNotFoundError):
        store.import_car(b"".join(car.write([cid for cid, _ in blocks], blocks)))
    assert [entry.cid for entry in other.ls()] == [cids.to_text(blocks[0][0])]
    other.gc()


def test_what_was_collected_before_its_writer_noted_it_is_written_again(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread of that program has seen the collection: what is noted then is older."""
    store, other = opened(), opened()
    store.put(b"before")

    def collected() -> None:
        other.gc()
        assert not store.has(cids.to_text(cids.raw_cid(b"something else")))

    once(monkeypatch, Places, "wrote", collected, after=False)
    store.put(b"hello", pin=False)
    cid = store.put(b"hello").cid
    list(store.ls())  # its index has all of it
    assert other.get(cid) == b"hello"


def test_what_is_pinned_again_by_a_put_is_whole(opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have unpinned and collected all of it when it was written: not only what was there before is missed."""
    store, other = opened(), opened()
    data = encode({"data": Ref(cids.raw_cid(b"hello"))})
    root = cids.cbor_cid(data)
    store.put(b"hello", pin=False)
    once(monkeypatch, Places, "wrote", lambda: unpinned_and_collected(other, cids.to_text(root)), after=True)
    store.import_car(b"".join(car.write([root], [(root, data), (cids.raw_cid(b"hello"), b"hello")])))
    list(store.ls())  # its index has all of it
    assert list(other.verify()) == []
    other.gc()
    assert store.has(cids.to_text(root))


def test_what_was_said_of_a_root_while_packs_are_moved_is_in_one_of_them(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its last mark is in a pack that is moved later by the same collection: who makes the index anew finds it."""
    first, second, collecting = opened(), opened(), opened()
    cid = first.put(b"hello").cid
    first.unpin(cid)
    second.put(b"of use, so that it comes after the first one")
    for store in first, second:
        store.put(os.urandom(300_000), pin=False)
    list(collecting.ls())
    first.close()
    once(monkeypatch, Index, "moved", lambda: (second.put(b"hello"), second.close()), after=True)
    collecting.gc()
    collecting.close()
    assert len(list((tmp_path / "packs").iterdir())) == 1
    for file in tmp_path.glob("index*"):
        file.unlink()
    assert cid in [entry.cid for entry in opened().ls()]


def test_what_a_collection_moves_during_a_verify_is_not_told(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pack is gone when it is read: it is whole in another one."""
    first, verifying, collecting = opened(), opened(), opened()
    cid = first.put(b"hello").cid
    first.put(os.urandom(300_000), pin=False)
    first.close()
    once(monkeypatch, Shelf, "at", collecting.gc, after=False)
    assert list(verifying.verify()) == []
    assert verifying.get(cid) == b"hello"


@pytest.mark.parametrize("during", [False, True], ids=["before it", "during it"])
def test_what_a_child_inherits_keeps_no_pack_from_a_collection(
    opened: Callable[[], Store],
    forked: Callable[[Callable[[], object]], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    during: bool,
) -> None:
    """Its copy of a file would keep the lock that its parent has let go, and the room of a pack that is gone."""
    store, packs = opened(), tmp_path / "packs"
    cid = store.put(b"stays").cid
    store.put(os.urandom(300_000), pin=False)
    assert store.get(cid) == b"stays"
    before, (ends, end), (begins, begin) = [*packs.iterdir()], os.pipe(), os.pipe()
    children = list[int]()

    def fork() -> None:
        children.append(forked(lambda: (os.close(end), os.write(begin, b"!"), os.read(ends, 1))))
        assert os.read(begins, 1) == b"!"

    try:
        if during:
            once(monkeypatch, Index, "moved", fork, after=False)
        else:
            fork()
        store.gc()
        (child,) = children
        assert [pack for pack in before if pack.exists()] == []
        files = map(os.path.realpath, Path(f"/proc/{child}/fd").iterdir())
        assert [file for file in files if file.startswith(str(packs))] == []
    finally:
        for file in end, ends, begin, begins:
            os.close(file)
        for child in children:
            os.waitpid(child, 0)


@pytest.mark.parametrize("name", ["open", "close"])
def test_no_fork_comes_between_the_file_of_a_pack_and_what_is_known_of_it(
    forked: Callable[[Callable[[], object]], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A child closes what it knows of: its copy of another file would keep a pack locked for as long as it lives."""
    path, begun, over, real = tmp_path / "pack", Event(), Event(), getattr(os, name)

    def slowly(*arguments: Any) -> Any:
        opened = real(*arguments) if name == "open" else None
        if current_thread() is thread:
            begun.set()
            over.wait(0.5)
        return opened if name == "open" else real(*arguments)

    def is_open() -> bool:
        return any(os.path.realpath(f"/proc/self/fd/{file}") == str(path) for file in os.listdir("/proc/self/fd"))

    monkeypatch.setattr(os, name, slowly)
    thread = Thread(target=lambda: locked_files.close(locked_files.open(path, os.O_CREAT)))
    thread.start()
    try:
        assert begun.wait(10)
        child = forked(lambda: os._exit(is_open()))
    finally:
        over.set()
        thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nobody_goes_on_with_a_pack_that_a_killed_collection_left(opened: Callable[[], Store], tmp_path: Path) -> None:
    """Others leave what is said there alone, as long as it counts as one that somebody moves blocks to."""
    first, other = opened(), opened()
    first.put(b"hello")
    first.close()
    (pack,) = (path.stem for path in (tmp_path / "packs").iterdir())
    blocks = Blocks(path=tmp_path)
    blocks._opened().places.index.running(pack, 1)
    blocks.close()
    writing = opened()
    cid = writing.put(b"put since").cid
    assert cid in [entry.cid for entry in other.ls()]


def test_a_large_put_that_was_interrupted_twice_holds_on_to_nothing(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pack is gone, and the index was not told: a collection takes what was put since, without a new opening."""
    store, other = opened(), opened()
    store.put(b"before")
    list(other.ls())

    def interrupt() -> None:
        raise KeyboardInterrupt

    def content() -> Iterator[bytes]:
        yield bytes(6 << 20)
        once(monkeypatch, Index, "running", interrupt, after=False)
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        store.put(content())
    cid = store.put(b"put since", pin=False).cid
    assert [one.blocks for one in other.gc().values()] == [1]
    assert not other.has(cid)


@pytest.mark.parametrize("way", ["put", "put what is there", "pin", "import_car", "unpin", "gc"])
def test_the_time_of_a_call_is_up_where_another_program_was_stopped_while_it_changed_the_index(
    opened: Callable[[], Store], tmp_path: Path, way: str
) -> None:
    """Its lock is waited for no longer than the call may take; what failed is put when the lock is free."""
    store, large = opened(), os.urandom(3 << 20)
    cid = store.put(b"here before" * 10_000).cid
    exported = b"".join(store.export_car(cid))
    list(store.ls())  # the index knows all of it
    calls: dict[str, Callable[[float | None], object]] = {
        "put": lambda timeout: store.put(large * 2, timeout=timeout),
        "put what is there": lambda timeout: store.put(b"here before" * 10_000, timeout=timeout),
        "pin": lambda timeout: store.pin(cid, timeout=timeout),
        "import_car": lambda timeout: store.import_car(exported, timeout=timeout),
        "unpin": lambda timeout: store.unpin(cid, timeout=timeout),
        "gc": lambda timeout: store.gc(timeout=timeout),
    }
    stopped = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    stopped.execute("BEGIN IMMEDIATE")
    began = monotonic()
    with suppress(BackendTimeout) if way == "unpin" else pytest.raises(BackendTimeout):
        calls[way](0.3)
    assert monotonic() - began < 10
    stopped.close()
    calls[way](None)


def test_who_reads_does_not_wait_for_a_program_that_was_stopped(opened: Callable[[], Store], tmp_path: Path) -> None:
    """What is not in the index yet is remembered: nobody has to wait until it is entered."""
    store, other = opened(), opened()
    before = store.put(b"before").cid
    assert other.get(before) == b"before"
    assert {entry.cid for entry in store.ls()} == {before}  # the index knows it
    stopped = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    stopped.execute("BEGIN IMMEDIATE")
    cid, began = store.put(b"hello").cid, monotonic()
    assert other.get(cid) == b"hello"
    assert {entry.cid for entry in other.ls()} == {before, cid}
    assert not store.has(_ABSENT)
    assert monotonic() - began < 30
    stopped.close()


def test_what_is_under_way_when_a_store_is_closed_is_told_so(opened: Callable[[], Store]) -> None:
    """Not what SQLite says of a connection that is closed."""
    store = opened()
    for number in range(1100):
        store.put(b"%d" % number)
    listed = store.ls()
    next(listed)
    store.close()
    with pytest.raises(UnavailableError, match="the store was closed meanwhile") as told:
        list(listed)
    assert "database" not in str(told.value)


def test_a_store_that_is_closed_while_a_call_begins_still_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was open a moment ago is not looked for anew in what is closed: that was an error of Python's."""
    with Store([blocks := Blocks(path=tmp_path)]) as store:
        cid = store.put(b"hello").cid
        once(monkeypatch, Opened, "usable", blocks.close, after=True)
        assert [store.get(cid), store.get(cid)] == [b"hello", b"hello"]
