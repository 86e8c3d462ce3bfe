"""A clock that is advanced by hand: an hour of cool-down passes in a test at once.

    clock = Clock()
    router = Router(backends, clock=clock)
    ...                                     # the backend fails, and is left alone
    clock.advance(3600)                     # now it is asked again
    clock.waits                             # what the router waited meanwhile, in seconds

Backoff, cool-downs and the windows of rate limits pass by it; so do the timetables of a
`FaultServer(clock=clock)`. What bytes take stays real: a timeout of two seconds on a silent server
takes two seconds.
"""

from __future__ import annotations

import threading

from .. import scope


class Clock(scope.Clock):
    """Runs as real time does, and can be put forward. Thread-safe.

    :param jumps: whether a wait puts the clock forward itself, by so much, instead of waiting: so the waits of
        calls side by side add up. Otherwise a wait lasts until `advance` has brought its end.
    """

    def __init__(self, *, jumps: bool = True) -> None:
        self._jumps = jumps
        self._ahead = 0.0
        self._waits: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return seconds since some fixed time; never less than before."""
        return super().now() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let so many seconds be over.

        :raises ValueError: they are negative: no clock of a router goes back.
        """
        if seconds < 0:
            raise ValueError(f"Clock.advance: found {seconds!r}, expected seconds from 0 on")
        with self._lock:
            self._ahead += seconds

    def wait(self, scope: scope.Scope, seconds: float, woken: threading.Event | None = None) -> bool:
        """Let the seconds be over, for this call too; False if nobody waits, its time is up, or `woken` is set."""
        woken, seconds = woken or threading.Event(), max(0.0, seconds)
        if scope.cancelled or woken.wait(0):
            return False
        began = self.now()
        with self._lock:
            self._waits.append(seconds)
        if self._jumps:
            self.advance(seconds)
        forget = scope.on_cancel(woken.set)
        rung = False
        while self.now() < began + seconds and not rung:
            rung = woken.wait(_LOOK_S)
        forget()
        scope.elapse(min(seconds, self.now() - began))
        return not rung and not scope.cancelled and not scope.expired

    @property
    def waits(self) -> tuple[float, ...]:
        """Seconds of each wait so far, in the order in which they began."""
        with self._lock:
            return tuple(self._waits)


_LOOK_S = 0.002  # how often a wait that is held looks at the clock
