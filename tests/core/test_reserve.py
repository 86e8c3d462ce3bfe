"""Rules of the reserve: backends that are not well, as far as we know, are asked before the caller is sent away."""

from collections.abc import Iterator

import pytest
from attrs import define, field, frozen
from pointsman import BackendError, BackendTimeout, Chunk, Completion, Request, Router, UnavailableError, hookimpl
from pointsman.testing import Silent


@define
class Scripted:
    """Answers, or raises, in turn; the last one for ever."""

    script: list[str | BackendError]
    asked: int = field(default=0, init=False)

    @hookimpl
    def generate(self, request: Request) -> Completion:
        step = self.script[min(self.asked, len(self.script) - 1)]
        self.asked += 1
        if isinstance(step, BackendError):
            raise step
        return Completion(step)


@frozen
class Rude:
    """Tells the end of its answer, and then breaks the connection."""

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        yield Chunk("whole", finish_reason="stop")
        raise UnavailableError("reset")


def down() -> BackendError:
    return UnavailableError("down for a moment", retry_same=False)


def test_a_backend_in_a_short_cool_down_is_asked_when_all_others_fail() -> None:
    """While one backend can answer the caller gets an answer, even if it failed a moment ago."""
    main = Scripted([down(), "main is back"])
    spare = Scripted(["spare", down()])
    router = Router({"main": main, "spare": spare})
    assert router.generate("first").text == "spare"
    second = router.generate("second")
    assert second.text == "main is back"
    assert [(a.backend, a.outcome) for a in second.attempts] == [("spare", "failed"), ("main", "answered")]


def test_the_reserve_is_not_asked_while_others_answer() -> None:
    """A cool-down spares a backend as long as another one serves."""
    main, spare = Scripted([down(), "main"]), Scripted(["spare"])
    router = Router({"main": main, "spare": spare})
    assert [router.generate("?").backend for _ in range(3)] == ["spare", "spare", "spare"]
    assert main.asked == 1


def test_a_hard_cool_down_is_no_reserve() -> None:
    """Who said when to come back is not asked before."""
    main, spare = Scripted([UnavailableError("busy", retry_after=600.0), "main"]), Scripted(["spare", down()])
    router = Router({"main": main, "spare": spare})
    router.generate("first")
    with pytest.raises(UnavailableError) as caught:
        router.generate("second")
    assert caught.value.backend == "spare"
    assert main.asked == 1


def test_a_time_too_short_says_nothing_about_the_backend() -> None:
    """A caller who waits for a moment only sends nobody else's calls elsewhere."""
    router = Router({"main": Silent(), "spare": Scripted(["spare"])})
    with pytest.raises(BackendTimeout):
        router.generate("?", backend="main", timeout=0.05)
    assert [place.position for place in router.order("?")] == [1, 2]


def test_what_breaks_after_the_end_was_told_is_not_the_answer() -> None:
    """A stream whose finish reason has come is whole, however its connection ends."""
    stream = Router([Rude()]).stream("?")
    assert "".join(chunk.text for chunk in stream) == "whole"
    assert stream.completion.text == "whole"
