"""The wire of `generateContent`: requests out, answers and streams in (google-genai 3.4.0's types)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from mimetypes import guess_type
from typing import Any
from uuid import uuid4

from pointsman import (
    AuthenticationError,
    Chunk,
    Completion,
    ContentFilterError,
    Image,
    InvalidRequestError,
    Message,
    Request,
    ToolCall,
    UnusableAnswer,
    Usage,
    collect,
)
from pointsman.http import Events, charged
from pointsman.schemas import within
from pointsman.service import Keep, merged, turns_of
from pointsman.values import FinishReason

from . import _models

_Part = dict[str, Any]
#: Fields of a request -> those of `generationConfig`.
_CONFIG = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "seed": "seed",
}
_MODES = {"auto": {"mode": "AUTO"}, "required": {"mode": "ANY"}, "none": {"mode": "NONE"}}
#: What `responseJsonSchema` knows of JSON Schema (Google's reference of `GenerationConfig`).
_KNOWN = {
    "$id", "$ref", "$anchor", "type", "format", "title", "description", "enum", "prefixItems", "minItems", "maxItems",
    "minimum", "maximum", "oneOf", "additionalProperties", "required", "propertyOrdering",
}  # fmt: skip
#: In place of the signature of a call that another vendor's model made (Google's FAQ on thought signatures).
_UNSIGNED = "skip_thought_signature_validator"
_FINISH: dict[str, FinishReason] = {"STOP": "stop", "MAX_TOKENS": "length"}
_KEPT = {"thoughtSignature", "functionCall"}  # what makes a turn worth going back as it came
_BLOCKED = re.compile("SAFETY|RECITATION|BLOCKLIST|PROHIBITED|SPII|ESCALATION|IMAGE_|MODEL_ARMOR")


def body(request: Request, model: str) -> dict[str, Any]:
    """Return the JSON to send.

    :raises InvalidRequestError: something in it cannot be asked.
    """
    sent: dict[str, Any] = {"contents": _contents(request.messages, signed=not _models.OLD.search(model))}
    if system := request.instructions:
        sent["systemInstruction"] = {"parts": [{"text": system}]}
    if request.tools:
        declared = [
            {"name": tool.name, "description": tool.description, "parametersJsonSchema": dict(tool.parameters)}
            for tool in request.tools
        ]
        sent["tools"] = [{"functionDeclarations": declared}]
        if choice := request.tool_choice:
            named: dict[str, Any] = {"mode": "ANY", "allowedFunctionNames": [choice]}
            sent["toolConfig"] = {"functionCallingConfig": _MODES.get(choice, named)}
    config = _configured(request, model)
    return merged({**sent, "generationConfig": config} if config else sent, request.extra)


def _configured(request: Request, model: str) -> dict[str, Any]:
    config = {name: value for field, name in _CONFIG.items() if (value := getattr(request, field)) is not None}
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": within(request.schema, _KNOWN)}
    effort = request.reasoning_effort
    if effort and (effort != "none" or not _models.THOUGHTLESS.search(model)):
        shown = {} if effort == "none" else {"includeThoughts": True}
        config["thinkingConfig"] = {**_models.thinking(model, effort), **shown}
    return config


def _contents(messages: Sequence[Message], *, signed: bool) -> list[dict[str, Any]]:
    """Return the turns: all results of one turn's tools belong into one content."""
    turns: list[dict[str, Any]] = []
    calls: dict[str | None, _Part] = {}  # id -> the part of `functionCall`
    for own, turn in turns_of(messages):
        parts: list[_Part] = []
        for message in turn:
            if own:
                said = _own(message, signed=signed)
                wanted = [part["functionCall"] for part in said if "functionCall" in part]
                calls |= {call.id: part for call, part in zip(message.tool_calls, wanted, strict=False)}
            elif message.role == "tool":
                said = [_result(message, calls), *(part for part in _parts(message) if "text" not in part)]
            else:
                said = list(_parts(message))
            parts += said
        turns.append({"role": "model" if own else "user", "parts": parts})
    return turns


def _own(message: Message, *, signed: bool) -> list[_Part]:
    """Return a turn of the model: its own words unchanged; of another vendor's, the text and the calls."""
    parts: list[_Part] = list(message.state.data) if message.state is not None else list(_parts(message))
    if message.state is None:
        parts += ({"functionCall": {"name": call.name, "args": call.as_object()}} for call in message.tool_calls)
    first = next((n for n, part in enumerate(parts) if "functionCall" in part), None)
    if signed and first is not None:  # of parallel calls, only the first is signed
        parts[first] = {"thoughtSignature": _UNSIGNED, **parts[first]}
    return parts


def _result(message: Message, calls: Mapping[str | None, _Part]) -> _Part:
    call = calls.get(message.tool_call_id)
    if call is None:
        raise InvalidRequestError(f"messages: tool_call_id {message.tool_call_id!r:.60} answers no call before it")
    named = {name: call[name] for name in ("id", "name") if name in call}
    return {"functionResponse": {**named, "response": {"error" if message.is_error else "output": message.text}}}


