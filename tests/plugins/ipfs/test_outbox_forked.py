"""The outbox in a forked child: what is acknowledged there waits until it is brought, whatever the parent does."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import pytest
from pointsman import Store, UnavailableError, forks
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence

Forked = Callable[[Callable[[], object]], int]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], Store]:
    """A function that opens two stores, the second of which can get nothing."""
    (tmp_path / "office").write_bytes(b"in the way")
    return lambda: Store({"home": Blocks(path=tmp_path / "home"), "office": Blocks(path=tmp_path / "office")})


def test_what_a_child_puts_waits_when_its_parent_ends(opened: Callable[[], Store], forked: Forked) -> None:
    """The parent closes the store before the child, which goes on with it; both have put."""
    (reader, writer), (told, tell) = os.pipe(), os.pipe()

    def work() -> None:
        os.close(writer)
        store.put(b"of the child")
        os.write(tell, b".")
        os.read(reader, 1)  # until its parent has closed it
        store.put(b"of the child, later")
        store.close()

    with opened() as store:
        store.put(b"before")
        child = forked(work)
        os.close(tell)
        os.read(told, 1)
    for end in (writer, reader, told):
        os.close(end)
    assert os.waitpid(child, 0)[1] == 0
    with opened() as store:
        waiting = [store.get(one.cid) for one in store.waiting()]
        assert waiting == [b"before", b"of the child", b"of the child, later"]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # it is what is tested here
def test_a_child_of_a_process_whose_threads_put_can_put(opened: Callable[[], Store], forked: Forked) -> None:
    """It waits for nothing that they were doing when it was forked; and what all of them put waits."""

    def work(number: int) -> None:
        for n in range(40):
            store.put(b"%d-%d" % (number, n))

    def of_the_child(n: int) -> None:
        store.put(b"child %d" % n)
        store.close()

    with opened() as store:
        store.put(b"before")
        running = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in running:
            thread.start()
        children = [forked(partial(of_the_child, n)) for n in range(8)]
        for thread in running:
            thread.join()
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
        assert len(store.waiting()) == 1 + 4 * 40 + 8


@pytest.mark.parametrize("after_a_fork", [False, True])
def test_an_outbox_that_is_opened_is_waited_for_no_longer_than_the_call_may_take(
    opened: Callable[[], Store], tmp_path: Path, after_a_fork: bool
) -> None:
    """It is opened for the first time, or again after a fork, while another process keeps it."""
    with opened() as store:
        if after_a_fork:
            store.put(b"before")
            if not (child := os.fork()):
                os._exit(0)
            os.waitpid(child, 0)
        else:
            with opened() as another:
                another.put(b"before")
        with closing(sqlite3.connect(tmp_path / "home" / "outbox.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = monotonic()
            with pytest.raises(UnavailableError, match=r"the outbox .* cannot be used: "):
                store.put(b"after", timeout=0.5)
            assert monotonic() - began < 10


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # it is what is tested here
def test_a_fork_waits_for_nobody_who_files_evidence(opened: Callable[[], Store]) -> None:
    """Who does holds the index of evidence, and waits for the outbox: a fork takes them in the same order."""
    ended = threading.Event()
    with opened() as store, Evidence(store) as evidence, ThreadPoolExecutor(2) as pool:

        def work() -> None:
            while not ended.is_set():
                evidence.submit(b"evidence", About("text"))

        evidence.submit(b"evidence", About("text"))
        working, longest = [pool.submit(work) for _ in range(2)], 0.0
        for _ in range(10):
            sleep(0.02)
            began = monotonic()
            if not (child := os.fork()):
                os._exit(0)
            longest = max(longest, monotonic() - began)
            assert os.waitpid(child, 0)[1] == 0
        ended.set()
        assert [one.result(30) for one in working] == [None, None]
        assert longest < 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")
def test_an_interrupted_fork_lets_nothing_go_that_another_thread_has(
    opened: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes while the fork waits for the outbox, which a thread keeps that waits for another process."""
    monkeypatch.setattr(forks, "PAUSE_S", 0.4)
    with opened() as store, ThreadPoolExecutor(1) as pool:
        store.put(b"before")
        with closing(sqlite3.connect(tmp_path / "home" / "outbox.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            putting = pool.submit(store.put, b"meanwhile")
            sleep(0.3)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            if not (child := os.fork()):
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        assert putting.result(30).waiting_for == ("office",)
        assert len(store.waiting()) == 2
