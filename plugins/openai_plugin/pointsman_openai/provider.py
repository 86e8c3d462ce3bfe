"""The provider: where to send, what the server has taught us, and how it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from attrs import field, frozen
from pointsman import (
    AuthenticationError,
    BackendError,
    Chunk,
    Completion,
    ConfigError,
    Health,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    Request,
    Scope,
    Secret,
    UnusableAnswer,
    hookimpl,
)
from pointsman.http import Client, Events
from pointsman.values import Capability

from . import _chat, _responses

if TYPE_CHECKING:
    import requests

_OPENAI = "https://api.openai.com/v1"
#: Less than the router waits for health, so that what is told is what was seen.
_HEALTH_S = 4.0
_NOT_ON_OPENAI = ("top_k",)
_SECRET_HEADER = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)
# Which models need the Responses API (openai 3.54.0; openai-openapi issue 541: from gpt-5.4 on, function tools and
# reasoning do not mix in chat completions).
_RESPONSES_ONLY = re.compile(r"-pro\b|codex|deep-research|computer-use")
_GPT = re.compile(r"\bgpt-(\d+)(?:\.(\d+))?")


class Wire(Protocol):
    """What the modules of both APIs have."""

    NAME: str
    PATH: str
    ABSENT: tuple[str, ...]  #: fields of `Request` that the API does not know

    def body(self, request: Request, model: str | None, *, streamed: bool) -> dict[str, Any]: ...
    def completion(self, data: Any, headers: Mapping[str, str]) -> Completion: ...
    def chunks(self, events: Events) -> Iterator[Chunk]: ...


def _masked(headers: Mapping[str, str | Secret]) -> dict[str, str | Secret]:
    """Wrap the values that are keys by their name."""
    return {
        name: Secret(value) if isinstance(value, str) and _SECRET_HEADER.search(name) else value
        for name, value in headers.items()
    }


def _secret(value: str | Secret | None) -> Secret | None:
    return Secret.of(value)


def _from_env(name: str) -> Any:
    return field(factory=lambda: os.environ.get(name) or None)


@frozen(kw_only=True)
class OpenAI:
    """OpenAI, or any server that speaks its chat completions or its Responses API.

    A wrong option is not raised here but told by `health` and by every call, so that it takes down
    this backend and no other.
    """

    #: What is asked unless a request names its own; needed on OpenAI's hosts (environment: OPENAI_MODEL).
    model: str | None = _from_env("OPENAI_MODEL")
    #: Of the API, with or without "/v1" or the path of an endpoint (environment: OPENAI_BASE_URL).
    base_url: str = field(
        factory=lambda: os.environ.get("OPENAI_BASE_URL") or _OPENAI, repr=lambda url: repr(_without_keys(url))
    )
    #: Environment: OPENAI_API_KEY, which goes to OpenAI, to OPENAI_BASE_URL and to this machine, but to no other host.
    #: Not needed on loopback.
    api_key: Secret | None = field(converter=_secret)
    organization: str | None = _from_env("OPENAI_ORG_ID")
    project: str | None = _from_env("OPENAI_PROJECT_ID")
    #: Sent with every request.
    headers: Mapping[str, str | Secret] = field(factory=dict, converter=_masked)
    #: A `requests.Session` to send through, for its adapters, proxies and headers; see `pointsman.http.Client`.
    session: requests.Session | None = field(default=None, repr=False)
    #: Which API: "auto" takes what the model needs on OpenAI's hosts, and chat completions elsewhere.
    api: Literal["auto", "chat", "responses"] = "auto"
    #: Tokens that fit the model, if you know it.
    context_window: int | None = None
    #: Say that the server at `base_url`, on loopback, keeps what it is asked on this machine.
    local: bool = False
    capabilities: frozenset[Capability] = frozenset({"tools", "schema", "images"})
    #: (model, fact): what servers told us while refusing.
    _learnt: set[tuple[str | None, str]] = field(init=False, factory=set, eq=False, repr=False)

    @api_key.default
    def _key_from_env(self) -> str | None:
        named = os.environ.get("OPENAI_BASE_URL") == self.base_url
        host = _host(self.base_url)
        return os.environ.get("OPENAI_API_KEY") if named or _is_openai(host) or _is_loopback(host) else None

    @property
    def missing(self) -> str:
        """What a person must do before anything can be asked, known without asking: "" if nothing."""
        if isinstance(self._client, str):
            return self._client
        return "no model: set the option model, or OPENAI_MODEL" if self._openai and not self.model else ""

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer, whole."""
        client, wire, body = self._prepared(request, streamed=False)
        try:
            answer = client.post_json(wire.PATH, body, request.scope)
        except BackendError as error:
            self._learn(error, body, request)
            raise
        with _strange_forms():
            return wire.completion(answer.data, answer.headers)

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        client, wire, body = self._prepared(request, streamed=True)
        try:
            with client.post_events(wire.PATH, body, request.scope) as events, _strange_forms():
                yield from wire.chunks(events)
        except BackendError as error:
            self._learn(error, body, request)
            raise

    @hookimpl
    def health(self) -> Health:
        """List the models: that proves the server and the key, and costs nothing."""
        client = self._client
        if isinstance(client, str) or self.missing:
            return Health.unconfigured(self.missing)
        try:
            client.get_json("models", Scope(_HEALTH_S))
        except AuthenticationError as error:
            if error.status == 403:  # a restricted key may not list models, and yet ask them
                return Health.degraded(f"the key may not list models: {error}")
            return Health.unconfigured(f"the key is refused (option api_key, or OPENAI_API_KEY): {error}")
        except ModelNotFoundError:
            return Health.degraded(f"{client.host} answers, but has no list of models to test the key with")
        except RateLimitError as error:
            return Health.degraded(str(error))
        except BackendError as error:
            if error.status in (405, 501):
                return Health.degraded(f"{client.host} answers, but has no list of models to test the key with")
            kind = "no quota left: " if isinstance(error, QuotaError) else ""
            return Health.unavailable(kind + str(error))
        return Health.ok()

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        if isinstance(self._client, Client):
            self._client.close()

    @cached_property
    def _openai(self) -> bool:
        return _is_openai(_host(self.base_url))

    @cached_property
    def _client(self) -> Client | str:
        """The client, or what a person must do before there can be one."""
        host = _host(self.base_url)
        loopback = _is_loopback(host)
        if host is None:
            return f"base_url: found {_without_keys(self.base_url)!r}, expected http://HOST or https://HOST"
        if self.local and not loopback:
            return f"local says that nothing leaves this machine, but base_url is at {host}: unset one of them"
        has_key = self.api_key or self.session or any(_SECRET_HEADER.search(name) for name in self.headers)
        if not has_key and not loopback:
            return f"no key for {host}: set the option api_key, or OPENAI_API_KEY for OpenAI's own hosts"
        named = {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project} if self._openai else {}
        headers = {**{name: value for name, value in named.items() if value}, **self.headers}
        try:
            return Client(
                _api_root(self.base_url),
                headers=headers,
                auth=("Authorization", "Bearer ", self.api_key),
                session=self.session,
            )
        except (ConfigError, ValueError) as error:
            return str(error)

    def _prepared(self, request: Request, *, streamed: bool) -> tuple[Client, Wire, dict[str, Any]]:
        client = self._client
        if isinstance(client, str):
            raise AuthenticationError(client)
        model = request.model or self.model
        if model is None and self._openai:
            raise ModelNotFoundError(self.missing)
        wire: Wire = _responses if self._needs_responses(model, request) else _chat
        absent = wire.ABSENT + (_NOT_ON_OPENAI if self._openai else ())
        refused = next((name for name in absent if getattr(request, name) not in (None, ())), None)
        if refused:
            raise InvalidRequestError(f"{wire.NAME} has no {refused}", parameter=refused, try_next=True)
        body = wire.body(request, model, streamed=streamed)
        if wire is _chat:
            self._adapt(body, model)
        body.update(request.extra)
        return client, wire, body

    def _needs_responses(self, model: str | None, request: Request) -> bool:
        if self.api != "auto":
            return self.api == "responses"
        if (model, "responses") in self._learnt:
            return True
        if not self._openai or model is None:
            return False
        version = _GPT.search(model)
        tools_need_it = version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 4)
        return bool(_RESPONSES_ONLY.search(model)) or (tools_need_it and "tools" in request.needs)

    def _adapt(self, body: dict[str, Any], model: str | None) -> None:
        """Write what this server wants to read."""
        if self._openai != ((model, "max_tokens") in self._learnt) and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if (None, "stream_options") in self._learnt:
            body.pop("stream_options", None)
        if (None, "json_object") in self._learnt and "response_format" in body:  # llama-cpp-python's form of a schema
            body["response_format"] = {
                "type": "json_object",
                "schema": body["response_format"]["json_schema"]["schema"],
            }

    def _learn(self, error: BackendError, body: Mapping[str, Any], request: Request) -> None:
        """Remember what a refusal teaches; then the error asks to be tried again, unchanged."""
        model = request.model or self.model
        fact: tuple[str | None, str] | None = None
        if "v1/responses" in error.message and self.api == "auto" and "messages" in body:
            fact = (model, "responses")
        elif error.parameter == "max_tokens" and ("max_tokens" in body or "max_completion_tokens" in body):
            fact = (model, "max_tokens")
        elif error.parameter == "stream_options" and "stream_options" in body:
            fact = (None, "stream_options")
        elif "response_format" in error.message and "json_object" in error.message and "response_format" in body:
            fact = (None, "json_object")
        if fact is not None and fact not in self._learnt:
            self._learnt.add(fact)
            raise InvalidRequestError(error.message, status=error.status, code=error.code, retry_same=True) from error


@contextmanager
def _strange_forms() -> Iterator[None]:
    """Say what it means when the JSON of an answer is not of the form that the API promises."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise UnusableAnswer(f"the answer is not of the form that the API promises: {error}") from error


def _without_keys(url: str) -> str:
    """Return the URL without its user name and query, which may hold a key; what is no URL may be one."""
    if "://" not in str(url):
        return "***"
    return re.sub(r"//[^/?#]*@|[?#].*", lambda part: "//***@" if part[0].startswith("/") else "?***", str(url))


def _host(url: str) -> str | None:
    try:
        return urlsplit(url.strip()).hostname
    except ValueError:
        return None


def _is_openai(host: str | None) -> bool:
    return host is not None and (host == "api.openai.com" or host.endswith(".api.openai.com"))


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _api_root(url: str) -> str:
    """Return what the paths of the API are appended to, from whatever a person pasted."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    for end in ("/chat/completions", "/responses", "/models"):
        path = path.removesuffix(end)
    return urlunsplit(parts._replace(path=path or "/v1"))
