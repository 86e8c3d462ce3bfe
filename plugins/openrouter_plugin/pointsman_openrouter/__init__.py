"""Pointsman provider for OpenRouter."""

from .provider import OpenRouter as OpenRouter

__all__ = ["OpenRouter"]
