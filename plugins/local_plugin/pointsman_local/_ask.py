"""Turns a `Request` into what the engines take, and keeps control tokens out of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen
from pointsman import ContextLengthError, InvalidRequestError, Message, Request, Tool

from ._gguf import Header, markers_in
from ._markers import Markers
from ._schema import bounded

#: The only fields of `Request.extra` that are taken: others (a grammar, a slot, several answers) could kill the engine.
_EXTRA = frozenset({"min_p", "typical_p", "repeat_penalty", "logit_bias", "chat_template_kwargs"})
_NUMBERS = frozenset({"min_p", "typical_p", "repeat_penalty"})
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Seeds are unsigned numbers of 32 bits, and the largest means "any".
_SEEDS = (1 << 32) - 1


@frozen
class Ask:
    """What is sent to the engine, and what its answer is checked against."""

    body: dict[str, Any]
    schema: dict[str, Any] | None = None
    forced: bool = False  #: the text of the answer is a tool call, as `schema` says
    tools: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


@frozen
class Asker:
    """Makes questions for one model."""

    header: Header
    limit: int  #: tokens of the context
    chat_template: str | None
    seed: int | None
    temperature: float | None  #: where the request has none
    max_tokens: int | None  #: where the request has none; None: to the end of the context
    calls_tools: bool

    def ask(self, request: Request) -> Ask:
        """Return the question.

        :raises InvalidRequestError: something in it cannot be asked here.
        :raises ContextLengthError: it is too long, however it is cut into tokens.
        """
        found: set[str] = set()
        markers = Markers(self.header.control | markers_in(self.chat_template))
        body: dict[str, Any] = {name: value for name in _SAMPLING if (value := getattr(request, name)) is not None}
        if self.temperature is not None:
            body.setdefault("temperature", self.temperature)
        if (max_tokens := request.max_tokens or self.max_tokens) is not None:
            body["max_tokens"] = max_tokens
        if request.stop:
            body["stop"] = _stops(request.stop)
        if (seed := self.seed if request.seed is None else request.seed) is not None:
            body["seed"] = seed % _SEEDS
        body["messages"] = _messages(request, markers, found)
        self._check_length(body["messages"])
        body["extra"] = markers.broken_all(_extra(request.extra), found)
        schema = None if request.schema is None else bounded(request.schema)
        forced = False
        if request.tools:
            self._check_tools(request)
            body["tools"] = [_tool(tool, markers, found) for tool in request.tools]
            body["tool_choice"] = "none" if request.tool_choice == "none" else "auto"
            forced = request.tool_choice not in (None, "auto", "none")
            schema = _call_schema(request) if forced else schema
        if schema is not None:
            body["schema"] = schema
        return Ask(body, schema, forced, frozenset(tool.name for tool in request.tools), _warnings(found))

    def _check_length(self, messages: list[dict[str, Any]]) -> None:
        size = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in messages)
        least = size // (self.header.longest_token or 1 << 20)
        if least >= self.limit:
            error = ContextLengthError(
                f"the messages have {size} bytes, so at least {least} tokens; this model takes {self.limit} (n_ctx)"
            )
            error.limit, error.needed = self.limit, least
            raise error

    def _check_tools(self, request: Request) -> None:
        if not self.calls_tools:
            raise InvalidRequestError(
                "tools: the chat template of this model does not know tools; choose a model that does",
                parameter="tools",
                try_next=True,
            )
        names = [tool.name for tool in request.tools]
        for name in names:
            if not _NAME.fullmatch(name):
                raise InvalidRequestError(f"tools: the name {name!r} is not made of letters, digits, '_', '-', '.'")
        choice = request.tool_choice
        if request.schema is not None and choice in (None, "auto"):
            raise InvalidRequestError(
                "schema with tools: a local model cannot choose between them; set tool_choice",
                parameter="schema",
                try_next=True,
            )


def _stops(stop: tuple[str, ...]) -> list[str]:
    if any(not isinstance(text, str) or not text for text in stop):
        raise InvalidRequestError(f"stop: found {stop!r}, expected texts that are not empty", parameter="stop")
    return list(stop)


def _messages(request: Request, markers: Markers, found: set[str]) -> list[dict[str, Any]]:
    messages = [] if request.system is None else [{"role": "system", "content": markers.broken(request.system, found)}]
    return messages + [_message(message, markers, found) for message in request.messages]


def _message(message: Message, markers: Markers, found: set[str]) -> dict[str, Any]:
    if message.images:
        raise InvalidRequestError("images: this backend reads none", parameter="images", try_next=True)
    turn: dict[str, Any] = {"role": message.role, "content": markers.broken(message.text, found)}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": markers.broken(call.name, found),
                    "arguments": _arguments(call.arguments, markers, found),
                },
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _arguments(text: str, markers: Markers, found: set[str]) -> str:
    """Return the arguments of an earlier call, read and written anew: an escape may hide a control token."""
    try:
        values = json.loads(text or "{}")
    except ValueError as error:
        raise InvalidRequestError(f"tool_calls: arguments are no JSON: {error}", try_next=True) from None
    return json.dumps(markers.broken_all(values, found), ensure_ascii=False)


def _tool(tool: Tool, markers: Markers, found: set[str]) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": bounded(tool.parameters, what=f"tools[{tool.name}].parameters"),
    }
    return {"type": "function", "function": markers.broken_all(function, found)}


def _call_schema(request: Request) -> dict[str, Any]:
    """Return the schema of a call of one of the tools that the choice leaves.

    We force it ourselves: the engine's own `required` lets the model talk as long as it likes first.
    """
    choices = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "arguments": bounded(tool.parameters, what=f"tools[{tool.name}]"),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in request.tools
        if request.tool_choice in ("required", tool.name)
    ]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    for name in extra:
        if name not in _EXTRA:
            raise InvalidRequestError(
                f"extra: {name!r} is not taken, expected {', '.join(sorted(_EXTRA))}", parameter=name, try_next=True
            )
        value = extra[name]
        if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InvalidRequestError(f"extra: {name} is {value!r:.50}, expected a number", parameter=name)
    return dict(extra)


def _warnings(found: set[str]) -> tuple[str, ...]:
    if not found:
        return ()
    some = ", ".join(repr(text) for text in sorted(found)[:5])
    return (f"the request contained control tokens of the model ({some}): broken up, so that they are read as text",)
