"""What a router, or a store, chooses between: a configured plugin with an id, and the options that every one has."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import define, field

from . import _log
from ._discovery import check
from ._settings import Name, Retries, Seconds
from ._structure import fields_of, misfits
from .errors import ConfigError
from .values import Usage


@define(eq=False, kw_only=True)
class Configured:
    """One configured plugin with an id.

    :raises ConfigError: the plugin does not fit, or an argument is wrong.
    """

    GROUP: ClassVar[str]  #: of entry points
    NOUN: ClassVar[str] = "backend"  #: what messages call it

    #: an instance of a plugin's class; None only where it is disabled, or `missing` says why there is none
    provider: object = field(kw_only=False, repr=False)
    type: str = ""  #: the name of its plugin; the name of its class by default
    id: Name = ""  #: unique in its router; its type by default
    priority: float = 100.0  #: lower is asked first
    enabled: bool = field(default=True, repr=False)
    #: of one attempt here, as for a call, which has the last word; `None` leaves it to the router
    timeout: Seconds | None = field(default=None, repr=False)
    max_retries: Retries | None = field(default=None, repr=False)
    verbose: bool = field(default=False, repr=False)  #: show every attempt on stderr
    missing: str = field(default="", repr=False)  #: why it cannot be used at all: a variable that is not set, say

    def __attrs_post_init__(self) -> None:
        if self.provider is not None or (self.enabled and not self.missing):
            check(self.provider.__class__, self.GROUP)
        self.type = self.type or self.provider.__class__.__name__.lower()
        self.id = self.id or self.type
        self._complete()
        own = fields_of(type(self))  # type: ignore[arg-type] # mypy takes a class for one of its values
        if problems := [*misfits(own, {name: getattr(self, name) for name in own}), *self._misfits()]:
            raise ConfigError(*(f"{self.NOUN} {self.id!r}: {problem}" for problem in problems))

    def _complete(self) -> None:
        """Take from the plugin what was left open, and see that what it declares is sound."""

    def _misfits(self) -> list[str]:
        """Return what is wrong beyond the types of the fields."""
        return []

    @property
    def local(self) -> bool:
        """Whether nothing that it is asked leaves this machine."""
        return self._declared("local", False) is True

    def cost(self, usage: Usage | None) -> float | None:
        """Return US dollars for `usage`, or `None` if they are unknown."""
        return None if usage is None else usage.cost

    def _declared(self, name: str, default: Any, *of: Any) -> Any:
        try:
            found = getattr(self.provider, name, default)
            return found(*of) if of else found
        except Exception as error:  # the fault of a plugin must not cost the caller the answer of another
            _log.failed(name, error, backend=self.id)
            return default
