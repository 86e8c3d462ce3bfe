"""Pointsman stores that keep bytes under IPFS content identifiers."""
