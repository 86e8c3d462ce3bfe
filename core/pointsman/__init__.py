"""Pointsman sends a language-model request to the right provider and gets a whole answer back.

Every public name is loaded when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "errors": (
        "AllBackendsFailed AuthenticationError BackendError BackendTimeout ConfigError ContentFilterError "
        "ContentNotFoundError ContextLengthError IncompleteAnswer InvalidModelError InvalidRequestError "
        "ModelNotFoundError PointsmanError QuotaError RateLimitError UnavailableError UnusableAnswer"
    ),
    "values": "Attempt Chunk Completion Health Image Message ModelInfo Options Request State Tool ToolCall Usage",
    "scope": "Clock Scope",
    "hookspecs": "hookimpl",
    "secret": "Secret",
    "router": "Router Stream",
    "store": "Store",
    "content": "Stored",
    "_stores": "StoreBackend",
    "_backends": "Backend",
    "_pieces": "collect",
    "_discovery": "PluginInfo",
    "_eligible": "Place",
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pointsman' has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name everything public, loaded or not."""
    return [*__all__, "__version__"]
