"""The two orders that come with the core: by priority, and random by weight among equals of priority."""

from __future__ import annotations

import random
from collections.abc import Sequence
from operator import attrgetter

from attrs import field, frozen

from ._backends import Backend
from .hookspecs import hookimpl
from .values import Request

_priority = attrgetter("priority")


@frozen
class Priority:
    """Lowest number first; equals stay in the order of the configuration."""

    @hookimpl
    def order(self, request: Request, backends: Sequence[Backend]) -> Sequence[Backend]:
        """Return the backends sorted by priority."""
        return sorted(backends, key=_priority)


@frozen
class Weighted:
    """Lowest number first; among equals, each comes first as often as its weight says.

    A backend of weight 0 comes after its equals. `seed` makes the choices repeatable.
    """

    seed: int | None = None
    _random: random.Random = field(init=False, repr=False, eq=False)

    @_random.default
    def _seeded(self) -> random.Random:
        return random.Random(self.seed)

    @hookimpl
    def order(self, request: Request, backends: Sequence[Backend]) -> Sequence[Backend]:
        """Return the backends by priority, equals drawn without replacement (Efraimidis and Spirakis, 2006)."""
        draw = self._random.random
        return sorted(backends, key=lambda b: (b.priority, -(draw() ** (1 / b.weight)) if b.weight > 0 else 1.0))
