"""The other name of `backends.openai`, which older programs import."""

from .openai import OpenAIBackend

__all__ = ["OpenAIBackend"]
