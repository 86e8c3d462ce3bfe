"""What codex says when a turn fails, translated. Names and sentences: codex 0.169.0."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from pointsman import errors as e
from pointsman_stdio import HOPELESS, Words

ASKED_FOR_TOOL = "the model asked for a tool, and codex is used without any"
WORDS = Words(
    "codex",
    kinds={
        "contextWindowExceeded": e.ContextLengthError,
        "modelNotFound": e.ModelNotFoundError,
        "usageLimitExceeded": e.QuotaError,
        **dict.fromkeys(("cyberPolicy", "misalignmentPolicyViolation"), e.ContentFilterError),
        **dict.fromkeys(("flexUnavailable", "rateLimitExceeded"), e.RateLimitError),
        **dict.fromkeys(("internalServerError", "serverOverloaded"), e.UnavailableError),
    },
    sentences={  # `codex exec` gives nothing else
        "context window|input exceeds the maximum length": e.ContextLengthError,
        "safety system|reason: content_filter|invalid prompt|flagged": e.ContentFilterError,
        "quota exceeded|hit your usage limit|billing": e.QuotaError,
        "^model .*(not found|does not exist)|the model .* does not exist|no models are available": e.ModelNotFoundError,
        r"invalid image|valid image|image data|invalid schema": e.InvalidRequestError,
        "too many redirects|redirect": HOPELESS,
        "error sending request|connection (failed|reset|refused)|high demand|timed? ?out": e.UnavailableError,
        r"stream disconnected|incomplete response|stream_events_utils: ToolCall": e.UnusableAnswer,
        "codex login|not logged in|missing environment variable|refresh token": e.AuthenticationError,
    },
)
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
    message, info = str(facts.get("message") or "it failed without an explanation"), facts.get("codexErrorInfo")
    status = next((int(found[1]) for found in [_STATUS.search(message)] if found), None)
    if isinstance(info, dict) and info:
        info, inner = next(iter(info.items()))
        status = (inner.get("httpStatusCode") if isinstance(inner, dict) else None) or status
    if status is None and message.startswith("{"):
        status = 400  # of no other answer is the body passed on as it is
    # "other", without a word of what it was, is a 400 that has no JSON.
    otherwise = partial(e.InvalidRequestError, try_next=True) if info == "other" else e.UnavailableError
    return WORDS.error(message, kind=str(info), status=status, otherwise=otherwise)
