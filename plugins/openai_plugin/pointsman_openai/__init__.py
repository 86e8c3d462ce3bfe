"""Pointsman provider for OpenAI and every server that speaks its API."""

from .provider import OpenAI as OpenAI

__all__ = ["OpenAI"]
