"""Pointsman stores that keep bytes under IPFS content identifiers, and receipts of what was asked and answered."""

from .blocks import Blocks
from .receipts import Receipts

__all__ = ["Blocks", "Receipts"]
