"""How parent and child speak: frames of four bytes of length (big-endian) and that much JSON.

Parent to child: `{"op": "load", ...}` once, then `{"op": "ask", "id", "body"}` and
`{"op": "cancel", "id"}`. The end of the pipe ends the child.

Child to parent: `MAGIC` once, `{"op": "ready"}` or `{"op": "failed", "kind", "message"}`, then for
each request any number of `{"id", "text" | "reasoning" | "busy"}` and exactly one `{"id", "end"}` or
`{"id", "error"}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

#: What the child writes first. What comes before it was printed by something else (a `sitecustomize`).
MAGIC = b"\x00pointsman-local-1\n"
#: No frame is larger: a longer one means that the stream is broken.
LONGEST = 64 << 20


class BrokenStream(Exception):
    """What came is not our protocol."""


def packed(payload: bytes) -> bytes:
    """Return the frame around JSON that is already text."""
    return len(payload).to_bytes(4, "big") + payload


def pack(message: dict[str, Any]) -> bytes:
    """Return the frame of one message."""
    return packed(json.dumps(message, separators=(",", ":")).encode())


def frames(read: Callable[[], bytes], *, magic: bytes = b"") -> Iterator[dict[str, Any]]:
    """Yield the messages that `read` brings, until it returns nothing more.

    :param read: returns some bytes, or none at the end.
    :param magic: skip everything up to and with this.
    :raises BrokenStream: a frame is too long or no JSON.
    """
    buffer = bytearray()
    while magic and (at := buffer.find(magic)) < 0:
        if not (some := read()) or len(buffer) > 1 << 20:
            return
        buffer += some
    if magic:
        del buffer[: at + len(magic)]
    while True:
        start = 0
        while len(buffer) - start >= 4:
            length = int.from_bytes(buffer[start : start + 4], "big")
            if length > LONGEST:
                raise BrokenStream(f"a frame of {length} bytes")
            if len(buffer) - start - 4 < length:
                break
            payload = bytes(buffer[start + 4 : start + 4 + length])
            start += 4 + length
            try:
                yield json.loads(payload)
            except ValueError as error:
                raise BrokenStream("a frame that is no JSON") from error
        del buffer[:start]
        if not (some := read()):
            return
        buffer += some
