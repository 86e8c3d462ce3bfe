"""What a server double answers, in words that belong to no wire format.

An `Answer` says what the model would have said; an `Ask` is what a request wanted; a `Wire` turns
the one into the bytes that the other expects. OpenAI's two wire formats are in `openai_chat` and
`openai_responses`; the author of a provider with another one gives the fault server a `Wire` of
their own and gets every fault with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import evolve, field, frozen

from ..values import ToolCall, Usage

Kind = Literal["lifecycle", "content", "finish", "usage", "done", "error"]
#: Where a streamed answer carries its usage: after the last chunk, in it, before it, or nowhere.
UsageAt = Literal["after", "in", "before", "nowhere"]

#: What every healthy answer reports unless told otherwise.
USAGE = Usage(input_tokens=19, output_tokens=8, cached_tokens=4, reasoning_tokens=2)


@frozen
class Answer:
    """What the model says. `text=None` is a null content; `finish_reason=None` leaves it out of the wire."""

    text: str | None = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = "stop"  #: a word of OpenAI's chat completions, also for other wires
    thinking: str = ""
    refusal: str | None = None
    usage: Usage | None = USAGE
    usage_at: UsageAt = "after"
    model: str | None = None  #: None: the model that was asked for

    @property
    def pieces(self) -> list[str]:
        """The text as a stream sends it, word by word."""
        return cut(self.text or "")


@frozen
class Ask:
    """What a request wanted, in neutral words."""

    prompt: str = ""
    model: str = "default-model"
    streamed: bool = False
    wants_usage: bool = True  #: of a stream
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()  #: name and JSON Schema of the arguments
    tool_wanted: str | None = None  #: the one that must be called
    schema: Mapping[str, Any] | None = None
    id: str = ""  #: of the request, for wires that have it in the body too

    def answer(self) -> Answer:
        """Answer as a well model would: an echo of the prompt, JSON where a schema is asked, a call where tools are."""
        if self.tools:
            name, parameters = next((t for t in self.tools if t[0] == self.tool_wanted), self.tools[0])
            call = ToolCall(id="call_1", name=name, arguments=json.dumps(sample(parameters)))
            return Answer(text=None, tool_calls=(call,), finish_reason="tool_calls")
        if self.schema is not None:
            return Answer(text=json.dumps(sample(self.schema), ensure_ascii=False))
        return Answer(text=f"You said: {self.prompt}")


@frozen
class Event:
    """One server-sent event. `data` is sent as JSON, or as it is where it is text."""

    data: Any
    kind: Kind = "content"
    name: str | None = None

    @property
    def text(self) -> str:
        """The payload of the `data` field."""
        return self.data if isinstance(self.data, str) else json.dumps(self.data, ensure_ascii=False)

    def encode(self, newline: str = "\n") -> bytes:
        """Return the event as it stands in the stream, blank line included; one `data` line for each line of text."""
        lines = [f"event: {self.name}"] if self.name else []
        lines += [f"data: {line}" for line in self.text.split("\n")]
        return (newline.join(lines) + newline * 2).encode()


@frozen
class WireError:
    """An error object: the four facts that OpenAI's has; other wires send what they have room for."""

    message: str = "The server had an error while processing your request."
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    status: int = 500
    extra: Mapping[str, Any] = field(factory=dict)  #: further fields of the error object


class Wire(Protocol):
    """One provider's wire format, as its server speaks it."""

    def ask(self, body: Any) -> Ask:
        """Read the parsed body of a request (anything, also nonsense: then return what can be known)."""

    def body(self, answer: Answer, ask: Ask) -> Any:
        """Return the JSON of a plain answer."""

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        """Return the events of a streamed answer, each with its kind."""

    def error(self, error: WireError) -> Any:
        """Return the JSON of an error."""

    def error_event(self, error: WireError) -> Event:
        """Return an error in the middle of a stream."""


def cut(text: str) -> list[str]:
    """Cut after every space, so that the pieces joined are the text again."""
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + [word for word in words[-1:] if word]


def renamed(answer: Answer, ask: Ask) -> Answer:
    """Return the answer with the name of a model in it."""
    return answer if answer.model else evolve(answer, model=ask.model)


def sample(schema: Any) -> Any:
    """Return a small value that fulfils a simple JSON Schema: types, properties, items, enum, const, anyOf."""
    if not isinstance(schema, Mapping):
        return "text"
    for key, pick in (("const", lambda v: v), ("enum", _first), ("anyOf", lambda v: sample(_first(v)))):
        if key in schema:
            return pick(schema[key])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = _first(kind)
    if kind == "object":
        return {name: sample(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items"))] * max(1, schema.get("minItems", 0))
    simple = {"integer": schema.get("minimum", 1), "number": schema.get("minimum", 1.5), "boolean": True, "null": None}
    return simple.get(kind, "text")


def _first(values: Sequence[Any]) -> Any:
    return values[0]