def _parts(message: Message) -> Iterator[_Part]:
    for part in (message.content,) if isinstance(message.content, str) else message.content:
        if isinstance(part, Image):
            if part.inline is not None:
                kind, data = part.inline
                yield {"inlineData": {"mimeType": kind, "data": data}}
            else:
                kind = guess_type(part.url or "")[0] or part.media_type
                yield {"fileData": {"mimeType": kind, "fileUri": part.url}}
        elif part:
            yield {"text": part}


def completion(data: Any, headers: Mapping[str, str], keep: Keep) -> Completion:
    """Return what a whole answer says. Raises as `chunks` does."""
    return collect(_said([data], keep))


def chunks(events: Events, keep: Keep) -> Iterator[Chunk]:
    """Yield what a streamed answer says.

    :raises BackendError: it failed, was refused, or ended without a finish reason.
    """
    return _said(_heard(events), keep)


def _heard(events: Events) -> Iterator[Any]:
    """Yield the answers of a stream, and tell it when the model speaks and when it has ended."""
    for event in events:
        data = event.json()
        for candidate in data.get("candidates") or ():
            if (candidate.get("content") or {}).get("parts"):
                events.content_seen()
            if candidate.get("finishReason"):
                events.ending()
        yield data


def _said(answers: Iterable[Any], keep: Keep) -> Iterator[Chunk]:
    """Yield what the pieces of an answer say; a whole answer is one piece."""
    whole: _Part = {}
    candidate: _Part = {}
    parts: list[_Part] = []
    with charged(lambda: _usage(whole.get("usageMetadata"))):
        for data in answers:
            whole |= {name: value for name, value in data.items() if value}
            for one in (data.get("candidates") or ())[:1]:
                candidate |= one
                for part in (one.get("content") or {}).get("parts") or ():
                    _add(parts, part)
                    if text := part.get("text"):
                        yield Chunk(thinking=text) if part.get("thought") else Chunk(text)
        end = _end(whole, candidate, parts)
        calls = tuple(_call(part["functionCall"]) for part in parts if "functionCall" in part)
        yield Chunk(
            tool_calls=calls,
            finish_reason="tool_calls" if calls else end,
            usage=_usage(whole.get("usageMetadata")),
            model=whole.get("modelVersion"),
            raw_finish_reason=candidate["finishReason"],
            request_id=whole.get("responseId"),
            state=keep(parts) if any(part.keys() & _KEPT for part in parts) else None,
        )


def _call(wanted: _Part) -> ToolCall:
    """Return a call, under an id of ours where the service gave none: what goes back knows its own from the state."""
    given = json.dumps(wanted.get("args") or {}, ensure_ascii=False)
    return ToolCall(wanted.get("id") or f"call_{uuid4().hex}", wanted["name"], given)


def _add(parts: list[_Part], part: _Part) -> None:
    """Append a part, or put its text to that of the last one; what is signed stands for itself."""
    last = parts[-1] if parts else {}
    if "text" in part and "thoughtSignature" not in part and {**part, "text": last.get("text")} == last:
        parts[-1] = {**last, "text": last["text"] + part["text"]}
    elif part.keys() - {"text"} or part.get("text"):  # an empty one may not go back
        parts.append(part)


def _end(whole: _Part, candidate: _Part, parts: Sequence[_Part]) -> FinishReason:
    if not candidate and (reason := (whole.get("promptFeedback") or {}).get("blockReason")):
        raise ContentFilterError(f"the prompt was blocked: {reason}")
    raw = candidate.get("finishReason")
    if raw is None:
        raise UnusableAnswer("the answer ended without a finishReason: it is cut")
    told = f"the model ended with {raw}: {candidate.get('finishMessage') or 'without an explanation'!s:.300}"
    if _BLOCKED.search(raw):
        raise ContentFilterError(told)
    if raw.startswith("PUP_"):  # of a policy that the account has violated
        raise AuthenticationError(told)
    if raw not in _FINISH:  # all others, of which there are more each year, are failures
        raise UnusableAnswer(told)
    called = any("functionCall" in part for part in parts)
    if called and raw == "MAX_TOKENS":
        raise UnusableAnswer("max_tokens was used up among the tool calls: give more")
    if not called and not any(part.get("text") and not part.get("thought") for part in parts):
        raise UnusableAnswer(f"the answer is empty ({raw}): if thinking used up max_tokens, give more, or less effort")
    return _FINISH[raw]


def _usage(counted: Mapping[str, int] | None) -> Usage | None:
    """Return the tokens; the API counts thoughts, and the results of its own tools, apart."""
    if not counted:
        return None
    read, said, thought, cached, tools = (
        counted.get(f"{name}TokenCount") or 0
        for name in ("prompt", "candidates", "thoughts", "cachedContent", "toolUsePrompt")
    )
    return Usage(read + tools, said + thought, cached, thought)
