"""What a caller gives to be kept, in a form that can be read again; and what is given back, as a file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import closing, contextmanager
from math import inf
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, TypeAlias

from .content import Progress
from .errors import BackendError, BackendTimeout, InvalidRequestError
from .scope import Scope
from .secret import words_of

#: Bytes, the path of a file or folder, an open binary file, or bytes in pieces.
Given: TypeAlias = "bytes | str | os.PathLike[str] | BinaryIO | Iterable[bytes]"

#: Bytes that are kept in memory of what can be read only once; the rest is kept in a temporary file.
_IN_MEMORY = 1 << 20


class Pieces(io.RawIOBase):
    """Bytes that come in pieces, as a file to be read once."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        while not self._rest:
            try:
                piece = next(self._pieces)
            except StopIteration:
                return 0
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise InvalidRequestError(f"content: found a piece of type {type(piece).__name__}, expected bytes")
            self._rest = memoryview(bytes(piece))  # of a view of larger items, too
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that is left."""
        if size == 0 or (size is not None and 0 < size < len(self._rest)):
            piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
            return piece
        return super().read(size) or b""

    def close(self) -> None:
        """Let the pieces go."""
        if not self.closed:
            getattr(self._pieces, "close", bool)()
        super().close()


class Held(io.BytesIO):
    """Bytes that are in memory, as a file that can be read again."""

    again = True

    def restart(self) -> None:
        """Begin anew."""
        self.seek(0)

    def close(self) -> None:
        """Keep it: a plugin, or a library of its, that closes what it has read keeps no other store from it."""

    let_go = close


class Replayed(io.RawIOBase):
    """A file that can be read again from where it stood. What it could not read once it does not try again.

    :param keep: whether what cannot be read twice is kept, so that it can.
    :param scope: who waits for it: content that comes slowly is not read beyond that.
    """

    def __init__(self, file: BinaryIO, scope: Scope, *, keep: bool) -> None:
        self._file, self._scope = file, scope
        # a pipe gives what it has: to wait until there is as much as was asked for would be to wait beyond all limits
        self._some = file.read1 if isinstance(file, io.BufferedReader) and _waits(file) else file.read
        self._start = file.tell() if _seekable(file) else None
        self._kept = SpooledTemporaryFile(_IN_MEMORY) if keep and self._start is None else None  # noqa: SIM115 - `close`
        self._fresh, self._again = True, False
        self._broken: Exception | None = None

    @property
    def again(self) -> bool:
        """Whether it can be read again."""
        return self._start is not None or self._kept is not None

    def restart(self) -> None:
        """Begin anew.

        :raises InvalidRequestError: it cannot be read, or not again.
        """
        if self._broken is not None:
            raise _unreadable(self._broken) from self._broken
        if self._start is not None:
            self._file.seek(self._start)
        elif not self._fresh and self._kept is None:
            raise InvalidRequestError("the content could be read only once, and has been")
        elif self._kept is not None:
            self._kept.seek(0)
            self._again = True
        self._fresh = False

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that is left.

        :raises InvalidRequestError: it cannot be read.
        """
        if size is None or size < 0:  # here a piece is no end: a pipe gives what it has
            return self.readall()
        if self._kept is None:
            return self._read(size)
        if self._again:
            if (data := self._kept.read(size)) or not size:
                return data
            self._again = False
        data = self._read(size)
        self._kept.write(data)
        return data

    def _read(self, size: int) -> bytes:
        """Read on. Where that failed it fails ever after: what would come next is not what belongs there."""
        if self._broken is None:
            check_time(self._scope.left(), "while the content was read")
            left = self._scope.remaining()
            try:
                return _bytes_of(self._some(size), size)
            except Exception as error:
                self._broken = error
            finally:
                self._scope.moved(left)  # what it took is taken off the call, and off the part of no store
        raise _unreadable(self._broken) from self._broken

    def close(self) -> None:
        """Keep it, as `Held` does."""

    def let_go(self) -> None:
        """Let go what was kept; the file itself is its owner's."""
        if self._kept is not None:
            self._kept.close()


