"""What all backends of the complaint generator have in common: a prompt goes in, text comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from types import TracebackType
from typing import Any, Self, TypeAlias, Unpack

from attrs import field, frozen
from pointsman import (
    Backend,
    Completion,
    ConfigError,
    Health,
    Message,
    Options,
    Request,
    Router,
    UnusableAnswer,
    hookimpl,
)
from pointsman.config import sealed, type_named
from pointsman.values import OPTIONAL

from .exceptions import BatchError

Prompt: TypeAlias = "str | Sequence[Message | Mapping[str, Any]] | Request"

#: What a backend presets unless told otherwise. A model that refuses the temperature is asked without it.
MAX_TOKENS, TEMPERATURE = 128, 0.7


class TextBackend:
    """A router that answers with text. Thread-safe.

    `router` is the `pointsman.Router` beneath, for whoever wants the whole `Completion`, a stream,
    the health or the order. Use the backend as a context manager, or `close` it: that ends the
    processes and connections of all its providers.

    :param id: its name, also in errors and in the list of attempts.
    :param router: what it asks.
    """

    id: str = ""
    provider: str = ""  #: the type of the provider that is asked first
    model: str | None = None  #: what that one is asked for; `None` leaves it to the provider
    closes: ExitStack | None = None  #: what is closed after its router

    def __init__(self, id: str, router: Router) -> None:
        self.id = id
        self.router = router
        self.provider = router.backends[0].type
        self.model = router.backends[0].model

    @classmethod
    def around(cls, id: str, router: Router) -> Self:
        """Return a backend of this class that asks `router`."""
        made = cls.__new__(cls)
        TextBackend.__init__(made, id, router)
        return made

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> str:
        """Return the answer's text. Options given here go before those of the backend.

        A limit of the answer's length that a program cannot be given (codex, copilot) is left out, with a warning.

        :raises BackendError: no answer came; which class it is says why (`backends.exceptions`).
        :raises ConfigError: an option is unknown or out of range.
        """
        options.setdefault("drop_unsupported", "max_tokens")
        return self.router.generate(prompt, **options).text

    def __call__(self, prompt: Prompt, **options: Unpack[Options]) -> str:
        """Do as `generate`."""
        return self.generate(prompt, **options)

    def batch_generate(
        self, prompts: Iterable[Prompt], max_workers: int = 4, timeout: float | None = 30, **options: Any
    ) -> list[str]:
        """Return the answers' texts, in the order of the prompts; `max_workers` are asked at once.

        :param timeout: seconds that each may take.
        :param options: what `generate` takes, and what `pointsman.Router.batch` takes: `journal`, say.
        :raises BatchError: some were not answered; it has all texts and all errors. No failure stops the others.
        :raises ConfigError: an argument is wrong.
        """
        options.setdefault("drop_unsupported", "max_tokens")
        results = self.router.batch(prompts, max_workers, timeout=timeout, **options)
        texts = [one.text for one in results if isinstance(one, Completion)]
        if len(texts) < len(results):
            raise BatchError([one.text if isinstance(one, Completion) else one for one in results])
        return texts

    def close(self) -> None:
        """End all processes and connections. Repeating it changes nothing."""
        with self.closes or ExitStack():
            self.router.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, provider={self.provider!r}, model={self.model!r})"


@frozen
class _Asked:
    """A callable that takes a text and returns one, as a provider: the complaint generator's own backends are such."""

    ask: Callable[[str], object] = field(repr=False)

    def unsupported(self, request: Request) -> frozenset[str]:
        """Return all options: nothing but a text reaches it."""
        return OPTIONAL

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Ask it, with the prompt as it is, or with all texts of a conversation."""
        turns = (message.text for message in request.messages if message.role != "system")
        answer = self.ask("\n\n".join(filter(None, (request.instructions, *turns))))
        if not isinstance(answer, str):
            raise UnusableAnswer(f"it returned {type(answer).__name__}, expected text", retry_same=False)
        return Completion(text=answer)

    @hookimpl
    def health(self) -> Health:
        """Nobody can tell but by asking it."""
        return Health.ok()


def router_for(arguments: Mapping[str, Any], type: str) -> Router:
    """Return the router for what a constructor was given; arguments that are `None` count as not given.

    :param arguments: the constructor's `locals()`: its arguments are the options of an entry of BACKENDS, and in
        `options` are further ones.
    :param type: of that entry.
    :raises ConfigError: with every argument that is wrong. A plugin that is not installed is told by the call.
    """
    owner = arguments["self"].__class__.__name__
    given = sealed({**arguments, **(arguments["options"] or {}), "options": None})  # no traceback shows what is in it
    del arguments
    if given.get("type") is not None and type_named(str(given["type"])) != type:
        raise ConfigError(f"{owner}.type: found {given['type']!r:.60}, expected {type!r}; `backends.load` takes any")
    named = ((name, value) for name, value in given.items() if value is not None and name not in ("self", "__class__"))
    entry = sealed({**dict(named), "type": type})
    try:
        return Router.from_config({"BACKENDS": [entry]})
    except ConfigError as error:
        problems = [problem.replace("BACKENDS[0]", owner) for problem in error.problems]
    raise ConfigError(*problems)


def placed(backend: Backend, priority: float, presets: Mapping[str, Any]) -> Backend:
    """Return `backend` with another priority, and with `presets` where it has no defaults of its own."""
    copied = copy(backend)
    copied.priority = priority
    copied.defaults = {**presets, **backend.defaults}
    return copied


def chained(given: Iterable[object], of: str, expected: str, *, first: Iterable[Backend] = ()) -> list[Backend]:
    """Return the backends behind all that was given, each placed to be asked in this order, and none twice.

    A callable that takes a text and returns one is a backend, too, or whatever has such a method `generate`; its name
    is its `id`, if it has one.

    :param of: how an error calls what was given.
    :param first: what is asked before it.
    :raises ConfigError: one is no backend.
    """
    chain = list(first)
    for place, one in enumerate(given):
        try:
            router = one.router if isinstance(one, TextBackend) else one
            chain += (router if isinstance(router, Router) else Router([router])).backends
        except ConfigError as error:
            ask = one if callable(one) else getattr(one, "generate", None)  # which takes a text, if it is no hook
            hook = isinstance(getattr(ask, "pointsman_impl", None), dict)  # a double of a test has every attribute
            if callable(ask) and not hook and not isinstance(one, type):
                chain.append(_asking(ask, one, place))
                continue
            found = f"the class {one.__name__}" if isinstance(one, type) else type(one).__name__
            raise ConfigError(f"{of}[{place}]: found {found}, expected {expected}") from error
    once = {(backend.id, id(backend.provider)): backend for backend in chain}
    return [placed(backend, priority, {}) for priority, backend in enumerate(once.values(), 1)]


def _asking(ask: Callable[[str], object], one: object, place: int) -> Backend:
    """Return the backend that asks a callable, that of whom it is named for."""
    id, name = getattr(one, "id", None), getattr(one, "__name__", type(one).__name__)
    return Backend(_Asked(ask), type="callable", id=id if isinstance(id, str) and id.strip() else f"{name}-{place + 1}")
