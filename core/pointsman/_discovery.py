"""Entry points, turned into classes, or quarantined with the reason.

Listing costs no import. A class is loaded when a configuration names it, and then looked at: a
plugin that does not fit is reported by name, distribution, version and cause, and all others work.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, distributions
from typing import Any, Literal

from attrs import evolve, field, frozen, has
from pluggy import PluginManager, PluginValidationError

from . import _log, hookspecs
from .errors import ConfigError
from .secret import redact

#: group -> hooks of which a plugin needs at least one
GROUPS = {
    "pointsman.providers": ("generate", "stream"),
    "pointsman.stores": ("store", "fetch"),
    "pointsman.orders": ("order",),
    "pointsman.middleware": ("generate", "stream", "store", "fetch", "answered"),
}
PROVIDERS, STORES, ORDERS, MIDDLEWARE = GROUPS
_HOOKS = tuple(name for name, value in vars(hookspecs).items() if hasattr(value, "pointsman_spec"))


@frozen
class PluginInfo:
    """One installed plugin: where it comes from, and whether it is fit for use."""

    name: str
    group: str
    distribution: str
    version: str
    status: Literal["available", "loaded", "quarantined"] = "available"
    cause: str = ""  #: why it is quarantined
    _entry: EntryPoint | None = field(default=None, repr=False, eq=False)


class Catalogue:
    """The plugins that are installed in this environment, as seen when first asked."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._plugins: dict[tuple[str, str], PluginInfo] | None = None
        self._rivals: list[PluginInfo] = []

    def names(self, group: str) -> tuple[str, ...]:
        """Return the names of a group's plugins that are not quarantined."""
        return tuple(i.name for i in self._found().values() if i.group == group and i.status != "quarantined")

    def infos(self) -> tuple[PluginInfo, ...]:
        """Return all plugins by group and name, the quarantined ones too."""
        everything = [*self._found().values(), *self._rivals]
        return tuple(sorted(everything, key=lambda i: (i.group, i.name, i.distribution)))

    def load(self, group: str, name: str) -> type[Any]:
        """Import the plugin's class and look whether it fits.

        :raises ConfigError: there is none of that name, or it is unfit; it is then quarantined.
        """
        with self._lock:
            info = self._found().get((group, name))
            if info is None:
                near = get_close_matches(name, self.names(group), 1)
                hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(self.names(group)) or 'none'}"
                raise ConfigError(f"no plugin {name!r} in {group}; {hint}")
            if info.status == "quarantined":
                raise ConfigError(f"plugin {name!r} ({info.distribution} {info.version}) is unfit: {info.cause}")
            assert info._entry is not None  # noqa: S101 - every info of ours has one
            try:
                cls = info._entry.load()
                check(cls, group)
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:  # even SystemExit: a broken plugin is a reported fact, never a crash
                self.quarantine(group, name, _cause(error))
                raise ConfigError(f"plugin {name!r} ({info.distribution} {info.version}): {_cause(error)}") from None
            self._found()[group, name] = evolve(info, status="loaded")
            return cls  # type: ignore[no-any-return] # `check` has seen that it is a class

    def quarantine(self, group: str, name: str, cause: str) -> None:
        """Report a plugin as unfit: in `infos`, and as one line in the log."""
        with self._lock:
            info = self._found().get((group, name))
            if info is not None and info.status != "quarantined":
                self._found()[group, name] = info = evolve(info, status="quarantined", cause=cause)
                _log.quarantined(info)

    def check_all(self) -> tuple[PluginInfo, ...]:
        """Load every plugin to see whether it is fit, and return `infos`."""
        for group, name in list(self._found()):
            try:
                self.load(group, name)
            except ConfigError:
                continue  # reported in infos
        return self.infos()

    def _found(self) -> dict[tuple[str, str], PluginInfo]:
        with self._lock:
            if self._plugins is None:
                self._plugins = {}
                for info in sorted(_installed(), key=_precedence):
                    self._add(self._plugins, info)
            return self._plugins

    def _add(self, plugins: dict[tuple[str, str], PluginInfo], info: PluginInfo) -> None:
        first = plugins.setdefault((info.group, info.name), info)
        if first is info:
            return
        cause = f"the name {info.name!r} belongs to {first.distribution} {first.version}; uninstall one of them"
        self._rivals.append(evolve(info, status="quarantined", cause=cause))
        _log.quarantined(self._rivals[-1])


