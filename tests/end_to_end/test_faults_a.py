"""Faults before any answer (section A), through `Router` with the real `openai` provider.

Each row: what the caller gets, how often each server was asked, how long it took, what the router
thinks of the backend afterwards, and that the next call works.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pointsman import errors
from pointsman.testing import Fault, WireError, faults

Staged = Callable[..., Any]
both_ways = pytest.mark.parametrize("way", ["plain", "streamed"])

WELL = faults.well("Here speaks the primary.")


class TestRow1:
    """A hint is honoured: waited for if it fits the deadline, else the next backend answers."""

    @both_ways
    @pytest.mark.parametrize(
        ("fault", "seconds"),
        [
            (faults.rate_limited(1), 1.0),
            (faults.rate_limited(in_seconds=2), 0.5),  # dates have whole seconds
            (faults.rate_limited(60, retry_after_ms=300), 0.3),
            (faults.rate_limited(in_body=0.3), 0.3),
        ],
        ids=repr,
    )
    def test_waits(self, stage: Staged, way: str, fault: Fault, seconds: float) -> None:
        """A hint that fits is waited for, and the same backend answers."""
        on = stage([fault, WELL])
        got = on.ask(way)
        assert got.text == "Here speaks the primary."
        assert got.attempts == [("primary", "failed", "RateLimitError"), ("primary", "answered", None)]
        first, second = on.primary.asked
        assert second.arrived_at - first.arrived_at >= seconds
        assert not on.spare.asked
        assert not on.cooling()
        on.check_next_call(way)

    @both_ways
    @pytest.mark.parametrize("hint", ["retry_after", "in_seconds", "in_body"])
    def test_does_not_fit(self, stage: Staged, way: str, hint: str) -> None:
        """A hint beyond the deadline is not waited for; the backend is left alone for so long."""
        on = stage(faults.rate_limited(**{hint: 30}))
        got = on.ask(way)
        on.check_fallback(got, 1, "RateLimitError")
        assert got.seconds < 5
        assert 20 < on.pause_of() <= 30
        on.check_next_call(way)
        assert len(on.primary.asked) == 1


@both_ways
def test_row_2(stage: Staged, way: str) -> None:
    """`Retry-After` of an hour is never slept out: next backend, this one cooled down for that long."""
    on = stage(faults.rate_limited(3600))
    on.check_fallback(on.ask(way), 1, "RateLimitError")
    assert 3500 < on.pause_of() <= 3600
    on.check_next_call(way)
    assert len(on.primary.asked) == 1


@both_ways
def test_row_3(stage: Staged, way: str) -> None:
    """429 without a hint, again and again: a bounded number of attempts with growing waits, then the next."""
    on = stage(faults.rate_limited(), max_retries=2)
    on.check_fallback(on.ask(way), 3, "RateLimitError")
    assert on.cooling()
    on.check_next_call(way)


@both_ways
def test_row_4(stage: Staged, way: str) -> None:
    """500 once, then well: one retry at the same backend."""
    on = stage([faults.status(500), WELL])
    got = on.ask(way)
    assert got.text == "Here speaks the primary."
    assert got.attempts == [("primary", "failed", "UnavailableError"), ("primary", "answered", None)]
    assert (len(on.primary.asked), len(on.spare.asked)) == (2, 0)
    assert not on.cooling()
    on.check_next_call(way)


@pytest.mark.parametrize(
    ("way", "status", "body"),
    [
        *(("plain", status, "html") for status in (502, 503, 504, *range(520, 530))),
        *(("streamed", status, "empty") for status in (502, 504, 522, 529)),
        ("plain", 503, "empty"),
        ("plain", 503, "text"),
        ("streamed", 503, "json"),
    ],
)
def test_row_5(stage: Staged, way: str, status: int, body: Any) -> None:
    """A gateway's error, whatever its body: retry, then next; a short cool-down."""
    on = stage(faults.status(status, body=body))
    on.check_fallback(on.ask(way), 2, "UnavailableError")
    assert on.cooling()
    on.check_next_call(way)


class TestRow6:
    """Who cannot be reached: the next backend at once."""

    @both_ways
    @pytest.mark.parametrize("place", ["refused", "unresolvable", "no tls"])
    def test_unreachable(self, stage: Staged, way: str, place: str, fault_server: Callable[..., Any]) -> None:
        """Refused, unknown host, failed handshake: one attempt."""
        with faults.nobody_listens() as refused:
            tls = fault_server().tls_url
            url = {"refused": refused, "unresolvable": faults.UNRESOLVABLE_URL, "no tls": tls}[place]
            on = stage(WELL, primary_url=url)
            got = on.ask(way)
            assert got.attempts == [("primary", "failed", "UnavailableError"), ("spare", "answered", None)]
            assert got.text == "Here speaks the spare."
            assert got.seconds < on.timeout
            assert on.cooling()
            on.check_next_call(way)

    @both_ways
    @pytest.mark.parametrize(
        "fault", [faults.reset_on_connect(), faults.reset(), faults.reset("headers"), faults.hang_up()], ids=repr
    )
    def test_reset(self, stage: Staged, way: str, fault: Fault) -> None:
        """Reset or closed before the request, after it, or within the headers: one attempt."""
        on = stage(fault)
        got = on.ask(way)
        assert len(on.primary.log) == 1, got.attempts
        on.check_fallback(got, 1, "UnavailableError")
        on.check_next_call(way)


