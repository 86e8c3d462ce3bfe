"""What the Messages API answers, whole and streamed (anthropic 2.12.0's types)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pointsman import Chunk, Completion, ContentFilterError, ToolCall, UnusableAnswer, Usage
from pointsman.http import Events, charged
from pointsman.service import Keep
from pointsman.values import FinishReason

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "pause_turn": "error",  # a tool of the server's own was interrupted: there are none in our requests
}


def completion(data: Any, headers: Mapping[str, str], keep: Keep) -> Completion:
    """Return what a whole answer says.

    :raises ContentFilterError: the model refused.
    :raises UnusableAnswer: it is none, or has no end.
    """
    if not isinstance(data, dict) or not isinstance(data.get("content"), list):
        raise UnusableAnswer("the answer holds no content: is base_url that of the Messages API?")
    blocks = data["content"]
    text, thinking = ("".join(one[kind] for one in blocks if one["type"] == kind) for kind in ("text", "thinking"))
    with charged(lambda: _usage(data)):
        end = _last(data, blocks, headers, keep)
    known = end.usage, end.model, thinking, end.raw_finish_reason, end.request_id
    return Completion(text, end.finish_reason or "error", end.tool_calls, *known, state=end.state)


def chunks(events: Events, keep: Keep) -> Iterator[Chunk]:
    """Yield what a streamed answer says. Raises as `completion` does."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    with charged(lambda: _usage(message)):  # a part must be paid for, too
        for event in events:
            data = event.json()
            kind = data.get("type")
            if kind == "message_start":
                message |= data["message"]
            elif kind == "content_block_start":
                blocks[data["index"]] = dict(data["content_block"])
                if text := data["content_block"].get("text"):
                    events.content_seen()
                    yield Chunk(text, model=message.get("model"))
            elif kind == "content_block_delta":
                events.content_seen()
                yield from _grown(blocks[data["index"]], data["delta"], message.get("model"))
            elif kind == "message_delta":
                counted = {name: value for name, value in (data.get("usage") or {}).items() if value is not None}
                message |= data["delta"] | {"usage": {**(message.get("usage") or {}), **counted}}
                events.ending()
        yield _last(message, [_finished(block) for _, block in sorted(blocks.items())], events.headers, keep)


def _last(
    message: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], headers: Mapping[str, str], keep: Keep
) -> Chunk:
    """Return all that is known at the end of an answer."""
    end = _end(message.get("stop_reason"), message.get("stop_details"))
    signed = any(block["type"] in ("thinking", "redacted_thinking") for block in blocks)
    return Chunk(
        tool_calls=_calls(blocks, end),
        finish_reason=end,
        usage=_usage(message),
        model=message.get("model"),
        raw_finish_reason=message["stop_reason"],
        request_id=headers.get("request-id") or headers.get("x-request-id") or message.get("id"),
        state=keep([block for block in blocks if block["type"] != "text" or block["text"]]) if signed else None,
    )


def _grown(block: dict[str, Any], delta: Mapping[str, Any], model: str | None) -> Iterator[Chunk]:
    """Add a piece to its block; yield what of it a reader may see."""
    kind = delta.get("type")
    if kind == "text_delta":
        block["text"] += delta["text"]
        yield Chunk(delta["text"], model=model)
    elif kind == "thinking_delta":
        block["thinking"] += delta["thinking"]
        yield Chunk(thinking=delta["thinking"], model=model)
    elif kind == "signature_delta":
        block["signature"] = block.get("signature", "") + delta["signature"]
    elif kind == "input_json_delta":
        block["json"] = block.get("json", "") + delta["partial_json"]


def _finished(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block whose pieces have all come as a whole answer has it."""
    text = block.pop("json", "")
    if block["type"] == "tool_use" and text:
        try:
            block["input"] = json.loads(text)
        except ValueError:
            block["input"] = None  # cut, or not JSON
    return block


def _calls(blocks: Sequence[Mapping[str, Any]], end: FinishReason) -> tuple[ToolCall, ...]:
    wanted = [block for block in blocks if block["type"] == "tool_use"]
    if end == "length" and wanted:
        raise UnusableAnswer("max_tokens was used up inside a tool call: give more")
    if any(not isinstance(block["input"], dict) for block in wanted):
        raise UnusableAnswer("the arguments of a tool call are no JSON object: it was cut")
    return tuple(ToolCall(one["id"], one["name"], json.dumps(one["input"], ensure_ascii=False)) for one in wanted)


def _end(raw: Any, details: Any) -> FinishReason:
    if not isinstance(raw, str):
        raise UnusableAnswer("the answer ended without a stop_reason: it is cut")
    end = _FINISH.get(raw, "stop")
    if end == "content_filter":
        why = details.get("explanation") or details.get("category") if isinstance(details, dict) else None
        raise ContentFilterError(f"the model refused: {why or 'without an explanation'!s:.300}")
    return end


def _usage(message: Mapping[str, Any]) -> Usage | None:
    """Return the tokens; the API counts what it read from its cache, and what it wrote there, apart from the input."""
    counted = message.get("usage") or {}
    if "input_tokens" not in counted:
        return None
    read = counted.get("cache_read_input_tokens") or 0
    written = counted.get("cache_creation_input_tokens") or 0
    thought = (counted.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    output = counted.get("output_tokens") or 0
    return Usage(counted["input_tokens"] + read + written, output, read, thought, written)
