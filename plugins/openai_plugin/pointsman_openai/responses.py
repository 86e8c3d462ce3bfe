"""OpenAI's Responses API, without state on the server (`store` is false)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pointsman import Chunk, Completion, ContentFilterError, Image, Message, Request, ToolCall, UnusableAnswer
from pointsman.http import Events, charged
from pointsman.service import Keep
from pointsman.values import FinishReason

from ._calls import checked, made_call, short_id
from ._schema import is_strict
from .chat import usage

NAME = "the Responses API"
PATH = "responses"
ABSENT = ("stop", "top_k", "seed", "frequency_penalty", "presence_penalty")
_LONGEST_ID = 64
_FINISH: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}


def body(request: Request, model: str | None, *, streamed: bool) -> dict[str, Any]:
    """Return the JSON of the request."""
    items = [item for message in request.messages for item in _items(message)]
    sent: dict[str, Any] = {"input": items, "store": False}
    wanted = {
        "model": model,
        "instructions": request.system,
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning": request.reasoning_effort and {"effort": request.reasoning_effort},
        "stream": streamed or None,
    }
    sent.update((name, value) for name, value in wanted.items() if value is not None)
    if request.tools and request.tool_choice is not None:
        named = {"type": "function", "name": request.tool_choice}
        sent["tool_choice"] = request.tool_choice if request.tool_choice in ("auto", "none", "required") else named
    if request.tools:
        sent["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": is_strict(tool.parameters),
            }
            for tool in request.tools
        ]
    if request.schema is not None:
        shape = {"type": "json_schema", "name": "answer", "schema": request.schema, "strict": is_strict(request.schema)}
        sent["text"] = {"format": shape}
    return sent


def _items(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        output: Any = _parts(message, "input_text") if message.images else message.text
        yield {"type": "function_call_output", "call_id": _id(message.tool_call_id), "output": output}
        return
    if message.state is not None and isinstance(message.state.data, list):  # with thoughts, unchanged
        yield from message.state.data
        return
    if not isinstance(message.content, str):
        kind = "output_text" if message.role == "assistant" else "input_text"
        yield {"role": message.role, "content": _parts(message, kind)}
    elif message.content or not message.tool_calls:
        yield {"role": message.role, "content": message.content}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": _id(call.id), "name": call.name, "arguments": call.arguments}


def _parts(message: Message, kind: str) -> list[dict[str, Any]]:
    parts = (message.content,) if isinstance(message.content, str) else message.content
    return [
        {"type": "input_image", "image_url": part.as_url(), "detail": "auto"}
        if isinstance(part, Image)
        else {"type": kind, "text": part}
        for part in parts
    ]


def _id(given: str | None) -> str:
    return short_id(given, _LONGEST_ID)


def completion(data: Any, headers: Mapping[str, str], keep: Keep) -> Completion:
    """Return what a whole answer says.

    :raises BackendError: it was refused, or is not whole.
    """
    if not isinstance(data, dict) or not isinstance(data.get("output"), list):
        raise UnusableAnswer("the answer holds no output: does the server speak the Responses API?")
    raw = (data.get("incomplete_details") or {}).get("reason") or data.get("status")
    counted = usage(data.get("usage"))
    with charged(lambda: counted):
        text, thinking, calls = _read(data["output"])
        end = _end(raw, bool(calls))
        return Completion(
            text=text,
            finish_reason=end,
            tool_calls=checked(calls, end),
            usage=counted,
            model=data.get("model"),
            thinking=thinking,
            raw_finish_reason=raw,
            request_id=headers.get("x-request-id") or data.get("id"),
            state=keep(data["output"]) if any(map(_only_its_own, data["output"])) else None,
        )


def _read(output: Any) -> tuple[str, str, tuple[ToolCall, ...]]:
    """Return the text, the thoughts and the calls of an answer's items."""
    text, thinking, calls = "", "", []
    for item in output:
        kind = item.get("type")
        if kind == "function_call":
            calls.append(made_call(item.get("call_id") or item.get("id"), item.get("name"), item.get("arguments")))
        elif kind == "reasoning":
            thinking += "".join(part.get("text") or "" for part in item.get("summary") or item.get("content") or ())
        elif kind == "message" and item.get("phase") == "commentary":
            thinking += _said(item)
        elif kind == "message":
            text += _said(item)
    return text, thinking, tuple(calls)


def chunks(events: Events, keep: Keep) -> Iterator[Chunk]:
    """Yield what a streamed answer says.

    :raises BackendError: it failed, was refused, or ended without a terminal event.
    """
    asides: set[str] = set()  # what the model says between its tools: no part of the answer
    for event in events:
        data = event.json()
        kind = data.get("type", event.name) if isinstance(data, dict) else ""
        delta = data.get("delta") if kind.endswith(".delta") else None
        if delta:
            events.content_seen()
        if kind == "response.output_item.added" and data.get("item", {}).get("phase") == "commentary":
            asides.add(data["item"].get("id"))
        elif delta and ("reasoning" in kind or data.get("item_id") in asides):
            yield Chunk(thinking=delta)
        elif delta and kind == "response.output_text.delta":
            yield Chunk(text=delta)
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            events.ending()
            whole = completion(data["response"], events.headers, keep)
            yield Chunk(
                tool_calls=whole.tool_calls,
                finish_reason=whole.finish_reason,
                usage=whole.usage,
                model=whole.model,
                raw_finish_reason=whole.raw_finish_reason,
                request_id=whole.request_id,
                state=whole.state,
            )
            return
    raise UnusableAnswer("the stream ended without its terminal event: it is cut")


def _only_its_own(item: Mapping[str, Any]) -> bool:
    """Whether an item says more than can be said of it in a message: encrypted thoughts, the phase of a text."""
    return bool(item.get("encrypted_content") or item.get("phase"))


def _said(item: Mapping[str, Any]) -> str:
    parts = [part for part in item.get("content") or () if isinstance(part, dict)]
    refusal = next((part["refusal"] for part in parts if part.get("type") == "refusal"), None)
    if refusal is not None:
        raise ContentFilterError(f"the model refused: {refusal!s:.300}")
    return "".join(part.get("text") or "" for part in parts if part.get("type") == "output_text")


def _end(raw: Any, called: bool) -> FinishReason:
    if raw == "completed":
        return "tool_calls" if called else "stop"
    if raw in _FINISH:
        return _FINISH[raw]
    raise UnusableAnswer(f"the answer is not whole: its status is {raw!r}")
