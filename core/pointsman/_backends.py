"""Configured providers, registered in pluggy under their ids.

pluggy validates and wraps; which backend is called is the router's decision. Each backend is
called through a caller that sees its hooks and those of the middleware, and of no other backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import wraps
from typing import TYPE_CHECKING, Any, get_args

from attrs import define, field

from . import _log
from ._discovery import MIDDLEWARE, PROVIDERS, Catalogue, Holder, check, new_manager
from ._pieces import chunk_of, collect
from ._settings import Count, FromZero, Name, OnBreak, Prices, Retries, Seconds
from ._structure import fields_of, misfits
from .errors import LONG, BackendError, ConfigError, InvalidRequestError
from .scope import Clock
from .secret import Secret, redact
from .values import OPTIONAL, Capability, Chunk, Completion, Health, ModelInfo, Request, Usage

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
class Backend:
    """One configured provider with an id: what the router chooses between.

    :raises ConfigError: the provider does not fit, or an argument is wrong.
    """

    #: an instance of a provider class; None only where it is disabled, or `missing` says why there is none
    provider: object = field(kw_only=False, repr=False)
    type: str = ""  #: the name of its plugin; the name of its class by default
    id: Name = ""  #: unique in its router; its type by default
    priority: float = 100.0  #: lower is asked first
    weight: FromZero = field(default=1.0, repr=False)  #: share among equals of priority, for the order `weighted`
    model: str | None = None  #: what it is asked by default; the provider's own `model` otherwise
    enabled: bool = field(default=True, repr=False)
    #: of one attempt here, as for a call, which has the last word; `None` leaves it to the router
    timeout: Seconds | None = field(default=None, repr=False)
    first_token_timeout: Seconds | None = field(default=None, repr=False)
    idle_timeout: Seconds | None = field(default=None, repr=False)
    min_rate: FromZero | None = field(default=None, repr=False)
    max_retries: Retries | None = field(default=None, repr=False)
    on_break: OnBreak | None = field(default=None, repr=False)
    rate_limit: Count | None = field(default=None, repr=False)  #: requests within any `rate_limit_window`
    rate_limit_window: Seconds = field(default=60.0, repr=False)  #: seconds
    tokens_per_minute: Count | None = field(default=None, repr=False)
    max_concurrency: Count | None = field(default=None, repr=False)  #: requests at once
    #: request fields used where the caller sets none: those of `PRESETS`
    defaults: Mapping[str, Any] = field(factory=dict, repr=False)
    #: US dollars for a million tokens: {"input": ..., "output": ..., "cached": ...}
    prices: Prices | None = field(default=None, repr=False)
    verbose: bool = field(default=False, repr=False)  #: show every attempt on stderr
    missing: str = field(default="", repr=False)  #: why it cannot be used at all: a variable that is not set, say
    #: model -> options that it refused, each with the value that it refused where others may be taken, else None
    refused: dict[str | None, frozenset[tuple[str, Any]]] = field(factory=dict, repr=False, init=False)
    _unsupported: Callable[[Request], Iterable[str]] | None = field(default=None, repr=False, init=False)
    #: models that requests named and it does not have: it is asked its own instead
    lacks: frozenset[str | None] = field(default=frozenset(), repr=False, init=False)

    def __attrs_post_init__(self) -> None:
        if self.provider is not None or (self.enabled and not self.missing):
            check(self.provider.__class__, PROVIDERS)
        self.type = self.type or self.provider.__class__.__name__.lower()
        self.id = self.id or self.type
        self.model = self.model or self._declared("model", None)
        self._unsupported = self._declared("unsupported", None)
        if self._unsupported is not None and not callable(self._unsupported):
            raise ConfigError(f"backend {self.id!r}: its plugin's `unsupported` is no method: the plugin is at fault")
        if unknown := self._declared("capabilities", _NOTHING) - _CAPABLE:
            known = f"expected some of {', '.join(sorted(_CAPABLE))}"
            raise ConfigError(f"backend {self.id!r}: capabilities: found {sorted(unknown)}, {known}")
        self.defaults = {name: value for name, value in self.defaults.items() if value is not None}
        own = fields_of(Backend)
        problems = misfits(own, {name: getattr(self, name) for name in own})
        if problems := [*problems, *misfits(PRESETS, self.defaults, "defaults")]:
            raise ConfigError(*(f"backend {self.id!r}: {problem}" for problem in problems))

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it declares itself capable of, beyond text."""
        declared: frozenset[Capability] = self._declared("capabilities", _NOTHING)
        return declared

    @property
    def local(self) -> bool:
        """Whether nothing that it is asked leaves this machine."""
        return self._declared("local", False) is True

    @property
    def context_window(self) -> int | None:
        """Tokens that fit its model, if known."""
        window: int | None = self._declared("context_window", None)
        return window

    def _declared(self, name: str, default: Any, *of: Any) -> Any:
        try:
            found = getattr(self.provider, name, default)
            return found(*of) if of else found
        except Exception as error:  # the fault of a plugin must not cost the caller the answer of another
            _log.failed(name, error, backend=self.id)
            return default

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


