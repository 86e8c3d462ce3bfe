"""What went wrong, read from an HTTP status, headers and body: the body counts before the status.

Providers differ in the shape of their error bodies, in the words they use, and in the status they
send with them; they change their texts more often than their codes. So codes are looked at first,
then texts, and the status last.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from . import errors as e

_LONGEST_HINT = 31 * 86400.0
_INNER = ("error", "detail", "details", "metadata", "availability", "innererror", "violations")
_CODES = ("code", "type", "status", "error_type", "error_code", "reason", "quotaId")

#: The first row that fits wins. A pattern is searched in "STATUS<code><code> text", regardless of case. Above the
#: statuses stands only what says more than they do.
_SIGNS: dict[str, type[e.BackendError]] = {
    r"^403.*(max_tokens|context length)": e.ContextLengthError,  # Together says it so
    r"^403.*(budget|spend(ing)? limit|credit|limit exceeded)": e.QuotaError,
    r"<(invalid_api_key|api_key_invalid|authentication(_error)?|access_token_\w+|failed_precondition|\w*region_\w+)>"
    r"|(incorrect|invalid) (api key|username or password)|api key (not valid|expired)"
    r"|key was reported as leaked": e.AuthenticationError,
    r"<\w*(insufficient_quota|credit_balance|spend_limit|usage_limit|billing|on_hold|payment_required|perday)[\w-]*>"
    r"|specified .*usage limits|credit balance is too low|monthly included credits|requires more credits"
    r"|insufficient (credits|balance|funds)": e.QuotaError,
    r"<\w*(context_length|context_size|token_limit|max_tokens)_(exceeded|error)>|^400.*<string_too_long>"
    r"|exceeds? (the )?context|maximum context length|prompt is too long|exceeds the maximum number of tokens"
    r"|available context size|inputs`? tokens \+ `?max_new_tokens|input is too long|too many tokens(?! per)"
    r"|maximum input length is|requested tokens .*exceed context window": e.ContextLengthError,
    r"<(model_not_\w+|not_found(_error)?|model_deprecated|no_endpoints|wrong_endpoint|model_unavailable_upstream"
    r"|privacy_restricted|constraint_filtered|free_variant_ended|deploymentnotfound)>"
    r"|\bmodel\b.{0,120}(does not exist|not found|has been (retired|deprecated|decommissioned|shut ?down))"
    r"|\bmodel\b.{0,120}not supported by (any )?provider|is not supported by any provider"
    r"|(unknown|invalid|no such) model\b|not a valid model": e.ModelNotFoundError,
    r"^200<invalid_prompt>|<invalid_prompt><invalid_r"  # OpenAI's: OpenRouter's says less
    r"|<\w*(content_filter|policy_?violation|bio_policy|refusal|moderation|prohibited_content)\w*>"
    r"|content filtering policy|content management policy|flagged (as|by|for)|was flagged|blocked by guardrail"
    r"|violat\w+ .{0,40}polic": e.ContentFilterError,
    r"<(rate_limit\w*|ramp_limit_exceeded|slow_down|resource_exhausted|capacity_exceeded)>"
    r"|rate limit|too many (requests|tokens per)": e.RateLimitError,
    r"<\w*(overloaded|capacity_exhausted)\w*>|overloaded": e.UnavailableError,
    "^40[13]|^200.*<permission_denied>": e.AuthenticationError,
    "^402": e.QuotaError,
    "^4(04|10)": e.ModelNotFoundError,
    "^4(29|98)": e.RateLimitError,  # 498: Groq's flex tier is full
    "^4(05|08|09|24|25)": e.UnavailableError,
    r"^4|^200.*<(invalid_\w+|validation|unprocessable|payload_too_large|precondition_failed)>": e.InvalidRequestError,
    "": e.UnavailableError,
}
_ROWS = {re.compile(pattern, re.I | re.S): cls for pattern, cls in _SIGNS.items()}
_ADVICE: dict[type[e.BackendError], str] = {
    e.AuthenticationError: " (check the key and what it may do)",
    e.QuotaError: " (add credit or raise the limit)",
    e.ModelNotFoundError: " (check the model's name and base_url)",
}
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown.(name|parameter|argument|field)|unexpected (keyword|field)"
    r"|extra.(inputs|fields|forbidden)|not permitted|not allowed|deprecated|does not accept|only the default"
    r"|cannot both be|may (only|not) be|not enabled|expected .?thinking",
    re.I,
)
_NAMED = re.compile(r"['\"`]([A-Za-z_.]{3,40})['\"`]|^([a-z_.]{3,40}):|supplied: (\w+)")
#: Names on the wire, or in a sentence that quotes none -> fields of `Request`, where they differ by more than capitals;
#: `penalty` is either of the two.
_FIELDS = {
    "temperature.*top_p|top_p.*temperature": "top_p",
    "thinking|effort|^reasoning": "reasoning_effort",
    "max_completion_tokens|max_output_tokens": "max_tokens",
    r"response_format|^text\.format|^output_config|response_json_schema|response_mime_type": "schema",
    "^penalty": "penalty",
    "stop_sequences": "stop",
    "random_seed": "seed",
}
_ONE_MODEL = re.compile(r"\b(this|the|for) model\b|^model\b", re.I)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d+(?:\.\d+)?) ?(ms|[hms])(?![a-z]) ?")
_DURATION = re.compile(f"({_PART.pattern})+")
_SENTENCE = re.compile(f"(?:retry|try again) (?:in|after) ({_DURATION.pattern})", re.I)
_SPENT = re.compile(r"\br=0 *; *t=(\d+)")  # in the header of the IETF's draft, which Hugging Face sends

_Facts = defaultdict[str, list[Any]]  #: name -> its values, the outermost first


def classify(status: int, headers: Mapping[str, str], body: Any, *, where: str = "") -> e.BackendError:
    """Return the error that an answer means.

    :param status: of the answer; 200 where an error object came in a good one.
    :param headers: of the answer, with names in small letters.
    :param body: its bytes, or the Python values of its JSON, in any of the shapes that providers send.
    :param where: the host, for the message.
    """
    facts = _facts(body)
    text, words = _text(facts, body), [word for name in _CODES for word in facts[name] if isinstance(word, str | int)]
    codes = "".join(f"<{word}>" for word in words)
    if status == 200:
        told = (str(value) for name in ("code", "http_status", "status") for value in facts[name])
        status = next((int(number) for number in told if re.fullmatch("[45][0-9][0-9]", number)), status)
    hint = None if "PerDay" in codes else _hint(headers, facts, text)  # Google tells the wait of the minute there, too
    parameter = _refused(status, facts, codes, text)
    cls = e.InvalidRequestError if parameter else _class_of(status, codes, text, hint)
    label = (f"HTTP {status}" if status != 200 else "an error in place of an answer") + (
        f" from {where}" if where else ""
    )
    error = cls(
        f"{label}: {text or 'without an explanation':.300}{_ADVICE.get(cls, '')}",
        status=status,
        code=next((str(word) for word in words if word not in ("", "error")), None),
        parameter=parameter,
        retry_after=hint,
    )
    wish = str(headers.get("x-should-retry") or next(iter(facts["retryable"]), "")).lower()
    if wish in ("true", "false") or status == 405:
        error.retry_same = wish == "true"
    if cls is e.InvalidRequestError and "signature" in text:  # of a thought: it is this vendor's matter
        error.parameter, error.try_next = "state", True
    if parameter or (cls is e.InvalidRequestError and _UNSUPPORTED.search(text) and _ONE_MODEL.search(text)):
        error.try_next = True  # another model may take it
    if cls is e.AuthenticationError:  # who may not ask one model may ask others
        error.of_model = status == 403
    if isinstance(error, e.ContextLengthError):  # llama.cpp
        error.limit, error.needed = (next(iter(facts[name]), None) for name in ("n_ctx", "n_prompt_tokens"))
    return error


def error_in(value: Any, *, where: str = "") -> e.BackendError | None:
    """Return the error that the JSON of a good answer or of an event holds, if it holds one."""
    facts = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(facts, dict):
        return None
    # OpenRouter puts errors of a model's host into the choice, the Responses API into the response.
    choices = facts.get("choices")
    for place in (facts, facts.get("response"), *(choices[:1] if isinstance(choices, list) else ())):
        if isinstance(place, dict) and (place.get("error") or "error" in (place.get("type"), place.get("object"))):
            return classify(200, {}, place, where=where)
    return None


def _class_of(status: int, codes: str, text: str, hint: float | None) -> type[e.BackendError]:
    # Neither Gemini nor OpenRouter has a code for it.
    spent = "plan and billing" in text and hint is None and "perminute" not in codes.lower()
    if spent or (status == 429 and "-per-day" in text):
        return e.QuotaError
    # The sentence of a server that fails, or that counts, says less than its status.
    says = f"{status}{codes} {text if status not in (401, 402, 429) and status < 500 else ''}"
    return next(cls for pattern, cls in _ROWS.items() if pattern.search(says))


def _facts(body: Any) -> _Facts:
    """Every named value of any shape of error body."""
    facts: _Facts = defaultdict(list)
    with suppress(ValueError, RecursionError):
        body = json.loads(body) if isinstance(body, bytes) else body
    places: list[Any] = [body]
    for place in places:  # which grows meanwhile
        if isinstance(place, dict):
            for name, value in place.items():
                facts[name].append(value)
            places += (place[name] for name in _INNER if name in place)
        elif isinstance(place, list):
            places += place
    return facts


def _text(facts: _Facts, body: Any) -> str:
    """The provider's own sentence."""
    said = [value for name in ("message", "error", "detail") for value in facts[name] if isinstance(value, str)]
    fields = zip(facts["loc"], facts["msg"], strict=False)  # FastAPI
    said.append("; ".join(f"{place[-1]}: {words}" for place, words in fields if isinstance(place, list) and place))
    if found := next(filter(None, said), None):
        return found.strip()
    if not isinstance(body, bytes):
        return json.dumps(body, default=str)
    page = body[:2048].decode("utf-8", "replace").strip()
    return "an HTML page" if page.startswith("<") else page


