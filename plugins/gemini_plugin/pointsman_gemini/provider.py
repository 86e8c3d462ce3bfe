"""The provider: where to send, with which key, and how it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

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

from . import _content, _models

if TYPE_CHECKING:
    import requests

_GOOGLE = "https://generativelanguage.googleapis.com"
_KEYS = "GOOGLE_API_KEY", "GEMINI_API_KEY"
_NO_MODEL = "no model: set the option model, or GEMINI_MODEL"
#: A model stands in the path: nothing that has a meaning there may be in its id.
_ID = re.compile(r"((models|tunedModels)/)?\w[\w-]*(\.[\w-]+)*", re.ASCII)
_LIST_S = 20.0


def _env(*names: str, default: str | None = None) -> Any:
    return lambda: next(filter(None, map(os.environ.get, names)), default)


def _secret(value: str | Secret | None) -> Secret | None:
    return Secret.of(value)


@frozen(kw_only=True)
class Gemini:
    """Google's Gemini, over `generateContent`.

    A wrong option is not raised here but told by `health` and by every call, so that it takes down
    this backend and no other.
    """

    #: What is asked unless a request names its own, with or without "models/" (environment: GEMINI_MODEL).
    model: str | None = field(factory=_env("GEMINI_MODEL"))
    #: Environment: GOOGLE_API_KEY, which wins, as with Google's own client; else GEMINI_API_KEY.
    api_key: Secret | None = field(factory=_env(*_KEYS), converter=_secret)
    #: Without the path; a version at its end counts (environment: GOOGLE_GEMINI_BASE_URL).
    base_url: str = field(factory=_env("GOOGLE_GEMINI_BASE_URL", default=_GOOGLE))
    #: Of the API, where `base_url` names none (environment: GOOGLE_GENAI_API_VERSION). On "v1", which Google's client 3
    #: asks, there are neither previews nor the "-latest" names.
    version: str = field(factory=_env("GOOGLE_GENAI_API_VERSION", default="v1beta"))
    #: Sent with every request: `x-goog-user-project`, say.
    headers: Mapping[str, str | Secret] = field(factory=dict, repr=False)
    #: A `requests.Session` to send through; see `pointsman.http.Client`.
    session: requests.Session | None = field(default=None, repr=False)
    #: Tokens that fit the model, if you know it.
    context_window: int | None = None
    capabilities: frozenset[Capability] = frozenset({"tools", "schema", "images"})
    #: Options of a request that your models do not take, instead of what is known of their families.
    refuses: Sequence[str] | None = None

    vendor = _content.VENDOR

    @property
    def missing(self) -> str:
        """What a person must add."""
        return self._client if isinstance(self._client, str) else ""

    def unsupported(self, model: str | None) -> frozenset[str]:
        """Return the options that the model does not take."""
        return _models.unsupported(model or "") if self.refuses is None else frozenset(self.refuses)

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer, whole."""
        client, path, body = self._prepared(request)
        answer = client.post_json(f"{path}:generateContent", body, request.scope)
        with promised_form():
            return collect(_content.chunks([answer.data]))

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        client, path, body = self._prepared(request)
        path += ":streamGenerateContent?alt=sse"
        with client.post_events(path, body, request.scope) as events, promised_form():
            yield from _content.chunks(_content.heard(events))

    @hookimpl
    def health(self) -> Health:
        """List one model: that proves the server and the key, and costs nothing."""
        if not self.model and not isinstance(self._client, str):
            return Health.unconfigured(_NO_MODEL)
        return probe(self._client, "models?pageSize=1", key=f"option api_key, or {_KEYS[0]}, or {_KEYS[1]}")

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return the models that the key may ask."""
        client = self._client
        if isinstance(client, str):
            raise AuthenticationError(client)
        answer = client.get_json("models?pageSize=1000", Scope(_LIST_S))
        with promised_form():
            return [
                ModelInfo(one["name"].removeprefix("models/"), one.get("inputTokenLimit"))
                for one in answer.data["models"]
                if "generateContent" in one.get("supportedGenerationMethods", ("generateContent",))
            ]

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        if isinstance(self._client, Client):
            self._client.close()

    @cached_property
    def _client(self) -> Client | str:
        """The client, or what a person must do before there can be one."""
        if self.api_key is None:
            return f"no key: set the option api_key, or {_KEYS[0]}, or {_KEYS[1]}"
        root = self.base_url.strip().rstrip("/")
        if not re.search(r"/v\d\w*$", root):
            root += "/v1beta" if self.version == "beta" else f"/{self.version}"
        try:
            return Client(root, headers=self.headers, auth=("x-goog-api-key", "", self.api_key), session=self.session)
        except (ConfigError, ValueError) as error:
            return str(error)

    def _prepared(self, request: Request) -> tuple[Client, str, dict[str, Any]]:
        client, model = self._client, request.model or self.model
        if isinstance(client, str):
            raise AuthenticationError(client)
        if model is None:
            raise ModelNotFoundError(_NO_MODEL)
        if not _ID.fullmatch(model):
            raise ModelNotFoundError(f"model: found {model!r:.100}, expected an id such as those of `pointsman models`")
        return client, model if "/" in model else f"models/{model}", _content.body(request, model)
