"""One case of the matrix, how it is played, and what came of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Literal

from attrs import asdict, define, field, frozen

from ...errors import IncompleteAnswer
from .. import faults
from ..answers import USAGE
from ..faults import Fault
from ..server import Script, Seen
from ..stage import Outcome, Stage
from ._provider import Maker

Way = Literal["plain", "streamed", ""]
BOTH: tuple[Way, ...] = ("plain", "streamed")
PLAIN: tuple[Way, ...] = ("plain",)
STREAMED: tuple[Way, ...] = ("streamed",)

SPARE = "Here speaks the spare."
PRIMARY = "Here speaks the primary."
WELL, WELL_SPARE = faults.well(PRIMARY), faults.well(SPARE)
#: Dollars for a million tokens, and what one healthy answer costs by them.
PRICES = {"input": 1.0, "output": 2.0, "cached": 0.5}
COST = (15 * 1.0 + 4 * 0.5 + 8 * 2.0) / 1e6
#: Seconds by which a machine at work may be late.
GRACE_S = 3.0


def turns(seen: Seen) -> Any:
    """Return the turns that a request carried, in whichever dialect."""
    return seen.body.get("messages") or seen.body["contents"]


def options(seen: Seen) -> Mapping[str, Any]:
    """Return the options that a request carried, in whichever dialect."""
    return {**seen.body, **seen.body.get("generationConfig", {})}


class Wrong(Exception):
    """The promise of a row was not kept."""


@define(eq=False)
class Run:
    """One case while it is played: it makes the stage, asks, and notes what there is to tell."""

    way: Way
    make: Maker
    stack: ExitStack
    on: Stage | None = None
    got: Outcome | None = None
    told: str = ""  #: how the case went, where the outcome of one request does not say it
    asked: Mapping[str, int] = field(factory=dict)
    circuit: str = ""
    timeout: float = 0.0

    def stage(
        self,
        primary: Script = WELL,
        spare: Script | None = WELL_SPARE,
        *,
        third: Script | None = None,
        **options: Any,
    ) -> Stage:
        """Set the stage: backends that are not None, in this order; `windows` are their context windows.

        `limits` are settings of the primary alone: a short one must not hit the spare on a slow machine.
        """
        scripts = {"primary": primary, "spare": spare, "third": third}
        windows = options.pop("windows", {})
        own = {"primary": options.pop("limits", {}), **options.pop("settings", {})}
        settings = {name: {"prices": PRICES, **own.get(name, {})} for name in scripts}

        def make(**given: Any) -> object:
            window = windows.get(given["model"].removeprefix("model-of-"))
            return self.make(context_window=window, **given)

        self.timeout = options.setdefault("timeout", 10.0)
        played = {name: script for name, script in scripts.items() if script is not None}
        self.on = self.stack.enter_context(Stage(played, make, settings=settings, **options))
        return self.on

    def ask(self, prompt: Any = "Name three rivers.", **options: Any) -> Outcome:
        """Ask as the way is, and note what came of it, and how the primary stands then."""
        assert self.on is not None
        self.got = self.on.ask(self.way or "plain", prompt, **options)
        self.timeout = options.get("timeout", self.timeout)
        self.note()
        return self.got

    def note(self) -> None:
        """Note how often each server was asked, and how the primary stands."""
        assert self.on is not None
        self.asked, self.circuit = self.on.asked(), self.on.circuit("primary")

    def check(self, found: object, expected: object, what: str) -> None:
        """See that `found` is `expected`.

        :raises Wrong: it is not.
        """
        if found != expected:
            raise Wrong(f"{what}: found {found!r}, expected {expected!r}")

    def check_that(self, good: object, what: str) -> None:
        """See that something holds.

        :raises Wrong: it does not.
        """
        if not good:
            raise Wrong(f"{what}: it is not so; {self.outcome()}")

    def outcome(self) -> str:
        """Say in a few words how it went."""
        if self.told or self.got is None:
            return self.told
        if self.got.completion is not None:
            return f"{self.got.completion.backend} answered"
        partial = f", {len(self.got.error.text)} characters" if isinstance(self.got.error, IncompleteAnswer) else ""
        return f"{type(self.got.error).__name__}{partial}"

    # -- what rows promise ---------------------------------------------------------------------

    def check_answer(self, text: str, backend: str) -> None:
        """The backend answered: its text and no other, its model, its usage and its cost, within the time."""
        got = self.got
        assert got is not None
        self.check(type(got.error).__name__ if got.error else None, None, "error")
        assert got.completion is not None
        self.check((got.text, got.completion.text), (text, text), "text that was shown, and that of the answer")
        told = (got.completion.backend, got.completion.model, got.completion.usage)
        self.check(told, (backend, f"model-of-{backend}", USAGE), "backend, model and usage")
        self.check(round(got.completion.cost or 0, 12), round(COST, 12), "cost")

    def check_failed(self, *errors: str) -> None:
        """The attempts that failed, in order, were the primary's, with these classes of error."""
        assert self.got is not None
        made = [attempt.error for attempt in self.got.attempts if attempt.outcome == "failed"]
        self.check(made, list(errors), "errors of the attempts")

    def check_circuit(self, state: str) -> None:
        """The circuit of the primary is "closed", or "open"."""
        self.check(self.circuit.partition(" ")[0], state, "circuit of the primary")

    def check_open(self, seconds: float) -> None:
        """The circuit of the primary is open for so many seconds, less what has passed."""
        left = (
            float(self.circuit.removeprefix("open for ").removesuffix(" s") or 0) if "open for" in self.circuit else 0
        )
        self.check_that(0.8 * seconds <= left <= seconds, f"the circuit, {self.circuit}, is open for {seconds:g} s")

    def check_time(self) -> None:
        """The time was not up, or it had just passed."""
        assert self.got is not None
        self.check_that(self.got.seconds <= self.timeout + GRACE_S, f"{self.got.seconds:.1f} s are within the deadline")

    def check_next(self) -> None:
        """The next call works, whoever answers it, in one attempt."""
        assert self.on is not None
        self.on.servers["primary"].play(WELL)
        again = self.on.ask(self.way or "plain")
        self.check_that(again.completion is not None, "the next call was answered")
        self.check_that(again.text in (SPARE, PRIMARY), f"the next answer, {again.text!r}, is whole")
        self.check(len(again.attempts), 1, "attempts of the next call")


