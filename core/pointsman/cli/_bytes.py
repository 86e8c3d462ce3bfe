"""Bytes on their way: a line on stderr that says how far they are, and the standard output as bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, BinaryIO

import click

from pointsman.errors import PointsmanError

from ._output import close_output, complain, note

#: Seconds before anything is shown, between two looks of a person at what is left, and between two lines of a log.
_SOON, _OFTEN, _SELDOM = 0.5, 0.5, 10.0


class Bytes:
    """Counts bytes and shows them on stderr, if it takes long: a context manager.

    :param total: how many there will be, if that is known.
    """

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._live = not quiet and sys.stderr.isatty()
        self._done, self._begun = 0, monotonic()
        self._next = self._begun + _SOON
        self._bar: Any = None

    def add(self, size: int) -> None:
        """Count so many bytes more."""
        self._done += size
        if self._quiet or monotonic() < self._next:
            return
        self._next = monotonic() + (0.1 if self._live else _SELDOM)
        try:
            self._show()
        except OSError:  # nobody reads it any more: that is no matter of what is kept
            self._quiet = True

    def _show(self) -> None:
        if not self._live:
            note(str(self))
            return
        if self._bar is None:
            self._bar = self._begun_bar()
        self._bar.update(0, completed=self._done, description=str(self))

    def hide(self) -> None:
        """Take away what is shown, so that a line can be written; the next `add` shows it again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def through(self, file: BinaryIO) -> Any:
        """Return what reads a file, and counts what it reads."""
        return _Counted(file, self)

    def __str__(self) -> str:
        of = f" of {in_words(self._total)}" if self._total else ""
        return f"{in_words(self._done)}{of}, {in_words(self._done / max(monotonic() - self._begun, 1e-6))}/s"

    def __enter__(self) -> Bytes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()

    def _begun_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = BarColumn(), TextColumn("{task.description}", markup=False), TimeRemainingColumn()
        console = Console(stderr=True, highlight=False)
        bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        bar.add_task("", total=self._total)
        bar.start()
        return bar


class _Counted:
    def __init__(self, file: BinaryIO, seen: Bytes) -> None:
        self._file, self._seen = file, seen

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._seen.add(len(data))
        return data

    def seekable(self) -> bool:
        return self._file.seekable()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int) -> int:
        return self._file.seek(place)


@contextmanager
def counted_down(left: Callable[[], int], *, quiet: bool) -> Iterator[None]:
    """Show on stderr how many copies are left, if that is a terminal and it takes long.

    :param left: asked in another thread; if it fails, nothing is shown.
    """
    over = Event()

    def words() -> str:
        return f"{left():,} left to bring to other stores"

    def show() -> None:
        if over.wait(_SOON):
            return
        from rich.console import Console

        with suppress(PointsmanError, OSError), Console(stderr=True, highlight=False).status(words()) as line:
            while not over.wait(_OFTEN):
                line.update(words())

    thread = Thread(target=show, daemon=True)
    if not quiet and sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join()


def size_of(path: str) -> int | None:
    """Return the bytes of a file, or of all files in a folder; None where that cannot be known."""
    if path == "-":
        return None
    try:
        if not os.path.isdir(path):
            return os.path.getsize(path)
        return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)
    except OSError:
        return None


def in_words(size: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def standard_input() -> BinaryIO:
    """Return the standard input, as bytes.

    :raises click.UsageError: it is closed.
    """
    if sys.stdin is None:
        raise click.UsageError("the standard input is closed; name a file instead of -")
    return sys.stdin.buffer


def write_bytes(data: bytes) -> None:
    """Write to the standard output.

    :raises click.ClickException: it cannot be written.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        close_output()
        raise click.ClickException(f"standard output cannot be written: {error.strerror or error}") from None


@contextmanager
def written(output: str) -> Iterator[Any]:
    """Give what writes bytes to a path where nothing is, or to the standard output ("-").

    A file that is not written whole is taken away.
    """
    if output == "-":
        yield write_bytes
        return
    try:
        file = Path(output).open("xb")  # noqa: SIM115 - in `with` below
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}; name a path where nothing is") from error
    try:
        with file:
            yield file.write
    except BaseException as error:
        Path(output).unlink()
        if isinstance(error, OSError):
            complain(f"{output} cannot be written: {error.strerror}")
            raise click.exceptions.Exit(1) from error
        raise
