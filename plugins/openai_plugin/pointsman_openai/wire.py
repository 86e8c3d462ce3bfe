"""What all providers of such an API share: options, calls, what refusals teach, health, models.

OpenAI itself, OpenRouter and Hugging Face are built from `Compatible`, each by saying what is different there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from attrs import field, frozen
from pointsman import (
    BackendError,
    Chunk,
    Completion,
    Health,
    InvalidRequestError,
    ModelInfo,
    Request,
    Scope,
    hookimpl,
)
from pointsman.http import Client, Events, promised_form
from pointsman.service import HEALTH_S, Service

from . import chat

#: What servers call the context window in their lists of models: vLLM, OpenRouter and Together, Groq, Mistral.
_WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length")


class Wire(Protocol):
    """What the modules `chat` and `responses` have: one for each of the two APIs. `vendor` is whose state it is."""

    NAME: str
    PATH: str
    ABSENT: tuple[str, ...]  #: fields of `Request` that the API does not know

    def body(self, request: Request, model: str | None, *, streamed: bool) -> dict[str, Any]: ...
    def completion(self, data: Any, headers: Mapping[str, str], vendor: str) -> Completion: ...
    def chunks(self, events: Events, vendor: str) -> Iterator[Chunk]: ...


@frozen(kw_only=True)
class Compatible(Service):
    """Asks a service that speaks OpenAI's chat completions. Thread-safe. A subclass says what is its own."""

    #: (model, fact): what servers told us while refusing.
    _learnt: set[tuple[str | None, str]] = field(init=False, factory=set, eq=False, repr=False)

    # -- what a subclass says --------------------------------------------------------------------

    def own_headers(self) -> Mapping[str, str | None]:
        """Return the headers of the service's own; None is left out."""
        return {}

    def wire_for(self, model: str | None, request: Request) -> Wire:
        """Return the API that this request is sent to."""
        return chat

    def fit(self, body: dict[str, Any], request: Request) -> None:
        """Write into the body what the service wants to read."""

    def told(self, error: BackendError) -> BackendError:
        """Return what an error means here: the same, with more in it, or another."""
        return error

    def teaches(self, error: BackendError, body: Mapping[str, Any], model: str | None) -> tuple[str | None, str] | None:
        """Return what a refusal teaches about this server, or the model on it."""
        if error.parameter == "max_tokens" and ("max_tokens" in body or "max_completion_tokens" in body):
            return model, "max_tokens"
        if error.parameter == "stream_options" and "stream_options" in body:
            return None, "stream_options"
        if "response_format" in error.message and "json_object" in error.message and "response_format" in body:
            return None, "json_object"
        return None

    def probe(self, client: Client) -> Health:
        """Ask the service how it is, without tokens; raise what is wrong."""
        client.get_json("models", Scope(HEALTH_S))
        return Health.ok()

    def models_of(self, entry: Mapping[str, Any]) -> Sequence[ModelInfo]:
        """Return the models that one entry of the list of models stands for."""
        windows = [entry.get(name) for name in _WINDOWS] + [(entry.get("meta") or {}).get("n_ctx_train")]
        window = next((number for number in windows if isinstance(number, int)), None)
        return [ModelInfo(entry["id"], window, None, entry.get("shutdown_date"))]

    @property
    def vendor(self) -> str:
        """Whose state is kept with a conversation."""
        return self.host or ""

    @property
    def limit_name(self) -> str:
        """What this service calls `max_tokens` until it teaches otherwise."""
        return "max_tokens"

    @property
    def needs_model(self) -> bool:
        """Most servers have a model of their own choice, or no other."""
        return False

    # -- what is the same everywhere ---------------------------------------------------------------

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer, whole."""
        client, wire, body = self.prepared(request, streamed=False)
        with self._minding(body, request):
            answer = client.post_json(wire.PATH, body, request.scope)
            return wire.completion(answer.data, answer.headers, self.vendor)

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        client, wire, body = self.prepared(request, streamed=True)
        with self._minding(body, request), client.post_events(wire.PATH, body, request.scope) as events:
            yield from wire.chunks(events, self.vendor)

    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return what the server lists."""
        data = client.get_json("models", scope).data
        for entry in data if isinstance(data, list) else data["data"]:  # Together sends a bare list
            yield from self.models_of(entry)

    def connected(self) -> Client:
        """Return the client."""
        own = {name: value for name, value in self.own_headers().items() if value}
        auth = ("Authorization", "Bearer ", self.api_key)
        return Client(_api_root(self.base_url), headers={**own, **self.headers}, auth=auth, session=self.session)

    def prepared(self, request: Request, *, streamed: bool) -> tuple[Client, Wire, dict[str, Any]]:
        """Return by whom, over which API and as which JSON the request is sent.

        :raises BackendError: it cannot be sent.
        """
        client, model = self.ready(request), request.model or self.model
        wire = self.wire_for(model, request)
        refused = next((name for name in wire.ABSENT if request.has(name)), None)
        if refused:
            raise InvalidRequestError(f"{wire.NAME} has no {refused}", parameter=refused, try_next=True)
        body = wire.body(request, model, streamed=streamed)
        self._adapt(body, model)
        self.fit(body, request)
        for name, value in request.extra.items():  # of an object, only the fields that are named
            old = body.get(name)
            body[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
        return client, wire, body

    def _adapt(self, body: dict[str, Any], model: str | None) -> None:
        """Write what this server wants to read."""
        if "max_tokens" in body and (self.limit_name != "max_tokens") != ((model, "max_tokens") in self._learnt):
            body["max_completion_tokens"] = body.pop("max_tokens")
        if (None, "stream_options") in self._learnt:
            body.pop("stream_options", None)
        if (None, "json_object") in self._learnt and "response_format" in body:  # llama-cpp-python's form of a schema
            schema = body["response_format"]["json_schema"]["schema"]
            body["response_format"] = {"type": "json_object", "schema": schema}

    @contextmanager
    def _minding(self, body: Mapping[str, Any], request: Request) -> Iterator[None]:
        """Say what errors mean here, and remember what a refusal teaches: that asks to be tried again, unchanged."""
        try:
            with promised_form():
                yield
        except BackendError as error:
            fact = self.teaches(error, body, request.model or self.model)
            if fact is not None and fact not in self._learnt:
                self._learnt.add(fact)
                again = InvalidRequestError(error.message, status=error.status, code=error.code, retry_same=True)
                raise again from error
            told = self.told(error)
            if told is error:
                raise
            raise told from error


def _api_root(url: str) -> str:
    """Return what the paths of the API are appended to, from whatever a person pasted."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    for end in ("/chat/completions", "/responses", "/models"):
        path = path.removesuffix(end)
    return urlunsplit(parts._replace(path=path or "/v1"))