@frozen
class Result:
    """What came of one case. `problem` is empty if the promise was kept."""

    row: int
    fault: str
    way: str
    outcome: str
    asked: Mapping[str, int]  #: requests that each server saw
    seconds: float
    timeout: float
    circuit: str  #: of the primary, afterwards
    problem: str

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "passed": not self.problem}


@frozen
class Case:
    """One way of playing one row."""

    row: int
    fault: str
    way: Way
    act: Callable[[Run], None]
    alone: bool  #: it measures: nothing else may run meanwhile

    def play(self, make: Maker) -> Result:
        """Play it with the providers that `make` makes."""
        problem = ""
        with ExitStack() as stack:
            run = Run(self.way, make, stack)
            try:
                self.act(run)
                if run.got is not None:
                    run.check_time()
            except Wrong as wrong:
                problem = str(wrong)
            except Exception:
                problem = f"the case itself failed: {traceback.format_exc()}"
        seconds = run.got.seconds if run.got is not None else 0.0
        return Result(
            self.row, self.fault, self.way, run.outcome(), run.asked, seconds, run.timeout, run.circuit, problem
        )


CASES: list[Case] = []


def case(
    row: int, fault: str, *ways: Way, alone: bool = False
) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Add what the function plays to the matrix, once for each way."""

    def add(act: Callable[[Run], None]) -> Callable[[Run], None]:
        CASES.extend(Case(row, fault, way, act, alone) for way in ways or ("",))
        return act

    return add


def _name(script: Any) -> str:
    return script.name if isinstance(script, Fault) else ", ".join(_name(step) for step in script)


def falls_back(  # noqa: PLR0913 - all by name
    row: int,
    script: Script,
    error: str,
    *,
    tried: int = 1,
    circuit: str = "open",
    ways: tuple[Way, ...] = BOTH,
    name: str = "",
    ask: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Add: the primary fails so, `tried` times; then the spare answers, and the next call works."""

    @case(row, name or _name(script), *ways)
    def act(run: Run) -> None:
        run.stage(script, **options)
        run.ask(**(ask or {}))
        run.check_answer(SPARE, "spare")
        run.check_failed(*[error] * tried)
        sent = len(run.on.servers["primary"].log) if run.on else 0
        run.check(
            (sent, run.asked["spare"]), (tried, 1) if "urls" not in options else (0, 1), "requests of each server"
        )
        run.check_circuit(circuit)
        run.check_next()


def recovers(
    row: int, script: Script, error: str, *, least_s: float = 0.0, ways: tuple[Way, ...] = BOTH, **options: Any
) -> None:
    """Add: the primary fails once so, and answers when it is asked again, not before `least_s` seconds."""

    @case(row, _name(script), *ways)
    def act(run: Run) -> None:
        on = run.stage(script, **options)
        run.ask()
        run.check_answer(PRIMARY, "primary")
        run.check_failed(error)
        run.check(run.asked, {"primary": 2, "spare": 0}, "requests of each server")
        first, second = on.servers["primary"].asked
        run.check_that(second.arrived_at - first.arrived_at >= least_s, f"{least_s} s were waited")
        run.check_circuit("closed")
        run.check_next()


def answers(
    row: int, fault: Fault, text: str, *, ways: tuple[Way, ...] = BOTH, finish: str = "stop", **ask: Any
) -> None:
    """Add: it looks odd, and is a good answer at the first attempt."""

    @case(row, fault.name, *ways)
    def act(run: Run) -> None:
        run.stage(fault)
        run.ask(**ask)
        run.check_answer(text, "primary")
        assert run.got is not None
        assert run.got.completion is not None
        run.check(run.got.completion.finish_reason, finish, "finish reason")
        run.check(run.asked, {"primary": 1, "spare": 0}, "requests of each server")
        run.check_circuit("closed")
        run.check_next()


def raises(  # noqa: PLR0913 - all by name
    row: int,
    script: Script,
    error: str,
    *,
    text: str = "",
    ways: tuple[Way, ...] = BOTH,
    circuit: str = "closed",
    name: str = "",
    ask: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Add: the caller gets this error after one attempt, with `text` as far as it came; nobody else is asked."""

    @case(row, name or _name(script), *ways)
    def act(run: Run) -> None:
        run.stage(script, **options)
        got = run.ask(**(ask or {}))
        run.check(type(got.error).__name__, error, "error")
        run.check_failed(error)
        if error == "IncompleteAnswer":
            run.check(
                (got.text, getattr(got.error, "text", None)), (text, text), "text that was shown, and of the error"
            )
        run.check({name: n for name, n in run.asked.items() if n}, {"primary": 1}, "requests of each server")
        run.check_circuit(circuit)
        run.check_next()
