"""One request as a turn of codex: over its server, or with one process for it alone. Protocol: codex 0.169.0.

`codex app-server generate-json-schema --experimental --out FOLDER` writes down the server's.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from pointsman import (
    BackendError,
    Chunk,
    ContentFilterError,
    InvalidRequestError,
    Message,
    Request,
    UnavailableError,
    UnusableAnswer,
    Usage,
)
from pointsman_stdio import Exchange, ProtocolRefused

from ._errors import ASKED_FOR_TOOL, failure, was_cut

_UNHEARD = ("account/rateLimits/updated", "rawResponse/completed", "thread/started", "thread/status/changed")
_ABOUT = {
    "clientInfo": {"name": "pointsman", "title": "Pointsman", "version": "0"},
    "capabilities": {"experimentalApi": True, "optOutNotificationMethods": _UNHEARD},
}
#: The first messages to the server; `experimentalApi` is for `environments`, which must be empty.
HELLO: tuple[dict[str, Any], ...] = ({"id": 0, "method": "initialize", "params": _ABOUT}, {"method": "initialized"})
_ROLES = {"user": "input_text", "assistant": "output_text", "developer": "input_text"}
_THINKING = ("item/reasoning/summaryTextDelta", "item/reasoning/textDelta")
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")
#: Layers of its configuration that give way to ours; what another one says, nobody can take back.
_WEAKER = ("user", "system", "project", "sessionFlags")


def route(message: Mapping[str, Any]) -> str | None:
    """Return the thread that a notification is about."""
    params = message.get("params")
    return params.get("threadId") if isinstance(params, dict) else None


def turn(exchange: Exchange, request: Request) -> Turn:
    """Ask over the server, in a thread of its own that nothing is written down of."""
    servers = _servers(exchange.asked("config/read", {"includeLayers": True}))
    begun = exchange.call("thread/start", _thread(request, servers), lambda r: [("thread/unsubscribe", _ids(r))])
    ids = _ids(begun)
    exchange.listen(ids["threadId"])
    exchange.call("thread/inject_items", {**ids, "items": [_item(each) for each in request.messages]})
    options = {"effort": request.reasoning_effort, "outputSchema": request.schema}
    asked = {**request.extra, **{name: value for name, value in options.items() if value is not None}}
    undo = lambda result: [("turn/interrupt", {**ids, "turnId": result["turn"]["id"]})]  # noqa: E731
    exchange.call("turn/start", {**asked, **ids, "input": []}, undo)
    return Turn(exchange, begun.get("model"))


class Turn:
    """Reads the notifications of a turn."""

    def __init__(self, exchange: Exchange, model: str | None) -> None:
        self._exchange = exchange
        self._model = model
        self._usage: Usage | None = None
        self._spoken = False
        self._begun: set[Any] = set()  # messages of the model that have begun and not ended

    def __call__(self, message: Mapping[str, Any]) -> Chunk | BackendError | None:
        """Return what one says."""
        method, params = message.get("method"), message.get("params") or {}
        item = params.get("item") or {}
        if method == "item/agentMessage/delta":
            self._spoken = self._spoken or bool(params["delta"])
            return Chunk(params["delta"], model=self._model)
        if method in _THINKING:
            return Chunk(thinking=params.get("delta") or "", model=self._model)
        if method == "rawResponseItem/completed" and item.get("type") not in ("message", "reasoning"):
            return self._failed(UnusableAnswer(ASKED_FOR_TOOL))
        if method in ("item/started", "item/completed") and item.get("type") == "agentMessage":
            (self._begun.add if method == "item/started" else self._begun.discard)(item.get("id"))
        elif method == "thread/tokenUsage/updated":
            self._usage = usage_of((params.get("tokenUsage") or {}).get("total"))
        elif method == "turn/completed":
            self._exchange.done()
            return self._end(params.get("turn") or {})
        return None

    def _end(self, ended: Mapping[str, Any]) -> Chunk | BackendError:
        if self._begun and not self._spoken and ended.get("status") == "completed":
            return self._failed(ContentFilterError("the model refused, in words that codex does not pass on"))
        found = end_of(ended, self._usage, self._model, spoken=self._spoken)
        return self._failed(found) if isinstance(found, BackendError) else found

    def _failed(self, error: BackendError) -> BackendError:
        error.usage = self._usage
        return error


class Alone:
    """Reads what `codex exec --json` tells."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, message: Mapping[str, Any]) -> Chunk | BackendError | None:
        """Return what one line says."""
        item, kind = message.get("item") or {}, message.get("type")
        if kind == "item.completed" and item.get("type") == "agent_message":
            self._said += item.get("text") or ""
            return Chunk(item.get("text") or "")
        if kind in ("turn.completed", "turn.failed"):
            ended = {**message, "status": kind.removeprefix("turn.")}
            return end_of(ended, usage_of(message.get("usage")), None, spoken=bool(self._said))
        return None


