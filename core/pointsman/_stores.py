"""Configured stores: how they are registered, who of them can be asked, and what they are asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field

from ._breaker import Breaker
from ._configured import Configured
from ._discovery import STORES, Catalogue
from ._gate import Gate
from ._health import Monitor
from ._registry import Registry, listed
from ._sources import Held, Replayed
from .content import Collected, Entry, Finding, Stored
from .errors import ConfigError, UnavailableError
from .scope import Scope

#: Priorities of installed stores: this machine's own come first.
_HERE, _ELSEWHERE = 10.0, 50.0
#: What changes something in a store.
_WRITING = {"store", "import_car", "mend", "pin", "unpin", "collect"}


@define(eq=False, kw_only=True)
class StoreBackend(Configured):
    """One configured store with an id: what a `Store` chooses between.

    :raises ConfigError: the store does not fit, or an argument is wrong.
    """

    GROUP, NOUN = STORES, "store"

    @property
    def read_only(self) -> str:
        """Why nothing can be kept there, "" if it can."""
        return str(self._declared("read_only", ""))

    @property
    def folder(self) -> Path | None:
        """The folder of this machine in which it keeps content: what its plugin has as `path`; None if it has none."""
        path = self._declared("path", None)
        return path if isinstance(path, Path) else None

    @property
    def writable(self) -> bool:
        """Whether anything can be kept there now."""
        return not self.read_only


@define(eq=False)
class Task:
    """One thing that a store is asked: a hook and its arguments. It belongs to the thread that runs it."""

    hook: str
    arguments: dict[str, Any] = field(repr=False)
    scope: Scope = field(factory=Scope, repr=False)
    backend: str | None = None  #: the id of the only store that may be asked
    max_retries: int | None = None  #: as a `Policy` has it
    reads: Held | Replayed | None = field(default=None, repr=False)  #: what each store reads from the start
    model: ClassVar[None] = None


class Stores(Registry[StoreBackend]):
    """Every store and middleware of one `Store`, in pluggy."""

    WHOLE: ClassVar = {"store": Stored, "resolve": str, "has": bool, "collect": Collected}
    PIECES: ClassVar = {"fetch": bytes, "export_car": bytes, "entries": Entry, "verify": Finding}
    HOOKS = (*WHOLE, *PIECES, "extract", "import_car", "mend", "pin", "unpin", "health")
    closed = False  #: whether nobody is asked any more: a plugin would open again what nobody closes

    def can(self, backend: StoreBackend, hook: str) -> bool:
        """Whether a store has a hook."""
        return self._callers[backend.id, hook] is not None

    def ask(self, backend: StoreBackend, task: Task) -> Any:
        """Call a hook of one store, through every middleware; what comes in pieces comes as an iterator."""
        if self.closed:
            raise UnavailableError("the store was closed meanwhile", retry_same=False, try_next=False)
        caller: Callable[..., Any] | None = self._callers[backend.id, task.hook]
        assert caller is not None  # noqa: S101 - the gate has seen to that
        if task.scope.deadline < inf:
            task.scope.part = task.scope.remaining() if backend.timeout is None else 0.0  # its own is for all of it
        if task.reads is not None:
            task.reads.restart()
        found = caller(**task.arguments, scope=task.scope)
        if task.hook in self.PIECES:
            return self._pieces(found, task.hook, STORES, backend.type)
        kind = self.WHOLE.get(task.hook, object)
        return found if found.__class__ is kind else self._expect(kind, found, task.hook, STORES, backend.type)


class StoreGate(Gate[StoreBackend]):
    """Lets through the stores that can be asked for something."""

    def __init__(self, backends: Sequence[StoreBackend], monitor: Monitor, breaker: Breaker, registry: Stores) -> None:
        super().__init__(backends, monitor, breaker)
        self._registry = registry

    def never(self, backend: StoreBackend, task: Task) -> str:
        """Return why a store cannot do this at all ("" if it can)."""
        return self._never(backend, task, None)

    def _never(self, backend: StoreBackend, request: Task, needs: Any) -> str:
        if why := super()._never(backend, request, needs):
            return why
        if request.hook in _WRITING and (why := backend.read_only):
            return why
        return "" if self._registry.can(backend, request.hook) else f"its plugin has no hook {request.hook}"


def stores_of(given: Iterable[object] | Mapping[str, object] | None, catalogue: Catalogue) -> list[StoreBackend]:
    """Return stores of what a caller gave; without that, one for each installed plugin that needs no options.

    :raises ConfigError: something is no store.
    """
    if given is not None:
        return listed(given, StoreBackend, "stores", "a StoreBackend or a store; Store.from_config")
    made = []
    for name, store in catalogue.built(STORES):
        priority = _HERE if getattr(store, "local", False) else _ELSEWHERE
        wrong = str(store) if isinstance(store, ConfigError) else ""
        made.append(StoreBackend(None if wrong else store, type=name, priority=priority, missing=wrong))
    return made


def check_folders(stores: Iterable[StoreBackend]) -> None:
    """See that each store has a folder of its own: two of one folder are one copy.

    :raises ConfigError: two have the same, by whatever path.
    """
    folders = dict[str, str]()
    for one in stores:
        if one.folder is not None and (other := folders.setdefault(os.path.realpath(one.folder), one.id)) != one.id:
            raise ConfigError(f"stores {other!r} and {one.id!r}: found one folder, {one.folder}; give each its own")


def outbox_path(stores: Iterable[StoreBackend], named: str | os.PathLike[str] | None) -> Path:
    """Return where the outbox is; if nobody says, beside the content of the first store that has a path to write to.

    :raises ConfigError: there is none, and the user has no home.
    """
    beside = (one.folder / "outbox.sqlite" for one in stores if one.folder is not None and one.writable)
    if (found := named or next(beside, None)) is not None:
        return Path(os.path.expanduser(found)).absolute()
    try:
        return Path.home() / ".local" / "share" / "pointsman" / "outbox.sqlite"
    except RuntimeError:
        raise ConfigError("no store has a folder, and no home: set HOME or POINTSMAN_STORE, or give outbox=") from None
