"""What threads share, across a fork: the child has the thread that forked, and must not wait for the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol
from weakref import WeakSet

#: Seconds for which a fork waits until a change has ended.
PAUSE_S = 5.0


class Lock(Protocol):
    """What is taken before a fork, and let go after it."""

    def acquire(self, *, timeout: float) -> bool:
        """Take it; say whether that was possible within so many seconds."""

    def release(self) -> None:
        """Let it go."""


class Shared:
    """Something that begins anew in a forked child."""

    level = 0  #: those of a lower one are paused first: who holds them may be waiting for the others

    def __init__(self) -> None:
        with _forking:
            _all.add(self)

    def locks(self) -> Sequence[Lock]:
        """Return what is taken before a fork, in this order: then nothing is being done, and nothing begins."""
        return ()

    def let_go(self) -> None:
        """Before a fork, when all of that is taken: close what no child should inherit."""

    def begin(self) -> None:
        """Begin with locks that nobody holds."""


_all = WeakSet[Shared]()
_taken: list[Lock] = []
_forking = threading.Lock()  # over `_all`, and held during a fork


def _before() -> None:
    _forking.acquire()
    for one in sorted(_all, key=attrgetter("level")):
        locks = one.locks()
        for lock in locks:
            if not lock.acquire(timeout=PAUSE_S):
                break
            _taken.append(lock)
        else:
            one.let_go()


def _in_parent() -> None:
    while _taken:
        _taken.pop().release()
    _forking.release()


def _in_child() -> None:
    _taken.clear()
    for one in list(_all):
        one.begin()
    _forking.release()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
