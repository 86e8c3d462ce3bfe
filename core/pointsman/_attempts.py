"""One request, many backends, one answer: the loop that owns everything that may repeat.

A provider says what went wrong; here it is decided what follows: ask again, wait first, ask
without a parameter, ask the next one, or give up. Every attempt is recorded. Nothing else in the
project retries.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from math import inf
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

from attrs import frozen

from . import _log
from ._backends import Backend
from ._breaker import Breaker
from .errors import (
    AllBackendsFailed,
    BackendError,
    BackendTimeout,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    UnusableAnswer,
)
from .secret import redact
from .values import Attempt, Outcome, Request

T = TypeVar("T")

#: The first wait of the exponential backoff, and the longest, in seconds.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0


@frozen
class Limits:
    """What a call may cost, where it does not say so itself. Times are seconds."""

    timeout: float | None = 120.0  #: whole call, with all its attempts
    first_token_timeout: float | None = 60.0  #: of a stream, each attempt
    idle_timeout: float | None = 60.0  #: between two pieces of content of a stream
    max_retries: int = 1  #: further attempts at the same backend
    on_refusal: str = "raise"  #: or "next"


class Answered(NamedTuple, Generic[T]):
    """One attempt that got an answer: who gave it, to which request, and when it was asked (`perf_counter`)."""

    answer: T
    backend: Backend
    request: Request
    started: float


class Call(Generic[T]):
    """One request on its way. Not thread-safe: it belongs to the thread that runs it.

    :param ask: makes one attempt at one backend; raises what went wrong.
    :param substitute: whether a backend that lacks the model that the request names is asked its own.
    """

    def __init__(
        self,
        request: Request,
        limits: Limits,
        breaker: Breaker,
        ask: Callable[[Backend, Request], T],
        *,
        streamed: bool,
        substitute: bool,
    ) -> None:
        self.request = request
        self._substitute = substitute
        self.attempts: list[Attempt] = []
        self.warnings: list[str] = []
        self._limits = limits
        self._breaker = breaker
        self._ask = ask
        #: of a stream: seconds to its first content; None for a whole answer
        self._first_token = (request.first_token_timeout or limits.first_token_timeout or inf) if streamed else None
        self._errors: list[BackendError] = []

    def run(self, order: Sequence[Backend], reserve: Sequence[Backend] = ()) -> Answered[T]:
        """Ask one backend after another until one answers, and return that.

        :param reserve: those that are not well, as far as we know: asked when all others have failed.

        :raises BackendError: of the one that was tried; `AllBackendsFailed` if several were.
        """
        scope = self.request.scope
        queue, reserve = list(order), list(reserve)
        while (queue or reserve) and not scope.expired:
            if not queue:
                queue, reserve = list(reserve), []
            backend = queue.pop(0)
            answer = self._at(backend, first=not self._errors, last=not queue)
            if answer is not None:
                return answer
            error = self._errors[-1]
            if scope.cancelled or not self._may_try_next(error):
                raise self._told(error)
            if isinstance(error, ContextLengthError):
                window = error.limit or backend.context_window or 0
                queue, reserve = (
                    [b for b in bs if (b.context_window or window + 1) > window] for bs in (queue, reserve)
                )
        raise self._told(self._failure())

    def _at(self, backend: Backend, *, first: bool, last: bool) -> Answered[T] | None:
        """Ask one backend until it answers (return that) or asking it again is no use (note the error)."""
        request, scope = backend.fitted(self.request, first=first), self.request.scope
        tried, learned = 0, False
        while True:
            self._begin(backend, last=last)
            started = perf_counter()
            try:
                return Answered(self._ask(backend, request), backend, request, started)
            except (Exception, SystemExit) as raised:
                error = translated(raised)
            self.failed(Answered(None, backend, request, started), error)
            if self._adapted(backend, request, error):
                request = backend.fitted(self.request, first=first)
                continue
            if isinstance(error, InvalidRequestError) and error.retry_same and not learned:
                learned = True  # the provider knows now how this server wants it
                continue
            wait = self._wait(backend, error, tried, last=last)
            if wait is None or not self._sleep(wait):
                break
            tried += 1
        self._errors.append(error)
        # What the caller ended, by hand or with a time that was too short, says nothing about the backend.
        if not scope.cancelled and not (scope.expired and isinstance(error, BackendTimeout)):
            self._breaker.failed(backend.id, request.model, error)
        return None

    def failed(self, tried: Answered[Any], error: BackendError) -> None:
        """Record an attempt that failed, or was cancelled by the caller."""
        error.backend, error.model = tried.backend.id, tried.request.model
        self.record(tried, tried.request.model, "cancelled" if self.request.scope.cancelled else "failed", error)

    def record(
        self, tried: Answered[Any], model: str | None, outcome: Outcome, error: BackendError | None = None
    ) -> None:
        """Add one attempt to the list, and to the log if anybody reads it."""
        name, reason = (type(error).__name__, error.message[:300]) if error is not None else (None, None)
        made = Attempt(tried.backend.id, model, outcome, name, reason, perf_counter() - tried.started)
        self.attempts.append(made)
        if tried.backend.verbose or _log.wanted():
            prompt_chars = sum(len(message.text) for message in self.request.messages)
            _log.attempt(made, verbose=tried.backend.verbose, prompt_chars=prompt_chars)

    def _begin(self, backend: Backend, *, last: bool) -> None:
        """Start the clock of one attempt: while others wait, it gets no more than half of what is left.

        Half to its first content, if it is streamed: what flows then may go on. A whole answer must be there.
        """
        scope = self.request.scope
        left = scope.left()
        half = inf if last or left == inf else left / 2
        if self._first_token is None:
            scope.begin(min(half, backend.timeout or inf))
        else:
            scope.begin(backend.timeout, min(half, self._first_token))

    def _wait(self, backend: Backend, error: BackendError, tried: int, *, last: bool) -> float | None:
        """Return the seconds to wait before this backend is asked again, or None if it is not."""
        allowed = next(
            n for n in (self.request.max_retries, backend.max_retries, self._limits.max_retries) if n is not None
        )
        if isinstance(error, UnusableAnswer):
            allowed = min(allowed, 1)
        if not error.retry_same or isinstance(error, InvalidRequestError) or tried >= allowed:
            return None
        wait = error.retry_after
        if wait is None:
            wait = random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**tried))
        left = self.request.scope.left()
        return wait if wait < (left if last else left / 2) else None

    def _sleep(self, seconds: float) -> bool:
        """Wait, unless the caller cancels; say whether to go on."""
        scope = self.request.scope
        woken = threading.Event()
        forget = scope.on_cancel(woken.set)
        try:
            return not woken.wait(seconds) and not scope.expired
        finally:
            forget()

    def _may_try_next(self, error: BackendError) -> bool:
        if isinstance(error, ContentFilterError):
            return error.try_next or (self.request.on_refusal or self._limits.on_refusal) == "next"
        return error.try_next

    def _adapted(self, backend: Backend, request: Request, error: BackendError) -> bool:
        """Say whether the backend has learnt to be asked otherwise, at once, and warn the caller of the difference."""
        text = f"{backend.id}: "
        if backend.refuse(request.model, error.parameter, request):
            text += f"model {request.model!r} refuses {error.parameter}; sent without it, now and from here on"
        elif self._substitute and isinstance(error, ModelNotFoundError) and backend.lack(request.model, self.request):
            text += f"it has no model {request.model!r}; asked its own, {backend.model!r}, now and from here on"
        else:
            return False
        self.warnings.append(text)
        _log.warning(text)
        return not self.request.scope.cancelled

    def _failure(self) -> BackendError:
        """Return what the caller gets when all that could be tried has failed."""
        if len(self._errors) == 1:
            return self._errors[0]
        if not self._errors:
            return BackendTimeout("the time was up before a backend could be asked; give a longer timeout")
        hints = [e.retry_after if e.retry_after is not None else e.cooldown for e in self._errors]
        reasons = "; ".join(str(e) for e in self._errors)
        return AllBackendsFailed(f"no backend answered: {reasons}", self._errors, retry_after=min(hints))

    def _told(self, error: BackendError) -> BackendError:
        error.attempts = tuple(self.attempts)
        return error


def _with_larger(backends: Sequence[Backend], window: int) -> list[Backend]:
    return [b for b in backends if b.context_window is None or b.context_window > window]


def translated(error: BaseException) -> BackendError:
    """Return what a provider raised as a `BackendError`, without any key that it may hold."""
    if isinstance(error, BackendError):
        return error
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace is not None else None
    where = f" (in {code.co_qualname}, {code.co_filename}:{trace.tb_lineno})" if code and trace else ""
    # No cause: the frames of a foreign exception may hold a key.
    return BackendError(f"the plugin failed with {type(error).__name__}: {redact(str(error))}{where}")
