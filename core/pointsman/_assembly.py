"""Backends that nobody builds by hand: from a configuration, or from what is installed."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from . import _log
from ._backends import Backend
from ._discovery import PROVIDERS, Catalogue
from .config import BackendSettings, Source, build, load
from .errors import AuthenticationError, ConfigError
from .hookspecs import hookimpl
from .secret import redact
from .values import Completion, Request

#: Places of the backends that nobody configured: other people's machines, this one, the demonstration model.
_REMOTE, _LOCAL, _DEMONSTRATION = 100, 200, 1000

#: Settings of the configuration format that this version checks but does not act on: the log says so.
_LATER = {"min_rate", "on_break", "on_limit", "rate_limit_storage"}
_LATER |= {"rate_limit", "rate_limit_window", "tokens_per_minute", "max_concurrency"}


@frozen
class _Absent:
    """Stands where a provider cannot be built: it is switched off, a variable is not set, or its plugin is unfit."""

    why: str

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Say why it cannot answer."""
        raise AuthenticationError(self.why)


def installed(catalogue: Catalogue) -> list[Backend]:
    """Return a backend for each installed provider that can be built without options."""
    made = []
    for name in catalogue.names(PROVIDERS):
        try:
            provider = catalogue.load(PROVIDERS, name)()
        except (ConfigError, TypeError, ValueError):
            continue  # quarantined and reported, or it needs options that only a configuration can give
        except (Exception, SystemExit) as error:
            catalogue.quarantine(PROVIDERS, name, f"it cannot be built: {type(error).__name__}: {redact(str(error))}")
            continue
        local = _LOCAL if getattr(provider, "local", False) else _REMOTE
        priority = _DEMONSTRATION if getattr(provider, "demonstration", False) else local
        made.append(Backend(provider, type=name, priority=priority))
    return made


def configured(source: Source) -> dict[str, Any]:
    """Return the arguments of `Router` that a configuration describes.

    :raises ConfigError: with every problem, each with its path.
    """
    catalogue = Catalogue()
    settings = load(source, catalogue=catalogue)
    backends: list[Backend] = []
    problems: list[str] = []
    for one in settings.backends:
        try:
            backends.append(_backend(one, catalogue))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    given = settings.router.given()
    unenforced = {f"ROUTER.{name}" for name in given.keys() & _LATER}
    unenforced |= {
        f"{s.path}.{name}" for s in settings.backends for name in _LATER if getattr(s, name, None) is not None
    }
    for name in sorted(unenforced):
        _log.warning("setting is read but not enforced by this version", setting=name)
    kept = {name: value for name, value in given.items() if name not in _LATER}
    return {"backends": backends, "_catalogue": catalogue, **kept}


def _backend(settings: BackendSettings, catalogue: Catalogue) -> Backend:
    missing = settings.reason
    if not missing and settings.enabled:
        try:
            cls = catalogue.load(PROVIDERS, settings.type)
        except ConfigError as error:  # a plugin that is unfit, or not there, costs its own backend only
            there = any(one.name == settings.type for one in catalogue.infos())
            missing = str(error) if there else f"its plugin is not installed: pip install pointsman-{settings.type}"
    if missing or not settings.enabled:
        provider: object = _Absent(missing or "disabled")
    else:
        provider = build(cls, settings.options, settings.path)
    return Backend(
        provider,
        id=settings.id,
        type=settings.type,
        priority=settings.priority,
        weight=settings.weight,
        model=settings.model,
        enabled=settings.enabled,
        timeout=settings.timeout,
        max_retries=settings.max_retries,
        defaults=settings.defaults,
        prices=settings.prices,
        verbose=settings.verbose,
        missing=missing,
    )
