"""Rows 31 to 39: what the router keeps between calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

from attrs import field, frozen

from ...errors import AllBackendsFailed
from ...hookspecs import hookimpl
from ...values import Completion
from .. import faults
from ..answers import USAGE
from ..stage import Outcome, Stage
from ._play import BOTH, COST, PRIMARY, SPARE, WELL, Run, case, options, turns

#: How many calls come at once when a circuit is half open.
_HERD = 12


def _at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Do the work in so many threads, which begin together."""
    start = threading.Barrier(count)

    def begin(number: int) -> Any:
        start.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def _opened(run: Run, script: Any, first_s: float) -> Stage:
    """Set the stage, let the circuit of the primary open for `first_s` seconds, and sleep them out."""
    on = run.stage(script, max_retries=0, timeout=10.0)
    for asked in (1, 1):
        run.ask()
        run.check(run.got and run.got.text, SPARE, "answer while the circuit is open")
        run.check(run.asked["primary"], asked, "requests of the primary")
    run.check_open(first_s)
    sleep(first_s + 0.2)
    return on


def _herd(run: Run, on: Stage) -> list[Outcome]:
    """Ask from many threads at once: one is the probe, the others are not kept waiting for it."""
    found = _at_once(_HERD, lambda number: on.ask(run.way))
    run.note()
    run.check(run.asked["primary"], 2, "requests of the primary, with the probe")
    return found


@case(31, "flapping(2), then works", *BOTH)
def recovers_after_a_while(run: Run) -> None:
    """One probe when the time is up; it closes the circuit."""
    on = _opened(run, faults.flapping(2.0, up=faults.later(1.5, WELL)), 5.0)
    texts = sorted(got.text for got in _herd(run, on))
    run.check(texts, sorted([PRIMARY] + [SPARE] * (_HERD - 1)), "answers of the herd")
    run.check_circuit("closed")
    run.ask()
    run.check_answer(PRIMARY, "primary")
    run.told = f"one probe among {_HERD} calls; closed"


@case(31, "flapping(60), the probe fails", *BOTH)
def still_down(run: Run) -> None:
    """One probe, and the circuit is open again, for twice as long."""
    on = _opened(run, faults.flapping(60.0, down=faults.later(0.3, faults.status(503))), 5.0)
    texts = {got.text for got in _herd(run, on)}
    run.check(texts, {SPARE}, "answers of the herd")
    run.check_open(10.0)
    run.told = f"one probe among {_HERD} calls; open again"


@case(32, "Retry-After 30, then 3, then 60, of calls that run together", *BOTH)
def opened_again(run: Run) -> None:
    """A shorter hint does not shorten the cool-down, a longer one extends it."""
    hints = {"first": (0.4, 30), "second": (0.8, 3), "third": (1.6, 60)}
    script = {name: faults.later(wait, faults.rate_limited(hint)) for name, (wait, hint) in hints.items()}
    on = run.stage(lambda seen: script[seen.prompt], max_retries=0, timeout=20.0)
    names = list(hints)
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(on.ask, run.way, name) for name in names]
        on.servers["primary"].wait_for(3)
        for seconds, task in zip((30.0, 30.0, 60.0), asked, strict=True):
            run.got = task.result(30)
            run.note()
            run.check(run.got.text, SPARE, "answer")
            run.check_open(seconds)
    run.told = "open for 30, 30 and 60 s"


@case(33, "all cool down, by their own word", *BOTH)
def all_hard(run: Run) -> None:
    """Nobody is asked; the error says when the first may be asked again."""
    on = run.stage(faults.rate_limited(40), faults.rate_limited(30))
    run.ask()
    got = run.ask()
    run.check(run.asked, {"primary": 1, "spare": 1}, "requests of each server")
    run.check(type(got.error).__name__, "AllBackendsFailed", "error")
    error = got.error
    assert isinstance(error, AllBackendsFailed)
    run.check_that(20 < (error.retry_after or 0) <= 30, f"retry_after, {error.retry_after}, is the earliest time")
    run.check_that(got.seconds < 1, "it was told at once")
    run.told = f"AllBackendsFailed, retry_after={error.retry_after:.0f}"
    on.close()


