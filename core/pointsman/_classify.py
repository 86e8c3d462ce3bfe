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

from . import errors as e

_TEXT = 300  # characters of a provider's text that a message repeats
_LONGEST_HINT = 31 * 86400.0

#: (class, codes, texts): the first line that fits wins. Codes are whole words; texts are patterns. Only what says more
#: than the status does.
_SIGNS: tuple[tuple[type[e.BackendError], str, str], ...] = (
    (
        e.AuthenticationError,
        "invalid_api_key authentication_error authentication api_key_invalid access_token_type_unsupported "
        "failed_precondition region_restricted unsupported_country_region_territory",
        r"(incorrect|invalid) api key|api key (not valid|expired)|key was reported as leaked",
    ),
    (
        e.QuotaError,
        "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded "
        "organization_usage_limit_exceeded enforced_spend_limit_reached contract_spend_limit_reached billing_error "
        "organization_on_hold payment_required billing_hard_limit_reached",
        r"specified .*usage limits|credit balance is too low|monthly included credits|requires more credits"
        r"|insufficient (credits|balance|funds)",
    ),
    (
        e.ContextLengthError,
        "context_length_exceeded exceed_context_size_error token_limit_exceeded max_tokens_exceeded",
        r"maximum context length|prompt is too long|exceeds the maximum number of tokens|available context size"
        r"|inputs`? tokens \+ `?max_new_tokens|input is too long|too many tokens(?! per)|maximum input length is"
        r"|exceeds? (the )?context|requested tokens .*exceed context window",
    ),
    (
        e.ModelNotFoundError,
        "model_not_found model_not_supported not_found_error not_found model_deprecated no_endpoints wrong_endpoint "
        "model_unavailable_upstream privacy_restricted constraint_filtered free_variant_ended deploymentnotfound",
        r"\bmodel\b.{0,120}(does not exist|not found|has been (retired|deprecated|decommissioned|shut ?down))"
        r"|is not supported by any provider|(unknown|invalid|no such) model\b|not a valid model",
    ),
    (
        e.ContentFilterError,
        "content_filter content_policy_violation responsibleaipolicyviolation bio_policy refusal "
        "misalignment_policy_violation moderation_blocked prohibited_content",
        r"content filtering policy|content management policy|flagged (as|by|for)|violat\w+ .{0,40}polic",
    ),
    (
        e.RateLimitError,
        "rate_limit_exceeded rate_limit_error slow_down resource_exhausted ramp_limit_exceeded capacity_exceeded",
        r"rate limit|too many requests|too many tokens per",
    ),
    (e.UnavailableError, "overloaded overloaded_error capacity_exhausted server_is_overloaded", "overloaded"),
)
_COMPILED = tuple((cls, frozenset(codes.split()), re.compile(texts, re.I | re.S)) for cls, codes, texts in _SIGNS)
_BY_STATUS: dict[int, type[e.BackendError]] = {
    **dict.fromkeys((401, 403), e.AuthenticationError),
    402: e.QuotaError,
    **dict.fromkeys((404, 410), e.ModelNotFoundError),
    **dict.fromkeys((429, 498), e.RateLimitError),  # 498: Groq's flex tier is full
    **dict.fromkeys((200, 405, 408, 409, 424, 425), e.UnavailableError),
}
_ADVICE: dict[type[e.BackendError], str] = {
    e.AuthenticationError: " (check the key and what it may do)",
    e.QuotaError: " (add credit or raise the limit)",
    e.ModelNotFoundError: " (check the model's name and base_url)",
}
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown.(name|parameter|argument|field)|unexpected (keyword|field)"
    r"|extra.(inputs|fields|forbidden)|not permitted|not allowed|deprecated|does not accept|only the default",
    re.I,
)
_NAMED = re.compile(r"['\"`]([A-Za-z_.]{3,40})['\"`]|^([a-z_.]{3,40}):|supplied: (\w+)")
#: Names on the wire -> fields of `Request`, where they differ by more than capitals.
_RENAMED = {
    "max_tokens": "max_completion_tokens max_output_tokens",
    "schema": "response_format text.format output_config response_json_schema",
    "stop": "stop_sequences",
    "seed": "random_seed",
}
_FIELDS = {name: field for field, names in _RENAMED.items() for name in names.split()}
_SENTENCE = re.compile(r"(?:retry|try again) (?:in|after) ((?:\d+(?:\.\d+)? ?(?:ms|[hms])(?![a-z]) ?)+)", re.I)
_PARTS = [rf"(?:(\d+(?:\.\d+)?) ?{unit})?" for unit in ("h", "m", "s", "ms")]
_DURATION = re.compile(" ?".join(_PARTS))


def classify(status: int, headers: Mapping[str, str], body: Any, *, where: str = "") -> e.BackendError:
    """Return the error that an answer means.

    :param status: of the answer; 200 where an error object came in a good one.
    :param headers: of the answer, with names in small letters or in a mapping that does not regard case.
    :param body: its bytes, or the Python values of its JSON, in any of the shapes that providers send.
    :param where: the host, for the message.
    """
    facts = _facts(body)
    text, codes = _text(facts, body), frozenset(_codes(facts))
    told = (str(facts.get(name)) for name in ("code", "http_status", "status") if status == 200)
    status = next((int(number) for number in told if re.fullmatch("[45][0-9][0-9]", number)), status)
    hint, parameter = _hint(headers, facts, text), _refused(status, facts, codes, text)
    cls = e.InvalidRequestError if parameter else _class_of(status, codes, text, hint)
    label = f"HTTP {status}" if status != 200 else "an error in place of an answer"
    shown = text if len(text) <= _TEXT else text[:_TEXT] + "..."
    error = cls(
        f"{label}{f' from {where}' if where else ''}: {shown or 'without an explanation'}{_ADVICE.get(cls, '')}",
        status=status,
        code=next((str(word) for key in ("code", "type", "status", "error_type") if (word := facts.get(key))), None),
        parameter=parameter,
        retry_after=hint,
    )
    wish = headers.get("x-should-retry") or _inner(facts, "availability").get("retryable")
    if str(wish).lower() in ("true", "false"):
        error.retry_same = str(wish).lower() == "true"
    elif status == 405:
        error.retry_same = False
    if parameter:
        error.try_next = True  # another model may take it
    if isinstance(error, e.ContextLengthError):
        error.limit, error.needed = facts.get("n_ctx"), facts.get("n_prompt_tokens")  # llama.cpp
    return error


