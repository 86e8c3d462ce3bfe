"""Things that many threads want done, done in batches by one of them: so all of them wait for the disk once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import zip_longest
from time import perf_counter
from typing import Generic, TypeVar

from attrs import define, field
from pointsman import PointsmanError, UnavailableError
from pointsman.forks import Shared

T = TypeVar("T")

#: Seconds for which those are waited for who may be about to come again, at most.
_MOMENT_S = 0.01
#: Seconds after which one who waits looks for himself: who was to wake him may have been interrupted just then.
_LOOK_S = 1.0
_INTERRUPTED = UnavailableError("it was interrupted")


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@define(eq=False)
class _Entry(Generic[T]):
    """What one thread adds."""

    item: T
    done: bool = False
    gone: bool = False  #: whether its thread waits no more
    error: PointsmanError | None = None
    following: _Entry[T] | None = None  #: of the same batch, whose thread this one is to wake
    asleep: threading.Lock = field(factory=_held)  #: its thread waits for it

    def wake(self) -> None:
        """Let its thread go on: it is done, or to be done by that one with all that wait, or enough have come."""
        try:  # noqa: SIM105 - with each thing: `suppress` would be three calls more
            self.asleep.release()
        except RuntimeError:  # it was woken
            pass


class Together(Shared, Generic[T]):
    """Does what threads add. Thread-safe.

    An interrupt (Ctrl-C) takes the thread away that it comes to, and no other: whose things that one was doing are told
    that it was interrupted, and may add them again.

    :param do: does a batch, all of it or nothing; raises a `PointsmanError` that says why it could not.
    :param fitting: says how many of those that wait, from the first on, one batch may have.
    """

    def __init__(self, do: Callable[[Sequence[T]], None], fitting: Callable[[Sequence[T]], int]) -> None:
        super().__init__()
        self._do, self._fitting = do, fitting
        self.begin()

    def begin(self) -> None:
        self._queue: list[_Entry[T]] = []
        self._lock = threading.Lock()  # over the queue and what follows
        self._leader: _Entry[T] | None = None  #: whose thread does all that wait
        self._batch: Sequence[_Entry[T]] = ()  #: what that one does now
        self._error: PointsmanError | None = None  #: how that went
        self._gathering: _Entry[T] | None = None  #: of that one, while it gives the others a moment to come
        self._together, self._took = 1, 0.0  #: of the last batch: how many, and how long it took in seconds

    def add(self, item: T) -> None:
        """Return when it is done.

        :raises PointsmanError: it could not be.
        """
        entry = _Entry(item)
        try:
            with self._lock:
                self._queue.append(entry)
                self._leader = self._leader or entry
                if self._gathering is not None and len(self._queue) >= self._together:
                    self._gathering.wake()
                    self._gathering = None
            while not entry.done and self._leader is not entry:
                entry.asleep.acquire(timeout=_LOOK_S)
            if not entry.done:
                self._lead(entry)
        except BaseException:  # Ctrl-C, at any place
            self._leave(entry)
            raise
        finally:
            if entry.following is not None:
                entry.following.wake()
        if entry.error is not None:
            raise copy(entry.error)  # its own: others raise it too

    @contextmanager
    def idle(self) -> Iterator[bool]:
        """Say whether nothing is being done, and let nothing begin meanwhile."""
        with self._lock:
            yield self._leader is None

    def _lead(self, mine: _Entry[T]) -> None:
        """Do what waits.

        Those who were there the last time may be about to come again: they are given as long as that took.
        """
        self._error, began = _INTERRUPTED, perf_counter()
        try:
            with self._lock:
                gathers = len(self._queue) < self._together
                self._gathering = mine if gathers else None
            if gathers:
                mine.asleep.acquire(timeout=min(self._took, _MOMENT_S))
                began = perf_counter()
            with self._lock:
                self._gathering = None
                fitting = self._fitting([one.item for one in self._queue])
                self._batch, self._queue = self._queue[:fitting], self._queue[fitting:]
            self._do([one.item for one in self._batch])
            self._error = None
        except PointsmanError as failed:
            self._error = failed
        self._together, self._took = len(self._batch), perf_counter() - began
        with self._lock:
            self._end(mine)

    def _end(self, mine: _Entry[T]) -> None:
        """Tell everybody how it went, and let the first of those who wait lead. The lock is held.

        Not all are woken at once, to wait for the interpreter's lock: each one wakes the next, this thread the first.
        Where that was interrupted, it is done again.
        """
        others = [entry for entry in self._batch if not entry.gone and entry is not mine]
        for entry, following in zip_longest((mine, *others), others):
            entry.error, entry.following = self._error, following
            entry.done = True
        self._batch, self._gathering = (), None
        self._leader = self._queue[0] if self._queue else None
        if self._leader is not None:
            self._leader.wake()

    def _leave(self, entry: _Entry[T]) -> None:
        """Forget an entry whose thread is gone; what is being done already goes on."""
        with self._lock:
            entry.gone = True
            if entry in self._queue:
                self._queue.remove(entry)
            if self._leader is entry:
                self._end(entry)
