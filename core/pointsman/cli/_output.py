"""What goes to a person's eyes: answers on stdout, everything else on stderr, nothing that moves the terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click

#: Control characters that a model's text must not send to a terminal; line breaks and tabs are harmless.
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
_STYLES = {
    "healthy": "green",
    "loaded": "green",
    "ready": "green",
    "degraded": "yellow",
    "unavailable": "red",
    "quarantined": "red",
    "unfit": "red",
    "unconfigured": "yellow",
    "disabled": "dim",
    "left out": "dim",
    "kept": "green",
    "mended": "green",
    "waiting": "yellow",
    "damaged": "red",
    "unchecked": "yellow",
    "absent": "red",
}


def settle_output() -> None:
    """Let no character that the terminal's encoding lacks end the program, and no output be cut unnoticed.

    With PYTHONUNBUFFERED, Python's own stdout drops what a pipe or a disk does not take in one piece.
    """
    if sys.stderr is None:  # it is closed, and what is opened next would be in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    if isinstance(raw := getattr(sys.stdout, "buffer", None), io.RawIOBase):
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), sys.stdout.encoding, write_through=True)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def harmless(text: str, stream: TextIO) -> str:
    """Return `text` without what would move the cursor or rename the window, if `stream` is a terminal."""
    return text.replace("\r\n", "\n").translate(_CONTROL) if stream.isatty() else text


def in_a_line(name: str) -> str:
    """Return the name of a file, or what others say, as one line that anybody can read: it may have any character."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        close_output()
        raise click.ClickException(f"standard output cannot be written: {error.strerror or error}") from None


def close_output() -> None:
    """Write nothing more to stdout, at exit neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def answer(text: str) -> None:
    """Write a piece of an answer to stdout, at once."""
    _write(harmless(text, sys.stdout))


def as_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a value to stdout as JSON, for programs."""
    _write(json.dumps(value, ensure_ascii=False, indent=indent, default=str) + "\n")


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    click.echo(click.style("pointsman: ", fg="red", bold=True) + harmless(text, sys.stderr), err=True)


def note(text: str) -> None:
    """Say something on stderr that is worth knowing."""
    click.echo(click.style(harmless(text, sys.stderr), dim=True), err=True)


def table(columns: Sequence[str], values: Sequence[Mapping[str, Any]]) -> None:
    """Print a table on stdout, without the columns that nobody has a value for; say so on stderr if it is empty."""
    if not values:
        note("no backend: the configuration names none, or no provider is installed")
        return
    rows = [{name: _cell(row[name]) for name in columns} for row in values]
    shown = [name for name in columns if any(row[name] for row in rows)]
    if not sys.stdout.isatty():
        _write(_plain(shown, rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in shown:
        grid.add_column(name.upper(), overflow="fold", no_wrap=name != shown[-1], justify="left")
    for row in rows:
        style = _STYLES.get(row.get("status", ""), "")
        grid.add_row(
            *(Text(harmless(row[name], sys.stdout), style=style if name == "status" else "") for name in shown),
            style="dim" if style == "dim" else "",
        )
    with console.capture() as captured:
        console.print(grid)
    _write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def _plain(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Return a table for a pipe, which has no width: nothing is cut, and a row is a line, so that grep finds it."""
    from rich.cells import cell_len

    lines = [[name.upper() for name in columns]]
    lines += ([in_a_line(row[name].replace("\n", " ")) for name in columns] for row in rows)
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    padded = ((one + " " * (width - cell_len(one)) for one, width in zip(line, widths, strict=True)) for line in lines)
    return "".join("  ".join(line).rstrip() + "\n" for line in padded)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
