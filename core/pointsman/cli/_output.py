"""What goes to a person's eyes: answers on stdout, everything else on stderr, nothing that moves the terminal."""

from __future__ import annotations

import json
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
}


def settle_output() -> None:
    """Let no character that the terminal's encoding lacks end the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def harmless(text: str, stream: TextIO) -> str:
    """Return `text` without what would move the cursor or rename the window, if `stream` is a terminal."""
    return text.replace("\r\n", "\n").translate(_CONTROL) if stream.isatty() else text


def answer(text: str) -> None:
    """Write a piece of an answer to stdout, at once."""
    sys.stdout.write(harmless(text, sys.stdout))
    sys.stdout.flush()


def as_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a value to stdout as JSON, for programs."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=indent, default=str) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    click.echo(click.style("pointsman: ", fg="red", bold=True) + harmless(text, sys.stderr), err=True)


def note(text: str) -> None:
    """Say something on stderr that is worth knowing."""
    click.echo(click.style(harmless(text, sys.stderr), dim=True), err=True)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, str]], *, styled: str = "status") -> None:
    """Print a table on stdout, without the columns that nobody has a value for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # a pipe has no width: nothing is cut or wrapped there, so that grep finds it
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    shown = [name for name in columns if any(row.get(name) for row in rows)]
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in shown:
        grid.add_column(name.upper(), overflow="fold", no_wrap=name != shown[-1], justify="left")
    for row in rows:
        style = _STYLES.get(row.get(styled, ""), "")
        grid.add_row(
            *(Text(harmless(row.get(name, ""), sys.stdout), style=style if name == styled else "") for name in shown),
            style="dim" if style == "dim" else "",
        )
    with console.capture() as captured:
        console.print(grid)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
    sys.stdout.flush()