@case(33, "all cool down, by our guess", *BOTH)
def all_soft(run: Run) -> None:
    """The least bad one is tried rather than none."""
    on = run.stage(faults.status(503), faults.status(503), max_retries=0)
    run.check(type(run.ask().error).__name__, "AllBackendsFailed", "error")
    on.servers["primary"].play(WELL)
    run.ask()
    run.check_answer(PRIMARY, "primary")
    run.check(run.asked, {"primary": 2, "spare": 1}, "requests of each server")
    run.check_circuit("closed")


@case(34, "the caller's own 400, eight times", *BOTH)
def own_mistakes(run: Run) -> None:
    """It does not count."""
    run.stage(faults.bad_request())
    for _ in range(8):
        run.check(type(run.ask().error).__name__, "InvalidRequestError", "error")
    run.check(run.asked, {"primary": 8, "spare": 0}, "requests of each server")
    run.check_circuit("closed")
    run.check_next()


@case(34, "the caller's time is up, five times", *BOTH)
def own_time(run: Run) -> None:
    """A caller who gives too little time does not blame the only backend."""
    run.stage(faults.silent(), None)
    for _ in range(5):
        run.check(type(run.ask(timeout=0.2).error).__name__, "BackendTimeout", "error")
    run.check_circuit("closed")
    run.check_next()


@case(34, "left before the first token, five times", "streamed")
def own_leaving(run: Run) -> None:
    """Who leaves does not count."""
    on = run.stage(faults.silent())
    for number in range(5):
        stream = on.router.stream("?")
        reader = threading.Thread(target=_quietly, args=(stream,))
        reader.start()
        on.servers["primary"].wait_for(number + 1)
        stream.close()
        reader.join(10)
    run.note()
    run.check(run.asked, {"primary": 5, "spare": 0}, "requests of each server")
    run.check_circuit("closed")
    run.check_next()
    run.told = "closed"


def _quietly(stream: Any) -> None:
    try:
        list(stream)
    except Exception:
        return  # it was ended, which is the matter here


@case(35, "all fail, max_retries=2, two backends", *BOTH)
def bounded(run: Run) -> None:
    """(1 + max_retries) attempts for each backend, as many requests, and no more."""
    run.stage(faults.status(503), faults.status(503), max_retries=2, timeout=30.0)
    got = run.ask()
    run.check(type(got.error).__name__, "AllBackendsFailed", "error")
    run.check([attempt.backend for attempt in got.attempts], ["primary"] * 3 + ["spare"] * 3, "attempts")
    run.check(run.asked, {"primary": 3, "spare": 3}, "requests of each server")


@case(35, "max_retries of the call, of a backend, of the router", *BOTH)
def bounded_as_configured(run: Run) -> None:
    """The caller's word counts most, then the backend's, then the router's."""
    settings = {"spare": {"max_retries": 0}}
    run.stage(faults.status(503), faults.status(503), max_retries=1, settings=settings)
    run.ask()
    run.check(run.asked, {"primary": 2, "spare": 1}, "requests of each server")
    run.ask(max_retries=3, timeout=30.0)
    run.check(
        {name: n - {"primary": 2, "spare": 1}[name] for name, n in run.asked.items()},
        {"primary": 4, "spare": 4},
        "more",
    )


@frozen
class _Began:
    """A middleware that notes when each attempt begins: servers see it later, by as much as the machine is busy."""

    times: list[float] = field(factory=list)

    @hookimpl(wrapper=True)
    def generate(self) -> Generator[None, Completion, Completion]:
        """Note the time of an attempt."""
        self.times.append(monotonic())
        return (yield)


