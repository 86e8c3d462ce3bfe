"""Room that is kept on the disk for what makes room, unpins and shows what there is, when no other is left."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from time import monotonic

#: Bytes that are kept; and how small a part of the disk, at most.
_KEPT, _PART = 4 << 20, 8
#: Bytes that nobody fills within so many seconds.
_PLENTY, _SOON_S = 1 << 30, 0.1


class Reserve:
    """The file `reserve` of one store, which takes that room. Processes may share it."""

    def __init__(self, root: Path) -> None:
        self._path = root / "reserve"
        self._roomy = 0.0  #: until when nobody has to look, by `monotonic`

    def give(self) -> None:
        """Give the room up, for what is done next."""
        with suppress(OSError):
            self._path.unlink()

    def refill(self) -> None:
        """Take it back, as much as there is."""
        with suppress(OSError):
            file = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                size = _wanted(os.fstatvfs(file))
                while size > os.fstat(file).st_size:
                    with suppress(OSError):  # there is less room
                        os.posix_fallocate(file, 0, size)
                    size //= 2
            finally:
                os.close(file)

    def check(self, file: int, size: int) -> None:
        """See that content of so many bytes in an open file leaves that room free, also where it was given up just now.

        Raises OSError.
        """
        if monotonic() < self._roomy:
            return
        disk = os.fstatvfs(file)
        free = disk.f_bavail * disk.f_frsize - size
        if free > _PLENTY:
            self._roomy = monotonic() + _SOON_S
        elif free < (wanted := _wanted(disk)):
            try:
                taken = os.stat(self._path).st_size
            except FileNotFoundError:
                taken = 0
            if free < wanted - taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _wanted(disk: os.statvfs_result) -> int:
    return min(_KEPT, disk.f_blocks * disk.f_frsize // _PART)
