"""Keeps at most one child for a backend: started when first needed, started anew when it has ended."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet, finalize

from ._child import Child
from ._launch import Launch


class Keeper:
    """Thread-safe. In a forked process it starts a child of its own and leaves the parent's alone."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._lock = threading.Lock()
        self._held: list[Child] = []  # one at most; a list, so that `finalize` needs not know us
        finalize(self, _close, self._held)
        _keepers.add(self)
        _watch_forks()

    def child(self) -> Child:
        """Return a child that takes requests."""
        with self._lock:
            if self._held and not self._held[0].usable:
                _close(self._held)
            if not self._held:
                self._held.append(Child(self._launch))
            return self._held[0]

    def close(self) -> None:
        """End the child, if there is one. The next request starts a new one."""
        with self._lock:
            _close(self._held)

    def after_fork(self) -> None:
        """In a forked process: forget the parent's child."""
        self._lock = threading.Lock()
        for child in self._held:
            child.forget()
        _foreign.extend(self._held)
        self._held.clear()


def _close(held: list[Child]) -> None:
    while held:
        held.pop().close()


_keepers: WeakSet[Keeper] = WeakSet()
_foreign: list[Child] = []  # kept, so that nothing of them is torn down here
_watching = threading.Lock()  # acquired once, and never released


def _watch_forks() -> None:
    if hasattr(os, "register_at_fork") and _watching.acquire(blocking=False):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for keeper in list(_keepers):
        keeper.after_fork()
