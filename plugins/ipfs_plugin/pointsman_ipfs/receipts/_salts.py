"""Salts of the digests in receipts."""

from __future__ import annotations

from os import urandom

from pointsman.forks import Shared

_BYTES, _MANY = 16, 256


class Salts(Shared):
    """Random salts, none of them twice. Thread-safe; a forked child gets others than its parent.

    Many are asked of the system at once: for each single one, the interpreter's lock would be let go, in every call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        self._left: list[bytes] = []

    def next(self) -> bytes:
        """Return 16 random bytes."""
        while True:
            try:
                return self._left.pop()
            except IndexError:
                some = urandom(_BYTES * _MANY)
                self._left += [some[at : at + _BYTES] for at in range(0, len(some), _BYTES)]
