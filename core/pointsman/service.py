"""For authors of providers that ask one service over HTTP: what they all have in common, whatever its wire.

    @frozen(kw_only=True)
    class Acme(Service):
        HOME, DOMAINS, KEYS = "https://api.acme.example", ("acme.example",), ("ACME_API_KEY",)

        def connected(self) -> Client: ...              # or raise ConfigError: what a person must do first
        def probe(self, client: Client) -> Health: ...  # by what costs nothing
        def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]: ...

and the hooks `generate` and `stream`. A wrong option is not raised when the provider is built, but told by `missing`,
by `health` and by every call: so it takes down this backend and no other.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from attrs import Factory, field, frozen

from .errors import AuthenticationError, BackendError, ConfigError, ModelNotFoundError, QuotaError, RateLimitError
from .hookspecs import hookimpl
from .http import Client, promised_form
from .scope import Scope
from .secret import Secret
from .values import Capability, Health, ModelInfo, Request

if TYPE_CHECKING:
    import requests

__all__ = ["HEALTH_S", "Service", "as_secret", "is_loopback", "is_within"]

#: Seconds that a probe may take: less than the router waits for health, so that what is told is what was seen.
HEALTH_S = 4.0
_LIST_S = 20.0
_KEY = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)


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


def _masked(headers: Mapping[str, str | Secret]) -> dict[str, str | Secret]:
    """Wrap the values that are keys by their name."""
    return {
        name: Secret(value) if isinstance(value, str) and _KEY.search(name) else value
        for name, value in headers.items()
    }


def _shown(url: str) -> str:
    """Return the repr of the URL without its user name and query, which may hold a key; what is no URL may be one."""
    if "://" not in str(url):
        return "'***'"
    return repr(re.sub(r"//[^/?#]*@|[?#].*", lambda part: "//***@" if part[0].startswith("/") else "?***", str(url)))


@frozen(kw_only=True)
class Service(ABC):
    """The base of a provider that asks one service over HTTP. Thread-safe. A subclass says what is its own."""

    HOME: ClassVar[str]  #: the service's own address
    DOMAINS: ClassVar[tuple[str, ...]]  #: where a key of the environment may go, this machine apart
    KEYS: ClassVar[tuple[str, ...]]  #: variables that may hold it; the first that is set counts
    URL: ClassVar[str] = ""  #: the variable that may hold `base_url`: a key of the environment goes there, too
    MODEL: ClassVar[str] = ""  #: the variable that may name the model

    #: What is asked unless a request names its own.
    model: str | None = Factory(lambda self: self.environment(self.MODEL), takes_self=True)
    base_url: str = field(
        default=Factory(lambda self: self.environment(self.URL) or self.HOME, takes_self=True), repr=_shown
    )
    api_key: Secret | None = field(
        default=Factory(lambda self: self.key_of_environment(), takes_self=True), converter=as_secret
    )
    #: Sent with every request.
    headers: Mapping[str, str | Secret] = field(factory=dict, converter=_masked)
    #: A `requests.Session` to send through, for its adapters, proxies and headers; see `pointsman.http.Client`.
    session: requests.Session | None = field(default=None, repr=False)
    #: Tokens that fit the model, if you know it.
    context_window: int | None = None
    capabilities: frozenset[Capability] = frozenset({"tools", "schema", "images"})
    #: Options of a request that your models do not take, in place of what is known of their families.
    refuses: tuple[str, ...] | None = None

    # -- what a subclass says --------------------------------------------------------------------

    @abstractmethod
    def connected(self) -> Client:
        """Return the client. It is asked for once, if `problem` has found nothing.

        :raises ConfigError: there can be none before a person does what it says.
        """

    @abstractmethod
    def probe(self, client: Client) -> Health:
        """Ask the service how it is, within `HEALTH_S` and without tokens.

        :raises BackendError: what is wrong. `LookupError` and the like are taken for an answer of a strange form.
        """

    @abstractmethod
    def listed(self, client: Client, scope: Scope) -> Iterable[ModelInfo]:
        """Return what the service offers. Raises as `probe` does."""

    @property
    def needs_model(self) -> bool:
        """Whether somebody must name a model: the service has none of its own choice."""
        return True

    def untaken(self, model: str) -> Collection[str]:
        """Return the options of a request that this model does not take, as far as its name tells."""
        return ()

    def found_key(self) -> str | None:
        """Return the key that the environment has, wherever it may go."""
        return self.environment(*self.KEYS)

    def problem(self) -> str:
        """Return what a person must do before there can be a client ("" if nothing)."""
        if self.host is None:
            return f"base_url: found {_shown(self.base_url)}, expected http://HOST or https://HOST"
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

    def unsupported(self, model: str | None) -> frozenset[str]:
        """Return the options of a request that `model` does not take: what the user says, else what is known of it."""
        return frozenset(self.untaken(model or "") if self.refuses is None else self.refuses)

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
            return Health.unconfigured(f"the key is refused (option api_key, or {' or '.join(self.KEYS)}): {error}")
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
