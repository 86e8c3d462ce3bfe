"""For authors of providers that ask one service over HTTP: what they all have in common, whatever its wire.

    @frozen(kw_only=True)
    class Acme(Service):
        HOME, DOMAINS, KEYS = "https://api.acme.example", ("acme.example",), ("ACME_API_KEY",)

        def connected(self) -> Client: ...                     # how the service is reached
        def asked(self, request, *, streamed) -> Asked: ...    # what is sent, and who reads the answer
        def listed(self, client, scope) -> Iterable[ModelInfo]: ...

The hooks are here. A wrong option is not raised when the provider is built, but told by `missing`, by `health` and by
every call: so it takes down this backend and no other.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from ipaddress import ip_address
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from attrs import Factory, evolve, field, frozen

from ._pieces import collect
from .errors import (
    AuthenticationError,
    BackendError,
    ConfigError,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
)
from .hookspecs import hookimpl
from .http import Client, Events, promised_form
from .scope import Scope
from .secret import Secret, shown_url
from .values import Capability, Chunk, Completion, Health, Message, ModelInfo, Request, State

if TYPE_CHECKING:
    import requests

__all__ = ["HEALTH_S", "Asked", "Keep", "Service", "Wire"]  # and the functions below
__all__ += ["as_secret", "is_loopback", "is_within", "masked", "merged", "root_of", "shown_url", "turns_of"]

#: Seconds that a probe may take: less than the router waits for health, so that what is told is what was seen.
HEALTH_S = 4.0
_LIST_S = 20.0
_KEY = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)


#: Makes the `State` of what the service wants back with the next turn.
Keep: TypeAlias = Callable[[Any], State]


class Wire(Protocol):
    """Reads the answers of a service: a module with these two functions, say.

    An `AttributeError`, `LookupError` or `TypeError` is taken for an answer of a strange form.
    """

    def completion(self, data: Any, headers: Mapping[str, str], keep: Keep) -> Completion:
        """Return what a whole answer says, or raise the `BackendError` that says why it is none."""

    def chunks(self, events: Events, keep: Keep) -> Iterator[Chunk]:
        """Yield what a streamed answer says. Raises as `completion` does."""


@frozen
class Asked:
    """One request as it is sent, and who reads the answer."""

    path: str
    body: Mapping[str, Any]
    wire: Wire
    in_pieces: bool = False  #: ask for a stream, though a whole answer is wanted
    warnings: tuple[str, ...] = ()  #: what the caller should know of it


def turns_of(messages: Iterable[Message]) -> Iterator[tuple[bool, list[Message]]]:
    """Yield the turns of a conversation: whether it is the assistant's, and what that one said; none that is empty.

    Results of tools are of the turn of the user. System messages are in none: see `Request.instructions`.
    """
    said = (one for one in messages if one.role != "system" and (one.content or one.tool_calls or one.role == "tool"))
    for own, turn in groupby(said, lambda message: message.role == "assistant"):
        yield own, list(turn)


def as_secret(value: str | Secret | None) -> Secret | None:
    """Wrap a key: the converter of an option that is one."""
    return Secret.of(value)


def is_within(host: str | None, domain: str) -> bool:
    """Whether `host` is `domain` or lies in it."""
    return host is not None and (host == domain or host.endswith(f".{domain}"))


def is_loopback(host: str | None) -> bool:
    """Whether `host` is this machine."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def merged(body: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return `body` with `more` written over it: of an object, only the fields that are named."""
    both = {name: (body[name], value) for name, value in more.items() if name in body}
    deep = {
        name: merged(old, new)
        for name, (old, new) in both.items()
        if isinstance(old, dict) and isinstance(new, Mapping)
    }
    return {**body, **more, **deep}


def root_of(url: str, *ends: str, otherwise: str = "") -> str:
    """Return the URL, with its query, without the first of these ends of its path that it has.

    :param otherwise: its path where it has none.
    """
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    end = next((end for end in ends if path.endswith(end)), "")
    return urlunsplit(parts._replace(path=path.removesuffix(end) or otherwise))


