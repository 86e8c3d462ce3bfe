"""The provider: where to send, with which key, and how it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, ClassVar

from attrs import field, frozen
from pointsman import Chunk, Completion, Health, ModelInfo, ModelNotFoundError, Request, Scope, collect, hookimpl
from pointsman.http import Client, promised_form
from pointsman.service import HEALTH_S, Service

from . import _content, _models

#: A model stands in the path: nothing that has a meaning there may be in its id.
_ID = re.compile(r"((models|tunedModels)/)?\w[\w-]*(\.[\w-]+)*", re.ASCII)


@frozen(kw_only=True)
class Gemini(Service):
    """Google's Gemini, over `generateContent`."""

    HOME: ClassVar[str] = "https://generativelanguage.googleapis.com"
    DOMAINS: ClassVar[tuple[str, ...]] = ("googleapis.com",)
    KEYS: ClassVar[tuple[str, ...]] = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # the first wins, as with Google's client
    URL: ClassVar[str] = "GOOGLE_GEMINI_BASE_URL"
    MODEL: ClassVar[str] = "GEMINI_MODEL"

    #: Of the API, where `base_url` names none (environment: GOOGLE_GENAI_API_VERSION). On "v1", which Google's client 3
    #: asks, there are neither previews nor the "-latest" names.
    version: str = field(factory=lambda: Gemini.environment("GOOGLE_GENAI_API_VERSION") or "v1beta")

    vendor = _content.VENDOR

    def untaken(self, model: str) -> Collection[str]:
        """Return the options that the model does not take."""
        return _models.untaken(model)

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

    def connected(self) -> Client:
        """Return the client."""
        root = self.base_url.strip().rstrip("/")
        if not re.search(r"/v\d\w*$", root):
            root += "/v1beta" if self.version == "beta" else f"/{self.version}"
        return Client(root, headers=self.headers, auth=("x-goog-api-key", "", self.api_key), session=self.session)

    def probe(self, client: Client) -> Health:
        """List one model: that proves the server and the key, and costs nothing."""
        client.get_json("models?pageSize=1", Scope(HEALTH_S))
        return Health.ok()

    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return the models that the key may ask."""
        for one in client.get_json("models?pageSize=1000", scope).data["models"]:
            if "generateContent" in one.get("supportedGenerationMethods", ("generateContent",)):
                yield ModelInfo(one["name"].removeprefix("models/"), one.get("inputTokenLimit"))

    def _prepared(self, request: Request) -> tuple[Client, str, dict[str, Any]]:
        client, model = self.ready(request), request.model or self.model or ""
        if not _ID.fullmatch(model):
            raise ModelNotFoundError(f"model: found {model!r:.100}, expected an id such as those of `pointsman models`")
        return client, model if "/" in model else f"models/{model}", _content.body(request, model)
