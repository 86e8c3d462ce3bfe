"""Rows 15 to 20: 200 that is no answer."""

from __future__ import annotations

from ...values import ToolCall
from .. import faults
from ..answers import WireError
from ._play import BOTH, PLAIN, STREAMED, WELL, Run, answers, case, falls_back, raises, recovers

for unreadable in (
    faults.html(),
    faults.plain_text(),
    faults.empty_body(),
    faults.broken_json(),
    faults.cut_json(),
    faults.wrong_length(),
    faults.bad_gzip(),
    faults.bad_gzip("cut"),
    faults.bad_utf8(),
):
    falls_back(15, unreadable, "UnusableAnswer", tried=2, circuit="closed")
falls_back(15, faults.wrong_length(-5), "UnusableAnswer", tried=2, circuit="closed", ways=PLAIN)
falls_back(15, faults.reset("body"), "UnavailableError")
recovers(15, [faults.broken_json(), WELL], "UnusableAnswer")

_REQUEST = "invalid_request_error"
for error, raised, times in (
    (WireError("Slow down.", "requests", "rate_limit_exceeded"), "RateLimitError", 2),
    (WireError("The server is overloaded.", "server_error", "server_is_overloaded"), "UnavailableError", 2),
    (WireError("Incorrect API key provided.", _REQUEST, "invalid_api_key"), "AuthenticationError", 1),
    (WireError("Pay first.", "insufficient_quota", "insufficient_quota"), "QuotaError", 1),
    (WireError("No such model.", _REQUEST, "model_not_found"), "ModelNotFoundError", 1),
):
    falls_back(16, faults.error_under_200(error), raised, tried=times, name=f"error_under_200({error.code})")
for error, raised in (
    (WireError("Not allowed.", _REQUEST, "content_policy_violation"), "ContentFilterError"),
    (WireError("Bad role.", _REQUEST, "invalid_value", status=400), "InvalidRequestError"),
):
    raises(16, faults.error_under_200(error), raised, name=f"error_under_200({error.code})")

for empty in (faults.empty_choices(), faults.null_content(), faults.whitespace(), faults.thinking_only()):
    falls_back(17, empty, "UnusableAnswer", tried=2, circuit="closed")


@case(17, "a tool call and no text", *BOTH)
def tool_call_alone(run: Run) -> None:
    """It is a good answer."""
    call = ToolCall("call_7", "report", '{"river": "Rhine"}')
    run.stage(faults.well(tool_calls=(call,)))
    got = run.ask(tools=[{"name": "report"}])
    run.check_answer("", "primary")
    run.check(got.completion and got.completion.tool_calls, (call,), "tool calls")
    run.check_circuit("closed")


for refused in (faults.refusal(), faults.safety_stop()):
    raises(18, refused, "ContentFilterError")
    falls_back(18, refused, "ContentFilterError", circuit="closed", on_refusal="next")
answers(19, faults.length("Once upon a"), "Once upon a", finish="length", max_tokens=3)
for unended in (faults.finish_error(), faults.no_finish()):
    falls_back(20, unended, "UnusableAnswer", tried=2, circuit="closed", ways=PLAIN)
    raises(20, unended, "IncompleteAnswer", text="Half an answ", ways=STREAMED)
