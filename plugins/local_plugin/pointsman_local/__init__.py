"""Answers with a GGUF model in this machine's memory: llama.cpp in a child process.

`Local` is loaded when it is first used: the child process imports this package too, and needs
only the few modules that run there.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .provider import Local as Local

__all__ = ["Local"]


def __getattr__(name: str) -> Any:
    """Load the provider (PEP 562)."""
    if name != "Local":
        raise AttributeError(f"module 'pointsman_local' has no attribute {name!r}")
    from .provider import Local

    return Local
