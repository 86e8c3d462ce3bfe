"""What went wrong, read from an HTTP status, headers and body: the body counts before the status.

Providers differ in the shape of their error bodies, in the words they use, and in the status they
send with them; they change their texts more often than their codes. So codes are looked at first,
then texts, and the status last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from .errors import (
    AuthenticationError,
    BackendError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    UnavailableError,
    UnusableAnswer,
)

_TEXT = 300  # characters of a provider's text that a message repeats
_LONGEST_HINT = 31 * 86400.0

#: Names on the wire -> fields of `Request`.
_FIELDS = {
    **dict.fromkeys(("max_completion_tokens", "max_output_tokens", "maxoutputtokens"), "max_tokens"),
    **dict.fromkeys(("response_format", "text.format", "output_config", "responsejsonschema"), "schema"),
    **dict.fromkeys(("stop_sequences", "stopsequences"), "stop"),
    "topp": "top_p",
    "topk": "top_k",
    "random_seed": "seed",
    "toolconfig": "tool_choice",
    "frequencypenalty": "frequency_penalty",
    "presencepenalty": "presence_penalty",
}

#: (class, codes, texts): the first line that fits wins. Codes are whole words, texts are patterns.
_SIGNS: tuple[tuple[type[BackendError], str, str], ...] = (
    (
        AuthenticationError,
        "invalid_api_key authentication_error authentication api_key_invalid access_token_type_unsupported",
        r"(incorrect|invalid) api key|api key (not valid|expired)|key was reported as leaked",
    ),
    (
        QuotaError,
        "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded "
        "organization_usage_limit_exceeded enforced_spend_limit_reached contract_spend_limit_reached billing_error "
        "organization_on_hold payment_required billing_hard_limit_reached",
        r"specified .*usage limits|credit balance is too low|monthly included credits|requires more credits"
        r"|insufficient (credits|balance|funds)",
    ),
    (
        ContextLengthError,
        "context_length_exceeded exceed_context_size_error token_limit_exceeded max_tokens_exceeded",
        r"maximum context length|prompt is too long|exceeds the maximum number of tokens allowed"
        r"|exceeds? the available context size|`?inputs`? tokens \+ `?max_new_tokens|input is too long"
        r"|too many tokens(?! per)|maximum input length is|exceed context limit|exceeds? (the )?context (length|window)"
        r"|exceeds? (the )?model'?s? .*context|requested tokens .*exceed context window",
    ),
    (
        ModelNotFoundError,
        "model_not_found model_not_supported not_found_error not_found model_deprecated no_endpoints wrong_endpoint "
        "model_unavailable_upstream privacy_restricted constraint_filtered free_variant_ended deploymentnotfound "
        "invalid_model model_retired model_decommissioned",
        r"\bmodel\b.{0,120}(does not exist|not found|is not supported by any provider|not a valid model|has been"
        r" (retired|deprecated|decommissioned|shut ?down))|(unknown|invalid|no such) model\b|not a valid model",
    ),
    (
        ContentFilterError,
        "content_filter content_policy_violation responsibleaipolicyviolation bio_policy refusal "
        "misalignment_policy_violation moderation_blocked prohibited_content",
        r"content filtering policy|content management policy|flagged (as|by|for)|violat\w+ .{0,40}polic",
    ),
    (
        AuthenticationError,
        "permission_denied permission_error unauthenticated region_restricted failed_precondition "
        "unsupported_country_region_territory",
        "",
    ),
    (
        RateLimitError,
        "rate_limit_exceeded rate_limit_error slow_down resource_exhausted ramp_limit_exceeded capacity_exceeded",
        r"rate limit|too many requests|too many tokens per",
    ),
    (
        UnavailableError,
        "overloaded overloaded_error server_is_overloaded provider_overloaded capacity_exhausted timeout_error "
        "temporarily_unavailable unavailable_error unavailable service_unavailable_error server_error api_error "
        "server provider_unavailable timeout unmapped internal deadline_exceeded generation",
        r"loading model|overloaded",
    ),
    (UnusableAnswer, "incomplete_generation", ""),
    (InvalidRequestError, "invalid_request validation invalid_prompt invalid_argument precondition_failed", ""),
)
_COMPILED = tuple(
    (cls, frozenset(codes.split()), re.compile(texts, re.IGNORECASE | re.DOTALL) if texts else None)
    for cls, codes, texts in _SIGNS
)
_BY_STATUS: dict[int, type[BackendError]] = {
    401: AuthenticationError,
    402: QuotaError,
    403: AuthenticationError,
    404: ModelNotFoundError,
    410: ModelNotFoundError,
    429: RateLimitError,
    498: RateLimitError,  # Groq: the flex tier is full
    **dict.fromkeys((200, 405, 408, 409, 424, 425), UnavailableError),
}
_ADVICE: dict[type[BackendError], str] = {
    AuthenticationError: "check the key and what it may do",
    QuotaError: "add credit or raise the limit",
    ModelNotFoundError: "check the model's name and base_url",
}
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown (name|parameter|argument|field)|unexpected (keyword|field)"
    r"|extra (inputs|fields)|extra_forbidden|not permitted|not allowed|deprecated|does not (support|accept)"
    r"|only the default|unknown_parameter",
    re.IGNORECASE,
)
_NAMED = re.compile(r"['\"`]([A-Za-z_.]{3,40})['\"`]|^([a-z_.]{3,40}):")
_SENTENCE = re.compile(
    r"(?:retry|try again) (?:in|after) ((?:[\d.]+ ?(?:ms|[hms])(?:econds?|inutes?|ours?)? ?)+)", re.I
)
_PART = re.compile(r"([\d.]+) ?(ms|[hms])")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def classify(status: int, headers: Mapping[str, str], body: Any, *, where: str = "") -> BackendError:
    """Return the error that an answer means.

    :param status: of the answer; 200 where an error object came in a good one.
    :param headers: of the answer, looked up without regard to case by the caller's mapping.
    :param body: its bytes, or the Python values of its JSON, in any of the shapes that providers send.
    :param where: the host, for the message.
    """
    facts = _facts(body)
    text, codes = _text(facts, body), frozenset(_codes(facts))
    status = _real_status(status, facts)
    hint = retry_hint(headers, facts, text)
    parameter = _refused(status, facts, codes, text)
    cls = InvalidRequestError if parameter else _class_of(status, codes, text, hint)
    code = next((str(v) for k in ("code", "type", "status", "error_type") if (v := facts.get(k))), None)
    shown = text if len(text) <= _TEXT else text[:_TEXT] + "..."
    label = f"HTTP {status}" if status != 200 else "an error in place of an answer"
    message = f"{label}{f' from {where}' if where else ''}: {shown or 'without an explanation'}"
    if cls in _ADVICE:
        message += f" ({_ADVICE[cls]})"
    error = cls(message, status=status, code=code, parameter=parameter, retry_after=hint)
    if parameter:
        error.try_next = True  # another model may take it
    if cls is UnavailableError and status == 405:
        error.retry_same = False
    wish = str(headers.get("x-should-retry", "")).lower() or str(_at(facts, "availability", "retryable")).lower()
    if wish in ("true", "false"):
        error.retry_same = wish == "true"
    if isinstance(error, ContextLengthError):
        error.limit, error.needed = _whole(facts.get("n_ctx")), _whole(facts.get("n_prompt_tokens"))
    return error


def error_in(value: Any, *, where: str = "") -> BackendError | None:
    """Return the error that the JSON of a good answer or of an event holds, if it holds one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return None
    if value.get("error") or "error" in (value.get("type"), value.get("object")):
        return classify(200, {}, value, where=where)
    return None


