"""Healthy answers, and answers under 200 that are none (rows 15 to 20)."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve

from ...values import ToolCall, Usage
from ..answers import Answer, UsageAt, WireError
from ._fault import Play, fault

if TYPE_CHECKING:
    from .._connection import Exchange


@fault()
def well(
    text: str | None = None,
    *,
    tool_calls: tuple[ToolCall, ...] = (),
    thinking: str = "",
    usage: Usage | None = None,
    usage_at: UsageAt = "after",
    gap: float = 0.0,
) -> Play:
    """Answer well. Without `text` and `tool_calls`: an echo of the prompt, JSON for a schema, a call for tools.

    :param usage: tokens to report; None: 19 input (4 cached), 8 output (2 reasoning).
    :param gap: seconds between two events of a stream.
    """

    async def play(x: Exchange) -> None:
        answer = x.ask.answer()
        if text is not None or tool_calls:
            answer = Answer(text, tool_calls, "tool_calls" if tool_calls else "stop")
        answer = evolve(answer, thinking=thinking, usage=usage or answer.usage, usage_at=usage_at)
        await x.answer(answer, gap=gap)

    return play


@fault()
def models(*ids: str) -> Play:
    """List models, as `GET /v1/models` does, or as the wire of the path says."""

    async def play(x: Exchange) -> None:
        names = ids or ("default-model",)
        if own := getattr(x.wire, "models", None):
            await x.respond(200, own(names))
            return
        data = [{"id": name, "object": "model", "created": 1_763_800_000, "owned_by": "openai"} for name in names]
        await x.respond(200, {"object": "list", "data": data})

    return play


@fault()
def no_such_page() -> Play:
    """Answer 404 for a path that nobody serves."""

    async def play(x: Exchange) -> None:
        error = WireError(f"Invalid URL ({x.seen.method} {x.seen.path})", "invalid_request_error", status=404)
        await x.respond(404, x.wire.error(error))

    return play


@fault(15)
def html() -> Play:
    """Row 15: a web page under 200."""
    return _content(b"<!DOCTYPE html><html><body>Sign in to the company network</body></html>", "text/html")


@fault(15)
def plain_text() -> Play:
    """Row 15: text that is not JSON under 200."""
    return _content(b"OK", "text/plain")


@fault(15)
def empty_body() -> Play:
    """Row 15: no byte of body under 200."""
    return _content(b"", "application/json")


def _content(body: bytes, content_type: str) -> Play:
    async def play(x: Exchange) -> None:
        await x.respond(200, body, content_type=content_type)

    return play


def _payload(x: Exchange) -> tuple[bytes, str]:
    """Return the bytes of a healthy answer as it was asked for, and their type."""
    if x.streamed:
        return b"".join(e.encode() for e in x.wire.events(x.ask.answer(), x.ask)), "text/event-stream"
    return json.dumps(x.wire.body(x.ask.answer(), x.ask)).encode(), "application/json"


@fault(15)
def broken_json() -> Play:
    """Row 15: something between the braces that is no JSON; in a stream, in its first event."""

    async def play(x: Exchange) -> None:
        payload, kind = _payload(x)
        await x.respond(200, payload.replace(b"{", b'{"broken": nothing, ,', 1), content_type=kind)

    return play


@fault(15)
def cut_json() -> Play:
    """Row 15: half of the JSON, with the length of the half; in a stream, half of its first event."""

    async def play(x: Exchange) -> None:
        payload, kind = _payload(x)
        whole = payload.partition(b"\n\n")[0] if x.streamed else payload
        await x.respond(200, whole[: len(whole) // 2], content_type=kind)

    return play


@fault(15)
def wrong_length(by: int = 50) -> Play:
    """Row 15: a `Content-Length` that is `by` bytes too long (then FIN) or, below 0, too short.

    In a stream only the first event comes, and the length is that of the whole.
    """

    async def play(x: Exchange) -> None:
        payload, kind = _payload(x)
        sent = payload.partition(b"\n\n")[0] + b"\n\n" if x.streamed else payload
        await x.respond(200, sent, content_type=kind, length=len(payload) + by, headers={"Connection": "close"})
        x.close()

    return play


@fault(15)
def bad_gzip(how: Literal["not", "cut"] = "not") -> Play:
    """Row 15: `Content-Encoding: gzip` over bytes that are not gzip, or over gzip that is cut in its middle."""

    async def play(x: Exchange) -> None:
        payload, kind = _payload(x)
        if how == "cut":
            packed = gzip.compress(payload, mtime=0)
            payload = packed[: len(packed) // 4]
        await x.respond(200, payload, content_type=kind, headers={"Content-Encoding": "gzip"})

    return play


@fault(15)
def bad_utf8() -> Play:
    """Row 15: bytes in the middle of the text that are not UTF-8."""

    async def play(x: Exchange) -> None:
        x.ask = evolve(x.ask, prompt="@@bad@@ bytes", tools=(), schema=None)
        payload, kind = _payload(x)
        await x.respond(200, payload.replace(b"@@bad@@", b"\xff\xfe\xc3("), content_type=kind)

    return play


@fault(16)
def error_under_200(error: WireError | None = None) -> Play:
    """Row 16: an error object under 200; in a stream, as its only event. None: the rate limit."""
    what = error or WireError("Rate limit reached for requests", "requests", "rate_limit_exceeded", None, 429)

    async def play(x: Exchange) -> None:
        if not x.streamed:
            await x.respond(200, x.wire.error(what))
            return
        await x.begin_stream()
        await x.events([x.wire.error_event(what)])
        await x.end_stream()

    return play


@fault(17)
def empty_choices() -> Play:
    """Row 17: an answer with no choices (Responses: no output; a wire without lists: no text)."""

    async def play(x: Exchange) -> None:
        empty = Answer(text=None)
        if not x.streamed:
            await x.respond(200, _emptied(x.wire.body(empty, x.ask)))
            return
        await x.begin_stream()
        last = [event for event in x.wire.events(empty, x.ask) if event.kind in ("finish", "usage", "done")]
        await x.events(evolve(event, data=_emptied(event.data)) for event in last)
        await x.end_stream()

    return play


def _emptied(data: Any) -> Any:
    """Return what the wire says with nothing in its lists."""
    if isinstance(data, dict):
        return {key: _emptied(value) for key, value in data.items()}
    return [] if isinstance(data, list) else data


def _answering(answer: Answer) -> Play:
    async def play(x: Exchange) -> None:
        await x.answer(answer)

    return play


@fault(17)
def null_content() -> Play:
    """Row 17: null content and no tool call."""
    return _answering(Answer(text=None))


@fault(17)
def whitespace() -> Play:
    """Row 17: nothing but white space."""
    return _answering(Answer(text=" \n\t \n"))


@fault(17)
def thinking_only() -> Play:
    """Row 17: it thought aloud and then said nothing."""
    return _answering(Answer(text="", thinking="The user wants three rivers. Let me think of some."))


@fault(18)
def refusal() -> Play:
    """Row 18: the model refuses, in the field made for it."""
    return _answering(Answer(text=None, refusal="I'm sorry, I can't help with that."))


@fault(18)
def safety_stop(text: str = "") -> Play:
    """Row 18: the finish reason is `content_filter`, after `text`."""
    return _answering(Answer(text=text or None, finish_reason="content_filter"))


@fault(19)
def length(text: str = "Once upon a") -> Play:
    """Row 19: a good answer that `max_tokens` ended."""
    return _answering(Answer(text=text, finish_reason="length"))


@fault(20)
def finish_error(text: str = "Half an answ") -> Play:
    """Row 20: the finish reason is `error`."""
    return _answering(Answer(text=text, finish_reason="error"))


@fault(20)
def no_finish(text: str = "Half an answ") -> Play:
    """Row 20: no finish reason (Responses: no status)."""
    return _answering(Answer(text=text, finish_reason=None))
