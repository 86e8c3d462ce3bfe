"""How long a call may still take, and whether anybody still waits for it.

A provider gets a `Scope` with every request. It asks `remaining()` before it waits, registers
what must be torn down with `on_cancel`, and otherwise need not know who cancelled or why. What
only the router waits for (a backoff, a cool-down, a window of a rate) is read from its `Clock`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic


class Scope:
    """The limits of one call, and of its running attempt. Thread-safe: any thread may cancel what another one runs.

    :param timeout: seconds that the whole call may take; `None` means no limit.
    :param idle_timeout: seconds that a stream may be silent between two pieces of content.
    """

    __slots__ = ("_call_ends", "_callbacks", "cancelled", "deadline", "first_byte_by", "idle_timeout", "part")

    def __init__(self, timeout: float | None = None, *, idle_timeout: float | None = None) -> None:
        self.cancelled = False  #: whether nobody waits any more: `cancel` says so, and nothing else may
        self._callbacks: tuple[Callable[[], None], ...] = ()
        self.restart(timeout, idle_timeout)

    def restart(self, timeout: float | None, idle_timeout: float | None) -> None:
        """Start the clock of the whole call, with these limits in seconds."""
        self._call_ends = inf if timeout is None else monotonic() + timeout
        #: `time.monotonic()` by which this attempt must be done
        self.deadline = self._call_ends
        #: `time.monotonic()` by which the answer must have begun: the first content of a stream, the first byte else
        self.first_byte_by = self._call_ends
        self.idle_timeout = idle_timeout
        self.part = 0.0  #: seconds for which an attempt that takes content may stand still, since others wait

    def begin(self, timeout: float | None = None, first_byte_timeout: float | None = None) -> None:
        """Start an attempt, with its own limits in seconds within those of the call."""
        now = monotonic()
        self.deadline = self._call_ends if timeout is None else min(self._call_ends, now + timeout)
        self.first_byte_by = (
            self.deadline if first_byte_timeout is None else min(self.deadline, now + first_byte_timeout)
        )

    def moved(self, left: float) -> None:
        """Let an attempt go on that has taken content: for so many seconds, or `part`, whichever is more."""
        self.begin(max(left, self.part))

    def remaining(self) -> float:
        """Seconds left for this attempt: `inf` without a limit, never below 0."""
        return max(0.0, self.deadline - monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time of the whole call is up."""
        return monotonic() >= self._call_ends

    def left(self) -> float:
        """Seconds left for the whole call, with all its attempts: `inf` without a limit, never below 0."""
        return max(0.0, self._call_ends - monotonic())

    def cancel(self) -> None:
        """Say that nobody waits any more: the whole call ends, and every registered callback runs here, once."""
        with _LOCK:
            self.cancelled = True
            callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Run `callback` when the call is cancelled; at once if it already is.

        The callback runs in the cancelling thread: it must be short, must not block and must not
        raise. Call what this returns to forget the callback.
        """
        with _LOCK:
            if not self.cancelled:
                self._callbacks += (callback,)
                return lambda: self._forget(callback)
        callback()
        return lambda: None

    def _forget(self, callback: Callable[[], None]) -> None:
        with _LOCK:
            self._callbacks = tuple(kept for kept in self._callbacks if kept is not callback)

    def elapse(self, seconds: float) -> None:
        """Take `seconds` off the time that is left: a clock that was advanced by hand says so."""
        self._call_ends -= seconds
        self.deadline -= seconds
        self.first_byte_by -= seconds

    def __reduce__(self) -> tuple[type[Scope], tuple[()]]:
        """A scope belongs to one running call: a copy or a pickle of it has no limits."""
        return (Scope, ())


class Bell(threading.Event):
    """Wakes one thread; each `wait` takes the signal with it. The collector may let a stream `set` it inside `wait`."""

    def __init__(self) -> None:
        self._shut = threading.Lock()  # of an `Event`, the waiting thread itself may hold the lock just then
        self._shut.acquire()

    def set(self) -> None:
        """Let one wait end."""
        with suppress(RuntimeError):
            self._shut.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for so many seconds at most; say whether it was set."""
        return self._shut.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


class Clock:
    """What a router reads and waits by. Thread-safe. `pointsman.testing.Clock` is advanced by hand."""

    def now(self) -> float:
        """Return seconds since some fixed time."""
        return monotonic()

    def wait(self, scope: Scope, seconds: float, woken: threading.Event | None = None) -> bool:
        """Let `seconds` pass, and say whether the call may then go on; a cancel, or `woken`, ends the wait at once."""
        woken = woken or threading.Event()
        forget = scope.on_cancel(woken.set)
        try:
            return not woken.wait(seconds) and not scope.expired
        finally:
            forget()


_LOCK = threading.RLock()  # held for a few instructions only; the collector may close a stream, and forget, inside
