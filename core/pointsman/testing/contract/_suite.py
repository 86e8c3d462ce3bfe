"""What every part of the contract uses: how a provider is made, asked, and kept from hanging the tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import pytest
from pluggy import PluginManager

from ... import errors, hookspecs
from ...scope import Scope
from ...secret import Secret
from ...values import Chunk, Completion, Health, Message, Request

T = TypeVar("T")

#: Marks a test with what a provider must have for it: "stream", "health" (hooks), "key", or a failure.
needs = pytest.mark.pointsman_needs

#: Why a test runs that does not apply.
NOT_LEFT_OUT = (
    "the test does not apply, and is left out where make_provider and make_failing can be called before there "
    "are fixtures, and a test of your own is marked with @needs"
)

#: What may be wrong with the service behind a provider.
Failure = Literal[
    "bad_key",
    "no_money",
    "rate_limited",
    "unknown_model",
    "context_too_long",
    "refused",
    "bad_request",
    "unavailable",
    "broken_answer",
    "silent",
    "endless",
]

#: What a provider raises then. "endless" (a stream that never stops sending) is no error: it is for cancelling.
RAISES: dict[Failure, type[errors.BackendError]] = {
    "bad_key": errors.AuthenticationError,
    "no_money": errors.QuotaError,
    "rate_limited": errors.RateLimitError,
    "unknown_model": errors.ModelNotFoundError,
    "context_too_long": errors.ContextLengthError,
    "refused": errors.ContentFilterError,
    "bad_request": errors.InvalidRequestError,
    "unavailable": errors.UnavailableError,
    "broken_answer": errors.UnusableAnswer,
    "silent": errors.BackendTimeout,
}


class Subject:
    """A provider, called as the router calls it: through pluggy."""

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self._manager = PluginManager("pointsman")
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(_hooks_of(provider), "subject")
        self._manager.check_pending()

    def has(self, hook: str) -> bool:
        """Whether the provider implements a hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def generate(self, request: Request) -> Completion:
        """Ask for a whole answer."""
        answer = self._manager.hook.generate(request=request)
        assert isinstance(answer, Completion), f"generate returned {answer!r}, expected a Completion"
        return answer

    def stream(self, request: Request) -> Iterator[Chunk]:
        """Ask for pieces."""
        chunks = self._manager.hook.stream(request=request)
        assert hasattr(chunks, "__next__"), f"stream returned {chunks!r}, expected an iterator of chunks"
        return chunks  # type: ignore[no-any-return]  # pluggy is untyped; the chunks are looked at by `whole`

    def health(self) -> Health:
        """Ask how it is."""
        health = self._manager.hook.health()
        assert isinstance(health, Health), f"health returned {health!r}, expected a Health"
        return health

    def ways(self) -> list[tuple[str, Callable[[Request], Any]]]:
        """Return each way in which this provider can be asked for an answer, streams read to their end."""
        ways: list[tuple[str, Callable[[Request], Any]]] = []
        if self.has("generate"):
            ways.append(("generate", self.generate))
        if self.has("stream"):
            ways.append(("stream", lambda request: whole(self.stream(request))))
        return ways

    def close(self) -> None:
        """Let it release what it holds, as the router does when it closes."""
        if self.has("close"):
            self._manager.hook.close()


class _Hooks:
    """The hooks of a provider. pluggy looks at every attribute; this shows it only those that are hooks."""


def _hooks_of(provider: Any) -> Any:
    hooks = _Hooks()
    for name in dir(type(provider)):
        if hasattr(getattr(type(provider), name, None), "pointsman_impl"):
            setattr(hooks, name, getattr(provider, name))
    return hooks


class Unfinished(AssertionError):
    """A stream ended without a finish reason: the router takes it for broken, and so it must be none that is well."""


def whole(chunks: Iterator[Chunk]) -> Completion:
    """Read a stream to its end and put it together; fails where it is no lawful stream."""
    pieces: list[Chunk] = []
    for chunk in chunks:
        assert isinstance(chunk, Chunk), f"the stream gave {chunk!r}, expected a Chunk"
        assert not (pieces and pieces[-1].finish_reason), "a chunk came after the one with finish_reason, the last"
        pieces.append(chunk)
    finish = pieces[-1].finish_reason if pieces else None
    if finish is None:
        raise Unfinished("the stream ended without a finish_reason and without an error")
    return Completion(
        text="".join(piece.text for piece in pieces),
        finish_reason=finish,
        tool_calls=tuple(call for piece in pieces for call in piece.tool_calls),
        usage=next((piece.usage for piece in reversed(pieces) if piece.usage), None),
        model=next((piece.model for piece in reversed(pieces) if piece.model), None),
        thinking="".join(piece.thinking for piece in pieces),
    )


