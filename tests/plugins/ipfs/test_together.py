"""Things of many threads, done in batches by one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import sleep
from types import CodeType
from typing import Any

import pytest
from pointsman import ConfigError, PointsmanError, UnavailableError
from pointsman_ipfs import _together
from pointsman_ipfs._together import Together


def test_each_thing_is_done_once_and_few_batches_are_needed() -> None:
    """Whatever threads add is done exactly once; what came while one batch was done makes up the next."""
    done, batches = list[int](), list[int]()

    def do(batch: Sequence[int]) -> None:
        sleep(0.002)
        done.extend(batch)
        batches.append(len(batch))

    together = Together(do, len)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(together.add, range(400)))
    assert sorted(done) == list(range(400))
    assert len(batches) < 200


def test_a_batch_has_what_may_join_and_nothing_else() -> None:
    """`fitting` says how many of those that wait, from the first on."""
    batches = list[list[int]]()

    def do(batch: Sequence[int]) -> None:
        sleep(0.002)
        batches.append(list(batch))

    together = Together(do, lambda waiting: min(3, len(waiting)))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(together.add, range(100)))
    assert max(map(len, batches)) <= 3


@pytest.mark.parametrize("kind", [UnavailableError, ConfigError])
def test_an_error_is_raised_to_all_of_the_batch_and_to_nobody_else(kind: type[PointsmanError]) -> None:
    """Each gets an error of its own; the next batch begins as if nothing had been."""

    def do(batch: Sequence[int]) -> None:
        sleep(0.002)
        if 13 in batch:
            raise kind("13")

    together, errors = Together(do, len), list[PointsmanError]()

    def add(item: int) -> bool:
        try:
            together.add(item)
        except PointsmanError as error:
            errors.append(error)
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        fine = list(threads.map(add, range(100)))
    assert not fine[13]
    assert 1 <= len(errors) <= 8
    assert {(type(error), str(error)) for error in errors} == {(kind, "13")}
    assert len({id(error) for error in errors}) == len(errors)
    assert add(14)


class Interrupted:
    """A lock. Ctrl-C comes when a wait for it ends: that for a turn ("waiting"), or for others ("gathering")."""

    def __init__(self, place: str) -> None:
        self._place, self._lock = place, threading.Lock()
        self._lock.acquire()
        self.locked, self.release = self._lock.locked, self._lock.release

    def acquire(self, timeout: float = -1) -> bool:
        woken = self._lock.acquire(timeout=timeout)
        if (timeout == _together._LOOK_S) == (self._place == "waiting"):
            raise KeyboardInterrupt
        return woken


@pytest.mark.parametrize("place", ["doing", "waiting", "gathering"])
def test_a_thread_that_is_interrupted_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Ctrl-C takes one thread away, wherever it is: whoever comes after it is served all the same."""
    done, begun, go = list[int](), threading.Event(), threading.Event()

    def do(batch: Sequence[int]) -> None:
        if 0 in batch:
            begun.set()
            assert go.wait(20)
        if place == "doing" and 1 in batch:
            raise KeyboardInterrupt
        done.extend(batch)

    def entry(item: int) -> Any:
        return made(item, asleep=Interrupted(place)) if item == 1 and place != "doing" else made(item)

    made: Any = _together._Entry
    monkeypatch.setattr(_together, "_Entry", entry)
    together = Together(do, lambda waiting: 1)
    with ThreadPoolExecutor(2) as threads:
        if place != "gathering":
            first = threads.submit(together.add, 0)
            assert begun.wait(20)
        together._together = 2  # as if two had come together the last time: who leads waits for another
        second = threads.submit(together.add, 1)
        if place != "gathering":
            while not together._queue:
                sleep(0.001)
            go.set()
            first.result(20)
        with pytest.raises(KeyboardInterrupt):
            second.result(20)
    watch = threading.Thread(target=together.add, args=(2,), daemon=True)
    watch.start()
    watch.join(20)
    assert not watch.is_alive()
    assert done == ([2] if place == "gathering" else [0, 2])
    with together.idle() as idle:
        assert idle


class Leaving:
    """A lock. Ctrl-C ends the wait for it: at a word, or when it was let go."""

    def __init__(self, word: threading.Event | None) -> None:
        self._word, self._lock = word, threading.Lock()
        self._lock.acquire()
        self.locked, self.release = self._lock.locked, self._lock.release

    def acquire(self, timeout: float) -> bool:
        assert self._word.wait(20) if self._word is not None else self._lock.acquire(timeout=20)
        raise KeyboardInterrupt


@pytest.mark.parametrize("woken", [False, True])
def test_all_others_are_woken_when_one_of_a_batch_leaves(monkeypatch: pytest.MonkeyPatch, woken: bool) -> None:
    """Each thread wakes others of its batch: one that is gone is not relied upon, one that goes then does so first."""
    done, doing, go, word = list[int](), threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def do(batch: Sequence[int]) -> None:
        doing.release()
        assert go.acquire(timeout=20)
        done.extend(batch)

    def entry(item: int) -> Any:
        return made(item, asleep=Leaving(None if woken else word)) if item == 2 else made(item)

    made: Any = _together._Entry
    monkeypatch.setattr(_together, "_Entry", entry)
    together = Together(do, len)
    with ThreadPoolExecutor(9) as threads:
        added = [threads.submit(together.add, 0)]
        assert doing.acquire(timeout=20)
        for item in range(1, 9):
            added.append(threads.submit(together.add, item))
            while len(together._queue) < item:
                sleep(0.001)
        go.release()  # the first is done, and all others are one batch
        assert doing.acquire(timeout=20)
        word.set()
        if not woken:
            with pytest.raises(KeyboardInterrupt):
                added[2].result(20)
        go.release()
        for item, one in enumerate(added):
            if item != 2:
                one.result(20)
        with pytest.raises(KeyboardInterrupt):
            added[2].result(20)
    assert sorted(done) == list(range(9))


def of_batches(code: CodeType) -> bool:
    """Whether code belongs to what is tested here."""
    return code.co_filename == _together.__file__


@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_interrupt_before_any_line_takes_one_thread_away(
    monkeypatch: pytest.MonkeyPatch, interrupted: Callable[..., bool], place: int
) -> None:
    """All others of its batch are served, and who comes later: nobody relies on one thread alone to be woken."""
    monkeypatch.setattr(_together, "_LOOK_S", 0.05)
    after, again = 0, True
    while again:
        after += 1
        done, go = list[int](), threading.Event()

        def do(batch: Sequence[int], go: threading.Event = go, done: list[int] = done) -> None:
            assert go.wait(20)
            done.extend(batch)

        together = Together(do, len)

        def add(item: int, together: Together[int] = together, after: int = after) -> bool:
            if item == place:
                return interrupted(partial(together.add, item), after, of_batches)
            together.add(item)
            return False

        with ThreadPoolExecutor(7) as threads:
            added = []
            for item in range(6):  # the first one leads, all others are a batch
                added.append(threads.submit(add, item))
                while not added[-1].done() and item not in [one.item for one in (*together._queue, *together._batch)]:
                    sleep(0.001)
            go.set()
            again = added[place].result(20)
            assert [one.result(20) for n, one in enumerate(added) if n != place] == [False] * 5
            assert threads.submit(add, 6).result(20) is False
        assert set(done) >= set(range(7)) - {place}
    assert after > 10
