"""Pointsman provider for the command-line program Codex, as a generator of text."""

from .provider import Codex as Codex

__all__ = ["Codex"]
