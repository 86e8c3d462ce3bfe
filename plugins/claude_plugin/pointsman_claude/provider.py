"""The provider: where to send, with which key, and how it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from attrs import Factory, field, frozen
from pointsman import Chunk, Completion, Health, ModelInfo, Request, Scope, Secret, collect, hookimpl
from pointsman.http import Client, promised_form
from pointsman.service import HEALTH_S, Service, as_secret
from pointsman.values import Capability

from . import _messages, _models

#: Answers that may be longer than this many tokens are fetched as a stream: Anthropic's own client does not wait for
#: them in one piece, since it could take more than the ten minutes that a connection lives.
_LONG = 21_333


@frozen(kw_only=True)
class Claude(Service):
    """Anthropic's Claude, over the Messages API."""

    HOME: ClassVar[str] = "https://api.anthropic.com"
    DOMAINS: ClassVar[tuple[str, ...]] = ("anthropic.com", "claude.com")
    KEYS: ClassVar[tuple[str, ...]] = ("ANTHROPIC_API_KEY",)
    URL: ClassVar[str] = "ANTHROPIC_BASE_URL"
    MODEL: ClassVar[str] = "ANTHROPIC_MODEL"

    #: Sent as a bearer token where there is no key (environment: ANTHROPIC_AUTH_TOKEN).
    auth_token: Secret | None = field(
        default=Factory(lambda self: self.key_of_environment("ANTHROPIC_AUTH_TOKEN"), takes_self=True),
        converter=as_secret,
    )
    #: Of the API: from 2026-10-21 on it takes no sampling parameters, whatever the model.
    version: Literal["2023-06-01", "2026-10-21"] = "2023-06-01"
    #: Have the tools, the system and the conversation kept in the provider's cache.
    cache: bool = False
    capabilities: frozenset[Capability] = field()

    vendor = _messages.VENDOR

    @capabilities.default
    def _able(self) -> frozenset[Capability]:
        able: frozenset[Capability] = frozenset({"tools", "schema", "images"})
        return able if _models.ADAPTIVE.search(self.model or "") else able | {"continuation"}

    def problem(self) -> str:
        """Return what keeps it from being asked."""
        return "" if self.auth_token else super().problem()

    def untaken(self, model: str) -> Collection[str]:
        """Return the options that the model does not take in this version of the API."""
        return _models.untaken(model, self.version)

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer, whole."""
        client, body = self._prepared(request)
        if body["max_tokens"] > _LONG:
            return collect(self._chunks(client, body, request.scope))
        answer = client.post_json("v1/messages", body, request.scope)
        with promised_form():
            return _messages.completion(answer.data, answer.headers)

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        client, body = self._prepared(request)
        yield from self._chunks(client, body, request.scope)

    def connected(self) -> Client:
        """Return the client."""
        auth = ("x-api-key", "", self.api_key) if self.api_key else ("Authorization", "Bearer ", self.auth_token)
        root = self.base_url.strip().rstrip("/").removesuffix("/messages").removesuffix("/v1")
        headers: dict[str, str | Secret] = {"anthropic-version": self.version, **self.headers}
        return Client(root, headers=headers, auth=auth, session=self.session)

    def probe(self, client: Client) -> Health:
        """List one model: that proves the server and the key, and costs nothing."""
        client.get_json("v1/models?limit=1", Scope(HEALTH_S))
        return Health.ok()

    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return the models that the key may ask."""
        for one in client.get_json("v1/models?limit=1000", scope).data["data"]:
            yield ModelInfo(one["id"], one.get("max_input_tokens"), retires=one.get("retires_at"))

    def _prepared(self, request: Request) -> tuple[Client, dict[str, Any]]:
        client = self.ready(request)
        return client, _messages.body(request, request.model or self.model or "", cache=self.cache)

    def _chunks(self, client: Client, body: Mapping[str, Any], scope: Scope) -> Iterator[Chunk]:
        with client.post_events("v1/messages", {**body, "stream": True}, scope) as events, promised_form():
            yield from _messages.chunks(events)
