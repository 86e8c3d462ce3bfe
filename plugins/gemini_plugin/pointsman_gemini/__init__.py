"""The Pointsman provider for Google's Gemini."""

from .provider import Gemini

__all__ = ["Gemini"]