@case(36, "32 threads, 50 in a second", "plain", alone=True)
def at_the_limit(run: Run) -> None:
    """No second holds more than 50, and the rate is used."""
    limit, window, lasts = 50, 1.0, 3.0
    settings = {"primary": {"rate_limit": limit, "rate_limit_window": window}}
    began = _Began()
    on = run.stage(WELL, None, settings=settings, timeout=30.0, on_limit="wait", middleware=[began])
    start = monotonic()

    def ask_on(number: int) -> None:
        while monotonic() < start + lasts:
            on.ask("plain", f"Question of {number}", timeout=20.0)

    _at_once(32, ask_on)
    run.note()
    most = max(sum(first <= time < first + window for time in began.times) for first in began.times)
    used = sum(time < start + lasts for time in began.times) / (limit * lasts)
    run.told = f"at most {most} in a second, {used:.0%} used"
    run.check_that(most <= limit, "no second holds more than the limit")
    run.check_that(used > 0.8, "the rate is used")


@case(36, "waiting callers", *BOTH)
def in_order(run: Run) -> None:
    """First come, first served."""
    settings = {"primary": {"rate_limit": 1, "rate_limit_window": 0.3}}
    on = run.stage(WELL, None, settings=settings, timeout=30.0, on_limit="wait")
    with ThreadPoolExecutor(8) as threads:
        for number in range(8):
            threads.submit(on.ask, run.way, str(number))
            sleep(0.15)
    run.note()
    run.check([seen.prompt for seen in on.servers["primary"].asked], [str(n) for n in range(8)], "order of arrival")
    run.told = "served in order"


@case(38, "thoughts, usage and ids of a failed attempt", *BOTH)
def nothing_leaks_back(run: Run) -> None:
    """The answer has what its own attempt brought, and nothing else."""
    on = run.stage(faults.thinking_only())
    got = run.ask()
    run.check_answer(SPARE, "spare")
    assert got.completion is not None
    (spare,) = on.servers["spare"].asked
    run.check((got.completion.thinking, got.completion.request_id), ("", spare.request_id), "reasoning and request id")
    run.check({chunk.model for chunk in got.chunks} - {None, "model-of-spare"}, set(), "models of the chunks")
    run.check_next()


@case(38, "key, model and messages of a failed attempt", *BOTH)
def nothing_leaks_on(run: Run) -> None:
    """Each server gets its own key and model, the same messages, and what another one refused."""
    on = run.stage(faults.unsupported("temperature", always=True))
    run.ask(temperature=0.5, model="its-own-model")
    run.check(run.got and run.got.text, SPARE, "answer")
    primary, spare = on.servers["primary"].asked[-1], on.servers["spare"].asked[0]
    keys = [(seen.key or "").split("-")[1] for seen in (primary, spare)]
    run.check(keys, ["primary", "spare"], "keys")
    models = [seen.model for seen in (primary, spare)]
    run.check(models, ["its-own-model", "model-of-spare"], "models")
    run.check(turns(spare), turns(primary), "messages")
    run.check(["temperature" in options(seen) for seen in (primary, spare)], [False, True], "temperature")
    run.check_next()


@case(39, "a failed attempt that reports usage", *BOTH)
def accounted(run: Run) -> None:
    """The answer has the usage and the cost of its own attempt; the failed one has its own apart."""
    run.stage(faults.thinking_only(), max_retries=0)
    _check_costs(run, run.ask(), "UnusableAnswer")


@case(39, "a broken stream that reports usage, restart", "streamed")
def accounted_when_broken(run: Run) -> None:
    """The same where the failed attempt has shown text."""
    run.stage(faults.finish_error(), max_retries=0, on_break="restart")
    _check_costs(run, run.ask(), "IncompleteAnswer")


def _check_costs(run: Run, got: Outcome, error: str) -> None:
    run.check_answer(SPARE, "spare")
    run.check_failed(error)
    failed, answered = got.attempts
    run.check(
        (failed.usage, round(failed.cost or 0, 12)), (USAGE, round(COST, 12)), "usage and cost of the failed attempt"
    )
    run.check((answered.backend, answered.outcome), ("spare", "answered"), "the attempt that answered")
    run.check_next()
