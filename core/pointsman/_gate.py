"""Who may be asked now, and why the others may not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import Any, Generic, TypeVar

from ._attempts import Errand
from ._breaker import Breaker, Pause
from ._configured import Configured
from ._health import Monitor
from ._structure import nearest
from .errors import AuthenticationError, BackendError, ConfigError
from .values import Health

M = TypeVar("M", bound=Configured)


class Gate(Generic[M]):
    """Lets through the backends that can serve a request."""

    def __init__(self, backends: Sequence[M], monitor: Monitor, breaker: Breaker) -> None:
        self._backends = backends
        self._monitor = monitor
        self._breaker = breaker

    def _needs(self, request: Any) -> Any:
        """Return what `_never` looks at for each backend."""

    def _never(self, backend: M, request: Any, needs: Any) -> str:
        """Return why this backend must not serve this request ("" if it may)."""
        if not backend.enabled:
            return "disabled in the configuration"
        if request.backend is not None and request.backend != backend.id:
            return f"the request asks for {request.backend!r} only"
        if backend.missing:
            return f"unconfigured: {backend.missing}"
        return ""

    def _model(self, backend: M, request: Any) -> str | None:
        """Return the model that it would be asked."""
        return None

    def sorted_out(self, request: Errand) -> tuple[list[M], list[M]]:
        """Return those that may be asked, in the order of the configuration, and a reserve.

        The reserve are those against whom only a guess or an old finding of ours stands: unwell, or
        in a short cool-down. They are asked rather than none, the least pause first.
        """
        needs, all_well = self._needs(request), not self._monitor.changes and self._breaker.silent
        able, unwell = [], []
        for backend in self._backends:
            if self._never(backend, request, needs):
                continue
            state = None if all_well else self._state(backend, request)
            if state is None or not _not_now(*state):
                able.append(backend)
            elif _may_be_wrong(*state):
                unwell.append(backend)
        if unwell:
            unwell.sort(key=lambda b: p.left if (p := self._pause(b, request)) else 0.0)
        return able, unwell

    def why_not(self, backend: M, request: Errand) -> str:
        """Return why this backend is not asked ("" if it is)."""
        return self._never(backend, request, self._needs(request)) or _not_now(*self._state(backend, request))

    def left_out(self, request: Errand, tried: Collection[str | None]) -> str:
        """Say which backends, but for those that were tried, are not asked, and why ("" if all of them are)."""
        others = (one for one in self._backends if one.enabled and one.id not in tried)
        asked = (one for one in others if request.backend in (None, one.id))
        reasons = [f"{one.id}: {why}" for one in asked if (why := self.why_not(one, request))]
        return f"not asked: {'; '.join(reasons)}" if reasons else ""

    def remembered(self, backend: M, request: Errand) -> BackendError | None:
        """Return the error that a cool-down, or health, remembers, if that is why this backend is not asked."""
        why, (health, pause) = self.why_not(backend, request), self._state(backend, request)
        if health is not None and health.refused and why == f"{health.status}: {health.reason}":
            return AuthenticationError(why)
        if pause is None or not why.startswith("cool"):
            return None
        error = copy(pause.error)
        error.args, error.retry_after = (why,), pause.left
        return error

    def _state(self, backend: M, request: Errand) -> tuple[Health | None, Pause | None]:
        return self._monitor.known(backend), self._pause(backend, request)

    def _pause(self, backend: M, request: Errand) -> Pause | None:
        return None if self._breaker.silent else self._breaker.pause(backend.id, self._model(backend, request))

    def check_named(self, request: Errand) -> None:
        """See that the backend which the request names exists.

        :raises ConfigError: it does not, with the nearest id.
        """
        if request.backend is None:
            return
        ids = [backend.id for backend in self._backends]
        if request.backend not in ids:
            noun = next((backend.NOUN for backend in self._backends), "backend")
            raise ConfigError(f"no {noun} {request.backend!r}; {nearest(repr(request.backend), map(repr, ids))}")


def _not_now(health: Health | None, pause: Pause | None) -> str:
    """Return why a backend of which that is known had better not be asked now ("" if it may)."""
    if health is not None and not health.usable and (pause is None or health.status == "unconfigured"):
        return f"{health.status}: {health.reason}"
    return str(pause or "")  # it says until when


def _may_be_wrong(health: Health | None, pause: Pause | None) -> bool:
    """Say whether what stands against the backend now is only a guess or an old finding of ours."""
    return (health is None or health.status != "unconfigured") and (pause is None or pause.soft)
