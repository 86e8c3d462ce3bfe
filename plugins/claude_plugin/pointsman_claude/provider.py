"""The provider: where to send, with which key, and how it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen
from pointsman import (
    AuthenticationError,
    Chunk,
    Completion,
    ConfigError,
    Health,
    ModelInfo,
    ModelNotFoundError,
    Request,
    Scope,
    Secret,
    collect,
    hookimpl,
)
from pointsman.http import Client, probe, promised_form
from pointsman.values import Capability

from . import _messages, _models

if TYPE_CHECKING:
    import requests

_ANTHROPIC = "https://api.anthropic.com"
#: Answers that may be longer than this many tokens are fetched as a stream: Anthropic's own client does not wait for
#: them in one piece, since it could take more than the ten minutes that a connection lives.
_LONG = 21_333
_LIST_S = 20.0


def _env(name: str) -> Any:
    return lambda: os.environ.get(name) or None


def _secret(value: str | Secret | None) -> Secret | None:
    return Secret.of(value)


@frozen(kw_only=True)
class Claude:
    """Anthropic's Claude, over the Messages API.

    A wrong option is not raised here but told by `health` and by every call, so that it takes down
    this backend and no other.
    """

    #: What is asked unless a request names its own (environment: ANTHROPIC_MODEL).
    model: str | None = field(factory=_env("ANTHROPIC_MODEL"))
    api_key: Secret | None = field(factory=_env("ANTHROPIC_API_KEY"), converter=_secret)
    #: Sent as a bearer token where there is no key (environment: ANTHROPIC_AUTH_TOKEN).
    auth_token: Secret | None = field(factory=_env("ANTHROPIC_AUTH_TOKEN"), converter=_secret)
    #: Without the path, with or without "/v1" (environment: ANTHROPIC_BASE_URL).
    base_url: str = field(factory=lambda: os.environ.get("ANTHROPIC_BASE_URL") or _ANTHROPIC)
    #: Of the API: from 2026-10-21 on it takes no sampling parameters, whatever the model.
    version: Literal["2023-06-01", "2026-10-21"] = "2023-06-01"
    #: Have the tools, the system and the conversation kept in the provider's cache.
    cache: bool = False
    #: Sent with every request: `anthropic-beta`, say.
    headers: Mapping[str, str | Secret] = field(factory=dict, repr=False)
    #: A `requests.Session` to send through; see `pointsman.http.Client`.
    session: requests.Session | None = field(default=None, repr=False)
    #: Tokens that fit the model, if you know it.
    context_window: int | None = None
    #: Options of a request that your models do not take, instead of what is known of their families.
    refuses: Sequence[str] | None = None

    vendor = _messages.VENDOR

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Tools, schemas and images; and continuation, where the model takes the beginning of its answer."""
        able: frozenset[Capability] = frozenset({"tools", "schema", "images"})
        return able if _models.ADAPTIVE.search(self.model or "") else able | {"continuation"}

    @property
    def missing(self) -> str:
        """What a person must add."""
        return self._client if isinstance(self._client, str) else ""

    def unsupported(self, model: str | None) -> frozenset[str]:
        """Return the options that the model does not take."""
        if self.refuses is not None:
            return frozenset(self.refuses)
        return _models.unsupported(model or "", self.version)

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

    @hookimpl
    def health(self) -> Health:
        """List one model: that proves the server and the key, and costs nothing."""
        if not self.model and not isinstance(self._client, str):
            return Health.unconfigured("no model: set the option model, or ANTHROPIC_MODEL")
        return probe(self._client, "v1/models?limit=1", key="option api_key, or ANTHROPIC_API_KEY")

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return the models that the key may ask."""
        client = self._client
        if isinstance(client, str):
            raise AuthenticationError(client)
        answer = client.get_json("v1/models?limit=1000", Scope(_LIST_S))
        with promised_form():
            return [
                ModelInfo(one["id"], one.get("max_input_tokens"), retires=one.get("retires_at"))
                for one in answer.data["data"]
            ]

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        if isinstance(self._client, Client):
            self._client.close()

    @cached_property
    def _client(self) -> Client | str:
        """The client, or what a person must do before there can be one."""
        if self.api_key is None and self.auth_token is None:
            return "no key: set the option api_key, or ANTHROPIC_API_KEY"
        headers: dict[str, str | Secret] = {"anthropic-version": self.version, **self.headers}
        bearer = ("Authorization", "Bearer ", self.auth_token)
        auth = ("x-api-key", "", self.api_key) if self.api_key is not None else bearer
        root = self.base_url.strip().rstrip("/").removesuffix("/messages").removesuffix("/v1")
        try:
            return Client(root, headers=headers, auth=auth, session=self.session)
        except (ConfigError, ValueError) as error:
            return str(error)

    def _prepared(self, request: Request) -> tuple[Client, dict[str, Any]]:
        client, model = self._client, request.model or self.model
        if isinstance(client, str):
            raise AuthenticationError(client)
        if model is None:
            raise ModelNotFoundError("no model: set the option model, or ANTHROPIC_MODEL")
        return client, _messages.body(request, model, cache=self.cache)

    def _chunks(self, client: Client, body: Mapping[str, Any], scope: Scope) -> Iterator[Chunk]:
        with client.post_events("v1/messages", {**body, "stream": True}, scope) as events, promised_form():
            yield from _messages.chunks(events)