def _installed() -> Iterable[PluginInfo]:
    """Yield every plugin on the path. Not `entry_points()`: one distribution with broken metadata would end it."""
    seen = set()
    for distribution in distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group in GROUPS]
            if not entries:
                continue
            facts: Any = distribution.metadata
            name, version = facts.get("Name", "unknown"), facts.get("Version", "?")
        except Exception as error:
            _log.failed("reading the metadata of a distribution", error, path=getattr(distribution, "_path", None))
            continue
        if name not in seen:  # the same distribution may be seen twice on the path: the first one is imported
            seen.add(name)
            yield from (PluginInfo(entry.name, entry.group, name, version, entry=entry) for entry in entries)


def _precedence(info: PluginInfo) -> tuple[bool, str]:
    """The distribution that is called after the plugin owns its name; others come by the alphabet."""
    distribution = info.distribution.replace("_", "-").lower()
    return distribution not in ("pointsman", f"pointsman-{info.name.replace('_', '-')}"), distribution


def _cause(error: BaseException) -> str:
    text = redact(str(error))
    return (
        text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}" if text else type(error).__name__
    )


def hooks_of(cls: type[Any]) -> tuple[str, ...]:
    """Return the names of the methods that `cls` marks with `@hookimpl`."""
    return tuple(name for name in dir(cls) if hasattr(inspect.getattr_static(cls, name, None), "pointsman_impl"))


def check(cls: Any, group: str) -> None:
    """See whether `cls` can be a plugin of `group`.

    :raises ConfigError: it is no attrs class, lacks a hook, or has one misspelled or wrongly signed.
    """
    if not isinstance(cls, type):
        raise ConfigError(f"the entry point gives a {type(cls).__name__}, expected a class")
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not has(cls):
        raise ConfigError(f"{where} is not an attrs class; decorate it with @attrs.frozen")
    names = hooks_of(cls)
    for name in names if group != MIDDLEWARE else ():
        options = inspect.getattr_static(cls, name).pointsman_impl
        if options["wrapper"] or options["hookwrapper"]:
            raise ConfigError(f"{where}.{name} is a wrapper; only a middleware wraps")
    manager = new_manager()
    try:
        manager.register(_Holder({name: inspect.getattr_static(cls, name) for name in names}), where)
        manager.check_pending()
    except PluginValidationError as error:
        raise ConfigError(_explained(where, names, error)) from error
    unmarked = [n for n in _HOOKS if n not in names and n in vars(cls) and callable(vars(cls)[n])]
    if not set(GROUPS[group]) & set(names):
        expected = " or ".join(GROUPS[group])
        hint = f"; its method {unmarked[0]} is not marked with @hookimpl" if unmarked else ""
        raise ConfigError(f"{where} implements none of the hooks of {group}: expected {expected}{hint}")
    if unmarked:
        raise ConfigError(f"{where}.{unmarked[0]} is not marked with @hookimpl")


def new_manager() -> PluginManager:
    """Return a manager that knows the specifications and no plugin."""
    manager = PluginManager("pointsman")
    manager.add_hookspecs(hookspecs)
    return manager


class _Holder:
    """Hooks as attributes. pluggy compares plugins by value, and two backends may be equal: this one is itself."""

    def __init__(self, hooks: dict[str, Any]) -> None:
        self.__dict__.update(hooks)


def holder(provider: object) -> _Holder:
    """Return what is registered in pluggy in place of `provider`: its bound hooks."""
    return _Holder({name: getattr(provider, name) for name in hooks_of(type(provider))})


def _explained(where: str, names: tuple[str, ...], error: PluginValidationError) -> str:
    for name in names:
        if name not in _HOOKS:
            near = get_close_matches(name, _HOOKS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the hooks are {', '.join(_HOOKS)}"
            return f"{where}.{name} is marked with @hookimpl, but there is no such hook{hint}"
        allowed = ["self", *inspect.signature(getattr(hookspecs, name)).parameters]
        taken = list(inspect.signature(getattr(error.plugin, name)).parameters)
        if not set(taken) <= set(allowed):
            return f"{where}.{name} takes ({', '.join(taken)}), expected ({', '.join(allowed)})"
    return f"{where}: {' '.join(str(error).split())}"
