"""The chunks of a body, joined again, and what comes after the last of them.

`http.client` takes one chunk at a time, which may be small, and throws away what follows.

Source: https://www.rfc-editor.org/rfc/rfc9112#section-7.1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse, IncompleteRead, parse_headers
from io import BytesIO
from typing import Any

_READ = 1 << 18
_LONGEST_LINE, _LONGEST_TRAILER = 1 << 9, 1 << 16
_FIRST = re.compile(rb"([0-9a-f]{1,12})[ \t]*(?:;[^\n]*)?\r?\n", re.IGNORECASE)
_NEXT = re.compile(rb"\r\n" + _FIRST.pattern, re.IGNORECASE)
_BLANK = re.compile(rb"\r?\n|(?:[^\r\n][^\n]*\n)+\r?\n")


class Chunks:
    """Reads the body of an answer that comes in chunks. Who has announced a trailer must send it to its end."""

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer: Any = answer
        self._rest = b""  #: received, and not taken apart
        self._left: int | None = None  #: bytes of the chunk that have not come; None before the first
        self._last = self._ended = False
        self.trailers: Mapping[str, str] = {}

    def read1(self, _size: int) -> bytes:
        """Return what has come; b"" at the end.

        :raises IncompleteRead: it was cut, or is broken.
        """
        piece = b""
        while not piece and not self._ended:
            came = self._answer.fp.read1(_READ)
            if not came:
                if not self._last or "trailer" in self._answer.headers:
                    raise IncompleteRead(b"")
                self._ended = True
            self._rest = self._rest + came if self._rest else came
            piece = b"".join(self._taken())
        return piece

    def _taken(self) -> Iterator[bytes]:
        """Give out the content of what is there."""
        data, at = self._rest, 0
        while at < len(data) and not self._last:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                yield piece
                continue
            line = (_FIRST if self._left is None else _NEXT).match(data, at)
            if line is None:
                if len(data) - at > _LONGEST_LINE or data.find(b"\n", at + 2) >= 0:
                    raise IncompleteRead(b"")
                break
            at, self._left = line.end(), int(line[1], 16)
            self._last = not self._left
        self._rest = data[at:]
        if self._last and not self._ended:
            self._end()

    def _end(self) -> None:
        blank = _BLANK.match(self._rest)
        if blank is None:
            if len(self._rest) > _LONGEST_TRAILER:
                raise IncompleteRead(b"")
            return
        try:
            self.trailers = parse_headers(BytesIO(blank[0]))  # type: ignore[assignment] # it is looked up as one
        except HTTPException as error:  # more lines than anybody sends
            raise IncompleteRead(b"") from error
        self._ended = True
        if self._rest[blank.end() :]:
            self._answer.will_close = True  # what is more than an answer is none to the next request
