"""What an answer's status, headers and body mean: the body counts before the status (WIRE, section 6)."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from pointsman import (
    AuthenticationError,
    BackendError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    Secret,
    UnavailableError,
)
from pointsman.http import classify, error_in


def classified(status: int, body: Any, **headers: str) -> BackendError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def openai(
    message: str = "m", code: str | None = None, type: str = "invalid_request_error", param: str | None = None
) -> Any:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def gemini(code: int, status: str, message: str = "m", *details: Any) -> Any:
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


def anthropic(type: str, message: str = "m", **details: str) -> Any:
    return {"type": "error", "error": {"type": type, "message": message, "details": details or None}, "request_id": "r"}


PER_DAY = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}
PER_MINUTE = {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]}
PLAN = "You exceeded your current quota, please check your plan and billing details."

TABLE: list[tuple[type[BackendError], int, Any]] = [
    # keys
    (AuthenticationError, 401, openai("Incorrect API key provided: sk-12****34.", "invalid_api_key")),
    (AuthenticationError, 401, b""),
    (AuthenticationError, 401, {"error": "Invalid username or password."}),
    (AuthenticationError, 400, gemini(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"})),
    (AuthenticationError, 401, gemini(401, "UNAUTHENTICATED", "m", {"reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED"})),
    (AuthenticationError, 403, gemini(403, "PERMISSION_DENIED", "Your API key was reported as leaked.")),
    (AuthenticationError, 401, anthropic("authentication_error")),
    (AuthenticationError, 400, {"code": "The key is wrong", "error": "Incorrect API key provided: xa***."}),
    # permission, region, plan
    (AuthenticationError, 403, openai("m", "unsupported_country_region_territory")),
    (AuthenticationError, 400, gemini(400, "FAILED_PRECONDITION", "User location is not supported.")),
    (AuthenticationError, 403, anthropic("permission_error")),
    (AuthenticationError, 403, {"error": {"message": "m", "availability": {"code": "region_restricted"}}}),
    (AuthenticationError, 401, openai("Your IP address is not allowed to ask this API.", "ip_not_allowed")),
    (AuthenticationError, 401, openai("You must be a member of an organization to use the API.")),
    (AuthenticationError, 403, openai("This model needs the trusted access program.", "model_access_denied")),
    (AuthenticationError, 403, gemini(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers.")),
    (
        AuthenticationError,
        403,
        gemini(403, "PERMISSION_DENIED", "Requests from referer <empty> are blocked.", {"reason": "API_KEY_HTTP_REF"}),
    ),
    # money
    (QuotaError, 402, {"error": "You have exceeded your monthly included credits"}),
    (QuotaError, 402, b""),
    (QuotaError, 429, openai(PLAN, "insufficient_quota", "insufficient_quota")),
    (QuotaError, 429, openai("m", "credit_balance_exhausted", "insufficient_quota")),
    (QuotaError, 429, openai("m", "organization_spend_limit_exceeded")),
    (QuotaError, 429, openai("m", "project_spend_limit_exceeded")),
    (QuotaError, 429, openai("m", "organization_usage_limit_exceeded")),
    (
        QuotaError,
        400,
        anthropic("invalid_request_error", "You have reached your specified workspace API usage limits."),
    ),
    (QuotaError, 400, anthropic("invalid_request_error", "Your credit balance is too low to access the API.")),
    (QuotaError, 400, anthropic("invalid_request_error", "m", error_code="organization_on_hold")),
    (QuotaError, 429, anthropic("rate_limit_error", "m", error_code="enforced_spend_limit_reached")),
    (QuotaError, 402, anthropic("billing_error")),
    (QuotaError, 429, gemini(429, "RESOURCE_EXHAUSTED", PLAN, PER_DAY, {"retryDelay": "3s"})),
    (QuotaError, 429, gemini(429, "RESOURCE_EXHAUSTED", PLAN)),
    (QuotaError, 403, {"error": {"code": 403, "message": "Key limit exceeded (total limit)"}}),
    (QuotaError, 429, anthropic("rate_limit_error", "m", error_code="contract_spend_limit_reached")),
    (QuotaError, 403, {"error": {"code": 403, "message": "Budget exceeded", "metadata": {"limit_source": "budget"}}}),
    (QuotaError, 429, {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day. Add credits."}}),
    # rate
    (RateLimitError, 429, anthropic("rate_limit_error", "m", error_code="ramp_limit_exceeded")),
    (RateLimitError, 429, {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-min."}}),
    (RateLimitError, 429, b"slow down"),
    (RateLimitError, 429, openai("Rate limit reached for model gpt-x on tokens per min", "rate_limit_exceeded")),
    (RateLimitError, 429, openai("m", "slow_down", "rate_limit_error")),
    (RateLimitError, 429, gemini(429, "RESOURCE_EXHAUSTED", PLAN, PER_MINUTE, {"retryDelay": "38s"})),
    (RateLimitError, 498, {"error": {"message": "m", "code": "capacity_exceeded"}}),
    (RateLimitError, 429, anthropic("rate_limit_error", "too many tokens per minute")),
    # overload and failure
    (UnavailableError, 503, openai("m", "server_is_overloaded", "service_unavailable_error")),
    (UnavailableError, 529, anthropic("overloaded_error", "Overloaded")),
    (UnavailableError, 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
    (UnavailableError, 429, {"error": {"message": "m", "availability": {"code": "capacity_exhausted"}}}),
    (UnavailableError, 502, b"<html><head><title>502 Bad Gateway</title></head></html>"),
    (UnavailableError, 522, b""),
    (UnavailableError, 500, openai("m", None, "server_error")),
    (UnavailableError, 500, b"model not found or context length exceeded? who knows"),
    (UnavailableError, 408, anthropic("timeout_error")),
    (UnavailableError, 409, anthropic("conflict_error")),
    (UnavailableError, 405, b""),
    (UnavailableError, 424, {"error": "m", "error_type": "generation"}),
    (UnavailableError, 429, {"error": "Model is overloaded", "error_type": "overloaded"}),
    # model
    (
        ModelNotFoundError,
        404,
        openai("The model `x` does not exist or you do not have access to it.", "model_not_found"),
    ),
    (ModelNotFoundError, 404, b"404 page not found"),
    (ModelNotFoundError, 410, b""),
    (ModelNotFoundError, 400, openai("x is not supported by any provider you have enabled.", "model_not_supported")),
    (ModelNotFoundError, 400, {"error": {"code": 400, "message": "x is not a valid model ID"}}),
    (ModelNotFoundError, 404, anthropic("not_found_error", "model: claude-x")),
    (ModelNotFoundError, 404, gemini(404, "NOT_FOUND", "models/x is not found for API version v1beta")),
    (ModelNotFoundError, 404, {"error": {"message": "m", "availability": {"code": "free_variant_ended"}}}),
    (ModelNotFoundError, 404, {"error": {"code": "DeploymentNotFound", "message": "m"}}),
    (ModelNotFoundError, 404, gemini(404, "NOT_FOUND", "This model is no longer available to new users.")),
    (ModelNotFoundError, 400, {"error": "Model mistralai/x is not supported by provider hf-inference"}),
    *(
        (ModelNotFoundError, 404, {"error": {"message": "m", "http_status": 404, "availability": {"code": code}}})
        for code in ("no_endpoints", "model_deprecated", "privacy_restricted", "constraint_filtered")
    ),
    # context
    *(
        (ContextLengthError, 400, {"message": f"Sorry: {words}."})
        for words in (
            "the request exceeds the available context size",
            "input is too long for requested model",
            "too many tokens in the prompt",
            "maximum input length is 4096",
            "input length and max_tokens exceed context limit: 210000 > 200000",
        )
    ),
    (ContextLengthError, 400, {"detail": "Requested tokens (9000) exceed context window of 4096"}),
    *(
        (ContextLengthError, 400, {"error": {"code": 400, "message": "m", "metadata": {"error_type": kind}}})
        for kind in ("context_length_exceeded", "token_limit_exceeded", "max_tokens_exceeded")
    ),
    (ContextLengthError, 400, openai("This model's maximum context length is 8192 tokens.", "context_length_exceeded")),
    (ContextLengthError, 400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")),
    (
        ContextLengthError,
        400,
        gemini(400, "INVALID_ARGUMENT", "The input exceeds the maximum number of tokens allowed"),
    ),
    (ContextLengthError, 400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "m"}}),
    (
        ContextLengthError,
        422,
        {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "validation"},
    ),
    (ContextLengthError, 403, {"error": {"message": "prompt tokens + max_tokens must be <= 4097"}}),
    (
        ContextLengthError,
        400,
        {"object": "error", "message": "maximum context length is 4096", "type": "x", "code": 400},
    ),
    # refusals
    (ContentFilterError, 403, {"error": {"code": 403, "message": "Blocked by guardrail: PII"}}),
    (ContentFilterError, 400, openai("m", "image_content_policy_violation")),
    (ContentFilterError, 400, {"error": {"code": 400, "message": "m", "metadata": {"error_type": "refusal"}}}),
    (ContentFilterError, 400, openai("Your request was rejected.", "content_policy_violation")),
    (ContentFilterError, 400, openai("The prompt triggered content management policy.", "content_filter")),
    (ContentFilterError, 400, anthropic("invalid_request_error", "Output blocked by content filtering policy")),
    (ContentFilterError, 400, openai("Invalid prompt: flagged as violating our usage policy.", "invalid_prompt")),
    (ContentFilterError, 400, openai("m", "invalid_prompt")),
    (ContentFilterError, 400, openai("m", "bio_policy")),
    (ContentFilterError, 400, openai("m", "misalignment_policy_violation")),
    (InvalidRequestError, 400, {"error": {"code": 400, "metadata": {"error_type": "invalid_prompt"}}}),  # OpenRouter
    (ContextLengthError, 400, {"error": {"code": 400, "metadata": {"error_type": "string_too_long"}}}),
    (InvalidRequestError, 422, {"detail": [{"loc": ["body", "x"], "msg": "too long", "type": "string_too_long"}]}),
    # the caller's fault
    (InvalidRequestError, 400, openai("Invalid type for 'messages'", "invalid_type", param="messages")),
    (InvalidRequestError, 400, openai("string too long", "string_above_max_length")),
    (InvalidRequestError, 413, anthropic("request_too_large")),
    (InvalidRequestError, 422, {"detail": [{"loc": ["body", "n"], "msg": "ensure n >= 1", "type": "value_error"}]}),
    (InvalidRequestError, 422, {"error": "m", "error_type": "validation"}),
    (InvalidRequestError, 400, b""),
    (UnavailableError, 500, {"error": "m", "error_type": "incomplete_generation"}),
]


@pytest.mark.parametrize(("expected", "status", "body"), TABLE)
@pytest.mark.parametrize("wrap", [False, True])
def test_the_table(expected: type[BackendError], status: int, body: Any, wrap: bool) -> None:
    """Every row of the table gives its class, also wrapped in a list of one."""
    error = classified(status, [body] if wrap and isinstance(body, dict) else body)
    assert type(error) is expected
    assert error.status == status


NO_SCHEMA = "'response_format' of type 'json_schema' is not supported with this model"
EXTRA_SEED = {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}
NO_THOUGHT = "Expected `thinking` or `redacted_thinking`, but found `tool_use`."
FORCED = "may not be enabled when tool_choice forces tool use."
UNKNOWN_TOP_K = "Invalid JSON payload. Unknown name \"topK\" at 'generation_config'"


@pytest.mark.parametrize(
    ("status", "body", "field"),
    [
        (400, openai("does not support 0.7", "unsupported_value", param="temperature"), "temperature"),
        (400, openai("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."), "max_tokens"),
        (400, openai("Unrecognized request argument supplied: top_k"), "top_k"),
        (400, anthropic("invalid_request_error", "temperature: Extra inputs are not permitted"), "temperature"),
        (400, anthropic("invalid_request_error", "`top_p` is deprecated for this model."), "top_p"),
        (422, {"detail": [EXTRA_SEED]}, "seed"),
        (400, gemini(400, "INVALID_ARGUMENT", UNKNOWN_TOP_K), "top_k"),
        (400, {"object": "error", "message": "not supported", "param": "stream_options"}, "stream_options"),
        (400, openai(NO_SCHEMA, param="response_format"), "schema"),
        (400, openai("Unsupported value: 'xhigh'", "unsupported_value", param="reasoning.effort"), "reasoning_effort"),
        (400, openai("Invalid: not supported", "unsupported_parameter", param="text.format.schema"), "schema"),
        (400, anthropic("invalid_request_error", "`thinking` is not supported."), "reasoning_effort"),
        (400, anthropic("invalid_request_error", "'claude-3-5-haiku' does not support thinking."), "reasoning_effort"),
        (400, anthropic("invalid_request_error", "output_config.effort: not supported"), "reasoning_effort"),
        (400, anthropic("invalid_request_error", "output_config.format: not supported"), "schema"),
        (400, anthropic("invalid_request_error", f"messages.3.content.0.type: {NO_THOUGHT}"), "reasoning_effort"),
        (400, anthropic("invalid_request_error", f"Thinking {FORCED}"), "reasoning_effort"),
        (400, anthropic("invalid_request_error", "`temperature` may only be set to 1 when thinking"), "temperature"),
        (400, anthropic("invalid_request_error", "`temperature` and `top_p` cannot both be specified"), "temperature"),
        (400, gemini(400, "INVALID_ARGUMENT", "Penalty is not enabled for this model"), "penalty"),
        (400, gemini(400, "INVALID_ARGUMENT", "Thinking level is not supported for this model."), "reasoning_effort"),
        (400, gemini(400, "INVALID_ARGUMENT", "Unsupported: thinkingConfig.thinkingBudget"), "reasoning_effort"),
        (400, gemini(400, "INVALID_ARGUMENT", "Function call is missing a thought_signature"), "state"),
    ],
)
def test_a_parameter_that_is_not_supported_is_named(status: int, body: Any, field: str) -> None:
    """The error names the field of `Request`, and another backend may be tried."""
    error = classified(status, body)
    assert type(error) is InvalidRequestError
    assert error.parameter == field
    assert error.try_next


def test_what_one_model_cannot_do_another_may() -> None:
    """A refusal that names no option, and speaks of the model, is not the caller's fault."""
    error = classified(400, anthropic("invalid_request_error", "This model does not support assistant prefill."))
    assert type(error) is InvalidRequestError
    assert (error.parameter, error.try_next) == (None, True)


