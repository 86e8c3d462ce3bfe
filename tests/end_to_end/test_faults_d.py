"""What the router keeps between calls (section D), through `Router` with the real `openai` provider.

No test sleeps: router and servers go by one clock, which the tests advance. Row 37 is in the tests of batches.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import pytest
from attrs import define
from pointsman import Request, Usage, errors, hookimpl
from pointsman.testing import Clock, Fault, faults
from pointsman.testing.faults import Play

Staged = Callable[..., Any]
both_ways = pytest.mark.parametrize("way", ["plain", "streamed"])

PRIMARY, SPARE = "Here speaks the primary.", "Here speaks the spare."
WELL = faults.well(PRIMARY)
FAILED = ("primary", "failed", "UnavailableError")
PRICES = {"input": 1.0, "output": 2.0, "cached": 0.5}
COST = pytest.approx((15 * 1.0 + 4 * 0.5 + 8 * 2.0) / 1e6)


def eventually(found: Callable[[], bool]) -> None:
    """Wait until it is so, a second thread being at work on it."""
    end = monotonic() + 20
    while not found():
        assert monotonic() < end, "it never was"
        sleep(0.005)


class Gate:
    """A fault that waits until the test lets it go on, and then plays another one."""

    def __init__(self, fault: Fault) -> None:
        self.open = threading.Event()
        self.fault = Fault("gate", self.play)
        self.then = fault

    async def play(self, x: Any) -> None:
        """Wait, then play."""
        while not self.open.is_set():
            await x.sleep(0.005)
        await self.then.play(x)


class TestRow31:
    """A backend that fails for a minute, then works."""

    @both_ways
    def test_opens_and_closes(self, stage: Staged, way: str) -> None:
        """The circuit opens with the failure, stays so for its time, and a success when it is over closes it."""
        clock = Clock()
        on = stage(faults.flapping(60, up=WELL), clock=clock, max_retries=0)
        assert on.ask(way).attempts == [FAILED, ("spare", "answered", None)]
        assert on.circuit("primary") == "open for 5 s"
        for _ in range(3):
            assert on.ask(way).attempts == [("spare", "answered", None)]
        assert len(on.primary.asked) == 1
        clock.advance(61)
        assert on.ask(way).text == PRIMARY
        assert on.circuit("primary") == "closed"
        assert on.ask(way).text == PRIMARY
        assert len(on.primary.asked) == 3
        assert not clock.waits

    @both_ways
    def test_each_failed_probe_doubles_the_time(self, stage: Staged, way: str) -> None:
        """5, 10, 20, 40 and then 60 seconds, with one request each; a whole answer sets that back."""
        clock = Clock()
        on = stage(faults.flapping(500, up=WELL), clock=clock, max_retries=0)
        for number, seconds in enumerate((5, 10, 20, 40, 60, 60), 1):
            assert on.ask(way).text == SPARE
            assert on.circuit("primary") == f"open for {seconds} s"
            assert on.ask(way).text == SPARE
            assert len(on.primary.asked) == number
            clock.advance(seconds + 0.5)
        clock.advance(500)
        assert on.ask(way).text == PRIMARY
        on.primary.play(faults.status(503))
        assert on.ask(way).text == SPARE
        assert on.circuit("primary") == "open for 5 s"

    @both_ways
    def test_one_probe_and_no_herd(self, stage: Staged, way: str) -> None:
        """Of many that come when the time is up, one asks the backend; the others are served elsewhere meanwhile."""
        clock, gate = Clock(), Gate(WELL)
        on = stage([faults.status(503), gate.fault, WELL], clock=clock, max_retries=0)
        on.ask(way)
        clock.advance(6)
        with ThreadPoolExecutor(16) as threads:
            calls = [threads.submit(on.ask, way) for _ in range(16)]
            on.primary.wait_for(2)
            on.spare.wait_for(1 + 15)
            assert on.circuit("primary") == "half open"
            gate.open.set()
            texts = [call.result(30).text for call in calls]
        assert sorted(texts) == sorted([PRIMARY] + [SPARE] * 15)
        assert len(on.primary.asked) == 2
        assert on.circuit("primary") == "closed"
        assert on.ask(way).text == PRIMARY

    @both_ways
    def test_without_a_spare_the_others_wait_for_the_probe(self, stage: Staged, way: str) -> None:
        """Nobody is turned away, and nobody asks before the probe has shown how things are."""
        clock, gate = Clock(), Gate(WELL)
        on = stage([faults.status(503), gate.fault, WELL], clock=clock, max_retries=0, alone=True, timeout=60.0)
        assert isinstance(on.ask(way).error, errors.UnavailableError)
        clock.advance(6)
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(on.ask, way) for _ in range(8)]
            on.primary.wait_for(2)
            assert len(on.primary.asked) == 2
            gate.open.set()
            assert {call.result(30).text for call in calls} == {PRIMARY}
        assert len(on.primary.asked) == 1 + 8

    @both_ways
    def test_a_probe_that_is_cancelled_makes_room(self, stage: Staged, way: str) -> None:
        """The next call is the probe then."""
        clock = Clock()
        on = stage([faults.status(503), faults.silent(), WELL], clock=clock, max_retries=0)
        on.ask(way)
        clock.advance(6)

        async def cancelled() -> None:
            stream = on.router.astream("?")
            task = asyncio.ensure_future(on.router.agenerate("?") if way == "plain" else anext(stream))
            await asyncio.to_thread(on.primary.wait_for, 2)
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(cancelled())
        assert on.primary.asked[1].wait_closed()
        eventually(lambda: on.circuit("primary") != "half open")  # the thread of the call may still be on its way out
        assert on.ask(way).text == PRIMARY
        assert on.circuit("primary") == "closed"

    def test_interrupted(self, stage: Staged) -> None:
        """Ctrl-C in a probe makes room, too."""

        @define(eq=False)
        class Interrupts:
            """A middleware in which the user gives up, once."""

            times: int = 0

            @hookimpl(wrapper=True)
            def generate(self, request: Request) -> Any:
                self.times += 1
                if self.times == 3:
                    raise KeyboardInterrupt
                return (yield)

        clock = Clock()
        on = stage([faults.status(503), WELL], clock=clock, max_retries=0, middleware=[Interrupts()])
        on.ask("plain")
        clock.advance(6)
        with pytest.raises(KeyboardInterrupt):
            on.router.generate("?")
        assert on.ask("plain", timeout=5.0).text == PRIMARY

    @both_ways
    def test_each_model_has_its_own(self, stage: Staged, way: str) -> None:
        """A model that is not there says nothing about the backend's other models."""
        on = stage(faults.unknown_model(), clock=Clock(), max_retries=0)
        assert on.ask(way).text == SPARE
        assert on.circuit("primary").startswith("open for 3600")
        assert on.circuit("primary", model="another") == "closed"

    @both_ways
    def test_patience_with_useless_answers(self, stage: Staged, way: str) -> None:
        """One useless answer opens nothing; three calls in a row that got none do."""
        on = stage(faults.whitespace(), clock=Clock(), max_retries=0)
        for state in ("closed", "closed", "open for 5 s"):
            assert on.ask(way).text == SPARE
            assert on.circuit("primary") == state

    @both_ways
    def test_a_rate_of_failures(self, stage: Staged, way: str) -> None:
        """Half of ten within a minute opens the circuit, also where none are three in a row."""
        on = stage([fault for _ in range(6) for fault in (faults.whitespace(), WELL)], clock=Clock(), max_retries=0)
        found = [on.ask(way).text for _ in range(9)]
        assert found == [SPARE, PRIMARY] * 4 + [SPARE]
        assert on.circuit("primary") == "closed"
        on.primary.play(faults.whitespace())
        assert on.ask(way).text == SPARE
        assert on.circuit("primary") == "open for 5 s"


