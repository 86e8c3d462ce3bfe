"""Which backend is left alone for now, and why: a circuit for each backend, and for each of its models.

A failure opens the circuit for as long as the error says: a hint of the backend is taken at its
word, a guess of ours doubles with every opening, up to a minute. Errors whose class is patient
(an unusable answer, say) open it when they come three in a row, or are half of what came within a
minute. An open circuit is extended and never shortened. When the time is over it is half open: one
call is the probe, and no other is let through before that one has shown how things are.

A hard cool-down is the backend's own word (a hint, a refused key, money); a soft one is a guess:
while all cool-downs are soft, the least bad backend is tried rather than none.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from copy import copy

from attrs import define, field, frozen

from . import _log
from .errors import BackendError
from .forks import Shared
from .scope import Clock

#: A cool-down that is at least this long, in seconds, is never a guess; nor does a guess grow beyond it.
_HARD = 60.0
#: What opens a circuit for the first guess, in seconds, where the class of the error names no cool-down.
_FIRST = 5.0
#: So many failures in a row, or half of at least so many outcomes within so many seconds.
_IN_A_ROW, _ENOUGH, _WINDOW = 3, 10, 60.0
#: Circuits that are kept at most: names of models may come from outside.
_MOST = 1000


@frozen
class Pause:
    """One cool-down: for how many seconds more (0: a call probes it now), for what error, and whether it is a guess."""

    left: float
    error: BackendError
    soft: bool

    def __str__(self) -> str:
        return f"{self.state}: {self.error.message}"

    @property
    def state(self) -> str:
        """How long it lasts, in words."""
        up = self.left + 0.499  # rounded up: it never says 0 s, nor less than what was asked for a moment ago
        return f"cooling down for {up:.0f} s more" if self.left else "cooled down, and one call is trying it"


@define(eq=False)
class _Circuit:
    """What is known of one backend, or of one model of it."""

    until: float = 0.0  #: by the clock; 0 is closed
    error: BackendError | None = None
    soft: bool = True
    in_a_row: int = 0
    openings: int = 0  #: since the last success
    probe: object = None  #: who tries it now that it is half open
    waiting: list[threading.Event] = field(factory=list)  #: those who want to know how the probe ends
    window_ends: float = 0.0
    outcomes: int = 0  #: within the window
    failures: int = 0

    def note(self, now: float, *, good: bool) -> bool:
        """Note an outcome; say whether failures are as many as patience allows."""
        if now > self.window_ends:
            self.window_ends, self.outcomes, self.failures = now + _WINDOW, 0, 0
        self.outcomes += 1
        self.failures += not good
        self.in_a_row = 0 if good else self.in_a_row + 1
        return self.in_a_row >= _IN_A_ROW or 2 * self.failures >= self.outcomes >= _ENOUGH

    def end_probe(self) -> None:
        """Let those go on who wait for the probe."""
        self.probe, waiting, self.waiting = None, self.waiting, []
        for woken in waiting:
            woken.set()


class Breaker(Shared):
    """The circuits of one router. Thread-safe; in a forked child nobody tries yet what is half open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._circuits: dict[tuple[str, str | None], _Circuit] = {}
        self.silent = True  #: whether nothing stands against any backend
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self._lock = threading.RLock()  # the collector may close an abandoned stream, and come here, inside
        for circuit in self._circuits.values():
            circuit.probe, circuit.waiting = None, []

    def failed(self, backend: str, model: str | None, error: BackendError) -> None:
        """Count a failure that says something about the backend; leave it, or this model of it, alone if it must be."""
        key, now = (backend, model if error.of_model else None), self._clock.now()
        with self._lock:
            circuit, self.silent = self._circuits.setdefault(key, _Circuit()), False
            too_many = circuit.note(now, good=False)
            seconds, soft = error.retry_after, False
            if seconds is None:
                seconds, soft = error.cooldown or _FIRST * too_many, error.cooldown < _HARD
            if soft:
                seconds = min(seconds * 2.0 ** min(circuit.openings, 9), _HARD)
            if opened := now + seconds > max(now, circuit.until):
                opened = circuit.until <= now  # and not the next of many that failed together
                circuit.openings += opened
                circuit.until, circuit.error, circuit.soft = now + seconds, copy(error), soft
            circuit.end_probe()
            if len(self._circuits) > _MOST:
                self._circuits.pop(min(self._circuits, key=lambda old: old[1] is None)).end_probe()
        if opened:  # told outside: a handler of the log may do anything
            _log.warning("circuit opened", backend=backend, model=key[1], seconds=seconds, reason=error.message)

    def succeeded(self, backend: str, model: str | None, *, whole: bool = True) -> None:
        """Close the circuits that this answer disproves; one that has only begun (not `whole`) lets others in."""
        if self.silent:
            return
        closed = []
        with self._lock:
            for key, circuit in self._of(backend, model):
                closed += [key[1]] if circuit.until else []
                circuit.until = 0.0
                circuit.end_probe()
                if whole:
                    circuit.openings = 0
                    circuit.note(self._clock.now(), good=True)
                    if not circuit.failures:
                        del self._circuits[key]
            self.silent = not self._circuits
        for name in closed:
            _log.write(_log.INFO, "circuit closed", backend=backend, model=name)

    def enter(self, backend: str, model: str | None, caller: object, woken: threading.Event | None = None) -> bool:
        """Say whether `caller` may ask now: a half open circuit lets one in. `woken` is set when that one has ended.

        With `woken`, one that is open does not count.
        """
        now = self._clock.now()
        with self._lock:
            circuits = [one for _, one in self._of(backend, model) if one.until and (one.until <= now or not woken)]
            for circuit in circuits:
                if circuit.until > now or circuit.probe not in (None, caller):
                    circuit.waiting += [woken] if woken is not None else []
                    return False
            for circuit in circuits:
                circuit.probe = caller
            return True

    def left(self, caller: object) -> None:
        """`caller` is done: where it was the probe and has shown nothing, somebody else may be it."""
        with self._lock:
            for circuit in self._circuits.values():
                if circuit.probe is caller:
                    circuit.end_probe()

    def pause(self, backend: str, model: str | None) -> Pause | None:
        """Return the cool-down that holds now, the longer one if both hold; it ends in a probe, which holds too."""
        if self.silent:
            return None
        now = self._clock.now()
        with self._lock:
            found = [
                Pause(max(0.0, circuit.until - now), circuit.error, circuit.soft or circuit.until <= now)
                for _, circuit in self._of(backend, model)
                if circuit.error is not None and (circuit.until > now or circuit.probe is not None)
            ]
        return max(found, key=lambda pause: pause.left, default=None)

    def _of(self, backend: str, model: str | None) -> Iterator[tuple[tuple[str, str | None], _Circuit]]:
        for key in {(backend, None), (backend, model)}:
            if (circuit := self._circuits.get(key)) is not None:
                yield key, circuit
