"""What copilot says when a turn fails, translated. Names and sentences: copilot 1.0.102."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pointsman import errors as e
from pointsman_stdio import HOPELESS, Words

ASKED_FOR_TOOL = "the model asked for a tool, and copilot is used without any"


def _of_github(message: str, **facts: Any) -> e.BackendError:
    advice = "copilot login, or another token: of OAuth (gho_) or fine-grained (github_pat_), and no classic one (ghp_)"
    return e.AuthenticationError(f"{message} ({advice})", **facts)


WORDS = Words(
    "copilot",
    kinds={
        "authentication": e.AuthenticationError,
        "quota": e.QuotaError,
        "rate_limit": e.RateLimitError,
    },
    sentences={
        "prompt budget|context window": e.ContextLengthError,
        "safety system|blocked by content filter|cyber_policy": e.ContentFilterError,
        "quota_exceeded|usage_not_included|(monthly|premium|your) (quota|requests)": e.QuotaError,
        "network fetch failed": e.UnavailableError,
        "no authentication information|not authenticated|not logged in|authentication failed|bad credentials"
        "|no github oauth token": _of_github,
        r'model "[^"]*" is not available|requested model is not supported': e.ModelNotFoundError,
        "redirect": HOPELESS,
        "stream: |decoding response|without sending|malformed|(in|not )valid json|failed to parse|unexpected end"
        "|no response was returned": e.UnusableAnswer,
    },
)


def failure(facts: Mapping[str, Any]) -> e.BackendError:
    """Return what a failed call of the model raises.

    :param facts: the data of `model.call_failure` (its message may be the body of the answer) or `session.error`.
    """
    message = str(facts.get("errorMessage") or facts.get("message") or "no explanation")
    status = facts.get("statusCode")
    kind = "" if isinstance(status, int) or message.startswith("{") else str(facts.get("errorType") or "")
    return WORDS.error(message, kind=kind, status=status if isinstance(status, int) else None)
