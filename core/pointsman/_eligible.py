"""Who can serve a request, and why the others cannot."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import frozen

from ._backends import Backend
from ._breaker import Breaker, Pause
from ._health import Monitor
from ._structure import nearest
from .errors import ConfigError, InvalidRequestError
from .values import OPTIONAL, Capability, Request


@frozen
class Place:
    """What the router would do with one backend: its place in the order, or why it is left out."""

    backend: Backend
    position: int | None  #: 1 is asked first; `None` means left out
    reason: str


class Gate:
    """Lets through the backends that can serve a request."""

    def __init__(self, backends: Sequence[Backend], monitor: Monitor, breaker: Breaker) -> None:
        self._backends = backends
        self._monitor = monitor
        self._breaker = breaker

    def sorted_out(self, request: Request) -> tuple[list[Backend], list[Backend]]:
        """Return those that may be asked, in the order of the configuration, and a reserve.

        The reserve are those against whom only a guess or an old finding of ours stands: unwell, or
        in a short cool-down. They are asked rather than none, the least pause first.
        """
        needs, all_well = request.needs, self._monitor.silent and self._breaker.silent
        able, unwell = [], []
        for backend in self._backends:
            if self._never(backend, request, needs):
                continue
            if all_well or not self._not_now(backend, request):
                able.append(backend)
            elif self._may_be_wrong(backend, request):
                unwell.append(backend)
        if unwell:
            unwell.sort(key=lambda b: p.left if (p := self._pause(b, request)) else 0.0)
        return able, unwell

    def why_not(self, backend: Backend, request: Request) -> str:
        """Return why this backend is not asked ("" if it is)."""
        return self._never(backend, request, request.needs) or self._not_now(backend, request)

    def _never(self, backend: Backend, request: Request, needs: frozenset[Capability]) -> str:
        """Return why this backend must not serve this request ("" if it may)."""
        if not backend.enabled:
            return "disabled in the configuration"
        if request.backend is not None and request.backend != backend.id:
            return f"the request asks for {request.backend!r} only"
        if backend.missing:
            return f"unconfigured: {backend.missing}"
        if request.local_only and not backend.local:
            return "local_only: it sends requests off this machine"
        if needs and not needs <= backend.capabilities:
            lacking = needs - backend.capabilities
            lacking &= request.without(*(lacking & request.droppable)).needs
            if lacking:
                return f"not capable of {', '.join(sorted(lacking))}"
        if untaken := backend.picky and self.untaken(backend, request):
            return f"its model {backend.model_for(request)!r} does not take {', '.join(untaken)}"
        return ""

    def left_out(self, request: Request, tried: Collection[str | None]) -> str:
        """Say which backends, but for those that were tried, are not asked, and why ("" if all of them are)."""
        others = (one for one in self._backends if one.enabled and one.id not in tried)
        asked = (one for one in others if request.backend in (None, one.id))
        reasons = [f"{one.id}: {why}" for one in asked if (why := self.why_not(one, request))]
        return f"not asked: {'; '.join(reasons)}" if reasons else ""

    def untaken(self, backend: Backend, request: Request) -> list[str]:
        """Return the options for whose sake this backend cannot serve the request, whichever model it will be asked."""
        models = {backend.model_for(request, first=first) for first in (True, False)}
        found = (backend.untaken(request.changed({"model": model})) - request.droppable for model in models)
        return min((sorted(names) for names in found), key=len)

    def refusal(self, backend: Backend, request: Request) -> InvalidRequestError | None:
        """Return why this backend cannot serve the request, if an option of it is the reason, and who could."""
        why, needs = self._never(backend, request, request.needs), request.needs - backend.capabilities
        names = self.untaken(backend, request) or sorted(needs)
        if not names or not why.startswith(("its model", "not capable")):
            return None
        free = request.changed({"backend": None})
        able = [one.id for one in self._backends if not self._never(one, free, free.needs)]
        hint = f"{', '.join(able)} could serve it" if able else "no other backend could serve it"
        if OPTIONAL.issuperset(names) and not self._never(backend, request.changed({"drop_unsupported": True}), needs):
            hint += "; drop_unsupported=True leaves it out"
        return InvalidRequestError(f"{why}; {hint}", parameter=names[0], try_next=True)

    def _not_now(self, backend: Backend, request: Request) -> str:
        """Return why this backend had better not be asked now ("" if it may)."""
        health, pause = self._monitor.known(backend), self._pause(backend, request)
        if health is not None and not health.usable and (pause is None or health.status == "unconfigured"):
            return f"{health.status}: {health.reason}"
        return str(pause or "")  # it says until when

    def _may_be_wrong(self, backend: Backend, request: Request) -> bool:
        """Say whether what stands against the backend now is only a guess or an old finding of ours."""
        health, pause = self._monitor.known(backend), self._pause(backend, request)
        return (health is None or health.status != "unconfigured") and (pause is None or pause.soft)

    def _pause(self, backend: Backend, request: Request) -> Pause | None:
        return self._breaker.pause(backend.id, backend.model_for(request))

    def check_named(self, request: Request) -> None:
        """See that the backend which the request names exists.

        :raises ConfigError: it does not, with the nearest id.
        """
        ids = [backend.id for backend in self._backends]
        if request.backend is not None and request.backend not in ids:
            raise ConfigError(f"no backend {request.backend!r}; {nearest(repr(request.backend), map(repr, ids))}")
