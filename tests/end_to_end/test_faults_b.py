"""Answers under 200 that are none (section B), through `Router` with the real `openai` provider."""

from collections.abc import Callable
from typing import Any

import pytest
from pointsman import ToolCall, errors
from pointsman.testing import Fault, WireError, faults

Staged = Callable[..., Any]
both_ways = pytest.mark.parametrize("way", ["plain", "streamed"])
both_apis = pytest.mark.parametrize("api", ["chat", "responses"])


@both_apis
@both_ways
@pytest.mark.parametrize(
    "fault",
    [
        faults.html(),
        faults.plain_text(),
        faults.empty_body(),
        faults.broken_json(),
        faults.cut_json(),
        faults.wrong_length(),
        faults.bad_gzip(),
        faults.bad_gzip("cut"),
        faults.bad_utf8(),
        faults.reset("body"),
    ],
    ids=repr,
)
def test_row_15(stage: Staged, way: str, api: str, fault: Fault) -> None:
    """What cannot be read is unusable: retried once or not at all, then the next; nobody is left alone for long."""
    on = stage(fault, api=api)
    got = on.ask(way)
    tried = len(on.primary.asked)
    assert tried in (1, 2)
    assert all(error in ("UnusableAnswer", "UnavailableError") for _, _, error in got.attempts[:-1]), got.attempts
    on.check_fallback(got, tried, got.attempts[0][2])
    on.check_next_call(way)


def test_row_15_short(stage: Staged) -> None:
    """A length that cuts a plain answer makes it unusable; of a stream the end mark alone would be lost (row 26)."""
    on = stage(faults.wrong_length(-5))
    on.check_fallback(on.ask("plain"), 2, "UnusableAnswer")
    on.check_next_call("plain")


@both_ways
def test_row_15_once(stage: Staged, way: str) -> None:
    """What was unusable once is asked for again, and then it is good."""
    on = stage([faults.broken_json(), faults.well("Here speaks the primary.")])
    got = on.ask(way)
    assert got.text == "Here speaks the primary."
    assert got.attempts == [("primary", "failed", "UnusableAnswer"), ("primary", "answered", None)]
    assert not on.cooling()


class TestRow16:
    """An error object under 200 is classified by that object."""

    @both_ways
    @pytest.mark.parametrize(
        ("error", "kind", "tried"),
        [
            (WireError("Slow down.", "requests", "rate_limit_exceeded"), "RateLimitError", 2),
            (
                WireError("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
                "AuthenticationError",
                1,
            ),
            (WireError("Pay first.", "insufficient_quota", "insufficient_quota"), "QuotaError", 1),
            (WireError("No such model.", "invalid_request_error", "model_not_found"), "ModelNotFoundError", 1),
            (WireError("The server is overloaded.", "server_error", "server_is_overloaded"), "UnavailableError", 2),
        ],
        ids=lambda value: value.code if isinstance(value, WireError) else None,
    )
    def test_next(self, stage: Staged, way: str, error: WireError, kind: str, tried: int) -> None:
        """Those that say something about the backend lead to the next one, as with their own status."""
        on = stage(faults.error_under_200(error))
        on.check_fallback(on.ask(way), tried, kind)
        assert on.cooling()
        on.check_next_call(way)

    @both_ways
    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (WireError("Not allowed.", "invalid_request_error", "content_policy_violation"), errors.ContentFilterError),
            (WireError("Bad role.", "invalid_request_error", "invalid_value"), errors.InvalidRequestError),
        ],
        ids=["content", "request"],
    )
    def test_raised(self, stage: Staged, way: str, error: WireError, kind: type[Exception]) -> None:
        """Those that say something about the request are the caller's."""
        on = stage(faults.error_under_200(error))
        got = on.ask(way)
        assert type(got.error) is kind
        assert (len(on.primary.asked), len(on.spare.asked)) == (1, 0)
        assert not on.cooling()
        on.check_next_call(way)


