"""What lies on this machine's disk, into blocks and out again.

Symbolic links are kept as what they are and never followed. Hidden entries, those whose names begin with a dot, are
left out unless asked for; what is named itself is always taken. Folders may lie as deep within one another as the
system has paths for. Names are the bytes that the file system has, UTF-8
or not: Kubo takes them so, and they come back the same. Times and permissions are not kept. What is neither file,
folder nor symbolic link is refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from tempfile import mkdtemp

from attrs import define, field, frozen
from pointsman import InvalidRequestError, UnusableAnswer

from .block import Get, Put, Verified
from .cid import to_text
from .reader import Entry, entries, kind_and_size, read_file, target_of
from .unixfs import Link, Profile, add_file, add_folder, add_symlink, is_name

_OPENED = re.compile(r"/proc/\d+/fd")
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def add_tree(path: str | os.PathLike[str], profile: Profile, put: Put, *, hidden: bool = False) -> Link:
    """Put a file, a folder with all that is in it, or a symbolic link, and return its root.

    :param hidden: whether hidden entries of folders are taken, too.
    :raises InvalidRequestError: something cannot be read, vanishes or changes while it is read, or is refused.
    """
    outermost = os.fspath(path)
    _refuse_opened(outermost)
    link = _added(outermost, profile, put)
    if link is not None:
        return link
    folders = [_folder(outermost, hidden)]
    while True:
        folder = folders[-1]
        if folder.waiting:
            inner = os.path.join(folder.path, folder.waiting[-1])
            link = _added(inner, profile, put)
            if link is None:
                folders.append(_folder(inner, hidden))
                continue
        else:
            link = add_folder(folder.done, profile, put)
            folders.pop()
            if not folders:
                return link
        folders[-1].done.append((os.fsencode(folders[-1].waiting.pop()), link))


def extract(
    get: Get,
    cid: bytes,
    target: str | os.PathLike[str],
    *,
    most_bytes: int | None = None,
    most_entries: int = 1_000_000,
) -> None:
    """Write a file, folder or symbolic link to a path where nothing is: whole, or not at all.

    It is written beside the target first, into a folder of its own, so that nothing that anybody put there can lead
    it elsewhere.

    :param most_bytes: of all files; `None` for any number.
    :param most_entries: files, folders and symbolic links. A few small blocks can be folders without end.
    :raises UnusableAnswer: a block is broken, a name would lead out of its folder, or there is more than that.
    :raises InvalidRequestError: it is no file, folder or symbolic link; the system refuses to write it, or something is
        there.
    """
    path = os.path.abspath(os.fspath(target))
    _refuse_existing(path)
    with _told(path, "written"):
        beside = mkdtemp(prefix=".pointsman-", dir=os.path.dirname(path))
    try:
        whole = os.path.join(beside, "whole")
        _Writer(_remembering(get), most_bytes, most_entries).write(cid, whole)
        _refuse_existing(path)
        with _told(path, "written"):
            os.rename(whole, path)
    finally:
        _remove(beside)


class Bounded(FileIO):
    """An open file of which `read(size)` gives out one byte more than it had at first, at most.

    It may grow as fast as it is read: what is read of our own store is written to it.
    """

    def __init__(self, file: str | int) -> None:
        # what is a pipe by now must not keep us waiting
        super().__init__(file, opener=lambda name, _: os.open(name, _READ))
        self.before = os.fstat(self.fileno())

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes or fewer, from where it stands; all that is there without `size`."""
        if size is None or size < 0:
            return super().readall() or b""
        return super().read(max(min(size, self.before.st_size + 1 - self.tell()), 0)) or b""


@define
class _Folder:
    path: str
    waiting: list[str]  #: names of entries that are still to be added, the next one last
    done: list[tuple[bytes, Link]] = field(factory=list)


def _folder(path: str, hidden: bool) -> _Folder:
    with _told(path, "read"):
        names = os.listdir(path)
    return _Folder(path, sorted((name for name in names if hidden or not name.startswith(".")), reverse=True))


