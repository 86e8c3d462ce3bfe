"""Chat completions, as OpenAI and nearly every other server speak them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pointsman import (
    BackendError,
    Chunk,
    Completion,
    ContentFilterError,
    Message,
    Request,
    State,
    ToolCall,
    UnusableAnswer,
    Usage,
)
from pointsman.http import Events
from pointsman.values import FinishReason

from ._schema import is_strict

NAME = "chat completions"
PATH = "chat/completions"
ABSENT: tuple[str, ...] = ()
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_SENT = ("max_tokens", *_SAMPLING, "reasoning_effort")
#: Parts of OpenRouter's details that come in pieces.
_GROWING = {"text", "summary", "data"}
#: Words of servers for the ends that they name otherwise. Every list of such words is open: others mean "stop".
_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
    "insufficient_system_resource": "error",
}


def body(request: Request, model: str | None, *, streamed: bool) -> dict[str, Any]:
    """Return the JSON of the request."""
    sent: dict[str, Any] = {"messages": [_message(message) for message in request.messages]}
    if request.system is not None:
        sent["messages"].insert(0, {"role": "system", "content": request.system})
    if model is not None:
        sent["model"] = model
    sent.update((name, value) for name in _SENT if (value := getattr(request, name)) is not None)
    if request.stop:
        sent["stop"] = list(request.stop)
    if request.tools:
        sent["tools"] = [
            {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
            for t in request.tools
        ]
    if request.tool_choice in ("auto", "none", "required"):
        sent["tool_choice"] = request.tool_choice
    elif request.tool_choice is not None:
        sent["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
    if request.schema is not None:
        schema = {"name": "answer", "schema": request.schema} | ({"strict": True} if is_strict(request.schema) else {})
        sent["response_format"] = {"type": "json_schema", "json_schema": schema}
    if streamed:
        sent["stream"], sent["stream_options"] = True, {"include_usage": True}
    return sent


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}
    content: Any = message.content
    if not isinstance(content, str):
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": part.as_url()}}
            for part in content
        ]
    if not message.tool_calls:
        return {"role": message.role, "content": content}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    thoughts = message.state.data if message.state is not None and isinstance(message.state.data, dict) else {}
    return {"role": message.role, "content": content or None, "tool_calls": calls, **thoughts}


def completion(data: Any, headers: Mapping[str, str], vendor: str) -> Completion:
    """Return what a whole answer says.

    :raises ContentFilterError: the model refused.
    :raises UnusableAnswer: it has no choice, or no end.
    """
    choice = _choice(data)
    message = choice.get("message") or {"content": choice.get("text")}
    calls, thoughts = _Calls(), _Thoughts()
    calls.add(message.get("tool_calls"))
    thoughts.add(message)
    end = _end(choice.get("finish_reason"), calls)
    _check_refusal(message.get("refusal"))
    return Completion(
        text=_text(message.get("content")),
        finish_reason=end,
        tool_calls=calls.whole(end),
        usage=usage(data.get("usage")),
        model=data.get("model"),
        thinking=_reasoning(message),
        raw_finish_reason=choice.get("native_finish_reason") or choice["finish_reason"],
        request_id=headers.get("x-request-id") or data.get("id"),
        state=thoughts.state(vendor, calls),
    )


def chunks(events: Events, vendor: str) -> Iterator[Chunk]:
    """Yield what a streamed answer says. Its last chunk comes when the stream has ended, for usage may come late.

    :raises UnusableAnswer: an event is none, or the stream ended without a finish reason.
    """
    calls, thoughts, refusal, raw, native = _Calls(), _Thoughts(), "", None, None
    counted: Usage | None = None
    data: dict[str, Any] = {}
    try:
        for event in events:
            data = _object(event.json())
            counted = usage(data.get("usage") or _object(data.get("x_groq") or {}).get("usage")) or counted
            choice = _choice(data) if data.get("choices") else {}
            delta = choice.get("delta") or choice.get("message") or {}
            text, reasoning = _text(delta.get("content")), _reasoning(delta)
            refusal += delta.get("refusal") or ""
            thoughts.add(delta)
            if calls.add(delta.get("tool_calls")) or text or reasoning:
                events.content_seen()
            if text or reasoning:
                yield Chunk(text=text, thinking=reasoning, model=data.get("model"))
            if choice.get("finish_reason"):
                raw = choice["finish_reason"]
                native = choice.get("native_finish_reason")
                events.ending()
    except BackendError as error:
        error.usage = error.usage or counted  # a part must be paid for, too
        raise
    end = _end(raw, calls)
    _check_refusal(refusal)
    yield Chunk(
        tool_calls=calls.whole(end),
        finish_reason=end,
        usage=counted,
        model=data.get("model"),
        raw_finish_reason=native or raw,
        request_id=events.headers.get("x-request-id") or data.get("id"),
        state=thoughts.state(vendor, calls),
    )


def usage(counted: Any) -> Usage | None:
    """Return the tokens that either API reports, or None if it reports none."""
    if not isinstance(counted, dict):
        return None

    def count(*names: str, of: str = "") -> int:
        inner = [counted.get(f"{name}_details") for name in of.split()] if of else [counted]
        found = [place.get(name) for place in inner if isinstance(place, dict) for name in names]
        return next((number for number in found if isinstance(number, int) and number >= 0), 0)

    return Usage(
        input_tokens=count("prompt_tokens", "input_tokens"),
        output_tokens=count("completion_tokens", "output_tokens"),
        cached_tokens=count("cached_tokens", of="prompt_tokens input_tokens"),
        reasoning_tokens=count("reasoning_tokens", of="completion_tokens output_tokens"),
        cache_written_tokens=count("cache_write_tokens", of="prompt_tokens input_tokens"),
        cost=cost if isinstance(cost := counted.get("cost"), int | float) else None,  # OpenRouter: in US dollars
    )


class _Calls:
    """Tool calls, whole or in pieces. Some servers leave out `index`, or send every call as number 0."""

    def __init__(self) -> None:
        self._calls: list[dict[str, str]] = []
        self._at: dict[Any, dict[str, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, pieces: Any) -> bool:
        """Take the pieces of one event; say whether there were any."""
        for piece in pieces or ():
            function = piece.get("function") or {}
            index, given = piece.get("index"), piece.get("id")
            call = self._at.get(index)  # under None is the last one
            another = call is not None and given and call["id"] and given != call["id"]
            if call is None or another or (index is None and function.get("name")):
                call = {"id": "", "name": "", "arguments": ""}
                self._calls.append(call)
            self._at[index] = self._at[None] = call
            arguments = function.get("arguments") or ""
            call["id"] = call["id"] or given or ""
            call["name"] = call["name"] or function.get("name") or ""
            call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)
        return bool(pieces)

    def whole(self, end: FinishReason) -> tuple[ToolCall, ...]:
        """Return the calls."""
        calls = (
            ToolCall(call["id"] or f"call_{number}", call["name"], call["arguments"].strip() or "{}")
            for number, call in enumerate(self._calls)
        )
        return uncut(tuple(calls), end)


def uncut(calls: tuple[ToolCall, ...], end: FinishReason) -> tuple[ToolCall, ...]:
    """Return `calls`.

    :raises UnusableAnswer: the answer was cut inside one.
    """
    try:
        for call in calls if end == "length" else ():
            call.parsed()
    except ValueError:
        raise UnusableAnswer("max_tokens was used up inside a tool call: give more") from None
    return calls


def _end(raw: Any, calls: _Calls) -> FinishReason:
    if not isinstance(raw, str):
        raise UnusableAnswer("the answer ended without a finish_reason: it is cut")
    end = _FINISH.get(raw, "stop")
    return "tool_calls" if end == "stop" and calls else end


def _choice(data: Any) -> dict[str, Any]:
    choices = _object(data).get("choices")
    if not isinstance(choices, list) or not choices:
        raise UnusableAnswer("the answer holds no choices: is base_url that of an OpenAI-compatible API?")
    return _object(choices[0])


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnusableAnswer(f"the answer holds {type(value).__name__} where an object belongs")
    return value


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _reasoning(message: Mapping[str, Any]) -> str:
    thought = message.get("reasoning_content") or message.get("reasoning")
    return thought if isinstance(thought, str) else ""


class _Thoughts:
    """What a model thought before it called tools, as it wants it back: DeepSeek the text, OpenRouter the details."""

    def __init__(self) -> None:
        self._text = ""
        self._details: list[dict[str, Any]] = []

    def add(self, message: Mapping[str, Any]) -> None:
        """Take what a message, or a piece of one, says of them."""
        if isinstance(text := message.get("reasoning_content"), str):
            self._text += text
        for piece in message.get("reasoning_details") or ():
            told = {name: value for name, value in piece.items() if value is not None}
            last = self._details[-1] if self._details else {}
            if "index" in told and all(last.get(name) == told.get(name) for name in ("type", "index")):
                last.update(told | {name: last[name] + told[name] for name in _GROWING & last.keys() & told.keys()})
            else:
                self._details.append(told)

    def state(self, vendor: str, calls: _Calls) -> State | None:
        """Return what is kept with the answer."""
        kept = {"reasoning_content": self._text, "reasoning_details": self._details}
        thoughts = {name: value for name, value in kept.items() if value and calls}
        return State(vendor, thoughts) if thoughts else None


def _check_refusal(refusal: Any) -> None:
    if refusal:
        raise ContentFilterError(f"the model refused: {str(refusal)[:300]}")