class Ended(NamedTuple):
    """How a call ended: with a value or with an error."""

    value: Any
    error: BaseException | None


class Suite:
    """The ground on which the parts of the contract stand: override what your provider needs otherwise."""

    #: Seconds within which everything that must stop has stopped. Generous: a slow machine is no defect.
    patience_s: float = 10.0
    #: Seconds that a call gets which is expected to be answered.
    timeout_s: float = 60.0
    #: Seconds of a deadline that is meant to pass.
    short_s: float = 0.5
    #: How many threads ask at once.
    threads: int = 8
    #: The key that the provider was built with. Fields that hold a `Secret` are found without it.
    secret: str | None = None

    def build(self, failure: Failure | None = None) -> Any:
        """Return a new provider whose service is well, or fails in one way; None if it cannot fail so."""
        raise TypeError("inherit ProviderContract or HTTPProviderContract, and write make_provider")

    def sample(self, failure: Failure | None = None) -> Any:
        """Return what `build` returns, to be looked at when tests are collected: there is no fixture and no service."""
        return self.build(failure)

    def parts(self, subject: Subject) -> dict[str, bool]:
        """Say which of the parts it has that tests are marked with."""
        return {
            "stream": subject.has("stream"),
            "health": subject.has("health"),
            "key": bool(self.secrets(subject.provider)),
        }

    def request(self, prompt: str = "Name three rivers.", **options: Any) -> Request:
        """Return a request with a limit of `timeout_s`. Override it to add what every request needs (max_tokens)."""
        options.setdefault("scope", Scope(self.timeout_s))
        return Request((Message("user", prompt),), **options)

    @pytest.fixture
    def make(self) -> Iterator[Callable[..., Subject]]:
        """A function that builds a provider as `build` does, the first that there is; all are closed after the test."""
        made: list[Subject] = []

        def make(*failures: Failure | None) -> Subject:
            for failure in failures or (None,):
                provider = self.build(failure)
                if provider is not None:
                    made.append(Subject(provider))
                    return made[-1]
            return pytest.fail(f"make_failing gives no provider for {failures}: {NOT_LEFT_OUT}", pytrace=False)

        yield make
        for subject in made:
            subject.close()

    @pytest.fixture
    def subject(self, make: Callable[..., Subject]) -> Subject:
        """A provider whose service is well."""
        return make()

    def secrets(self, provider: Any) -> list[str]:
        """Return every key that the provider holds."""
        names = [field.name for field in getattr(type(provider), "__attrs_attrs__", ())]
        held = [getattr(provider, name, None) for name in names]
        return [s.reveal() for s in held if isinstance(s, Secret)] + ([self.secret] if self.secret else [])

    def run(self, call: Callable[..., T], *args: Any, within: float | None = None) -> Ended:
        """Call in a thread of its own and say how it ended; fail if it has not within `patience_s` (or `within`)."""
        return self.ended(*self.begin(call, *args), within)

    def ended(self, thread: threading.Thread, ended: list[Ended], within: float | None = None) -> Ended:
        """Wait for a thread that `begin` started."""
        limit = self.patience_s if within is None else within
        thread.join(limit)
        assert not thread.is_alive(), f"it still runs after {limit:g} s"
        return ended[0]

    def begin(self, call: Callable[..., T], *args: Any) -> tuple[threading.Thread, list[Ended]]:
        """Start to call in a thread of its own."""
        ended: list[Ended] = []
        thread = threading.Thread(target=_into, args=(ended, call, args), daemon=True)
        thread.start()
        return thread, ended

    def answered(self, call: Callable[..., T], *args: Any) -> T:
        """Call in a thread of its own and return what it returns; what it raises is raised here."""
        ended = self.run(call, *args, within=self.timeout_s + self.patience_s)
        if ended.error is not None:
            raise ended.error
        return ended.value  # type: ignore[no-any-return]  # it is what `call` returned


def _into(ended: list[Ended], call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        ended.append(Ended(call(*args), None))
    except BaseException as error:
        ended.append(Ended(None, error))