def test_who_may_not_ask_one_model_may_ask_others() -> None:
    """A 403 says something about the model, a 401 about the key."""
    assert classified(403, anthropic("permission_error")).of_model
    assert not classified(401, anthropic("authentication_error")).of_model


def test_a_wrong_value_is_the_callers_fault() -> None:
    """A parameter that is known but has a bad value is not dropped, and nobody else is asked."""
    error = classified(400, openai("'temperature' must be <= 2", "decimal_above_max_value", param="temperature"))
    assert type(error) is InvalidRequestError
    assert error.parameter is None
    assert not error.try_next


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"retry_after_ms": "1500", "retry_after": "9"}, {}, 1.5),
        ({"retry_after": "9"}, {}, 9.0),
        ({"retry_after": "0.5"}, {}, 0.5),
        ({"retry_after": "3600"}, {}, 3600.0),
        ({"retry_after": "-5"}, {}, None),
        ({"retry_after": "nan"}, {}, None),
        ({"retry_after": "inf"}, {}, None),
        ({"retry_after": "1e12"}, {}, None),
        ({"retry_after": "soon"}, {}, None),
        ({"retry_after": "-5"}, {"error": {"message": "try again in 20s"}}, 20.0),
        ({}, gemini(429, "RESOURCE_EXHAUSTED", "m", {"@type": "x/google.rpc.RetryInfo", "retryDelay": "38s"}), 38.0),
        ({}, gemini(429, "RESOURCE_EXHAUSTED", "m", {"retryDelay": "47.43s"}), 47.43),
        ({}, gemini(429, "RESOURCE_EXHAUSTED", "Please retry in 47.4s."), 47.4),
        ({}, openai("Rate limit reached. Please try again in 6m0s."), 360.0),
        ({}, openai("Please try again in 120ms."), 0.12),
        ({}, {"error": {"message": "m", "availability": {"code": "capacity_exhausted", "retry_after": 7}}}, 7.0),
        ({"ratelimit": '"api";r=0;t=55'}, {}, 55.0),
        ({"ratelimit": '"api";r=3;t=55'}, {}, None),
        ({"x_ratelimit_reset": str(int((time.time() + 100) * 1000))}, {}, 100.0),
        ({}, openai("no hint at all"), None),
    ],
)
def test_hints(headers: dict[str, str], body: Any, expected: float | None) -> None:
    """`retry-after-ms`, then `Retry-After`, then the body, then its sentence; what is absurd is ignored."""
    found = classified(429, body, **headers).retry_after
    assert found == (expected if expected is None else pytest.approx(expected, abs=60 if expected == 100 else None))


