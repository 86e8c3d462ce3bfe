"""Keeps one process for a backend: started when first needed, started anew when it has ended."""

from __future__ import annotations

import os
import threading
from time import monotonic
from weakref import WeakSet, finalize

from pointsman import Scope

from .exchange import Exchange
from .protocol import Protocol
from .server import Server

#: Seconds for which a refusal of the protocol is believed: the program may be another one then.
_AGAIN_S = 600.0


class Keeper:
    """Thread-safe. In a forked process it starts one of its own and leaves the parent's alone."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.served = False  #: whether this process has taken a whole request: it speaks the protocol
        self._refused, self._until = "", 0.0
        self._lock = threading.Lock()
        self._held: list[Server] = []  # the last takes requests; a list, so that `finalize` needs not know us
        finalize(self, _close, self._held)
        _keepers.add(self)
        _watch_forks()

    @property
    def refused(self) -> str:
        """Why the program refuses its protocol, and had better be asked in another way; "" if it does not."""
        return self._refused if monotonic() < self._until else ""

    def refuse(self, why: str) -> None:
        """Note that the program refuses its protocol, and let what it works on be its last."""
        with self._lock:
            self._refused, self._until = why, monotonic() + _AGAIN_S
            for server in self._held:
                server.retire()

    def exchange(self, scope: Scope) -> Exchange:
        """Begin a request, with a process that takes requests."""
        with self._lock:  # until it has joined: one that served long enough ends with its last exchange
            return Exchange(self._current(), scope)

    def _current(self) -> Server:
        self._held[:] = [server for server in self._held if not server.over]
        if not self._held or not self._held[-1].usable:
            for server in self._held:
                server.retire()
            self._held.append(Server(self.protocol))
            self.served = False
        return self._held[-1]

    def close(self) -> None:
        """End the process, if there is one. The next request starts a new one."""
        with self._lock:
            self._until = 0.0
            _close(self._held)

    def after_fork(self) -> None:
        """In a forked process: forget the parent's process."""
        self._lock = threading.Lock()
        for server in self._held:
            server.forget()
        self._held.clear()


def _close(held: list[Server]) -> None:
    while held:
        held.pop().close()


_keepers: WeakSet[Keeper] = WeakSet()
_watching = threading.Lock()  # acquired once, and never released


def _watch_forks() -> None:
    if _watching.acquire(blocking=False):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for keeper in list(_keepers):
        keeper.after_fork()
