"""A router over fault servers, and what its callers get: for tests of faults through the whole of Pointsman.

with Stage({"main": faults.status(503), "spare": faults.well("Hello.")}, OpenAI, clock=Clock()) as on:
    got = on.ask("streamed")
    assert (got.text, on.asked()) == ("Hello.", {"main": 2, "spare": 1})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from attrs import frozen

from .._backends import Backend
from ..errors import BackendError
from ..router import Router
from ..scope import Clock
from ..values import Attempt, Chunk, Completion
from .server import FaultServer, Script


@frozen
class Outcome:
    """What the caller of one request got."""

    completion: Completion | None
    error: BackendError | None
    chunks: tuple[Chunk, ...]  #: of a stream
    seconds: float  #: by the real clock

    @property
    def text(self) -> str:
        """The text that the caller holds: of a stream the pieces since it last began anew, also if it then broke."""
        if self.completion is not None and not self.chunks:
            return self.completion.text
        begun = max((n for n, chunk in enumerate(self.chunks) if chunk.restarted), default=0)
        return "".join(chunk.text for chunk in self.chunks[begun:])

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt, as the answer or the error tells it."""
        told = self.completion or self.error
        return told.attempts if told is not None else ()


class Stage:
    """One router, and a fault server for each of its backends; the order is that of the scripts. Thread-safe.

    :param scripts: id of a backend -> what its server plays.
    :param make: makes a provider; called with `base_url`, `model` ("model-of-ID") and `api_key`.
    :param clock: of the router and of all servers.
    :param urls: id of a backend -> where to send its requests instead, to a place without a server for example.
    :param settings: id of a backend -> further arguments of its `Backend`.
    :param options: of `Router`.
    """

    def __init__(
        self,
        scripts: Mapping[str, Script],
        make: Callable[..., object],
        *,
        clock: Clock | None = None,
        urls: Mapping[str, str] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self.clock = clock or Clock()
        with ExitStack() as stack:
            start = stack.enter_context
            self.servers = {name: start(FaultServer(script, clock=self.clock)) for name, script in scripts.items()}
            backends = []
            for place, (name, server) in enumerate(self.servers.items(), 1):
                where = (urls or {}).get(name, server.url)
                provider = make(base_url=where, model=f"model-of-{name}", api_key=f"sk-{name}-0123456789abcdef")
                own = {"priority": 10.0 * place, **(settings or {}).get(name, {})}
                backends.append(Backend(provider, id=name, **own))
            self.router = start(Router(backends, clock=self.clock, **options))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the router, then the servers."""
        self._stack.close()

    def ask(self, way: str, prompt: Any = "Name three rivers.", **options: Any) -> Outcome:
        """Ask for a whole answer ("plain"), or read a stream to its end ("streamed")."""
        begun = perf_counter()
        chunks: list[Chunk] = []
        completion: Completion | None = None
        failure: BackendError | None = None
        try:
            if way == "plain":
                completion = self.router.generate(prompt, **options)
            else:
                with self.router.stream(prompt, **options) as stream:
                    for chunk in stream:
                        chunks.append(chunk)
                    completion = stream.completion
        except BackendError as error:
            failure = error
        return Outcome(completion, failure, tuple(chunks), perf_counter() - begun)

    def asked(self) -> dict[str, int]:
        """Return how many requests for answers each server has seen."""
        return {name: len(server.asked) for name, server in self.servers.items()}

    def circuit(self, backend: str, **options: Any) -> str:
        """Return what the router thinks of a backend for now: "closed", "open for 5 s", or "half open"."""
        place = next(place for place in self.router.order("?", **options) if place.backend.id == backend)
        state = place.reason.partition(":")[0]
        if state.startswith("cooling down"):
            return f"open for {state.removeprefix('cooling down for ').removesuffix(' more')}"
        return "half open" if state.startswith("cooled down") else "closed"
