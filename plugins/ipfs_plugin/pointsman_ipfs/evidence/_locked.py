"""A lock that threads and processes share: it ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from pointsman import UnavailableError

from .._locked_files import locks

#: Seconds between two tries: others hold it for milliseconds.
_FIRST_S, _LONGEST_S = 0.0005, 0.005
#: Bytes that may be left in its file.
_NOTE = 1 << 20


class SharedLock:
    """Held by one thread of one process at a time, which may take it again within.

    :param path: of the file that stands for it, which is made.
    :param timeout: seconds for which another process may keep us waiting.
    :param what: it guards, for messages.
    """

    def __init__(self, path: Path, timeout: float, what: str) -> None:
        self._path, self._timeout, self._what = path, timeout, what
        self._threads = threading.RLock()
        self._file, self._made = -1, False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it. An interrupt (Ctrl-C), at any place, lets it go.

        :raises UnavailableError: another process has held it for so long, or the file cannot be made.
        """
        with self._threads:
            if self._file >= 0:  # within
                yield
                return
            self._file = self._taken()
            try:
                yield
            finally:
                file, self._file = self._file, -1
                try:
                    fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
                finally:
                    os.close(file)

    def note(self, data: bytes) -> None:
        """Leave this in the file, in place of what is there, for whoever takes it next, also if we are killed.

        It is held. Where there is no room, nothing is left; so it may be after a power cut.
        """
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, data, 0)

    def noted(self) -> bytes:
        """Return what was left there last. It is held."""
        return read(self._file)

    def forget(self) -> None:
        """Take the file away that we have made: it is held, and what it was to guard is none of ours."""
        if self._made:
            self._path.unlink(missing_ok=True)
            self._made = False

    def acquire(self, *, timeout: float) -> bool:
        """Let no other thread take it until `release`; say whether it became free within so many seconds."""
        return self._threads.acquire(timeout=timeout)

    def release(self) -> None:
        """Let other threads take it again."""
        self._threads.release()

    def _taken(self) -> int:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._made = self._made or not self._path.exists()
            file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnavailableError(f"{self._what} cannot be used: {error.strerror}; choose another path") from error
        until, wait = monotonic() + self._timeout, _FIRST_S
        try:
            while not locks(file, fcntl.LOCK_EX):
                if monotonic() > until:
                    text = f"{self._what} has been in use by another process for {self._timeout:g} s; try again later"
                    raise UnavailableError(text, retry_same=False)
                sleep(wait)
                wait = min(2 * wait, _LONGEST_S)
            if self._is_there(file):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # whoever held it has taken it away
        return self._taken()

    def _is_there(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False


def read(file: int) -> bytes:
    """Return what somebody has left in the file of a lock."""
    return os.pread(file, _NOTE, 0)
