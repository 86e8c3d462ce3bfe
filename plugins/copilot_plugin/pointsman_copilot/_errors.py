"""What copilot says when a turn fails, translated. Names and sentences: copilot 1.0.102."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pointsman import errors as e
from pointsman.http import classify

#: Where there is neither a status nor a code, the sentence counts.
_SENTENCES: dict[str, type[e.BackendError]] = {
    "prompt budget|context window": e.ContextLengthError,
    "safety system|blocked by content filter": e.ContentFilterError,
    "no authentication information|not authenticated|not logged in": e.AuthenticationError,
    "stream: |decoding response|without sending|malformed|invalid json|unexpected end": e.UnusableAnswer,
}
_KINDS: dict[str, type[e.BackendError]] = {
    "authentication": e.AuthenticationError,
    "quota": e.QuotaError,
    "rate_limit": e.RateLimitError,
}


def failure(facts: Mapping[str, Any]) -> e.BackendError:
    """Return what a failed call of the model raises.

    :param facts: the data of `model.call_failure` (its message may be the body of the answer) or `session.error`.
    """
    message, status = (
        str(facts.get("errorMessage") or facts.get("message") or "no explanation"),
        facts.get("statusCode"),
    )
    for pattern, cls in _SENTENCES.items():
        if re.search(pattern, message, re.I):
            return cls(f"copilot: {message:.300}")
    if isinstance(status, int):
        return classify(
            status, {}, message.encode() if message.startswith("{") else {"message": message}, where="copilot"
        )
    return _KINDS.get(str(facts.get("errorType")), e.UnavailableError)(f"copilot: {message:.300}")
