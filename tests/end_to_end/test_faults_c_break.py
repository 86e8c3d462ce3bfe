"""Streams that break and go on (rows 24, 25 and 30), and callers who leave (row 29), from programs of both colours."""

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from time import monotonic
from typing import Any

import pytest
from attrs import define, field, frozen
from pointsman import Chunk, Usage, errors, hookimpl
from pointsman.testing import Answer, Clock, Fault, faults

Staged = Callable[..., Any]
both_apis = pytest.mark.parametrize("api", ["chat", "responses"])
both_colours = pytest.mark.parametrize("colour", ["sync", "async"])

SPARE = "Here speaks the spare."
BEGUN, REST = "one two three ", "four five six seven eight"
CAN = frozenset({"tools", "schema", "continuation"})

#: What breaks a stream after three pieces; those that only stop need a limit.
BREAKS = (
    faults.cut_after(3),
    faults.cut_after(3, silently=True),
    faults.reset_after(3),
    faults.stall_after(3),
    faults.pings_after(3),
    faults.broken_event_after(3),
    faults.error_event_after(3),
    faults.no_finish_stream(3),
    faults.no_finish_stream(3, done=True),
)


@frozen
class Read:
    """What a reader of one stream got."""

    chunks: tuple[Chunk, ...]
    error: errors.BackendError | None

    @property
    def text(self) -> str:
        """What a caller holds who throws away what came before a restart."""
        text = ""
        for chunk in self.chunks:
            text = chunk.text if chunk.restarted else text + chunk.text
        return text

    @property
    def restarts(self) -> list[int]:
        """Which chunks say that the answer begins anew."""
        return [number for number, chunk in enumerate(self.chunks) if chunk.restarted]


def read(on: Any, colour: str, prompt: Any = "Name three rivers.", **options: Any) -> Read:
    """Read a stream to its end, from a plain or an asynchronous program."""
    chunks: list[Chunk] = []

    async def read_async() -> None:
        async for chunk in on.router.astream(prompt, **options):
            chunks.append(chunk)

    try:
        if colour == "async":
            asyncio.run(read_async())
        else:
            for chunk in on.router.stream(prompt, **options):
                chunks.append(chunk)
    except errors.BackendError as error:
        return Read(tuple(chunks), error)
    return Read(tuple(chunks), None)


def short(fault: Fault) -> dict[str, float]:
    """Limits of the primary, where the break is a silence."""
    return {"idle_timeout": 0.5} if "stall" in fault.name or "pings" in fault.name else {}


