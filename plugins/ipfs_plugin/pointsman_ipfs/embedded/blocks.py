"""The embedded store: content in files on this machine, durable, with no program beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import BinaryIO, ClassVar

from attrs import field, frozen, validators
from pointsman import (
    BackendError,
    BackendTimeout,
    ConfigError,
    ContentNotFoundError,
    Health,
    Scope,
    UnavailableError,
    hookimpl,
)
from pointsman.content import Collected, Entry, Finding, Progress, Source, Stored
from pointsman.forks import ForkLock

from .._sqlite import Until, until
from ..dag import car, reader
from ..dag import cid as cids
from ..dag.block import Verified, counted
from ..dag.tree import add_tree, extract
from ..dag.unixfs import PROFILES, add_file, leaf_of, piece_of, profile_of
from ._collect import collected
from ._holding import Held, lacking, lacking_still
from ._opened import Opened, is_read_only
from ._packs import packs_in
from ._writer import Large

#: Bytes up to which what is put waits in memory and is written together with what others put.
_SMALL = 4 << 20
#: Bytes that should be free on the disk.
_FREE = 64 << 20

#: Of a store that is there.
_CANNOT = "{} cannot be written, and is only read; make it writable, or name another store to keep things in"


def default_path() -> Path:
    """Return where the store is if nobody says: POINTSMAN_STORE, else a folder for the data of programs.

    :raises ConfigError: nobody says, and the user has no home.
    """
    named = os.environ.get("POINTSMAN_STORE", "").strip()
    data = os.environ.get("XDG_DATA_HOME", "").strip() or "~/.local/share"
    try:
        return _placed(named or Path(data) / "pointsman" / "store")
    except ValueError as error:
        raise ConfigError(f"{error}; set POINTSMAN_STORE") from None


def _placed(path: str | os.PathLike[str]) -> Path:
    """Return the folder that somebody named: absolute, and with a `~` that no shell has read."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        found = "an empty text" if path == "" else type(path).__name__
        raise ValueError(f"path: found {found}, expected the path of a folder")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ValueError(
            f"path: found {os.fspath(path)!r}, whose user has no home here, expected the path of a folder"
        ) from None


