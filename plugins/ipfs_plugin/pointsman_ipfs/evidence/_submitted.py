"""What is submitted: bytes, or the file at a path, which must not change while it is read."""

from __future__ import annotations

import io
import mimetypes
import os
import stat
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from attrs import frozen
from pointsman import InvalidRequestError

from ..dag.tree import Bounded

#: Bytes up to which it is read into memory.
SMALL = 4 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # what is a pipe must not keep us waiting
#: What files begin with, of kinds that people submit.
_BEGINNINGS = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"PK\x03\x04", "application/zip"),
)
_UNKNOWN = "application/octet-stream"


@frozen
class Submitted:
    """A piece of evidence before it is stored."""

    small: bytes | None  #: all of it, if it is small
    large: bytes | Path
    name: str = ""  #: of the file

    @classmethod
    def of(cls, content: object) -> Submitted:
        """Return what somebody gave.

        :raises InvalidRequestError: it is neither bytes nor the path of a file that can be read.
        """
        if isinstance(content, bytes | bytearray | memoryview):
            data = bytes(content)
            return cls(data if len(data) <= SMALL else None, data)
        if isinstance(content, str):
            raise InvalidRequestError(
                "data: found text, expected bytes: give its bytes (text.encode()), or a file by its path"
            )
        if not isinstance(content, os.PathLike):
            raise InvalidRequestError(f"data: found {type(content).__name__}, expected bytes or a path")
        path = Path(os.fsdecode(content))
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            return cls(file.read() if size <= SMALL else None, path, path.name)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Read it, as often as need be.

        :raises InvalidRequestError: it cannot be read, or was changed meanwhile.
        """
        if self.small is not None or isinstance(self.large, bytes):
            yield io.BytesIO(self.large if self.small is None else self.small)  # type: ignore[arg-type] # it is bytes
            return
        with _opened(self.large) as file:
            yield file

    def media_type(self) -> str:
        """Return what the name, or else the beginning, says that it is."""
        if guessed := mimetypes.guess_type(self.name)[0]:
            return guessed
        with self.open() as file:
            head = file.read(512)
        for beginning, kind in _BEGINNINGS:
            if head.startswith(beginning):
                return kind
        try:
            getincrementaldecoder("utf-8")().decode(head)  # the last letter may be cut
        except UnicodeDecodeError:
            return _UNKNOWN
        return "text/plain" if head and b"\0" not in head else _UNKNOWN


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        number = os.open(path, _READ)
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    before = os.fstat(number)
    if not stat.S_ISREG(before.st_mode):
        os.close(number)
        is_folder = stat.S_ISDIR(before.st_mode)
        what = "a folder: submit its files, or an archive of it" if is_folder else "a pipe or a device, expected a file"
        raise InvalidRequestError(f"{path}: found {what}")
    with Bounded(number) as file:
        yield file
        after = os.fstat(number)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InvalidRequestError(f"{path}: it was changed while it was read; submit it when nobody writes to it")
