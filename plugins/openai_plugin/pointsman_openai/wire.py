"""What all providers of such an API share: what is sent, what refusals teach, health, models.

OpenAI itself, OpenRouter and Hugging Face are built from `Compatible`, each by saying what is different there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen
from pointsman import BackendError, InvalidRequestError, ModelInfo, Request, Scope
from pointsman.http import Client
from pointsman.service import Asked, Service, Wire, merged, root_of

from . import chat

#: What servers call the context window in their lists of models: vLLM, OpenRouter and Together, Groq, Mistral.
_WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length")


class Api(Wire, Protocol):
    """What the modules `chat` and `responses` have: one for each of the two APIs."""

    NAME: str
    PATH: str
    ABSENT: tuple[str, ...]  #: fields of `Request` that the API does not know

    def body(self, request: Request, model: str | None, *, streamed: bool) -> dict[str, Any]: ...


@frozen(kw_only=True)
class Compatible(Service):
    """Asks a service that speaks OpenAI's chat completions. Thread-safe. A subclass says what is its own."""

    # -- what a subclass says --------------------------------------------------------------------

    def api_root(self) -> str:
        """Return what the paths of the API are appended to, from whatever a person pasted."""
        return root_of(self.base_url, "/chat/completions", "/responses", "/models", otherwise="/v1")

    def own_headers(self) -> Mapping[str, str | None]:
        """Return the headers of the service's own; None is left out."""
        return {}

    def api_for(self, model: str | None, request: Request) -> Api:
        """Return the API that this request is sent to."""
        return chat

    def fit(self, body: dict[str, Any], request: Request) -> None:
        """Write into the body what the service wants to read."""

    def models_of(self, entry: Mapping[str, Any]) -> Sequence[ModelInfo]:
        """Return the models that one entry of the list of models stands for."""
        windows = [entry.get(name) for name in _WINDOWS] + [(entry.get("meta") or {}).get("n_ctx_train")]
        window = next((number for number in windows if isinstance(number, int)), None)
        return [ModelInfo(entry["id"], window, None, entry.get("shutdown_date"))]

    @property
    def limit_name(self) -> str:
        """What this service calls `max_tokens` until it teaches otherwise."""
        return "max_tokens"

    @property
    def needs_model(self) -> bool:
        """Most servers have a model of their own choice, or no other."""
        return False

    def teaches(self, error: BackendError, body: Mapping[str, Any], model: str | None) -> tuple[str | None, str] | None:
        """Return what a refusal teaches about this server, or the model on it."""
        if error.parameter == "max_tokens" and ("max_tokens" in body or "max_completion_tokens" in body):
            return model, "max_tokens"
        if error.parameter == "stream_options" and "stream_options" in body:
            return None, "stream_options"
        if "response_format" in error.message and "json_object" in error.message and "response_format" in body:
            return None, "json_object"
        return None

    # -- what is the same everywhere ---------------------------------------------------------------

    def connected(self) -> Client:
        """Return the client."""
        own = {name: value for name, value in self.own_headers().items() if value}
        auth = ("Authorization", "Bearer ", self.api_key)
        return Client(self.api_root(), headers={**own, **self.headers}, auth=auth, session=self.session)

    def asked(self, request: Request, *, streamed: bool) -> Asked:
        """Return the request as it is sent."""
        model = request.model or self.model
        api = self.api_for(model, request)
        refused = next((name for name in api.ABSENT if request.has(name)), None)
        if refused:
            raise InvalidRequestError(f"{api.NAME} has no {refused}", parameter=refused, try_next=True)
        body = api.body(request, model, streamed=streamed)
        self._adapt(body, model)
        self.fit(body, request)
        return Asked(api.PATH, merged(body, request.extra), api)

    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return what the server lists."""
        data = client.get_json("models", scope).data
        for entry in data if isinstance(data, list) else data["data"]:  # Together sends a bare list
            yield from self.models_of(entry)

    def _adapt(self, body: dict[str, Any], model: str | None) -> None:
        """Write what this server wants to read."""
        if "max_tokens" in body and (self.limit_name != "max_tokens") != ((model, "max_tokens") in self._learnt):
            body["max_completion_tokens"] = body.pop("max_tokens")
        if (None, "stream_options") in self._learnt:
            body.pop("stream_options", None)
        if (None, "json_object") in self._learnt and "response_format" in body:  # llama-cpp-python's form of a schema
            schema = body["response_format"]["json_schema"]["schema"]
            body["response_format"] = {"type": "json_object", "schema": schema}
