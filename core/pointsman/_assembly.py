"""Backends without a person naming each: from a configuration, or from what is installed."""

from __future__ import annotations

from typing import Any

from ._backends import Backend
from ._discovery import PROVIDERS, Catalogue
from .errors import ConfigError

#: Places of the backends that nobody configured: other people's machines, this one, the demonstration model.
_REMOTE, _LOCAL, _DEMONSTRATION = 100, 200, 1000


def installed(catalogue: Catalogue) -> list[Backend]:
    """Return a backend for each installed provider that can be built without options."""
    made = []
    for name in catalogue.names(PROVIDERS):
        try:
            provider = catalogue.load(PROVIDERS, name)()
        except (ConfigError, TypeError, ValueError):
            continue  # quarantined and reported, or it needs options that only a configuration can give
        local = _LOCAL if getattr(provider, "local", False) else _REMOTE
        priority = _DEMONSTRATION if getattr(provider, "demonstration", False) else local
        made.append(Backend(provider, type=name, priority=priority))
    return made


def configured(source: Any) -> dict[str, Any]:
    """Return the arguments of `Router` that the configuration describes."""
    raise ConfigError("...")
