"""The one loop that owns retries, waits and fallback (FAULTS A, B and D, played in memory)."""

import threading
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from attrs import define, field
from pointsman import Backend, Completion, Health, Message, ModelInfo, Request, Router, Secret, Usage, errors, hookimpl
from pointsman.errors import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    BackendTimeout,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import Scripted, Silent

NOW: dict[str, Any] = {"retry_after": 0.0}  # a hint that lets a test retry without waiting


def routed(*providers: object, **settings: Any) -> Router:
    """Return a router over these providers, named a, b, c ... in this order."""
    return Router(dict(zip("abcdefgh", providers, strict=False)), **settings)


def outcomes(answer: Completion | BackendError) -> list[tuple[str, str, str | None]]:
    return [(a.backend, a.outcome, a.error) for a in answer.attempts]


@pytest.mark.parametrize("cls", [RateLimitError, UnavailableError, UnusableAnswer])
def test_what_may_pass_is_asked_again(cls: type[BackendError]) -> None:
    """A failure that may be over at once is followed by a further attempt at the same backend (row 4)."""
    a, b = Scripted([cls("hiccup", **NOW), "well"]), Scripted()
    with routed(a, b) as router:
        answer = router.generate("hi")
    assert (answer.text, answer.backend, b.calls) == ("well", "a", 0)
    assert outcomes(answer) == [("a", "failed", cls.__name__), ("a", "answered", None)]


@pytest.mark.parametrize("cls", [AuthenticationError, QuotaError, ModelNotFoundError, BackendTimeout, BackendError])
def test_what_will_not_pass_goes_to_the_next_at_once(cls: type[BackendError]) -> None:
    """A failure that asking again would not mend costs one attempt (rows 6, 8, 9)."""
    a, b = Scripted(cls("no")), Scripted("yes")
    with routed(a, b) as router:
        answer = router.generate("hi")
    assert outcomes(answer) == [("a", "failed", cls.__name__), ("b", "answered", None)]


@pytest.mark.parametrize("cls", [InvalidRequestError, ContentFilterError])
def test_what_is_wrong_everywhere_is_raised_at_once(cls: type[BackendError]) -> None:
    """A caller's mistake, or a refusal, is no reason to ask others, nor to leave the backend alone (rows 11, 13)."""
    a, b = Scripted([cls("no"), "yes"]), Scripted()
    with routed(a, b) as router:
        with pytest.raises(cls) as caught:
            router.generate("hi")
        assert outcomes(caught.value) == [("a", "failed", cls.__name__)]
        assert router.generate("hi").backend == "a"
    assert b.calls == 0


@pytest.mark.parametrize("at", ["router", "call"])
def test_a_refusal_goes_on_only_if_the_caller_says_so(at: str) -> None:
    """`on_refusal="next"` asks another model, for one call or for all (row 11)."""
    refused = Completion("I can't.", finish_reason="content_filter")
    with routed(Scripted(refused), Scripted("yes"), on_refusal="next" if at == "router" else "raise") as router:
        answer = router.generate("hi") if at == "router" else router.generate("hi", on_refusal="next")
        assert outcomes(answer) == [("a", "failed", "ContentFilterError"), ("b", "answered", None)]
        with pytest.raises(ContentFilterError):
            router.generate("hi", on_refusal="raise") if at == "router" else router.generate("hi")


@pytest.mark.parametrize(
    ("bad", "attempts"),
    [
        (Completion(""), 2),
        (Completion(" \n\t"), 2),
        (Completion("", thinking="hm, let me think"), 2),
        (Completion("half", finish_reason="error"), 2),
        (Completion("text", finish_reason=None), 2),  # type: ignore[arg-type] # what a careless provider does
        (Completion("text", finish_reason="end_turn"), 2),  # type: ignore[arg-type] # and another, with the wire's word
    ],
)
def test_an_answer_that_is_none_is_asked_for_again_once(bad: Completion, attempts: int) -> None:
    """Empty, thinking-only, broken and endless answers are retried once, then the next is asked (rows 15, 17, 20)."""
    a, b = Scripted(bad), Scripted("yes")
    with routed(a, b, max_retries=5) as router:
        assert router.generate("hi").text == "yes"
    assert a.calls == attempts


@pytest.mark.parametrize("text", ["plain words", '{"a": ', "```json\n{}\n```"])
def test_text_that_is_not_the_json_asked_for_is_no_answer(text: str) -> None:
    """With a schema, an answer that cannot be parsed is unusable; one cut by its length is the caller's to judge."""
    with routed(Scripted(text), Scripted('{"a": 1}')) as router:
        assert router.generate("hi", schema={"type": "object"}).backend == "b"
    with routed(Scripted(Completion(text, finish_reason="length"))) as router:
        assert router.generate("hi", schema={"type": "object"}).text == text


