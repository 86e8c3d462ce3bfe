"""Pointsman stores that keep bytes under IPFS content identifiers."""

from .blocks import Blocks

__all__ = ["Blocks"]
