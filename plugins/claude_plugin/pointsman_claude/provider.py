"""The provider: where to send, with which key, and how it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from attrs import Factory, field, frozen
from pointsman import BackendError, ModelInfo, Request, Scope, Secret
from pointsman.http import Client
from pointsman.service import Asked, Service, as_secret, root_of
from pointsman.values import Capability

from . import _answer, _models, _request

#: Answers that may be longer than this many tokens are fetched as a stream: Anthropic's own client does not wait for
#: them in one piece, since it could take more than the ten minutes that a connection lives. Of a slow model, fewer.
_LONG, _LONG_OF_SLOW = 21_333, 8_192


@frozen(kw_only=True)
class Claude(Service):
    """Anthropic's Claude, over the Messages API."""

    HOME: ClassVar[str] = "https://api.anthropic.com"
    DOMAINS: ClassVar[tuple[str, ...]] = ("anthropic.com", "claude.com")
    KEYS: ClassVar[tuple[str, ...]] = ("ANTHROPIC_API_KEY",)
    PROBE: ClassVar[str] = "v1/models?limit=1"
    URL: ClassVar[str] = "ANTHROPIC_BASE_URL"
    MODEL: ClassVar[str] = "ANTHROPIC_MODEL"
    ABSENT: ClassVar[frozenset[str]] = _models.ABSENT

    #: Sent as a bearer token where there is no key (environment: ANTHROPIC_AUTH_TOKEN).
    auth_token: Secret | None = field(
        default=Factory(lambda self: self.key_of_environment("ANTHROPIC_AUTH_TOKEN"), takes_self=True),
        converter=as_secret,
    )
    #: Of the API: from 2026-10-21 on it takes no sampling parameters, whatever the model.
    version: Literal["2023-06-01", "2026-10-21"] = "2023-06-01"
    #: Have the tools, the system and the conversation kept in the provider's cache.
    cache: bool = False
    #: How your models are told to think, in place of what is known of their families.
    thinking: _models.Form | None = None
    capabilities: frozenset[Capability] = field()

    vendor = "anthropic"

    @capabilities.default
    def _able(self) -> frozenset[Capability]:
        able: frozenset[Capability] = frozenset({"tools", "schema", "images"})
        older = self.model is not None and _models.family(self.model).form != "adaptive"
        return able | {"continuation"} if older else able

    def problem(self) -> str:
        """Return what keeps it from being asked."""
        return "" if self.auth_token else super().problem()

    def untaken(self, request: Request, model: str) -> Collection[str]:
        """Return the options that the model does not take in this version of the API."""
        return _models.untaken(request, model, self.version, self._form(model))

    def teaches(self, error: BackendError, body: Mapping[str, Any], model: str | None) -> tuple[str | None, str] | None:
        """Return what a refusal teaches: a model that thinks in the other way."""
        kind = body.get("thinking", {}).get("type")
        if kind not in ("adaptive", "enabled") or f"{kind}" not in error.message or "support" not in error.message:
            return None
        return model, "budget" if kind == "adaptive" else "adaptive"

    def asked(self, request: Request, *, streamed: bool) -> Asked:
        """Return the request as it is sent."""
        model = request.model or self.model or ""
        body, warnings = _request.body(request, model, self._form(model), cache=self.cache)
        streamed = streamed or body["max_tokens"] > (_LONG_OF_SLOW if _models.family(model).slow else _LONG)
        return Asked("v1/messages", {**body, "stream": True} if streamed else body, _answer, streamed, warnings)

    def connected(self) -> Client:
        """Return the client."""
        auth = ("x-api-key", "", self.api_key) if self.api_key else ("Authorization", "Bearer ", self.auth_token)
        root = root_of(root_of(self.base_url, "/messages"), "/v1")
        headers: dict[str, str | Secret] = {"anthropic-version": self.version, **self.headers}
        return Client(root, headers=headers, auth=auth, session=self.session)

    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return the models that the key may ask."""
        for one in client.get_json("v1/models?limit=1000", scope).data["data"]:
            yield ModelInfo(one["id"], one.get("max_input_tokens"), retires=one.get("retires_at"))

    def _form(self, model: str) -> _models.Form:
        learnt: Iterator[_models.Form] = (form for form in ("adaptive", "budget") if (model, form) in self._learnt)
        return self.thinking or next(learnt, None) or _models.family(model).form