def test_a_tool_call_alone_and_a_cut_answer_are_answers() -> None:
    """No text but a tool call is a good answer (row 17); `length` stays what it is (row 19)."""
    from pointsman import ToolCall

    call = Completion("", finish_reason="tool_calls", tool_calls=(ToolCall("1", "now"),))
    cut = Completion("Once upon", finish_reason="length")
    with routed(Scripted([call, cut])) as router:
        assert router.generate("hi").tool_calls == call.tool_calls
        assert router.generate("hi").finish_reason == "length"


@pytest.mark.parametrize(("where", "attempts"), [("call", 4), ("backend", 3), ("router", 2)])
def test_the_nearest_limit_of_retries_counts(where: str, attempts: int) -> None:
    """`max_retries` of the call comes before the backend's, and that before the router's (row 35)."""
    a = Scripted(UnavailableError("down", **NOW))
    backend = Backend(a, id="a", max_retries=None if where == "router" else 2)
    options: dict[str, Any] = {"max_retries": 3} if where == "call" else {}
    with Router([backend], max_retries=1) as router, pytest.raises(UnavailableError) as caught:
        router.generate("hi", **options)
    assert a.calls == attempts == len(caught.value.attempts)


def test_a_hint_that_fits_is_waited_for() -> None:
    """`Retry-After` is honoured, not shortened, where it fits the deadline (row 1)."""
    a = Scripted([RateLimitError("slow", retry_after=0.1), "well"])
    with routed(a, Scripted()) as router:
        answer = router.generate("hi", timeout=30)
    assert (answer.backend, a.calls) == ("a", 2)


@pytest.mark.parametrize("hint", [20.0, 3600.0])
def test_a_hint_that_does_not_fit_is_not_slept_out(hint: float) -> None:
    """A long hint sends the call on, and the backend is left alone that long (rows 1, 2)."""
    a, b = Scripted(RateLimitError("slow", retry_after=hint)), Scripted("yes")
    with routed(a, b, timeout=30) as router:
        assert router.generate("hi").backend == "b"
        assert router.generate("hi").backend == "b"
        reason = {place.backend.id: place.reason for place in router.order()}["a"]
    assert a.calls == 1
    assert reason.startswith("cooling down for")
    assert "slow" in reason


def test_a_single_backend_says_when_to_come_back() -> None:
    """Where nobody else can be asked, the error itself carries the hint, now and while it cools down (row 33)."""
    with routed(Scripted(RateLimitError("slow", retry_after=3600))) as router:
        for low in (3600, 3500):
            with pytest.raises(RateLimitError) as caught:
                router.generate("hi")
            assert low <= (caught.value.retry_after or 0) <= 3600
            assert caught.value.backend == "a"


def test_the_deadline_is_shared_by_all_attempts() -> None:
    """The caller waits once: while others wait, one attempt has half of what is left to begin its answer (row 7)."""
    patience: list[float] = []

    def silent(request: Request) -> BackendError:
        patience.append(request.scope.first_byte_by - monotonic())
        return BackendTimeout("no answer")

    with routed(*(Scripted(silent) for _ in range(3))) as router, pytest.raises(AllBackendsFailed):
        router.generate("hi", timeout=40)
    assert [18 < patience[0] <= 20, 18 < patience[1] <= 20, 38 < patience[2] <= 40] == [True] * 3


def test_a_silent_backend_leaves_time_for_the_next() -> None:
    """A backend that never answers is given up at its own limit, and the next one has the rest of the time."""
    silent, b = Silent(), Scripted("yes")
    with Router([Backend(silent, id="a", timeout=0.05), Backend(b, id="b")]) as router:
        assert router.generate("hi", timeout=40).backend == "b"
    assert silent.requests[0].scope is b.requests[0].scope
    assert b.requests[0].scope.remaining() > 30


def test_nothing_is_asked_when_the_time_is_up() -> None:
    """A call without time raises a timeout that says what to do, and costs no backend anything."""
    a = Scripted()
    with routed(a) as router, pytest.raises(BackendTimeout, match="give a longer timeout"):
        router.generate("hi", timeout=0)
    assert a.calls == 0


def test_an_attempt_may_have_a_shorter_limit() -> None:
    """`timeout` of a backend bounds one attempt there, within that of the call."""
    seen: list[float] = []

    def note(request: Request) -> str:
        seen.append(request.scope.remaining())
        return "yes"

    with Router([Backend(Scripted(note), timeout=1.5)], timeout=60) as router:
        router.generate("hi")
        router.generate("hi", timeout=1)
    assert 0 < seen[0] <= 1.5
    assert 0 < seen[1] <= 1


