"""How the backends are: cached, refreshed off the path of calls, bounded in time."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from ._configured import Configured
from ._registry import Registry
from .errors import BackendError
from .forks import ForkLock
from .scope import Clock
from .secret import words_of
from .values import Health

#: Seconds that one health hook may take.
LIMIT = 5.0


class Monitor:
    """The health of every backend of one router. Thread-safe.

    :param ttl: seconds for which a finding is good.
    """

    def __init__(self, registry: Registry[Any], ttl: float, clock: Clock) -> None:
        self._registry = registry
        self._ttl = ttl
        self._now = clock.now
        self._lock = ForkLock()
        self._found: dict[str, tuple[Health, float]] = {}
        self._asking: dict[str, threading.Thread] = {}
        self.changes = 0  #: how often anything was found out; 0 while nothing is known

    def known(self, backend: Configured) -> Health | None:
        """Return the last finding without waiting; an old one is looked into in the background."""
        found = self._found.get(backend.id)
        if found is None:
            return None
        if self._now() > found[1]:
            self._ask(backend)
        return found[0]

    def check(self, backends: Iterable[Configured]) -> dict[str, Health]:
        """Return the findings about all, asking side by side those that have none or an old one."""
        backends = tuple(backends)
        deadline = self._now() + LIMIT
        asked = [self._ask(b) for b in backends if b.id not in self._found or self._now() > self._found[b.id][1]]
        for thread in asked:
            thread.join(max(0.0, deadline - self._now()))
        return {b.id: self._found[b.id][0] if b.id in self._found else self._hung(b) for b in backends}

    def well(self, backend: Configured) -> None:
        """An answer has shown that the backend is well."""
        found = self._found.get(backend.id)
        if found is not None and not found[0].usable:
            self._note(backend, Health.ok())

    def _ask(self, backend: Configured) -> threading.Thread:
        """Start looking, unless somebody already does."""
        with self._lock.held:
            thread = self._asking.get(backend.id)
            if thread is None or not thread.is_alive():
                thread = threading.Thread(None, self._look, f"health of {backend.id}", (backend,), daemon=True)
                self._asking[backend.id] = thread
                thread.start()
            return thread

    def _look(self, backend: Configured) -> None:
        if backend.missing:
            self._note(backend, Health.unconfigured(backend.missing))
            return
        try:
            health = self._registry.health(backend)
        except BackendError as error:
            health = Health.unavailable(error.message)
        except BaseException as error:  # nobody else hears what is raised in this thread
            health = Health.unavailable(f"health raised {type(error).__name__}: {words_of(error)}")
        self._note(backend, health)

    def _hung(self, backend: Configured) -> Health:
        slow = Health.unavailable(f"health did not answer within {LIMIT:g} s: the plugin or its service hangs")
        self._registry.report(backend, slow.reason)
        return self._note(backend, slow)

    def _note(self, backend: Configured, health: Health) -> Health:
        self._found[backend.id] = (health, self._now() + self._ttl)
        self.changes += 1
        return health
