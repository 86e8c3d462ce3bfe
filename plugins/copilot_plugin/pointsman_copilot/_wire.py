"""One request as a session of copilot: over its server, or with one process for it alone. Protocol: copilot 1.0.102.

Its schemas are in its cache: pkg/*/1.0.102/schemas.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from pointsman import (
    BackendError,
    Chunk,
    ContentFilterError,
    Message,
    Request,
    UnavailableError,
    UnusableAnswer,
    Usage,
)
from pointsman_stdio import Exchange, Undo

from ._errors import ASKED_FOR_TOOL, failure

#: The first message to the server: one that does not answer it does not speak the protocol.
HELLO: tuple[dict[str, Any], ...] = ({"id": 0, "method": "ping", "params": {}},)
#: No limit that copilot would keep by itself for a model that it does not know.
_ENDLESS = 1 << 30
#: Of every session: nothing but what is asked.
_NOTHING: Mapping[str, Any] = {
    "allowTranscriptRecovery": False,
    "availableTools": [],
    "customAgentsLocalOnly": True,
    "disabledMcpServers": ["github-mcp-server"],
    "embeddingCacheStorage": "in-memory",
    "enableConfigDiscovery": False,
    "enableFileHooks": False,
    "enableHostGitOperations": False,
    "enableOnDemandInstructionDiscovery": False,
    "enableSessionStore": False,
    "enableSessionTelemetry": False,
    "enableSkills": False,
    "infiniteSessions": {"enabled": False},
    "mcpServers": {},
    "memory": {"enabled": False},
    "skipEmbeddingRetrieval": True,
    "streaming": True,
}
#: Of every model, whatever copilot knows of it: its server says what it cannot.
_CAPABLE: Mapping[str, Any] = {
    "limits": {
        "max_context_window_tokens": _ENDLESS,
        "max_prompt_tokens": _ENDLESS,
        "vision": {
            "max_prompt_image_size": _ENDLESS,
            "max_prompt_images": 1000,
            "supported_media_types": ["image/gif", "image/jpeg", "image/png", "image/webp"],
        },
    },
    "supports": {"vision": True},
}
_FORMS = {"assistant": "assistant.message", "user": "user.message"}


def route(message: Mapping[str, Any]) -> str | None:
    """Return the session that a notification is about."""
    params = message.get("params")
    return params.get("sessionId") if isinstance(params, dict) else None


def session(exchange: Exchange, request: Request, provider: Mapping[str, Any] | None) -> Session:
    """Ask over the server, in a session of its own, which is deleted afterwards.

    The conversation is written into a file, as copilot does, and the session resumed from it: so roles stay what they
    are, and copilot adds nothing of its own.

    :param provider: the server that is asked in place of GitHub's.
    """
    exchange.asked("ping", {})
    ids = {"sessionId": str(uuid4())}
    folder = exchange.home / "session-state" / ids["sessionId"]
    forget = lambda: _forget(folder)  # noqa: E731
    exchange.done(forget)
    if problem := _write(folder, request):
        raise UnavailableError(f"copilot's folder cannot be written to: {problem}", retry_same=False)
    exchange.listen(ids["sessionId"])
    gone: list[Undo] = [("session.destroy", ids), ("session.delete", ids), forget]
    about = {**request.extra, **_NOTHING, **_about(request, provider), **ids}
    exchange.call("session.resume", about, lambda _: gone)
    form = {"name": "answer", "schema": request.schema, "strict": True}
    schema = {"responseFormat": {"type": "json_schema", "jsonSchema": form}} if request.schema is not None else {}
    exchange.call("session.sendMessages", {**ids, "messages": [], **schema}, lambda _: [("session.abort", ids)])
    return Session(lambda message: (message.get("params") or {}).get("event"), exchange)


def _about(request: Request, provider: Mapping[str, Any] | None) -> dict[str, Any]:
    options: dict[str, Any] = {"model": request.model, "reasoningEffort": request.reasoning_effort}
    if provider is not None:
        limits = {"maxPromptTokens": _ENDLESS, "maxOutputTokens": request.max_tokens}
        options["provider"] = {**provider, **{name: value for name, value in limits.items() if value is not None}}
    return {
        **{name: value for name, value in options.items() if value is not None},
        "modelCapabilities": _CAPABLE,
        "systemMessage": {"mode": "replace", "content": request.instructions},
    }


def _write(folder: Path, request: Request) -> str:
    """Write the conversation down as copilot would have; return why that cannot be done ("" if it is)."""
    start = {"sessionId": folder.name, "version": 1, "producer": "copilot-agent", "copilotVersion": "1.0.102"}
    events = [("session.start", {**start, "startTime": "2026-01-01T00:00:00.000Z"})]
    events += [(_FORMS[each.role], _said(each)) for each in request.messages if each.role in _FORMS]
    parent, before = None, "2026-01-01T00:00:00.000Z"
    try:
        folder.mkdir(parents=True)
        with (folder / "events.jsonl").open("w", encoding="utf-8") as file:
            for kind, data in events:
                event = {"type": kind, "data": data, "id": str(uuid4()), "timestamp": before, "parentId": parent}
                file.write(json.dumps(event, ensure_ascii=False) + "\n")
                parent = event["id"]
    except OSError as error:
        return error.strerror or "unknown"
    return ""


def _said(message: Message) -> dict[str, Any]:
    if message.role == "assistant":
        return {"messageId": str(uuid4()), "content": message.text, "toolRequests": []}
    pictures = [image.inline for image in message.images]
    blobs = [{"type": "blob", "mimeType": kind, "data": data} for kind, data in filter(None, pictures)]
    return {"content": message.text, "transformedContent": message.text, **({"attachments": blobs} if blobs else {})}


def _forget(folder: Path) -> None:
    """Remove what the deletion of a session leaves."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        (folder.parent / ".session-operation-locks" / f"{folder.name}.lock").unlink()


