"""Which backend is left alone for now, and why.

A cool-down belongs to a backend, or to one of its models. It is extended and never shortened, and
a success ends it. A soft one is a guess of ours; a hard one is the backend's own word (a hint, a
refused key, money): while all cool-downs are soft, the least bad backend is tried rather than none.
"""

from __future__ import annotations

import threading
from copy import copy
from time import monotonic

from attrs import frozen

from .errors import BackendError

#: A cool-down that is at least this long, in seconds, is never a guess.
_HARD = 60.0


@frozen
class Pause:
    """One cool-down: until when (`time.monotonic()`), for what error, and whether it is only a guess."""

    until: float
    error: BackendError
    soft: bool

    def left(self) -> float:
        """Seconds until it ends."""
        return self.until - monotonic()


class Breaker:
    """The cool-downs of one router. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses: dict[tuple[str, str | None], Pause] = {}

    def failed(self, backend: str, model: str | None, error: BackendError) -> None:
        """Leave the backend (or this model of it) alone for as long as the error says."""
        hinted = error.retry_after is not None
        seconds = error.retry_after if error.retry_after is not None else error.cooldown
        if seconds <= 0:
            return
        pause = Pause(monotonic() + seconds, copy(error), soft=not hinted and seconds < _HARD)
        key = (backend, model if error.of_model else None)
        with self._lock:
            known = self._pauses.get(key)
            if known is None or known.until < pause.until:
                self._pauses[key] = pause

    def succeeded(self, backend: str, model: str | None) -> None:
        """End the cool-downs that this answer disproves."""
        if self._pauses:
            with self._lock:
                self._pauses.pop((backend, None), None)
                self._pauses.pop((backend, model), None)

    @property
    def silent(self) -> bool:
        """Whether no backend has a cool-down."""
        return not self._pauses

    def pause(self, backend: str, model: str | None) -> Pause | None:
        """Return the cool-down that holds now, the longer one if both hold."""
        if not self._pauses:
            return None
        found = [p for key in ((backend, None), (backend, model)) if (p := self._pauses.get(key))]
        longest = max(found, key=lambda p: p.until, default=None)
        return longest if longest is not None and longest.left() > 0 else None
