"""Pointsman sends a language-model request to the right provider and gets a whole answer back.

Every public name is loaded when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._backends import Backend as Backend
    from ._discovery import PluginInfo as PluginInfo
    from ._eligible import Place as Place
    from .errors import AllBackendsFailed as AllBackendsFailed
    from .errors import AuthenticationError as AuthenticationError
    from .errors import BackendError as BackendError
    from .errors import BackendTimeout as BackendTimeout
    from .errors import ConfigError as ConfigError
    from .errors import ContentFilterError as ContentFilterError
    from .errors import ContextLengthError as ContextLengthError
    from .errors import IncompleteAnswer as IncompleteAnswer
    from .errors import InvalidModelError as InvalidModelError
    from .errors import InvalidRequestError as InvalidRequestError
    from .errors import ModelNotFoundError as ModelNotFoundError
    from .errors import PointsmanError as PointsmanError
    from .errors import QuotaError as QuotaError
    from .errors import RateLimitError as RateLimitError
    from .errors import UnavailableError as UnavailableError
    from .errors import UnusableAnswer as UnusableAnswer
    from .hookspecs import hookimpl as hookimpl
    from .router import Router as Router
    from .router import Stream as Stream
    from .scope import Scope as Scope
    from .secret import Secret as Secret
    from .values import Attempt as Attempt
    from .values import Chunk as Chunk
    from .values import Completion as Completion
    from .values import Health as Health
    from .values import Image as Image
    from .values import Message as Message
    from .values import Options as Options
    from .values import Request as Request
    from .values import Tool as Tool
    from .values import ToolCall as ToolCall
    from .values import Usage as Usage

_WHERE = {
    "errors": (
        "AllBackendsFailed AuthenticationError BackendError BackendTimeout ConfigError ContentFilterError "
        "ContextLengthError IncompleteAnswer InvalidModelError InvalidRequestError ModelNotFoundError "
        "PointsmanError QuotaError RateLimitError UnavailableError UnusableAnswer"
    ),
    "values": "Attempt Chunk Completion Health Image Message Options Request Tool ToolCall Usage",
    "scope": "Scope",
    "hookspecs": "hookimpl",
    "secret": "Secret",
    "router": "Router Stream",
    "_backends": "Backend",
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
