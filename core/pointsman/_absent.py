"""Which stores of a default `Store` are merely installed: nobody configured them, and they never were there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from ._post import Post
from ._storing import Storing

#: Seconds for which many puts take who was ever there as known.
_LATE_S = 1.0


class Absent:
    """Knows them. Thread-safe. What was there once is waited for, and stands in the outbox.

    :param found: whether nobody configured any of the stores.
    """

    def __init__(self, found: bool, post: Post, storing: Callable[[], Storing]) -> None:
        self._found, self._post, self._storing = found, post, storing
        self._lately: tuple[float, int, set[str]] = (0.0, 0, set())  #: until when, of how many findings: `of_late`
        self._noted: set[str] = set()  #: that were there, as the outbox knows

    def now(self) -> set[str]:
        """Return their ids."""
        if not self._found:
            return set()
        storing = self._storing()
        health = {one.id: storing.monitor.known(one) for one in storing.registry.backends}
        absent = {name for name, known in health.items() if known and known.status == "unconfigured"}
        return absent - self._post.seen(()) if absent and self._post.exists else absent

    def of_late(self) -> set[str]:
        """Do as `now`, for many puts: what another process has seen within the last second may be missing."""
        if not self._found:
            return set()
        until, changes, absent = self._lately
        monitor = self._storing().monitor
        if monotonic() > until or changes != monitor.changes:
            changes, absent = monitor.changes, self.now()
            self._lately = monotonic() + _LATE_S, changes, absent
        return absent

    def note(self, there: Iterable[str]) -> None:
        """Note that these are there."""
        if self._found and (new := {*there} - self._noted):
            self._post.seen(new)
            self._noted |= new
