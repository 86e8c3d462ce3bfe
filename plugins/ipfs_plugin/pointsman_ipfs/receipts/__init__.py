"""Receipts: a signed, chained record of every answer of a router. `pointsman_ipfs.proof` verifies it."""

from .receipts import Receipts, matches

__all__ = ["Receipts", "matches"]