class TestRow32:
    """Open again while open: extended, never shortened."""

    @both_ways
    @pytest.mark.parametrize("order", [(3, 30, 60), (60, 30, 3), (30, 3, 60), (30, 60, 3)])
    def test_the_longest_holds(self, stage: Staged, way: str, order: tuple[int, ...]) -> None:
        """Of calls that run together and fail one by one, the hint that ends last counts."""
        gates = {f"{hint}": Gate(faults.rate_limited(hint)) for hint in order}
        on = stage(lambda seen: gates[seen.prompt].fault, clock=Clock(), max_retries=0, timeout=60.0)
        with ThreadPoolExecutor(3) as threads:
            calls = {hint: threads.submit(on.ask, way, hint) for hint in gates}
            on.primary.wait_for(3)
            longest = 0
            for hint, gate in gates.items():
                gate.open.set()
                assert calls[hint].result(30).text == SPARE
                longest = max(longest, int(hint))
                assert longest - 2 < float(on.circuit("primary").split()[2]) <= longest

    @both_ways
    def test_a_guess_does_not_shorten_a_word(self, stage: Staged, way: str) -> None:
        """A failure without a hint, while the hint of an hour holds, changes nothing."""
        gates = {"hour": Gate(faults.rate_limited(3600)), "guess": Gate(faults.status(503))}
        on = stage(lambda seen: gates[seen.prompt].fault, clock=Clock(), max_retries=0, timeout=60.0)
        with ThreadPoolExecutor(2) as threads:
            calls = {name: threads.submit(on.ask, way, name) for name in gates}
            on.primary.wait_for(2)
            for name, gate in gates.items():
                gate.open.set()
                assert calls[name].result(30).text == SPARE
                assert on.circuit("primary") == "open for 3600 s"


