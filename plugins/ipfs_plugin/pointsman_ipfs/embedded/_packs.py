"""Packs: the files that hold the blocks. Each is a CARv1 file, to which blocks are added and never anything changed.

So that a pack says by itself how far it counts, whatever the machine went through, what was added together is followed
by a mark: a block of DAG-CBOR that names the pack and its own place in it (so that nobody's content can be taken for
one), and the roots that are pinned from there on, or no more. What stands behind the last mark was never acknowledged.

Any program that reads CAR files reads a pack; it has a placeholder for a root.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ENOENT
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from pointsman import UnavailableError, UnusableAnswer
from pointsman.forks import Shared

from .._locked_files import locked, locked_files
from .._sqlite import is_read_only
from ..dag import _varint, car
from ..dag.cbor import Ref, decode, encode
from ..dag.cid import RAW
from ._disk import standing, sync_file, sync_folder, unwritten

#: CARv1's header with one root, the identity of nothing (bafkqaaa): the placeholder of the specification.
HEADER = bytes.fromhex("19a265726f6f747381d82a45000155000067") + b"version\x01"
_MARK_CID = b"\x01\x71\x12\x20"  # DAG-CBOR, SHA-256
_PLAIN = b"\x01\x55\x12\x20"  # bytes, SHA-256
_ROOM = 1 << 20  #: zeros behind the end, at most
_LONGEST = 4 << 20  #: bytes of a record; a block of Kubo's has 2 MiB at most
_END = ".car"
_NAME = "[0-9a-f]" * 32  #: of a pack: what is called otherwise somebody else has put there


class Record(NamedTuple):
    """A block in a pack."""

    cid: bytes
    offset: int  #: of its data
    length: int


class Mark(NamedTuple):
    """What is said between blocks: up to here it counts. Of what marks say of a root, the largest `seq` holds."""

    seq: int
    pins: tuple[bytes, ...] = ()
    unpins: tuple[bytes, ...] = ()

    def said(self) -> list[tuple[bytes, bool]]:
        """Return each root that it speaks of, and whether that is pinned."""
        return [(cid, True) for cid in self.pins] + [(cid, False) for cid in self.unpins]


def is_formed(cid: bytes) -> bool:
    """Whether it says how to read its bytes: kept as plain ones or not, a pack has to show what they are."""
    return cid[1] != RAW


def head_of(cid: bytes, length: int) -> bytes:
    """Return what stands before the data of a block."""
    return _varint.written(len(cid) + length) + cid


class Pack(Shared):
    """A pack that this process writes: no other one may, as long as it lives. Not thread-safe.

    In a forked child it is of no use: there the file is closed.

    :param file: open for reading and writing, and locked.
    :param size: bytes that count.
    """

    def __init__(self, path: Path, file: int, size: int) -> None:
        self.path, self.name, self._path = path, path.stem, str(path)
        self.size = size
        self.abandoned = False
        self._file, self._stands = file, standing(file)
        self._room = size  #: bytes that the file has, those behind `size` zeros
        self._broken = False
        super().__init__()

    def begin(self) -> None:
        self.abandoned = self._broken = True
        self._file = -1

    @classmethod
    def create(cls, folder: Path) -> Pack:
        """Return a new pack. It is durable, as an empty one, when this returns.

        :raises UnavailableError: it could not be written.
        """
        path = folder / f"{uuid4().hex}{_END}"
        unseen = path.with_suffix(".new")  # nobody looks into it before it is locked and has its header
        try:
            file = locked_files.open(unseen, os.O_CREAT | os.O_EXCL)
        except OSError as error:
            raise unwritten(folder, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file).st_nlink:  # somebody took it for one that nobody will finish
                raise InterruptedError
            os.write(file, HEADER)
            os.rename(unseen, path)
            sync_folder(folder)
        except BaseException as error:
            locked_files.close(file)
            with suppress(OSError):
                unseen.unlink()
            if isinstance(error, InterruptedError):
                return cls.create(folder)
            if isinstance(error, OSError):
                raise unwritten(folder, error) from error
            raise
        return cls(path, file, len(HEADER))

    @classmethod
    def adopt(cls, path: Path, size: int) -> Pack | None:
        """Return the pack of a process that is gone, to go on with it; None if its writer lives, or it holds more."""
        file = locked(path)
        if file is None:
            return None
        if os.fstat(file).st_size == size:
            return cls(path, file, size)
        locked_files.close(file)
        return None

    @property
    def usable(self) -> bool:
        """Whether it can be written to: nothing has failed so far."""
        return not self._broken

    def append(self, data: bytes) -> int:
        """Write at the end; return where that was. Nothing of it counts before a mark stands behind it.

        :raises UnavailableError: it could not be written, a full disk say; nothing of it is there.
        """
        start, place, rest = self.size, self.size, memoryview(data)
        try:
            while rest:
                written = os.pwrite(self._file, rest, place)
                place, rest = place + written, rest[written:]
        except OSError as error:
            self.cut(start)
            raise unwritten(self.path, error) from error
        except BaseException:  # an interrupt: perhaps all of it is there, and others have read it
            self._broken = True
            raise
        self.size = place
        return start

    def add(self, data: bytes, mark: Mark) -> None:
        """Write at the end, say that it counts and what is pinned from now on, and make it durable.

        :raises UnavailableError: that failed. Where it stands in the file, others may have read it: the pack is not
            used again, and whoever knows that nobody has may cut it to its size.
        """
        data += marked(self.name, self.size + len(data), mark)
        if self.size + len(data) > self._room:
            self._make_room(len(data))
        start = self.append(data)
        try:
            sync_file(self._file)
            if standing(self._file) != self._stands or (not self._stands and not os.access(self._path, os.F_OK)):
                raise FileNotFoundError(ENOENT, f"{self.path.name} was removed by another program")
        except OSError as error:
            self._broken, self.size = True, start
            raise unwritten(self.path, error) from error

    def _make_room(self, more: int) -> None:
        """Lay zeros behind the end: writing over them leaves the file's size and places as they are, which the disk is
        then not told, so that a small addition costs it one write.
        """
        room = min(max(self.size // 8, 1 << 14), _ROOM)
        with suppress(OSError):
            os.pwrite(self._file, bytes(room), self.size + more)
            self._room = self.size + more + room

    def cut(self, size: int) -> None:
        """Take back what was written behind `size`."""
        self.size = self._room = size
        try:
            os.ftruncate(self._file, size)
        except OSError:
            self._broken = True  # what is there has no mark: whoever opens the store next takes it away

    def abandon(self) -> None:
        """Take the whole pack away. Repeating it changes nothing."""
        if not self.abandoned:
            self.abandoned, self._broken = True, True
            with suppress(OSError):
                self.path.unlink()

    def close(self) -> None:
        """Let it go: it is unlocked."""
        if self._room > self.size and not self._broken:
            self.cut(self.size)
        file, self._file = self._file, -1
        locked_files.close(file)

    def fileno(self) -> int:
        """The open file."""
        return self._file


def marked(name: str, offset: int, mark: Mark) -> bytes:
    """Return a mark as it stands in the pack of this name at this place."""
    said: dict[str, Any] = {"pack": name, "at": offset, "seq": mark.seq}
    said |= {"pins": [Ref(cid) for cid in mark.pins]} if mark.pins else {}
    data = encode(said | ({"unpins": [Ref(cid) for cid in mark.unpins]} if mark.unpins else {}))
    return car.record(_MARK_CID + sha256(data).digest(), data)


def scanned(path: Path, file: int, start: int, end: int) -> Iterator[Record | tuple[int, Mark]]:
    """Yield what stands in a pack, without reading the blocks: records, and marks each with the place where they end.

    Where something is no record, the next block is looked for whose bytes are those of its CID: a damaged byte hides
    the block that it belongs to, and no other.
    """
    place = max(start, len(HEADER))
    before: Record | None = None
    while place < end:
        found = _record_at(file, place, end)
        if found is None:  # or the length of the one before is wrong
            following = next_whole(file, place if before is None or _is_whole(file, before) else before.offset, end)
            if following is None:
                return
            place, found = following
        cid, data, size = before = found
        mark = None
        if cid.startswith(_MARK_CID):
            mark = mark_in(os.pread(file, size, data), cid, path.stem, place)
        yield (data + size, mark) if mark is not None else found
        place = data + size


def _record_at(file: int, place: int, end: int) -> Record | None:
    head = os.pread(file, 128, place)
    try:
        length, used = _varint.read(head, 0)
    except UnusableAnswer:
        return None
    if not 0 < length <= _LONGEST or place + used + length > end:
        return None
    cid = _cid_at(head[used:])
    if cid is None or len(cid) > length:
        return None
    return Record(cid, place + used + len(cid), length - len(cid))


def next_whole(file: int, place: int, end: int) -> tuple[int, Record] | None:
    """Return the first block from a place on whose bytes are those of its CID, and where it stands."""
    for start in range(place, end, 1 << 20):
        piece = os.pread(file, (1 << 20) + 16, start)  # a head may reach into the next one
        for hit in re.finditer(b"\x12\x20", piece):
            for at in range(max(0, hit.start() - 6), hit.start()):
                found = _record_at(file, start + at, end)
                if found and found.offset == start + hit.start() + 34 and _is_whole(file, found):
                    return start + at, found
    return None


def _is_whole(file: int, record: Record) -> bool:
    return sha256(os.pread(file, record.length, record.offset)).digest() == record.cid[-32:]


def mark_in(data: bytes, cid: bytes, name: str, place: int) -> Mark | None:
    """Return the mark that a block of DAG-CBOR is, None if it is somebody's content."""
    if not data.startswith((b"\xa3bat", b"\xa4bat", b"\xa5bat")) or sha256(data).digest() != cid[4:]:
        return None
    try:
        said: Any = decode(data)
    except ValueError:
        return None
    if (said.get("pack"), said.get("at")) != (name, place):
        return None
    return Mark(said["seq"], tuple(said.get("pins", ())), tuple(said.get("unpins", ())))


