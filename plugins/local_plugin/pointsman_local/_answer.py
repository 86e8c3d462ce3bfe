"""Turns what the child sends into chunks, and checks an answer when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

from pointsman import (
    BackendError,
    Chunk,
    ContextLengthError,
    InvalidRequestError,
    ToolCall,
    UnavailableError,
    UnusableAnswer,
    Usage,
)

from ._ask import Ask
from ._schema import check


def chunks(messages: Iterable[dict[str, Any]], ask: Ask, model: str) -> Iterator[Chunk]:
    """Yield the pieces of the answer; the last has `finish_reason`.

    :raises BackendError: the engine refused, or the answer is not of the form that was asked for.
    """
    pieces: list[str] = []
    for message in messages:
        if text := message.get("text"):
            if ask.schema is not None:
                pieces.append(text)
            if not ask.forced:
                yield Chunk(text=text, model=model)
        elif text := message.get("reasoning"):
            yield Chunk(thinking=text, model=model)
        elif "error" in message:
            raise _error(message["error"])
        elif "end" in message:
            yield _last(message["end"], ask, "".join(pieces), model)


def _last(end: dict[str, Any], ask: Ask, text: str, model: str) -> Chunk:
    reason = end["reason"]
    calls = tuple(ToolCall(id or f"call_{uuid4().hex[:24]}", name, arguments) for id, name, arguments in end["calls"])
    if ask.schema is not None and reason != "length":  # cut by max_tokens: whatever there is, and it says so
        check(text, ask.schema)
        if ask.forced:
            call = json.loads(text)
            calls = (
                ToolCall(f"call_{uuid4().hex[:24]}", call["name"], json.dumps(call["arguments"], ensure_ascii=False)),
            )
            reason = "tool_calls"
    for made in calls:
        _check_call(made, ask)
    given, written, cached = end["usage"]
    return Chunk(
        tool_calls=calls,
        finish_reason=reason,
        raw_finish_reason=end["reason"],
        usage=Usage(input_tokens=given, output_tokens=written, cached_tokens=cached),
        model=model,
    )


def _check_call(call: ToolCall, ask: Ask) -> None:
    if call.name not in ask.tools:
        raise UnusableAnswer(f"the model called {call.name!r}, which is none of the tools")
    try:
        call.parsed()
    except ValueError as error:
        raise UnusableAnswer(f"the model called {call.name} with arguments that are no JSON: {error}") from None


def _error(error: dict[str, Any]) -> BackendError:
    kind, message = error["kind"], error["message"]
    if kind == "context":
        too_long = ContextLengthError(f"the request is too long for n_ctx: {message}")
        too_long.limit, too_long.needed = error["limit"], error["needed"]
        return too_long
    if kind == "request":
        return InvalidRequestError(f"the engine does not take this request: {message}", try_next=True)
    if kind == "unusable":
        return UnusableAnswer(f"the answer cannot be read: {message}")
    return UnavailableError(f"the engine failed: {message}")
