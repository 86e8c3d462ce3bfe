"""When a backend is left alone, for how long, and who finds out that it is back."""

import threading
from contextlib import suppress
from math import ceil

import pytest
from pointsman import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    ContentFilterError,
    Health,
    InvalidRequestError,
    QuotaError,
    RateLimitError,
    Request,
    Router,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import Clock, Scripted

DOWN = UnavailableError("down", retry_same=False)


def left(router: Router, backend: str) -> float:
    """Return the seconds for which a backend is still left alone."""
    pause = router._breaker.pause(backend, "scripted-model")
    return pause.left if pause else 0.0


def test_a_guess_doubles_with_every_failed_probe_up_to_a_minute() -> None:
    """A backend that stays down is asked ever more seldom, and after its first success as often as before."""
    clock = Clock()
    a = Scripted([*[DOWN] * 6, "back", DOWN])
    rests = []
    with Router({"a": a, "b": Scripted("b")}, clock=clock, max_retries=0) as router:
        for _ in range(6):
            router.generate("hi")
            rests.append(ceil(left(router, "a")))
            clock.advance(rests[-1] + 0.1)
        assert router.generate("hi").backend == "a"
        router.generate("hi")
        rests.append(ceil(left(router, "a")))
    assert rests == [5, 10, 20, 40, 60, 60, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_probes_and_the_others_go_elsewhere(stream: bool) -> None:
    """When the time is up exactly one of many calls finds out whether the backend is back (row 31)."""
    clock, asked, go_on = Clock(), threading.Event(), threading.Event()

    def slow(request: Request) -> str:
        asked.set()
        assert go_on.wait(10)
        return "a"

    a = Scripted([DOWN, slow, "a"])
    with Router({"a": a, "b": Scripted("b")}, clock=clock, max_retries=0) as router:

        def call() -> str | None:
            if not stream:
                return router.generate("hi").backend
            with router.stream("hi") as chunks:
                list(chunks)
                return chunks.completion.backend

        assert call() == "b"
        clock.advance(6)
        probe = threading.Thread(target=call)
        probe.start()
        assert asked.wait(10)
        assert [call() for _ in range(5)] == ["b"] * 5
        places = {place.backend.id: place.reason for place in router.order("hi")}
        assert "one call is trying it: down" in places["a"]
        assert router.health()["a"].status == "degraded"
        go_on.set()
        probe.join()
        assert call() == "a"
        assert a.calls == 3


def test_with_nobody_else_the_others_wait_for_the_probe() -> None:
    """Calls that have no other backend are no herd and are not refused: they wait until the probe shows how it is."""
    clock, asked, go_on = Clock(), threading.Event(), threading.Event()

    def slow(request: Request) -> str:
        asked.set()
        assert go_on.wait(10)
        return "back"

    a = Scripted([DOWN, slow, "a"])
    with Router({"a": a}, clock=clock, max_retries=0) as router:
        with pytest.raises(UnavailableError):
            router.generate("hi")
        clock.advance(6)
        texts: list[str] = []
        threads = [threading.Thread(target=lambda: texts.append(router.generate("hi").text)) for _ in range(6)]
        for thread in threads:
            thread.start()
            assert asked.wait(10)
        assert a.calls == 2
        go_on.set()
        for thread in threads:
            thread.join()
    assert sorted(texts) == ["a"] * 5 + ["back"]


def test_a_cancelled_probe_makes_room_for_another() -> None:
    """A probe whose caller has gone says nothing about the backend, and blocks nobody."""
    clock, asked = Clock(), threading.Event()

    def hang(request: Request) -> str:
        gone = threading.Event()
        request.scope.on_cancel(gone.set)
        asked.set()
        assert gone.wait(10)
        raise UnavailableError("cancelled")

    a = Scripted([DOWN, hang, "a"])
    with Router({"a": a, "b": Scripted("b")}, clock=clock, max_retries=0) as router:
        router.generate("hi")
        clock.advance(6)
        stream = router.stream("hi")

        def read() -> None:
            with pytest.raises(BackendError):
                next(stream)

        reader = threading.Thread(target=read)
        reader.start()
        assert asked.wait(10)
        stream.close()
        reader.join()
        assert router.generate("hi").backend == "a"


def test_three_unusable_answers_in_a_row_open_the_circuit() -> None:
    """One bad answer is an accident; a backend that gives nothing else is left alone."""
    a = Scripted("")
    with Router({"a": a, "b": Scripted("b")}, clock=Clock(), max_retries=0) as router:
        rests = []
        for _ in range(4):
            assert router.generate("hi").backend == "b"
            rests.append(ceil(left(router, "a")))
    assert rests == [0, 0, 5, 5]
    assert a.calls == 3


def test_half_of_many_failing_opens_the_circuit() -> None:
    """A backend that fails every other time is left alone once ten outcomes within a minute have shown it."""
    a = Scripted([UnusableAnswer("no", retry_same=False), "a"] * 10)
    with Router({"a": a, "b": Scripted("b")}, clock=Clock(), max_retries=0) as router:
        rests = []
        for _ in range(11):
            router.generate("hi")
            rests.append(left(router, "a") > 0)
    assert rests == [False] * 10 + [True]


def test_old_failures_are_forgotten() -> None:
    """What happened more than a minute ago does not count as the rate of failures."""
    clock = Clock()
    a = Scripted([UnusableAnswer("no", retry_same=False), "a"] * 20)
    with Router({"a": a, "b": Scripted("b")}, clock=clock, max_retries=0) as router:
        for _ in range(30):
            router.generate("hi")
            clock.advance(13)
        assert left(router, "a") == 0
        assert a.calls == 30


@pytest.mark.parametrize(
    "error", [InvalidRequestError("your own"), InvalidRequestError("yours", try_next=True), ContentFilterError("no")]
)
def test_what_is_the_callers_own_does_not_count(error: BackendError) -> None:
    """Wrong requests and refusals, however many, say nothing about the backend (row 34)."""
    a = Scripted([error] * 20)
    with Router({"a": a, "b": Scripted("b")}, clock=Clock(), max_retries=0, on_refusal="next") as router:
        for _ in range(20):
            with suppress(InvalidRequestError):
                router.generate("hi")
        assert router._breaker.silent
        assert a.calls == 20


def test_a_model_that_fails_leaves_the_others_alone() -> None:
    """The circuit is that of a backend's model: another model of the same backend is asked on."""
    clock = Clock()
    a = Scripted([RateLimitError("slow down", retry_after=500), "other"])
    with Router({"a": a, "b": Scripted("b")}, clock=clock) as router:
        assert router.generate("hi").backend == "b"
        assert router.generate("hi").backend == "b"
        assert router.generate("hi", model="other-model").backend == "a"


def test_a_refused_key_stops_every_model() -> None:
    """A key, or money, is the whole backend's: its other models are not asked either."""
    a = Scripted([AuthenticationError("wrong key"), "never"])
    with Router({"a": a, "b": Scripted("b")}, clock=Clock()) as router:
        router.generate("hi")
        assert router.generate("hi", model="other-model").backend == "b"
        assert router.health()["a"].status == "unavailable"
        assert "wrong key" in router.health()["a"].reason
        assert a.calls == 1


def test_a_stream_that_breaks_counts() -> None:
    """Streams feed the circuit as whole answers do."""
    from pointsman import Chunk, IncompleteAnswer

    a = Scripted([[Chunk("half"), UnavailableError("cut")]] * 2)
    with Router({"a": a, "b": Scripted("b")}, clock=Clock(), max_retries=0) as router:
        for _ in range(3):
            with pytest.raises(IncompleteAnswer):
                list(router.stream("hi", backend="a"))
        assert list(router.stream("hi"))
        assert router.generate("hi").backend == "b"
        assert left(router, "a") > 0


def test_every_backend_hard_paused_names_the_earliest_time() -> None:
    """Where nobody may be asked the error tells when the first may be (row 33)."""
    clock = Clock()
    pair = {name: Scripted(RateLimitError("full", retry_after=rest)) for name, rest in (("a", 900), ("b", 300))}
    with Router(pair, clock=clock) as router:
        for _ in range(2):
            with pytest.raises(AllBackendsFailed) as caught:
                router.generate("hi")
        assert 290 < (caught.value.retry_after or 0) <= 300
        assert [provider.calls for provider in pair.values()] == [1, 1]
        clock.advance(301)
        with pytest.raises(RateLimitError):
            router.generate("hi")
        assert [provider.calls for provider in pair.values()] == [1, 2]


def test_the_log_says_when_a_circuit_opens_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    """A person who reads the log sees each change of state once."""
    clock = Clock()
    caplog.set_level("INFO", "pointsman")
    with Router({"a": Scripted([DOWN, "a"]), "b": Scripted("b")}, clock=clock, max_retries=0) as router:
        router.generate("hi")
        clock.advance(6)
        router.generate("hi")
    lines = [record.getMessage() for record in caplog.records if "circuit" in record.getMessage()]
    assert [line.split(" backend=")[0] for line in lines] == ["event='circuit opened'", "event='circuit closed'"]


def test_a_circuit_is_told_also_of_a_backend_that_is_unwell() -> None:
    """Health, order and the error say until when a backend is left alone, whatever a look at its health has found."""
    a = Scripted(QuotaError("no money"), healthy=Health("unavailable", "its page says so"))
    b = Scripted(RateLimitError("slow", retry_after=40.0))
    with Router({"a": a, "b": b}, clock=Clock(), timeout=30) as router:
        with pytest.raises(AllBackendsFailed):
            router.generate("hi")
        told = router.health()
        assert (told["a"].status, told["a"].reason) == ("unavailable", "its page says so; cooling down for 3600 s more")
        assert told["b"].reason == "cooling down for 40 s more: slow"
        reasons = {place.backend.id: place.reason for place in router.order()}
        assert reasons["a"] == "cooling down for 3600 s more: no money"
        with pytest.raises(AllBackendsFailed) as caught:
            router.generate("hi")
        assert [type(error) for error in caught.value.exceptions] == [QuotaError, RateLimitError]
        assert "a: cooling down for 3600 s more: no money; b: cooling down for 40 s more: slow" in str(caught.value)
        with pytest.raises(QuotaError, match="a: cooling down for 3600 s more: no money"):
            router.generate("hi", backend="a")