def test_a_refused_parameter_is_left_out_and_remembered() -> None:
    """A refused parameter is left out at once, with a warning, and not sent to that model again (row 12)."""

    def picky(request: Request) -> Any:
        for name in ("temperature", "seed"):
            if getattr(request, name) is not None:
                return InvalidRequestError("unsupported", parameter=name)
        return f"max {request.max_tokens}"

    a, b = Scripted(picky), Scripted()
    with Router([Backend(a, id="a", defaults={"temperature": 0.7}), Backend(b, id="b")]) as router:
        first = router.generate("hi", seed=1, max_tokens=9)
        assert first.text == "max 9"
        assert [w.split(";")[0] for w in first.warnings] == [
            "a: model 'scripted-model' refuses temperature",
            "a: model 'scripted-model' refuses seed",
        ]
        assert a.calls == 3
        again = router.generate("hi", seed=1)
        assert (a.calls, b.calls) == (4, 0)
        assert again.warnings == ("a: model 'scripted-model' does not take seed; sent without it",)
        other = router.generate("hi", seed=1, model="another")
        assert len(other.warnings) == 2, "what one model refuses says nothing about another"


@pytest.mark.parametrize("parameter", ["max_tokens", "schema", "stop", "nonsense"])
def test_a_parameter_with_a_meaning_is_never_dropped(parameter: str) -> None:
    """What shapes the answer itself is not left out: the error is raised, or others are asked if it says so."""
    error = InvalidRequestError("no", parameter=parameter)
    with routed(a := Scripted(error), Scripted('"yes"')) as router, pytest.raises(InvalidRequestError):
        router.generate("hi", max_tokens=5, schema={}, stop="x")
    assert a.calls == 1
    error = InvalidRequestError("no", parameter=parameter, try_next=True)
    with routed(Scripted(error), Scripted('"yes"')) as router:
        assert router.generate("hi", max_tokens=5, schema={}, stop="x").backend == "b"


def test_a_provider_that_has_learnt_is_asked_again_once() -> None:
    """`InvalidRequestError(retry_same=True)` means: ask me again, I know now; it is believed once for each call."""
    a = Scripted([InvalidRequestError("wants another field", retry_same=True), "well"])
    with routed(a) as router:
        assert router.generate("hi", max_retries=0).text == "well"
    stubborn = Scripted(InvalidRequestError("wants another field", retry_same=True))
    with routed(stubborn) as router, pytest.raises(InvalidRequestError):
        router.generate("hi", max_retries=5)
    assert stubborn.calls == 2


def test_a_long_request_goes_only_to_larger_windows() -> None:
    """A request that is too long for one model is sent only where more fits, or where that is unknown (row 10)."""
    long = ContextLengthError("too long")
    small, same = Scripted(long, context_window=4096), Scripted("same", context_window=4096)
    unknown, large = Scripted("unknown"), Scripted("large", context_window=8192)
    with routed(small, same, large, unknown) as router:
        assert router.generate("hi").text == "large"
    with routed(small, same, unknown) as router:
        assert router.generate("hi").text == "unknown"
    with routed(small, same) as router, pytest.raises(ContextLengthError):
        router.generate("hi")
    assert same.calls == 0
    limited = ContextLengthError("too long")
    limited.limit = 10_000
    with routed(Scripted(limited), large) as router, pytest.raises(ContextLengthError):
        router.generate("hi")


def test_several_failures_are_told_together() -> None:
    """When all that were tried failed, every error is there in the order tried, with the earliest time to come back."""
    with routed(
        Scripted(QuotaError("empty")), Scripted(RateLimitError("slow", retry_after=40.0)), timeout=30
    ) as router:
        with pytest.raises(AllBackendsFailed) as caught:
            router.generate("hi")
        error = caught.value
        assert [type(e) for e in error.exceptions] == [QuotaError, RateLimitError]
        assert outcomes(error) == [("a", "failed", "QuotaError"), ("b", "failed", "RateLimitError")]
        assert error.retry_after == 40.0
        assert "a: empty; b: slow" in str(error)
        with pytest.raises(AllBackendsFailed, match="no backend can take this request: a: cooling") as caught:
            router.generate("hi")
        assert 30 < (caught.value.retry_after or 0) <= 40


