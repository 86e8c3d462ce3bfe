"""Configured providers: what is set for each, what each has taught us, and how they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from attrs import define, evolve, field, fields_dict

from . import _log
from ._configured import Configured
from ._discovery import PROVIDERS, Catalogue
from ._pieces import chunk_of, collect
from ._registry import Registry, direct, listed
from ._settings import Count, FromZero, OnBreak, Prices, Seconds
from ._structure import fields_of, misfits
from .errors import BackendError, ConfigError, InvalidRequestError
from .scope import Clock
from .secret import Secret, words_of
from .values import OPTIONAL, Capability, Chunk, Completion, ModelInfo, Request, Usage

if TYPE_CHECKING:
    from ._limits import Limiter


#: Names of models that are kept at most: they may come from outside.
_MOST = 1000
_PRESET = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty")
#: What a refusal may call several options by.
_GROUPS = {"penalty": ("frequency_penalty", "presence_penalty")}
#: What a backend may preset for requests that leave it open.
PRESETS = {name: fields_of(Request)[name] for name in _PRESET}


@define(eq=False, kw_only=True)
class Backend(Configured):
    """One configured provider with an id: what the router chooses between.

    :raises ConfigError: the provider does not fit, or an argument is wrong.
    """

    GROUP = PROVIDERS

    weight: FromZero = field(default=1.0, repr=False)  #: share among equals of priority, for the order `weighted`
    model: str | None = None  #: what it is asked by default; the provider's own `model` otherwise
    first_token_timeout: Seconds | None = field(default=None, repr=False)
    idle_timeout: Seconds | None = field(default=None, repr=False)
    min_rate: FromZero | None = field(default=None, repr=False)
    on_break: OnBreak | None = field(default=None, repr=False)
    rate_limit: Count | None = field(default=None, repr=False)  #: requests within any `rate_limit_window`
    rate_limit_window: Seconds = field(default=60.0, repr=False)  #: seconds
    tokens_per_minute: Count | None = field(default=None, repr=False)
    max_concurrency: Count | None = field(default=None, repr=False)  #: requests at once
    #: request fields used where the caller sets none: those of `PRESETS`
    defaults: Mapping[str, Any] = field(factory=dict, repr=False)
    #: US dollars for a million tokens: {"input": ..., "output": ..., "cached": ...}
    prices: Prices | None = field(default=None, repr=False)
    #: model -> options that it refused, each with the value that it refused where others may be taken, else None
    refused: dict[str | None, frozenset[tuple[str, Any]]] = field(factory=dict, repr=False, init=False)
    _unsupported: Callable[[Request], Iterable[str]] | None = field(default=None, repr=False, init=False)
    #: models that requests named and it does not have: it is asked its own instead
    lacks: frozenset[str | None] = field(default=frozenset(), repr=False, init=False)

    def _complete(self) -> None:
        self.model = self.model or self._declared("model", None)
        self._unsupported = self._declared("unsupported", None)
        if self._unsupported is not None and not callable(self._unsupported):
            raise ConfigError(f"backend {self.id!r}: its plugin's `unsupported` is no method: the plugin is at fault")
        if unknown := self._declared("capabilities", _NOTHING) - _CAPABLE:
            known = f"expected some of {', '.join(sorted(_CAPABLE))}"
            raise ConfigError(f"backend {self.id!r}: capabilities: found {sorted(unknown)}, {known}")
        self.defaults = {name: value for name, value in self.defaults.items() if value is not None}

    def _misfits(self) -> list[str]:
        return misfits(PRESETS, self.defaults, "defaults")

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it declares itself capable of, beyond text."""
        declared: frozenset[Capability] = self._declared("capabilities", _NOTHING)
        return declared

    @property
    def context_window(self) -> int | None:
        """Tokens that fit its model, if known."""
        window: int | None = self._declared("context_window", None)
        return window

    def model_for(self, request: Request, *, first: bool = True) -> str | None:
        """Return the model that it is asked: what the request names counts for the first backend of the order."""
        named = request.model if first and request.model not in self.lacks else None
        return named or self.model or request.model

    def fitted(self, request: Request, *, first: bool) -> Request:
        """Return the request as this backend is asked it: its model, its defaults, without what the model refused.

        :raises InvalidRequestError: the model does not take an option that may not be left out.
        """
        model = self.model_for(request, first=first)
        changes: dict[str, Any] = {}
        if model != request.model:
            changes["model"] = model
        for name, value in self.defaults.items():
            if getattr(request, name) is None:
                changes[name] = value
        fitted = request.changed(changes) if changes else request
        if len(request.messages) > 1 and any(m.state for m in request.messages):
            vendor = self._declared("vendor", self.type)
            fitted = fitted.without_state(lambda state: state.vendor == vendor and state.model in (None, model))
        if (self.picky or request.drop_unsupported) and (untaken := self.untaken(fitted)):
            if needed := sorted(name for name in untaken - request.droppable if request.has(name)):
                text = f"its model {model!r} does not take {', '.join(needed)}"
                raise InvalidRequestError(text, parameter=needed[0], try_next=True)
            fitted = fitted.without(*untaken)
        return fitted

    @property
    def picky(self) -> bool:
        """Whether there is any option that a model of it does not take, as far as anybody knows."""
        return self._unsupported is not None or bool(self.refused)

    def untaken(self, request: Request) -> frozenset[str]:
        """Return the options of this request that its model does not take here, as far as anybody knows."""
        refused = self.refused.get(request.model, ())
        names = frozenset(name for name, value in refused if value in (None, _value(request, name)))
        if self._unsupported is not None:
            names |= frozenset(self._declared("unsupported", None, request) or ())
        if request.drop_unsupported:
            names |= request.needs - self.capabilities
        return frozenset(name for name in names & OPTIONAL if request.has(name)) if names else _NONE

    def refuse(self, parameter: str | None, request: Request) -> str:
        """Remember that the model refuses `parameter`; return its name if the request may be sent again without it."""
        for name in _GROUPS.get(parameter or "", (parameter or "",)):
            if name in request.droppable and request.has(name):
                known = self.refused.get(request.model, frozenset())
                self.refused[request.model] = known | {(name, _value(request, name))}
                return name
        return ""

    def lack(self, model: str | None, request: Request) -> bool:
        """Remember that it has no such model; say whether it may be asked its own instead of the one that was named."""
        if model != request.model or self.model in (None, model):
            return False
        self.lacks = frozenset({model}) if len(self.lacks) >= _MOST else self.lacks | {model}
        return True

    def cost(self, usage: Usage | None) -> float | None:
        """Return US dollars for `usage`, as the provider says or by its prices, or `None` if they are unknown."""
        if usage is None or not self.prices or usage.cost is not None:
            return None if usage is None else usage.cost
        price_in, price_out = self.prices.get("input", 0.0), self.prices.get("output", 0.0)
        fresh = usage.input_tokens - usage.cached_tokens
        cached = usage.cached_tokens * self.prices.get("cached", price_in)
        return (fresh * price_in + cached + usage.output_tokens * price_out) / 1e6


