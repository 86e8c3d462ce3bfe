"""Hugging Face: its router to many hosts, its endpoints, which may sleep, and servers of your own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from attrs import field, frozen
from pointsman import (
    BackendError,
    BackendTimeout,
    Health,
    ModelInfo,
    ModelNotFoundError,
    Request,
    Scope,
    UnavailableError,
)
from pointsman.http import Client
from pointsman.service import HEALTH_S, is_within
from pointsman_openai.wire import Compatible

_ROUTER, _ENDPOINTS = "router.huggingface.co", "endpoints.huggingface.cloud"
_HUB = "https://huggingface.co"
#: whoami-v2 is strictly limited (huggingface_hub 2.4.0): what it said is good for so many seconds.
_WHOAMI_S = 600.0
#: A replica starts within minutes. The proxy holds a request so long where its header says so (documentation of
#: Inference Endpoints, "Autoscaling"); where it does not, the router asks again, as often.
_WAKING_S, _AGAIN_S = 600, 5.0
_WHERE = (
    "the models that somebody serves are at https://huggingface.co/models?inference_provider=all, and "
    "`pointsman models` lists them; one that nobody serves needs an endpoint of its own: give its URL as base_url"
)


@frozen(kw_only=True)
class HuggingFace(Compatible):
    """Asks a model through Hugging Face's router, at a dedicated endpoint, or at a TGI server of your own.

    Through the router the model may name its host: `openai/gpt-oss-120b:groq`, `...:cheapest`.
    """

    HOME: ClassVar[str] = f"https://{_ROUTER}/v1"
    DOMAINS: ClassVar[tuple[str, ...]] = ("huggingface.co", _ENDPOINTS)
    KEYS: ClassVar[tuple[str, ...]] = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_API_KEY")
    URL: ClassVar[str] = "HF_BASE_URL"
    MODEL: ClassVar[str] = "HF_MODEL"

    #: The organization, or resource group, that pays.
    bill_to: str | None = None
    #: Whether a 502 or 503 means that the server wakes, and is worth waiting for; None: of dedicated endpoints only.
    sleeps: bool | None = None
    #: Of the Hub, that knows the token; None: HF_ENDPOINT, or huggingface.co.
    hub_url: str | None = None
    #: When what the Hub said of the token gets old.
    _known_until: list[float] = field(init=False, factory=lambda: [0.0], eq=False, repr=False)

    def found_key(self) -> str | None:
        """Return the token of the environment, or that of `hf auth login`."""
        return super().found_key() or _token_file()

    @property
    def needs_model(self) -> bool:
        """The router has no model of its own choice; an endpoint has but one."""
        return self.host == _ROUTER

    def problem(self) -> str:
        """Return what keeps it from being asked."""
        if self.host == "api-inference.huggingface.co":
            return f"base_url: {self.host} is gone; leave it out, or give the URL of an endpoint"
        return super().problem()

    def own_headers(self) -> Mapping[str, str | None]:
        """Return who pays, and how long a sleeping endpoint may take to wake."""
        waking = str(_WAKING_S) if self._sleeps else None
        return {"X-HF-Bill-To": self.bill_to, "X-Scale-Up-Timeout": waking}

    def fit(self, body: dict[str, Any], request: Request) -> None:
        """Write a schema as TGI reads it, where that has been learnt."""
        if (None, "tgi") in self._learnt and "response_format" in body:
            body["response_format"] = {"type": "json_object", "value": request.schema}

    def teaches(self, error: BackendError, body: Mapping[str, Any], model: str | None) -> tuple[str | None, str] | None:
        """Return what a refusal teaches: TGI misses the field `value` in OpenAI's form of a schema."""
        if "response_format" in body and "missing field `value`" in error.message:
            return None, "tgi"
        return super().teaches(error, body, model)

    def told(self, error: BackendError) -> BackendError:
        """Return what an error means: where to look for a model, and that a server wakes."""
        if isinstance(error, ModelNotFoundError) and (error.code == "model_not_supported" or self.host == _ROUTER):
            return ModelNotFoundError(f"{error.message}; {_WHERE}", status=error.status, code=error.code)
        waking = isinstance(error, UnavailableError) and not isinstance(error, BackendTimeout)
        if waking and self._sleeps and error.status in (502, 503):
            error.retry_after = error.retry_after or _AGAIN_S
            error.retry_same, error.retries = True, int(_WAKING_S / _AGAIN_S)
        return error

    def probe(self, client: Client) -> Health:
        """Ask the Hub whose the token is: an endpoint that is asked anything wakes, and then costs."""
        if self.hub_url is None and not any(is_within(self.host, domain) for domain in self.DOMAINS):
            return Health.ok() if self._sleeps else super().probe(client)  # whoever asks it, wakes it
        if monotonic() >= self._known_until[0]:
            where = self.hub_url or os.environ.get("HF_ENDPOINT") or _HUB
            hub = Client(where, auth=("Authorization", "Bearer ", self.api_key), session=self.session)
            hub.get_json("api/whoami-v2", Scope(HEALTH_S))
            hub.close()
            self._known_until[0] = monotonic() + _WHOAMI_S
        return Health.ok()

    def models_of(self, entry: Mapping[str, Any]) -> Sequence[ModelInfo]:
        """Return a model once for each host that serves it, with that one's context window and prices."""
        hosts = [host for host in entry.get("providers") or () if host.get("status", "live") == "live"]
        found = [
            ModelInfo(f"{entry['id']}:{host['provider']}", host.get("context_length"), host.get("pricing") or None)
            for host in hosts
        ]
        return found or super().models_of(entry)

    @property
    def _sleeps(self) -> bool:
        return is_within(self.host, _ENDPOINTS) if self.sleeps is None else self.sleeps


def _token_file() -> str | None:
    """Return the token that huggingface_hub keeps, where it keeps it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(cache) / "huggingface"
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser().read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