@frozen(kw_only=True)
class Blocks:
    """Keeps content in a folder of this machine. A put that has returned is durable.

    Any number of threads and processes may use one folder at once. The file system must be a local one. Where the
    folder cannot be written (a medium that is read only, a folder of somebody else's), it is read as it is, and nothing
    in it is changed; that is looked at anew with each call.
    """

    #: The folder, which is made with the first put. Without: POINTSMAN_STORE, else pointsman/store in XDG_DATA_HOME, or
    #: in ~/.local/share.
    path: Path = field(factory=default_path, converter=_placed)
    #: How content becomes blocks: another profile gives it other CIDs.
    profile: str = field(default="unixfs-v1-2025", validator=validators.in_(tuple(PROFILES)))
    _used: list[Opened] = field(init=False, repr=False, eq=False, factory=list)
    _lock: ForkLock = field(init=False, repr=False, eq=False, factory=ForkLock)

    local: ClassVar[bool] = True

    @property
    def read_only(self) -> str:
        """Why nothing can be kept here now, and what to do; "" if it can, or no store is here yet."""
        used = self._used[-1:]  # here and below: `close` may come at any time
        if used and not used[-1].read_only:
            return ""
        return _CANNOT.format(self.path) if is_read_only(self.path) else ""

    @hookimpl
    def store(self, source: Source, scope: Scope) -> Stored:
        """Keep a file, a folder or a stream of bytes."""
        with _in_time(scope):
            profile, opened, first = profile_of(source.profile or self.profile), self._to_write(), b""
            if source.file is not None:
                first = piece_of(source.file.read, profile)
                if len(first) < profile.chunk:  # it is one block, as most things are
                    block = leaf_of(first, profile)
                    _check(scope)
                    source.progress(len(block[1]))
                    opened.writer.add((block,), block[:1] if source.pin else ())
                    return Stored(cids.to_text(block[0]), len(first))
            with _Put(opened, source.pin, _alive(scope), source.progress) as put:
                if source.file is not None:
                    link = add_file(source.file.read, profile, put.block, first)
                else:
                    link = add_tree(source.path or "", profile, put.block, hidden=source.hidden)
                put.finish([link.cid])
        kind = "file" if source.file is not None else reader.kind_and_size(self._get(scope), link.cid)[0]
        return Stored(cids.to_text(link.cid), link.size, kind)

    @hookimpl
    def fetch(self, cid: str, offset: int, length: int | None, scope: Scope) -> Iterator[bytes]:
        """Give back a file, or a part of it."""
        get = self._get(scope)
        return reader.read_file(get, reader.resolve(get, cid), offset, length)

    @hookimpl
    def resolve(self, cid: str, scope: Scope) -> str:
        """Return the CID of what a path leads to."""
        return cids.to_text(reader.resolve(self._get(scope), cid))

    @hookimpl
    def has(self, cid: str, scope: Scope) -> bool:
        """Say whether everything under `cid` is here."""
        get, opened = self._get(scope), self._opened()
        try:
            return not lacking(opened.places, reader.resolve(get, cid), get)
        except ContentNotFoundError:
            return False

    @hookimpl
    def entries(self, cid: str | None, scope: Scope) -> Iterator[Entry]:
        """List a folder, or what is pinned."""
        get = self._get(scope)
        if cid is not None:
            for entry in reader.entries(get, reader.resolve(get, cid)):
                yield Entry(entry.name, cids.to_text(entry.cid), entry.size, entry.kind)
            return
        for root in self._opened().places.pins():
            try:
                kind, size = reader.kind_and_size(get, root)
            except BackendError:  # damaged, or not here: it is pinned all the same
                kind, size = "other", None
            yield Entry("", cids.to_text(root), size, kind)

    @hookimpl
    def extract(self, cid: str, target: Path, scope: Scope) -> None:
        """Write a file or a folder to a path where nothing is."""
        get = self._get(scope)
        extract(get, reader.resolve(get, cid), target)

    @hookimpl
    def export_car(self, cid: str, scope: Scope) -> Iterator[bytes]:
        """Give out everything under `cid` as a CAR file."""
        get = self._get(scope)
        root = reader.resolve(get, cid)
        return car.write([root], reader.walk(get, root))

    @hookimpl
    def import_car(self, source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
        """Keep what a CAR file holds. What it does not hold of its roots, when they are pinned, must be here."""
        with _in_time(scope):
            opened, alive, get = self._to_write(), _alive(scope), self._get(scope)
            roots, blocks = car.opened(source)
            held = Held(opened.places, get, roots)
            with _Put(opened, pin, alive) as put:
                for cid, data in car.complete(roots, blocks, held.holds) if pin else blocks:
                    put.block(cid, data)
                put.finish(roots)
        held.pinned(partial(opened.writer.add, (), ()))
        return [_stored(get, root) for root in roots]

    @hookimpl
    def pin(self, cid: str, scope: Scope) -> None:
        """Keep everything under `cid` until it is unpinned."""
        with _in_time(scope):
            opened, get = self._to_write(makes=False), self._get(scope)
            root = reader.resolve(get, cid)
            held = Held(opened.places, get, (root,))
            held.hold(root)
            opened.writer.add((), (root,))
        held.pinned(partial(opened.writer.add, (), ()))

    @hookimpl
    def unpin(self, cid: str, scope: Scope) -> None:
        """Let `collect` take what is under `cid`."""
        with _in_time(scope):
            opened, root = self._to_write(makes=False), reader.resolve(self._get(scope), cid)
            opened.places.catch_up()
            if opened.places.pinned(root):
                opened.with_room(lambda: opened.writer.add((), (), (root,)))

    @hookimpl
    def collect(self, scope: Scope) -> Collected:
        """Remove what no pin keeps."""
        with _in_time(scope):
            opened, alive = self._to_write(makes=False), _alive(scope)
            if opened.absent:
                return Collected(0, 0)
            return opened.with_room(lambda: collected(opened.places, opened.shelf, opened.writer, alive))

    @hookimpl
    def verify(self, cid: str | None, progress: Progress, scope: Scope) -> Iterator[Finding]:
        """Read everything, or what is under `cid`, and tell what is wrong."""
        opened, alive, get = self._opened(), _alive(scope), self._get(scope)
        opened.places.catch_up()
        if cid is not None:
            for found, problem in reader.unsound(counted(get, progress), reader.resolve(get, cid)):
                yield Finding(cids.to_text(found), problem)
            return
        opened.places.index.check()
        opened.shelf.close()  # what is read is what others would find
        for path in packs_in(opened.places.folder):
            for found, problem in opened.shelf.check(path.stem, progress):
                alive()
                yield Finding(cids.to_text(found), problem)
        opened.shelf.look_elsewhere(dict.fromkeys(opened.places.index.damaged()))
        for damaged in opened.places.index.damaged():
            yield Finding(cids.to_text(damaged), "it was damaged, and is not here again")
        for root in opened.places.pins():
            if lacking(opened.places, root, get) and (why := lacking_still(opened.places, root, get)):
                yield Finding(cids.to_text(root), f"it is pinned, and not whole: {why}")

    @hookimpl
    def health(self) -> Health:
        """Say whether it can be written, and whether anything in it is damaged. It makes no folder.

        Of one that can only be read, `verify` says what is damaged: its index may have to be made first.
        """
        if why := self.read_only:
            return Health.degraded(why)
        used = self._used[-1:]
        if used and not used[-1].absent:
            try:
                used[-1].places.look()
            except UnavailableError as error:
                return Health.unavailable(error.message)
        there = self.path
        while not os.path.exists(there) and there != there.parent:
            there = there.parent
        if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
            return Health.unavailable(f"{there} is no folder that can be written; choose another path")
        free = os.statvfs(there)
        if free.f_bavail * free.f_frsize < _FREE:
            return Health.degraded(f"{there} has less than {_FREE >> 20} MiB free; make room there")
        try:
            damaged = self._opened().places.index.damaged() if (self.path / "index.sqlite").exists() else []
        except UnavailableError as error:
            return Health.unavailable(error.message)
        if damaged:
            return Health.degraded(f"{len(damaged)} blocks are damaged; `pointsman store verify --repair` mends them")
        return Health.ok()

    @hookimpl
    def close(self) -> None:
        """Enter what waits into the index, and let all files go. What is acknowledged is durable before that."""
        with self._lock.held:
            used, self._used[:] = list(self._used), []
        for opened in used:
            if opened.pid == os.getpid():
                opened.close()

    def _opened(self, *, writing: bool = False) -> Opened:
        """Return the open store; a forked child opens it for itself, and who found its index damaged opens it anew."""
        last = self._used[-1:]
        if last and last[0].usable(writing=writing):
            return last[0]
        with self._lock.held:
            used = self._used
            if not used or not used[-1].usable(writing=writing):
                opened = Opened(self.path, writing=writing)  # those that only read go with the last call that uses them
                used[:] = [*(one for one in used if not one.read_only), opened]  # at once: others look without the lock
            return used[-1]

    def _to_write(self, *, makes: bool = True) -> Opened:
        """Return the open store, to be changed.

        :param makes: whether a store is made where none is.
        :raises UnavailableError: it cannot be written.
        """
        if (opened := self._opened(writing=makes)).read_only and not opened.absent:
            raise UnavailableError(_CANNOT.format(self.path), retry_same=False)
        return opened

    def _get(self, scope: Scope) -> Verified:
        """Return what reads the blocks, while somebody waits."""
        shelf, alive = self._opened().shelf, _alive(scope)

        def get(cid: bytes) -> bytes:
            alive()
            return shelf.get(cid)

        return Verified(get)


class _Put:
    """The blocks of one put: few wait in memory and are written at once, many go into a pack of their own."""

    def __init__(
        self, opened: Opened, pin: bool, alive: Callable[[], object], progress: Callable[[int], object] = bool
    ) -> None:
        self._opened, self._pin, self._alive, self._progress = opened, pin, alive, progress
        self._blocks, self._size = list[tuple[bytes, bytes]](), 0
        self._large: Large | None = None

    def block(self, cid: bytes, data: bytes) -> None:
        """Take a block. One that its CID holds in itself is everywhere, and has no digest to be kept under."""
        self._alive()
        if cids.inline_of(cid) is not None:
            return
        if self._large is not None:
            self._large.put(cid, data)
        else:
            self._blocks.append((cid, data))
            self._size += len(data)
            if self._size > _SMALL:
                self._large = self._opened.writer.large()
                for block in self._blocks:
                    self._large.put(*block)
                self._blocks = []
        self._progress(len(data))

    def finish(self, roots: Sequence[bytes]) -> None:
        """Make all of it durable."""
        pins = tuple(roots) if self._pin else ()
        if self._large is not None:
            self._large.finish(pins)
        else:
            self._opened.writer.add(self._blocks, pins)

    def __enter__(self) -> _Put:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._large is not None:
            self._large.abandon()


def _check(scope: Scope) -> None:
    """Raise BackendTimeout when nobody waits any more, or the time is up."""
    if scope.cancelled or monotonic() >= scope.deadline:
        raise BackendTimeout("cancelled" if scope.cancelled else "the time was up; give a longer timeout")


def _alive(scope: Scope) -> Callable[[], None]:
    """Return what checks that."""
    return partial(_check, scope)


def _in_time(scope: Scope) -> AbstractContextManager[None]:
    """Let what is done inside wait for others that change the index no longer than somebody waits for it."""
    return until(inf) if scope.deadline == inf else _InTime(scope)


class _InTime(Until):
    """Lets it, and tells whose time is up so."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope.deadline)
        self._scope = scope

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        super().__exit__(kind)
        if kind is not None and issubclass(kind, UnavailableError):
            _check(self._scope)


def _stored(get: Verified, root: bytes) -> Stored:
    """Return what is known of a root; a folder that is not whole has no size."""
    try:
        kind, _ = reader.kind_and_size(get, root)
        return Stored(cids.to_text(root), reader.size_of(get, root), kind)
    except BackendError:
        return Stored(cids.to_text(root), 0, "other")
