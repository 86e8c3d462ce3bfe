"""What all providers of such an API share: options, calls, what refusals teach, health, models.

OpenAI itself, OpenRouter and Hugging Face are built from `Compatible`, each by saying what is different there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import urlsplit

from attrs import Factory, field, frozen
from pointsman import (
    AuthenticationError,
    BackendError,
    Chunk,
    Completion,
    ConfigError,
    Health,
    InvalidRequestError,
    ModelInfo,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    Request,
    Scope,
    Secret,
    hookimpl,
)
from pointsman.http import Client, Events, promised_form
from pointsman.values import Capability

from . import chat
from .address import api_root, is_key, is_loopback, is_within, masked, secret, without_keys

if TYPE_CHECKING:
    import requests

#: Less than the router waits for health, so that what is told is what was seen.
HEALTH_S = 4.0
_LIST_S = 20.0
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
class Compatible:
    """Asks a service that speaks OpenAI's chat completions. Thread-safe. A subclass says what is its own.

    A wrong option is told by `health` and by every call, so that it takes down this backend and no other.
    """

    HOME: ClassVar[str]  #: the service's own address
    DOMAINS: ClassVar[tuple[str, ...]]  #: where a key of the environment may go, this machine apart
    KEYS: ClassVar[tuple[str, ...]]  #: variables that may hold it; the first that is set counts

    model: str | None = None
    base_url: str = field(
        default=Factory(lambda self: self.default_url(), takes_self=True), repr=lambda url: repr(without_keys(url))
    )
    api_key: Secret | None = field(
        default=Factory(lambda self: self.key_of_environment(), takes_self=True), converter=secret
    )
    headers: Mapping[str, str | Secret] = field(factory=dict, converter=masked)
    #: A `requests.Session` to send through, for its adapters, proxies and headers; see `pointsman.http.Client`.
    session: requests.Session | None = field(default=None, repr=False)
    context_window: int | None = None
    capabilities: frozenset[Capability] = frozenset({"tools", "schema", "images"})
    #: Options of a request that the model does not take, in place of what is known of it.
    refuses: tuple[str, ...] | None = None
    #: (model, fact): what servers told us while refusing.
    _learnt: set[tuple[str | None, str]] = field(init=False, factory=set, eq=False, repr=False)

    # -- what a subclass says --------------------------------------------------------------------

    def default_url(self) -> str:
        """Return where the service is, unless an option says so."""
        return self.HOME

    def key_of_environment(self) -> str | None:
        """Return the key for `base_url`, if the environment has one that may go there."""
        safe = is_loopback(self.host) or any(is_within(self.host, domain) for domain in self.DOMAINS)
        return self.found_key() if safe else None

    def found_key(self) -> str | None:
        """Return the key that the environment has, wherever it may go."""
        return next((key for name in self.KEYS if (key := os.environ.get(name, "").strip())), None)

    def problem(self) -> str:
        """Return what a person must do before there can be a client ("" if nothing)."""
        has_key = self.api_key or self.session or any(map(is_key, self.headers))
        if has_key or is_loopback(self.host):
            return ""
        return (
            f"no key for {self.host}: set the option api_key, or {self.KEYS[0]} for {type(self).__name__}'s own hosts"
        )

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

    def unsupported(self, model: str | None) -> Collection[str]:
        """Return the options of a request that `model` does not take."""
        return self.refuses or ()

    # -- what is the same everywhere ---------------------------------------------------------------

    @property
    def missing(self) -> str:
        """What a person must do before anything can be asked, known without asking: "" if nothing."""
        return self.client if isinstance(self.client, str) else ""

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

    @hookimpl
    def health(self) -> Health:
        """Say how the service is, by what costs nothing."""
        client = self.client
        if isinstance(client, str) or self.missing:
            return Health.unconfigured(self.missing)
        try:
            with promised_form():
                return self.probe(client)
        except AuthenticationError as error:
            if error.status == 403:  # a restricted key may not list models, and yet ask them
                return Health.degraded(f"the key may not list models: {error}")
            return Health.unconfigured(f"the key is refused (option api_key, or {self.KEYS[0]}): {error}")
        except RateLimitError as error:
            return Health.degraded(str(error))
        except BackendError as error:
            if isinstance(error, ModelNotFoundError) or error.status in (405, 501):
                return Health.degraded(f"{client.host} answers, but has no list of models to test the key with")
            kind = "no quota left: " if isinstance(error, QuotaError) else ""
            return Health.unavailable(kind + str(error))

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return what the server lists, with the context window and the last day where it tells them."""
        client = self.client
        if isinstance(client, str):
            raise AuthenticationError(client)
        with promised_form():
            data = client.get_json("models", Scope(_LIST_S)).data
            entries = data if isinstance(data, list) else data["data"]  # Together sends a bare list
            return [model for entry in entries for model in self.models_of(entry)]

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        if isinstance(self.client, Client):
            self.client.close()

    @cached_property
    def host(self) -> str | None:
        """The host of `base_url`, None if that is no URL."""
        try:
            return urlsplit(self.base_url.strip()).hostname
        except ValueError:
            return None

    @cached_property
    def client(self) -> Client | str:
        """The client, or what a person must do before there can be one."""
        if self.host is None:
            return f"base_url: found {without_keys(self.base_url)!r}, expected http://HOST or https://HOST"
        if problem := self.problem():
            return problem
        own = {name: value for name, value in self.own_headers().items() if value}
        auth = ("Authorization", "Bearer ", self.api_key)
        try:
            return Client(api_root(self.base_url), headers={**own, **self.headers}, auth=auth, session=self.session)
        except (ConfigError, ValueError) as error:
            return str(error)

    def prepared(self, request: Request, *, streamed: bool) -> tuple[Client, Wire, dict[str, Any]]:
        """Return by whom, over which API and as which JSON the request is sent.

        :raises BackendError: it cannot be sent.
        """
        client, model = self.client, request.model or self.model
        if isinstance(client, str):
            raise AuthenticationError(client)
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
