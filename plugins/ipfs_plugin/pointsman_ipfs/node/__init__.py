"""Stores of other programs: a node of IPFS (Kubo), and gateways."""
