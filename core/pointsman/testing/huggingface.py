"""Chat completions as Hugging Face's router sends them, and TGI's errors (huggingface_hub 2.4.0, TGI's router)."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from .answers import Event, WireError
from .openai_chat import Chat

#: HTTP status -> `error_type` of TGI, whose errors are text; those of the proxy before it have none.
_OF_TGI = {400: "validation", 422: "validation", 424: "generation", 429: "overloaded", 500: "incomplete_generation"}
_TEXT = {
    401: "Invalid username or password.",
    402: "You have exceeded your monthly included credits for Inference Providers.",
}


@frozen
class HuggingFace(Chat):
    """`POST /v1/chat/completions` of the router: its own errors are text, those of the models' hosts as they come."""

    def error(self, error: WireError) -> Any:
        """Return `{"error": "text"}`, or OpenAI's object for what has a code."""
        if error.status in (401, 402, 403):
            return {"error": _TEXT.get(error.status, error.message), **error.extra}
        if error.code == "model_not_found":
            text = f"The requested model '{error.param}' is not supported by any provider you have enabled."
            return super().error(WireError(text, "invalid_request_error", "model_not_supported", "model", 400))
        return super().error(error)


@frozen
class TGI(Chat):
    """`POST /v1/chat/completions` of text-generation-inference: every error is text with a type."""

    def error(self, error: WireError) -> Any:
        """Return `{"error": "text", "error_type": ...}`."""
        kind = {"error_type": _OF_TGI[error.status]} if error.status in _OF_TGI else {}
        return {"error": error.message, **kind, **error.extra}

    def error_event(self, error: WireError) -> Event:
        """Return the error object as an event."""
        return Event(self.error(error), "error")