class TestRow33:
    """Every backend cools down."""

    @both_ways
    def test_by_their_own_word(self, stage: Staged, way: str) -> None:
        """The error names the earliest time, and nobody is asked before it; then the first may be."""
        clock = Clock()
        on = stage([faults.rate_limited(400), WELL], clock=clock)
        on.spare.play([faults.rate_limited(300), faults.well(SPARE)])
        assert isinstance(on.ask(way).error, errors.AllBackendsFailed)
        clock.advance(100)
        got = on.ask(way)
        assert isinstance(got.error, errors.AllBackendsFailed)
        assert got.error.retry_after == pytest.approx(200, abs=5)
        assert [error.retry_after for error in got.error.exceptions] == [
            pytest.approx(300, abs=5),
            pytest.approx(200, abs=5),
        ]
        assert got.attempts == []
        assert (len(on.primary.asked), len(on.spare.asked)) == (1, 1)
        clock.advance(got.error.retry_after or 0)
        assert on.ask(way).text == SPARE
        clock.advance(101)
        assert on.ask(way).text == PRIMARY
        assert not clock.waits

    @both_ways
    def test_by_our_guess(self, stage: Staged, way: str) -> None:
        """The least bad one is asked, whose time ends first, whatever its priority; and then the other one."""
        clock = Clock()
        on = stage(faults.status(503), clock=clock, max_retries=0)
        on.spare.play(faults.status(503))
        on.ask(way, backend="spare")
        clock.advance(2)
        on.ask(way, backend="primary")
        assert (on.circuit("primary"), on.circuit("spare")) == ("open for 5 s", "open for 3 s")
        on.primary.play(WELL)
        got = on.ask(way)
        assert got.attempts == [("spare", "failed", "UnavailableError"), ("primary", "answered", None)]
        assert on.circuit("primary") == "closed"

    @both_ways
    def test_word_and_guess(self, stage: Staged, way: str) -> None:
        """Where one has said when to come again, the one of whom we only guess is tried."""
        on = stage(faults.bad_key(), clock=Clock(), max_retries=0)
        on.spare.play([faults.status(503), faults.well(SPARE)])
        assert isinstance(on.ask(way).error, errors.AllBackendsFailed)
        assert on.ask(way).attempts == [("spare", "answered", None)]
        assert len(on.primary.asked) == 1


