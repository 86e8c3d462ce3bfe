"""What threads share, across a fork: the child has the thread that forked, and must not wait for the others."""

from __future__ import annotations

import os
import threading
from operator import attrgetter
from weakref import WeakSet

#: Seconds for which a fork waits until a change has ended.
PAUSE_S = 5.0


class Shared:
    """Something that begins anew in a forked child."""

    level = 0  #: those of a lower one are paused first: who holds them may be waiting for the others

    def __init__(self) -> None:
        with _forking:
            _all.add(self)

    def pause(self) -> bool:
        """Before a fork: wait until what is being done is done, and let nothing begin; say whether that came soon."""
        return False

    def resume(self) -> None:
        """Go on, after a pause."""

    def begin(self) -> None:
        """Begin with locks that nobody holds."""


_all = WeakSet[Shared]()
_paused: list[Shared] = []
_forking = threading.Lock()  # over `_all`, and held during a fork


def _before() -> None:
    _forking.acquire()
    _paused[:] = [one for one in sorted(_all, key=attrgetter("level")) if one.pause()]


def _in_parent() -> None:
    while _paused:
        _paused.pop().resume()
    _forking.release()


def _in_child() -> None:
    _paused.clear()
    for one in list(_all):
        one.begin()
    _forking.release()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