def end_of(ended: Mapping[str, Any], usage: Usage | None, model: str | None, *, spoken: bool) -> Chunk | BackendError:
    """Return how a turn ended."""
    if ended.get("status") == "completed":
        return Chunk(finish_reason="stop", raw_finish_reason="completed", usage=usage, model=model)
    if spoken and was_cut(ended.get("error")):
        return Chunk(finish_reason="length", raw_finish_reason="max_output_tokens", usage=usage, model=model)
    if ended.get("status") == "interrupted":
        return UnavailableError("codex was interrupted")
    return failure(ended.get("error"))


def usage_of(counts: Any) -> Usage | None:
    """Return the tokens, under the names of the server or of `codex exec`; None if there are none."""
    if not isinstance(counts, dict):
        return None
    small = {name.replace("_", "").lower(): value or 0 for name, value in counts.items()}
    ours = ("inputtokens", "outputtokens", "cachedinputtokens", "reasoningoutputtokens", "cachewriteinputtokens")
    usage = Usage(*(small.get(name, 0) for name in ours))
    return usage if usage.total_tokens else None


def _servers(read: Any) -> dict[str, Any]:
    """Return what takes away all servers of tools that the machine's own configuration starts.

    :raises UnavailableError: there is something in it that cannot be taken away, or nobody knows.
    """
    config = read.get("config") if isinstance(read, dict) else None
    if not isinstance(config, dict):
        raise ProtocolRefused("codex tells its configuration in a form of its own")
    strong = [layer for layer in read.get("layers") or () if (layer.get("name") or {}).get("type") not in _WEAKER]
    names = ("mcp_servers", "notify", "developer_instructions", "hooks")
    if any((layer.get("config") or {}).get(name) for layer in strong for name in names) or config.get("notify"):
        raise UnavailableError(
            "codex is managed on this machine: whatever we say, it would start servers of tools or hooks, or send "
            "instructions (config/read of codex app-server shows which)",
            retry_same=False,
        )
    return {name: {"enabled": False} for name in config.get("mcp_servers") or {}}


def _ids(begun: Any) -> dict[str, Any]:
    return {"threadId": begun["thread"]["id"]}


def _thread(request: Request, servers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": request.model,
        "ephemeral": True,
        "sandbox": "read-only",
        "approvalPolicy": "never",
        "environments": [],
        "baseInstructions": "",
        "developerInstructions": request.system,  # as instructions, some models would get it twice
        "experimentalRawEvents": True,  # tells of a call before codex answers it, and asks again
        "config": {"mcp_servers": servers},
    }


def _item(message: Message) -> dict[str, Any]:
    """Return a message as OpenAI's Responses API has it.

    :raises InvalidRequestError: a picture is none: codex would put a sentence in its place.
    """
    inline = [image.inline for image in message.images]
    if not all(found and b64decode(found[1][:16]).startswith(_PICTURES) for found in inline):
        raise InvalidRequestError("a picture is none that codex can read: it reads PNG, JPEG, GIF and WebP")
    role = "developer" if message.role == "system" else message.role
    content: list[dict[str, Any]] = [{"type": _ROLES[role], "text": message.text}] if message.text else []
    content += [{"type": "input_image", "image_url": image.as_url()} for image in message.images]
    return {"type": "message", "role": role, "content": content}
