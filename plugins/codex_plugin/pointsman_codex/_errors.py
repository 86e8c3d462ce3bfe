"""What codex says when a turn fails, translated. Names and sentences: codex 0.169.0."""

from __future__ import annotations

import re
from typing import Any

from pointsman import errors as e
from pointsman.http import classify

_KINDS: dict[str, type[e.BackendError]] = {
    "contextWindowExceeded": e.ContextLengthError,
    "modelNotFound": e.ModelNotFoundError,
    "usageLimitExceeded": e.QuotaError,
    **dict.fromkeys(("cyberPolicy", "misalignmentPolicyViolation"), e.ContentFilterError),
    **dict.fromkeys(("flexUnavailable", "rateLimitExceeded"), e.RateLimitError),
    **dict.fromkeys(("internalServerError", "serverOverloaded"), e.UnavailableError),
}
#: Where there is no such word, the sentence counts; `codex exec` gives nothing else.
_SENTENCES: dict[str, type[e.BackendError]] = {
    "context window|input exceeds the maximum length": e.ContextLengthError,
    "safety system|reason: content_filter": e.ContentFilterError,
    "quota exceeded|hit your usage limit|billing": e.QuotaError,
    "^model .*(not found|does not exist)|the model .* does not exist": e.ModelNotFoundError,
    "stream disconnected|incomplete response": e.UnusableAnswer,
    "high demand|connection failed|error sending request|timed? ?out": e.UnavailableError,
}
_STATUS = re.compile(r"(?:unexpected |last )status:? (\d{3})")
_TOO_LONG = re.compile(r"reason: max_output_tokens")


def was_cut(error: Any) -> bool:
    """Whether the answer is whole but for its end: the model's own limit was reached."""
    return isinstance(error, dict) and bool(_TOO_LONG.search(str(error.get("message"))))


def failure(error: Any) -> e.BackendError:
    """Return what a failed turn raises.

    :param error: of a turn: `message`, and `codexErrorInfo`, a word or a word with an HTTP status in it.
    """
    facts = error if isinstance(error, dict) else {"message": str(error)}
    message, info = str(facts.get("message") or "codex failed without an explanation"), facts.get("codexErrorInfo")
    status = next((int(found[1]) for found in [_STATUS.search(message)] if found), None)
    if isinstance(info, dict) and info:
        inner = next(iter(info.values()))
        status = (inner.get("httpStatusCode") if isinstance(inner, dict) else None) or status
    if isinstance(info, str) and info in _KINDS:
        return _KINDS[info](f"codex: {message:.300}", code=info, status=status)
    if status is not None:
        return classify(status, {}, {"message": message}, where="codex")
    for pattern, cls in _SENTENCES.items():
        if re.search(pattern, message, re.I):
            return cls(f"codex: {message:.300}")
    if message.startswith("{"):  # the body of an answer, as it came
        return classify(400, {}, message.encode(), where="codex")
    return e.UnavailableError(f"codex: {message:.300}")
