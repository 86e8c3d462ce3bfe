"""The complaint generator's backends, each a thin layer over a `pointsman.Router`.

Every name is loaded when it is first used; no provider plugin is imported before a backend of its
kind is made.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._configuration import load as load
    from .claude import ClaudeBackend as ClaudeBackend
    from .codex import CodexBackend as CodexBackend
    from .copilot import CopilotBackend as CopilotBackend
    from .gemini import GeminiBackend as GeminiBackend
    from .huggingface import HuggingFaceBackend as HuggingFaceBackend
    from .llm_router_backend import LLMRouter as LLMRouter
    from .llm_router_backend import LLMRouterBackend as LLMRouterBackend
    from .openai import OpenAIBackend as OpenAIBackend
    from .openrouter import OpenRouterBackend as OpenRouterBackend
    from .text_backend import TextBackend as TextBackend
    from .workstation import WorkstationBackend as WorkstationBackend

_MODULE_OF = {
    "ClaudeBackend": "claude",
    "CodexBackend": "codex",
    "CopilotBackend": "copilot",
    "GeminiBackend": "gemini",
    "HuggingFaceBackend": "huggingface",
    "LLMRouter": "llm_router_backend",
    "LLMRouterBackend": "llm_router_backend",
    "OpenAIBackend": "openai",
    "OpenRouterBackend": "openrouter",
    "TextBackend": "text_backend",
    "WorkstationBackend": "workstation",
    "load": "_configuration",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'backends' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
