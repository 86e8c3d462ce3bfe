"""One request as a session of copilot: over its server, or with one process for it alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from attrs import evolve
from pointsman import Chunk, Request, Usage
from pointsman import errors as e
from pointsman_stdio import Ended, Exchange, RefusedCall

from ._errors import failure

#: The first message to the server: one that does not answer it does not speak the protocol.
HELLO: tuple[dict[str, Any], ...] = ({"id": 0, "method": "ping", "params": {}},)
_ASKED_FOR_TOOL = "the model asked for a tool, and copilot is used without any"
#: No limit that copilot would keep by itself for a model that it does not know.
_ENDLESS = 1 << 30
#: Of every session: nothing but what is asked.
_NOTHING: Mapping[str, Any] = {
    "availableTools": [],
    "enableConfigDiscovery": False,
    "enableSkills": False,
    "enableSessionStore": False,
    "infiniteSessions": {"enabled": False},
    "memory": {"enabled": False},
    "mcpServers": {},
    "streaming": True,
}


def route(message: Mapping[str, Any]) -> str | None:
    """Return the session that a notification is about."""
    params = message.get("params")
    return params.get("sessionId") if isinstance(params, dict) else None


def session(exchange: Exchange, request: Request, provider: Mapping[str, Any] | None) -> Iterator[Chunk]:
    """Ask over the server, in a session of its own, which is deleted afterwards.

    :param provider: the server that is asked in place of GitHub's.
    """
    ids = {"sessionId": str(uuid4())}
    options: dict[str, Any] = {"model": request.model, "reasoningEffort": request.reasoning_effort}
    if provider is not None:
        limits = {"maxPromptTokens": _ENDLESS, "maxOutputTokens": request.max_tokens}
        options["provider"] = {**provider, **{name: value for name, value in limits.items() if value is not None}}
    about = {
        **_NOTHING,
        **{name: value for name, value in options.items() if value is not None},
        "systemMessage": {"mode": "replace", "content": request.system or ""},
    }
    try:
        exchange.listen(ids["sessionId"])
        exchange.done(("session.delete", ids))
        exchange.call("session.create", {**about, **request.extra, **ids}, lambda _: ("session.destroy", ids))
        exchange.call("session.send", {**ids, "prompt": as_text(request)}, lambda _: ("session.abort", ids))
    except RefusedCall as refused:
        raise failure({"message": str(refused)}) from None
    yield from told(message.get("params", {}).get("event") for message in exchange.messages())


def told(events: Iterable[Any]) -> Iterator[Chunk]:
    """Read the events of a session up to its end.

    Copilot asks again by itself: after a failure, and for more when the answer was cut by its limit. Both end it here.
    """
    last, calls, spoken = Chunk(), 0, False
    for event in events:
        kind, data = (event.get("type"), event.get("data") or {}) if isinstance(event, dict) else (None, {})
        last = evolve(last, model=data.get("model") or last.model)
        if kind in ("assistant.message_delta", "assistant.reasoning_delta"):
            piece, is_text = str(data.get("deltaContent") or ""), kind == "assistant.message_delta"
            spoken = spoken or is_text
            yield Chunk(piece if is_text else "", thinking="" if is_text else piece, model=last.model)
        elif kind == "assistant.usage":
            last = evolve(last, usage=_usage(data))
        elif kind == "assistant.message":
            _check(data, spoken=spoken)
            if not spoken:  # one process for one request tells no pieces
                yield Chunk(data.get("content") or "", model=last.model)
        elif kind in ("model.call_failure", "session.error"):
            raise failure(data)
        elif kind == "model.call_start":
            calls += 1
        if calls > 1 or kind == "session.idle" or (kind == "result" and not event.get("exitCode")):
            yield evolve(last, finish_reason="length" if calls > 1 else "stop", raw_finish_reason=kind)
            return


def one_shot(exchange: Exchange) -> Iterator[Chunk]:
    """Read what `copilot --output-format json` tells."""
    try:
        yield from told(exchange.messages())
    except Ended as ended:  # before it said how it went: then its last words say why
        found = failure({"message": ended.message})
        raise ended if type(found) is e.UnavailableError else found from None


def as_text(request: Request, *, system: bool = False) -> str:
    """Return a conversation as one prompt: copilot takes no other.

    :param system: the system prompt stands in it too.
    :raises InvalidRequestError: it has images.
    """
    if any(message.images for message in request.messages):
        raise e.InvalidRequestError("copilot is given text only, and no images", try_next=True)
    if len(request.messages) == 1 and not (system and request.system):
        return request.messages[0].text
    spoken = [f"{message.role.capitalize()}: {message.text}" for message in request.messages]
    return "\n\n".join([*([f"System: {request.system}"] if system and request.system else []), *spoken])


def _check(message: Mapping[str, Any], *, spoken: bool) -> None:
    if message.get("toolRequests"):
        raise e.UnusableAnswer(_ASKED_FOR_TOOL)
    if not spoken and "blocked by content filter" in (message.get("content") or ""):
        raise e.ContentFilterError(f"copilot: {message['content']:.300}")


def _usage(counts: Mapping[str, Any]) -> Usage:
    names = ("inputTokens", "outputTokens", "cacheReadTokens", "reasoningTokens", "cacheWriteTokens")
    return Usage(*(int(counts.get(name) or 0) for name in names))
