"""The complaint generator's mediator: keeps evidence so that it can be proven later, and asks backends about it.

Every name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mediator import Mediator as Mediator
    from .state import EvidenceState as EvidenceState
    from .state import State as State

_MODULE_OF = {"EvidenceState": "state", "Mediator": "mediator", "State": "state"}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mediator' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
