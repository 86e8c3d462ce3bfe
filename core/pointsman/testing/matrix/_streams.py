"""Rows 21 to 30: streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from statistics import median
from time import monotonic
from typing import Any

from ...errors import BackendError
from .. import faults
from ..faults import Fault
from ..stage import Stage
from ._play import BOTH, PLAIN, SPARE, STREAMED, Run, answers, case, falls_back, raises, turns

#: The part of `STORY` that has come when a stream breaks, and the rest.
BEGUN, REST = "one two three ", "four five six seven eight"
STORY = BEGUN + REST

for late in (faults.late_first_token(30), faults.pings_only(), faults.comments_only(), faults.blank_lines_only()):
    falls_back(21, late, "BackendTimeout", ways=STREAMED, timeout=30.0, limits={"first_token_timeout": 0.7})
    raises(21, late, "BackendTimeout", timeout=1.0, spare=None, name=f"{late.name}, no other backend")
answers(21, faults.late_first_token(0.5), STORY)
for early in (faults.error_first(), faults.lifecycle_then_error()):
    falls_back(22, early, "UnavailableError", tried=2)
for silence in (faults.empty_stream(), faults.empty_stream("done"), faults.empty_stream("finish")):
    falls_back(23, silence, "UnusableAnswer", tried=2, circuit="closed", ways=STREAMED)

SHORT = {"idle_timeout": 1.0}
#: What breaks a stream, and its class of error and its attempts on a plain request.
BREAKS: tuple[tuple[Fault, str, int], ...] = (
    (faults.cut_after(3), "UnusableAnswer", 2),
    (faults.cut_after(3, silently=True), "UnusableAnswer", 2),
    (faults.reset_after(3), "UnavailableError", 1),
    (faults.stall_after(3), "BackendTimeout", 1),
    (faults.pings_after(3), "BackendTimeout", 1),
    (faults.broken_event_after(3), "UnusableAnswer", 2),
    (faults.error_event_after(3), "UnavailableError", 2),
    (faults.no_finish_stream(3), "UnusableAnswer", 2),
    (faults.no_finish_stream(3, done=True), "UnusableAnswer", 2),
)


def _goes_on(fault: Fault, on_break: str) -> None:
    """Add: the stream breaks, and another backend restarts or continues it."""

    @case(24, f"{fault.name}, {on_break}", "streamed")
    def act(run: Run) -> None:
        spare = faults.well(REST if on_break == "continue" else SPARE)
        on = run.stage(fault, spare, on_break=on_break, limits=SHORT)
        got = run.ask()
        text = STORY if on_break == "continue" else SPARE
        run.check_answer(text, "spare")
        run.check_failed("IncompleteAnswer")
        run.check(sum(chunk.restarted for chunk in got.chunks), int(on_break == "restart"), "chunks marked restarted")
        run.check(run.asked, {"primary": 1, "spare": 1}, "requests of each server")
        roles = ["user" if turn["role"] == "user" else "assistant" for turn in turns(on.servers["spare"].asked[0])]
        run.check(roles, ["user", "assistant"] if on_break == "continue" else ["user"], "what the spare was asked")


for broken, error, tried in BREAKS:
    raises(24, broken, "IncompleteAnswer", text=BEGUN, ways=STREAMED, circuit="closed", limits=SHORT)
    _goes_on(broken, "restart")
    _goes_on(broken, "continue")
    closed = "closed" if error == "UnusableAnswer" else "open"
    falls_back(24, broken, error, tried=tried, ways=PLAIN, circuit=closed, limits={"timeout": 1.5})

TRICKLE = faults.slow_for_ever(0.2)


@case(25, f"{TRICKLE.name}, until the time is up", "streamed")
def until_the_deadline(run: Run) -> None:
    """The stream ends at the deadline, with what had come."""
    on = run.stage(TRICKLE, timeout=1.5)
    got = run.ask()
    run.check(type(got.error).__name__, "IncompleteAnswer", "error")
    run.check(getattr(got.error, "text", None), got.text, "text of the error")
    run.check_that(got.seconds > 1.4 and got.text.startswith("on on "), "it broke when the time was up")
    run.check_that(on.servers["primary"].asked[0].wait_closed(), "the connection was closed")
    run.check_circuit("closed")
    run.check_next()


@case(25, f"{TRICKLE.name}, min_rate=20, restart", "streamed")
def too_slow(run: Run) -> None:
    """Who brings fewer characters than `min_rate` is left for the spare."""
    on = run.stage(TRICKLE, timeout=60.0, limits={"min_rate": 20}, on_break="restart")
    run.ask()
    run.check_answer(SPARE, "spare")
    run.check_failed("IncompleteAnswer")
    run.check_that(on.servers["primary"].asked[0].wait_closed(), "the connection was closed")
    run.check_next()


falls_back(25, faults.slow_for_ever(0.1), "BackendTimeout", ways=PLAIN, limits={"timeout": 1.0})
answers(26, faults.no_done(), STORY)


def _half_a_call(fault: Fault) -> None:
    @case(27, fault.name, *BOTH)
    def act(run: Run) -> None:
        """No half call is handed out: the spare answers."""
        run.stage(fault)
        got = run.ask(tools=[{"name": "pay"}], tool_choice="none")
        run.check_answer(SPARE, "spare")
        run.check([call for chunk in got.chunks for call in chunk.tool_calls], [], "calls that were shown")
        run.check(got.completion and got.completion.tool_calls, (), "calls of the answer")
        run.check_next()


for half in (faults.cut_in_tool_call("cut"), faults.cut_in_tool_call("end"), faults.cut_in_tool_call("length")):
    _half_a_call(half)
for framing in faults.HOSTILE:
    whole = faults.BIG_TEXT if framing == "big_event" else faults.HOSTILE_TEXT
    answers(28, faults.hostile_text(framing), whole, ways=STREAMED)

#: Seconds within which the server must see that the caller has left, and how often it is measured.
_GONE_S, _TIMES = 0.05, 7


def _leaves(name: str, fault: Fault, leave: Callable[[Stage], float]) -> None:
    """Add: the caller leaves; the server sees it at once, and nobody is blamed."""

    @case(29, name, "streamed" if "stream" in name else "plain", alone=True)
    def act(run: Run) -> None:
        late: list[float] = []
        for _ in range(_TIMES):
            on = run.stage(fault, timeout=60.0)
            left_at = leave(on)
            (seen,) = on.servers["primary"].wait_for(1)
            run.check_that(seen.wait_closed(), "the connection was closed")
            late.append((seen.closed_at or 0.0) - left_at)
            run.note()
            run.check(run.asked, {"primary": 1, "spare": 0}, "requests of each server")
            run.check_circuit("closed")
            run.check_next()
            run.told = f"gone in {median(late) * 1000:.2f} ms, at most {max(late) * 1000:.2f}"
            on.close()
        if median(late) > _GONE_S:
            run.check_that(False, f"the server saw it within {_GONE_S * 1000:.0f} ms: {run.told}")


def _break_off(on: Stage) -> float:
    with on.router.stream("?") as stream:
        next(stream)
        return monotonic()


def _forget(on: Stage) -> float:
    for _ in on.router.stream("?"):
        return monotonic()
    return 0.0


def _close_from_elsewhere(on: Stage) -> float:
    stream = on.router.stream("?")

    def read() -> None:
        try:
            list(stream)
        except BackendError:
            return  # it was ended

    thread = threading.Thread(target=read)
    thread.start()
    on.servers["primary"].wait_active()
    left_at = monotonic()
    stream.close()
    thread.join(10)
    return left_at


def _cancel(on: Stage, *, streamed: bool) -> float:
    async def ask() -> None:
        if not streamed:
            await on.router.agenerate("?")
            return
        async for _ in on.router.astream("?"):
            pass

    async def main() -> float:
        task = asyncio.create_task(ask())
        await asyncio.to_thread(on.servers["primary"].wait_active)
        left_at = monotonic()
        task.cancel()
        await asyncio.wait([task])
        return left_at

    return asyncio.run(main())


_leaves("stream left after the first token", faults.slow_for_ever(0.05), _break_off)
_leaves("stream that nobody holds any more", faults.slow_for_ever(0.05), _forget)
_leaves("stream closed by another thread, no token yet", faults.silent(), _close_from_elsewhere)
_leaves("task of astream cancelled, no token yet", faults.comments_only(), lambda on: _cancel(on, streamed=True))
_leaves("task of astream cancelled, tokens flow", faults.slow_for_ever(0.05), lambda on: _cancel(on, streamed=True))
_leaves("task of agenerate cancelled", faults.silent(), lambda on: _cancel(on, streamed=False))


def _third_answers(second: Fault, first: Fault, **options: Any) -> None:
    """Add: the second backend fails before its first token; the third answers alone."""

    @case(30, f"{first.name}, then {second.name}", "streamed")
    def act(run: Run) -> None:
        run.stage(first, second, third=faults.well("Third."), max_retries=0, **options)
        got = run.ask()
        run.check_answer("Third.", "third")
        run.check(run.asked, {"primary": 1, "spare": 1, "third": 1}, "requests of each server")
        begun = next((n for n, chunk in enumerate(got.chunks) if chunk.restarted), 0)
        models = {chunk.model for chunk in got.chunks[begun:]} - {None}
        run.check(models, {"model-of-third"}, "models of the chunks")
        run.check([chunk.thinking for chunk in got.chunks if chunk.thinking], [], "thoughts that were shown")


for second in (faults.lifecycle_then_error(), faults.thinking_only(), faults.empty_stream("finish"), faults.hang_up()):
    _third_answers(second, faults.status(503))
    _third_answers(second, faults.cut_after(3), on_break="restart")


@case(30, "all fail before a token", "streamed")
def all_fail(run: Run) -> None:
    """The caller gets no chunk, and one error with each."""
    run.stage(faults.error_first(), faults.empty_stream(), max_retries=0)
    got = run.ask()
    run.check(type(got.error).__name__, "AllBackendsFailed", "error")
    run.check([attempt.error for attempt in got.attempts], ["UnavailableError", "UnusableAnswer"], "attempts")
    run.check(got.chunks, (), "chunks that were shown")
