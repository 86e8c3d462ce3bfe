"""Entry points, turned into classes and commands, or quarantined with the reason.

Listing costs no import. A class is loaded when a configuration names it, and then looked at: a
plugin that does not fit is reported by name, distribution, version and cause, and all others work.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from attrs import evolve, field, frozen, has
from pluggy import PluginManager

from . import _log, hookspecs
from ._entries import COMMANDS, entries_of
from ._structure import nearest
from .errors import ConfigError
from .secret import words_of

#: group -> hooks of which a plugin needs at least one
GROUPS = {
    "pointsman.providers": ("generate", "stream"),
    "pointsman.stores": ("store", "fetch"),
    "pointsman.orders": ("order",),
    "pointsman.middleware": ("generate", "stream", "store", "fetch", "answered", "receipt"),
}
PROVIDERS, STORES, ORDERS, MIDDLEWARE = GROUPS
#: group -> hooks that its plugins may have: a method of such a name is meant to be one
_MEANT = {
    PROVIDERS: ("generate", "stream", "health", "list_models", "close"),
    STORES: (
        *("store", "fetch", "has", "entries", "extract", "export_car", "import_car", "mend"),
        *("pin", "unpin", "collect"),
        *("verify", "health", "close"),
    ),
    ORDERS: GROUPS[ORDERS],
    MIDDLEWARE: (*GROUPS[MIDDLEWARE], "close"),
}
#: hook -> what an implementation may take
_HOOKS = {
    name: ["self", *inspect.signature(spec).parameters]
    for name, spec in vars(hookspecs).items()
    if hasattr(spec, "pointsman_spec")
}


@frozen
class PluginInfo:
    """One installed plugin: where it comes from, and whether it is fit for use."""

    name: str
    group: str
    distribution: str
    version: str
    status: Literal["available", "loaded", "quarantined"] = "available"
    cause: str = ""  #: why it is quarantined
    _entry: Any = field(default=None, repr=False, eq=False)


class Catalogue:
    """The plugins that are installed in this environment, as seen when it is made. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._plugins: dict[tuple[str, str], PluginInfo] = {}
        self._rivals: list[PluginInfo] = []
        installed = entries_of((*GROUPS, COMMANDS))
        infos = (PluginInfo(entry.name, entry.group, name, version, entry=entry) for entry, name, version in installed)
        for info in sorted(infos, key=_precedence):
            first = self._plugins.setdefault((info.group, info.name), info)
            if first is not info:
                owner = f"{first.distribution} {first.version}"
                self._rivals.append(_unfit(info, f"the name {info.name!r} belongs to {owner}; uninstall one of them"))

    def names(self, group: str) -> tuple[str, ...]:
        """Return the names of a group's plugins that are not quarantined."""
        return tuple(i.name for i in self._plugins.values() if i.group == group and i.status != "quarantined")

    def infos(self) -> tuple[PluginInfo, ...]:
        """Return all plugins by group and name, the quarantined ones too."""
        return tuple(sorted([*self._plugins.values(), *self._rivals], key=lambda i: (i.group, i.name, i.distribution)))

    def load(self, group: str, name: str) -> Any:
        """Import the plugin's class, or command, and look whether it fits.

        :raises ConfigError: there is none of that name, or it is unfit; it is then quarantined.
        """
        with self._lock:
            info = self._plugins.get((group, name))
            if info is None:
                raise ConfigError(f"no plugin {name!r} in {group}; {nearest(repr(name), map(repr, self.names(group)))}")
            if info.status != "quarantined":
                try:
                    found = info._entry.load()
                    _check(found, info)
                except (KeyboardInterrupt, MemoryError):
                    raise
                except BaseException as error:  # even SystemExit: a broken plugin is a reported fact, never a crash
                    self._plugins[group, name] = info = _unfit(info, cause(error))
                else:
                    self._plugins[group, name] = evolve(info, status="loaded")
                    return found
            raise ConfigError(f"plugin {name!r} ({info.distribution} {info.version}) is unfit: {info.cause}")

    def built(self, group: str) -> Iterator[tuple[str, Any]]:
        """Yield a plugin of each class of a group that can be built without options, with its name.

        Of a store that refuses what the environment says (a variable with a wrong address), it yields the error.
        """
        for name in self.names(group):
            try:
                made = self.load(group, name)()
            except (ConfigError, TypeError, ValueError) as error:
                if (group, type(error), self._plugins[group, name].status) != (STORES, ConfigError, "loaded"):
                    continue  # quarantined and reported, or it needs options that only a configuration can give
                made = error
            except (Exception, SystemExit) as error:
                self.quarantine(group, name, f"it cannot be built: {cause(error)}")
                continue
            yield name, made

    def quarantine(self, group: str, name: str, cause: str) -> None:
        """Report a plugin as unfit. One that was not loaded here did nothing: something else has its name."""
        with self._lock:
            info = self._plugins.get((group, name))
            if info is not None and info.status == "loaded":
                self._plugins[group, name] = _unfit(info, cause)


