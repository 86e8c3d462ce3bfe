"""Which models can serve a request, and why the others cannot."""

from __future__ import annotations

from attrs import frozen

from ._backends import Backend
from ._gate import Gate
from .errors import InvalidRequestError
from .values import OPTIONAL, Capability, Request


@frozen
class Place:
    """What the router would do with one backend: its place in the order, or why it is left out."""

    backend: Backend
    position: int | None  #: 1 is asked first; `None` means left out
    reason: str


class ModelGate(Gate[Backend]):
    """Lets through the backends whose models can serve a request."""

    def _needs(self, request: Request) -> frozenset[Capability]:
        return request.needs

    def _model(self, backend: Backend, request: Request) -> str | None:
        return backend.model_for(request)

    def _never(self, backend: Backend, request: Request, needs: frozenset[Capability]) -> str:
        if why := super()._never(backend, request, needs):
            return why
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
