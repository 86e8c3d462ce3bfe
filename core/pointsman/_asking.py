"""What is peculiar to asking language models, within the loop of `_attempts`.

Another model, an option that a model does not take, tokens, the rest of a broken answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from . import _log
from ._attempts import Answered, Call, Shared
from ._backends import Backend
from .errors import BackendError, ContentFilterError, ContextLengthError, ModelNotFoundError
from .values import OPTIONAL, Message, Request

if TYPE_CHECKING:
    from ._limits import Limiter

T = TypeVar("T")
Got: TypeAlias = Answered[Backend, T]

_SORTED = sorted(OPTIONAL)
#: What an answer is reckoned at, in tokens, where the request sets no limit; and characters of a token.
_ANSWER_TOKENS, _TOKEN_CHARS = 500, 4


class Asking(Call[Backend, T]):
    """A request to a model on its way. Not thread-safe: it belongs to the thread that runs it.

    :param substitute: whether a backend that lacks the model that the request names is asked its own.
    """

    request: Request
    _whole: Request

    def __init__(
        self,
        request: Request,
        shared: Shared,
        ask: Callable[[Backend, Request], T],
        *,
        streamed: bool,
        substitute: bool,
    ) -> None:
        super().__init__(request, shared, ask, streamed=streamed)
        self.warnings: list[str] = []
        self._substitute = substitute
        self._told_of: set[tuple[str, str]] = set()

    def resume(self, text: str = "") -> Got[T]:
        """Do as `go_on`, after an answer that broke; with `text`, only its rest is asked for, where that can be."""
        asked = self.request = self._whole
        if text:
            self._keep(lambda b: "continuation" in b.capabilities)
            rest = asked.max_tokens and max(1, asked.max_tokens - len(text) // _TOKEN_CHARS)
            messages = (*asked.messages, Message("assistant", text))
            self.request = asked.changed({"messages": messages, "max_tokens": rest})
        return self.go_on()

    def _model(self, backend: Backend) -> str | None:
        return backend.model_for(self.request, first=self._first(backend))

    def _first(self, backend: Backend) -> bool:
        return not self._errors or self._errors[0].backend == backend.id

    def _fitted(self, backend: Backend) -> Request:
        """Return the request as this backend is asked it; warn of what the caller set and its model does not take."""
        request = backend.fitted(self.request, first=self._first(backend))
        if request is not self.request and (backend.picky or request.drop_unsupported):
            for name in _SORTED:
                if self.request.has(name) and not request.has(name):
                    self._dropped(backend, name, f"model {request.model!r} does not take {name}; sent without it")
        return request

    def _dropped(self, backend: Backend, name: str, text: str) -> None:
        """Warn, once in a call, that a backend is asked without something."""
        if (backend.id, name) not in self._told_of:
            self._told_of.add((backend.id, name))
            self._warn(f"{backend.id}: {text}")

    def _adapted(self, backend: Backend, request: Request, error: BackendError) -> bool:
        """Say whether the backend has learnt to be asked otherwise, at once, and warn the caller of the difference."""
        model = request.model
        if name := backend.refuse(error.parameter, request):
            self._dropped(backend, name, f"model {model!r} refuses {name}; sent without it, now and from here on")
        elif self._substitute and isinstance(error, ModelNotFoundError) and backend.lack(model, self.request):
            text = f"it has no model {model!r}; asked its own, {backend.model!r}, now and from here on"
            self._dropped(backend, "model", text)
        elif error.parameter == "state" and any(message.state for message in request.messages):
            self.request = self.request.without_state()
            self._dropped(backend, "state", f"model {model!r} cannot read its own thoughts any more; sent without them")
        else:
            return False
        return not self.request.scope.cancelled

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        _log.warning(text)

    def _tokens(self, limiter: Limiter, backend: Backend) -> int:
        """Return what this request is reckoned to cost, in tokens, before anybody knows; 0 if nobody counts them."""
        if not limiter.counts_tokens:
            return 0
        request = self.request
        chars = len(request.system or "")
        for message in request.messages:
            chars += len(message.text)
        most = request.max_tokens or backend.defaults.get("max_tokens") or _ANSWER_TOKENS
        return chars // _TOKEN_CHARS + most

    def _may_try_next(self, error: BackendError) -> bool:
        if isinstance(error, ContentFilterError):
            return error.try_next or self.setting("on_refusal") == "next"
        return error.try_next

    def _failed_at(self, backend: Backend, error: BackendError) -> None:
        if isinstance(error, ContextLengthError):
            window = error.limit or backend.context_window or 0
            self._keep(lambda b: (b.context_window or window + 1) > window)

    def _logged(self) -> dict[str, Any]:
        return {"prompt_chars": sum(len(message.text) for message in self.request.messages)}