class TestRow7:
    """Accepts the connection and says nothing, or one byte a second: bounded."""

    SLOW = (faults.silent(), faults.drip(0.2))

    @both_ways
    @pytest.mark.parametrize("fault", SLOW, ids=repr)
    def test_spare_answers(self, stage: Staged, way: str, fault: Fault) -> None:
        """The spare answers within the deadline, and the connection to the primary is closed."""
        on = stage(fault, timeout=6.0)
        on.check_fallback(on.ask(way), 1, "BackendTimeout")
        assert on.primary.log[0].wait_closed()
        assert on.cooling()
        on.check_next_call(way)

    @both_ways
    @pytest.mark.parametrize("fault", [*SLOW, faults.drip(0.2, part="body")], ids=repr)
    def test_alone(self, stage: Staged, way: str, fault: Fault) -> None:
        """Without a spare it is a timeout, when the time is up and not long after."""
        on = stage(fault, timeout=1.5, alone=True)
        got = on.ask(way)
        assert isinstance(got.error, errors.BackendTimeout)
        assert 1.4 <= got.seconds < 6
        assert on.primary.log[0].wait_closed()

    def test_first_token_limit(self, stage: Staged) -> None:
        """Of a stream the first token has a limit of its own."""
        on = stage(faults.silent(), timeout=60.0, limits={"first_token_timeout": 0.5})
        got = on.ask("streamed")
        on.check_fallback(got, 1, "BackendTimeout")
        assert got.seconds < 10


@both_ways
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.bad_key(), "AuthenticationError"),
        (faults.no_permission(), "AuthenticationError"),
        (faults.bad_key_under_400(), "AuthenticationError"),
        (faults.no_money(), "QuotaError"),
        (faults.no_quota(), "QuotaError"),
    ],
    ids=repr,
)
def test_row_8(stage: Staged, way: str, fault: Fault, error: str) -> None:
    """Key, permission, money, quota: not retried; next backend; left alone for long."""
    on = stage(fault)
    on.check_fallback(on.ask(way), 1, error)
    assert on.pause_of() > 600
    on.check_next_call(way)
    assert len(on.primary.asked) == 1


@both_ways
@pytest.mark.parametrize("status", [404, 400])
def test_row_9(stage: Staged, way: str, status: int) -> None:
    """Unknown model: next backend; this model of this backend is skipped, and its other models are not."""
    on = stage(faults.unknown_model(status=status))
    on.check_fallback(on.ask(way), 1, "ModelNotFoundError")
    assert on.cooling()
    on.check_next_call(way)
    assert len(on.primary.asked) == 1
    assert on.ask(way, model="another-model").completion.model == "another-model"
    assert len(on.primary.asked) == 2


class TestRow10:
    """Context too long: not resent there; only to a backend with a larger window."""

    @both_ways
    def test_larger(self, stage: Staged, way: str) -> None:
        """A spare with a larger window answers; nobody is left alone."""
        on = stage(faults.context_too_long(), windows={"primary": 4096, "spare": 128_000})
        on.check_fallback(on.ask(way), 1, "ContextLengthError")
        assert not on.cooling()
        on.check_next_call(way)

    @both_ways
    @pytest.mark.parametrize("window", [2048, 4096])
    def test_not_larger(self, stage: Staged, way: str, window: int) -> None:
        """A spare without a larger window is not asked: the caller gets the error."""
        on = stage(faults.context_too_long(), windows={"primary": 4096, "spare": window})
        got = on.ask(way)
        assert isinstance(got.error, errors.ContextLengthError)
        assert (len(on.primary.asked), len(on.spare.asked)) == (1, 0)
        on.check_next_call(way)


class TestRow11:
    """Content filter: not retried; falls back only if the caller asked for that."""

    @both_ways
    def test_raises(self, stage: Staged, way: str) -> None:
        """The caller gets the refusal, from one attempt, and the backend is not blamed."""
        on = stage(faults.content_filtered())
        got = on.ask(way)
        assert isinstance(got.error, errors.ContentFilterError)
        assert got.attempts == [("primary", "failed", "ContentFilterError")]
        assert (len(on.primary.asked), len(on.spare.asked)) == (1, 0)
        assert not on.cooling()
        on.check_next_call(way)

    @both_ways
    def test_next_if_wanted(self, stage: Staged, way: str) -> None:
        """With `on_refusal="next"` the spare is asked."""
        on = stage(faults.content_filtered())
        on.check_fallback(on.ask(way, on_refusal="next"), 1, "ContentFilterError")


