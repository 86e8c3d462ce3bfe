"""The face of content-addressed storage: keeps bytes under their CID, and gives them back, from whichever store can."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

from attrs import evolve

from . import _log
from ._absent import Absent
from ._discovery import Catalogue, PluginInfo, wrappers_of
from ._outbox import Waiting
from ._post import Post
from ._settings import policy_of
from ._sources import Content, Given, file_of, noted, open_file, told, with_first
from ._stores import StoreBackend, Task, check_folders, outbox_path, stores_of
from ._storing import Storing, includes
from .content import Collected, Copy, Entry, Finding, Progress, Source, Stored
from .errors import BackendError, ContentNotFoundError, InvalidRequestError, PointsmanError
from .scope import Clock
from .values import Health

__all__ = ["Content", "Store", "Waiting"]


class Store:
    """Keeps content in one store, durably, before it says so, and brings it to all others; reads from any. Thread-safe.

    :param stores: `StoreBackend` values, bare store instances (in the order of preference), or a mapping of ids to
        either. Without it, every installed store that says it is configured: the embedded one, and an IPFS node on this
        machine if one answers.
    :param timeout: seconds that a call may take which moves no content. A call's own `timeout` bounds all of it.
    :param idle_timeout: seconds for which nothing may move of content that is on its way.
    :param max_retries: further attempts at the same store, where trying again may help.
    :param health_ttl: seconds for which a finding about health is good.
    :param outbox: the file of what other stores have still to get; made when it is needed. Without, it is beside the
        content of the first store that has a path to write to.
    :param middleware: names of installed `pointsman.middleware` plugins, or instances; the first is the outermost.
    :param found: whether these may or may not be there, as without `stores`: one that says it is unconfigured, and
        never was anything else, is missed by nobody.
    :param clock: what it waits by; `pointsman.testing.Clock` lets a test advance it.
    :raises ConfigError: with every problem that was found.
    """

    def __init__(  # noqa: PLR0913 - settings, by name
        self,
        stores: Iterable[object] | Mapping[str, object] | None = None,
        *,
        timeout: float | None = 60.0,
        idle_timeout: float | None = 60.0,
        max_retries: int = 1,
        health_ttl: float = 60.0,
        outbox: str | os.PathLike[str] | None = None,
        middleware: Iterable[str | object] = (),
        found: bool = False,
        clock: Clock | None = None,
        _catalogue: Catalogue | None = None,
    ) -> None:
        self._catalogue = _catalogue or Catalogue()
        made, found = stores_of(stores, self._catalogue), found or stores is None
        check_folders(made)
        wrappers = wrappers_of(self._catalogue, middleware, "Store")
        numbers = {"timeout": timeout, "idle_timeout": idle_timeout, "max_retries": max_retries}
        policy = policy_of(numbers | {"health_ttl": health_ttl}, "Store")
        self._post = Post(outbox_path(made, outbox), lambda: self._storing)
        self._absent = Absent(found, self._post, lambda: self._storing)
        told = self._damaged, self._absent.now
        self._storing = Storing(made, wrappers, policy, health_ttl, clock or Clock(), self._catalogue, *told)
        if found:
            self._storing.monitor.check(made)  # "configured" is theirs to say
        self._post.resume()

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any]) -> Store:
        """Return the store that the section STORES of a JSON or TOML file, or of a mapping of the same form, describes.

        Without such a section it is the default one.

        :raises ConfigError: with every problem, each with its path.
        """
        from .config import load, sealed

        source, catalogue = sealed(source), Catalogue()
        return cls(load(source, catalogue=catalogue).stores or None, _catalogue=catalogue)

    @property
    def stores(self) -> tuple[StoreBackend, ...]:
        """All stores, in the order of the configuration."""
        return self._storing.registry.backends

    # -- content in, content out -----------------------------------------------------------------------

    def put(  # noqa: PLR0913 - options, by name
        self,
        content: Given,
        *,
        pin: bool = True,
        profile: str | None = None,
        hidden: bool = True,
        store: str | None = None,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Stored:
        """Keep bytes, a file or a folder (by its path), what an open file reads, or bytes in pieces.

        It returns when one store has it, durably. The others get it from the outbox.

        :param pin: whether it is kept until it is unpinned; what is not pinned goes with the next `gc`, and to no other
            store.
        :param profile: how content becomes blocks, by name; the store's own if None.
        :param hidden: whether a folder's hidden files are kept too.
        :param store: the id of the only store that is to have it.
        :param progress: is told, each time, how many bytes were read.
        :raises InvalidRequestError: it cannot be read, or `progress` failed.
        :raises BackendError: it is in no store: the only one that could be asked failed.
        :raises AllBackendsFailed: it is in no store: several failed.
        """
        task, given = self._storing.task("store", store, timeout, moving=True), file_of(content)
        tell = partial(told, task.scope, progress or bool)
        if isinstance(given, Path):
            task.arguments["source"] = Source(given, None, pin, profile, hidden, tell)
            answered = self._storing.run(task)
        else:
            answered = self._storing.replayed(given, task, lambda file: Source(None, file, pin, profile, hidden, tell))
        return self._acknowledged(answered.answer, answered.backend, task, pin=pin)

    def get(self, cid: str, *, store: str | None = None, timeout: float | None = None) -> bytes:
        """Return all bytes of a file: `CID`, or `CID/a/b` for one in a folder.

        :raises ContentNotFoundError: no store has it, or nothing is there.
        :raises InvalidRequestError: the CID is none, or of a folder.
        :raises BackendError: no store could be asked, or gave the right bytes.
        """
        task = self._storing.task("fetch", store, timeout, moving=True, cid=cid, offset=0, length=None)
        return b"".join(self._storing.bytes_of(task))

    def open(
        self,
        cid: str,
        offset: int = 0,
        length: int | None = None,
        *,
        store: str | None = None,
        timeout: float | None = None,
    ) -> Content:
        """Return a file from `offset` on, `length` bytes of it (None: to the end), to be read as it comes.

        Raises as `get` does: at once what can be known at once, and while it is read what no store could go on with.
        """
        try:
            offset, length = index(offset), None if length is None else index(length)
        except TypeError as error:
            raise InvalidRequestError(f"offset {offset!r:.40}, length {length!r:.40}: expected integers") from error
        task = self._storing.task("fetch", store, timeout, moving=True, cid=cid, offset=offset, length=length)
        pieces = self._storing.bytes_of(task)
        return Content(with_first(pieces, next(pieces, b"")))

    def extract(
        self, cid: str, target: str | os.PathLike[str], *, store: str | None = None, timeout: float | None = None
    ) -> None:
        """Write a file or a folder to a path where nothing is: whole and verified, or not at all. Raises as `get`."""
        if not isinstance(target, str | os.PathLike):
            raise InvalidRequestError(f"target: found {type(target).__name__}, expected a path where nothing is")
        self._storing.run(self._storing.task("extract", store, timeout, moving=True, cid=cid, target=Path(target)))

    def export_car(self, cid: str, *, store: str | None = None, timeout: float | None = None) -> Iterator[bytes]:
        """Give out all that is under a CID as a CAR file of version 1, in pieces. Raises as `open`."""
        pieces = self._storing.bytes_of(self._storing.task("export_car", store, timeout, moving=True, cid=cid))
        return with_first(pieces, next(pieces, b""))

    def import_car(
        self, content: Given, *, pin: bool = True, store: str | None = None, timeout: float | None = None
    ) -> tuple[Stored, ...]:
        """Keep what a CAR file holds, and return its roots, as `put` does.

        :raises InvalidRequestError: it cannot be read, or is no CAR, or cut or altered.
        :raises UnusableAnswer: pinned, it must be whole: a root, or what any of its blocks links to, is not there.
        """
        task, given = self._storing.task("import_car", store, timeout, moving=True, pin=pin), file_of(content)
        with open_file(given) as file:
            answered = self._storing.replayed(file, task, lambda source: source)
        return tuple(self._acknowledged(root, answered.backend, task, pin=pin) for root in answered.answer)

    # -- what is kept ----------------------------------------------------------------------------------

    def has(self, cid: str, *, store: str | None = None, timeout: float | None = None) -> bool:
        """Say whether any store that can be asked has all that is under a CID, or what is at `CID/a/b`.

        :raises BackendError: none could be asked.
        """

        def there(backend: StoreBackend, task: Task) -> bool:
            if self._storing.registry.ask(backend, task):
                return True
            raise ContentNotFoundError("it is not there, or not whole")

        try:
            return self._storing.run(self._storing.task("has", store, timeout, cid=cid), None, there).answer is True
        except BackendError as error:
            if includes(error, ContentNotFoundError):
                return False
            raise

    def ls(self, cid: str | None = None, *, store: str | None = None, timeout: float | None = None) -> Iterator[Entry]:
        """List a folder; without a CID, what is pinned in the first store that can be asked. Raises as `open`."""
        return self._storing.given_out(self._storing.task("entries", store, timeout, moving=True, cid=cid))

    def pin(self, cid: str, *, timeout: float | None = None) -> None:
        """Keep what is under a CID until it is unpinned, in every store. Raises as `get`.

        What only a store has that keeps nothing, a gateway or one that is only read, is brought from there.
        """
        task = self._storing.rooted(self._storing.task("pin", None, timeout, moving=True, cid=cid))
        cid = task.arguments["cid"]
        try:
            backend = self._storing.run(task).backend
        except ContentNotFoundError:
            failed = list[BackendError]()  # of a store, and no mistake of the caller's
            car = noted(self.export_car(cid, timeout=timeout and task.scope.left()), failed)
            try:
                self.import_car(car, timeout=timeout and task.scope.left())
            except InvalidRequestError as error:
                raise failed[0] if failed else error from None
        else:
            self._post.send(cid, self._others(backend), kept=backend.id, scope=task.scope)

    def unpin(self, cid: str, *, timeout: float | None = None) -> None:
        """Let `gc` take what is under a CID, in every store; a store that cannot be told now is told later.

        :raises BackendError: there is but one store, and it could not be told; or none can be written.
        :raises ContentNotFoundError: `CID/a/b` leads to nothing in any.
        :raises InvalidRequestError: the CID is none.
        """
        task = self._storing.rooted(self._storing.task("unpin", None, timeout, cid=cid))
        if self._let_go(task, again=False):  # while stores are compared, one may get it from another that has it still
            self._let_go(task, again=True)

    def gc(self, *, timeout: float | None = None) -> dict[str, Collected]:
        """Remove what no pin keeps from every store that is ours, and return what that was, by the id of the store.

        :raises BackendError: one could not do it; or none of ours can be written.
        """
        task = self._storing.task("collect", None, timeout, moving=True)
        able, can = self._storing.able(task), self._storing.registry.can
        if not able and any(one.read_only and can(one, "collect") for one in self.stores):
            self._storing.run(task)
        return {one.id: self._storing.run(task, ([one], [])).answer for one in able}

    def verify(
        self, cid: str | None = None, *, repair: bool = False, store: str | None = None, progress: Progress = bool
    ) -> Iterator[Finding]:
        """Read all that is kept, or what is under a CID, in every store, and give out what is wrong with it.

        :param repair: bring back what is wrong from a store that has it; `Finding.mended` says whether that was done.
        :param progress: is told, each time, how many bytes were read.
        :raises InvalidRequestError: the CID is none, or `progress` failed.
        :raises UnavailableError: none can verify: a gateway has nothing of its own.
        """
        task = self._storing.task("verify", store, moving=True, cid=cid)
        task.arguments["progress"] = partial(told, task.scope, bool if progress is None else progress)
        for one in self._able(task):
            try:
                for found in self._storing.given_out(task, ([one], [])):
                    yield evolve(found, store=one.id, mended=repair and self._post.mend(found.cid, one.id))
            except InvalidRequestError:
                raise
            except BackendError as error:
                unchecked = not isinstance(error, ContentNotFoundError)
                yield Finding(cid or "", f"it cannot be verified: {error.message}", one.id, unchecked=unchecked)

    # -- the outbox ------------------------------------------------------------------------------------

    def sync(self, *, timeout: float | None = None, patience: float | None = None) -> tuple[Waiting, ...]:
        """Bring to every store what waits for it, now; return what waits on, with the reason.

        A store that fails three times in a row is tried no further.

        :param patience: seconds after which it returns if nothing moves; one failure is enough then.
        """
        self._post.drain(self._storing.task("sync", None, timeout, moving=True, patience=patience).scope, patience)
        return self.waiting()

    def waiting(self) -> tuple[Waiting, ...]:
        """Return what stores have still to get or to do, with the reason why it failed; the oldest first."""
        self._storing.check_open()
        return tuple(self._post.waiting())

    def status(self, cid: str, *, timeout: float | None = None) -> tuple[Copy, ...]:
        """Return how each store has what is under a CID.

        :param timeout: seconds; each store has an equal share, so that one that hangs leaves the others theirs.
        :raises InvalidRequestError: the CID is none.
        """
        # One share more, to find what a path leads to.
        each = timeout and self._storing.task("has", None, timeout).scope.left() / (len(self.stores) + 1)
        cid = self._storing.rooted(self._storing.task("has", None, each, cid=cid)).arguments["cid"]
        waiting, absent = {one.store: one for one in self._post.waiting(cid)}, self._absent.now()
        shown = (one.id for one in self.stores if one.enabled and one.id not in absent)
        return tuple(self._copy(cid, store, waiting.get(store), each) for store in shown)

    def health(self) -> dict[str, Health]:
        """Return how each store is, and whether anything waits for it."""
        self._storing.check_open()
        found = self._storing.monitor.check(self.stores)
        for store, (count, _, reason) in self._post.counts().items():
            if store in found:
                was, text = found[store], f"{count} in the outbox wait for it" + (f": {reason}" if reason else "")
                status = "degraded" if was.usable else was.status
                found[store] = Health(status, f"{was.reason}; {text}" if was.reason else text, was.refused)
        return found

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Return every installed plugin: loaded, available, or quarantined with the cause."""
        return self._catalogue.infos()

    def close(self) -> None:
        """Release all files, connections and threads. What waits in the outbox waits for the next time.

        Whatever is asked after that is a `ConfigError`. Repeating it changes nothing.
        """
        self._post.close()
        self._storing.registry.closed = True
        self._storing.registry.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _acknowledged(self, stored: Stored, backend: StoreBackend, task: Task, *, pin: bool) -> Stored:
        """Return what is kept, once it stands in the outbox who has still to get it."""
        several = pin and len(self._storing.registry.backends) > 1
        others = self._others(backend) if several and task.backend is None else []
        if several:
            self._post.send(stored.cid, others, kept=backend.id, scope=task.scope)
        return Stored(stored.cid, stored.size, stored.kind, (backend.id,), tuple(others))

    def _let_go(self, task: Task, *, again: bool) -> bool:
        """Unpin in every store, and say whether stores are being compared meanwhile."""
        cid, later, nowhere = task.arguments["cid"], list[str](), list[BackendError]()
        compared, able = self._post.drop(cid, task.scope, puts_only=again), self._able(task)
        for one in able:
            try:
                self._storing.run(task, ([one], []))
            except ContentNotFoundError as error:
                nowhere.append(error)
            except BackendError as error:
                if len(able) == 1 or isinstance(error, InvalidRequestError):
                    raise
                later.append(one.id)
        if nowhere and len(nowhere) == len(able):
            raise nowhere[0]
        self._post.send(cid, later, "unpin", scope=task.scope)
        return compared

    def _able(self, task: Task) -> list[StoreBackend]:
        """Return the stores that could do it, but for absent ones. Raises BackendError if there is none."""
        absent = self._absent.now() - {task.backend}
        if not (able := [one for one in self._storing.able(task) if one.id not in absent]):
            self._storing.run(task)
        return able

    def _others(self, but: StoreBackend) -> list[str]:
        """Return the stores that are to have what this one has."""
        absent = self._absent.of_late()
        others = [one for one in self._storing.registry.backends if one is not but and one.id not in absent]
        if not others:
            return []
        task = self._storing.task("import_car")
        able = [one.id for one in others if not self._storing.gate.never(one, task)]
        self._absent.note(able)
        return able

    def _damaged(self, cid: str, stores: Iterable[str]) -> None:
        """Let what was wrong in these stores, and right in another one, be brought back. No reading depends on that."""
        able = {one.id for one in self._storing.able(self._storing.task("import_car"))}
        whole = cid.removeprefix("ipfs://").removeprefix("/ipfs/").partition("/")[0]
        task = self._storing.rooted(self._storing.task("has", cid=whole))
        try:
            self._post.send(task.arguments["cid"], sorted(able & set(stores)), "mend")
        except PointsmanError as error:
            _log.failed("outbox", error, cid=cid)

    def _copy(self, cid: str, store: str, waiting: Waiting | None, timeout: float | None) -> Copy:
        if waiting is not None:
            return Copy(store, "waiting", waiting.reason)
        try:
            return Copy(store, "kept" if self.has(cid, store=store, timeout=timeout) else "absent")
        except InvalidRequestError:
            raise
        except BackendError as error:
            return Copy(store, "unknown", error.message)
