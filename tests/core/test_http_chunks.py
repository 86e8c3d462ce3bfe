"""The chunks of a body: the same content however they arrive, and an error for all that is none."""

from __future__ import annotations

import random
from email.message import Message
from http.client import IncompleteRead
from types import SimpleNamespace
from typing import Any

import pytest
from pointsman._http_chunks import Chunks


class Parts:
    """What `read1` of a connection gives out: one part each time."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = [part for part in parts if part]

    def read1(self, _size: int) -> bytes:
        return self._parts.pop(0) if self._parts else b""


def answer(*parts: bytes, **headers: str) -> Any:
    message = Message()
    for name, value in headers.items():
        message[name] = value
    return SimpleNamespace(fp=Parts(list(parts)), headers=message, will_close=False)


def content(chunks: Chunks) -> bytes:
    found = b""
    while piece := chunks.read1(10):
        found += piece
    return found


BODY = (
    b'1\r\na\r\n00004;name="x"\r\nbc\r\n\r\nA\r\n0123456789\r\n1F \r\n'
    + b"z" * 31
    + b"\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n"
)
CONTENT = b"abc\r\n0123456789" + b"z" * 31


def test_the_content_is_the_same_however_it_arrives() -> None:
    """Byte by byte, in two parts cut anywhere, in random parts, at once: one content, one trailer."""
    rng = random.Random(1)
    ways = [[BODY], [bytes((byte,)) for byte in BODY], *([BODY[:at], BODY[at:]] for at in range(len(BODY)))]
    for _ in range(200):
        cuts = sorted(rng.choices(range(len(BODY)), k=rng.randrange(9)))
        ways.append([BODY[a:b] for a, b in zip([0, *cuts], [*cuts, len(BODY)], strict=True)])
    for parts in ways:
        chunks = Chunks(answer(*parts, trailer="x-a"))
        assert content(chunks) == CONTENT
        assert (chunks.trailers["x-a"], chunks.trailers["X-C"]) == ("b", "d")
        assert chunks.read1(10) == b""


def test_every_cut_is_one() -> None:
    """Wherever a body with an announced trailer ends too early, the end is an error, never an end."""
    for at in range(len(BODY)):
        chunks = Chunks(answer(BODY[:at], trailer="x-a"))
        with pytest.raises(IncompleteRead):
            content(chunks)


def test_without_an_announced_trailer_the_last_chunk_is_the_end() -> None:
    """Some servers close where a blank line belongs."""
    assert content(Chunks(answer(b"1\r\na\r\n0\r\n"))) == b"a"
    with pytest.raises(IncompleteRead):
        content(Chunks(answer(b"1\r\na\r\n")))


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n1\r\na\r\n0\r\n\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1\r\na0\r\n\r\n",
        b"-1\r\na\r\n0\r\n\r\n",
        b"1_0\r\na\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\na",
        b"1;" + b"x" * 600,
        b"<html>",
        b"1\r\na\r\n0\r\n" + b"X-A: b\r\n" * 101 + b"\r\n",
        b"1\r\na\r\n0\r\nX-A: " + b"b" * (1 << 16),
    ],
)
def test_what_is_no_chunk_is_refused(raw: bytes) -> None:
    """Sizes that are none, content without its end, endless lines: an error, at the latest when nothing more comes."""
    with pytest.raises(IncompleteRead):
        content(Chunks(answer(raw)))


def test_what_follows_an_answer_spoils_its_connection() -> None:
    """Bytes after the end belong to no answer that was asked for: the connection is not used again."""
    clean, spoilt = answer(b"1\r\na\r\n0\r\n\r\n"), answer(b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert content(Chunks(clean)) == content(Chunks(spoilt)) == b"a"
    assert (clean.will_close, spoilt.will_close) == (False, True)
