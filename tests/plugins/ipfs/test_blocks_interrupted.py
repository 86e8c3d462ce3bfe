"""Ctrl-C in the embedded store, before each line of it: nothing that was acknowledged is lost, and nothing is stuck."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import sleep
from types import CodeType

import pytest
from pointsman import Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.embedded import _index, blocks
from pointsman_ipfs.evidence import About, Evidence

Interrupted = Callable[..., bool]
ABOUT = About("text")
_FILES = ("_index.py", "_places.py", "_writer.py", "_packs.py", "_collect.py", "_together.py")


def of_the_store(code: CodeType) -> bool:
    """Whether code belongs to the store."""
    return code.co_filename.endswith(_FILES)


def of_a_queue(code: CodeType) -> bool:
    """Whether code hands something to another thread."""
    return code.co_filename.endswith("queue.py") or code.co_name == "notify"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store({"home": Blocks(path=tmp_path / "home")}) as store:
        yield store


@pytest.mark.parametrize("what", ["small", "large", "gc", "unpin"])
def test_an_interrupt_takes_nothing_that_was_acknowledged(
    store: Store, tmp_path: Path, interrupted: Interrupted, what: str
) -> None:
    """The store goes on in the same process, and another one finds all of it, whole."""
    some, kept, after = random.Random(1), dict[str, bytes](), 0
    sizes = {"large": (5 << 20) + 1}

    def put(size: int = 3000) -> str:
        data = some.randbytes(size)
        cid = store.put(data).cid
        kept[cid] = data
        return cid

    def unpin() -> None:
        store.unpin(kept.popitem()[0])

    again = True
    while again:
        after += 1 + after // 20
        put()
        put()
        work: dict[str, Callable[[], object]] = {"gc": store.gc, "unpin": unpin}
        again = interrupted(work.get(what, lambda: put(sizes.get(what, 3000))), after, of_the_store)
        put()
        if not after % 7:
            store.gc()
    assert after > 50
    for thread in threading.enumerate():  # of large puts
        if thread.name == "pointsman-put":
            thread.join(20)
            assert not thread.is_alive()
    with Store({"home": Blocks(path=tmp_path / "home")}) as other:
        for one in (store, other):
            assert list(one.verify()) == []
            assert all(one.get(cid) == data for cid, data in kept.items())
            one.gc()


def test_an_interrupt_between_the_threads_of_a_large_put_leaves_none_waiting(
    store: Store, interrupted: Interrupted
) -> None:
    """Whatever line of Python hands pieces from one thread to another: no thread waits for one that will not come."""
    some, after, done = random.Random(2), 0, list[bool]()

    def put() -> None:
        work = partial(store.put, some.randbytes(10 << 20))
        done.append(not interrupted(work, after, of_a_queue))

    while not done or not done[-1]:
        after += 1 + after // 20
        thread = threading.Thread(target=put, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), f"it waits for ever when it is interrupted before line {after}"


def test_an_interrupt_of_a_submission_keeps_no_other_thread_waiting(store: Store, interrupted: Interrupted) -> None:
    """Before whatever line of the index and its lock: others submit, and so does the same thread; the log is one."""
    after, again = 0, True

    def of_the_index(code: CodeType) -> bool:
        return code.co_filename.endswith(("_evidence_index.py", "_locked.py", "_filing.py", "_together.py"))

    with Evidence(store) as evidence:
        while again:
            after += 1 + after // 40
            again = interrupted(partial(evidence.submit, b"interrupted", ABOUT), after, of_the_index)
            other = threading.Thread(target=evidence.submit, args=(b"of another", ABOUT), daemon=True)
            other.start()
            other.join(20)
            assert not other.is_alive(), f"it waits for ever after an interrupt before line {after}"
            kept = evidence.submit(b"%d" % after, ABOUT).record
            assert evidence.ends() == (kept.record_cid,)
        found = list(evidence.records())
    assert after > 50
    assert [one.previous for one in found] == [(), *((one.record_cid,) for one in found[:-1])]


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")
def test_an_interrupt_of_a_fork_leaves_nothing_locked(store: Store, interrupted: Interrupted) -> None:
    """Wherever it comes: other threads go on, and so does the child. Python itself ignores it there."""

    def of_a_fork(code: CodeType) -> bool:
        return code.co_filename.endswith(("forks.py", "_database.py", "_evidence_index.py", "_locked.py"))

    def fork() -> None:
        child = os.fork()
        if not child:
            sys.settrace(None)
            try:
                os._exit(len(store.put(b"from the child").cid) - 59)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0

    for after in range(1, 60):
        interrupted(fork, after, of_a_fork)
        other = threading.Thread(target=store.put, args=(b"after %d" % after,), daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive()


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_that_was_opening_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens it for itself: that thread is not there."""
    opening, may, opened = threading.Event(), threading.Event(), blocks.Opened

    def slowly(root: Path, *, writing: bool) -> object:
        if threading.current_thread() is other:
            opening.set()
            may.wait(30)
        return opened(root, writing=writing)

    monkeypatch.setattr(blocks, "Opened", slowly)
    other = threading.Thread(target=store.put, args=(b"of the thread",))
    other.start()
    assert opening.wait(10)
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)
            os._exit(len(store.put(b"from the child").cid) - 59)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    may.set()
    other.join()
    assert len(list(store.ls())) == 2


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_that_is_forked_while_a_thread_collects_has_locks_of_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It inherits nothing that SQLite takes for its own: it waited for what its parent was changing."""
    store.put(b"before")
    collecting, forked, away = threading.Event(), threading.Event(), _index.Sweep.away

    def in_the_midst(sweep: _index.Sweep, before: int) -> tuple[int, int]:
        sweep.db.execute("BEGIN IMMEDIATE")
        collecting.set()
        assert forked.wait(20)
        sweep.db.execute("COMMIT")
        return away(sweep, before)

    monkeypatch.setattr(_index.Sweep, "away", in_the_midst)
    other = threading.Thread(target=store.gc)
    other.start()
    assert collecting.wait(10)
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)
            os._exit(len(store.put(bytes(5 << 20)).cid) - 59)
        finally:
            os._exit(1)
    forked.set()
    other.join()
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(store.ls())) == 2


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_waits_while_sqlite_works_for_a_collection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks would be taken in the child, which has no thread that lets them go."""
    working, begun, add = list[int](), threading.Event(), _index.Sweep.add

    def at_work(statement: str) -> None:
        working.append(1)
        begun.set()
        sleep(0.3)
        working.clear()

    def slowly(sweep: _index.Sweep, cid: bytes) -> None:
        sweep.db.set_trace_callback(at_work)
        add(sweep, cid)
        sweep.db.set_trace_callback(None)

    store.put(b"before")
    monkeypatch.setattr(_index.Sweep, "add", slowly)
    other = threading.Thread(target=store.gc)
    other.start()
    assert begun.wait(10)
    child = os.fork()
    if not child:
        os._exit(len(working))
    other.join()
    assert os.waitpid(child, 0)[1] == 0
