"""A stage for faults: a router whose primary fails as told, and a spare that is well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import pytest
from attrs import frozen
from pointsman import BackendError, Usage
from pointsman.testing import FaultServer, faults, stage
from pointsman_openai import OpenAI

SPARE = "Here speaks the spare."


@frozen
class Outcome(stage.Outcome):
    """What the caller of one request got, in the words of these tests."""

    @property
    def text(self) -> str:
        """The text that the caller saw: the pieces of a stream joined, which must be the answer's text."""
        shown = super().text
        assert self.completion is None or shown == self.completion.text
        return shown

    @property
    def attempts(self) -> list[tuple[str, str, str | None]]:  # type: ignore[override]  # shorter
        """Backend, outcome and class of error of each attempt."""
        return [(attempt.backend, attempt.outcome, attempt.error) for attempt in super().attempts]


class Stage(stage.Stage):
    """One router over real `openai` providers and fault servers."""

    def __init__(self, *args: Any, timeout: float, **options: Any) -> None:
        super().__init__(*args, timeout=timeout, **options)
        self.timeout = timeout

    @property
    def primary(self) -> FaultServer:
        """The server of the backend that is asked first."""
        return self.servers["primary"]

    @property
    def spare(self) -> FaultServer:
        """The server of the one that is asked then."""
        return self.servers["spare"]

    def ask(self, way: str, prompt: Any = "Name three rivers.", **options: Any) -> Outcome:
        """Ask for a whole answer ("plain") or read a stream to its end ("streamed")."""
        got = super().ask(way, prompt, **options)
        return Outcome(got.completion, got.error, got.chunks, got.seconds)

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


@pytest.fixture(name="stage")
def _stage(no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    """A function that sets the stage: `stage(script of the primary, **options of Router)`.

    `limits` are options of the primary's `Backend` alone: a short one says nothing about the spare.
    """
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with ExitStack() as stack:

        def setting(
            script: Any,
            *,
            primary_url: str | None = None,
            api: Literal["chat", "responses"] = "chat",
            alone: bool = False,
            windows: dict[str, int] | None = None,
            third: Any = None,
            limits: dict[str, Any] | None = None,
            can: frozenset[Any] = frozenset({"tools", "schema", "images"}),
            **options: Any,
        ) -> Stage:
            def provider(**given: Any) -> OpenAI:
                window = (windows or {}).get(given["model"].removeprefix("model-of-"))
                return OpenAI(api=api, context_window=window, capabilities=can, **given)

            scripts = {"primary": script, "spare": faults.well(SPARE), **({"third": third} if third else {})}
            settings = {"primary": limits or {}, "spare": {"enabled": not alone}}
            urls = {"primary": primary_url} if primary_url else {}
            options = {"timeout": 10.0, **options}
            return stack.enter_context(Stage(scripts, provider, urls=urls, settings=settings, **options))

        yield setting