def cid_before(file: int, place: int, digest: bytes) -> bytes:
    """Return the CID that stands before the data of a block; where that is damaged, the one of plain bytes."""
    head = os.pread(file, 36, place - 36)
    found = (_cid_at(head), _cid_at(head[2:]))
    return next((cid for cid in found if cid and cid[-32:] == digest), _PLAIN + digest)


def _cid_at(head: bytes) -> bytes | None:
    """Return the binary CID at the beginning: version 0 or 1, of SHA-256."""
    if head[:2] == b"\x12\x20":
        return head[:34] if len(head) >= 34 else None
    if head[:1] == b"\x01" and head[2:4] == b"\x12\x20":
        return head[:36] if len(head) >= 36 else None
    return None


@contextmanager
def if_there(path: Path) -> Iterator[None]:
    """Do nothing more where a pack is gone.

    :raises UnavailableError: it cannot be used: somebody else's, say.
    """
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        text = f"{path} cannot be used: {error.strerror}; see that it is a file that can be read and written"
        raise UnavailableError(text, retry_same=False) from error


def counted(path: Path, file: int, start: int, end: int) -> int:
    """Return where the last mark between these places ends; `start` if there is none."""
    return max((one[0] for one in scanned(path, file, start, end) if not isinstance(one, Record)), default=start)


