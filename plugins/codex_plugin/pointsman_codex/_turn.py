"""One request as a turn of codex: over its server, or with one process for it alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pointsman import Chunk, Message, Request, Usage
from pointsman import errors as e
from pointsman_stdio import Ended, Exchange, RefusedCall

from ._errors import failure, was_cut

_UNHEARD = ("account/rateLimits/updated", "item/started", "thread/started", "thread/status/changed")
_ABOUT = {
    "clientInfo": {"name": "pointsman", "title": "Pointsman", "version": "0"},
    "capabilities": {"experimentalApi": True, "optOutNotificationMethods": _UNHEARD},
}
#: The first messages to the server; `experimentalApi` is for `environments`, which must be empty.
HELLO: tuple[dict[str, Any], ...] = ({"id": 0, "method": "initialize", "params": _ABOUT}, {"method": "initialized"})
_ASKED_FOR_TOOL = "the model asked for a tool, and codex is used without any"
_ROLES = {"user": "input_text", "assistant": "output_text", "developer": "input_text"}


def route(message: Mapping[str, Any]) -> str | None:
    """Return the thread that a notification is about."""
    params = message.get("params")
    return params.get("threadId") if isinstance(params, dict) else None


def turn(exchange: Exchange, request: Request) -> Iterator[Chunk]:
    """Ask over the server, in a thread of its own that nothing is written down of."""
    try:
        begun = exchange.call("thread/start", _thread(request), lambda r: ("thread/unsubscribe", _ids(r)))
        ids = _ids(begun)
        exchange.listen(ids["threadId"])
        if len(request.messages) > 1:
            exchange.call("thread/inject_items", {**ids, "items": [_item(each) for each in request.messages[:-1]]})
        undo = lambda result: ("turn/interrupt", {**ids, "turnId": result["turn"]["id"]})  # noqa: E731
        exchange.call("turn/start", {**ids, **_input(request)}, undo)
    except RefusedCall as refused:
        raise _refusal(refused) from None
    except (KeyError, TypeError) as error:
        raise e.UnavailableError(f"codex answers a call in a form of its own: {error!r}", retry_same=False) from error
    yield from _told(exchange, begun.get("model"))


def _told(exchange: Exchange, model: str | None) -> Iterator[Chunk]:
    usage, spoken = None, False
    for message in exchange.messages():
        method, params = message.get("method"), message.get("params") or {}
        if method == "item/agentMessage/delta" and params.get("delta"):
            exchange.content_seen()
            spoken = True
            yield Chunk(params["delta"], model=model)
        elif method in ("item/reasoning/summaryTextDelta", "item/reasoning/textDelta"):
            yield Chunk(thinking=params.get("delta") or "", model=model)
        elif method == "thread/tokenUsage/updated":
            if usage is not None:  # a second answer within one turn: the first one ended with a call
                raise e.UnusableAnswer(_ASKED_FOR_TOOL)
            usage = _usage((params.get("tokenUsage") or {}).get("last")) or Usage()
        elif method == "turn/completed":
            exchange.done()
            yield _end(params.get("turn") or {}, usage, model, spoken=spoken)
            return


def _end(ended: Mapping[str, Any], usage: Usage | None, model: str | None, *, spoken: bool) -> Chunk:
    if ended.get("status") == "completed":
        return Chunk(finish_reason="stop", raw_finish_reason="completed", usage=usage, model=model)
    if spoken and was_cut(ended.get("error")):
        return Chunk(finish_reason="length", raw_finish_reason="max_output_tokens", usage=usage, model=model)
    if ended.get("status") == "interrupted":
        raise e.UnavailableError("codex was interrupted")
    raise failure(ended.get("error"))


def one_shot(exchange: Exchange) -> Iterator[Chunk]:
    """Read what `codex exec --json` tells."""
    said = ""
    try:
        for message in exchange.messages():
            item, kind = message.get("item") or {}, message.get("type")
            if kind == "item.completed" and item.get("type") == "agent_message":
                said += item.get("text") or ""
            elif kind in ("turn.completed", "turn.failed"):
                ended = {**message, "status": kind.removeprefix("turn.")}
                last = _end(ended, _usage(message.get("usage")), None, spoken=bool(said))
                yield Chunk(said)
                yield last
                return
    except Ended as ended:  # before it said how its turn went: then its last words say why
        found = failure({"message": ended.message})
        raise ended if type(found) is e.UnavailableError else found from None


def as_input(request: Request) -> bytes:
    """Return a conversation as the one prompt of `codex exec`.

    :raises e.InvalidRequestError: it has images, or is no valid text.
    """
    messages = request.messages
    if any(message.images for message in messages):
        raise e.InvalidRequestError("this version of codex can be given text only, and no images", try_next=True)
    spoken = (f"{message.role.capitalize()}: {message.text}" for message in messages)
    text = messages[0].text if len(messages) == 1 else "\n\n".join(spoken)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise e.InvalidRequestError("the request has a lone surrogate: it is no valid text") from None


def _ids(begun: Any) -> dict[str, Any]:
    return {"threadId": begun["thread"]["id"]}


def _thread(request: Request) -> dict[str, Any]:
    return {
        "model": request.model,
        "ephemeral": True,
        "sandbox": "read-only",
        "approvalPolicy": "never",
        "environments": [],
        "baseInstructions": "",
        "developerInstructions": request.system,  # as instructions, some models would get it twice
    }


def _item(message: Message) -> dict[str, Any]:
    role = "developer" if message.role == "system" else message.role
    content: list[dict[str, Any]] = [{"type": _ROLES[role], "text": message.text}] if message.text else []
    content += [{"type": "input_image", "image_url": image.as_url()} for image in message.images]
    return {"type": "message", "role": role, "content": content}


def _input(request: Request) -> dict[str, Any]:
    last = request.messages[-1]
    parts: list[dict[str, Any]] = [{"type": "text", "text": last.text}] if last.text or not last.images else []
    parts += [{"type": "image", "url": image.as_url()} for image in last.images]
    options = {"effort": request.reasoning_effort, "outputSchema": request.schema}
    return {"input": parts, **{name: value for name, value in options.items() if value is not None}, **request.extra}


def _refusal(refused: RefusedCall) -> e.BackendError:
    if isinstance(refused.data, dict) and refused.data.get("input_error_code") == "input_too_large":
        return e.ContextLengthError(f"codex: {refused}")
    if "image" in str(refused).lower():
        return e.InvalidRequestError(f"codex: {refused}")
    return e.UnavailableError(f"codex refuses a call: {refused}", retry_same=False)


def _usage(counts: Any) -> Usage | None:
    """Return the tokens, whose names differ between the server and one process for one request."""
    if not isinstance(counts, dict):
        return None
    small = {name.replace("_", "").lower(): value or 0 for name, value in counts.items()}
    ours = ("inputtokens", "outputtokens", "cachedinputtokens", "reasoningoutputtokens", "cachewriteinputtokens")
    return Usage(*(small.get(name, 0) for name in ours))
