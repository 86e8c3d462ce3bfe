"""Pointsman stores that keep bytes under IPFS content identifiers."""

from .blocks import Blocks
from .gateway import Gateway
from .kubo import Kubo

__all__ = ["Blocks", "Gateway", "Kubo"]