def test_attempts_tell_the_whole_story() -> None:
    """An attempt has backend, model, outcome, error, reason, duration; usage and cost are told once (row 39)."""
    a = Scripted(UnavailableError("down", **NOW), model="ma")
    b = Scripted(Completion("yes", usage=Usage(100, 10, cached_tokens=50), model="mb-2025"), model="mb")
    prices = {"input": 2.0, "output": 10.0, "cached": 1.0}
    with Router([Backend(a, id="a"), Backend(b, id="b", prices=prices)]) as router:
        answer = router.generate("hi")
    assert [(t.backend, t.model, t.outcome, t.error, t.reason) for t in answer.attempts] == [
        ("a", "ma", "failed", "UnavailableError", "down"),
        ("a", "ma", "failed", "UnavailableError", "down"),
        ("b", "mb-2025", "answered", None, None),
    ]
    assert all(t.duration_s >= 0 for t in answer.attempts)
    assert answer.cost == pytest.approx((50 * 2.0 + 50 * 1.0 + 10 * 10.0) / 1e6)
    with Router([b]) as router:
        assert router.generate("hi").cost is None, "an unknown price is not free"


def test_the_model_of_a_request_is_for_the_first() -> None:
    """A named model is asked of the first backend; the others are asked their own."""
    a, b = Scripted(UnavailableError("down", retry_same=False), model="ma"), Scripted("yes", model="mb")
    with routed(a, b) as router:
        answer = router.generate("hi", model="special")
    assert [r.model for r in (*a.requests, *b.requests)] == ["special", "mb"]
    assert [t.model for t in answer.attempts] == ["special", "mb"]


def test_a_named_model_that_is_not_there_costs_no_answer() -> None:
    """While the first backend rests, the next does not fail for not having the first one's model."""

    def only(own: str) -> Callable[[Request], Any]:
        return lambda request: "yes" if request.model == own else ModelNotFoundError(f"no {request.model}")

    a, b = Scripted([QuotaError("empty")], model="ma"), Scripted(only("mb"), model="mb")
    with routed(a, b) as router:
        for warnings in (0, 1, 0):
            answer = router.generate("hi", model="special")
            assert (answer.text, answer.backend, len(answer.warnings)) == ("yes", "b", warnings)
    assert [r.model for r in b.requests] == ["mb", "special", "mb", "mb"]


def test_an_unknown_model_of_a_backend_is_skipped_from_then_on() -> None:
    """A backend whose own model is gone is left out for that model only (row 9)."""
    a = Scripted(lambda request: "yes" if request.model == "new" else ModelNotFoundError("retired"), model="old")
    b = Scripted("b")
    with routed(a, b) as router:
        assert router.generate("hi").backend == "b"
        assert router.generate("hi").backend == "b"
        assert a.calls == 1
        assert router.generate("hi", model="new").backend == "a"


@define(eq=False)
class Leaky:
    """Fails with a foreign exception while it holds a key."""

    key: Secret = field(factory=lambda: Secret("held-key-of-the-plugin"))
    raised: BaseException | type[BaseException] = ValueError

    @hookimpl
    def generate(self, request: Request) -> Completion:
        header = self.key.reveal()
        assert header
        raise ValueError(f"cannot send {header} to the server")


class Wordless(Exception):
    """Fails even at saying what failed."""

    def __str__(self) -> str:
        raise self


def test_an_exception_that_cannot_say_anything_is_told_by_its_name() -> None:
    """It comes out as ours, wherever a plugin raised it."""

    class Mute(Scripted):
        """Raises it in other hooks, too."""

        @hookimpl
        def health(self) -> Health:
            raise Wordless

        @hookimpl
        def list_models(self) -> list[ModelInfo]:
            raise Wordless

    with routed(Mute(Wordless())) as router:
        with pytest.raises(BackendError, match=r"a: the plugin failed with Wordless: \?"):
            router.generate("hi")
        assert router.health()["a"].reason.startswith("health raised Wordless: ?")
        assert str(router.models()["a"]) == "list_models raised Wordless: ?"


def test_a_plugins_own_exception_becomes_ours_without_its_secrets() -> None:
    """A foreign exception is wrapped with the place it came from; no key is in message or traceback (row 45)."""
    with routed(Leaky()) as router, pytest.raises(BackendError) as caught:
        router.generate("hi")
    error = caught.value
    assert type(error) is BackendError
    assert str(error).startswith(
        "a: the plugin failed with ValueError: cannot send *** to the server (in Leaky.generate"
    )
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "held-key-of-the-plugin" not in shown + repr(error) + repr(error.attempts)
    assert error.__cause__ is error.__context__ is None