class Registry:
    """Every backend and middleware of one router, in pluggy."""

    def __init__(
        self, backends: Iterable[Backend], middleware: Sequence[tuple[str, object]], order: object, catalogue: Catalogue
    ) -> None:
        self.backends = tuple(backends)
        self._catalogue = catalogue
        self._manager = new_manager()
        self._holders: dict[str, Any] = {}
        for backend in self.backends:
            if backend.id in self._holders:
                raise ConfigError(f"two backends have the id {backend.id!r}; give each its own")
            self._holders[backend.id] = Holder(backend.provider)
            if middleware:  # without any, `generate` and `stream` know who is at fault
                self._watch(self._holders[backend.id], PROVIDERS, backend.type)
            self._manager.register(self._holders[backend.id], backend.id)
        # pluggy asks the last first: the first middleware is the outermost, and a provider comes after all of them.
        wrappers = [Holder(one) for _, one in middleware]
        for number, wrapper in reversed(list(enumerate(wrappers))):
            self._watch(wrapper, MIDDLEWARE, middleware[number][0])
            self._manager.register(wrapper, f"middleware {number} of the router")
        self._manager.register(Holder(order), "order of the router")
        self._manager.check_pending()
        self._callers = {(b.id, hook): self._caller(b, hook) for b in self.backends for hook in _KINDS}
        self._order = self._manager.hook.order
        #: one caller for each, so that one which raises does not end the others
        self._observers = [self._alone("answered", w) for w in wrappers if hasattr(w, "answered")]

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
        yield from self._pieces(caller(request=request), PROVIDERS, backend.type)

    def health(self, backend: Backend) -> Health:
        """Ask one backend how it is; one that has no such hook is well."""
        caller = self._callers[backend.id, "health"]
        return Health.ok() if caller is None else self._expect(Health, caller(), "health", PROVIDERS, backend.type)

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
            return BackendError(f"list_models raised {type(error).__name__}: {redact(str(error))}")

    def report(self, backend: Backend, cause: str) -> None:
        """Quarantine the plugin of a backend."""
        self._catalogue.quarantine(PROVIDERS, backend.type, cause)

    def close(self) -> None:
        """Let every plugin release what it holds. What one raises is logged and not passed on."""
        for name, plugin in self._manager.list_name_plugin():
            try:
                getattr(plugin, "close", bool)()
            except Exception as error:
                _log.failed("close", error, plugin=name)

    def answered(self, request: Request, completion: Completion) -> None:
        """Tell every observer. What one raises is logged and not passed on."""
        for observer in self._observers:
            try:
                observer(request=request, completion=completion)
            except Exception as error:
                _log.failed("answered", error)

    def _caller(self, backend: Backend, hook: str) -> Callable[..., Any] | None:
        """Return the caller that sees this backend and every middleware, or None if it lacks the hook."""
        own = self._holders[backend.id]
        if not hasattr(own, hook):
            return None
        others = [other for other in self._holders.values() if other is not own]
        caller = self._manager.subset_hook_caller(hook, others)
        found, spec = caller.get_hookimpls(), caller.spec
        # With no middleware around it the method is what pluggy would call; pluggy would cost as much as the rest.
        if len(found) == 1 and spec is not None and found[0].argnames == spec.argnames:
            return found[0].function
        return caller

    def _alone(self, hook: str, plugin: object) -> Callable[..., Any]:
        return self._manager.subset_hook_caller(hook, [p for p in self._manager.get_plugins() if p is not plugin])

    def _watch(self, held: Any, group: str, name: str) -> None:
        """Let a plugin's hooks look at what they return, so that the fault of one is not told of another."""
        for hook in ("generate", "stream"):
            if hasattr(held, hook):
                setattr(held, hook, self._watched(getattr(held, hook), hook, group, name))

    def _watched(self, function: Any, hook: str, group: str, name: str) -> Callable[..., Any]:
        def look(found: Any) -> Any:
            if found is None and group == MIDDLEWARE:  # one that is no wrapper and leaves it to the others
                return None
            if hook == "stream":
                return self._pieces(found, group, name)
            return self._expect(Completion, found, hook, group, name)

        @wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return look((yield from function(*arguments)))

        @wraps(function)
        def plain(*arguments: Any) -> Any:
            return look(function(*arguments))

        return wrapper if function.pointsman_impl["wrapper"] else plain

    def _pieces(self, chunks: Any, group: str, name: str) -> Iterator[Chunk]:
        chunks = self._expect(Iterable, chunks, "stream", group, name)
        try:
            for chunk in chunks:
                yield chunk if chunk.__class__ is Chunk else self._expect(Chunk, chunk, "stream", group, name)
        finally:
            getattr(chunks, "close", bool)()

    def _expect(self, kind: Any, found: object, hook: str, group: str, name: str) -> Any:
        """Return `found` if it is of the type that the hook promises.

        :raises BackendError: it is not: the plugin is quarantined, and a backend at fault left alone for long.
        """
        if isinstance(found, kind):
            return found
        who, mine = ("plugin", True) if group == PROVIDERS else (f"middleware {name}", False)
        text = f"hook {hook} returned {type(found).__name__}, expected {kind.__name__}: the {who} is at fault"
        self._catalogue.quarantine(group, name, text)
        raise BackendError(text, retry_after=LONG if mine else 0.0, try_next=mine)


def listed(given: Iterable[object] | Mapping[str, object]) -> list[Backend]:
    """Return backends of what a caller gave: values, bare providers in the order of preference, or either by id."""
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise ConfigError(f"backends: found {type(given).__name__}, expected a list of backends or a mapping of ids")
    pairs = given.items() if isinstance(given, Mapping) else ((None, one) for one in given)
    made = []
    for place, (name, one) in enumerate(pairs, 1):
        if one is None or isinstance(one, str | bytes | Mapping | list | tuple | type):
            found = f"the class {one.__name__}" if isinstance(one, type) else type(one).__name__
            raise ConfigError(
                f"backends[{place - 1}]: found {found}, expected a Backend or a provider; "
                "Router.from_config takes a configuration"
            )
        backend = one if isinstance(one, Backend) else Backend(one, id=name, priority=10 * place)
        if name not in (None, backend.id):
            backend = copy(backend)
            backend.id = name
        made.append(backend)
    return made


def _value(request: Request, name: str) -> Any:
    """Return what the option is set to, where a model may refuse that and take another value."""
    return getattr(request, name) if name in ("tool_choice", "reasoning_effort") else None


_KINDS = ("generate", "stream", "health", "list_models")
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