def masked(headers: Mapping[str, str | Secret]) -> dict[str, str | Secret]:
    """Wrap the values that are keys by their name: the converter of an option that holds headers.

    :raises ConfigError: it is no mapping of texts to texts.
    """
    if not isinstance(headers, Mapping):
        raise ConfigError(f"headers: found {type(headers).__name__}, expected a mapping of names to texts")
    for name, value in headers.items():
        if not isinstance(name, str):
            raise ConfigError(f"headers: found a name of type {type(name).__name__}, expected a text")
        if not isinstance(value, str | Secret):
            raise ConfigError(f"headers: {name}: found {type(value).__name__}, expected a text")
    return {
        name: Secret(value) if isinstance(value, str) and _KEY.search(name) else value
        for name, value in headers.items()
    }


@frozen(kw_only=True)
class Service(ABC):
    """The base of a provider that asks one service over HTTP. Thread-safe. A subclass says what is its own."""

    HOME: ClassVar[str]  #: the service's own address
    DOMAINS: ClassVar[tuple[str, ...]]  #: where a key of the environment may go, this machine apart
    PROBE: ClassVar[str] = "models"  #: the path whose answer costs nothing and wants the key
    KEYS: ClassVar[tuple[str, ...]]  #: variables that may hold it; the first that is set counts
    ABSENT: ClassVar[frozenset[str]] = frozenset()  #: options of a request that the API does not know at all
    URL: ClassVar[str] = ""  #: the variable that may hold `base_url`: a key of the environment goes there, too
    MODEL: ClassVar[str] = ""  #: the variable that may name the model

    #: What is asked unless a request names its own.
    model: str | None = Factory(lambda self: self.environment(self.MODEL), takes_self=True)
    base_url: str = field(
        default=Factory(lambda self: self.environment(self.URL) or self.HOME, takes_self=True), repr=shown_url
    )
    api_key: Secret | None = field(
        default=Factory(lambda self: self.key_of_environment(), takes_self=True), converter=as_secret
    )
    #: Sent with every request.
    headers: Mapping[str, str | Secret] = field(factory=dict, converter=masked)
    #: A `requests.Session` to send through, for its adapters, proxies and headers; see `pointsman.http.Client`.
    session: requests.Session | None = field(default=None, repr=False)
    #: Tokens that fit the model, if you know it.
    context_window: int | None = None
    capabilities: frozenset[Capability] = frozenset({"tools", "schema", "images"})
    #: Options of a request that your models do not take, in place of what is known of their families.
    refuses: tuple[str, ...] | None = None
    #: (model, fact): what the service told us while refusing.
    _learnt: set[tuple[str | None, str]] = field(init=False, factory=set, eq=False, repr=False)

    # -- what a subclass says --------------------------------------------------------------------

    @abstractmethod
    def connected(self) -> Client:
        """Return the client. It is asked for once, if `problem` has found nothing.

        :raises ConfigError: there can be none before a person does what it says.
        """

    @abstractmethod
    def asked(self, request: Request, *, streamed: bool) -> Asked:
        """Return the request as it is sent.

        :raises BackendError: it cannot be sent.
        """

    @abstractmethod
    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return what the service offers. Raises as a `Wire` does."""

    def probe(self, client: Client) -> Health:
        """Ask the service how it is, within `HEALTH_S` and without tokens.

        :raises BackendError: what is wrong.
        """
        client.get_json(self.PROBE, Scope(HEALTH_S))
        return Health.ok()

    @property
    def vendor(self) -> str:
        """Whose state is kept with a conversation."""
        return self.host or ""

    @property
    def needs_model(self) -> bool:
        """Whether somebody must name a model: the service has none of its own choice."""
        return True

    def untaken(self, request: Request, model: str) -> Collection[str]:
        """Return the options of a request that this model does not take (so set, or together), as far as is known."""
        return ()

    def told(self, error: BackendError) -> BackendError:
        """Return what an error means here: the same, with more in it, or another."""
        return error

    def teaches(self, error: BackendError, body: Mapping[str, Any], model: str | None) -> tuple[str | None, str] | None:
        """Return what a refusal teaches about the service, or the model on it: how the body is to be written."""
        return None

    def found_key(self) -> str | None:
        """Return the key that the environment has, wherever it may go."""
        return self.environment(*self.KEYS)

    def problem(self) -> str:
        """Return what a person must do before there can be a client ("" if nothing)."""
        if self.host is None:
            return f"base_url: found {shown_url(self.base_url)}, expected http://HOST or https://HOST"
        has_key = self.api_key or self.session or any(map(_KEY.search, self.headers))
        if has_key or is_loopback(self.host):
            return ""
        return f"no key for {self.host}: set the option api_key, or {' or '.join(self.KEYS)} for its own hosts"

    # -- what is the same everywhere ---------------------------------------------------------------

    @staticmethod
    def environment(*names: str) -> str | None:
        """Return the first of these variables that is set, without white space."""
        return next(filter(None, (os.environ.get(name, "").strip() for name in names)), None)

    def key_of_environment(self, *names: str) -> str | None:
        """Return the key of the environment (of these variables; else `found_key`) if it may go to `base_url`."""
        safe = is_loopback(self.host) or any(is_within(self.host, domain) for domain in self.DOMAINS)
        if not safe and self.base_url != self.environment(self.URL):
            return None
        return self.environment(*names) if names else self.found_key()

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
        try:
            return self.problem() or self.connected()
        except (ConfigError, ValueError) as error:
            return str(error)

    @property
    def missing(self) -> str:
        """What a person must do before anything can be asked, known without asking: "" if nothing."""
        if isinstance(self.client, str):
            return self.client
        where = f", or {self.MODEL}" if self.MODEL else ""
        return f"no model: set the option model{where}" if self.needs_model and not self.model else ""

    def unsupported(self, request: Request) -> frozenset[str]:
        """Return the options of a request that its model does not take: as the user says, else as is known."""
        model = request.model or self.model or ""
        return self.ABSENT.union(self.untaken(request, model) if self.refuses is None else self.refuses)

    def ready(self, request: Request) -> Client:
        """Return the client that this request can be sent with.

        :raises AuthenticationError: there is none.
        :raises ModelNotFoundError: nobody named a model.
        """
        if isinstance(self.client, str):
            raise AuthenticationError(self.client)
        if request.model is None and self.missing:
            raise ModelNotFoundError(self.missing)
        return self.client

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer, whole."""
        client, asked = self.ready(request), self.asked(request, streamed=False)
        if asked.in_pieces:
            return collect(self._pieces(client, asked, request))
        with self._minding(asked.body, request):
            answer = client.post_json(asked.path, asked.body, request.scope)
            whole = asked.wire.completion(answer.data, answer.headers, self._keeper(request))
        return evolve(whole, warnings=asked.warnings) if asked.warnings else whole

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        client = self.ready(request)
        yield from self._pieces(client, self.asked(request, streamed=True), request)

    def _pieces(self, client: Client, asked: Asked, request: Request) -> Iterator[Chunk]:
        with self._minding(asked.body, request), client.post_events(asked.path, asked.body, request.scope) as events:
            if asked.warnings:
                yield Chunk(warnings=asked.warnings)
            yield from asked.wire.chunks(events, self._keeper(request))

    def _keeper(self, request: Request) -> Keep:
        return partial(State, self.vendor, model=request.model or self.model)

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
            why = f"the key is refused (option api_key, or {' or '.join(self.KEYS)}): {error}"
            return Health.unconfigured(why, refused=True)
        except RateLimitError as error:
            return Health.degraded(str(error))
        except BackendError as error:
            if isinstance(error, ModelNotFoundError) or error.status in (405, 501):
                return Health.degraded(f"{client.host} answers, but has no list of models to test the key with")
            kind = "no quota left: " if isinstance(error, QuotaError) else ""
            return Health.unavailable(kind + str(error))

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return what the service offers, with the context window, the prices and the last day where it tells them."""
        if isinstance(self.client, str):
            raise AuthenticationError(self.client)
        with promised_form():
            return list(self.listed(self.client, Scope(_LIST_S)))

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        if isinstance(self.client, Client):
            self.client.close()