def _added(path: str, profile: Profile, put: Put) -> Link | None:
    """Put what is at a path; `None` if it is a folder."""
    with _told(path, "read"):
        mode = os.lstat(path).st_mode
        target = os.readlink(path) if stat.S_ISLNK(mode) else None
    if stat.S_ISDIR(mode):
        return None
    if target is not None:
        return add_symlink(os.fsencode(target), profile, put)
    with _told(path, "read"):
        _refuse_special(path, mode)
        file = Bounded(path)  # not buffered: pieces are large
    with file:

        def read(size: int) -> bytes:
            with _told(path, "read"):
                return file.read(size) or b""

        before = file.before
        _refuse_special(path, before.st_mode)
        link = add_file(read, profile, put)
        with _told(path, "read"):
            after = os.fstat(file.fileno())
    if (link.size, after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
        raise InvalidRequestError(f"{path}: it was changed while it was read; add it when nobody writes to it")
    return link


def _refuse_special(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(mode), "a device")
        raise InvalidRequestError(f"{path}: found {kind}, expected a file, a folder or a symbolic link")


def _refuse_opened(path: str) -> None:
    """Refuse what a shell passes for a path (/dev/stdin, /dev/fd/63): a link to what only this process has open."""
    names = [path, os.readlink(path)] if os.path.islink(path) else []
    if any(_OPENED.fullmatch(os.path.realpath(os.path.dirname(name))) for name in names):
        raise InvalidRequestError(f"{path}: found what this process has open; give the open file, or - at a shell")


@contextmanager
def _told(path: str, done: str) -> Iterator[None]:
    """Say what it means when the system refuses something: only its calls may stand in this, no `get` and no `put`."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if done == "read" and isinstance(error, FileNotFoundError):
            why = "nothing is there, or not any more"
        code = None if (number := getattr(error, "errno", None)) is None else str(number)
        raise InvalidRequestError(f"{path}: cannot be {done}: {why}", code=code) from error


def _refuse_existing(path: str) -> None:
    if os.path.lexists(path):
        raise InvalidRequestError(f"{path}: something is there; name a path where nothing is")


def _remembering(get: Get) -> Get:
    """Return a `get` that knows its last answer: what a thing is, and what is in it, the same block says."""
    last: tuple[bytes, bytes] = b"", b""

    def again(cid: bytes) -> bytes:
        nonlocal last
        if last[0] != cid:
            last = cid, get(cid)
        return last[1]

    return Verified(again) if isinstance(get, Verified) else again


@frozen
class _Inner:
    path: str
    entries: Iterator[Entry]


class _Writer:
    """Writes a tree, never more of it than it may."""

    def __init__(self, get: Get, most_bytes: int | None, most_entries: int) -> None:
        self._get, self._most_bytes, self._most_entries = get, most_bytes, most_entries
        self._bytes = self._entries = 0

    def write(self, cid: bytes, path: str) -> None:
        folders = self._one(cid, path)
        while folders:
            entry = next(folders[-1].entries, None)
            if entry is None:
                folders.pop()
                continue
            if not is_name(name := os.fsencode(entry.name)) or {os.sep, os.altsep} & set(entry.name):
                raise UnusableAnswer(f"found an entry {name!r:.300} in a folder: no file can have that name")
            folders += self._one(entry.cid, os.path.join(folders[-1].path, entry.name))

    def _one(self, cid: bytes, path: str) -> list[_Inner]:
        """Write one thing; return the folder, if it is one, whose entries are still to be written."""
        kind, size = kind_and_size(self._get, cid)
        self._count(size or 0)
        if kind == "folder":
            with _told(path, "written"):
                os.mkdir(path)
            return [_Inner(path, entries(self._get, cid, look=False))]
        if kind == "symlink":
            target = target_of(self._get, cid)
            with _told(path, "written"):
                os.symlink(os.fsdecode(target), path)
        elif kind == "file":
            self._file(cid, path)
        else:
            raise InvalidRequestError(f"{to_text(cid)}: found a block of kind {kind!r}, expected a file or a folder")
        return []

    def _file(self, cid: bytes, path: str) -> None:
        with _told(path, "written"):
            file = open(path, "xb", buffering=0)  # noqa: SIM115 - in `with` below
        with file:
            for piece in read_file(self._get, cid):
                with _told(path, "written"):
                    _write_all(file.write, piece)

    def _count(self, size: int) -> None:
        self._bytes += size
        self._entries += 1
        if self._most_bytes is not None and self._bytes > self._most_bytes:
            raise UnusableAnswer(f"found more than {self._most_bytes} bytes to be written")
        if self._entries > self._most_entries:
            raise UnusableAnswer(f"found more than {self._most_entries} files and folders to be written")


def _remove(folder: str) -> None:
    """Remove a folder with all that is in it, if the system lets us: `shutil.rmtree` takes some hundred levels only."""
    folders = [folder]
    for path in folders:  # it grows meanwhile
        with suppress(OSError):
            for entry in list(os.scandir(path)):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    os.unlink(entry.path)
    for path in reversed(folders):
        with suppress(OSError):
            os.rmdir(path)


def _write_all(write: Callable[[memoryview], int | None], piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[write(rest) or 0 :]
