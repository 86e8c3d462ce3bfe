"""What threads share, across a fork: the child has the thread that forked, and must not wait for the others.

For plugins that hold locks or connections: `Shared` is told before a fork, and begins anew in the child.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - its lock, and that of `logging`, are taken before a fork after ours
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from time import monotonic
from typing import Protocol
from weakref import WeakSet

#: Seconds for which a fork waits until a change has ended.
PAUSE_S = 5.0


class Lock(Protocol):
    """What is taken before a fork, and let go after it: an RLock, say. Who has not taken it cannot let it go."""

    def acquire(self, *, timeout: float) -> bool:
        """Take it; say whether that was possible within so many seconds."""

    def release(self) -> None:
        """Let it go. Raises RuntimeError if another thread has it."""


class Shared:
    """Something that begins anew in a forked child. From `__init__` on, a fork may come at any time."""

    level = 0  #: those of a lower one are paused first: who holds them may be waiting for the others

    def __init__(self) -> None:
        with _adding:
            _all.add(self)

    def locks(self) -> Sequence[Lock]:
        """Return what is taken before a fork, in this order: then nothing is being done, and nothing begins."""
        return ()

    def before_fork(self) -> None:
        """When all of that is taken: close what no child should inherit. It may be asked again before the same fork."""

    def begin(self) -> None:
        """Begin with locks that nobody holds."""


class ForkLock(Shared):
    """A lock that no thread holds in a forked child: `with lock.held`. Who holds it may take it again."""

    def __init__(self) -> None:
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self.held = threading.RLock()  # Ctrl-C comes neither between its taking and what is done within, nor at the end


class _Taken(threading.local):
    """What a thread has taken before it forks."""

    def __init__(self) -> None:
        self.locks = list[Lock]()


_all = WeakSet[Shared]()
_taken = _Taken()
_forking = threading.RLock()  # held by a thread that forks
_adding = threading.RLock()  # over `_all`; held during a fork, and not before: who adds may hold what that waits for


def _surely(work: Callable[[], None]) -> None:
    """Do it, again if Ctrl-C comes meanwhile: what Python then ignores here would leave a lock taken for ever."""
    try:
        work()
    except KeyboardInterrupt:
        _surely(work)
        raise


def _take() -> None:
    if _taken_now(_forking):
        paused, until = set[Shared](), monotonic() + PAUSE_S
        while _taken_now(_adding) and (new := set(_all) - paused):
            _let_go()
            if monotonic() < until:  # all anew, in their order: who holds what is new may be waiting for the others
                new |= paused
                _release(1)
            paused |= new
            for one in sorted(new, key=attrgetter("level")):
                if all(map(_taken_now, one.locks())):
                    one.before_fork()


def _taken_now(lock: Lock) -> bool:
    _taken.locks.append(lock)  # before it is: if Ctrl-C comes between, it is let go once too often, which does nothing
    if lock.acquire(timeout=PAUSE_S):
        return True
    _taken.locks.pop()
    return False


def _let_go() -> None:
    with suppress(RuntimeError):  # it was not ours
        _taken.locks[-1].release()
    _taken.locks.pop()


def _release(but: int = 0) -> None:
    while _taken.locks[but:]:
        _let_go()


def _begin() -> None:
    global _adding, _forking
    _adding, _forking = threading.RLock(), threading.RLock()
    _taken.locks.clear()
    for one in list(_all):
        one.begin()


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(
        before=partial(_surely, _take),
        after_in_parent=partial(_surely, _release),
        after_in_child=partial(_surely, _begin),
    )
