"""Faults of streams (rows 21 to 28). To a plain request each does what comes nearest: it waits, stalls or cuts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from attrs import evolve

from ...values import ToolCall
from ..answers import Answer, Event, UsageAt, WireError
from ._fault import Play, fault

if TYPE_CHECKING:
    from .._connection import Exchange

#: Eight pieces of content: what the faults below begin to say before they break off.
STORY = Answer(text="one two three four five six seven eight")

#: One tool call, whose arguments come in several pieces.
CALL = Answer(
    text=None,
    tool_calls=(ToolCall("call_1", "pay", '{"amount": 100, "currency": "EUR", "to": "Ann"}'),),
    finish_reason="tool_calls",
)

_OVERLOADED = WireError("The server is overloaded.", "service_unavailable_error", "server_is_overloaded", None, 503)


async def _story(x: Exchange, pieces: int, answer: Answer = STORY, *, chunked: bool = True) -> None:
    """Begin a stream and send all up to its `pieces`-th piece of content; of a plain answer, the first half."""
    if not x.streamed:
        body = json.dumps(x.wire.body(answer, x.ask)).encode()
        length = {"Content-Length": str(len(body))} if chunked else {"Connection": "close"}
        await x.head(200, {"Content-Type": "application/json", **length})
        await x.send(body[: len(body) // 2])
        return
    await x.begin_stream(chunked=chunked)
    await x.events(_up_to(x.wire.events(answer, x.ask), pieces))


def _up_to(events: list[Event], pieces: int) -> Iterator[Event]:
    for event in events:
        if event.kind == "content":
            pieces -= 1
        if pieces < 0 or event.kind in ("finish", "usage", "done"):
            return
        yield event


@fault(21)
def late_first_token(after: float = 5.0) -> Play:
    """Row 21: the head of a stream at once, then `after` seconds of silence, then a healthy answer."""

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.sleep(after)
            await x.answer(STORY)
            return
        await x.begin_stream()
        await x.sleep(after)
        await x.events(x.wire.events(STORY, x.ask))
        await x.end_stream()

    return play


def _for_ever(piece: bytes, interval: float) -> Play:
    async def play(x: Exchange) -> None:
        if x.streamed:
            await x.begin_stream()
        else:
            await x.head(200, {"Content-Type": "application/json", "Content-Length": "1000000"})
        while True:
            await (x.chunk(piece) if x.streamed else x.send(b"\n"))
            await x.sleep(interval)

    return play


@fault(21)
def pings_only(interval: float = 0.1) -> Play:
    """Row 21: a ping event every `interval` seconds and never a token. To a plain request: blank lines."""
    return _for_ever(b'event: ping\ndata: {"type": "ping"}\n\n', interval)


@fault(21)
def comments_only(interval: float = 0.1) -> Play:
    """Row 21: comments only, as OpenRouter and DeepSeek keep a connection alive."""
    return _for_ever(b": keep-alive\n\n", interval)


@fault(21)
def blank_lines_only(interval: float = 0.1) -> Play:
    """Row 21: blank lines only, as DeepSeek sends them to plain requests."""
    return _for_ever(b"\n", interval)


@fault(22)
def error_first(error: WireError = _OVERLOADED) -> Play:
    """Row 22: an error as the first event."""

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.respond(200, x.wire.error(error))
            return
        await x.begin_stream()
        await x.events([x.wire.error_event(error)])
        await x.end_stream()

    return play


@fault(22)
def lifecycle_then_error(error: WireError = _OVERLOADED) -> Play:
    """Row 22: events that say that an answer begins, then an error."""
    return _then(0, error)


@fault(24)
def error_event_after(pieces: int = 3, error: WireError = _OVERLOADED) -> Play:
    """Row 24: an error event after some pieces of content."""
    return _then(pieces, error)


def _then(pieces: int, error: WireError) -> Play:
    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.respond(200, x.wire.error(error))
            return
        await _story(x, pieces)
        await x.events([x.wire.error_event(error)])
        await x.end_stream()

    return play


@fault(23)
def empty_stream(how: Literal["nothing", "done", "finish"] = "nothing") -> Play:
    """Row 23: a clean end with no content: no event at all, only `[DONE]`, or a finish reason and no text."""

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.answer(Answer(text=""))
            return
        kinds = {"nothing": (), "done": ("done",), "finish": ("lifecycle", "finish", "done")}[how]
        await x.begin_stream()
        await x.events(e for e in x.wire.events(Answer(text=""), x.ask) if e.kind in kinds)
        await x.end_stream()

    return play


@fault(24)
def cut_after(pieces: int = 3, *, silently: bool = False) -> Play:
    """Row 24: the connection ends after some pieces: in mid-chunk, or (silently) where an unframed body may end."""

    async def play(x: Exchange) -> None:
        await _story(x, pieces, chunked=not silently)
        x.close()

    return play


@fault(24)
def reset_after(pieces: int = 3) -> Play:
    """Row 24: RST after some pieces."""

    async def play(x: Exchange) -> None:
        await _story(x, pieces)
        await x.sleep(0.1)  # RST throws away what the client has not read yet
        x.reset()

    return play


@fault(24)
def stall_after(pieces: int = 3) -> Play:
    """Row 24: silence after some pieces."""

    async def play(x: Exchange) -> None:
        await _story(x, pieces)
        await x.hold()

    return play


@fault(24)
def pings_after(pieces: int = 3, interval: float = 0.1) -> Play:
    """Row 24: after some pieces nothing but comments: no content, though never silent."""

    async def play(x: Exchange) -> None:
        await _story(x, pieces)
        while True:
            await (x.chunk(b": keep-alive\n\n") if x.streamed else x.send(b"\n"))
            await x.sleep(interval)

    return play


@fault(24)
def broken_event_after(pieces: int = 3) -> Play:
    """Row 24: an event that is no JSON after some pieces, then a clean end."""

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.respond(200, b'{"id": "chatcmpl-1", "choices": [{"index": 0, "mess')
            return
        await _story(x, pieces)
        await x.events([Event('{"id": "chatcmpl-1", "choices": [{"index": 0, "del', name=None)])
        await x.end_stream()

    return play


@fault(24)
def no_finish_stream(pieces: int = 3, *, done: bool = False) -> Play:
    """Row 24: a clean end after some pieces, without a finish reason, with or without `[DONE]`."""

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.answer(evolve(STORY, finish_reason=None))
            return
        await _story(x, pieces)
        if done:
            await x.events([Event("[DONE]", "done")])
        await x.end_stream()

    return play


@fault(25)
def slow_for_ever(interval: float = 1.0) -> Play:
    """Row 25: one token every `interval` seconds, for ever."""

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await _for_ever(b"\n", interval)(x)
        await x.begin_stream()
        events = x.wire.events(Answer(text="on "), x.ask)
        await x.events(e for e in events if e.kind == "lifecycle")
        while True:
            await x.events(e for e in events if e.kind == "content")
            await x.sleep(interval)

    return play


@fault(26)
def no_done() -> Play:
    """Row 26: a finish reason, but no `[DONE]`, and the connection ends."""

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.answer(STORY)
            return
        await x.begin_stream(chunked=False)
        await x.events(e for e in x.wire.events(STORY, x.ask) if e.kind != "done")
        x.close()

    return play


@fault(27)
def cut_in_tool_call(how: Literal["cut", "end", "length"] = "cut") -> Play:
    """Row 27: half a tool call, then: the connection cut, a clean end, or the finish reason `length`."""
    call = CALL.tool_calls[0]
    half = evolve(CALL, tool_calls=(evolve(call, arguments='{"amount": 100, "curr'),), finish_reason="length")

    async def play(x: Exchange) -> None:
        if how == "length":
            await x.answer(half)
            return
        await _story(x, 4, CALL)
        if how == "cut" or not x.streamed:
            x.close()
        else:
            await x.end_stream()

    return play


Hostile = Literal[
    "separators",
    "split_utf8",
    "cr",
    "crlf",
    "split_crlf",
    "bom",
    "comments",
    "multiline_data",
    "no_space",
    "big_event",
    "usage_before",
    "usage_in",
    "usage_after",
]
#: Every way in which `hostile_text` frames its text.
HOSTILE: tuple[Hostile, ...] = get_args(Hostile)

#: What a stream must hand over to the byte: line separators that end no line, 2 to 4 byte characters, a NUL's picture.
HOSTILE_TEXT = 'a\u2028b\u2029c\u0085d \u00e9\u4e16\u754c\U0001f642 \\n \r\n "quoted" data: x \ufeff end'
#: One event of more than 1 MiB.
BIG_TEXT = "0123456789abcdef" * 65_600


@fault(28)
def hostile_text(how: Hostile = "separators") -> Play:
    """Row 28: a healthy answer, framed in every way that the event-stream format allows (WHATWG HTML, 9.2)."""
    usage_at: UsageAt = {"usage_before": "before", "usage_in": "in"}.get(how, "after")  # type: ignore[assignment]
    answer = Answer(text=BIG_TEXT if how == "big_event" else HOSTILE_TEXT, usage_at=usage_at)

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.answer(answer)
            return
        await x.begin_stream()
        await x.send_apart(_framed(x.wire.events(answer, x.ask), how))
        await x.end_stream()

    return play


def _framed(events: list[Event], how: Hostile) -> Iterator[bytes]:
    newline = {"cr": "\r", "crlf": "\r\n", "split_crlf": "\r\n"}.get(how, "\n")
    if how == "bom":
        yield b"\xef\xbb\xbf"
    for event in events:
        if how == "multiline_data" and not isinstance(event.data, str):
            event = evolve(event, data=json.dumps(event.data, ensure_ascii=False, indent=1))
        data = event.encode(newline)
        if how == "comments":
            yield b": a comment\n:\nretry: 3000\nid: 7\nunknown: field\n" + data
        elif how == "no_space":
            yield data.replace(b"data: ", b"data:", 1)
        elif how in ("split_utf8", "split_crlf"):
            yield from _split(data, b"\r\n" if how == "split_crlf" else None)
        else:
            yield data


def _split(data: bytes, between: bytes | None) -> Iterator[bytes]:
    """Cut after every CR, or (between=None) within every character of more than one byte."""
    cuts = [n for n in range(1, len(data)) if (data[n - 1 : n + 1] == between if between else data[n] & 0xC0 == 0x80)]
    yield from (data[start:end] for start, end in pairwise([0, *cuts, len(data)]))