class TestRow34:
    """What the caller did counts against nobody."""

    @both_ways
    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (faults.bad_request(), "InvalidRequestError"),
            (faults.content_filtered(), "ContentFilterError"),
            (faults.refusal(), "ContentFilterError"),
        ],
        ids=repr,
    )
    def test_own_requests(self, stage: Staged, way: str, fault: Fault, error: str) -> None:
        """However many requests are wrong, or refused: the circuit stays closed."""
        on = stage(fault, clock=Clock())
        for _ in range(12):
            assert on.ask(way).attempts == [("primary", "failed", error)]
        assert on.circuit("primary") == "closed"
        on.check_next_call(way)

    @both_ways
    def test_own_cancel(self, stage: Staged, way: str) -> None:
        """However many leave before the answer: the circuit stays closed, and the server sees each one go."""
        on = stage(faults.silent(), clock=Clock())

        async def leave(number: int) -> None:
            stream = on.router.astream("?")
            task = asyncio.ensure_future(on.router.agenerate("?") if way == "plain" else anext(stream))
            await asyncio.to_thread(on.primary.wait_for, number)
            task.cancel()
            await asyncio.wait([task])

        for number in range(1, 5):
            asyncio.run(leave(number))
        assert all(seen.wait_closed() for seen in on.primary.asked)
        assert on.circuit("primary") == "closed"
        assert not on.spare.asked
        on.check_next_call(way)

    @both_ways
    def test_own_impatience(self, stage: Staged, way: str) -> None:
        """Who gives too little time does not blame the only backend that there is."""
        on = stage(faults.silent(), clock=Clock(), alone=True)
        for _ in range(4):
            assert isinstance(on.ask(way, timeout=0.1).error, errors.BackendTimeout)
        assert on.circuit("primary") == "closed"

    def test_abandoned_streams(self, stage: Staged) -> None:
        """A stream that is left after its first token has shown that the backend works."""
        on = stage([faults.status(503), faults.slow_for_ever(0.01)], clock=(clock := Clock()), max_retries=0)
        on.ask("streamed")
        clock.advance(6)
        for _ in range(4):
            with on.router.stream("?") as stream:
                next(stream)
        assert on.circuit("primary") == "closed"
        assert len(on.primary.asked) == 5


class TestRow35:
    """One loop owns retries."""

    @both_ways
    @pytest.mark.parametrize("retries", [0, 1, 4])
    def test_bounded(self, stage: Staged, way: str, retries: int) -> None:
        """(1 + max_retries) attempts for each backend, each with one request, with waits that grow between them."""
        clock = Clock()
        on = stage(faults.status(503), clock=clock, max_retries=retries, timeout=120.0, third=faults.status(529))
        on.spare.play(faults.status(500))
        got = on.ask(way)
        assert isinstance(got.error, errors.AllBackendsFailed)
        names = [backend for backend, _, _ in got.attempts]
        assert names == [name for name in ("primary", "spare", "third") for _ in range(1 + retries)]
        assert on.asked() == dict.fromkeys(("primary", "spare", "third"), 1 + retries)
        assert len(clock.waits) == 3 * retries
        for number, wait in enumerate(clock.waits):
            assert 0 <= wait <= 0.5 * 2 ** (number % max(retries, 1))

    @both_ways
    def test_whose_word_counts(self, stage: Staged, way: str) -> None:
        """The caller's, then the backend's, then the router's."""
        on = stage(faults.status(503), clock=Clock(), max_retries=2, limits={"max_retries": 0})
        on.spare.play(faults.status(503))
        on.ask(way)
        assert on.asked() == {"primary": 1, "spare": 3}
        on.ask(way, max_retries=1)
        assert on.asked() == {"primary": 3, "spare": 5}

    @both_ways
    def test_hints_count_as_retries(self, stage: Staged, way: str) -> None:
        """A server that says "in a second" for ever is not obeyed for ever."""
        clock = Clock()
        on = stage(faults.rate_limited(1), clock=clock, max_retries=3, timeout=120.0)
        on.check_fallback(on.ask(way), 4, "RateLimitError")
        assert clock.waits == (1.0, 1.0, 1.0)

    @both_ways
    def test_within_the_deadline(self, stage: Staged, way: str) -> None:
        """Waits that would not leave the others their time are not begun."""
        clock = Clock()
        on = stage(faults.rate_limited(4), clock=clock, max_retries=100, timeout=10.0)
        on.check_fallback(on.ask(way), 2, "RateLimitError")
        assert sum(clock.waits) < 10


