"""The provider: where to send, with which key, and how it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

from attrs import field, frozen
from pointsman import ModelInfo, ModelNotFoundError, Request, Scope
from pointsman.http import Client
from pointsman.service import Asked, Service, root_of

from . import _content, _models

#: A model stands in the path: nothing that has a meaning there may be in its id.
_ID = re.compile(r"((models|tunedModels)/)?\w[\w-]*(\.[\w-]+)*", re.ASCII)


@frozen(kw_only=True)
class Gemini(Service):
    """Google's Gemini, over `generateContent`."""

    HOME: ClassVar[str] = "https://generativelanguage.googleapis.com"
    DOMAINS: ClassVar[tuple[str, ...]] = ("googleapis.com",)
    KEYS: ClassVar[tuple[str, ...]] = ("GOOGLE_API_KEY", "GEMINI_API_KEY")  # the first wins, as with Google's client
    PROBE: ClassVar[str] = "models?pageSize=1"
    URL: ClassVar[str] = "GOOGLE_GEMINI_BASE_URL"
    MODEL: ClassVar[str] = "GEMINI_MODEL"

    #: Of the API, where `base_url` names none (environment: GOOGLE_GENAI_API_VERSION). On "v1", which Google's client 3
    #: asks, there are neither previews nor the "-latest" names.
    version: str = field(factory=lambda: Gemini.environment("GOOGLE_GENAI_API_VERSION") or "v1beta")

    vendor = "google"

    def untaken(self, request: Request, model: str) -> Collection[str]:
        """Return the options that the model does not take."""
        return _models.untaken(request, model)

    def asked(self, request: Request, *, streamed: bool) -> Asked:
        """Return the request as it is sent."""
        model = request.model or self.model or ""
        if not _ID.fullmatch(model):
            raise ModelNotFoundError(f"model: found {model!r:.100}, expected an id such as those of `pointsman models`")
        path = model if "/" in model else f"models/{model}"
        how = "streamGenerateContent?alt=sse" if streamed else "generateContent"
        return Asked(f"{path}:{how}", _content.body(request, model), _content)

    def connected(self) -> Client:
        """Return the client."""
        version = "v1beta" if self.version == "beta" else self.version
        parts = urlsplit(root_of(self.base_url, "/models"))
        path = parts.path if re.search(r"/v\d\w*$", parts.path) else f"{parts.path}/{version}"
        root = urlunsplit(parts._replace(path=path))
        return Client(root, headers=self.headers, auth=("x-goog-api-key", "", self.api_key), session=self.session)

    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return the models that the key may ask."""
        for one in client.get_json("models?pageSize=1000", scope).data["models"]:
            if "generateContent" in one.get("supportedGenerationMethods", ("generateContent",)):
                yield ModelInfo(one["name"].removeprefix("models/"), one.get("inputTokenLimit"))
