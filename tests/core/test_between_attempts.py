"""What one attempt was, took or was told is nothing to the next one (FAULTS row 38)."""

import copy
import pickle
from typing import Any

import pytest
from pointsman import (
    Backend,
    BackendError,
    Chunk,
    Message,
    ModelNotFoundError,
    RateLimitError,
    Request,
    Router,
    State,
    UnavailableError,
    Usage,
)
from pointsman.testing import Clock, Scripted


def down() -> UnavailableError:
    return UnavailableError("down", retry_same=False)


END = Chunk(finish_reason="stop")


def continues(*pieces: Chunk | BackendError) -> Scripted:
    """A double that can go on with an answer."""
    return Scripted([pieces], capabilities=frozenset({"continuation"}))


def test_a_restart_after_a_continuation_asks_for_the_whole_answer() -> None:
    """What the caller's backend is to answer anew is the question, without the text that broke."""
    a = continues(Chunk("One, "), down())
    b = continues(Chunk("two, "), down())
    c = continues(Chunk("One, two, three"), END)
    backends = [Backend(a, id="a", on_break="continue"), Backend(b, id="b", on_break="restart"), Backend(c, id="c")]
    with Router(backends) as router, router.stream("count", max_tokens=50) as stream:
        assert [chunk.text for chunk in stream if chunk.text] == ["One, ", "two, ", "One, two, three"]
    assert [message.role for message in b.requests[0].messages] == ["user", "assistant"]
    assert c.requests[0].messages == (Message("user", "count"),)
    assert (c.requests[0].max_tokens, stream.completion.text) == (50, "One, two, three")


def test_a_continued_answer_has_the_facts_of_who_ended_it() -> None:
    """Model, usage and state of the part that broke are of its attempt only: nothing is counted twice."""
    begun = Chunk("One, ", model="m-of-a", usage=Usage(100, 50), state=State("of-a", 1), request_id="r-of-a")
    a, b, c = continues(begun, down()), continues(Chunk("two, "), down()), continues(Chunk("three"), END)
    with Router({"a": a, "b": b, "c": c}, on_break="continue") as router, router.stream("count") as stream:
        list(stream)
    whole = stream.completion
    assert (whole.text, whole.backend) == ("One, two, three", "c")
    assert [attempt.usage for attempt in whole.attempts] == [Usage(100, 50), None, None]
    assert (whole.usage, whole.state, whole.request_id) == (None, None, None)
    assert whole.model != "m-of-a"


def test_who_broke_and_answers_anew_is_asked_the_model_that_was_named() -> None:
    """The model of the request counts for the first backend, also when it is asked a second time."""
    a = Scripted([[Chunk("Hal"), UnavailableError("cut")], [Chunk("Hello"), END]])
    with Router([Backend(a, id="a", model="own")], on_break="restart") as router:
        list(router.stream("hi", model="named"))
    assert [request.model for request in a.requests] == ["named", "named"]


def test_a_backend_in_a_hard_cooldown_of_its_own_model_is_not_asked() -> None:
    """The model that the request names is the first one's: the pause of the model that would be asked counts."""
    b = Scripted([RateLimitError("come back in an hour", retry_after=3600.0)])
    a = Scripted([down() for _ in range(9)])
    backends = [Backend(a, id="a", model="a-own"), Backend(b, id="b", model="b-own")]
    clock = Clock()
    with Router(backends, clock=clock, max_retries=0) as router:
        for _ in range(2):
            with pytest.raises(BackendError):
                router.generate("hi", model="a-special")
            clock.advance(6)  # a may be asked again, and is the first
    assert b.calls == 1


def test_a_backend_that_asked_for_a_pause_meanwhile_is_not_asked() -> None:
    """What another call has learnt since this one began counts."""
    b = Scripted([RateLimitError("come back in an hour", retry_after=3600.0)])

    def fail(request: Request) -> Any:
        if a.calls == 1:
            with pytest.raises(RateLimitError):
                router.generate("hi", backend="b", max_retries=0)
        raise down()

    a = Scripted([fail])
    with Router({"a": a, "b": b}, clock=Clock(), max_retries=0) as router, pytest.raises(BackendError):
        router.generate("hi")
    assert b.calls == 1


def test_a_backend_may_be_down_for_days() -> None:
    """However often a circuit has opened, the next failure is one, and the next backend answers."""
    clock, a = Clock(), Scripted([down() for _ in range(1100)])
    with Router({"a": a, "b": Scripted("b")}, clock=clock, max_retries=0) as router:
        for _ in range(1100):
            assert router.generate("hi").backend == "b"
            clock.advance(61.0)
    assert a.calls == 1100


class Peculiar(UnavailableError):
    """An error of a plugin that is made of other things than a message."""

    def __init__(self, status: int, body: dict[str, str]) -> None:
        super().__init__(f"HTTP {status}: {body['text']}", status=status, retry_same=False)


def test_errors_of_plugins_are_made_as_they_like() -> None:
    """A subclass with arguments of its own is copied and pickled as any, and the next backend is asked."""

    def fail(request: Request) -> Any:
        raise Peculiar(503, {"text": "down"})

    with Router({"a": Scripted([fail]), "b": Scripted("b")}, max_retries=0) as router:
        assert router.generate("hi").backend == "b"
    error = Peculiar(503, {"text": "down"})
    for made in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(made), str(made), made.status) == (Peculiar, "HTTP 503: down", 503)


def test_an_hour_is_not_slept_out_while_another_may_answer() -> None:
    """Without any limit of time, too (FAULTS row 2)."""
    clock = Clock()
    a = Scripted([RateLimitError("come back in an hour", retry_after=3600.0), "a"])
    with Router({"a": a, "b": Scripted("b")}, clock=clock, timeout=None) as router:
        assert router.generate("hi").backend == "b"
    assert sum(clock.waits) < 60


def test_a_wait_of_ages_is_no_error_of_ours() -> None:
    """A hint that no clock can wait out ends the call as any other hint does."""
    a = Scripted([RateLimitError("later", retry_after=1e12)])
    with Router([a], timeout=None) as router, pytest.raises(RateLimitError, match="later"):
        router.generate("hi")


def test_names_of_models_from_outside_fill_no_memory() -> None:
    """Who lets the public choose the model keeps nothing for each name for ever."""
    a = Scripted([ModelNotFoundError("no such model")] * 3000)
    with Router([Backend(a, id="a")], clock=Clock(), max_retries=0) as router:
        for number in range(3000):
            with pytest.raises(ModelNotFoundError):
                router.generate("hi", model=f"m{number}")
        assert len(router._breaker._circuits) <= 1024


def test_a_model_that_is_not_there_is_remembered_but_not_without_end() -> None:
    """Nor does the set of names grow that a backend lacks and answers with its own model."""

    def choosy(request: Request) -> str:
        if request.model != "own":
            raise ModelNotFoundError("no such model")
        return "ok"

    a = Backend(Scripted(choosy), id="a", model="own")
    with Router([a, Backend(Scripted("b"), id="b")]) as router:
        for number in range(1500):
            assert router.generate("hi", model=f"m{number}").text == "ok"
    assert len(a.lacks) <= 1000
