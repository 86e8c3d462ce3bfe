"""Copies that other stores have still to get: the outbox, when it is needed, and who brings them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

from attrs import evolve

from ._courier import Courier
from ._outbox import Outbox, Waiting, What
from ._sources import Pieces
from ._stores import StoreBackend
from ._storing import Storing, includes
from .errors import BackendError, BackendTimeout, ContentNotFoundError
from .forks import Shared
from .scope import Scope

#: Of a call that takes as long as it takes.
_FOREVER = Scope()
#: What a store is asked for a job; for all others, to take content.
_HOOKS = {"unpin": "unpin", "pin": "pin", "compare": "entries"}
#: Seconds for which many puts take as known whether it exists.
_LATE_S = 1.0


class Post(Shared):
    """The outbox of one `Store`. Thread-safe; a forked child opens it anew.

    :param path: of the file, which is made with the first thing that waits.
    """

    def __init__(self, path: Path, storing: Callable[[], Storing]) -> None:
        self._path, self._storing = path, storing
        self._looked, self._existed = 0.0, False  #: until when whether it exists is known, and whether it did
        self.opened: tuple[Outbox, Courier] | None = None  #: since something waited
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self._lock = threading.Lock()
        # The threads that bring things are those of the parent. If its file is still open, nothing may close it here.
        self._parents, self.opened = self.opened, None

    @property
    def exists(self) -> bool:
        """Whether anything has ever waited. What cannot be written is left to who can: no job in it can be taken."""
        return self.opened is not None or all(os.access(path, os.W_OK) for path in (self._path, self._path.parent))

    def send(
        self, cid: str, stores: Sequence[str], what: What = "put", kept: str = "", scope: Scope = _FOREVER
    ) -> None:
        """Note what these stores have still to do, durably, and let it be done.

        :param kept: the store that has just pinned it: an older wish that it lets it go counts no more.
        """
        if stores or (kept and self._exists_of_late()):
            outbox, courier = self._open(scope)
            outbox.add(cid, stores, what, kept, scope.left())
            courier.wake(stores)

    def _exists_of_late(self) -> bool:
        """Do as `exists`, for many puts: one that another process has made within the last second may be missing."""
        if self.opened is None and monotonic() > self._looked:
            self._looked, self._existed = monotonic() + _LATE_S, self.exists
        return self.opened is not None or self._existed

    def drop(self, cid: str, scope: Scope, *, puts_only: bool = False) -> bool:
        """Forget what was to be done with this content, and say whether stores are being compared: `Outbox.drop`."""
        return self.exists and self._open(scope)[0].drop(cid, None, scope.left(), puts_only=puts_only)

    def waiting(self, cid: str | None = None) -> list[Waiting]:
        """Return what waits."""
        return self._open()[0].waiting(cid) if self.exists else []

    def counts(self) -> dict[str, tuple[int, float, str]]:
        """Return of each store for which something waits: how many, since when, and why one of them failed."""
        return self._open()[0].counts() if self.exists else {}

    def resume(self) -> None:
        """Go on with what waits from the last time."""
        if self.exists:
            outbox, courier = self._open()
            courier.wake(outbox.counts())

    def drain(self, scope: Scope, patience: float | None = None) -> None:
        """Try everything that waits once, now; with `patience`, as `Courier.drain` says."""
        if self.exists:
            outbox, courier = self._open()
            courier.drain(outbox.counts(), scope, patience)

    def seen(self, usable: Iterable[str]) -> set[str]:
        """Note these stores as ones that were there once, and return all such."""
        return self._open()[0].seen(usable)

    def close(self) -> None:
        """End what is being brought, and let the file go; what is still being put does not open it any more."""
        with self._lock:
            if self.opened is None:
                self._storing().registry.closed = True
        if self.opened is not None:
            outbox, courier = self.opened
            courier.close()
            outbox.close()

    def _open(self, scope: Scope = _FOREVER) -> tuple[Outbox, Courier]:
        with self._lock:
            if self.opened is None:
                storing = self._storing()
                lists = [one.id for one in storing.able(storing.task("entries")) if one.writable]
                outbox = Outbox(self._path, lists, scope.left())
                self.opened = outbox, Courier(outbox, self._deliver, storing.idle_timeout)
            return self.opened

    def _deliver(self, job: Waiting, scope: Scope, renew: Callable[[], None]) -> None:
        """Do one job.

        :raises BackendError: it could not be done.
        """
        storing = self._storing()
        target = [one for one in storing.registry.backends if one.id == job.store]
        asked = storing.task(_HOOKS.get(job.what, "import_car"))
        if why := storing.gate.never(target[0], asked) if target else "no store of this id is configured":
            raise BackendError(why)
        if job.what == "compare":
            self._compare(target, scope, renew)
            return
        with suppress(ContentNotFoundError):  # what is to be pinned a collection may have taken: others have it
            if job.what in ("unpin", "pin"):
                storing.run(evolve(storing.task(job.what, cid=job.cid), scope=scope), (target, []))
                return
        if job.what != "unpin":
            self._bring(job.cid, target, job.what != "mend", scope, renew)

    def _compare(self, target: list[StoreBackend], scope: Scope, renew: Callable[[], None]) -> None:
        """Note what it has not of all that is pinned in others that are ours; elsewhere it may be somebody else's."""
        storing = self._storing()
        listing = evolve(storing.task("entries", cid=None), scope=scope)
        here, new = {entry.cid for entry in storing.given_out(listing, (target, []))}, set[str]()
        ours = [one for one in storing.able(storing.task("collect")) if one is not target[0]]

        def pinned() -> Iterator[str]:
            for one in ours:
                for entry in storing.given_out(listing, ([one], [])):
                    renew()
                    yield entry.cid

        for cid in pinned():
            if cid not in here and cid not in new and "unpin" not in [waits.what for waits in self.waiting(cid)]:
                self.send(cid, [target[0].id])
                new.add(cid)
        for cid in new and new.difference(pinned()):  # unpinned since
            self._open()[0].drop(cid, target[0].id, puts_only=True)

    def mend(self, cid: str, store: str) -> bool:
        """Bring back what is damaged in a store, now; say whether that was done."""
        target = [one for one in self._storing().registry.backends if one.id == store and one.writable]
        with suppress(BackendError):
            if target:
                self._bring(cid, target, False, Scope(idle_timeout=self._storing().idle_timeout), bool)
                return True
        return False

    def _bring(
        self, cid: str, target: list[StoreBackend], pin: bool, scope: Scope, renew: Callable[[], object]
    ) -> None:
        storing, failure = self._storing(), list[BackendError]()
        export = evolve(storing.task("export_car", cid=cid), scope=scope)
        others = [one for one in storing.able(export) if one is not target[0]]
        if not others:
            raise BackendError("no other store is configured that could give it out")
        pieces = storing.bytes_of(export, (others, []))

        def brought() -> Iterator[bytes]:
            try:
                for piece in pieces:
                    renew()
                    yield piece
            except BackendError as error:
                why = _SourceFailed(f"what was to be brought could not be read: {error}", retry_after=error.retry_after)
                # Where one hung, or lacks it, that is told as it is: to wait for more of it takes hours.
                failure.append(error if error.blameless or includes(error, BackendTimeout) else why)
                raise why from error

        source = Pieces(brought())
        if not pin and storing.registry.can(target[0], "mend"):
            task = storing.task("mend", source=source)
        else:
            task = storing.task("import_car", source=source, pin=pin)
        try:
            answered = storing.run(evolve(task, scope=scope, max_retries=0), (target, []))  # it can be read once
        except BackendError as error:
            raise failure[0] if failure else error from None
        if cid not in (roots := [root.cid for root in answered.answer]):
            raise BackendError(f"it has kept something else: {', '.join(roots)}")


class _SourceFailed(BackendError):
    """It says nothing against the store that was to get it."""

    blameless = True
    retry_same = False
