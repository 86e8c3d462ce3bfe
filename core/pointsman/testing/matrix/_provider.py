"""What the matrix is played with where `pointsman-openai` is not installed: chat completions, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from attrs import evolve, field, frozen

from ...hookspecs import hookimpl
from ...http import Client, promised_form
from ...secret import Secret
from ...values import Capability, Chunk, Completion, Request, ToolCall, Usage

#: What every provider of the matrix declares: rows 24 and 27 need it.
CAPABILITIES: frozenset[Capability] = frozenset({"tools", "schema", "continuation"})
_SENT = ("max_tokens", "temperature", "top_p", "stop", "seed")


@frozen
class Maker:
    """Makes the providers of the matrix."""

    name: str  #: what `chosen` finds it by
    about: str
    make: Callable[..., object] = field(repr=False)

    def __call__(self, **options: Any) -> object:
        """Return a provider."""
        known = [field.name for field in getattr(self.make, "__attrs_attrs__", ())]
        given = {"capabilities": CAPABILITIES, **options}
        return self.make(**{name: value for name, value in given.items() if name in known})


def chosen(name: str | None = None) -> Maker:
    """Return what makes the providers of the matrix.

    :param name: of an installed provider whose wire the fault server speaks, and that takes `base_url`, `model` and
        `api_key`; "kit" is the one below. Without it, `openai` if it is installed.
    :raises LookupError: there is no provider of that name.
    """
    found = next(iter(entry_points(group="pointsman.providers", name=name or "openai")), None)
    if found is not None:
        about = f"{found.dist.name} {found.dist.version}" if found.dist else found.value
        return Maker(found.name, about, found.load())
    if name not in (None, "kit"):
        raise LookupError(f"no provider {name!r} is installed")
    return Maker("kit", "the testing kit's own", Plain)


@frozen(kw_only=True)
class Plain:
    """Asks a server that speaks chat completions."""

    base_url: str
    model: str
    api_key: Secret = field(converter=Secret)
    context_window: int | None = None
    capabilities: frozenset[Capability] = CAPABILITIES

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer whole."""
        answer = self._client.post_json("chat/completions", self._body(request), request.scope)
        data = answer.data
        with promised_form():
            choice = data["choices"][0]
            message = choice["message"]
            calls = tuple(
                ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
                for call in message.get("tool_calls") or ()
            )
            refused = "content_filter" if message.get("refusal") else None
            finish: Any = refused or choice.get("finish_reason") or "error"
            return Completion(
                text=message["content"] or "",
                finish_reason=finish,
                tool_calls=_whole(calls, finish),
                usage=_usage(data),
                model=data.get("model"),
                request_id=answer.headers.get("x-request-id"),
            )

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        body = {**self._body(request), "stream": True, "stream_options": {"include_usage": True}}
        calls, refused = dict[int, ToolCall](), False
        with self._client.post_events("chat/completions", body, request.scope) as events:
            last = Chunk(request_id=events.headers.get("x-request-id"))
            for event in events:
                data = event.json()
                last = evolve(last, model=data.get("model"), usage=_usage(data) or last.usage)
                for choice in data.get("choices", ()):
                    delta = choice["delta"]
                    if delta.get("content"):
                        events.content_seen()
                        yield Chunk(delta["content"])
                    refused = refused or bool(delta.get("refusal"))
                    _add(calls, delta.get("tool_calls") or ())
                    finish = choice.get("finish_reason") or last.finish_reason
                    last = evolve(last, finish_reason="content_filter" if refused and finish else finish)
                    if last.finish_reason:
                        events.ending()
        yield evolve(last, tool_calls=_whole(tuple(calls.values()), last.finish_reason))

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    @cached_property
    def _client(self) -> Client:
        return Client(self.base_url, auth=("Authorization", "Bearer ", self.api_key))

    def _body(self, request: Request) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        body = {name: value for name in _SENT if (value := getattr(request, name)) not in (None, ())}
        tools = [{"type": "function", "function": {"name": tool.name}} for tool in request.tools]
        chosen = {"tools": tools, "tool_choice": request.tool_choice or "auto"} if tools else {}
        return {"model": request.model or self.model, "messages": messages, **body, **chosen}


def _add(calls: dict[int, ToolCall], deltas: Any) -> None:
    for delta in deltas:
        known, function = calls.get(delta["index"], ToolCall("", "", "")), delta["function"]
        name, more = known.name or function.get("name", ""), function.get("arguments", "")
        calls[delta["index"]] = ToolCall(known.id or delta.get("id", ""), name, known.arguments + more)


def _whole(calls: tuple[ToolCall, ...], finish: str | None) -> tuple[ToolCall, ...]:
    """Return the calls if the model ended them itself."""
    return calls if finish == "tool_calls" else ()


def _usage(data: Any) -> Usage | None:
    counts = data.get("usage")
    if not counts:
        return None
    read, written = counts.get("prompt_tokens_details") or {}, counts.get("completion_tokens_details") or {}
    return Usage(
        counts["prompt_tokens"],
        counts["completion_tokens"],
        read.get("cached_tokens", 0),
        written.get("reasoning_tokens", 0),
    )
