"""The two orders that come with the core: by priority, and random by weight among equals of priority."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from random import random

from attrs import frozen

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

    A backend of weight 0 comes after its equals.
    """

    @hookimpl
    def order(self, request: Request, backends: Sequence[Backend]) -> Sequence[Backend]:
        """Return the backends by priority, equals drawn without replacement (Efraimidis and Spirakis, 2006)."""
        return sorted(backends, key=lambda b: (b.priority, -(random() ** (1 / b.weight)) if b.weight > 0 else 1.0))
