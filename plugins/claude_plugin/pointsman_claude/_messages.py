"""The wire of the Messages API: requests out, answers and streams in (anthropic 2.12.0's types)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pointsman import (
    BackendError,
    Chunk,
    Completion,
    ContentFilterError,
    Image,
    InvalidRequestError,
    Message,
    Request,
    State,
    ToolCall,
    UnusableAnswer,
    Usage,
)
from pointsman.http import Events
from pointsman.values import FinishReason

from . import _models

VENDOR = "anthropic"
_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "pause_turn": "error",  # a tool of the server's own was interrupted: there are none in our requests
}
#: Tokens to think with, for the models that take a budget; the API wants 1,024 at least.
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
#: What an answer may cost where nobody says: the API wants a number.
_MAX_TOKENS = 8192
_CHOICES = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
_EPHEMERAL = {"type": "ephemeral"}


def body(request: Request, model: str, *, cache: bool) -> dict[str, Any]:
    """Return the JSON to send.

    :raises InvalidRequestError: something in it cannot be asked of this model.
    """
    sent: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens or _MAX_TOKENS}
    systems = [request.system, *(message.text for message in request.messages if message.role == "system")]
    if system := "\n\n".join(filter(None, systems)):
        sent["system"] = [{"type": "text", "text": system}]
    sent["messages"] = _turns([message for message in request.messages if message.role != "system"])
    if request.temperature is not None:
        sent["temperature"] = min(request.temperature, 1.0)  # the scale ends there
    sent |= {name: value for name in ("top_p", "top_k") if (value := getattr(request, name)) is not None}
    if request.stop:
        sent["stop_sequences"] = list(request.stop)
    if request.tools:
        sent["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
            for tool in request.tools
        ]
        if request.tool_choice is not None:
            sent["tool_choice"] = _choice(request.tool_choice, model)
    if request.schema is not None:
        sent["output_config"] = {"format": {"type": "json_schema", "schema": _closed(request.schema)}}
    if request.reasoning_effort is not None:
        _think(sent, request.reasoning_effort, model)
    if cache:
        _mark(sent)
    sent.update(request.extra)
    return sent


def _choice(choice: str, model: str) -> dict[str, Any]:
    if choice not in ("auto", "none") and _models.FREE.search(model):
        text = f"tool_choice: {model} cannot be made to call a tool; ask with 'auto'"
        raise InvalidRequestError(text, parameter="tool_choice", try_next=True)
    return _CHOICES.get(choice) or {"type": "tool", "name": choice}


def _closed(schema: Any) -> Any:
    """Return the schema with every object closed, as structured outputs want it."""
    if isinstance(schema, Mapping):
        closed = {name: _closed(value) for name, value in schema.items()}
        return {**closed, "additionalProperties": False} if closed.get("type") == "object" else closed
    return [_closed(value) for value in schema] if isinstance(schema, list | tuple) else schema


def _think(sent: dict[str, Any], effort: str, model: str) -> None:
    adaptive = _models.ADAPTIVE.search(model)
    if effort == "none":
        sent |= {"thinking": {"type": "disabled"}} if adaptive else {}
    elif adaptive:
        sent["thinking"] = {"type": "adaptive"}
        sent["output_config"] = {**sent.get("output_config", {}), "effort": effort.replace("minimal", "low")}
    else:
        sent["thinking"] = {"type": "enabled", "budget_tokens": _BUDGETS[effort]}
        sent["max_tokens"] += _BUDGETS[effort]  # which counts the thoughts too
        for name in _models.SAMPLING:  # it thinks at its own temperature only
            sent.pop(name, None)


def _mark(sent: dict[str, Any]) -> None:
    """Mark what should be kept in the provider's cache: the tools, the system, and all up to the last turn."""
    for place in (sent.get("tools"), sent.get("system"), sent["messages"] and sent["messages"][-1]["content"]):
        if place and place[-1].get("type") not in ("thinking", "redacted_thinking"):
            place[-1] = {**place[-1], "cache_control": _EPHEMERAL}


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the turns, those of one speaker put together: all results of one turn's tools belong into one message."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = list(_blocks(message))
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if turns and turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        last = turns[-1]["content"][-1]  # to be continued; white space at its end is refused
        turns[-1]["content"][-1] = {**last, "text": last["text"].rstrip() or "."}
    return turns


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        yield {"type": "tool_result", "tool_use_id": _id(message.tool_call_id), "content": list(_parts(message)) or ""}
    elif message.state is not None:  # its own words, which must come back unchanged
        yield from message.state.data
    else:
        yield from _parts(message)
        for call in message.tool_calls:
            yield {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": _input(call)}


def _parts(message: Message) -> Iterator[dict[str, Any]]:
    for part in (message.content,) if isinstance(message.content, str) else message.content:
        if isinstance(part, Image):
            inline = {"type": "base64", "media_type": part.media_type, "data": part.as_url().partition(",")[2]}
            yield {"type": "image", "source": inline if part.url is None else {"type": "url", "url": part.url}}
        elif part:  # an empty text is refused
            yield {"type": "text", "text": part}


def _id(given: str | None) -> str:
    """Return an id that the API takes, also of a call that another vendor's model made."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", given or "")


def _input(call: ToolCall) -> dict[str, Any]:
    try:
        found = call.parsed()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"arguments": call.arguments}


def completion(data: Any, headers: Mapping[str, str]) -> Completion:
    """Return what a whole answer says.

    :raises ContentFilterError: the model refused.
    :raises UnusableAnswer: it is none, or has no end.
    """
    if not isinstance(data, dict) or not isinstance(data.get("content"), list):
        raise UnusableAnswer("the answer holds no content: is base_url that of the Messages API?")
    blocks, raw = data["content"], data.get("stop_reason")
    end = _end(raw, data.get("stop_details"))
    return Completion(
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        finish_reason=end,
        tool_calls=_calls(blocks, end),
        usage=usage(data.get("usage") or {}),
        model=data.get("model"),
        thinking="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        raw_finish_reason=raw,
        request_id=_request_id(headers, data),
        state=_state(blocks),
    )


def chunks(events: Events) -> Iterator[Chunk]:
    """Yield what a streamed answer says.

    :raises BackendError: it failed, was refused, or ended without a stop reason.
    """
    start: dict[str, Any] = {}
    end: dict[str, Any] = {}
    counted: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    try:
        for event in events:
            data = event.json()
            kind = data.get("type")
            if kind == "message_start":
                start = data["message"]
                counted |= start.get("usage") or {}
            elif kind == "content_block_start":
                blocks[data["index"]] = dict(data["content_block"])
                if text := data["content_block"].get("text"):
                    events.content_seen()
                    yield Chunk(text, model=start.get("model"))
            elif kind == "content_block_delta":
                events.content_seen()
                yield from _grown(blocks[data["index"]], data["delta"], start.get("model"))
            elif kind == "message_delta":
                counted |= {name: value for name, value in (data.get("usage") or {}).items() if value is not None}
                end |= data["delta"]
                events.ending()
    except BackendError as error:
        error.usage = usage(counted)  # a part must be paid for, too
        raise
    finish = _end(end.get("stop_reason"), end.get("stop_details"))
    whole = [_finished(block) for _, block in sorted(blocks.items())]
    yield Chunk(
        tool_calls=_calls(whole, finish),
        finish_reason=finish,
        usage=usage(counted),
        model=start.get("model"),
        raw_finish_reason=end["stop_reason"],
        request_id=_request_id(events.headers, start),
        state=_state(whole),
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
    return tuple(
        ToolCall(block["id"], block["name"], json.dumps(block["input"], ensure_ascii=False)) for block in wanted
    )


def _state(blocks: Sequence[Mapping[str, Any]]) -> State | None:
    """Return the blocks to send back with this turn, if any of them is signed."""
    if not any(block["type"] in ("thinking", "redacted_thinking") for block in blocks):
        return None
    return State(VENDOR, [block for block in blocks if block["type"] != "text" or block["text"]])


def _end(raw: Any, details: Any) -> FinishReason:
    if not isinstance(raw, str):
        raise UnusableAnswer("the answer ended without a stop_reason: it is cut")
    end = _FINISH.get(raw, "stop")
    if end == "content_filter":
        why = details.get("explanation") or details.get("category") if isinstance(details, dict) else None
        raise ContentFilterError(f"the model refused: {why or 'without an explanation'!s:.300}")
    return end


def _request_id(headers: Mapping[str, str], message: Mapping[str, Any]) -> str | None:
    return headers.get("request-id") or headers.get("x-request-id") or message.get("id")


def usage(counted: Mapping[str, Any]) -> Usage | None:
    """Return the tokens; the API counts what it read from its cache, and what it wrote there, apart from the input."""
    if "input_tokens" not in counted:
        return None
    read = counted.get("cache_read_input_tokens") or 0
    written = counted.get("cache_creation_input_tokens") or 0
    thought = (counted.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    output = counted.get("output_tokens") or 0
    return Usage(counted["input_tokens"] + read + written, output, read, thought, written)
