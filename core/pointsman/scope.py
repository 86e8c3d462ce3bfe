"""How long a call may still take, and whether anybody still waits for it.

A provider gets a `Scope` with every request. It asks `remaining()` before it waits, registers
what must be torn down with `on_cancel`, and otherwise need not know who cancelled or why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from time import monotonic


class Scope:
    """The limits of one attempt. Thread-safe: any thread may cancel what another one runs.

    :param timeout: seconds that the whole attempt may take; `None` means no limit.
    :param first_byte_timeout: seconds until the provider must have begun to answer.
    :param idle_timeout: seconds that a stream may be silent between two pieces of content.
    :param parent: the scope of the call that this attempt belongs to. It is cancelled with it and
        never outlives it.
    """

    __slots__ = ("_callbacks", "_cancelled", "deadline", "first_byte_by", "idle_timeout", "parent")

    def __init__(
        self,
        timeout: float | None = None,
        *,
        first_byte_timeout: float | None = None,
        idle_timeout: float | None = None,
        parent: Scope | None = None,
    ) -> None:
        now = monotonic()
        #: `time.monotonic()` by which all must be done
        self.deadline = inf if timeout is None else now + timeout
        if parent is not None and parent.deadline < self.deadline:
            self.deadline = parent.deadline
        #: `time.monotonic()` by which the answer must have begun
        self.first_byte_by = (
            self.deadline if first_byte_timeout is None else min(now + first_byte_timeout, self.deadline)
        )
        self.idle_timeout = idle_timeout
        self.parent = parent
        self._cancelled = False
        self._callbacks: tuple[Callable[[], None], ...] = ()

    def remaining(self) -> float:
        """Seconds left for the whole attempt: `inf` without a limit, never below 0."""
        return max(0.0, self.deadline - monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return monotonic() >= self.deadline

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled if self.parent is None else self.parent.cancelled

    def cancel(self) -> None:
        """Say that nobody waits any more: the whole call ends, and every registered callback runs here, once."""
        if self.parent is not None:
            self.parent.cancel()
            return
        with _LOCK:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Run `callback` when the call is cancelled; at once if it already is.

        The callback runs in the cancelling thread: it must be short, must not block and must not
        raise. Call what this returns to forget the callback.
        """
        if self.parent is not None:
            return self.parent.on_cancel(callback)
        with _LOCK:
            if not self._cancelled:
                self._callbacks += (callback,)
                return lambda: self._forget(callback)
        callback()
        return _nothing

    def _forget(self, callback: Callable[[], None]) -> None:
        with _LOCK:
            self._callbacks = tuple(kept for kept in self._callbacks if kept is not callback)

    def __reduce__(self) -> tuple[type[Scope], tuple[()]]:
        """A scope belongs to one running call: a copy or a pickle of it has no limits."""
        return (Scope, ())


def _nothing() -> None:
    """There is nothing to forget."""


_LOCK = threading.Lock()  # held for a few instructions only, so one for all scopes costs least