def test_a_hint_may_be_a_date() -> None:
    """`Retry-After` as an HTTP date is the time until then; one that is past is no hint."""
    found = classified(503, {}, retry_after=formatdate(time.time() + 100, usegmt=True)).retry_after
    assert found == pytest.approx(100, abs=5)
    assert classified(503, {}, retry_after=formatdate(time.time() - 100, usegmt=True)).retry_after is None


def test_the_servers_own_wish_about_retrying_counts() -> None:
    """`x-should-retry`, and OpenRouter's `availability.retryable`, decide for the same backend."""
    assert classified(503, {}).retry_same
    assert not classified(503, {}, x_should_retry="false").retry_same
    assert classified(409, {}, x_should_retry="true").retry_same
    assert not classified(503, {"error": {"availability": {"retryable": False}}}).retry_same


def test_status_200_is_read_from_the_error_object() -> None:
    """An error under 200 is classified by its words and the status that it tells."""
    assert type(error_in({"error": {"code": 429, "message": "m"}})) is RateLimitError
    assert type(error_in({"error": {"code": "502", "message": "m"}})) is UnavailableError
    assert type(error_in({"error": {"message": "who knows"}})) is UnavailableError
    assert type(error_in({"response": {"error": {"code": "invalid_prompt", "message": "m"}}})) is ContentFilterError
    assert type(error_in({"error": {"error_type": "permission_denied", "message": "m"}})) is AuthenticationError
    assert type(error_in({"error": {"error_type": "unprocessable", "message": "m"}})) is InvalidRequestError
    assert type(error_in([gemini(400, "INVALID_ARGUMENT", "m")])) is InvalidRequestError
    assert error_in({"error": None}) is None
    assert error_in({"choices": []}) is None
    assert error_in([1, 2]) is None
    assert error_in("error") is None


