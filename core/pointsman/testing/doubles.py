"""Providers for tests that need no service: real plugins, in memory, for routers and middleware."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic

from attrs import define, evolve, field

from ..errors import BackendTimeout, UnavailableError
from ..hookspecs import hookimpl
from ..values import Capability, Chunk, Completion, FinishReason, Health, Request
from .answers import Ask, cut

#: One thing to answer: text, a whole completion, an error to raise, the pieces of a stream (an error
#: among them is raised in its place), or a function that makes one of these of the request.
Reply = (
    str | Completion | BaseException | Sequence[Chunk | BaseException] | Callable[[Request], "str | Completion | Reply"]
)


@define(eq=False)
class Scripted:
    """Answers, or raises, what its script says; the last line is repeated. Without a script it echoes. Thread-safe."""

    script: Reply | Iterable[Reply] = ()
    model: str | None = "scripted-model"
    capabilities: frozenset[Capability] = frozenset({"tools", "schema", "images"})
    local: bool = True
    context_window: int | None = None
    healthy: Health = field(factory=Health.ok)
    requests: list[Request] = field(factory=list, init=False)  #: all that it was asked, in order
    closed: int = field(default=0, init=False)  #: how often `close` was called
    _lines: list[Reply] = field(factory=list, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        one = isinstance(self.script, str | Completion | BaseException) or callable(self.script)
        self._lines = [self.script] if one else list(self.script)  # type: ignore[list-item, arg-type]  # told apart just before

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return len(self.requests)

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer whole."""
        reply = self._next(request)
        if isinstance(reply, Completion):
            return reply
        pieces = list(_played(reply))
        last = pieces[-1] if pieces else Chunk()
        return Completion(
            text="".join(piece.text for piece in pieces),
            finish_reason=last.finish_reason or "error",
            tool_calls=tuple(call for piece in pieces for call in piece.tool_calls),
            usage=last.usage,
            model=self.model,
        )

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        reply = self._next(request)
        if not isinstance(reply, Completion):
            yield from _played(reply)
            return
        yield from (Chunk(piece, model=reply.model) for piece in cut(reply.text))
        end = Chunk(tool_calls=reply.tool_calls, thinking=reply.thinking, finish_reason=reply.finish_reason)
        yield evolve(end, usage=reply.usage, model=reply.model)

    @hookimpl
    def health(self) -> Health:
        """Say what it was told to say."""
        return self.healthy

    @hookimpl
    def close(self) -> None:
        """Count that the router closed."""
        self.closed += 1

    def _next(self, request: Request) -> Completion | Sequence[Chunk | BaseException]:
        with self._lock:
            self.requests.append(request)
            line: Reply = self._lines.pop(0) if len(self._lines) > 1 else (self._lines or [_echo])[0]
        while callable(line):
            line = line(request)
        if isinstance(line, BaseException):
            raise line
        return Completion(line, model=self.model) if isinstance(line, str) else line


def _echo(request: Request) -> Completion:
    """Answer as the fault server does when it is well."""
    answered = request.messages[-1].role == "tool" or request.tool_choice == "none"
    tools = () if answered else tuple((tool.name, tool.parameters) for tool in request.tools)
    ask = Ask(request.prompt, tools=tools, tool_wanted=request.tool_choice, schema=request.schema)
    answer = ask.answer()
    finish: FinishReason = "tool_calls" if answer.tool_calls else "stop"
    return Completion(answer.text or "", finish, answer.tool_calls, answer.usage, model="scripted-model")


def _played(pieces: Sequence[Chunk | BaseException]) -> Iterator[Chunk]:
    for piece in pieces:
        if isinstance(piece, BaseException):
            raise piece
        yield piece


@define(eq=False)
class Silent:
    """Never answers, and obeys: it raises when the time is up, or when nobody waits any more."""

    model: str | None = "silent-model"
    requests: list[Request] = field(factory=list, init=False)
    asked: threading.Event = field(factory=threading.Event, init=False)  #: set when the first request has come

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Wait in vain.

        :raises BackendTimeout: the time is up.
        :raises UnavailableError: the call was cancelled.
        """
        woken = threading.Event()
        forget = request.scope.on_cancel(woken.set)
        self.requests.append(request)
        self.asked.set()
        limit = max(0.0, min(request.scope.deadline, request.scope.first_byte_by) - monotonic())
        try:
            woken.wait(min(limit, threading.TIMEOUT_MAX))
        finally:
            forget()
        if request.scope.cancelled:
            raise UnavailableError("the call was cancelled")
        raise BackendTimeout(f"no answer within {limit:g} s")

    @hookimpl
    def health(self) -> Health:
        """Claim to be well."""
        return Health.ok()
