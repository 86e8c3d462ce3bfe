"""Asks one store after another, with the loop, the circuits and the deadlines of the router."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import chain
from math import inf
from typing import Any, BinaryIO, TypeAlias

from attrs import evolve

from . import _log
from ._answers import close
from ._attempts import Answered, Call, Shared, translated
from ._breaker import Breaker
from ._discovery import Catalogue
from ._health import Monitor
from ._settings import Policy
from ._sources import Held, Replayed, check_time
from ._stores import StoreBackend, StoreGate, Stores, Task
from ._structure import misfits
from .errors import AllBackendsFailed, BackendError, ConfigError, ContentNotFoundError, UnavailableError, UnusableAnswer
from .scope import Clock, Scope
from .values import _FIELDS

Got: TypeAlias = Answered[StoreBackend, Any]
#: Who is asked, one after another; and who is asked if all of them fail.
Order: TypeAlias = tuple[Sequence[StoreBackend], Sequence[StoreBackend]]
_SECONDS = dict.fromkeys(("timeout", "patience"), _FIELDS["timeout"])  #: those of a call, as a router's are


class Storing:
    """The stores of one `Store`. Thread-safe.

    :param damaged: is told of content whose bytes were wrong in these stores, and right in another one.
    :param absent: returns the stores that nobody configured and that never were there.
    """

    def __init__(  # noqa: PLR0913 - of one place only
        self,
        stores: Sequence[StoreBackend],
        middleware: Sequence[tuple[str, object]],
        policy: Policy,
        health_ttl: float,
        clock: Clock,
        catalogue: Catalogue,
        damaged: Callable[[str, Iterable[str]], object],
        absent: Callable[[], Collection[str]],
    ) -> None:
        self.registry = Stores(stores, middleware, catalogue)
        breaker = Breaker(clock)
        self.monitor = Monitor(self.registry, health_ttl, clock)
        self.gate = StoreGate(sorted(stores, key=lambda one: one.priority), self.monitor, breaker, self.registry)
        self._shared = Shared(policy, breaker, clock, {}, self._left_out)
        self._damaged, self._absent = damaged, absent
        #: Seconds for which nothing may move of content that is on its way.
        self.idle_timeout = policy.idle_timeout

    def task(
        self, hook: str, store: str | None = None, timeout: float | None = None, *, moving: bool = False, **of: Any
    ) -> Task:
        """Return what is asked. What moves content has no limit but that nothing may stand still; the rest has one.

        :raises ConfigError: there is no such store, what should be seconds is no number, or all of it is closed.
        """
        self.check_open()
        seconds = {"timeout": timeout, "patience": of.get("patience")}
        if (timeout is not None or "patience" in of) and (problems := misfits(_SECONDS, seconds)):
            raise ConfigError(*problems)
        whole = self._shared.policy.timeout if timeout is None and not moving else timeout
        task = Task(hook, of, Scope(whole, idle_timeout=self._shared.policy.idle_timeout), store)
        if store is not None:
            self.gate.check_named(task)
        return task

    def check_open(self) -> None:
        """Raise ConfigError if all of it is closed."""
        if self.registry.closed:
            raise ConfigError("this store is closed; make another one")

    def able(self, task: Task) -> list[StoreBackend]:
        """Return the stores that could do it, whether or not they are well."""
        return [one for one in self.registry.backends if not self.gate.never(one, task)]

    def rooted(self, task: Task) -> Task:
        """Return the same, asked of the CID that its path leads to, as stores write it; if none can tell, as it is."""
        asked = evolve(task, hook="resolve")
        for backend in chain(*self.gate.sorted_out(asked)):
            with suppress(Exception, SystemExit):  # what is wrong with it, the task itself will show
                return evolve(task, arguments={"cid": self.registry.ask(backend, asked)})
        return task

    def run(
        self, task: Task, order: Order | None = None, ask: Callable[[StoreBackend, Task], Any] | None = None
    ) -> Got:
        """Ask one store after another until one has done it.

        :raises BackendError: none has; `AllBackendsFailed` if several failed for different reasons.
        """
        call = Call(task, self._shared, ask or self.registry.ask)
        try:
            answered = call.run(*(order or self._candidates(task)))
            self._good(call, answered)
        except BackendError as error:
            raise _plain(error) from None
        finally:
            call.leave()
        return answered

    def replayed(self, file: BinaryIO, task: Task, as_source: Callable[[Any], object]) -> Got:
        """Do as `run` with what a file holds, as its `source`: each store that is asked reads it from the start."""
        order = self._candidates(task)
        source = file if isinstance(file, Held) else Replayed(file, task.scope, keep=sum(map(len, order)) > 1)
        try:
            task.arguments["source"], task.reads = as_source(source), source
            task.max_retries = None if source.again else 0
            return self.run(task, order)
        finally:
            source.let_go()

    def bytes_of(self, task: Task, order: Order | None = None) -> Iterator[bytes]:
        """Give out a file, or a CAR. Where a store fails in the middle, the next one goes on.

        It is asked for the rest of a file. A CAR it gives out from the start, which must be as before.

        :raises BackendError: none could; or none could go on.
        """
        whole, given, hashed = task.hook != "fetch", 0, sha256()

        def begun(backend: StoreBackend, asked: Task) -> tuple[Any, Iterator[Any]]:
            first, pieces = self._begun(backend, asked)
            return _beyond(first, pieces, given, hashed.digest()) if whole and given else (first, pieces)

        call = Call(task, self._shared, begun)
        try:
            answered, error = call.run(*(order or self._candidates(task))), None
            while True:
                first, rest = answered.answer
                try:
                    for piece in _chained(first, rest):
                        check_time(task.scope.remaining(), "before the end of the content")
                        given += len(piece)
                        if whole:
                            hashed.update(piece)
                        yield piece
                except (Exception, SystemExit) as raised:
                    error = translated(raised)
                finally:
                    close(rest)
                if error is None:
                    break
                call.broke(answered, error)
                call.request = task if whole else _from(task, given)
                answered, error = call.go_on(), None
            self._good(call, answered)
        except BackendError as failed:
            raise _plain(failed) from None
        finally:
            call.leave()

    def given_out(self, task: Task, order: Order | None = None) -> Iterator[Any]:
        """Return what a store gives out; another one is asked only until the first piece is there.

        :raises BackendError: none could; the iterator raises it too, when the store fails in the middle.
        """
        call = Call(task, self._shared, self._begun)
        try:
            answered = call.run(*(order or self._candidates(task)))
        except BackendError as error:
            raise _plain(error) from None
        finally:
            call.leave()
        return self._rest(call, answered)

    def _rest(self, call: Call[StoreBackend, Any], answered: Got) -> Iterator[Any]:
        first, rest = answered.answer
        try:
            yield from _chained(first, rest)
            self._good(call, answered)
        except (Exception, SystemExit) as raised:
            error = translated(raised)
            call.broke(answered, error)
            error.attempts = tuple(call.attempts)
            raise error from None
        finally:
            close(rest)
            call.leave()

    def _begun(self, backend: StoreBackend, task: Task) -> tuple[Any, Iterator[Any]]:
        """Start what is given out, and return its first piece: until then another store can be asked for nothing.

        What flows may take all the time of the call; what stands still, no more than leaves some for another store.
        """
        scope, share = task.scope, task.scope.remaining()
        pieces = self.registry.ask(backend, task)
        first = next(pieces, None)
        scope.begin(backend.timeout)
        if share < (scope.idle_timeout or inf):
            scope.idle_timeout = share
        return first, pieces

    def _candidates(self, task: Task) -> Order:
        """Return who is asked.

        :raises BackendError: nobody can be; it says why.
        """
        if any(order := self.gate.sorted_out(task)):
            return order
        errors = [self._hindrance(one, task) for one in self.registry.backends if task.backend in (None, one.id)]
        if not errors:
            raise ConfigError("no store is configured; write a configuration, or pip install pointsman-ipfs")
        if len(errors) == 1:
            raise errors[0]
        reasons = "; ".join(str(error) for error in errors)
        raise AllBackendsFailed(f"no store can do this ({task.hook}): {reasons}", errors)

    def _hindrance(self, backend: StoreBackend, task: Task) -> BackendError:
        error = self.gate.remembered(backend, task)
        error = error or UnavailableError(self.gate.why_not(backend, task), retry_same=False)
        error.backend = backend.id
        return error

    def _left_out(self, task: Task, tried: Collection[str | None]) -> str:
        """Say who is not asked, and why: of those that somebody misses."""
        passed = set(tried)
        with suppress(BackendError, ConfigError):  # of the outbox, which has nothing to do with what went wrong
            passed |= set(self._absent())
        return self.gate.left_out(task, passed)

    def _good(self, call: Call[StoreBackend, Any], answered: Got) -> None:
        """Note that a store has done what it was asked, and what others had that was wrong."""
        backend = answered.backend
        if call.attempts or backend.verbose or _log.wanted():  # else nobody reads it
            call.record(answered, None, "answered")
        if not self._shared.breaker.silent:
            self._shared.breaker.succeeded(backend.id, None)
        if self.monitor.changes:
            self.monitor.well(backend)
        if call.attempts and (cid := answered.request.arguments.get("cid")):
            wrong = {attempt.backend for attempt in call.attempts if attempt.error == "UnusableAnswer"} - {backend.id}
            if wrong:
                self._damaged(cid, wrong)


def _chained(first: Any, rest: Iterator[Any]) -> Generator[Any, None, None]:
    if first is not None:
        yield first
        yield from rest


def _beyond(first: Any, rest: Iterator[Any], size: int, digest: bytes) -> tuple[Any, Iterator[Any]]:
    """Return what comes after so many bytes, in its first piece and the rest.

    :raises UnusableAnswer: those have another SHA-256.
    """
    hashed, pieces = sha256(), _chained(first, rest)
    for piece in pieces:
        hashed.update(piece[:size])
        if size <= len(piece):
            if hashed.digest() != digest:
                break
            return piece[size:], pieces
        size -= len(piece)
    pieces.close()
    raise UnusableAnswer("it does not go on where the store before it stopped: it gives out something else")


def _from(task: Task, given: int) -> Task:
    """Return what is to be asked when so many bytes have been given out."""
    offset, length = task.arguments["offset"], task.arguments["length"]
    rest = None if length is None else length - given
    return evolve(task, arguments={**task.arguments, "offset": offset + given, "length": rest})


def includes(error: BackendError, kind: type[BackendError]) -> bool:
    """Say whether it is an error of this kind, or that of several stores of which one is."""
    return any(isinstance(one, kind) for one in getattr(error, "exceptions", (error,)))


def _plain(error: BackendError) -> BackendError:
    """Return an error as it is; of one store alone, its own; of stores that all do not have something, that."""
    if not isinstance(error, AllBackendsFailed):
        return error
    plain = error.exceptions[-1]
    if all(isinstance(one, ContentNotFoundError) for one in error.exceptions):
        plain = ContentNotFoundError(f"no store has it: {'; '.join(str(one) for one in error.exceptions)}")
    elif len({one.backend for one in error.exceptions if isinstance(one, BackendError)}) > 1:
        return error
    plain.attempts = error.attempts
    return plain
