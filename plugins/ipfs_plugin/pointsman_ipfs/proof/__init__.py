"""Proof: receipts and records of evidence, recomputed by anyone who has them. Nothing that they say is believed."""

from .verify import Check, verify

__all__ = ["Check", "verify"]
