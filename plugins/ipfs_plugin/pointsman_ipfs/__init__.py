"""Pointsman stores that keep bytes under IPFS content identifiers, and receipts of what was asked and answered."""

from .blocks import Blocks
from .gateway import Gateway
from .kubo import Kubo, usual_node
from .receipts import Receipts

__all__ = ["Blocks", "Gateway", "Kubo", "Receipts", "usual_node"]
