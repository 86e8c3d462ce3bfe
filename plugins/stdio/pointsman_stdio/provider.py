"""The base of a provider that is a program of this machine: what they all have in common, whatever their protocol.

    @frozen(kw_only=True)
    class Codex(Program):
        NAME, TESTED, INSTALL, NATIVE = "codex", "0.169.0", "npm install -g @openai/codex", "@openai/codex-*/bin/codex"

        def protocol(self) -> Protocol: ...             # how its server is started and spoken to
        def turn(self, exchange, request) -> Read: ...  # asks, and returns who reads the answer
        def alone(self, request) -> Protocol: ...       # how it is started for one request
        def login(self) -> str: ...                     # what is missing to ask its own service

The hooks are here. A wrong option is not raised when the provider is built, but told by `missing`, by `health` and by
every call.
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from attrs import Factory, field, frozen
from pointsman import BackendError, Chunk, Health, ModelInfo, Request, Scope, Secret, hookimpl
from pointsman import errors as e
from pointsman.service import HEALTH_S, as_secret, shown_url
from pointsman.values import DROPPABLE, Capability

from ._process import Ended, Launch
from .exchange import Exchange, once
from .frames import Message
from .keeper import Keeper
from .program import find, refuses_arguments, version_of
from .protocol import Protocol, ProtocolRefused
from .words import HOPELESS, Words

#: Makes of a message a piece of the answer, or why there is none; None where it says nothing of it.
Read: TypeAlias = Callable[[Message], Chunk | BackendError | None]
_LIST_S = 10.0
_URL = re.compile(r"https?://(?:[\w.-]+|\[[\da-f:.%]+\])(?::\d{1,5})?(?:/[^?#\s@]*)?", re.ASCII | re.I)
_METHOD_UNKNOWN, _REFUSED = -32601, (-32600, -32601, -32602)  # JSON-RPC 2.0


def _shown(url: str | None) -> str:
    return "None" if url is None else shown_url(url)


@frozen(kw_only=True)
class Program(ABC):
    """Thread-safe: one process, started by the first call, serves all requests, many at once."""

    NAME: ClassVar[str]  #: of the program
    TESTED: ClassVar[str]  #: its version that we know
    INSTALL: ClassVar[str]  #: how a person installs it
    NATIVE: ClassVar[str]  #: see `find`
    HOME: ClassVar[str]  #: the variable that may hold `home`
    WORDS: ClassVar[Words]
    CAN: ClassVar[frozenset[Capability]] = frozenset({"schema", "images"})  #: what its server is capable of
    CAN_ALONE: ClassVar[frozenset[Capability]] = frozenset()  #: and it, when it is started for one request
    EXTRA: ClassVar[frozenset[str]]  #: of `Request.extra`: all others could let the program do more than speak
    KEYS: ClassVar[tuple[str, ...]]  #: variables that may hold a key of its own service
    URL: ClassVar[str] = ""  #: the variable that may hold `base_url`
    URL_KEY: ClassVar[str] = ""  #: that may hold the key of that one, and of no other
    MODEL: ClassVar[str] = ""  #: that may name the model

    #: What is asked unless a request names its own; without it, the program chooses.
    model: str | None = Factory(lambda self: self.environment(self.MODEL), takes_self=True)
    #: A server that is asked in place of the program's own service. It never gets the login.
    base_url: str | None = field(default=Factory(lambda self: self.environment(self.URL), takes_self=True), repr=_shown)
    #: Of `base_url`; else of the program's own service, where it stands before the user's login.
    api_key: Secret | None = field(
        default=Factory(lambda self: self.key_of_environment(), takes_self=True), converter=as_secret
    )
    program: str = Factory(lambda self: self.NAME, takes_self=True)  #: its name in the PATH, or its path
    #: The user's own folder of the program, of which only the login is used.
    home: str = Factory(lambda self: self.environment(self.HOME) or f"~/.{self.NAME}", takes_self=True)

    _keeper: Keeper = field(init=False, repr=False, eq=False)

    @_keeper.default
    def _made(self) -> Keeper:
        return Keeper(self.protocol())

    # -- what a subclass says --------------------------------------------------------------------

    @abstractmethod
    def protocol(self) -> Protocol:
        """Return how its server is started and spoken to."""

    @abstractmethod
    def alone(self, request: Request) -> tuple[Protocol, Read, tuple[str, ...]]:
        """Return how it is started for one request, who reads what it says, and what is to be told of that.

        :raises BackendError: it cannot be.
        """

    @abstractmethod
    def turn(self, exchange: Exchange, request: Request) -> Read:
        """Ask its server, and return who reads the answer. Raises as `Exchange.call` does."""

    @abstractmethod
    def listed(self, exchange: Exchange) -> Sequence[ModelInfo]:
        """Return the models of its own service. An answer of a strange form may raise what it likes to."""

    @abstractmethod
    def login(self) -> str:
        """Return what a person must do before its own service can be asked without a key ("" if nothing)."""

    @property
    def always(self) -> Mapping[str, str]:
        """What the environment of the program always has."""
        return {}

    # -- what is the same everywhere ---------------------------------------------------------------

    @staticmethod
    def environment(*names: str) -> str | None:
        """Return the first of these variables that is set, without white space."""
        return next(filter(None, (os.environ.get(name, "").strip() for name in names)), None)

    @property
    def of_environment(self) -> bool:
        """Whether `base_url` is that of the environment: what else stands there belongs to it."""
        return self.base_url is not None and self.base_url == self.environment(self.URL)

    def key_of_environment(self) -> str | None:
        """Return the key that the environment has for whom is asked."""
        if self.base_url is None:
            return self.environment(*self.KEYS)
        return self.environment(self.URL_KEY) if self.of_environment else None

    @property
    def found(self) -> str:
        """The absolute path of the program; "" if it is not installed."""
        return find(self.program, self.NATIVE)

    @property
    def missing(self) -> str:
        """What a person must do before anything can be asked: "" if nothing. Starts nothing."""
        if os.name != "posix":
            return f"{self.NAME} is asked on Linux and macOS only"
        if not self.found:
            return f"no program {self.program!r}: {self.INSTALL}, or set the option program"
        return self.problem() or ("" if self.base_url or self.api_key else self.login())

    def problem(self) -> str:
        """Return what is wrong with the options ("" if nothing)."""
        if self.base_url is not None and not _URL.fullmatch(self.base_url):
            form = "http(s)://HOST, and no user name, password or query"
            return f"base_url: found {shown_url(self.base_url)}, expected {form}"
        if self.api_key is not None and not re.fullmatch("[ -~]+", self.api_key.reveal()):
            return "api_key: it has a character that no header can carry"
        return ""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it is capable of, as it is asked now."""
        return self.CAN_ALONE if self._keeper.refused else self.CAN

    def unsupported(self, request: Request) -> frozenset[str]:
        """Return the options that it has no way to pass on, whatever the model."""
        return DROPPABLE | {"stop", "max_tokens"}

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer in pieces."""
        request = request.changed({"model": request.model or self.model})
        self._check(request)
        if left := sorted(name for name in self.unsupported(request) if request.has(name)):
            yield Chunk(warnings=(f"{self.NAME} has no way to pass on {', '.join(left)}; asked without",))
        if not self._keeper.refused:
            try:
                with self._keeper.exchange(request.scope) as exchange:
                    read, self._keeper.served = self.turn(exchange, request), True
                    yield from _told(exchange, read)
                    return
            except ProtocolRefused as refused:  # nothing has been asked yet
                self._refused(refused, request)
        yield from self._asked_alone(request)

    @hookimpl
    def health(self) -> Health:
        """Say whether it is installed, runs, and has a server, a key or a login. Asks nobody whether that is valid."""
        if missing := self.missing:
            return Health.unconfigured(missing)
        try:
            version = version_of(Launch((self.found, "--version"), self.always), HEALTH_S)
        except e.UnavailableError as error:
            return Health.unavailable(error.message)
        if refused := self._keeper.refused:
            return Health.degraded(f"{self.NAME} {version} is started anew for each request, since {refused}")
        if version != self.TESTED:
            return Health.degraded(f"{self.NAME} {version} is not the version that this was tested with, {self.TESTED}")
        return Health("healthy", f"{self.NAME} {version}")

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return the models that the program's own service offers."""
        if self.base_url is not None:
            raise e.UnavailableError(f"{self.NAME} does not list the models of base_url: ask that", retry_same=False)
        with self._keeper.exchange(Scope(_LIST_S)) as exchange:
            try:
                return self.listed(exchange)
            except (AttributeError, LookupError, TypeError) as error:
                raise e.UnavailableError(f"{self.NAME} lists models in a form of its own: {error!r:.100}") from error

    @hookimpl
    def close(self) -> None:
        """End the process. A later call starts a new one."""
        self._keeper.close()

    def ready(self) -> str:
        """Return the absolute path of the program.

        :raises BackendError: a person must do something first.
        """
        if missing := self.missing:
            raise e.AuthenticationError(missing) if self.found else e.UnavailableError(missing, retry_same=False)
        return self.found

    def refusal(self, error: Any) -> BackendError:
        """Return what it means that a call to its server was answered with an error."""
        facts = error if isinstance(error, dict) else {"message": error}
        message, code = str(facts.get("message")), facts.get("code")
        if code in _REFUSED and not self.WORDS.knows(message):
            return ProtocolRefused(f"{self.NAME} refuses a call: {message:.200}", code=str(code))
        return self.WORDS.error(message, otherwise=HOPELESS)

    def _check(self, request: Request) -> None:
        """Refuse what can be known to fail.

        :raises AuthenticationError: nothing can be asked.
        :raises InvalidRequestError: the request cannot be passed on.
        """
        if problem := self.problem():
            raise e.AuthenticationError(problem)
        if lacking := sorted(request.needs - self.capabilities):
            raise e.InvalidRequestError(f"{self.NAME} is not capable of {', '.join(lacking)}", try_next=True)
        if unknown := sorted(request.extra.keys() - self.EXTRA):
            allowed = ", ".join(sorted(self.EXTRA))
            text = f"extra: {self.NAME} is given {allowed}, and not {', '.join(unknown)}"
            raise e.InvalidRequestError(text, parameter="extra", try_next=True)
        if any(image.inline is None for message in request.messages for image in message.images):
            raise e.InvalidRequestError(f"{self.NAME} is given the bytes of pictures, and no URL", try_next=True)
        texts = [request.model or "", request.system or "", *(message.text for message in request.messages)]
        if not _is_text(json.dumps([request.schema, dict(request.extra)], ensure_ascii=False, default=str), *texts):
            raise e.InvalidRequestError("the request has a lone surrogate: it is no valid text")

    def _refused(self, refused: ProtocolRefused, request: Request) -> None:
        """Note that its server is of no use.

        :raises InvalidRequestError: it may have been the request that was refused.
        """
        plain = not (request.extra or request.reasoning_effort or request.needs or self._keeper.served)
        if refused.code not in (None, str(_METHOD_UNKNOWN)) and not plain:
            raise e.InvalidRequestError(refused.message, try_next=True)
        self._keeper.refuse(refused.message)

    def _asked_alone(self, request: Request) -> Iterator[Chunk]:
        """Start it for this request alone."""
        self._check(request)  # it is capable of less
        protocol, read, warnings = self.alone(request)
        told = f"{self.NAME} was started for this request alone, since {self._keeper.refused or 'it has no server'}"
        yield Chunk(warnings=(told, *warnings))
        failed: BackendError | None = None
        with once(protocol, request.scope) as exchange:
            try:
                yield from _told(exchange, read)
            except Ended as ended:  # before it said how it went: then its last words say why
                failed = self.WORDS.error(ended.message) if self.WORDS.knows(ended.message) else ended
                failed.retry_same = failed.retry_same and not refuses_arguments(ended)
        if failed is not None:
            raise failed


def _told(exchange: Exchange, read: Read) -> Iterator[Chunk]:
    """Hand out what messages say, up to the last chunk."""
    for message in exchange.messages():
        try:
            found = read(message)
        except (AttributeError, LookupError, TypeError) as error:
            found = e.UnusableAnswer(f"an answer of a form of its own: {error!r:.100}")
        del message  # it may hold a key that the service echoes, and a traceback shows what is here
        if isinstance(found, BackendError):
            raise found
        if found is not None:
            if found.text:
                exchange.content_seen()
            yield found
            if found.finish_reason:
                return


def _is_text(*texts: str) -> bool:
    try:
        return all(text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False