class Providers(Registry[Backend]):
    """Every backend, middleware and the order plugin of one router, in pluggy."""

    HOOKS = ("generate", "stream", "health", "list_models")
    WHOLE: ClassVar = {"generate": Completion}
    PIECES: ClassVar = {"stream": Chunk}

    def __init__(
        self, backends: Iterable[Backend], middleware: Sequence[tuple[str, object]], order: object, catalogue: Catalogue
    ) -> None:
        super().__init__(backends, middleware, catalogue, order)
        self._order = self._manager.hook.order
        #: one caller for each, so that one which raises does not end the others
        self._observers = [self._alone("answered", w) for w in self._wrappers if hasattr(w, "answered")]
        keeps = any(hasattr(wrapper, "receipt") for wrapper in self._wrappers)
        self._receipt = direct(self._manager.hook.receipt) if keeps else None

    def order(self, request: Request, able: Sequence[Backend]) -> list[Backend]:
        """Ask the order plugin.

        :raises TypeError: it returned something that is not among the backends.
        """
        order = dict.fromkeys(self._order(request=request, backends=able))
        if order.keys() <= set(able):
            return list(order)
        raise TypeError("it returned something that is not among the backends")

    def generate(self, backend: Backend, request: Request) -> Completion:
        """Ask one backend, through every middleware; put a stream together where that is all it has."""
        caller = self._callers[backend.id, "generate"]
        if caller is None:
            return collect(self.stream(backend, request))
        answer: Any = caller(request=request)
        if answer.__class__ is not Completion:
            answer = self._expect(Completion, answer, "generate", PROVIDERS, backend.type)
        return answer  # type: ignore[no-any-return] # it is one

    def stream(self, backend: Backend, request: Request) -> Iterator[Chunk]:
        """Ask one backend for pieces, through every middleware; send a whole answer as one where that is all it has."""
        caller = self._callers[backend.id, "stream"]
        if caller is None:
            yield chunk_of(self.generate(backend, request))
            return
        yield from self._pieces(caller(request=request), "stream", PROVIDERS, backend.type)

    def list_models(self, backend: Backend) -> Sequence[ModelInfo] | BackendError:
        """Ask one backend what it offers; return why it cannot tell, if so."""
        caller = self._callers[backend.id, "list_models"]
        if not backend.enabled or backend.missing:
            return BackendError(f"unconfigured: {backend.missing}" if backend.enabled else "disabled")
        if caller is None:
            return BackendError("its plugin cannot list models")
        try:
            found: Sequence[Any] = self._expect(Sequence, caller(), "list_models", PROVIDERS, backend.type)
            return [self._expect(ModelInfo, one, "list_models", PROVIDERS, backend.type) for one in found]
        except BackendError as error:
            return error
        except Exception as error:  # of a plugin: the others can tell all the same
            return BackendError(f"list_models raised {type(error).__name__}: {words_of(error)}")

    def receipted(self, request: Request, completion: Completion) -> Completion:
        """Return the answer with the identifier of its record, if records are kept."""
        if self._receipt is None:
            return completion
        try:
            receipt = self._receipt(request=request, completion=completion)
            return Completion(*(*_told(completion), receipt))  # `evolve` costs twice as much, on every call
        except Exception as error:  # the answer is there, and may have been paid for
            _log.failed("receipt", error)
            text = f"there is no receipt of this answer: {words_of(error) or type(error).__name__}"
            return evolve(completion, warnings=(*completion.warnings, text))

    def answered(self, request: Request, completion: Completion) -> None:
        """Tell every observer. What one raises is logged and not passed on."""
        for observer in self._observers:
            try:
                observer(request=request, completion=completion)
            except Exception as error:
                _log.failed("answered", error)

    def _alone(self, hook: str, plugin: object) -> Callable[..., Any]:
        return self._manager.subset_hook_caller(hook, [p for p in self._manager.get_plugins() if p is not plugin])


def backends_of(given: Iterable[object] | Mapping[str, object]) -> list[Backend]:
    """Return the backends that a caller gave.

    :raises ConfigError: something is none.
    """
    return listed(given, Backend, "backends", "a Backend or a provider; Router.from_config")


def _value(request: Request, name: str) -> Any:
    """Return what the option is set to, where a model may refuse that and take another value."""
    return getattr(request, name) if name in ("tool_choice", "reasoning_effort") else None


_told = attrgetter(*(name for name in fields_dict(Completion) if name != "receipt"))  #: its last field
_NOTHING: frozenset[Capability] = frozenset()
_CAPABLE = frozenset(get_args(Capability))
_NONE: frozenset[str] = frozenset()


def limiters(backends: Iterable[Backend], clock: Clock, storage: str | Secret | None) -> Mapping[str, Limiter]:
    """Return what counts for each backend that has limits, by id.

    :raises ConfigError: `storage` cannot be used.
    """
    limited = [b for b in backends if b.rate_limit or b.tokens_per_minute or b.max_concurrency]
    if not limited:
        return {}
    from ._limits import Limiter  # most routers have no limits

    return {b.id: Limiter(b, clock, Secret.of(storage)) for b in limited}
