"""One request, many backends, one answer: the loop that owns everything that may repeat.

A plugin says what went wrong; here it is decided what follows: ask again, wait first, ask the next
one, or give up. Every attempt is recorded. Nothing else in the project retries. What is peculiar to
language models stands in `_asking`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from attrs import frozen

from . import _log
from ._breaker import Breaker
from ._configured import Configured
from ._settings import Policy
from .errors import AllBackendsFailed, BackendError, BackendTimeout, InvalidRequestError, RateLimitError, UnusableAnswer
from .scope import Clock, Scope
from .secret import words_of
from .values import Attempt, Outcome, Usage

if TYPE_CHECKING:
    from ._limits import Limiter, Slot

M = TypeVar("M", bound=Configured)
T = TypeVar("T")

#: The first wait of the exponential backoff, the longest, and the longest hint waited out while another backend is
#: left, in seconds.
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_HINT = 0.5, 8.0, 60.0


class Errand(Protocol):
    """What is asked, as far as the loop knows it."""

    @property
    def scope(self) -> Scope:
        """How long it may take, and whether anybody still waits."""

    @property
    def model(self) -> str | None:
        """The model that it is for, where there are models."""

    @property
    def backend(self) -> str | None:
        """The id of the only one that is asked, if the caller wants that."""


@frozen
class Shared:
    """What all calls of one router, or store, share."""

    policy: Policy
    breaker: Breaker
    clock: Clock
    limiters: Mapping[str, Limiter]  #: of the backends that have limits, by id
    left_out: Callable[[Any, Collection[str | None]], str]  #: says who was not asked, but for those, and why
    verbose: bool = False


class Answered(NamedTuple, Generic[M, T]):
    """One attempt that got an answer: who gave it, to which request, and when it was asked (`perf_counter`)."""

    answer: T
    backend: M
    request: Any
    started: float


class Call(Generic[M, T]):
    """One request on its way. Not thread-safe: it belongs to the thread that runs it.

    :param ask: makes one attempt at one backend; raises what went wrong.
    """

    def __init__(self, request: Errand, shared: Shared, ask: Callable[[M, Any], T], *, streamed: bool = False) -> None:
        self.request = request
        self.shared = shared
        self.attempts: list[Attempt] = []
        self._whole = request  #: what was asked; `request` may be to continue a part of the answer
        self._ask = ask
        self._streamed = streamed
        self._errors: list[BackendError] = []
        self._slot: Slot | None = None
        self._over_limit: list[M] = []

    # -- what depends on what is asked ---------------------------------------------------------------

    def _model(self, backend: M) -> str | None:
        """Return the model that this backend is asked."""
        return None

    def _fitted(self, backend: M) -> Any:
        """Return the request as this backend is asked it."""
        return self.request

    def _tokens(self, limiter: Limiter, backend: M) -> int:
        """Return what this request is reckoned to cost, in tokens, before anybody knows; 0 if nobody counts them."""
        return 0

    def _adapted(self, backend: M, request: Any, error: BackendError) -> bool:
        """Say whether the backend has learnt to be asked otherwise, at once."""
        return False

    def _may_try_next(self, error: BackendError) -> bool:
        return error.try_next

    def _failed_at(self, backend: M, error: BackendError) -> None:
        """Leave out who would fail for the same reason."""

    def _logged(self) -> dict[str, Any]:
        """Return what the log tells of the request."""
        return {}

    # -- the loop ------------------------------------------------------------------------------------

    def setting(self, name: str, backend: M | None = None) -> Any:
        """Return a setting of `Policy`: the caller's word counts most, then the backend's, then the router's."""
        for one in (self.request, backend):
            if (value := getattr(one, name, None)) is not None:
                return value
        return getattr(self.shared.policy, name)

    def run(self, order: Sequence[M], reserve: Sequence[M] = ()) -> Answered[M, T]:
        """Ask one backend after another until one answers, and return that.

        :param reserve: those that are not well, as far as we know: asked when all others have failed.

        :raises BackendError: of the one that was tried; `AllBackendsFailed` if several were.
        """
        self._queue, self._reserve = list(order), list(reserve)
        return self.go_on()

    def go_on(self) -> Answered[M, T]:
        """Do as `run`, with those that have not been asked yet."""
        scope = self.request.scope
        while not scope.expired and (backend := self._turn()) is not None:
            if (answer := self._at(backend)) is not None:
                return answer
            error = self._errors[-1]
            if scope.cancelled or not self._may_try_next(error):
                raise self._told(error)
            self._failed_at(backend, error)
        raise self._told(self._failure())

    def _keep(self, fits: Callable[[M], bool]) -> None:
        self._queue, self._over_limit, self._reserve = (
            [b for b in backends if fits(b)] for backends in (self._queue, self._over_limit, self._reserve)
        )

    def _turn(self) -> M | None:
        """Return who is asked next: who may be asked now; then who must wait for a limit of ours; then the reserve."""
        while self._queue or self._over_limit:
            if self._queue:
                backend = self._queue.pop(0)
                if self.shared.limiters and self._no_room(backend):
                    self._over_limit.append(backend)
                    continue
            else:
                backend = min(self._over_limit, key=self._wait_needed)
                self._over_limit.remove(backend)
            if self.shared.breaker.silent or self._let_in(backend):
                return backend
            self.leave()
            self._reserve.append(backend)
        while self._reserve:
            backend = self._reserve.pop(0)
            if self._after_probe(backend):
                return backend
        return None

    def _let_in(self, backend: M, woken: threading.Event | None = None) -> bool:
        return self.shared.breaker.enter(backend.id, self._model(backend), self, woken)

    def _after_probe(self, backend: M) -> bool:
        """Wait for the call that probes this backend, if one does; say whether it may be asked then."""
        woken, scope = threading.Event(), self.request.scope
        if not self._let_in(backend, woken):
            forget = scope.on_cancel(woken.set)
            woken.wait(min(scope.left(), threading.TIMEOUT_MAX))
            forget()
        pause = self.shared.breaker.pause(backend.id, self._model(backend))
        if pause is None or pause.soft:
            return True
        error = copy(pause.error)
        error.retry_after = pause.left
        self._errors.append(error)
        return False

    def _no_room(self, backend: M) -> bool:
        """Take a place within the limits of a backend while another one may serve; say whether there is none now."""
        limiter = self.shared.limiters.get(backend.id)
        if limiter is None or not (self._queue or self._over_limit) or self.setting("on_limit") == "wait":
            return False  # where there is no other one, it waits for a place when it is asked
        try:
            self._slot = limiter.enter(self.request.scope, self._tokens(limiter, backend), within=0.0)
        except RateLimitError:
            return True
        return False

    def _wait_needed(self, backend: M) -> float:
        limiter = self.shared.limiters.get(backend.id)
        return 0.0 if limiter is None else limiter.wait_needed(self._tokens(limiter, backend))

    def _at(self, backend: M) -> Answered[M, T] | None:
        """Ask one backend until it answers (return that) or asking it again is no use (note the error)."""
        last = not (self._queue or self._over_limit)
        tried, learned, request = 0, False, self.request
        if self.attempts:  # an answer of it broke
            tried = sum(one.backend == backend.id for one in self.attempts)
        while True:
            started, asked = perf_counter(), False
            try:
                request = self._fitted(backend)
                if self._slot is None and (limiter := self.shared.limiters.get(backend.id)) is not None:
                    self._slot = limiter.enter(request.scope, self._tokens(limiter, backend))
                    started = perf_counter()
                self._begin(backend, last=last)
                asked = True
                answer = self._ask(backend, request)
                if self._streamed and not self.shared.breaker.silent:
                    self.shared.breaker.succeeded(backend.id, request.model, whole=False)
                return Answered(answer, backend, request, started)
            except (Exception, SystemExit) as raised:
                error = translated(raised)
            except BaseException:  # Ctrl-C: what a traceback keeps must not go on
                request.scope.cancel()
                raise
            self.failed(Answered(None, backend, request, started), error)
            if self._adapted(backend, request, error):
                continue
            if isinstance(error, InvalidRequestError) and error.retry_same and not learned:
                learned = True  # the provider knows now how this server wants it
                continue
            wait = self._wait(backend, error, tried, last=last) if asked else None
            if wait is None or not self.shared.clock.wait(self.request.scope, wait):
                break
            tried += 1
        self._verdict(backend, request, error, asked=asked)
        return None

    def broke(self, answered: Answered[M, T], error: BackendError) -> None:
        """Record that an answer broke after it had begun. The same backend may be asked again, after all others."""
        self.failed(answered, error)
        backend, breaks = answered.backend, sum(one.backend == answered.backend.id for one in self.attempts)
        cause = error.__cause__ if isinstance(error.__cause__, BackendError) else error
        if cause.retry_same and breaks <= self.setting("max_retries", backend):
            self._reserve.append(backend)
        self._verdict(backend, answered.request, error)

    def _verdict(self, backend: M, request: Errand, error: BackendError, *, asked: bool = True) -> None:
        """Note an error that ends what this backend can do for the call, and whether it speaks against the backend."""
        self._errors.append(error)
        scope, breaker = request.scope, self.shared.breaker
        # What the caller ended, by hand or with a time that was too short, says nothing about the backend.
        ended = not asked or scope.cancelled or (scope.expired and isinstance(error, BackendTimeout))
        if not ended and not error.blameless:
            breaker.failed(backend.id, request.model, error)
        self.leave()

    def failed(self, tried: Answered[M, Any], error: BackendError) -> None:
        """Record an attempt that failed, or was cancelled by the caller."""
        self._settle(error.usage)
        error.backend, error.model = tried.backend.id, tried.request.model
        self.record(tried, tried.request.model, "cancelled" if self.request.scope.cancelled else "failed", error)

    def leave(self, usage: Usage | None = None) -> None:
        """Be done with a backend: its limits and its circuit. `usage` is what the attempt really cost, if known."""
        if self._slot is not None:
            self._settle(usage)
        if not self.shared.breaker.silent:
            self.shared.breaker.left(self)

    def _settle(self, usage: Usage | None) -> None:
        slot, self._slot = self._slot, None  # at once: the thread that closes a stream may be another one
        if slot is not None:
            slot.leave(usage.total_tokens if usage is not None else None)

    def record(
        self, tried: Answered[M, Any], model: str | None, outcome: Outcome, error: BackendError | None = None
    ) -> None:
        """Add one attempt to the list, and to the log if anybody reads it."""
        name, reason = (type(error).__name__, error.message[:300]) if error is not None else (None, None)
        usage = error.usage if error is not None else None
        seconds = perf_counter() - tried.started
        made = Attempt(tried.backend.id, model, outcome, name, reason, seconds, usage, tried.backend.cost(usage))
        self.attempts.append(made)
        verbose = tried.backend.verbose or self.shared.verbose
        if verbose or _log.wanted():
            _log.attempt(made, verbose=verbose, **self._logged())

    def _begin(self, backend: M, *, last: bool) -> None:
        """Start the clock of one attempt: while others wait, it gets no more than half of what is left.

        Half to its first content, if it is streamed: what flows then may go on. A whole answer must be there.
        """
        scope = self.request.scope
        half = inf if last else scope.left() / 2
        if self._streamed:
            scope.begin(backend.timeout, min(half, self.setting("first_token_timeout", backend) or inf))
            scope.idle_timeout = self.setting("idle_timeout", backend)
        else:
            scope.begin(min(half, backend.timeout or inf))

    def _wait(self, backend: M, error: BackendError, tried: int, *, last: bool) -> float | None:
        """Return the seconds to wait before this backend is asked again, or None if it is not."""
        allowed = self.setting("max_retries", backend)
        if isinstance(error, UnusableAnswer):
            allowed = min(allowed, 1)
        if last and allowed:
            allowed = max(allowed, error.retries)
        if not error.retry_same or isinstance(error, InvalidRequestError) or tried >= allowed:
            return None
        wait = error.retry_after
        if wait is None:
            wait = random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**tried))
        left = self.request.scope.left()
        return wait if wait < (min(left, threading.TIMEOUT_MAX) if last else min(left / 2, _LONGEST_HINT)) else None

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
        if left_out := self.shared.left_out(self._whole, {one.backend for one in self._errors}):
            error.add_note(left_out)
        return error


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
    return BackendError(f"the plugin failed with {type(error).__name__}: {words_of(error)}{where}")
