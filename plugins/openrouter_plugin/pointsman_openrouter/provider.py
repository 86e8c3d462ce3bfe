"""OpenRouter: its fallback lists and preferences, who asks, what it cost, and which of its errors mean what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, ClassVar
from urllib.parse import quote

from attrs import frozen
from pointsman import (
    BackendError,
    Health,
    InvalidRequestError,
    ModelInfo,
    ModelNotFoundError,
    QuotaError,
    Request,
    Scope,
)
from pointsman.http import Client
from pointsman.service import HEALTH_S, root_of
from pointsman_openai.wire import Compatible

#: Preferences of the field `provider` (OpenRouter's documentation, August 2026). Others are sent as they are.
_PREFERENCES = {
    "order",
    "only",
    "ignore",
    "allow_fallbacks",
    "require_parameters",
    "data_collection",
    "zdr",
    "max_price",
}
#: `pricing` of a model -> prices of `ModelInfo`.
_PRICES = {"prompt": "input", "completion": "output", "input_cache_read": "cached"}


@frozen(kw_only=True)
class OpenRouter(Compatible):
    """Asks the models of OpenRouter. Without `model` the account's default answers."""

    HOME: ClassVar[str] = "https://openrouter.ai/api/v1"
    DOMAINS: ClassVar[tuple[str, ...]] = ("openrouter.ai",)
    KEYS: ClassVar[tuple[str, ...]] = ("OPENROUTER_API_KEY",)
    URL: ClassVar[str] = "OPENROUTER_BASE_URL"
    MODEL: ClassVar[str] = "OPENROUTER_MODEL"

    #: Models that OpenRouter itself asks next, when `model` does not answer.
    models: tuple[str, ...] = ()
    #: Which hosts may serve the model, and how one is chosen: OpenRouter's provider preferences.
    provider: Mapping[str, Any] | None = None
    #: The address of your program: who you are to OpenRouter.
    app_url: str | None = None
    app_title: str | None = None
    #: At most two of OpenRouter's categories.
    app_categories: tuple[str, ...] = ()

    @property
    def vendor(self) -> str:
        """Whose state is kept with a conversation."""
        return "openrouter"

    def problem(self) -> str:
        """Return what keeps it from being asked; a preference that is misspelt would be ignored there."""
        for name in (self.provider or {}).keys() - _PREFERENCES:
            if near := get_close_matches(name, _PREFERENCES, 1, 0.75):
                return f"provider.{name}: unknown preference; did you mean {near[0]}?"
        return super().problem()

    def api_root(self) -> str:
        """Return what the paths of the API are appended to: it lies below `/api`."""
        root = root_of(self.base_url, "/chat/completions", "/responses", "/models", otherwise="/api/v1")
        return f"{root}/v1" if root.endswith("/api") else root

    def own_headers(self) -> Mapping[str, str | None]:
        """Return what tells OpenRouter which program asks, in characters that a header can carry."""
        told = {
            "HTTP-Referer": self.app_url,
            "X-OpenRouter-Title": self.app_title,
            "X-OpenRouter-Categories": ",".join(self.app_categories),
        }
        return {name: _sendable(value) for name, value in told.items() if value}

    def fit(self, body: dict[str, Any], request: Request) -> None:
        """Add the fallback list and the preferences."""
        if self.models:
            body["models"] = list(self.models)
        if self.provider:
            body["provider"] = dict(self.provider)

    def told(self, error: BackendError) -> BackendError:
        """Return what an error means: its `error_type` and `availability` are known to the core."""
        if isinstance(error, QuotaError):
            error.retry_same = error.retry_after is not None  # 402 with a hint is a matter of seconds
            if error.retry_after is None and "fewer max_tokens" in error.message:
                error.retry_after = (
                    0.0  # what is too dear with so many may be affordable with fewer: no reason to pause
                )
        if isinstance(error, ModelNotFoundError) and "that support" in error.message:  # the model is there, without it
            wanted = next((name for name in ("tool_choice", "tool") if name in error.message), None)
            return InvalidRequestError(
                error.message,
                status=error.status,
                code=error.code,
                parameter="tools" if wanted == "tool" else wanted,
                try_next=True,
            )
        return error

    def probe(self, client: Client) -> Health:
        """Ask for the key's own facts: its list of models is public and proves no key."""
        facts = client.get_json("key", Scope(HEALTH_S)).data
        left = (facts.get("data") or {}).get("limit_remaining") if isinstance(facts, dict) else None
        if isinstance(left, int | float) and left <= 0:
            return Health.unavailable("no quota left: the limit of the key is used up; raise it at openrouter.ai/keys")
        return Health.ok()

    def models_of(self, entry: Mapping[str, Any]) -> Sequence[ModelInfo]:
        """Return a model with its prices, which OpenRouter gives as text, in dollars for one token."""
        prices, told = {}, entry.get("pricing") or {}
        for theirs in _PRICES.keys() & told.keys():
            with suppress(TypeError, ValueError):
                prices[_PRICES[theirs]] = round(float(told[theirs]) * 1e6, 6)
        good = prices and min(prices.values()) >= 0  # -1: it depends on the model that is chosen
        return [
            ModelInfo(entry["id"], entry.get("context_length"), prices if good else None, entry.get("expiration_date"))
        ]


def _sendable(text: str) -> str:
    """Return `text` with what no header can carry encoded as in a URL."""
    return "".join(char if " " <= char <= "~" else quote(char, errors="replace") for char in text)