def file_of(given: Given) -> BinaryIO | Path:
    """Return what was given as a binary file, or as the path of what is there.

    :raises InvalidRequestError: it is neither.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return Held(bytes(given))  # of a view that leaves some out, too
    if isinstance(given, str | os.PathLike):
        if not os.fspath(given):
            raise InvalidRequestError("content: found an empty path, expected that of a file or a folder")
        path = Path(given)
        try:
            os.lstat(path)
        except PermissionError as error:
            raise InvalidRequestError(f"{path}: cannot be read: {error.strerror}") from error
        except (OSError, ValueError) as error:  # a zero byte, say
            text = f"{str(path)!r:.300}: nothing is there; to keep a text, give its bytes"
            raise InvalidRequestError(text) from error
        return path
    if (read := getattr(given, "read", None)) is not None:
        try:
            _bytes_of(read(0), 0)
        except Exception as error:
            raise _unreadable(error) from error
        return given  # type: ignore[return-value] # it reads bytes
    if isinstance(given, Iterable) and not isinstance(given, Mapping | Set):  # those have no order, or no pieces
        return Pieces(given)  # type: ignore[return-value] # a raw binary file
    raise InvalidRequestError(
        f"content: found {type(given).__name__}, expected bytes, a path, a binary file, or bytes in pieces"
    )


def told(scope: Scope, progress: Progress, size: int) -> None:
    """Tell the caller how far it is. What fails there is the caller's error, and no store's."""
    try:
        progress(size)
    except Exception as error:
        raise InvalidRequestError(f"progress: it failed: {type(error).__name__}: {words_of(error):.300}") from error
    if scope.deadline < inf:
        scope.moved(scope.remaining())


def check_time(left: float, when: str) -> None:
    """Raise BackendTimeout, which says when that was, if no second is left."""
    if left <= 0:
        raise BackendTimeout(f"the time was up {when}; give a longer timeout")


def _bytes_of(data: Any, size: int) -> bytes:
    """Return what a file has read.

    :raises InvalidRequestError: that is a text, say, or more than the file was asked for: the rest would be lost.
    """
    if isinstance(data, str):
        raise InvalidRequestError("content: found a file that reads text, expected one that was opened in binary mode")
    if data is None:
        raise InvalidRequestError("content: found a file with nothing to read yet, expected one that waits for more")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidRequestError(f"content: found a file that reads {type(data).__name__}, expected bytes")
    if len(found := bytes(data)) > size:
        text = f"content: found a file that reads {len(found):,} bytes for {size:,}, expected no more"
        raise InvalidRequestError(f'{text}; give its pieces, iter(file.read, b"")')
    return found


def _unreadable(error: Exception) -> InvalidRequestError:
    """Return what says that a source cannot be read: its owner's error, and no store's."""
    if isinstance(error, InvalidRequestError):
        return error
    return InvalidRequestError(f"content: cannot be read: {type(error).__name__}: {words_of(error):.300}")


def _seekable(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except (AttributeError, OSError, ValueError):
        return False


def _waits(file: BinaryIO) -> bool:
    try:
        return os.get_blocking(file.fileno())
    except (AttributeError, OSError, ValueError):  # it is not the system's
        return False


class Content(Pieces):
    """What is kept under a CID, as a file to be read once, from its beginning; a context manager.

    Every byte of it has been verified. Where a store fails in the middle, the next one goes on.
    """

    def __iter__(self) -> Iterator[bytes]:
        """Give out the rest in pieces as they come, which are no lines."""
        if self._rest:
            yield bytes(self._rest)
            self._rest = memoryview(b"")
        yield from self._pieces
        self._checkClosed()  # no end, but that of who reads on after it was closed


@contextmanager
def open_file(given: BinaryIO | Path) -> Iterator[BinaryIO]:
    """Open what is a path, and close it again.

    :raises InvalidRequestError: it cannot be read.
    """
    if not isinstance(given, Path):
        yield given
        return
    try:
        file = given.open("rb")
    except OSError as error:
        raise InvalidRequestError(f"{given}: cannot be read: {error.strerror}") from error
    with file:
        yield file


def noted(pieces: Iterable[bytes], failed: list[BackendError]) -> Iterator[bytes]:
    """Give out the pieces, and note why there are no more: whoever reads them tells that as a source's."""
    try:
        yield from pieces
    except BackendError as error:
        failed.append(error)
        raise


def with_first(pieces: Iterator[bytes], first: bytes) -> Iterator[bytes]:
    """Give out a piece that was read ahead, and all others; closing it closes them."""
    with closing(pieces):  # type: ignore[type-var] # a generator
        yield first
        yield from pieces