def retry_hint(headers: Mapping[str, str], facts: Mapping[str, Any], text: str) -> float | None:
    """Seconds to wait, as the answer asks: `retry-after-ms`, `Retry-After`, the body, or a sentence in it."""
    sentence = _SENTENCE.search(text)
    delays = [detail.get("retryDelay") for detail in _dicts(facts.get("details"))]
    candidates = (
        _number(headers.get("retry-after-ms"), 0.001),
        _number(headers.get("retry-after")),
        _date(headers.get("retry-after")),
        *(_duration(delay) for delay in delays),
        _number(_at(facts, "availability", "retry_after")),
        _number(facts.get("retry_after")),
        _duration(sentence[1]) if sentence else None,
    )
    return next((wait for wait in candidates if wait is not None and 0 <= wait <= _LONGEST_HINT), None)


def _class_of(status: int, codes: frozenset[str], text: str, hint: float | None) -> type[BackendError]:
    if any("perday" in code for code in codes):
        return QuotaError
    if hint is None and "plan and billing" in text and not any("perminute" in code for code in codes):
        return QuotaError
    if status == 403 and re.search(r"max_tokens|context length", text):  # Together says it so
        return ContextLengthError
    if status == 403 and re.search(r"budget|spend(ing)? limit|credit|limit exceeded", text, re.IGNORECASE):
        return QuotaError
    for cls, words, pattern in _COMPILED:
        if words & codes:
            return cls
        # A sentence of a server that fails, or that counts, says less than its status.
        if pattern and status not in (401, 402, 429) and status < 500 and pattern.search(text):
            return cls if "string_above_max_length" not in codes else InvalidRequestError
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return UnavailableError if status >= 500 else InvalidRequestError


