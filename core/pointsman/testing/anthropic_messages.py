"""Anthropic's Messages API as its server sends it (anthropic 2.12.0's types, platform.claude.com)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from attrs import frozen

from ..values import Usage
from .answers import Answer, Ask, Event, Kind, WireError, cut, renamed

_ids = count(1)
#: Words of chat completions -> those of this API; an "error" is what a paused turn is for a client without its tools.
_STOP = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
    "error": "pause_turn",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@frozen
class Messages:
    """`POST /v1/messages`."""

    def ask(self, body: Any) -> Ask:
        """Read a request."""
        body = body if isinstance(body, Mapping) else {}
        messages = body.get("messages") or [{}]
        users = [_text(message.get("content")) for message in messages if message.get("role") == "user"]
        choice = body.get("tool_choice") or {}
        last = messages[-1].get("content")
        answered = isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)
        offered = () if choice.get("type") == "none" or answered else (body.get("tools") or ())
        return Ask(
            prompt=users[-1] if users else "",
            model=body.get("model") or "default-model",
            streamed=body.get("stream") is True,
            tools=tuple((tool["name"], tool.get("input_schema") or {}) for tool in offered),
            tool_wanted=choice.get("name"),
            schema=((body.get("output_config") or {}).get("format") or {}).get("schema"),
        )

    def body(self, answer: Answer, ask: Ask) -> Any:
        """Return a `message`."""
        return {**_message(renamed(answer, ask)), "content": [block for block, _ in _blocks(answer)], **_end(answer)}

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        """Return the named events from `message_start` to `message_stop`."""
        usage = {"usage": {**_usage(answer.usage), "output_tokens": 1}} if _counts(answer) else {}
        raw: list[tuple[str, dict[str, Any], Kind]] = [
            ("message_start", {"message": {**_message(renamed(answer, ask)), **usage}}, "lifecycle"),
            ("ping", {}, "lifecycle"),
        ]
        for index, (block, deltas) in enumerate(_blocks(answer)):
            begun = {"index": index, "content_block": {**block, **_EMPTY[block["type"]]}}
            raw.append(("content_block_start", begun, "lifecycle"))
            raw += [("content_block_delta", {"index": index, "delta": delta}, kind) for delta, kind in deltas]
            raw.append(("content_block_stop", {"index": index}, "lifecycle"))
        if answer.finish_reason is not None:
            end = _end(answer)
            raw.append(("message_delta", {"delta": end, **({"usage": end.pop("usage")} if usage else {})}, "finish"))
            raw.append(("message_stop", {}, "done"))
        return [Event({"type": name, **data}, kind, name) for name, data, kind in raw]

    def error(self, error: WireError) -> Any:
        """Return `{"type": "error", "error": {...}}`."""
        details = {"details": {"error_code": error.code}} if error.code else {}
        facts = {"type": _TYPES.get(error.status, "api_error"), "message": error.message, **details, **error.extra}
        return {"type": "error", "error": facts, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}

    def error_event(self, error: WireError) -> Event:
        """Return the event `error`."""
        return Event(self.error(error), "error", "error")


_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def _message(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{next(_ids):024d}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _end(answer: Answer) -> dict[str, Any]:
    end: dict[str, Any] = {"stop_reason": _STOP.get(answer.finish_reason or ""), "stop_sequence": None}
    if answer.refusal is not None:
        end["stop_reason"] = "refusal"
    if end["stop_reason"] == "refusal":
        end["stop_details"] = {"type": "refusal", "category": None, "explanation": answer.refusal}
    if _counts(answer):
        end["usage"] = _usage(answer.usage)
    return end


def _counts(answer: Answer) -> bool:
    return answer.usage is not None and answer.usage_at != "nowhere"


def _usage(usage: Usage | None) -> dict[str, Any]:
    """Return usage in this API's words: what was read from the cache, or written to it, is no input."""
    usage = usage or Usage()
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_written_tokens,
        "cache_creation_input_tokens": usage.cache_written_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


_Deltas = list[tuple[dict[str, Any], Kind]]  #: the pieces of one block, each with its kind


def _blocks(answer: Answer) -> Iterator[tuple[dict[str, Any], _Deltas]]:
    """Yield each block with the pieces that build it."""
    if answer.thinking:
        deltas: _Deltas = [
            ({"type": "thinking_delta", "thinking": piece}, "lifecycle") for piece in cut(answer.thinking)
        ]
        deltas.append(({"type": "signature_delta", "signature": "c2lnbmVk"}, "lifecycle"))
        yield {"type": "thinking", "thinking": answer.thinking, "signature": "c2lnbmVk"}, deltas
    if answer.text is not None:
        block = {"type": "text", "text": answer.text, "citations": None}
        yield block, [({"type": "text_delta", "text": piece}, "content") for piece in answer.pieces]
    for call in answer.tool_calls:
        try:
            given = json.loads(call.arguments)
        except ValueError:
            given = call.arguments  # cut
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": given}
        yield block, [({"type": "input_json_delta", "partial_json": piece}, "content") for piece in cut(call.arguments)]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content if block.get("type") == "text")
    return content or ""