def _refused(status: int, facts: _Facts, codes: str, text: str) -> str | None:
    """The field of `Request` (or the name on the wire) that the provider says it does not take."""
    if status not in (200, 400, 422) or not _UNSUPPORTED.search(text + codes):
        return None
    told = [*facts["param"], *(word for named in _NAMED.findall(text)[:1] for word in named)]
    name = next((word for word in told if word and isinstance(word, str)), "")
    name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
    name = name.removeprefix("body.").removeprefix("generation_config.")
    if name == "model" or name.startswith(("messages", "input", "contents")):
        return None
    for sign, field in _FIELDS.items():
        if re.search(sign, name or text.replace(" ", "_").lower()):
            return field
    return re.split(r"[.\[]", name)[0] or None


def _hint(headers: Mapping[str, str], facts: _Facts, text: str) -> float | None:
    """Seconds to wait: from `retry-after-ms`, `retry-after`, the body, or a sentence in it."""
    after = headers.get("retry-after", "")
    told = [f"{headers.get('retry-after-ms')}ms", f"{after}s"]
    with suppress(TypeError, ValueError, OverflowError):  # it is no date
        told.append(f"{parsedate_to_datetime(after).timestamp() - time():f}s")
    told += [str(delay) for delay in facts["retryDelay"]] + [f"{wait}s" for wait in facts["retry_after"]]
    reset = headers.get("x-ratelimit-reset", "")  # OpenRouter's, in milliseconds since 1970
    told += [f"{max(0.0, int(reset) / 1000 - time()):f}s"] if re.fullmatch("[0-9]{13}", reset) else []
    told += (f"{wait}s" for wait in _SPENT.findall(headers.get("ratelimit", "")))
    told += (found[1] for found in _SENTENCE.finditer(text))
    for duration in filter(_DURATION.fullmatch, told):
        wait = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration))
        if wait <= _LONGEST_HINT:
            return wait
    return None
