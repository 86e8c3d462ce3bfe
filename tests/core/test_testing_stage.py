"""The stage: a router over fault servers."""

from typing import Any

import pytest
from pointsman import ConfigError, RateLimitError, UnavailableError
from pointsman.testing import Clock, Fault, Seen, Stage, faults
from pointsman.testing.matrix._provider import Plain

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize("way", ["plain", "streamed"])
def test_an_answer(way: str) -> None:
    """The outcome has the text, the attempts and the completion; the servers were asked as it says."""
    with Stage({"main": faults.status(503), "spare": faults.well("spare")}, Plain, clock=Clock()) as on:
        got = on.ask(way)
        assert (got.text, got.error) == ("spare", None)
        assert got.completion
        assert got.completion.backend == "spare"
        assert [attempt.outcome for attempt in got.attempts] == ["failed", "failed", "answered"]
        assert on.asked() == {"main": 2, "spare": 1}
        assert (on.circuit("main"), on.circuit("spare")) == ("open for 5 s", "closed")
        assert on.servers["main"].asked[0].prompt == "Name three rivers."
        assert bool(got.chunks) == (way == "streamed")


def test_an_error() -> None:
    """What was shown before a stream broke is in the outcome too."""
    with Stage({"main": faults.cut_after(3)}, Plain) as on:
        got = on.ask("streamed", "Tell me.")
        assert (got.completion, got.text) == (None, "one two three ")
        assert [attempt.error for attempt in got.attempts] == ["IncompleteAnswer"]


def test_a_restart() -> None:
    """The text is that of the answer which was begun last."""
    with Stage({"main": faults.cut_after(3), "spare": faults.well("spare")}, Plain, on_break="restart") as on:
        assert on.ask("streamed").text == "spare"


def test_settings_and_urls() -> None:
    """A backend may have settings of its own, and be sent elsewhere."""
    scripts: dict[str, Any] = {"main": faults.well(), "spare": faults.rate_limited()}
    with faults.nobody_listens() as url:
        settings = {"spare": {"max_retries": 0}}
        with Stage(scripts, Plain, urls={"main": url}, settings=settings, clock=Clock()) as on:
            got = on.ask("plain")
            assert [type(error) for error in getattr(got.error, "exceptions", ())] == [UnavailableError, RateLimitError]
            assert on.asked() == {"main": 0, "spare": 1}


def test_one_clock() -> None:
    """Router and servers go by the same clock, so that all of it can be put forward at once."""
    clock = Clock()
    with Stage({"main": faults.flapping(60, up=faults.well("up"))}, Plain, clock=clock, max_retries=0) as on:
        assert isinstance(on.ask("plain").error, UnavailableError)
        clock.advance(61)
        assert on.ask("plain").text == "up"


def test_half_open() -> None:
    """While a call tries a backend that has cooled down, its circuit is half open."""
    clock = Clock()
    with Stage({"main": faults.status(503)}, Plain, clock=clock, max_retries=0) as on:
        on.ask("plain")
        clock.advance(6)
        found: list[str] = []

        def script(seen: Seen) -> Fault:
            found.append(on.circuit("main"))
            return faults.well()

        on.servers["main"].play(script)
        on.ask("plain")
        assert found == ["half open"]


def test_what_cannot_be_made_leaves_nothing() -> None:
    """If the router refuses its settings, the servers end."""
    with pytest.raises(ConfigError):
        Stage({"main": faults.well()}, Plain, max_retries=-1)
