"""The Pointsman provider for Anthropic's Claude."""

from .provider import Claude

__all__ = ["Claude"]