@pytest.mark.parametrize("raised", [ZeroDivisionError("oops"), SystemExit(3), RecursionError("deep"), OSError(5, "io")])
def test_whatever_a_plugin_raises_the_next_one_answers(raised: BaseException) -> None:
    """No exception of a plugin, not even its wish to end the process, costs the caller the answer."""
    with routed(Scripted(raised), Scripted("yes")) as router:
        answer = router.generate("hi")
    assert outcomes(answer) == [("a", "failed", "BackendError"), ("b", "answered", None)]


def test_an_interrupt_is_not_swallowed() -> None:
    """Ctrl-C ends the call, and no other backend is asked."""
    b = Scripted()
    with routed(Scripted(KeyboardInterrupt()), b) as router, pytest.raises(KeyboardInterrupt):
        router.generate("hi")
    assert b.calls == 0


def test_nothing_of_one_attempt_reaches_the_next() -> None:
    """Model, defaults and dropped parameters of one backend are not those of the next (row 38)."""

    def picky(request: Request) -> BackendError:
        if request.temperature is not None:
            return InvalidRequestError("unsupported", parameter="temperature")
        return UnavailableError("down", retry_same=False)

    a, b = Scripted(picky, model="ma"), Scripted("yes", model="mb")
    backends = [
        Backend(a, id="a", defaults={"max_tokens": 7, "top_p": 0.5}),
        Backend(b, id="b", defaults={"max_tokens": 9}),
    ]
    given = Request((Message("user", "hi"),), temperature=0.3)
    with Router(backends) as router:
        router.generate(given)
    assert [(r.model, r.max_tokens, r.top_p, r.temperature) for r in (*a.requests, *b.requests)] == [
        ("ma", 7, 0.5, 0.3),
        ("ma", 7, 0.5, None),
        ("mb", 9, None, 0.3),
    ]
    assert given == Request((Message("user", "hi"),), temperature=0.3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"defaults": {"temperature": 5}}, "defaults.temperature: found 5, expected a number from 0 to 2"),
        ({"defaults": {"max_tokens": 0}}, "defaults.max_tokens: found 0, expected a whole number from 1"),
        ({"defaults": {"seed": 1}}, "defaults.seed: unknown key; expected one of frequency_penalty, max_tokens, "),
        ({"timeout": -1}, "timeout: found -1, expected a number above 0"),
        ({"max_retries": 1.5}, "max_retries: found 1.5, expected a whole number from 0"),
        ({"priority": "10"}, 'priority: found "10", expected a number'),
        ({"weight": None}, "weight: found null, expected a number from 0 upwards"),
        ({"model": 5}, "model: found 5, expected text"),
        ({"enabled": "no"}, 'enabled: found "no", expected true or false'),
        ({"prices": 5}, "prices: found 5, expected a mapping, each value a number from 0 upwards in US dollars"),
        ({"prices": {"in": 1}}, "prices: found a mapping, expected a mapping, each value a number from 0 upwards in"),
        ({"prices": {"input": -1}}, "prices.input: found -1, expected a number from 0 upwards"),
        ({"on_break": "stop"}, 'on_break: found "stop", expected one of "raise", "restart", "continue"'),
        ({"rate_limit": 0}, "rate_limit: found 0, expected a whole number from 1 upwards"),
    ],
)
def test_a_backend_is_checked_when_it_is_made(options: dict[str, Any], says: str) -> None:
    """An option that cannot be right is refused before any call, with what was found and expected."""
    with pytest.raises(errors.ConfigError) as caught:
        Backend(Scripted(), **options)
    assert str(caught.value).startswith(f"backend 'scripted': {says}")


def test_sixteen_threads_over_a_dying_primary() -> None:
    """Every call of sixteen threads is answered, each exactly once, while the primary dies under them."""
    calls, threads = 40, 16
    alive = iter(range(100))
    lock = threading.Lock()

    def dying(request: Request) -> str | BackendError:
        with lock:
            number = next(alive, None)
        return UnavailableError("died", retry_same=False) if number is None else f"a:{request.prompt}"

    answers: list[tuple[str, Completion]] = []
    with routed(Scripted(dying), Scripted(lambda request: f"b:{request.prompt}")) as router:

        def work(me: int) -> None:
            for number in range(calls):
                prompt = f"{me}/{number}"
                answers.append((prompt, router.generate(prompt)))

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(answers) == calls * threads == len({prompt for prompt, _ in answers})
    assert all(answer.text == f"{answer.backend}:{prompt}" for prompt, answer in answers)
    assert all([t.outcome for t in answer.attempts].count("answered") == 1 for _, answer in answers)
    assert sum(answer.backend == "a" for _, answer in answers) == 100
