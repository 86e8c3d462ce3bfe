"""Pointsman provider for Hugging Face: its router, its endpoints, and servers of your own."""

from .provider import HuggingFace as HuggingFace

__all__ = ["HuggingFace"]