class TestRow12:
    """A refused parameter: resent once without it, with a warning; remembered for that model."""

    @both_ways
    @pytest.mark.parametrize(
        "parameter", ["temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "top_k"]
    )
    def test_dropped(self, stage: Staged, way: str, parameter: str) -> None:
        """The primary answers without it, and the next call does not send it again."""
        on = stage(faults.unsupported(parameter))
        value = 1 if parameter in ("seed", "top_k") else 0.5
        got = on.ask(way, "Name three rivers.", **{parameter: value})
        assert got.text == "You said: Name three rivers."
        assert got.attempts == [("primary", "failed", "InvalidRequestError"), ("primary", "answered", None)]
        assert got.completion
        assert [parameter in warning for warning in got.completion.warnings] == [True]
        assert [parameter in seen.body for seen in on.primary.asked] == [True, False]
        assert not on.cooling()
        assert on.ask(way, "Again.", **{parameter: value}).text == "You said: Again."
        assert parameter not in on.primary.asked[-1].body
        assert len(on.primary.asked) == 3
        assert not on.spare.asked

    @both_ways
    def test_asked_in_vain(self, stage: Staged, way: str) -> None:
        """A server that refuses it although it is gone is not asked for ever."""
        on = stage(faults.unsupported("temperature", always=True))
        got = on.ask(way, temperature=0.5)
        assert got.text == "Here speaks the spare."
        assert len(on.primary.asked) == 2

    @both_ways
    def test_meaning_is_not_dropped(self, stage: Staged, way: str) -> None:
        """What shapes the meaning is never left out: another backend may take it."""
        on = stage(faults.unsupported("stop"))
        got = on.ask(way, stop=["\n"])
        assert got.text == "Here speaks the spare."
        assert len(on.primary.asked) == 1
        assert on.spare.asked[0].body["stop"] == ["\n"]


@both_ways
@pytest.mark.parametrize(
    "fault",
    [faults.bad_request(), faults.bad_request(status=422), faults.bad_request(status=422, shape="detail")],
    ids=repr,
)
def test_row_13(stage: Staged, way: str, fault: Fault) -> None:
    """Any other 400 or 422 is the caller's: raised at once, no fallback, nobody left alone."""
    on = stage(fault)
    got = on.ask(way)
    assert isinstance(got.error, errors.InvalidRequestError)
    assert "Invalid value: 'robot'" in str(got.error)
    assert got.attempts == [("primary", "failed", "InvalidRequestError")]
    assert (len(on.primary.asked), len(on.spare.asked)) == (1, 0)
    assert not on.cooling()
    on.check_next_call(way)


@both_ways
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_row_14(stage: Staged, way: str, status: int, loop: bool) -> None:
    """A redirect is an error and never followed: neither the POST nor the key goes anywhere else."""
    on = stage(faults.redirect(status, loop=loop))
    got = on.ask(way)
    assert got.text == "Here speaks the spare."
    assert {(seen.method, seen.path) for seen in on.primary.log} == {("POST", "/v1/chat/completions")}
    assert len(on.primary.log) == 1
    on.check_next_call(way)


def test_all_fail(stage: Staged) -> None:
    """Where nobody answers, the error holds each backend's own, in the order tried, and when to come again."""
    on = stage(faults.bad_key())
    on.spare.play(faults.rate_limited(40))
    got = on.ask("plain")
    assert isinstance(got.error, errors.AllBackendsFailed)
    assert [type(error) for error in got.error.exceptions] == [errors.AuthenticationError, errors.RateLimitError]
    assert [getattr(error, "backend", None) for error in got.error.exceptions] == ["primary", "spare"]
    assert 30 < (got.error.retry_after or 0) <= 40
    assert len(got.attempts) == 2


def test_error_says_who(stage: Staged) -> None:
    """One candidate raises its own error, with its name, status and the provider's own words."""
    down = WireError("The line is down.", code="line_down", status=503)
    on = stage(faults.status(503, down), alone=True, max_retries=0)
    got = on.ask("plain")
    assert type(got.error) is errors.UnavailableError
    assert (got.error.backend, got.error.model, got.error.status) == ("primary", "model-of-primary", 503)
    assert got.error.code == "line_down"
    assert "The line is down." in str(got.error)


@both_ways
def test_sixteen_threads_over_a_dying_primary(stage: Staged, way: str) -> None:
    """Every call is answered with its own answer, and each is answered exactly once, by whomever."""
    dying = [faults.well(), faults.status(503), faults.reset(), faults.html(), faults.cut_json(), faults.hang_up()]
    on = stage(lambda seen: dying[seen.number % len(dying)] if seen.number < 40 else faults.reset(), timeout=60.0)
    on.spare.play(faults.well())
    prompts = [f"Question {number}." for number in range(16 * 6)]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda prompt: on.ask(way, prompt), prompts))
    assert [got.text for got in found] == [f"You said: {prompt}" for prompt in prompts]
    answered = [seen for seen in (*on.primary.asked, *on.spare.asked) if seen.fault == "well()"]
    assert sorted(seen.body["messages"][0]["content"] for seen in answered) == sorted(prompts)
    seen = [*on.primary.asked, *on.spare.asked]
    # A connection that had served before and ended at once, without a byte, is replaced within the same attempt.
    replaced = sum(each.fault in ("reset()", "hang_up()") for each in seen)
    assert 0 <= len(seen) - sum(len(got.attempts) for got in found) <= replaced
