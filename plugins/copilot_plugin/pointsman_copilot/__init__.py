"""Pointsman provider for the command-line program Copilot, as a generator of text."""

from .provider import Copilot as Copilot

__all__ = ["Copilot"]
