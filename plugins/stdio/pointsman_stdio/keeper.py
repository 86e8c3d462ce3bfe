"""Keeps at most one process for a backend: started when first needed, started anew when it has ended."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet, finalize

from .server import Protocol, Server


class Keeper:
    """Thread-safe. In a forked process it starts one of its own and leaves the parent's alone."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        #: Whether the program has refused its protocol: then it had better be asked in another way.
        self.refused = False
        self._lock = threading.Lock()
        self._held: list[Server] = []  # one at most; a list, so that `finalize` needs not know us
        finalize(self, _close, self._held)
        _keepers.add(self)
        _watch_forks()

    def server(self) -> Server:
        """Return a process that takes requests."""
        with self._lock:
            if self._held and not self._held[0].usable:
                _close(self._held)
            if not self._held:
                self._held.append(Server(self.protocol))
            return self._held[0]

    def close(self) -> None:
        """End the process, if there is one. The next request starts a new one."""
        with self._lock:
            self.refused = False
            _close(self._held)

    def after_fork(self) -> None:
        """In a forked process: forget the parent's process."""
        self._lock = threading.Lock()
        for server in self._held:
            server.forget()
        _foreign.extend(self._held)
        self._held.clear()


def _close(held: list[Server]) -> None:
    while held:
        held.pop().close()


_keepers: WeakSet[Keeper] = WeakSet()
_foreign: list[Server] = []  # kept, so that nothing of them is torn down here
_watching = threading.Lock()  # acquired once, and never released


def _watch_forks() -> None:
    if _watching.acquire(blocking=False):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for keeper in list(_keepers):
        keeper.after_fork()
