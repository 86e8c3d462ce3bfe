"""The hook `receipt`: who keeps records of answers is a middleware, and what it says reaches the caller."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from attrs import define, field
from pointsman import BackendError, Completion, Health, Request, Router, UnavailableError, hookimpl
from pointsman.testing import Scripted


@define
class Notes:
    """Numbers the answers."""

    fails: BaseException | None = None
    fails_to_close: Exception | None = None
    seen: list[Completion] = field(factory=list)

    @hookimpl
    def receipt(self, request: Request, completion: Completion) -> str:
        self.seen.append(completion)
        if self.fails is not None:
            raise self.fails
        return f"{len(self.seen)} {request.prompt}"

    @hookimpl
    def close(self) -> None:
        if self.fails_to_close is not None:
            raise self.fails_to_close

    def health(self) -> Health:
        return Health.degraded("it is tired")


@define
class Closes:
    """Knows whether it was closed."""

    closed: bool = False

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("hello")

    @hookimpl
    def close(self) -> None:
        self.closed = True
        raise UnavailableError("a provider that cannot close has nothing to tell")


@pytest.mark.parametrize("how", ["generate", "agenerate", "stream", "batch"])
def test_the_receipt_is_in_the_answer(how: str) -> None:
    """However it was asked for; the record is made from the whole answer, with all that the router knows."""
    notes = Notes()
    with Router([Scripted("hello")], middleware=[notes]) as router:
        asked: dict[str, Any] = {
            "generate": lambda: router.generate("hi"),
            "agenerate": lambda: asyncio.run(router.agenerate("hi")),
            "stream": lambda: whole(router.stream("hi")),
            "batch": lambda: router.batch(["hi"])[0],
        }
        assert asked[how]().receipt == "1 hi"
    (seen,) = notes.seen
    assert (seen.text, seen.backend, len(seen.attempts), seen.receipt) == ("hello", "scripted", 1, None)


def whole(stream: Any) -> Completion:
    list(stream)
    completion: Completion = stream.completion
    return completion


def test_an_answer_is_given_without_a_receipt_too() -> None:
    """What the hook raises is a warning of the answer, without any key."""
    with Router([Scripted("hello")], middleware=[Notes(fails=ValueError("no sk-proj-abcdefghijklmnop"))]) as router:
        answer = router.generate("hi")
    assert (answer.text, answer.receipt) == ("hello", None)
    assert answer.warnings == ("there is no receipt of this answer: no ***",)


def test_what_is_lost_is_told_when_all_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A `BackendError` of a middleware that closes is raised, once every plugin is closed; all else is logged."""
    provider = Closes()
    router = Router([provider], middleware=[Notes(fails_to_close=UnavailableError("3 records are lost"))])
    with pytest.raises(BackendError, match="3 records are lost"):
        router.close()
    assert provider.closed
    router.close()  # repeating it changes nothing
    with caplog.at_level(logging.WARNING, "pointsman"):
        Router([Closes()], middleware=[Notes(fails_to_close=ValueError("odd"))]).close()
    assert "odd" in caplog.text


def test_a_middleware_may_tell_how_it_is() -> None:
    """It stands in `Router.health` by its name, beside the backends."""
    with Router([Scripted("hello")], middleware=[Notes()]) as router:
        found = router.health()
    assert list(found) == ["Notes", "scripted"]
    assert found["Notes"] == Health.degraded("it is tired")
