"""OpenAI's chat completions as their server sends them (openai 3.54.0's types, openai-openapi of August 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from attrs import frozen

from ..values import Usage
from .answers import Answer, Ask, Event, WireError, cut, renamed

CREATED = 1_763_800_000  # one fixed moment: answers are the same on every run
_ids = count(1)


@frozen
class Chat:
    """`POST /v1/chat/completions`."""

    def ask(self, body: Any) -> Ask:
        """Read a request."""
        body = body if isinstance(body, Mapping) else {}
        messages = body.get("messages") or [{}]
        users = [_text(m.get("content")) for m in messages if m.get("role") == "user"]
        choice = body.get("tool_choice")
        answered = messages[-1].get("role") == "tool"
        offered = () if choice == "none" or answered else (body.get("tools") or ())
        schema = (body.get("response_format") or {}).get("json_schema") or {}
        return Ask(
            prompt=users[-1] if users else "",
            model=body.get("model") or "default-model",
            streamed=body.get("stream") is True,
            wants_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            tools=tuple((t["function"]["name"], t["function"].get("parameters") or {}) for t in offered),
            tool_wanted=choice["function"]["name"] if isinstance(choice, Mapping) else None,
            schema=schema.get("schema"),
        )

    def body(self, answer: Answer, ask: Ask) -> Any:
        """Return a `chat.completion`."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
        if answer.thinking:
            message["reasoning_content"] = answer.thinking
        if answer.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.tool_calls
            ]
        choice: dict[str, Any] = {"index": 0, "message": {**message, "annotations": []}, "logprobs": None}
        if answer.finish_reason is not None:
            choice["finish_reason"] = answer.finish_reason
        return {
            "id": f"chatcmpl-{next(_ids):024d}",
            "object": "chat.completion",
            "created": CREATED,
            "model": renamed(answer, ask).model,
            "choices": [choice],
            "usage": answer.usage and usage_json(answer.usage),
            "service_tier": "default",
            "system_fingerprint": None,
        }

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        """Return `chat.completion.chunk` events and `[DONE]`; usage as asked for, or where `usage_at` puts it."""
        base = {
            "id": f"chatcmpl-{next(_ids):024d}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": renamed(answer, ask).model,
            "service_tier": "default",
            "system_fingerprint": None,
        }

        def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            return {**base, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

        start = {"role": "assistant", "content": "" if answer.text is not None else None, "refusal": None}
        events = [Event(chunk(start), "lifecycle")]
        events += [Event(chunk({"reasoning_content": piece}), "lifecycle") for piece in cut(answer.thinking)]
        events += [Event(chunk({"content": piece})) for piece in answer.pieces]
        events += [Event(chunk({"refusal": piece})) for piece in cut(answer.refusal or "")]
        events += [Event(chunk({"tool_calls": [delta]})) for delta in _call_deltas(answer)]
        finish = [] if answer.finish_reason is None else [Event(chunk({}, answer.finish_reason), "finish")]
        return [*events, *_with_usage(answer, ask, base, finish), Event("[DONE]", "done")]

    def error(self, error: WireError) -> Any:
        """Return `{"error": {...}}` with all four keys."""
        facts = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
        return {"error": {**facts, **error.extra}}

    def error_event(self, error: WireError) -> Event:
        """Return the error object as an unnamed event."""
        return Event(self.error(error), "error")


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return usage in chat completions' words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _call_deltas(answer: Answer) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    for index, call in enumerate(answer.tool_calls):
        head = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        deltas.append({"index": index, **head})
        deltas += [{"index": index, "function": {"arguments": piece}} for piece in cut(call.arguments)]
    return deltas


def _with_usage(answer: Answer, ask: Ask, base: dict[str, Any], finish: list[Event]) -> list[Event]:
    if answer.usage is None or answer.usage_at == "nowhere":
        return finish
    usage = {"usage": usage_json(answer.usage)}
    alone = [Event({**base, "choices": [], **usage}, "usage")]
    if answer.usage_at == "before":
        return alone + finish
    if answer.usage_at == "in":
        return [Event({**event.data, **usage}, event.kind) for event in finish]
    return finish + (alone if ask.wants_usage else [])