class TestRow36:
    """Many threads at the limit of a rate."""

    @both_ways
    def test_never_over_the_limit(self, stage: Staged, way: str) -> None:
        """35 callers at once, ten a minute: ten are served at once, and ten more with each minute that passes."""
        clock = Clock(jumps=False)
        limits = {"rate_limit": 10, "rate_limit_window": 60.0}
        on = stage(WELL, clock=clock, alone=True, timeout=3600.0, on_limit="wait", limits=limits)
        with ThreadPoolExecutor(35) as threads:
            calls = [threads.submit(on.ask, way) for _ in range(35)]
            for served in (10, 20, 30, 35):
                on.primary.wait_for(served)
                self.wait_in_line(on, 35 - served)
                assert len(on.primary.asked) == served
                clock.advance(59)
                self.wait_in_line(on, 35 - served)
                assert len(on.primary.asked) == served
                clock.advance(3)
            assert {call.result(30).text for call in calls} == {PRIMARY}

    @both_ways
    def test_a_wait_is_as_long_as_it_must_be(self, stage: Staged, way: str) -> None:
        """Alone, the eleventh of ten a minute waits until the first is a minute old, and not much longer."""
        clock = Clock()
        limits = {"rate_limit": 10, "rate_limit_window": 60.0}
        on = stage(WELL, clock=clock, alone=True, timeout=3600.0, on_limit="wait", limits=limits)
        assert {on.ask(way).text for _ in range(30)} == {PRIMARY}
        times = [seen.arrived_at for seen in on.primary.asked]
        for first, eleventh in zip(times, times[10:], strict=False):
            assert 60 <= eleventh - first < 90
        assert sum(clock.waits) < 150

    @both_ways
    def test_next(self, stage: Staged, way: str) -> None:
        """Without a wish to wait, another backend serves what this one may not take now."""
        on = stage(WELL, clock=Clock(), limits={"rate_limit": 2, "rate_limit_window": 60.0})
        assert [on.ask(way).text for _ in range(4)] == [PRIMARY, PRIMARY, SPARE, SPARE]
        assert on.circuit("primary") == "closed"

    @both_ways
    def test_served_in_order(self, stage: Staged, way: str) -> None:
        """Who came first is served first."""
        gates = [Gate(faults.well()) for _ in range(6)]
        limits = {"max_concurrency": 1}
        on = stage([g.fault for g in gates], clock=Clock(), alone=True, timeout=60.0, on_limit="wait", limits=limits)
        with ThreadPoolExecutor(6) as threads:
            calls = []
            for number in range(6):
                calls.append(threads.submit(on.ask, way, f"{number}"))
                if number == 0:
                    on.primary.wait_for(1)
                self.wait_in_line(on, number)
            for number, gate in enumerate(gates):
                gate.open.set()
                assert calls[number].result(30).text == f"You said: {number}"
        assert [seen.prompt for seen in on.primary.asked] == [f"{number}" for number in range(6)]

    def wait_in_line(self, on: Any, count: int) -> None:
        """Wait until so many calls are held back."""
        limiter = on.router._shared.limiters["primary"]
        eventually(lambda: len(limiter._line) == count)


