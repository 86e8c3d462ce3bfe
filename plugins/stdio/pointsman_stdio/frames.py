"""The two ways in which JSON messages are cut out of a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen
from pointsman import Secret

Message = dict[str, Any]
#: Bytes of one message at most: what says more than that is no answer, and must not fill the memory.
LIMIT = 1 << 26


class BrokenStream(Exception):
    """What came is no message: half of one, one without an end, or another protocol."""


@frozen
class Framing:
    """How messages are written and read."""

    pack: Callable[[Message], bytes]
    read: Callable[[Iterable[bytes]], Iterator[Message]]  #: of the pieces as they come; raises BrokenStream


class _Pieces:
    """What has come and is not cut yet."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._held = iter(pieces), bytearray()

    def line(self) -> bytes:
        """Return the next line, with what ends it; b"" at the end."""
        end = 0
        while not (found := self._held.find(b"\n", end) + 1):
            end = len(self._held)
            if not self._more():
                found = end
                break
        return self._cut(found)

    def block(self, size: int) -> bytes:
        """Return so many bytes; fewer at the end."""
        while len(self._held) < size and self._more():
            pass
        return self._cut(size)

    def _more(self) -> bool:
        _allowed(len(self._held))
        piece = next(self._pieces, b"")
        self._held += piece
        return bool(piece)

    def _cut(self, size: int) -> bytes:
        cut = bytes(self._held[:size])
        del self._held[:size]
        return cut


def _allowed(size: int) -> int:
    if size > LIMIT:
        raise BrokenStream(f"a message of more than {LIMIT >> 20} MiB")
    return size


def _json(message: Message) -> bytes:
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_revealed).encode()


def _revealed(value: object) -> str:
    """Return a key: only here, so that no message which is still looked at has one in it."""
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def _parsed(data: bytes) -> Message:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise BrokenStream(f"something that is no message: {data[:60]!r}")
    return message


def _read_lines(pieces: Iterable[bytes]) -> Iterator[Message]:
    cut = _Pieces(pieces)
    while line := cut.line():
        if line.strip():
            yield _parsed(line)


def _read_headers(pieces: Iterable[bytes]) -> Iterator[Message]:
    cut, length = _Pieces(pieces), None
    while line := cut.line():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = _allowed(int(value))
        elif line.strip() == b"" and length is not None:
            data = cut.block(length)
            if len(data) < length:
                raise BrokenStream(f"{len(data)} bytes of a message of {length}")
            yield _parsed(data)
            length = None
        elif not (name.strip().lower().startswith(b"content-") and value):
            raise BrokenStream(f"something that is no header: {line[:60]!r}")


def _pack_headers(message: Message) -> bytes:
    data = _json(message)
    return b"Content-Length: %d\r\n\r\n%b" % (len(data), data)


#: One message, one line. Codex leaves `"jsonrpc"` out and takes it all the same.
LINES = Framing(lambda message: _json(message) + b"\n", _read_lines)
#: As language servers do: a header with the length, an empty line, the message.
HEADERS = Framing(lambda message: _pack_headers({"jsonrpc": "2.0", **message}), _read_headers)
