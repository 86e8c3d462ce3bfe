"""Google's `generateContent` as its server sends it (google-genai 3.4.0's types, ai.google.dev)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from ..values import ToolCall, Usage
from .answers import Answer, Ask, Event, Kind, WireError, cut

#: Words of chat completions -> those of this API.
_FINISH = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "error": "OTHER"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE = "type.googleapis.com/google.rpc"
_SIGNATURE = "c2lnbmVkIGJ5IHRoZSBkb3VibGU="
_Part = dict[str, Any]


@frozen
class GenerateContent:
    """`POST /v1beta/models/ID:generateContent`, or `:streamGenerateContent`: a stream has a path of its own."""

    streamed: bool = False

    def ask(self, body: Any) -> Ask:
        """Read a request; its model stands in the path."""
        body = body if isinstance(body, Mapping) else {}
        contents = body.get("contents") or [{}]
        users = [_text(content) for content in contents if content.get("role", "user") == "user"]
        calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        answered = any("functionResponse" in part for part in contents[-1].get("parts") or ())
        offered = () if calling.get("mode") == "NONE" or answered else (body.get("tools") or ())
        return Ask(
            prompt=users[-1] if users else "",
            streamed=self.streamed,
            tools=tuple(
                (function["name"], function.get("parametersJsonSchema") or {})
                for tool in offered
                for function in tool.get("functionDeclarations") or ()
            ),
            tool_wanted=next(iter(calling.get("allowedFunctionNames") or ()), None),
            schema=(body.get("generationConfig") or {}).get("responseJsonSchema"),
        )

    def body(self, answer: Answer, ask: Ask) -> Any:
        """Return a `GenerateContentResponse`."""
        return _response(answer, ask, [part for part, _ in _parts(answer, cutting=False)], last=True)

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        """Return a response without content, one for each piece, and one that ends the answer, without a mark after."""
        events = [Event(_response(answer, ask, []), "lifecycle")]
        events += (Event(_response(answer, ask, [part]), kind) for part, kind in _parts(answer, cutting=True))
        if answer.finish_reason is not None:
            events.append(Event(_response(answer, ask, [], last=True), "finish"))
        if events and answer.usage_at == "before":
            events[0].data["usageMetadata"] = events[-1].data.pop("usageMetadata", None)
        return events

    def error(self, error: WireError) -> Any:
        """Return `{"error": {...}}`, its code among the details."""
        info = {"@type": f"{_TYPE}.ErrorInfo", "reason": error.code, "domain": "googleapis.com"}
        details = [*([info] if error.code else ()), *error.extra.get("details", ())]
        facts = {"code": error.status, "message": error.message, "status": _STATUS.get(error.status, "UNKNOWN")}
        return {"error": {**facts, **error.extra, **({"details": details} if details else {})}}

    def error_event(self, error: WireError) -> Event:
        """Return the error as it stands in a stream: bare JSON, which is no event."""
        return _Bare(self.error(error), "error")

    def models(self, ids: tuple[str, ...]) -> Any:
        """Return the list of models."""
        facts = {"inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}
        methods = {"supportedGenerationMethods": ["generateContent", "countTokens"]}
        return {"models": [{"name": f"models/{name}", **facts, **methods} for name in ids]}


@frozen
class _Bare(Event):
    def encode(self, newline: str = "\n") -> bytes:
        return (self.text + newline * 2).encode()


def _response(answer: Answer, ask: Ask, parts: list[_Part], *, last: bool = False) -> dict[str, Any]:
    facts: dict[str, Any] = {"modelVersion": answer.model or ask.model, "responseId": ask.id}
    if answer.refusal is not None:
        return {"promptFeedback": {"blockReason": "SAFETY"}, **facts}
    candidate: dict[str, Any] = {"content": {"role": "model", **({"parts": parts} if parts else {})}, "index": 0}
    if last and answer.finish_reason is not None:
        candidate["finishReason"] = _finish(answer)
    if last and answer.usage is not None and answer.usage_at != "nowhere":
        facts["usageMetadata"] = _usage(answer.usage)
    return {"candidates": [candidate], **facts}


def _finish(answer: Answer) -> str:
    broken = any(_args(call) is None for call in answer.tool_calls)
    return "MALFORMED_FUNCTION_CALL" if broken else _FINISH.get(answer.finish_reason or "", "OTHER")


def _usage(usage: Usage) -> dict[str, int]:
    """Return usage in this API's words: thoughts are counted apart from what was said."""
    return {
        "promptTokenCount": usage.input_tokens,
        "cachedContentTokenCount": usage.cached_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "thoughtsTokenCount": usage.reasoning_tokens,
        "totalTokenCount": usage.total_tokens,
    }


def _parts(answer: Answer, *, cutting: bool) -> Iterator[tuple[_Part, Kind]]:
    """Yield each part, its text cut or whole. Calls are always whole, and the first of them is signed."""
    for piece in cut(answer.thinking) if cutting else filter(None, [answer.thinking]):
        yield {"text": piece, "thought": True}, "lifecycle"
    for piece in answer.pieces if cutting else filter(None, [answer.text]):
        yield {"text": piece}, "content"
    signature = {"thoughtSignature": _SIGNATURE}
    for call in answer.tool_calls:
        if (args := _args(call)) is not None:
            identity = {"id": call.id} if call.id else {}
            yield {"functionCall": {**identity, "name": call.name, "args": args}, **signature}, "content"
            signature = {}


def _args(call: ToolCall) -> dict[str, Any] | None:
    """Return the arguments; those that are no JSON never leave this server."""
    try:
        found = json.loads(call.arguments)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _text(content: Any) -> str:
    return "".join(part.get("text", "") for part in content.get("parts") or ())
