"""The lines of a batch: what is asked, and what came of it, in the same order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

if TYPE_CHECKING:
    from pointsman import BackendError, Completion

_BOM = b"\xef\xbb\xbf"


class Place(NamedTuple):
    """Where an item stands: the number of its line, from 1, and what the line says of itself."""

    line: int
    facts: dict[str, Any]


class Rows:
    """The items that the lines of a file describe. Iterated once.

    `places` has the items that were given out and not answered yet, by their position.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.places: dict[int, Place] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        try:
            for number, line in enumerate(self._lines, 1):
                line = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
                if line:
                    item, facts = _read(line)
                    self.places[self.count] = Place(number, facts)
                    self.count += 1
                    yield item
        except OSError as error:
            raise click.ClickException(f"the prompts cannot be read: {error.strerror or error}") from None


def _read(line: bytes) -> tuple[Any, dict[str, Any]]:
    """Return the item of a line, or the error that it is, and what identifies it."""
    from pointsman import InvalidRequestError

    try:
        text = line.decode()
        if not text.startswith("{"):
            return text, {}
        row: dict[str, Any] = json.loads(text)
    except UnicodeDecodeError as error:
        return InvalidRequestError(f"the line is not UTF-8 text (byte {error.start})"), {}
    except json.JSONDecodeError as error:
        return InvalidRequestError(f"the line begins with {{ but is not JSON: column {error.colno}: {error.msg}"), {}
    except (ValueError, RecursionError) as error:
        return InvalidRequestError(f"the line is not JSON: {error}"), {}
    return row, {"id": row["id"]} if "id" in row else {}


class Output:
    """The file, or the standard output, that gets a line for each item, in their order.

    A file is written anew, and only when the first result is there: what was in it is safe until then.
    A line that the process could not finish is no JSON, so nobody takes it for whole.
    """

    def __init__(self, target: str) -> None:
        self.to_stdout = target == "-"
        self._target = target
        self._stream: TextIO | None = None
        self._ready: dict[int, str] = {}
        self._next = 0

    def put(self, position: int, place: Place, result: Completion | BackendError) -> None:
        """Write the line of an item as soon as those before it are written."""
        self._ready[position] = json.dumps(_values(position, place, result), ensure_ascii=False, default=str)
        if position == self._next:
            self.write()

    def write(self, *, all_of_it: bool = False) -> None:
        """Write what is ready: up to the first that is not, or all of it, with gaps."""
        if not self._ready:
            return
        try:
            if self._stream is None:
                self._stream = _opened(self._target)
            for position in sorted(self._ready) if all_of_it else count(self._next):
                line = self._ready.pop(position, None)
                if line is None:
                    break
                self._stream.write(line + "\n")
                self._next = position + 1
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(f"{self._target} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None and not self.to_stdout:
            self._stream.close()


def _opened(target: str) -> TextIO:
    # what UTF-8 cannot hold is written as the escape that JSON has for it
    return sys.stdout if target == "-" else Path(target).open("w", encoding="utf-8", errors="backslashreplace")


def _values(position: int, place: Place, result: Completion | BackendError) -> dict[str, Any]:
    import attrs

    from pointsman import BackendError

    if isinstance(result, BackendError):
        from ._failures import as_values

        values = as_values(result)
        values["error"]["message"] = message(position, result)
    else:
        values = attrs.asdict(result)
    return {"line": place.line, **place.facts, **values}


def message(position: int, error: BackendError) -> str:
    """Return what was wrong; where it was, the line says."""
    return str(error).removeprefix(f"prompts[{position}]: ")