class TestRow17:
    """Empty answers."""

    @both_apis
    @both_ways
    @pytest.mark.parametrize(
        "fault", [faults.empty_choices(), faults.null_content(), faults.whitespace(), faults.thinking_only()], ids=repr
    )
    def test_empty(self, stage: Staged, way: str, api: str, fault: Fault) -> None:
        """No choices, null, white space, thinking only: retried once, then the next; nothing of it is shown."""
        on = stage(fault, api=api)
        on.check_fallback(on.ask(way), 2, "UnusableAnswer")
        assert not on.cooling()
        on.check_next_call(way)

    @both_apis
    @both_ways
    def test_a_tool_call_alone(self, stage: Staged, way: str, api: str) -> None:
        """A tool call without text is a good answer."""
        call = ToolCall("call_7", "report", '{"river": "Rhine"}')
        on = stage(faults.well(tool_calls=(call,)), api=api)
        got = on.ask(way, tools=[{"name": "report"}])
        assert got.completion
        assert (got.completion.tool_calls, got.completion.finish_reason) == ((call,), "tool_calls")
        assert got.attempts == [("primary", "answered", None)]


class TestRow18:
    """Refusals and safety stops are as row 11."""

    @both_apis
    @both_ways
    @pytest.mark.parametrize("fault", [faults.refusal(), faults.safety_stop()], ids=repr)
    def test_raised(self, stage: Staged, way: str, api: str, fault: Fault) -> None:
        """The caller gets the refusal, from one attempt; nobody else is asked."""
        on = stage(fault, api=api)
        got = on.ask(way)
        assert isinstance(got.error, errors.ContentFilterError)
        assert got.attempts == [("primary", "failed", "ContentFilterError")]
        assert (len(on.primary.asked), len(on.spare.asked)) == (1, 0)
        assert not on.cooling()
        on.check_next_call(way)

    @both_apis
    @both_ways
    @pytest.mark.parametrize("fault", [faults.refusal(), faults.safety_stop()], ids=repr)
    def test_next_if_wanted(self, stage: Staged, way: str, api: str, fault: Fault) -> None:
        """With `on_refusal="next"` the spare is asked."""
        on = stage(fault, api=api, on_refusal="next")
        on.check_fallback(on.ask(way), 1, "ContentFilterError")

    @both_apis
    @both_ways
    def test_after_text(self, stage: Staged, way: str, api: str) -> None:
        """A safety stop after some text is a refusal too: the text is no answer."""
        on = stage(faults.safety_stop("Well, first you"), api=api)
        got = on.ask(way)
        assert isinstance(got.error, errors.ContentFilterError)
        assert not on.spare.asked
        on.check_next_call(way)


@both_apis
@both_ways
def test_row_19(stage: Staged, way: str, api: str) -> None:
    """An answer that `max_tokens` ended is good, and its finish reason stays `length`."""
    on = stage(faults.length("Once upon a"), api=api)
    got = on.ask(way, max_tokens=3)
    assert got.completion
    assert (got.text, got.completion.finish_reason) == ("Once upon a", "length")
    assert got.attempts == [("primary", "answered", None)]
    assert not on.cooling()
    on.check_next_call(way)


class TestRow20:
    """Finish reason `error`, or none."""

    FAULTS = (faults.finish_error(), faults.no_finish())

    @both_apis
    @pytest.mark.parametrize("fault", FAULTS, ids=repr)
    def test_plain(self, stage: Staged, api: str, fault: Fault) -> None:
        """A whole answer that ended in an error is none: the next one answers."""
        on = stage(fault, api=api)
        got = on.ask("plain")
        tried = len(on.primary.asked)
        assert tried in (1, 2)
        assert got.attempts[0][2] in ("UnusableAnswer", "UnavailableError")
        on.check_fallback(got, tried, got.attempts[0][2])
        on.check_next_call("plain")

    @both_apis
    @pytest.mark.parametrize("fault", FAULTS, ids=repr)
    def test_streamed(self, stage: Staged, api: str, fault: Fault) -> None:
        """A stream that ends so has shown its text: the caller is told that it is not whole."""
        on = stage(fault, api=api)
        got = on.ask("streamed")
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert got.error.text == got.text == "Half an answ"
        assert not on.spare.asked
        on.check_next_call("streamed")


@both_apis
def test_schema(stage: Staged, api: str) -> None:
    """JSON was asked for and prose came: unusable, so it is asked for once more, and then elsewhere."""
    on = stage(faults.well("Surely! Here is your JSON."), api=api)
    on.spare.play(faults.well())
    got = on.ask("plain", schema={"type": "object", "properties": {"name": {"type": "string"}}})
    assert got.completion
    assert got.completion.parsed() == {"name": "text"}
    assert got.attempts == [*[("primary", "failed", "UnusableAnswer")] * 2, ("spare", "answered", None)]
    on.check_next_call("plain")
