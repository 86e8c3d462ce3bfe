"""Server-sent events, read from bytes.

The rules are those of the HTML standard (section 9.2.6), except that the last event also counts
when the blank line after it is missing, and that lines which are no fields are not dropped: some
servers answer a request for a stream with bare JSON.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, NamedTuple

from ._classify import error_in
from .errors import BackendError, UnusableAnswer

MAX_EVENT = 64 << 20  # bytes
_BARE = b"{"


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
        self._line = bytearray()  # what there is of a line that has not ended yet
        self._after_cr = False
        self._fields: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._held = 0

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that `piece` completes."""
        if self._after_cr and piece:  # the second half of a line break that was cut in two
            piece, self._after_cr = piece.removeprefix(b"\n"), False
        self._held += len(piece)
        if self._held > MAX_EVENT:
            raise UnusableAnswer(f"an event of the stream is longer than {MAX_EVENT} bytes")
        events = []
        for line in piece.splitlines(keepends=True):  # of bytes: cuts at CR, LF and CRLF, and nowhere else
            self._line += line
            self._after_cr = line.endswith(b"\r")
            if line.endswith((b"\r", b"\n")):
                whole, self._line = bytes(self._line.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf")), bytearray()
                if whole[:1] in (b"{", b"[") and self._fields[b"data"] and (event := self._event()):
                    events.append(event)  # Google's errors come bare, right behind what was said
                if whole:
                    self._add(whole)
                elif event := self._event():
                    events.append(event)
        return events

    def end(self) -> list[Event]:
        """Return what the end of the stream completes."""
        return self.feed(b"\n\n")

    def _add(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name in (b"data", b"event"):
            self._fields[name].append(value.removeprefix(b" "))
        elif line[:1] in (b"{", b"[") or self._fields[_BARE]:
            self._fields[_BARE].append(line)

    def _event(self) -> Event | None:
        fields, self._fields, self._held = self._fields, defaultdict(list), 0
        data = fields[b"data"] or fields[_BARE]
        if not data:
            return None
        try:
            return Event(b"".join(fields[b"event"][-1:]).decode(), b"\n".join(data).decode())
        except UnicodeDecodeError:
            pass
        raise UnusableAnswer("the stream holds bytes that are not UTF-8")