class TestRestart:
    """`on_break="restart"`: the next backend answers anew, and the caller is told."""

    @both_apis
    @both_colours
    @pytest.mark.parametrize("fault", BREAKS, ids=repr)
    def test_whole_again(self, stage: Staged, colour: str, api: str, fault: Fault) -> None:
        """One chunk says that the text starts anew; from there on it is the spare's whole answer."""
        on = stage(fault, api=api, on_break="restart", limits=short(fault))
        got = read(on, colour)
        assert (got.error, got.text) == (None, SPARE)
        assert got.restarts == [3]
        assert "".join(chunk.text for chunk in got.chunks[:3]) == BEGUN
        assert on.asked() == {"primary": 1, "spare": 1}
        (asked,) = on.spare.asked
        assert asked.prompt == "Name three rivers."
        assert BEGUN not in asked.raw.decode()
        on.check_next_call("streamed")

    def test_told_in_the_answer(self, stage: Staged) -> None:
        """The answer is the spare's alone; the broken attempt is recorded, and a warning says what happened."""
        on = stage(faults.cut_after(3))
        got = on.ask("streamed", on_break="restart")
        assert got.attempts == [("primary", "failed", "IncompleteAnswer"), ("spare", "answered", None)]
        completion = got.completion
        assert (completion.text, completion.backend, completion.usage) == (SPARE, "spare", Usage(19, 8, 4, 2))
        (warning,) = completion.warnings
        assert "restart" in warning
        assert "spare" in warning

    @both_colours
    def test_with_tools_and_schema(self, stage: Staged, colour: str) -> None:
        """A restart is a whole new answer, so it needs no plain text: a tool call comes whole."""
        on = stage(faults.cut_after(3), on_break="restart", can=CAN)
        on.spare.play(faults.well(tool_calls=faults.CALL.tool_calls))
        got = read(on, colour, tools=[{"name": "pay"}])
        assert [call for chunk in got.chunks for call in chunk.tool_calls] == list(faults.CALL.tool_calls)

    @both_colours
    def test_breaks_twice(self, stage: Staged, colour: str) -> None:
        """A second break is a second restart, each announced."""
        on = stage(faults.cut_after(3), on_break="restart", third=faults.well("Third."))
        on.spare.play(faults.cut_after(2))
        got = read(on, colour)
        assert (got.error, got.text) == (None, "Third.")
        assert got.restarts == [3, 5]

    @both_colours
    def test_nobody_is_left(self, stage: Staged, colour: str) -> None:
        """If nobody can answer anew, the caller gets the error of the break, with what had come."""
        on = stage(faults.cut_after(3), on_break="restart", max_retries=0)
        on.spare.play(faults.bad_key())
        got = read(on, colour)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert got.error.text == got.text == BEGUN
        assert [attempt.error for attempt in got.error.attempts] == ["IncompleteAnswer", "AuthenticationError"]
        assert got.restarts == []

    @both_colours
    def test_within_the_deadline(self, stage: Staged, colour: str) -> None:
        """When the time is up nobody is asked anew."""
        on = stage(faults.stall_after(3), on_break="restart", timeout=2.0)
        got = read(on, colour)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert got.error.text == BEGUN
        assert not on.spare.asked

    @both_colours
    @pytest.mark.parametrize("retries", [1, 3])
    def test_the_same_backend(self, stage: Staged, colour: str, retries: int) -> None:
        """Where there is no other, the one that broke answers anew, if it may be asked again."""
        on = stage([faults.cut_after(3), faults.well("Again.")], clock=Clock(), alone=True, on_break="restart")
        got = read(on, colour, max_retries=retries)
        assert (got.error, got.text, got.restarts) == (None, "Again.", [3])

    @both_colours
    @pytest.mark.parametrize("then", [faults.cut_after(3), faults.status(503)], ids=repr)
    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_bounded(self, stage: Staged, colour: str, retries: int, then: Fault) -> None:
        """However it fails, one backend gets no more than (1 + max_retries) attempts in a call (row 35)."""
        on = stage([faults.cut_after(3), then], clock=Clock(), alone=True, on_break="restart", max_retries=retries)
        got = read(on, colour)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert len(on.primary.asked) == len(got.error.attempts) == 1 + retries

    def test_a_refusal_is_no_break(self, stage: Staged) -> None:
        """A model that stops itself for safety is not asked elsewhere for it."""
        on = stage(faults.safety_stop("Well, first you"), on_break="restart")
        got = read(on, "sync")
        assert isinstance(got.error, errors.ContentFilterError)
        assert not on.spare.asked


class TestContinue:
    """`on_break="continue"`: the next backend that can gives the rest."""

    @both_apis
    @both_colours
    @pytest.mark.parametrize("fault", BREAKS, ids=repr)
    def test_the_rest(self, stage: Staged, colour: str, api: str, fault: Fault) -> None:
        """What was shown stays, nothing is said twice, and the spare is asked to go on from there."""
        on = stage(fault, api=api, on_break="continue", can=CAN, limits=short(fault))
        on.spare.play(faults.well(REST))
        got = read(on, colour, max_tokens=50)
        assert (got.error, got.text) == (None, BEGUN + REST)
        assert got.restarts == []
        assert on.asked() == {"primary": 1, "spare": 1}
        (asked,) = on.spare.asked
        turns = asked.body["messages" if api == "chat" else "input"]
        assert [turn["role"] for turn in turns] == ["user", "assistant"]
        assert BEGUN in str(turns[1]["content"])
        limit = asked.body.get("max_tokens") or asked.body.get("max_output_tokens")
        assert 0 < limit < 50
        on.check_next_call("streamed")

    def test_told_in_the_answer(self, stage: Staged) -> None:
        """The completion has the whole text; both attempts are recorded, and a warning says what happened."""
        on = stage(faults.cut_after(3), can=CAN)
        on.spare.play(faults.well(REST))
        got = on.ask("streamed", on_break="continue")
        assert got.text == got.completion.text == BEGUN + REST
        assert got.attempts == [("primary", "failed", "IncompleteAnswer"), ("spare", "answered", None)]
        assert "continue" in got.completion.warnings[0]

    @both_colours
    def test_nobody_can(self, stage: Staged, colour: str) -> None:
        """A backend that cannot continue is not asked: the caller gets the error with what had come."""
        on = stage(faults.cut_after(3), on_break="continue")
        got = read(on, colour)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert got.error.text == BEGUN
        assert not on.spare.asked

    @both_colours
    @pytest.mark.parametrize(
        "options",
        [
            {"tools": [{"name": "pay"}], "tool_choice": "none"},
            {"schema": {"type": "object"}},
        ],
        ids=["tools", "schema"],
    )
    def test_plain_text_only(self, stage: Staged, colour: str, options: dict[str, Any]) -> None:
        """Half a JSON or a conversation with tools is not continued by another model."""
        on = stage(faults.cut_after(3), on_break="continue", can=CAN)
        got = read(on, colour, **options)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert not on.spare.asked

    @both_colours
    def test_breaks_twice(self, stage: Staged, colour: str) -> None:
        """The third goes on where the second stopped."""
        on = stage(faults.cut_after(3), on_break="continue", can=CAN, third=faults.well("five six."))
        on.spare.play(Fault("four, then cut", _four))
        got = read(on, colour)
        assert (got.error, got.text) == (None, "one two three four five six.")
        asked = on.servers["third"].asked[0].body["messages"]
        assert [turn["role"] for turn in asked] == ["user", "assistant"]
        assert "one two three four " in str(asked[1]["content"])

    @both_colours
    def test_the_rest_is_empty(self, stage: Staged, colour: str) -> None:
        """A spare that has nothing to add has not answered: the caller is told that the text is not whole."""
        on = stage(faults.cut_after(3), on_break="continue", can=CAN, max_retries=0)
        on.spare.play(faults.empty_stream("finish"))
        got = read(on, colour)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert got.error.text == got.text == BEGUN


