"""Chat completions, as OpenAI and nearly every other server speak them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pointsman import (
    BackendError,
    Chunk,
    Completion,
    ContentFilterError,
    Image,
    Message,
    Request,
    UnusableAnswer,
    Usage,
)
from pointsman.http import Events, charged
from pointsman.service import Keep
from pointsman.values import FinishReason

from ._calls import Calls, short_id
from ._schema import is_strict
from ._thoughts import Inline, Thoughts, parts_of

NAME = "chat completions"
PATH = "chat/completions"
ABSENT: tuple[str, ...] = ()
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_SENT = ("max_tokens", *_SAMPLING, "reasoning_effort")
_LONGEST_ID = 40  # OpenAI's
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
    sent: dict[str, Any] = {"messages": list(_messages(request.messages))}
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
    if request.tools and request.tool_choice in ("auto", "none", "required"):
        sent["tool_choice"] = request.tool_choice
    elif request.tools and request.tool_choice is not None:
        sent["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
    if request.schema is not None:
        schema = {"name": "answer", "schema": request.schema} | ({"strict": True} if is_strict(request.schema) else {})
        sent["response_format"] = {"type": "json_schema", "json_schema": schema}
    if streamed:
        sent["stream"], sent["stream_options"] = True, {"include_usage": True}
    return sent


def _messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Yield the messages. A tool's result is text only: its pictures follow as a user's turn, after all results."""
    pictures: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            told = message.text or ("see the picture below" if message.images else "")
            yield {"role": "tool", "tool_call_id": short_id(message.tool_call_id, _LONGEST_ID), "content": told}
            pictures += map(_picture, message.images)
            continue
        if pictures:
            yield {"role": "user", "content": pictures}
            pictures = []
        yield _message(message)
    if pictures:
        yield {"role": "user", "content": pictures}


def _picture(image: Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image.as_url()}}


def _message(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if not isinstance(content, str):
        content = [{"type": "text", "text": part} if isinstance(part, str) else _picture(part) for part in content]
    if not message.tool_calls:
        return {"role": message.role, "content": content}
    calls = [
        {
            "id": short_id(call.id, _LONGEST_ID),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in message.tool_calls
    ]
    thoughts = message.state.data if message.state is not None and isinstance(message.state.data, dict) else {}
    return {"role": message.role, "content": content or None, "tool_calls": calls, **thoughts}


def completion(data: Any, headers: Mapping[str, str], keep: Keep) -> Completion:
    """Return what a whole answer says.

    :raises ContentFilterError: the model refused.
    :raises UnusableAnswer: it has no choice, or no end.
    """
    counted = usage(_object(data).get("usage"))
    with charged(lambda: counted):
        choice = _choice(data)
        message = choice.get("message") or {"content": choice.get("text")}
        calls, thoughts, inline = Calls(), Thoughts(), Inline()
        calls.add(message.get("tool_calls"))
        seen, (said, aside) = thoughts.add(message), parts_of(message.get("content"))
        text, inner = inline.split(said, last=True)
        end = _end(choice.get("finish_reason"), calls)
        _check_refusal(message.get("refusal"))
        return Completion(
            text=text,
            finish_reason=end,
            tool_calls=calls.whole(end),
            usage=counted,
            model=data.get("model"),
            thinking=seen + aside + inner,
            raw_finish_reason=choice.get("native_finish_reason") or choice["finish_reason"],
            request_id=headers.get("x-request-id") or data.get("id"),
            state=thoughts.state(keep, called=bool(calls)),
        )


def chunks(events: Events, keep: Keep) -> Iterator[Chunk]:
    """Yield what a streamed answer says. Its last chunk comes when the stream has ended, for usage may come late.

    :raises UnusableAnswer: an event is none, or the stream ended without a finish reason.
    """
    answer = _Streamed()
    with charged(lambda: answer.counted):
        try:
            for event in events:
                yield from answer.heard(_object(event.json()), events)
        except BackendError:
            if answer.raw is None:
                raise  # else the answer was whole already
        yield from answer.ended(events, keep)


class _Streamed:
    """What the events of one answer have said so far."""

    def __init__(self) -> None:
        self.calls, self.thoughts, self.inline = Calls(), Thoughts(), Inline()
        self.counted: Usage | None = None
        self.raw: str | None = None
        self._native: str | None = None
        self._refusal = ""
        self._data: dict[str, Any] = {}

    def heard(self, data: dict[str, Any], events: Events) -> Iterator[Chunk]:
        """Take an event; yield what of it a reader may see."""
        self._data = data
        self.counted = usage(data.get("usage") or _object(data.get("x_groq") or {}).get("usage")) or self.counted
        choice = _choice(data) if data.get("choices") else {}
        delta = choice.get("delta") or choice.get("message") or {}
        seen, (said, aside) = self.thoughts.add(delta), parts_of(delta.get("content"))
        text, inner = self.inline.split(said)
        self._refusal += delta.get("refusal") or ""
        if self.calls.add(delta.get("tool_calls")) or said or seen or aside:
            events.content_seen()
        if text or seen or aside or inner:
            yield Chunk(text=text, thinking=seen + aside + inner, model=data.get("model"))
        if choice.get("finish_reason"):
            self.raw, self._native = choice["finish_reason"], choice.get("native_finish_reason")
            events.ending()

    def ended(self, events: Events, keep: Keep) -> Iterator[Chunk]:
        """Yield the last chunk."""
        text, inner = self.inline.split("", last=True)
        end = _end(self.raw, self.calls)
        _check_refusal(self._refusal)
        yield Chunk(
            text=text,
            thinking=inner,
            tool_calls=self.calls.whole(end),
            finish_reason=end,
            usage=self.counted,
            model=self._data.get("model"),
            raw_finish_reason=self._native or self.raw,
            request_id=events.headers.get("x-request-id") or self._data.get("id"),
            state=self.thoughts.state(keep, called=bool(self.calls)),
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
        cost=_cost(counted),
    )


def _cost(counted: Mapping[str, Any]) -> float | None:
    """Return what OpenRouter says that it cost, in US dollars; with a key of the user's own, its fee is but a part."""
    cost, inner = counted.get("cost"), counted.get("cost_details")
    if isinstance(cost, bool) or not isinstance(cost, int | float):
        return None
    upstream = inner.get("upstream_inference_cost") if isinstance(inner, dict) and counted.get("is_byok") else None
    return cost + upstream if isinstance(upstream, int | float) else cost


def _end(raw: Any, calls: Calls) -> FinishReason:
    if not isinstance(raw, str) or not raw:
        raise UnusableAnswer("the answer ended without a finish_reason: it is cut")
    end = _FINISH.get(raw, "stop")
    return "tool_calls" if end == "stop" and calls else end


def _choice(data: Any) -> dict[str, Any]:
    """Return the first of the choices: where somebody asks for more, the others are left."""
    choices = _object(data).get("choices")
    if not isinstance(choices, list) or not choices:
        raise UnusableAnswer("the answer holds no choices: is base_url that of an OpenAI-compatible API?")
    return next((one for one in map(_object, choices) if one.get("index") in (None, 0)), {})


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnusableAnswer(f"the answer holds {type(value).__name__} where an object belongs")
    return value


def _check_refusal(refusal: Any) -> None:
    if refusal:
        raise ContentFilterError(f"the model refused: {refusal!s:.300}")
