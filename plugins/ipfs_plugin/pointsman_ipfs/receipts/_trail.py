"""Where a router left off: a small file for each, beside the content, that names its newest receipt.

    receipts/3f0c...e1      a line for each time that receipts became durable: the newest of them, and their page

The file is locked as long as its router lives. The next router begins its chain behind the receipts that files of dead
ones name, goes on with their pages, and takes the files away. Nobody waits for the disk here: after a power cut a file
may name an older receipt, or none; the chain is in the store.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path

from attrs import define

from .._locked_files import locked, locked_files
from ..dag.cid import canonical

#: Stands where a line names no receipt.
_NONE = "-"


@define
class Left:
    """What a dead router has left, claimed: nobody else takes it up."""

    path: Path
    file: int
    newest: str  #: its last receipt, "" if it had none
    pages: Sequence[str]

    def away(self) -> None:
        """Take the file away: another one says what it said."""
        with suppress(OSError):
            self.path.unlink()
        self.release()

    def release(self) -> None:
        """Leave it to the next one."""
        locked_files.close(self.file)


class Trail:
    """The file of one router, made when there is something to say. Not thread-safe."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        self._file: int | None = None

    def add(self, lines: Iterable[tuple[str, str]]) -> None:
        """Add receipts, each with its page: all of them, or none. Raises OSError."""
        file, text = self._opened(), "".join(f"{receipt or _NONE} {page}\n" for receipt, page in lines)
        before = os.lseek(file, 0, os.SEEK_END)
        if os.write(file, text.encode()) < len(text):
            os.ftruncate(file, before)
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    def begin_anew(self, receipt: str) -> None:
        """Leave nothing but the newest receipt: its page is in one that is kept for good. Raises OSError."""
        file, line = self._opened(), f"{receipt} {_NONE}\n".encode()
        os.pwrite(file, line, 0)  # first, so that there is a receipt at every instant
        os.ftruncate(file, len(line))

    def close(self) -> None:
        """Let it go: the next router takes it up."""
        if self._file is not None:
            locked_files.close(self._file)
            self._file = None

    def _opened(self) -> int:
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unseen = self._path.with_suffix(".new")  # nobody takes it up before it is locked
            self._file = locked_files.open(unseen, os.O_CREAT)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.rename(unseen, self._path)
        return self._file


def left_in(folder: Path) -> list[Left]:
    """Claim what dead routers have left."""
    found = []
    for path in sorted(folder.glob("*")):
        with suppress(OSError):
            if not path.suffix and (file := locked(path)) is not None:
                newest, pages = read(path)
                found.append(Left(path, file, newest, pages))
    return found


def read(path: Path) -> tuple[str, list[str]]:
    """Return the newest receipt that a file names ("" if it names none), and the pages. Raises OSError."""
    newest, pages = "", list[str]()
    whole, _, _ = path.read_text("ascii", "replace").rpartition("\n")  # a line without an end was being written
    for line in whole.split("\n"):
        receipt, _, page = line.partition(" ")
        newest = receipt if canonical(receipt) else newest
        if canonical(page):
            pages.append(page)
    return newest, pages