async def _four(x: Any) -> None:
    """Send one word, and cut."""
    await x.begin_stream()
    await x.events(
        event for event in x.wire.events(Answer(text="four "), x.ask) if event.kind in ("lifecycle", "content")
    )
    x.close()


@define(eq=False)
class Trickle:
    """A middleware that tells when a reader waits, and a fault that then lets a second pass and sends a word."""

    clock: Clock = field(factory=Clock)
    waits: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))

    @hookimpl(wrapper=True)
    def stream(self) -> Generator[None, Iterator[Chunk], Iterator[Chunk]]:
        """Watch the reader."""
        return self.watched((yield))

    def watched(self, chunks: Any) -> Iterator[Chunk]:
        """Hand out what comes, and tell each time before."""
        with closing(chunks):
            self.waits.release()
            for chunk in chunks:
                yield chunk
                self.waits.release()

    @property
    def fault(self) -> Fault:
        """A token a second, for ever."""
        return Fault("a token a second", self.play)

    async def play(self, x: Any) -> None:
        """Send a word a second."""
        events = x.wire.events(Answer(text="on "), x.ask)
        await x.begin_stream()
        while True:
            while not self.waits.acquire(blocking=False):
                await x.sleep(0.002)
            self.clock.advance(1.0)
            await x.events(event for event in events if event.kind == "content")


class TestSlow:
    """Row 25: a least rate. A second of the clock passes between two words, and next to none of real time."""

    @both_colours
    def test_too_slow(self, stage: Staged, colour: str) -> None:
        """Less than `min_rate` characters a second ends it, with what had come."""
        slow = Trickle()
        on = stage(slow.fault, middleware=[slow], clock=slow.clock, timeout=600.0)
        got = read(on, colour, min_rate=10)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert "min_rate=10" in str(got.error)
        assert got.error.text == got.text
        assert 5 < got.text.count("on ") < 30
        assert on.primary.asked[0].wait_closed()

    @both_colours
    @pytest.mark.parametrize("on_break", ["restart", "continue"])
    def test_goes_on_elsewhere(self, stage: Staged, colour: str, on_break: Any) -> None:
        """It is a break like any other: `on_break` says what follows."""
        slow = Trickle()
        on = stage(slow.fault, middleware=[slow], clock=slow.clock, timeout=600.0, can=CAN, limits={"min_rate": 10})
        got = read(on, colour, on_break=on_break)
        assert got.error is None
        assert got.text.removeprefix("on " * got.text.count("on ")) == SPARE
        assert on.primary.asked[0].wait_closed()

    def test_fast_enough(self, stage: Staged) -> None:
        """Three characters a second are enough for who wants two."""
        slow = Trickle()
        on = stage(slow.fault, middleware=[slow], clock=slow.clock, timeout=600.0)
        with on.router.stream("?", min_rate=2) as stream:
            for _ in range(40):
                assert next(stream).text == "on "


