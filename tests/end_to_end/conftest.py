"""A stage for faults: a router whose primary fails as told, and a spare that is well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic
from typing import Any, Literal

import pytest
from attrs import define, frozen
from pointsman import Attempt, Backend, BackendError, Chunk, Completion, Router, Usage
from pointsman.testing import FaultServer, faults
from pointsman_openai import OpenAI

KEY = "sk-end-to-end-0123456789abcdef"
SPARE = "Here speaks the spare."


@frozen
class Outcome:
    """What the caller of one request got."""

    completion: Completion | None
    error: BackendError | None
    chunks: tuple[Chunk, ...]
    seconds: float

    @property
    def text(self) -> str:
        """The text that the caller saw: the pieces of a stream joined, which must be the answer's text."""
        shown = "".join(chunk.text for chunk in self.chunks)
        if self.completion is None:
            return shown
        assert not self.chunks or shown == self.completion.text
        return self.completion.text

    @property
    def attempts(self) -> list[tuple[str, str, str | None]]:
        """Backend, outcome and class of error of each attempt."""
        made: tuple[Attempt, ...] = (self.completion or self.error).attempts  # type: ignore[union-attr]  # one is there
        return [(attempt.backend, attempt.outcome, attempt.error) for attempt in made]


@define(eq=False)
class Stage:
    """One router over real `openai` providers and fault servers."""

    router: Router
    primary: FaultServer
    spare: FaultServer
    timeout: float = 10.0

    def ask(self, way: str, prompt: Any = "Name three rivers.", **options: Any) -> Outcome:
        """Ask for a whole answer ("plain") or read a stream to its end ("streamed")."""
        begun, chunks, completion, error = monotonic(), [], None, None
        try:
            if way == "plain":
                completion = self.router.generate(prompt, **options)
            else:
                with self.router.stream(prompt, **options) as stream:
                    for chunk in stream:
                        chunks.append(chunk)
                    completion = stream.completion
        except BackendError as raised:
            error = raised
        return Outcome(completion, error, tuple(chunks), monotonic() - begun)

    def cooling(self, backend: str = "primary", **options: Any) -> bool:
        """Whether the router leaves a backend alone for now."""
        places = {place.backend.id: place for place in self.router.order("?", **options)}
        return places[backend].position is None and "cooling" in places[backend].reason

    def pause_of(self, backend: str = "primary") -> float:
        """How many seconds a backend that is cooling down is left alone."""
        with pytest.raises(BackendError) as caught:
            self.router.generate("?", backend=backend)
        return caught.value.retry_after or 0.0

    def check_fallback(self, outcome: Outcome, tried: int, error: str) -> None:
        """The primary was tried so often and failed so; the spare answered, once, all within the deadline."""
        assert outcome.text == SPARE, outcome
        failed = [("primary", "failed", error)] * tried
        assert outcome.attempts == [*failed, ("spare", "answered", None)]
        assert len(self.primary.asked) == tried
        assert len(self.spare.asked) == 1
        assert outcome.seconds < self.timeout
        assert outcome.completion
        assert outcome.completion.backend == "spare"
        assert outcome.completion.model == "model-of-spare"
        assert outcome.completion.usage == Usage(19, 8, 4, 2)

    def check_next_call(self, way: str) -> None:
        """The next call works, whoever answers it."""
        self.primary.play(faults.well("And again."))
        again = self.ask(way)
        assert again.text in (SPARE, "And again."), again
        assert len(again.attempts) == 1


@pytest.fixture
def stage(no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    """A function that sets the stage: `stage(script of the primary, **options of Router)`.

    `limits` are options of the primary's `Backend` alone: a short one says nothing about the spare.
    """
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with ExitStack() as stack:

        def setting(
            script: Any, *, primary_url: str | None = None, api: Literal["chat", "responses"] = "chat", **options: Any
        ) -> Stage:
            primary = stack.enter_context(FaultServer(script))
            spare = stack.enter_context(FaultServer(faults.well(SPARE)))
            windows, limits = options.pop("windows", {}), {"primary": options.pop("limits", {})}

            def backend(name: str, url: str, priority: int) -> Backend:
                provider = OpenAI(
                    base_url=url,
                    api_key=KEY,
                    model=f"model-of-{name}",
                    api=api,
                    context_window=windows.get(name),
                )
                return Backend(provider, id=name, priority=priority, **limits.get(name, {}))

            backends = [backend("primary", primary_url or primary.url, 10)]
            if not options.pop("alone", False):
                backends.append(backend("spare", spare.url, 20))
            timeout = options.setdefault("timeout", 10.0)
            router = stack.enter_context(Router(backends, **options))
            return Stage(router, primary, spare, timeout)

        yield setting
