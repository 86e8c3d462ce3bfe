"""What is sent to the Messages API (anthropic 2.12.0's types)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pointsman import Image, Message, Request
from pointsman.schemas import within
from pointsman.service import merged, turns_of

from . import _models

#: Tokens to think with; the API wants 1,024 at least where it is told a budget.
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
#: What an answer may cost where nobody says: the API wants a number.
_MAX_TOKENS = 8192
_CHOICES = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
#: What structured outputs know of JSON Schema (as anthropic 2.12.0's `transform_schema` has it).
_KNOWN = {"type", "enum", "const", "$ref", "description", "title", "required", "allOf", "minItems=0", "minItems=1"}
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
_KNOWN |= {f"format={name}" for name in _FORMATS}
_EPHEMERAL = {"type": "ephemeral"}
#: Characters of a turn that is long enough to be worth a place in the cache, which keeps nothing shorter.
_LONG_TURN = 4096
_UNSIGNED = "this turn is answered without thinking: the calls before it were another vendor's"


def body(request: Request, model: str, form: _models.Form, *, cache: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the JSON to send, and what the caller should know of it.

    :param form: how the model is told to think.
    """
    longest = _models.family(model).longest
    sent: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens or min(_MAX_TOKENS, longest)}
    if system := request.instructions:
        sent["system"] = [{"type": "text", "text": system}]
    sent["messages"] = _turns(request.messages)
    if request.temperature is not None:
        sent["temperature"] = min(request.temperature, 1.0)  # the scale ends there
    sent |= {name: value for name in ("top_p", "top_k") if (value := getattr(request, name)) is not None}
    if request.stop:
        sent["stop_sequences"] = list(request.stop)
    if request.tools:
        sent["tools"] = [
            {"name": t.name, "description": t.description, "input_schema": {"type": "object", **t.parameters}}
            for t in request.tools
        ]
        if request.tool_choice is not None:
            sent["tool_choice"] = _CHOICES.get(request.tool_choice) or {"type": "tool", "name": request.tool_choice}
    if request.schema is not None:
        sent["output_config"] = {
            "format": {"type": "json_schema", "schema": within(request.schema, _KNOWN, closed=True)}
        }
    warning = _think(sent, request, form, longest) if request.reasoning_effort else ""
    if cache:
        _mark(sent)
    return merged(sent, request.extra), (warning,) if warning else ()


def _think(sent: dict[str, Any], request: Request, form: _models.Form, longest: int) -> str:
    """Write how much the model is to think; return what the caller should know."""
    effort, wanted = request.reasoning_effort or "", sent["max_tokens"]
    budget = _BUDGETS.get(effort, 0)
    called = next((message for message in reversed(request.messages) if message.role == "assistant"), None)
    if form == "adaptive" and not budget:
        sent["thinking"] = {"type": "disabled"}
    if form == "none" or not budget:
        return ""
    if form == "adaptive":
        sent["thinking"] = {"type": "adaptive", "display": "summarized"}
        sent["output_config"] = {**sent.get("output_config", {}), "effort": effort.replace("minimal", "low")}
        sent["max_tokens"] = request.max_tokens or min(wanted + budget, longest)
    elif request.messages[-1].role == "tool" and called is not None and called.state is None:
        return _UNSIGNED
    else:
        budget = max(1024, min(budget, longest - wanted))
        sent["thinking"] = {"type": "enabled", "budget_tokens": budget}
        sent["max_tokens"] = max(wanted, min(wanted + budget, longest))  # with the thoughts
    for name in _models.SAMPLING & sent.keys():  # it thinks at its own temperature only
        del sent[name]
    return ""


def _mark(sent: dict[str, Any]) -> None:
    """Mark what should be kept in the provider's cache: the tools, the system, the last long turn, the conversation."""
    turns = sent["messages"]
    long = next((turn for turn in reversed(turns) if len(json.dumps(turn["content"])) >= _LONG_TURN), None)
    last = turns[-1] if len(turns) > 1 else None
    for place in (sent.get("tools"), sent.get("system"), *(turn["content"] for turn in (long, last) if turn)):
        if place and place[-1].get("type") not in ("thinking", "redacted_thinking"):
            place[-1] = {**place[-1], "cache_control": _EPHEMERAL}


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the turns: all results of one turn's tools belong into one message."""
    turns: list[dict[str, Any]] = []
    for own, turn in turns_of(messages):
        blocks = [block for message in turn for block in _blocks(message)]
        turns.append({"role": "assistant" if own else "user", "content": blocks})
    if turns and turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        last = turns[-1]["content"][-1]  # to be continued; white space at its end is refused
        turns[-1]["content"][-1] = {**last, "text": last["text"].rstrip() or "."}
    return turns


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": _id(message.tool_call_id),
            "content": list(_parts(message)) or "",
        }
        yield {**result, "is_error": True} if message.is_error else result
    elif message.state is not None:  # its own words, which must come back unchanged
        yield from message.state.data
    else:
        yield from _parts(message)
        for call in message.tool_calls:
            yield {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": call.as_object()}


def _parts(message: Message) -> Iterator[dict[str, Any]]:
    for part in (message.content,) if isinstance(message.content, str) else message.content:
        if isinstance(part, Image):
            kind, data = part.inline or ("", "")
            inline = {"type": "base64", "media_type": kind, "data": data}
            yield {"type": "image", "source": inline if data else {"type": "url", "url": part.url}}
        elif part:  # an empty text is refused
            yield {"type": "text", "text": part}


def _id(given: str | None) -> str:
    """Return an id that the API takes, also of a call that another vendor's model made."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", given or "")
