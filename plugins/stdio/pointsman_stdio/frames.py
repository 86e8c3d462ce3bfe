"""The two ways in which JSON messages are cut out of a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import IO, Any

from attrs import frozen
from pointsman import Secret

Message = dict[str, Any]


class BrokenStream(Exception):
    """What came is no message: half of one, or another protocol."""


@frozen
class Framing:
    """How messages are written and read."""

    pack: Callable[[Message], bytes]
    read: Callable[[IO[bytes]], Iterator[Message]]  #: raises BrokenStream


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


def _read_lines(pipe: IO[bytes]) -> Iterator[Message]:
    for line in pipe:
        if line.strip():
            yield _parsed(line)


def _read_headers(pipe: IO[bytes]) -> Iterator[Message]:
    length = None
    for line in pipe:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = int(value)
        elif line.strip() == b"" and length is not None:
            data = pipe.read(length)
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