class TestRow29:
    """The caller leaves: the server sees it at once, and nobody is blamed."""

    #: Seconds; the matrix prints what it really takes, which is a few milliseconds.
    BOUND = 2.0

    def check(self, on: Any, left_at: float) -> None:
        """The connection was closed in time, nobody else was asked, and the circuit is closed."""
        (seen,) = on.primary.asked
        assert seen.wait_closed()
        assert seen.closed_at - left_at < self.BOUND
        assert seen.visit.closed_by == "client"
        assert not on.spare.asked
        assert on.circuit("primary") == "closed"
        on.check_next_call("streamed")

    @both_apis
    @pytest.mark.parametrize("on_break", ["raise", "restart", "continue"])
    def test_leaving_the_loop(self, stage: Staged, api: str, on_break: Any) -> None:
        """Whatever is to follow a break: leaving is none."""
        on = stage(faults.slow_for_ever(0.02), timeout=60.0, api=api, on_break=on_break, can=CAN)
        with on.router.stream("?") as stream:
            next(stream)
            left_at = monotonic()
        self.check(on, left_at)

    @both_apis
    @pytest.mark.parametrize("fault", [faults.silent(), faults.pings_only(0.02), faults.slow_for_ever(0.02)], ids=repr)
    @pytest.mark.parametrize("on_break", ["raise", "restart"])
    def test_cancelled_task(self, stage: Staged, api: str, fault: Fault, on_break: Any) -> None:
        """Cancelling the task that reads closes the connection, before and after the first token."""
        on = stage(fault, timeout=60.0, api=api, on_break=on_break)

        async def main() -> float:
            came = asyncio.Event()

            async def reads() -> None:
                async for _ in on.router.astream("?"):
                    came.set()

            task = asyncio.create_task(reads())
            if "slow" in fault.name:
                await came.wait()
            else:
                await asyncio.to_thread(on.primary.wait_active)
            left_at = monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return left_at

        self.check(on, asyncio.run(main()))

    def test_leaving_an_async_loop(self, stage: Staged) -> None:
        """Closing the asynchronous iterator is enough."""
        on = stage(faults.slow_for_ever(0.02), timeout=60.0)

        async def main() -> float:
            stream: Any = on.router.astream("?")
            async for _ in stream:
                break
            left_at = monotonic()
            await stream.aclose()
            return left_at

        self.check(on, asyncio.run(main()))

    def test_closed_while_the_spare_restarts(self, stage: Staged) -> None:
        """Who leaves while another backend begins anew leaves that one, too."""
        on = stage(faults.cut_after(3), timeout=60.0, on_break="restart", max_retries=0)
        on.spare.play(faults.silent())
        stream = on.router.stream("?")
        ended = threading.Event()

        def reads() -> None:
            try:
                list(stream)
            except errors.BackendError:
                ended.set()

        thread = threading.Thread(target=reads)
        thread.start()
        on.spare.wait_active()
        stream.close()
        thread.join(10)
        assert ended.is_set()
        assert on.spare.asked[0].wait_closed()
        assert (on.circuit("primary"), on.circuit("spare")) == ("closed", "closed")


class TestRow30:
    """What goes on fails too, before its first token."""

    SECONDS = (
        faults.status(503),
        faults.lifecycle_then_error(),
        faults.thinking_only(),
        faults.empty_stream("finish"),
        faults.hang_up(),
        faults.html(),
    )

    @both_apis
    @both_colours
    @pytest.mark.parametrize("second", SECONDS, ids=repr)
    def test_restart(self, stage: Staged, colour: str, api: str, second: Fault) -> None:
        """Nothing of the second is seen: the third restarts, announced once."""
        on = stage(faults.cut_after(3), api=api, on_break="restart", max_retries=0, third=faults.well("Third."))
        on.spare.play(second)
        got = read(on, colour)
        assert (got.error, got.text, got.restarts) == (None, "Third.", [3])
        assert {chunk.model for chunk in got.chunks[3:]} <= {"model-of-third", None}
        assert not any(chunk.thinking for chunk in got.chunks)
        assert on.asked() == {"primary": 1, "spare": 1, "third": 1}

    @both_colours
    @pytest.mark.parametrize("second", SECONDS, ids=repr)
    def test_continue(self, stage: Staged, colour: str, second: Fault) -> None:
        """The same where the third gives the rest."""
        on = stage(faults.cut_after(3), on_break="continue", max_retries=0, third=faults.well(REST), can=CAN)
        on.spare.play(second)
        got = read(on, colour)
        assert (got.error, got.text, got.restarts) == (None, BEGUN + REST, [])
        assert not any(chunk.thinking for chunk in got.chunks)
        asked = on.servers["third"].asked[0].body["messages"]
        assert [turn["role"] for turn in asked] == ["user", "assistant"]

    @both_colours
    @pytest.mark.parametrize("on_break", ["restart", "continue"])
    def test_all_fail(self, stage: Staged, colour: str, on_break: Any) -> None:
        """The caller gets one error, with the text that had come and every attempt."""
        on = stage(faults.cut_after(3), on_break=on_break, max_retries=0, third=faults.status(500), can=CAN)
        on.spare.play(faults.html())
        got = read(on, colour)
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert (got.error.text, got.text) == (BEGUN, BEGUN)
        found = [(attempt.backend, attempt.error) for attempt in got.error.attempts]
        assert found == [("primary", "IncompleteAnswer"), ("spare", "UnusableAnswer"), ("third", "UnavailableError")]
