"""Pointsman stores that keep bytes under IPFS content identifiers, and receipts of what was asked and answered."""

from .embedded.blocks import Blocks
from .node.gateway import Gateway
from .node.kubo import Kubo, usual_node
from .receipts.receipts import Receipts

__all__ = ["Blocks", "Gateway", "Kubo", "Receipts", "usual_node"]