def _facts(body: Any) -> dict[str, Any]:
    """One flat dictionary from any shape of error body."""
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    if isinstance(body, list):
        body = next(_dicts(body), None)
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    if isinstance(error, dict):
        return {**{k: v for k, v in body.items() if k in ("error_type", "availability")}, **error}
    return {**body, "message": error} if isinstance(error, str) else body


def _codes(facts: Mapping[str, Any]) -> Iterator[str]:
    """Every word of the body that is a code, in small letters."""
    metadata = facts.get("metadata")
    for place in (facts, metadata, facts.get("details"), facts.get("availability"), facts.get("innererror")):
        for fact in (place, *_dicts(place)):
            if isinstance(fact, dict):
                for key in ("code", "type", "status", "error_type", "error_code", "reason"):
                    if isinstance(fact.get(key), str):
                        yield fact[key].lower()
                for violation in _dicts(fact.get("violations")):
                    yield str(violation.get("quotaId", "")).lower()


def _text(facts: Mapping[str, Any], body: Any) -> str:
    """The provider's own sentence."""
    detail = facts.get("detail")
    found = facts.get("message") or detail
    if isinstance(detail, list) and found is detail:
        found = "; ".join(f"{_loc(item)}: {item.get('msg', '')}" for item in _dicts(detail))
    if isinstance(found, str):
        return found.strip()
    if facts or not isinstance(body, bytes):
        return json.dumps(found if found else facts, default=str) if found or facts else ""
    page = re.search(rb"<title>(.*?)</title>", body[:4096], re.IGNORECASE | re.DOTALL)
    plain = (page[1] if page else body[:2048]).decode("utf-8", "replace").strip()
    return f"an HTML page: {plain}" if page else "an HTML page" if plain[:1] == "<" else plain


def _real_status(status: int, facts: Mapping[str, Any]) -> int:
    if status != 200:
        return status
    told = (_whole(facts.get(name)) for name in ("code", "http_status", "status_code", "status"))
    return next((code for code in told if code and 400 <= code < 600), 200)


def _refused(status: int, facts: Mapping[str, Any], codes: frozenset[str], text: str) -> str | None:
    """The field of `Request` (or the name on the wire) that the provider says it does not take."""
    if status not in (200, 400, 422) or not (_UNSUPPORTED.search(text) or _UNSUPPORTED.search(" ".join(codes))):
        return None
    name = facts.get("param")
    if not isinstance(name, str) or not name:
        name = next((_loc(item) for item in _dicts(facts.get("detail"))), "")
    if not name:
        named = _NAMED.search(text)
        name = (named[1] or named[2]) if named else ""
    name = name.removeprefix("body.").removeprefix("generation_config.").removeprefix("generationConfig.").lower()
    if name in ("", "model") or name.startswith(("messages", "input", "contents")):
        return None
    return _FIELDS.get(name, name.partition("[")[0].partition(".")[0])


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _at(facts: Mapping[str, Any], outer: str, inner: str) -> Any:
    value = facts.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


def _loc(item: Mapping[str, Any]) -> str:
    place = item.get("loc")
    return str(place[-1]) if isinstance(place, list) and place else ""


def _whole(value: Any) -> int | None:
    return int(value) if str(value).isdecimal() and str(value).isascii() else None


def _number(value: Any, unit: float = 1.0) -> float | None:
    try:
        number = float(value) * unit
    except (TypeError, ValueError):
        return None
    return number if number >= 0 else None


def _date(value: str | None) -> float | None:
    try:
        when = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return (when - datetime.now(UTC)).total_seconds() if when.tzinfo else None


def _duration(value: Any) -> float | None:
    parts = _PART.findall(value) if isinstance(value, str) else []
    try:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else None
    except ValueError:
        return None