class Session:
    """Reads the events of a session up to its end.

    Copilot asks again by itself: after a failure, and for more when the answer was cut by its limit. Both end it here.

    :param event_of: finds the event in a message.
    :param exchange: None where one process serves one request: then copilot tells neither tokens nor finish reason.
    """

    def __init__(self, event_of: Any, exchange: Exchange | None) -> None:
        self._event_of = event_of
        self._exchange = exchange
        self._model: str | None = None
        self._usage: Usage | None = None
        self._calls, self._spoken, self._finish = 0, False, ""

    def __call__(self, message: Mapping[str, Any]) -> Chunk | BackendError | None:
        """Return what one message says."""
        event = self._event_of(message) or {}
        kind, data = event.get("type"), event.get("data") or {}
        self._model = data.get("model") or self._model
        reader = _READERS.get(kind)
        found = reader(self, data) if reader is not None else None
        if isinstance(found, BackendError):
            found.usage = self._usage
        return found

    def _text(self, data: Mapping[str, Any]) -> Chunk:
        self._spoken = True
        return Chunk(str(data.get("deltaContent") or ""), model=self._model)

    def _thinking(self, data: Mapping[str, Any]) -> Chunk:
        return Chunk(thinking=str(data.get("deltaContent") or ""), model=self._model)

    def _counted(self, data: Mapping[str, Any]) -> Chunk | BackendError | None:
        names = ("inputTokens", "outputTokens", "cacheReadTokens", "reasoningTokens", "cacheWriteTokens")
        usage = Usage(*(int(data.get(name) or 0) for name in names))
        self._usage = usage if usage.total_tokens else None
        self._finish = str(data.get("finishReason") or "")
        if self._finish == "content_filter" or data.get("contentFilterTriggered"):
            return ContentFilterError("the answer was stopped by a content filter", code="content_filter")
        if self._finish == "error":
            return UnusableAnswer("the model failed while it answered", code="error")
        return self._end("length", "length") if self._finish == "length" else None

    def _whole(self, data: Mapping[str, Any]) -> Chunk | BackendError | None:
        if data.get("toolRequests"):
            return UnusableAnswer(ASKED_FOR_TOOL)
        text = str(data.get("content") or "")
        if "blocked by content filter" in text and not self._spoken:
            return ContentFilterError(text[:300])
        return None if self._spoken else self._text({"deltaContent": text})

    def _refused(self, data: Mapping[str, Any]) -> BackendError | None:
        said = (data.get("message") or {}).get("refusal")
        return ContentFilterError(f"the model refused: {said:.300}") if said else None

    def _called(self, data: Mapping[str, Any]) -> Chunk | None:
        self._calls += 1  # where nothing else says that it was cut
        return self._end("length", "model.call_start") if self._calls > 1 else None

    def _finished(self, data: Mapping[str, Any]) -> BackendError | None:
        if data.get("outcome") in (None, "success"):
            return None
        return UnusableAnswer("the answer broke off")  # what copilot knows of it, a failure has told before

    def _over(self, data: Mapping[str, Any]) -> Chunk | BackendError:
        if self._exchange is not None:
            self._exchange.done()
            if self._usage is None:
                return UnusableAnswer("the answer ended without a finish reason and without usage")
        return self._end("stop", self._finish or "session.idle")

    def _end(self, finish: Any, raw: str) -> Chunk:
        return Chunk(finish_reason=finish, raw_finish_reason=raw, usage=self._usage, model=self._model)


_READERS: Mapping[Any, Any] = {
    "assistant.message_delta": Session._text,
    "assistant.reasoning_delta": Session._thinking,
    "assistant.tool_call_delta": lambda *_: UnusableAnswer(ASKED_FOR_TOOL),
    "assistant.usage": Session._counted,
    "assistant.message": Session._whole,
    "model.message": Session._refused,
    "model.call_start": Session._called,
    "model.call_finished": Session._finished,
    "model.call_failure": lambda self, data: failure(data),
    "session.error": lambda self, data: failure(data),
    "session.idle": Session._over,
    "result": Session._over,
}