def error_in(value: Any, *, where: str = "") -> e.BackendError | None:
    """Return the error that the JSON of a good answer or of an event holds, if it holds one."""
    facts = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(facts, dict):
        return None
    # OpenRouter puts errors of a model's host into the choice, the Responses API into the response.
    for place in (facts, facts.get("response"), next(_dicts(facts.get("choices")), None)):
        if isinstance(place, dict) and (place.get("error") or "error" in (place.get("type"), place.get("object"))):
            return classify(200, {}, place, where=where)
    return None


def _class_of(status: int, codes: frozenset[str], text: str, hint: float | None) -> type[e.BackendError]:
    limited_for_now = hint is not None or any("perminute" in code for code in codes)
    if any("perday" in code for code in codes) or ("plan and billing" in text and not limited_for_now):
        return e.QuotaError
    if status == 403 and re.search(r"max_tokens|context length", text):  # Together says it so
        return e.ContextLengthError
    if status == 403 and re.search(r"budget|spend(ing)? limit|credit|limit exceeded", text, re.I):
        return e.QuotaError
    for cls, words, pattern in _COMPILED:
        # The sentence of a server that fails, or that counts, says less than its status.
        if words & codes or (status not in (401, 402, 429) and status < 500 and pattern.search(text)):
            return cls
    if status == 200 and codes & {"invalid_request_error", "invalid_request", "validation"}:
        return e.InvalidRequestError
    return _BY_STATUS.get(status, e.UnavailableError if status >= 500 else e.InvalidRequestError)


def _facts(body: Any) -> dict[str, Any]:
    """One flat dictionary from any shape of error body."""
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    body = next(_dicts(body), None) if isinstance(body, list) else body
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    if isinstance(error, dict):
        return body | error
    return {**body, "message": error} if isinstance(error, str) else body


def _codes(facts: Mapping[str, Any]) -> Iterator[str]:
    """Every word of the body that is a code, in small letters."""
    inner = [_inner(facts, key) for key in ("metadata", "details", "availability", "innererror")]
    for place in (facts, *inner, *_dicts(facts.get("details"))):
        words = [place.get(key) for key in ("code", "type", "status", "error_type", "error_code", "reason")]
        words += [violation.get("quotaId") for violation in _dicts(place.get("violations"))]
        yield from (word.lower() for word in words if isinstance(word, str))


def _text(facts: Mapping[str, Any], body: Any) -> str:
    """The provider's own sentence."""
    found = facts.get("message") or facts.get("detail")
    if isinstance(found, list):  # FastAPI
        found = "; ".join(f"{_loc(item)}: {item.get('msg', '')}" for item in _dicts(found))
    if facts or not isinstance(body, bytes):
        return found.strip() if isinstance(found, str) else json.dumps(found or facts, default=str)
    page = body[:2048].decode("utf-8", "replace").strip()
    title = re.search("<title>(.*?)</title>", page, re.I | re.S)
    return f"an HTML page {title[1].strip() if title else ''}" if page[:1] == "<" else page


def _refused(status: int, facts: Mapping[str, Any], codes: frozenset[str], text: str) -> str | None:
    """The field of `Request` (or the name on the wire) that the provider says it does not take."""
    if status not in (200, 400, 422) or not _UNSUPPORTED.search(f"{text} {' '.join(codes)}"):
        return None
    named = _NAMED.search(text)
    name = facts.get("param") or next((_loc(item) for item in _dicts(facts.get("detail"))), "")
    if not (name and isinstance(name, str)):
        name = next(filter(None, named.groups())) if named else ""
    name = re.sub("([a-z])([A-Z])", r"\1_\2", name.removeprefix("body.")).lower().removeprefix("generation_config.")
    if name in ("", "model") or name.startswith(("messages", "input", "contents")):
        return None
    return _FIELDS.get(name, re.split(r"[.\[]", name)[0])


def _hint(headers: Mapping[str, str], facts: Mapping[str, Any], text: str) -> float | None:
    """Seconds to wait: from `retry-after-ms`, `Retry-After`, the body, or a sentence in it."""
    try:
        when = parsedate_to_datetime(headers.get("retry-after") or "")
        until = (when - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # no date, or one without a zone
        until = -1.0
    sentence = _SENTENCE.search(text)
    told = [f"{headers.get('retry-after-ms')}ms", f"{headers.get('retry-after')}s", f"{until:f}s"]
    told += [str(detail.get("retryDelay")) for detail in _dicts(facts.get("details"))]
    told += [f"{_inner(facts, 'availability').get('retry_after')}s", sentence[1].strip(" .") if sentence else ""]
    for duration in filter(None, map(_DURATION.fullmatch, filter(None, told))):
        parts = zip(duration.groups("0"), (3600.0, 60.0, 1.0, 0.001), strict=True)
        wait = sum(float(number) * unit for number, unit in parts)
        if wait <= _LONGEST_HINT:
            return wait
    return None


def _inner(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _loc(item: Mapping[str, Any]) -> str:
    place = item.get("loc")
    return str(place[-1]) if isinstance(place, list) and place else ""