def stands(path: Path, at: int, end: int, mark: Mark) -> bool:
    """Whether a mark still stands in a pack between these places: its writer has not taken it back."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return (end, mark) in scanned(path, file, at, end)
    finally:
        os.close(file)


def cut(path: Path, file: int, counts: int) -> None:
    """Cut a pack, which this process has locked, to what counts of it; take it away if nothing does."""
    if counts <= len(HEADER):
        path.unlink()
    elif os.fstat(file).st_size > counts:
        os.ftruncate(file, counts)
        sync_file(file)


def packs_in(folder: Path) -> Iterable[Path]:
    """Return the packs in a folder, and take away those that were never finished. All else there is left alone.

    :raises UnavailableError: it cannot be read.
    """
    try:
        for unseen in folder.glob(f"{_NAME}.new"):
            if not is_read_only(folder, folder.parent) and (file := locked(unseen)) is not None:
                with suppress(OSError):
                    unseen.unlink()
                locked_files.close(file)
        return sorted(folder.glob(f"{_NAME}{_END}"))
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be read: {error.strerror}") from error


def joined(blocks: Sequence[tuple[bytes, bytes]], at: int) -> tuple[bytes, list[Record]]:
    """Return blocks as one run of bytes, and where each of them stands if that is written at this place."""
    out, places = list[bytes](), list[Record]()
    for cid, data in blocks:
        length = len(data)
        head = head_of(cid, length)
        at += len(head)
        places.append(Record(cid, at, length))
        at += length
        out += (head, data)
    return b"".join(out), places
