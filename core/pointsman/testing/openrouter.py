"""Chat completions as OpenRouter sends them (OpenRouterTeam/docs of August 2026)."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from .answers import Answer, Ask, Event, WireError
from .openai_chat import Chat

#: HTTP status -> `error_type`, where the error says no better.
_TYPES = {
    400: "invalid_request",
    401: "authentication",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    429: "rate_limit_exceeded",
    502: "provider_unavailable",
    503: "provider_overloaded",
    504: "timeout",
}
#: OpenAI's words -> OpenRouter's status and `error_type`: it has no quota under 429, for one.
_OWN = {
    "credit_balance_exhausted": (402, "payment_required"),
    "insufficient_quota": (402, "payment_required"),
    "context_length_exceeded": (400, "context_length_exceeded"),
    "content_policy_violation": (400, "content_policy_violation"),
    "rate_limit_exceeded": (429, "rate_limit_exceeded"),
    "invalid_api_key": (401, "authentication"),
    "model_not_found": (404, "not_found"),
    "invalid_value": (400, "invalid_request"),
}
#: Words of the models' hosts, which OpenRouter passes on beside its own.
_NATIVE = {"stop": "end_turn", "length": "max_output_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


@frozen
class OpenRouter(Chat):
    """`POST /api/v1/chat/completions`."""

    def body(self, answer: Answer, ask: Ask) -> Any:
        """Return a `chat.completion` with the host that served it, what it cost, and its own finish reason."""
        return _own(super().body(answer, ask), answer, "message")

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        """Return the events. Usage comes whether it was asked for or not."""
        events = super().events(answer, evolve(ask, wants_usage=True))
        return [evolve(e, data=_own(e.data, answer, "delta")) if isinstance(e.data, dict) else e for e in events]

    def error(self, error: WireError) -> Any:
        """Return `{"error": {"code": <HTTP status>, "message", "metadata"}}`."""
        usual = (error.status, _TYPES.get(error.status, "server"))
        status, kind = _OWN.get(error.code or error.type) or _OWN.get(error.type, usual)
        facts = {"code": status, "message": error.message, "metadata": {"error_type": kind}}
        return {"error": {**facts, **error.extra}}

    def error_event(self, error: WireError) -> Event:
        """Return a chunk that carries the error at its top, and ends with it."""
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        chunk = {"id": "gen-1", "object": "chat.completion.chunk", "provider": "Acme", "choices": [choice]}
        return Event({**chunk, **self.error(error)}, "error")


def _own(data: dict[str, Any], answer: Answer, place: str) -> dict[str, Any]:
    """Return what OpenAI would send, as OpenRouter sends it."""
    data = {**data, "id": f"gen-{data['id'][-10:]}", "provider": "Acme"}
    for choice in data["choices"]:
        said = choice[place]
        if "reasoning_content" in said:
            said["reasoning"] = text = said.pop("reasoning_content")
            said["reasoning_details"] = [{"type": "reasoning.text", "text": text, "index": 0, "format": "unknown"}]
        if choice.get("finish_reason"):
            choice["native_finish_reason"] = _NATIVE.get(choice["finish_reason"], choice["finish_reason"])
    if data.get("usage"):
        cost = {} if answer.usage is None or answer.usage.cost is None else {"cost": answer.usage.cost}
        data["usage"] = {**data["usage"], **cost, "is_byok": False}
    return data
