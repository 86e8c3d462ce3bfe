"""The frozen values that go in and out of every hook.

All are immutable, comparable, and (apart from the `Scope` of a running call) picklable. A `Request` goes
to a provider, a `Completion` or a stream of `Chunk` comes back. Times are seconds, sizes are tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeAlias, TypedDict, get_args, get_origin

from attrs import evolve, field, frozen

from ._settings import Count, FromZero, OnBreak, Retries, between
from ._structure import fields_of, misfits
from .messages import Image as Image
from .messages import Message as Message
from .messages import Role as Role
from .messages import State as State
from .messages import Tool as Tool
from .messages import ToolCall as ToolCall
from .scope import Scope

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]
#: "continuation": it goes on with a last message of the assistant, from its last character
Capability = Literal["tools", "schema", "images", "continuation"]
HealthStatus = Literal["healthy", "degraded", "unavailable", "unconfigured"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Outcome = Literal["answered", "failed", "cancelled"]

#: All options that a model may not take; those beyond `DROPPABLE` are left out only where `drop_unsupported` says so.
Optional: TypeAlias = Literal[
    "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed",
    "max_tokens", "stop", "tools", "tool_choice", "schema", "reasoning_effort",
]  # fmt: skip
OPTIONAL: frozenset[str] = frozenset(get_args(Optional))
#: Parameters that shape the sampling but not the meaning of a request: the only ones that the
#: router may leave out when a model refuses them.
DROPPABLE: frozenset[str] = frozenset(
    {"temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed"}
)


class Options(TypedDict, total=False):
    """What `Router.generate` and `Router.stream` take as keywords: the fields of `Request`."""

    system: str | None
    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    stop: str | Sequence[str]
    seed: int | None
    tools: Sequence[Tool | Mapping[str, Any]]
    tool_choice: str | None
    schema: Mapping[str, Any] | None
    reasoning_effort: Effort | None
    drop_unsupported: bool | Optional | Sequence[Optional]
    extra: Mapping[str, Any]
    timeout: float | None
    first_token_timeout: float | None
    idle_timeout: float | None
    min_rate: float | None
    max_retries: int | None
    on_refusal: Literal["raise", "next"] | None
    on_break: Literal["raise", "restart", "continue"] | None
    on_limit: Literal["next", "wait"] | None
    local_only: bool
    private: bool
    backend: str | None


_CHOICES = (None, "auto", "none", "required")
_NOTHING: frozenset[Capability] = frozenset()


@frozen(slots=False)  # made and copied in every call: a dict of so many fields is copied at a sixth of the cost
class Request:
    """What is asked. Providers send what is set and leave out what is `None`.

    `timeout` is the whole time that the caller waits, shared by every attempt; `scope` is what a provider obeys.
    """

    messages: tuple[Message, ...]
    system: str | None = None
    model: str | None = None  #: for the first backend of the order; the others use their own
    max_tokens: Count | None = None  #: of the answer
    temperature: Annotated[float, between(0, 2)] | None = None
    top_p: Annotated[float, between(0, 1)] | None = None
    top_k: Annotated[int, between(0)] | None = None
    frequency_penalty: Annotated[float, between(-2, 2)] | None = None
    presence_penalty: Annotated[float, between(-2, 2)] | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None  #: "auto", "none", "required", or the name of a tool
    schema: Mapping[str, Any] | None = None  #: JSON Schema that the answer must fulfil
    reasoning_effort: Effort | None = None  #: how much the model may think before it answers
    #: leave out, with a warning, what a model does not take, rather than not ask it: True, or the names of the options
    drop_unsupported: bool | tuple[Optional, ...] = False
    extra: Mapping[str, Any] = field(factory=dict)  #: fields of the provider's own wire format, sent unchanged
    timeout: FromZero | None = None
    first_token_timeout: FromZero | None = None
    idle_timeout: FromZero | None = None  #: longest silence between two pieces of content of a stream
    min_rate: FromZero | None = None  #: characters a second that a stream must bring, as a mean of ten seconds
    max_retries: Retries | None = None  #: further attempts at the same backend
    on_refusal: Literal["raise", "next"] | None = None  #: whether another backend is asked after a refusal
    #: what follows when a stream breaks after its first content: an error, a new answer, or the rest by another one
    on_break: OnBreak | None = None
    on_limit: Literal["next", "wait"] | None = None  #: whether to go to the next backend where a rate limit would delay
    local_only: bool = False  #: never leave this machine
    private: bool = False  #: a receipt has digests of what is asked and answered, and neither itself
    backend: str | None = None  #: ask only this one
    scope: Scope = field(factory=Scope, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not self.messages:
            raise ValueError("Request.messages: found none, expected at least one message")
        choice = self.tool_choice
        if choice not in _CHOICES and choice not in [tool.name for tool in self.tools]:
            raise ValueError(f"Request.tool_choice: found {choice!r}, expected auto, none, required or a tool's name")
        values = _numbers(self)
        if values != _UNSET:
            for (name, (kind, only)), value in zip(_NUMBERS.items(), values, strict=True):
                if value is not None and not (value.__class__ in (kind, int) and only.fits(value)):
                    raise ValueError(f"Request.{misfits(_FIELDS, {name: value})[0]}")

    @property
    def prompt(self) -> str:
        """The text of the last user message ("" where there is none)."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return ""

    @property
    def instructions(self) -> str:
        """`system` and all system messages as one text, for a vendor that takes them apart from the turns."""
        systems = [self.system, *(message.text for message in self.messages if message.role == "system")]
        return "\n\n".join(filter(None, systems))

    @property
    def needs(self) -> frozenset[Capability]:
        """What a backend must be capable of to serve this request."""
        needs: list[Capability] = []
        if self.tools or (len(self.messages) > 1 and any(m.tool_calls or m.role == "tool" for m in self.messages)):
            needs.append("tools")
        if self.schema is not None:
            needs.append("schema")
        for message in self.messages:
            if message.content.__class__ is not str and message.images:
                needs.append("images")
                break
        return frozenset(needs) if needs else _NOTHING

    def changed(self, new: Mapping[str, Any]) -> Request:
        """Return this request, in the same scope, with these fields changed to values known to be good."""
        copy = object.__new__(Request)
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(new)
        return copy

    @property
    def droppable(self) -> frozenset[str]:
        """The options that may be left out, with a warning, where a model does not take them."""
        if self.drop_unsupported is True:
            return OPTIONAL
        return DROPPABLE.union(self.drop_unsupported) if self.drop_unsupported else DROPPABLE

    def without(self, *names: str) -> Request:
        """Return this request with the named fields unset; without tools there is no choice among them either."""
        names = (*names, "tool_choice") if "tools" in names else names
        return self.changed({name: () if name in ("stop", "tools") else None for name in names})

    def without_state(self, readable: Callable[[State], bool] = lambda _: False) -> Request:
        """Return this request without the states that its receiver cannot read."""
        kept = (m if m.state is None or readable(m.state) else evolve(m, state=None) for m in self.messages)
        return self.changed({"messages": tuple(kept)})

    def has(self, name: str) -> bool:
        """Whether the field of this name is set."""
        return getattr(self, name) not in (None, ())


