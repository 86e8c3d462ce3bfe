"""Server-sent events, read from bytes.

The rules are those of the HTML standard (section 9.2.6), except that the last event also counts
when the blank line after it is missing, and that lines which are no fields are not dropped: some
servers answer a request for a stream with bare JSON.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ._classify import error_in
from .errors import BackendError, UnusableAnswer

MAX_EVENT = 64 << 20  # bytes


class Event(NamedTuple):
    """One event: its name ("" where it has none) and its data."""

    name: str
    data: str

    def __repr__(self) -> str:
        return f"Event({self.name!r}, <{len(self.data)} characters>)"  # a traceback shows it, and servers echo keys

    def json(self) -> Any:
        """Return the data as Python values.

        :raises UnusableAnswer: the data is not JSON.
        :raises BackendError: the data is an error object; the class says which error.
        """
        value = parsed(self.data)
        if isinstance(value, BackendError):
            raise value
        return value


def parsed(text: str, where: str = "") -> Any:
    """Return the values of `text`, or the error that it is: raise that where no variable holds the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return UnusableAnswer(f"the server sent what is no JSON: {text[:80]!r}")
    return error_in(value, where=where) or value


class EventParser:
    """Turns pieces of bytes, cut anywhere, into events. Takes linear time. Not thread-safe."""

    def __init__(self) -> None:
        self._cut: list[bytes] = []  # pieces of a line that has not ended yet
        self._held = 0
        self._data: list[bytes] = []
        self._bare: list[bytes] = []
        self._name = b""
        self._after_cr = False
        self._first = True

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that `piece` completes."""
        if self._after_cr and piece:  # the second half of a line break that was cut in two
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        if not piece:
            return []
        self._held += len(piece)
        if self._held > MAX_EVENT:
            raise UnusableAnswer(f"an event of the stream is longer than {MAX_EVENT} bytes")
        lines = piece.splitlines()  # of bytes: cuts at CR, LF and CRLF, and nowhere else
        if self._cut:
            self._cut.append(lines[0])
            if len(lines) == 1 and piece[-1] not in b"\r\n":
                return []
            lines[0], self._cut = b"".join(self._cut), []
        if piece[-1] not in b"\r\n":
            self._cut = [lines.pop()]
        self._after_cr = piece[-1:] == b"\r"
        return [event for line in lines if (event := self._line(line)) is not None]

    def end(self) -> list[Event]:
        """Return what the end of the stream completes."""
        lines = [b"".join(self._cut), b""] if self._cut else [b""]
        self._cut = []
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> Event | None:
        if self._first:
            line, self._first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name == b"event":
            self._name = value.removeprefix(b" ")
        elif name and name not in (b"id", b"retry") and (self._bare or line[:1] in b"{["):
            self._bare.append(line)
        return None

    def _dispatch(self) -> Event | None:
        name, data = self._name, self._data or self._bare
        self._name, self._data, self._bare, self._held = b"", [], [], 0
        if not data:
            return None
        try:
            return Event(name.decode(), b"\n".join(data).decode())
        except UnicodeDecodeError:
            pass
        raise UnusableAnswer("the stream holds bytes that are not UTF-8")
