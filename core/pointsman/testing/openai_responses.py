"""OpenAI's Responses API as their server sends it (openai 3.54.0's types, openai-openapi of August 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from attrs import frozen

from ..values import ToolCall, Usage
from .answers import Answer, Ask, Event, WireError, cut, renamed
from .openai_chat import CREATED

_ids = count(1)
#: Chat completions' finish reason -> `incomplete_details.reason`.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


@frozen
class Responses:
    """`POST /v1/responses`."""

    def ask(self, body: Any) -> Ask:
        """Read a request."""
        body = body if isinstance(body, Mapping) else {}
        given = body.get("input") or ""
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        users = [_text(item.get("content")) for item in items if item.get("role") == "user"]
        choice = body.get("tool_choice")
        answered = items[-1].get("type") == "function_call_output"
        offered = () if choice == "none" or answered else (body.get("tools") or ())
        return Ask(
            prompt=users[-1] if users else "",
            model=body.get("model") or "default-model",
            streamed=body.get("stream") is True,
            tools=tuple((t["name"], t.get("parameters") or {}) for t in offered if t.get("type") == "function"),
            tool_wanted=choice["name"] if isinstance(choice, Mapping) else None,
            schema=((body.get("text") or {}).get("format") or {}).get("schema"),
        )

    def body(self, answer: Answer, ask: Ask) -> Any:
        """Return a `response` in its last state."""
        output = [item for item, _ in _items(answer)]
        return {**_response(renamed(answer, ask)), "output": output, **_end(answer)}

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        """Return the named events from `response.created` to the terminal one. There is no `[DONE]`."""
        begun = {**_response(renamed(answer, ask)), "status": "in_progress", "output": [], "usage": None}
        raw: list[tuple[dict[str, Any], Any]] = [
            ({"type": "response.created", "response": begun}, "lifecycle"),
            ({"type": "response.in_progress", "response": begun}, "lifecycle"),
        ]
        output = _items(answer)
        for index, (item, inner) in enumerate(output):
            empty = {**item, **_EMPTY[item["type"]]}
            raw.append(({"type": "response.output_item.added", "output_index": index, "item": empty}, "lifecycle"))
            place = {"item_id": item["id"], "output_index": index}
            raw += [({**event, **place}, kind) for event, kind in inner]
            raw.append(({"type": "response.output_item.done", "output_index": index, "item": item}, "lifecycle"))
        if answer.finish_reason is not None:
            last = {**begun, "output": [item for item, _ in output], **_end(answer)}
            raw.append(({"type": f"response.{last['status']}", "response": last}, "finish"))
        return [
            Event({**event, "sequence_number": number}, kind, event["type"]) for number, (event, kind) in enumerate(raw)
        ]

    def error(self, error: WireError) -> Any:
        """Return `{"error": {...}}` with all four keys."""
        facts = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        return {"error": {**facts, **error.extra}}

    def error_event(self, error: WireError) -> Event:
        """Return the event `error`, whose facts stand at the top."""
        facts = {"code": error.code or error.type, "message": error.message, "param": error.param}
        return Event({"type": "error", **facts, "sequence_number": 99, **error.extra}, "error", "error")


_EMPTY: dict[str, dict[str, Any]] = {
    "message": {"status": "in_progress", "content": []},
    "function_call": {"status": "in_progress", "arguments": ""},
    "reasoning": {"summary": []},
}


def _response(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"resp_{next(_ids):048d}",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": answer.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "metadata": {},
    }


def _end(answer: Answer) -> dict[str, Any]:
    usage = answer.usage and _usage_json(answer.usage)
    if answer.finish_reason in _INCOMPLETE:
        details = {"reason": _INCOMPLETE[answer.finish_reason]}
        return {"status": "incomplete", "incomplete_details": details, "usage": usage}
    if answer.finish_reason == "error":
        error = {"code": "server_error", "message": "The model had an error while generating."}
        return {"status": "failed", "error": error, "usage": usage}
    return {"status": "completed" if answer.finish_reason else None, "usage": usage}


def _usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


_Inner = list[tuple[dict[str, Any], str]]  # events of one item, each with its kind


def _items(answer: Answer) -> list[tuple[dict[str, Any], _Inner]]:
    """Return each output item with the events that build it."""
    items: list[tuple[dict[str, Any], _Inner]] = []
    if answer.thinking:
        items.append(_reasoning(answer.thinking))
    if answer.text is not None or answer.refusal is not None:
        items.append(_message(answer))
    items += [_function_call(number, call) for number, call in enumerate(answer.tool_calls)]
    if items and answer.finish_reason in _INCOMPLETE and "status" in items[-1][0]:
        items[-1][0]["status"] = "incomplete"
    return items


def _reasoning(text: str) -> tuple[dict[str, Any], _Inner]:
    part = {"type": "summary_text", "text": text}
    piece = {"type": "response.reasoning_summary_text.delta", "summary_index": 0}
    inner: _Inner = [({**piece, "delta": delta}, "lifecycle") for delta in cut(text)]
    inner.append(({"type": "response.reasoning_summary_text.done", "summary_index": 0, "text": text}, "lifecycle"))
    return {"id": "rs_1", "type": "reasoning", "summary": [part]}, inner


def _message(answer: Answer) -> tuple[dict[str, Any], _Inner]:
    if answer.refusal is not None:
        kind, name, field, text = "refusal", "refusal", "refusal", answer.refusal
        extra: dict[str, Any] = {}
    else:
        kind, name, field, text = "output_text", "output_text", "text", answer.text or ""
        extra = {"annotations": [], "logprobs": []}
    at = {"content_index": 0}
    logprobs: dict[str, Any] = {"logprobs": []} if extra else {}
    part = {"type": kind, field: text, **extra}
    inner: _Inner = [({"type": "response.content_part.added", **at, "part": {**part, field: ""}}, "lifecycle")]
    inner += [({"type": f"response.{name}.delta", **at, "delta": d, **logprobs}, "content") for d in cut(text)]
    inner.append(({"type": f"response.{name}.done", **at, field: text, **logprobs}, "lifecycle"))
    inner.append(({"type": "response.content_part.done", **at, "part": part}, "lifecycle"))
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}, inner


def _function_call(number: int, call: ToolCall) -> tuple[dict[str, Any], _Inner]:
    piece = "response.function_call_arguments"
    inner: _Inner = [({"type": f"{piece}.delta", "delta": delta}, "content") for delta in cut(call.arguments)]
    inner.append(({"type": f"{piece}.done", "name": call.name, "arguments": call.arguments}, "lifecycle"))
    facts = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"id": f"fc_{number}", "type": "function_call", "status": "completed", **facts}, inner


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