def test_messages_are_short_and_hold_no_key() -> None:
    """A provider that echoes the key, or a whole page, does not get either into the message."""
    held = Secret("short-key-1")
    error = classified(401, openai(f"Incorrect API key provided: short-key-1. {'x' * 5000}"))
    assert held.reveal() not in str(error)
    assert len(str(error)) < 600
    page = classified(502, b"<!DOCTYPE html><html>" + b"x" * 9000)
    assert "HTML" in str(page)
    assert len(str(page)) < 200


def test_the_context_window_is_told_where_the_server_tells_it() -> None:
    """llama.cpp says how many tokens there are and how many it takes."""
    body = {
        "error": {
            "code": 400,
            "type": "exceed_context_size_error",
            "message": "m",
            "n_ctx": 512,
            "n_prompt_tokens": 900,
        }
    }
    error = classified(400, body)
    assert isinstance(error, ContextLengthError)
    assert (error.limit, error.needed) == (512, 900)


STRANGE = [b"\xff\xfe", b"null", b"[]", b"42", b'"text"', b"[" * 50_000, b'{"error": 7}', b'{"error": [1]}']
STRANGE += [b'{"detail": [1, {}]}', b'{"param": 7, "message": "unsupported"}', b'{"error": {"details": {"a": 1}}}']
STRANGE += [b'{"error": {"metadata": [1], "code": {"x": 1}, "message": {"y": 2}, "availability": 3}}']


@pytest.mark.parametrize("body", STRANGE)
@pytest.mark.parametrize("status", [200, 400, 403, 429, 500])
def test_no_body_is_too_strange(body: bytes, status: int) -> None:
    """Any bytes give a `BackendError`, never another exception."""
    assert isinstance(classify(status, {}, body), BackendError)
