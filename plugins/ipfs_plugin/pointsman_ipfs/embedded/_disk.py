"""What the disk is asked: to keep something, where a file is; and what it means that something could not be written."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pointsman import UnavailableError


def sync_file(file: int) -> None:
    """Wait until the disk has all of a file that reading it back needs. Raises OSError."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: its fsync stops at the disk's own cache
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(file)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder. Raises OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def standing(file: int) -> str:
    """Return where an open file stands now: not where it was, if another one was put in its place, or its folder moved.

    Without `fstat`, after which the next barrier takes longer. "" where the system does not say it.
    """
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:
        return ""


def unwritten(path: Path, error: OSError) -> UnavailableError:
    """Return what it means that something could not be written."""
    where = path if path.is_dir() else path.parent
    text = f"{where} cannot be written: {error.strerror or error}; make room there, or choose another path"
    return UnavailableError(text, retry_same=False, code=None if error.errno is None else str(error.errno))