def _unfit(info: PluginInfo, cause: str) -> PluginInfo:
    """Return a plugin as quarantined, and write one line into the log."""
    who = {"plugin": info.name, "group": info.group, "distribution": info.distribution, "version": info.version}
    _log.warning("plugin quarantined", **who, cause=cause)
    return evolve(info, status="quarantined", cause=cause)


def _precedence(info: PluginInfo) -> tuple[bool, str]:
    """The distribution that is called after the plugin owns its name; others come by the alphabet."""
    distribution = info.distribution.replace("_", "-").lower()
    return distribution not in ("pointsman", f"pointsman-{info.name.replace('_', '-')}"), distribution


def cause(error: BaseException) -> str:
    """Say why a plugin cannot be used, without any key."""
    kind, words = type(error).__name__, words_of(error)
    return words if isinstance(error, ConfigError) else f"{kind}: {words}".removesuffix(": ")


def hooks_of(cls: type[Any]) -> dict[str, Any]:
    """Return the methods that `cls` marks with `@hookimpl`, by name."""
    methods = {name: inspect.getattr_static(cls, name, None) for name in dir(cls)}
    return {name: method for name, method in methods.items() if hasattr(method, "pointsman_impl")}


def _check(found: Any, info: PluginInfo) -> None:
    if info.group != COMMANDS:
        check(found, info.group)
    else:
        from .cli._added import check_command

        check_command(info.name, found)


def check(cls: Any, group: str) -> None:
    """See whether `cls` can be a plugin of `group`.

    :raises ConfigError: it is no attrs class, lacks a hook, or has one misspelled or wrongly signed.
    """
    if not isinstance(cls, type):
        raise ConfigError(f"the entry point gives a {type(cls).__name__}, expected a class")
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not has(cls):
        raise ConfigError(f"{where} is not an attrs class; decorate it with @attrs.frozen")
    hooks = hooks_of(cls)
    for name, method in hooks.items():
        _check_hook(f"{where}.{name}", name, method, group)
    for name in _MEANT[group]:
        if name not in hooks and callable(vars(cls).get(name)):
            raise ConfigError(f"{where}.{name} is not marked with @hookimpl")
    if not hooks.keys() & set(GROUPS[group]):
        raise ConfigError(f"{where} implements none of the hooks of {group}: expected {' or '.join(GROUPS[group])}")


def _check_hook(where: str, name: str, method: Any, group: str) -> None:
    if name not in _HOOKS:
        raise ConfigError(f"{where} is marked with @hookimpl, but there is no such hook; {nearest(name, _HOOKS)}")
    wraps = method.pointsman_impl["wrapper"] or method.pointsman_impl["hookwrapper"]
    if wraps and group != MIDDLEWARE:
        raise ConfigError(f"{where} is a wrapper; only a middleware wraps")
    if method.pointsman_impl["hookwrapper"]:  # what it returns cannot be looked at
        raise ConfigError(f"{where} is a wrapper of pluggy's old form; write @hookimpl(wrapper=True)")
    if wraps and not inspect.isgeneratorfunction(method):
        raise ConfigError(f"{where} is a wrapper without a yield; its yield gives what it wraps")
    parameters = inspect.signature(method).parameters.values()
    taken = [one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if not set(taken) <= set(_HOOKS[name]):
        raise ConfigError(f"{where} takes ({', '.join(taken)}), expected ({', '.join(_HOOKS[name])})")


def new_manager() -> PluginManager:
    """Return a manager that knows the specifications and no plugin."""
    manager = PluginManager("pointsman")
    manager.add_hookspecs(hookspecs)
    return manager


class Holder:
    """The bound hooks of a plugin, for pluggy: that compares plugins by value, and two backends may be equal."""

    def __init__(self, plugin: object) -> None:
        self.__dict__.update({name: getattr(plugin, name) for name in hooks_of(type(plugin))})


def plugin_of(catalogue: Catalogue, group: str, one: str | object) -> Any:
    """Return the plugin that is named, built; or the one that was given.

    :raises ConfigError: there is none of that name, or it does not fit.
    """
    if isinstance(one, str):
        return catalogue.load(group, one)()
    check(type(one), group)
    return one


def wrappers_of(catalogue: Catalogue, named: Iterable[str | object], where: str) -> list[tuple[str, object]]:
    """Return the middleware that is named or given, each with its name.

    :raises ConfigError: as `plugin_of`.
    """
    if isinstance(named, str):
        raise ConfigError(f"{where}.middleware: found text, expected a list of names or plugins")
    return [(name_of(one), plugin_of(catalogue, MIDDLEWARE, one)) for one in named]


def receipts_class(catalogue: Catalogue) -> Any:
    """Return the class of the plugin that keeps receipts.

    :raises ConfigError: it is not installed, or unfit.
    """
    if not any((info.group, info.name) == (MIDDLEWARE, "receipts") for info in catalogue.infos()):
        raise ConfigError("receipts need a plugin that is not installed: pip install pointsman-ipfs")
    return catalogue.load(MIDDLEWARE, "receipts")


def name_of(plugin: str | object) -> str:
    """Return what a plugin is called in messages."""
    return plugin if isinstance(plugin, str) else type(plugin).__name__