_FIELDS = fields_of(Request)
#: The fields that are numbers, each with (type, which of them fit).
_NUMBERS = {
    name: get_args(option)
    for name, one in _FIELDS.items()
    for option in get_args(one.type)
    if get_origin(option) is Annotated
}
_numbers = attrgetter(*_NUMBERS)
_UNSET = (None,) * len(_NUMBERS)


@frozen
class Usage:
    """Tokens that a provider counted. `input_tokens` includes cached, `output_tokens` includes reasoning."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_written_tokens: int = 0  #: of the input, written to the provider's cache
    cost: float | None = None  #: US dollars, where the provider itself says so

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@frozen
class Attempt:
    """One call of one backend on the way to an answer."""

    backend: str
    model: str | None
    outcome: Outcome
    error: str | None = None  #: name of the error's class
    reason: str | None = None  #: its message, shortened, without secrets
    duration_s: float = 0.0
    usage: Usage | None = None  #: what a failed attempt cost all the same, where the provider said so
    cost: float | None = None  #: US dollars; `None` if unknown


@frozen
class Completion:
    """A whole answer. A provider fills what it knows; the router adds `backend`, `attempts` and `warnings`."""

    text: str = ""
    finish_reason: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    model: str | None = None  #: the model that answered, as the provider names it
    thinking: str = ""  #: what the model thought aloud, where the provider shows it
    raw_finish_reason: str | None = None  #: the provider's own word
    request_id: str | None = None  #: the provider's id of this exchange
    cost: float | None = None  #: US dollars; `None` if unknown
    backend: str | None = None
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[str, ...] = ()
    state: State | None = None  #: what its vendor wants back with the next turn
    receipt: str | None = None  #: the CID of the record of this answer, where the router keeps receipts

    @property
    def message(self) -> Message:
        """The assistant's turn that this answer is, to go on from: before the results of its tools, say."""
        return Message("assistant", self.text, self.tool_calls, state=self.state)

    def parsed(self) -> Any:
        """Return `text` as the Python values of its JSON.

        :raises ValueError: the text is not JSON; ask with `schema=` to be sure that it is.
        """
        return json.loads(self.text)


@frozen
class Chunk:
    """A piece of a streamed answer.

    Text comes in pieces. A tool call is whole or absent. The last chunk carries `finish_reason`,
    and `usage` where the provider counts; a stream that ends without one is an incomplete answer.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    model: str | None = None
    raw_finish_reason: str | None = None
    request_id: str | None = None
    state: State | None = None
    warnings: tuple[str, ...] = ()  #: of the provider: what it did otherwise than it was asked
    restarted: bool = False  #: the answer starts anew with this piece: what came before is void (`on_break="restart"`)


@frozen
class Health:
    """Whether a backend can work. `reason` tells a person what to do about it."""

    status: HealthStatus
    reason: str = ""
    refused: bool = False  #: whether the service has refused a key or a login: calls get an `AuthenticationError`

    @classmethod
    def ok(cls) -> Health:
        """It is installed, configured and answers."""
        return _HEALTHY

    @classmethod
    def degraded(cls, reason: str) -> Health:
        """It works, but not as it should; it stays in the order."""
        return cls("degraded", reason)

    @classmethod
    def unavailable(cls, reason: str) -> Health:
        """It is configured but cannot be reached or does not work now."""
        return cls("unavailable", reason)

    @classmethod
    def unconfigured(cls, reason: str, *, refused: bool = False) -> Health:
        """Something is missing that only a person can add: a key that is not `refused`, a program, a file."""
        return cls("unconfigured", reason, refused)

    @property
    def usable(self) -> bool:
        """Whether the router asks this backend."""
        return self.status in ("healthy", "degraded")


_HEALTHY = Health("healthy")


@frozen
class ModelInfo:
    """A model that a backend offers, with what its provider tells of it."""

    id: str
    context_window: int | None = None  #: tokens of a request and its answer
    prices: Mapping[str, float] | None = None  #: US dollars for a million tokens: "input", "output", "cached"
    retires: str | None = None  #: the day on which it will be gone, as ISO 8601 writes it
