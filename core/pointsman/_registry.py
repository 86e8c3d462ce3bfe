"""Configured plugins, registered in pluggy under their ids.

pluggy validates and wraps; which backend is called is the router's decision. Each backend is
called through a caller that sees its hooks and those of the middleware, and of no other backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import wraps
from typing import Any, ClassVar, Generic, TypeVar

from pluggy import HookCaller

from . import _log
from ._configured import Configured
from ._discovery import MIDDLEWARE, Catalogue, Holder, new_manager
from .errors import LONG, BackendError, ConfigError
from .values import Health

M = TypeVar("M", bound=Configured)


class Registry(Generic[M]):
    """Every backend and middleware of one router, or store, in pluggy."""

    #: hooks that are called at one backend
    HOOKS: ClassVar[tuple[str, ...]]
    #: hook that a middleware may wrap -> what it returns, and what the pieces are that it returns
    WHOLE: ClassVar[Mapping[str, type[Any]]]
    PIECES: ClassVar[Mapping[str, type[Any]]]

    def __init__(
        self, backends: Iterable[M], middleware: Sequence[tuple[str, object]], catalogue: Catalogue, *others: object
    ) -> None:
        self.backends = tuple(backends)
        self._catalogue = catalogue
        self._manager = new_manager()
        self._holders: dict[str, Any] = {}
        # pluggy asks the last first: the first middleware is the outermost, and a provider comes after all of them.
        self._wrappers = [Holder(one) for _, one in middleware]
        self._tellers: Mapping[str, Any] = {
            name: one for name, one in middleware if callable(getattr(one, "health", None))
        }
        around = any(hasattr(one, hook) for one in self._wrappers for hook in (*self.WHOLE, *self.PIECES))
        for backend in self.backends:
            if backend.id in self._holders:
                raise ConfigError(f"two {backend.NOUN}s have the id {backend.id!r}; give each its own")
            self._holders[backend.id] = Holder(backend.provider)
            if around:  # else whoever is called is at fault
                self._watch(self._holders[backend.id], backend.GROUP, backend.type)
            self._manager.register(self._holders[backend.id], backend.id)
        for number, wrapper in reversed(list(enumerate(self._wrappers))):
            self._watch(wrapper, MIDDLEWARE, middleware[number][0])
            self._manager.register(wrapper, f"middleware {number} of the router")
        for other in others:
            self._manager.register(Holder(other))
        self._manager.check_pending()
        self._callers = {(b.id, hook): self._caller(b, hook) for b in self.backends for hook in self.HOOKS}

    def health(self, backend: M) -> Health:
        """Ask one backend how it is; one that has no such hook is well."""
        caller = self._callers[backend.id, "health"]
        return Health.ok() if caller is None else self._expect(Health, caller(), "health", backend.GROUP, backend.type)

    def others(self) -> dict[str, Health]:
        """Ask each middleware that can tell how it is, and return that by its name."""
        return {name: plugin.health() for name, plugin in self._tellers.items()}

    def report(self, backend: M, cause: str) -> None:
        """Quarantine the plugin of a backend."""
        self._catalogue.quarantine(backend.GROUP, backend.type, cause)

    def close(self) -> None:
        """Let every plugin release what it holds. What one raises is logged, and keeps no other from it.

        :raises BackendError: what a middleware has taken upon itself is lost, and it says so.
        """
        lost = None
        for name, plugin in self._manager.list_name_plugin():
            try:
                getattr(plugin, "close", bool)()
            except Exception as error:
                _log.failed("close", error, plugin=name)
                if plugin in self._wrappers and isinstance(error, BackendError):
                    lost = lost or error
        if lost is not None:
            raise lost

    def _caller(self, backend: M, hook: str) -> Callable[..., Any] | None:
        """Return the caller that sees this backend and every middleware, or None if it lacks the hook."""
        own = self._holders[backend.id]
        if not hasattr(own, hook):
            return None
        others = [other for other in self._holders.values() if other is not own]
        return direct(self._manager.subset_hook_caller(hook, others))

    def _watch(self, held: Any, group: str, name: str) -> None:
        """Let a plugin's hooks look at what they return, so that the fault of one is not told of another."""
        for hook in (*self.WHOLE, *self.PIECES):
            if hasattr(held, hook):
                setattr(held, hook, self._watched(getattr(held, hook), hook, group, name))

    def _watched(self, function: Any, hook: str, group: str, name: str) -> Callable[..., Any]:
        def look(found: Any) -> Any:
            if found is None and group == MIDDLEWARE:  # one that is no wrapper and leaves it to the others
                return None
            if hook in self.PIECES:
                return self._pieces(found, hook, group, name)
            return self._expect(self.WHOLE[hook], found, hook, group, name)

        @wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return look((yield from function(*arguments)))

        @wraps(function)
        def plain(*arguments: Any) -> Any:
            return look(function(*arguments))

        return wrapper if function.pointsman_impl["wrapper"] else plain

    def _pieces(self, pieces: Any, hook: str, group: str, name: str) -> Iterator[Any]:
        pieces, kind = self._expect(Iterable, pieces, hook, group, name), self.PIECES[hook]
        try:
            for piece in pieces:
                yield piece if piece.__class__ is kind else self._expect(kind, piece, hook, group, name)
        finally:
            getattr(pieces, "close", bool)()

    def _expect(self, kind: Any, found: object, hook: str, group: str, name: str) -> Any:
        """Return `found` if it is of the type that the hook promises.

        :raises BackendError: it is not: the plugin is quarantined, and a backend at fault left alone for long.
        """
        if isinstance(found, kind):
            return found
        who, mine = ("plugin", True) if group != MIDDLEWARE else (f"middleware {name}", False)
        text = f"hook {hook} returned {type(found).__name__}, expected {kind.__name__}: the {who} is at fault"
        self._catalogue.quarantine(group, name, text)
        raise BackendError(text, retry_after=LONG if mine else 0.0, try_next=mine)


def direct(caller: HookCaller) -> Callable[..., Any]:
    """Return the method itself where it is all that would be called: pluggy would cost as much as the rest."""
    found, spec = caller.get_hookimpls(), caller.spec
    if len(found) == 1 and spec is not None and found[0].argnames == spec.argnames and not found[0].wrapper:
        return found[0].function
    return caller


def listed(given: Iterable[object] | Mapping[str, object], cls: type[M], where: str, expected: str) -> list[M]:
    """Return what a caller gave as a list of `cls`: values, bare plugins in the order of preference, or either by id.

    :raises ConfigError: something is neither; it names the place.
    """
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise ConfigError(f"{where}: found {type(given).__name__}, expected a list of {where} or a mapping of ids")
    pairs = given.items() if isinstance(given, Mapping) else ((None, one) for one in given)
    made = list[M]()
    for place, (name, one) in enumerate(pairs, 1):
        if one is None or isinstance(one, str | bytes | Mapping | list | tuple | type | int):
            found = f"the class {one.__name__}" if isinstance(one, type) else type(one).__name__
            raise ConfigError(f"{where}[{place - 1}]: found {found}, expected {expected} takes a configuration")
        backend = one if isinstance(one, cls) else cls(one, id=name or "", priority=10 * place)
        if name not in (None, backend.id):
            backend = copy(backend)
            backend.id = name or ""
        made.append(backend)
    return made
