"""Files that a process locks for as long as it lives. Nobody waits for them, and no forked child keeps them locked."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from pointsman.forks import Lock, Shared


class _Locked(Shared):
    """The open files that this process has locked. A forked child closes them: its copies would keep them locked for
    as long as it lives, and those that were removed their room.
    """

    level = 2  # who holds its lock waits for no other one

    def __init__(self) -> None:
        self._files = set[int]()
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self._lock = threading.RLock()
        while self._files:
            os.close(self._files.pop())

    def locks(self) -> Sequence[Lock]:
        return (self._lock,)

    def open(self, path: Path, flags: int) -> int:
        """Open a file that is to be locked. Raises OSError."""
        with self._lock:  # no fork comes between the two, here and below: a child would not know of the file
            file = os.open(path, flags | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._files.add(file)
        return file

    def close(self, file: int) -> None:
        """Let it go, unless that was done."""
        with self._lock:
            if file in self._files:
                self._files.remove(file)
                os.close(file)


locked_files = _Locked()


def locked(path: Path) -> int | None:
    """Return a file, open and locked for writing; None if its writer lives, or it is gone.

    `locked_files` closes it.
    """
    try:
        file = locked_files.open(path, 0)
    except FileNotFoundError:
        return None
    if locks(file, fcntl.LOCK_EX) and os.fstat(file).st_nlink:
        return file
    locked_files.close(file)
    return None


def locks(file: int, kind: int) -> bool:
    """Lock an open file, as `flock` has it, without waiting; say whether that was possible."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