class TestRow38:
    """State of one attempt never leaks into the next."""

    @both_ways
    @pytest.mark.parametrize(
        "first",
        [
            faults.thinking_only(),
            faults.null_content(),
            faults.empty_stream("finish"),
            faults.lifecycle_then_error(),
            faults.cut_in_tool_call(),
        ],
        ids=repr,
    )
    def test_into_the_answer(self, stage: Staged, way: str, first: Fault) -> None:
        """Text, reasoning, model, usage and request id are those of the attempt that answered."""
        on = stage(first, clock=Clock(), max_retries=0)
        on.spare.play([faults.status(500), faults.well(SPARE, usage=Usage(1, 2, 0, 0))])
        got = on.ask(way, max_retries=1)
        assert got.text == SPARE
        assert got.completion
        assert got.completion.thinking == ""
        assert got.completion.tool_calls == ()
        assert (got.completion.model, got.completion.usage) == ("model-of-spare", Usage(1, 2, 0, 0))
        assert got.completion.request_id == on.spare.asked[-1].request_id != on.primary.asked[0].request_id
        assert {chunk.model for chunk in got.chunks} <= {"model-of-spare", None}
        assert not any(chunk.thinking or chunk.tool_calls for chunk in got.chunks)

    @both_ways
    def test_into_the_next_request(self, stage: Staged, way: str) -> None:
        """Each server gets its own key and model, the same messages, and the parameter that another one refused."""
        on = stage(faults.unsupported("temperature", always=True), clock=Clock())
        assert on.ask(way, temperature=0.5, model="named").text == SPARE
        refused, primary = on.primary.asked
        (spare,) = on.spare.asked
        assert [seen.key for seen in (primary, spare)] == [f"sk-{n}-0123456789abcdef" for n in ("primary", "spare")]
        assert [seen.body["model"] for seen in (refused, primary, spare)] == ["named", "named", "model-of-spare"]
        assert [seen.body.get("temperature") for seen in (refused, primary, spare)] == [0.5, None, 0.5]
        assert spare.body["messages"] == primary.body["messages"] == refused.body["messages"]
        headers = [{name: value for name, value in s.headers.items() if name != "host"} for s in (refused, spare)]
        assert headers[0].keys() == headers[1].keys()

    @both_ways
    def test_into_the_next_call(self, stage: Staged, way: str) -> None:
        """What one call was told (an error, its attempts, its warnings) is not in another one, which has its own."""
        on = stage([faults.unsupported("temperature"), faults.status(500), WELL], clock=Clock())
        first = on.ask(way, temperature=0.5)
        second = on.ask(way, temperature=0.5)
        assert first.completion
        assert second.completion
        assert ["refuses temperature" in text for text in first.completion.warnings] == [True]
        assert ["does not take temperature" in text for text in second.completion.warnings] == [True]
        assert second.attempts == [FAILED, ("primary", "answered", None)] or len(second.attempts) == 1


class TestRow39:
    """Usage and cost."""

    @both_ways
    def test_the_same_both_ways(self, stage: Staged, way: str) -> None:
        """A streamed answer has the usage and the cost of a plain one."""
        on = stage(WELL, clock=Clock(), limits={"prices": PRICES})
        got = on.ask(way).completion
        assert (got.usage, got.cost) == (Usage(19, 8, 4, 2), COST)

    @both_ways
    @pytest.mark.parametrize("at", ["after", "in", "before"])
    def test_wherever_it_stands(self, stage: Staged, way: str, at: Any) -> None:
        """Usage is counted once, wherever in the stream it stands."""
        on = stage(faults.well(PRIMARY, usage_at=at), clock=Clock(), limits={"prices": PRICES})
        got = on.ask(way).completion
        assert (got.usage, got.cost) == (Usage(19, 8, 4, 2), COST)

    @both_ways
    def test_failed_attempts_apart(self, stage: Staged, way: str) -> None:
        """What failed attempts cost is told with them, and is not in the answer's own."""
        on = stage([faults.thinking_only(), faults.status(503), WELL], clock=Clock(), limits={"prices": PRICES})
        got = on.ask(way, max_retries=2).completion
        assert (got.usage, got.cost) == (Usage(19, 8, 4, 2), COST)
        spent = [(attempt.outcome, attempt.usage, attempt.cost) for attempt in got.attempts]
        assert spent[:2] == [("failed", Usage(19, 8, 4, 2), COST), ("failed", None, None)]

    def test_of_a_broken_stream(self, stage: Staged) -> None:
        """A stream that ends in an error after text has its usage told, with the error and with a restart."""
        on = stage(faults.finish_error(), clock=Clock(), limits={"prices": PRICES})
        got = on.ask("streamed")
        (attempt,) = got.error.attempts
        assert (attempt.usage, attempt.cost) == (Usage(19, 8, 4, 2), COST)
        completion = on.ask("streamed", on_break="restart").completion
        assert completion.attempts[0].usage == Usage(19, 8, 4, 2)
        assert (completion.backend, completion.usage) == ("spare", Usage(19, 8, 4, 2))

    @both_ways
    def test_without_prices(self, stage: Staged, way: str) -> None:
        """Where prices are unknown, so is the cost: it is not zero."""
        on = stage(WELL, clock=Clock())
        assert on.ask(way).completion.cost is None


def test_plays_are_typed() -> None:
    """A fault of one's own is a coroutine function of the exchange."""
    play: Play = Gate(WELL).play
    assert callable(play)
