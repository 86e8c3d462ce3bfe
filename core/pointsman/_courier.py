"""Brings to each store what waits for it in the outbox: a thread for each store that has something to get."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from time import monotonic, time

from . import _log
from ._attempts import translated
from ._outbox import LEASE_S, Outbox, Waiting
from .errors import PointsmanError
from .scope import Scope

#: Seconds for which stores are waited for that are to let go what they are being brought.
_ENDING_S = 10.0
#: Failures in a row after which a store is away, whatever else waits for it.
_IN_A_ROW = 3


class Courier:
    """Works through an outbox. Thread-safe.

    :param deliver: does one job, while it calls `renew` now and then; raises what went wrong.
    :param idle_timeout: seconds for which nothing may move of what is being brought.
    """

    def __init__(
        self, outbox: Outbox, deliver: Callable[[Waiting, Scope, Callable[[], None]], None], idle_timeout: float | None
    ) -> None:
        self._outbox, self._deliver, self._idle_timeout = outbox, deliver, idle_timeout
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._bells: dict[str, threading.Event] = {}
        self._turns: dict[str, threading.Lock] = {}  #: of each store: one job at a time
        self._running = set[Scope]()
        self._closed = False
        self._moved = 0.0  #: when something last did, by `monotonic`

    def wake(self, stores: Iterable[str]) -> None:
        """Let what waits for these stores be brought, as soon as it is due."""
        with self._lock:
            for store in () if self._closed else stores:
                self._bells.setdefault(store, threading.Event()).set()
                if store not in self._threads:
                    thread = threading.Thread(None, self._run, f"outbox of {store}", (store,), daemon=True)
                    with suppress(RuntimeError):  # there is no room for one now: the next call tries it again
                        thread.start()
                        self._threads[store] = thread

    def drain(self, stores: Iterable[str], scope: Scope, patience: float | None = None) -> None:
        """Try everything that waits for these stores once, whenever it is due, and return when that is done.

        A store that fails three times in a row is tried no further.

        :param patience: seconds after which it returns if nothing moves; one failure is enough then.
        """
        stores, began, most = list(stores), time(), _IN_A_ROW if patience is None else 1
        left = patience = threading.TIMEOUT_MAX if patience is None else patience

        def work(store: str) -> None:
            failed = 0
            while not scope.expired and failed < most and (well := self._one(store, scope, began)) is not None:
                failed = 0 if well else failed + 1

        threads = ThreadPoolExecutor(len(stores) or 1, thread_name_prefix="pointsman-sync")
        running = [threads.submit(work, store) for store in stores]
        try:
            while wait(running, left).not_done and (left := self._moved + patience - monotonic()) > 0:
                pass
        finally:
            if wait(running, 0).not_done:  # nothing moves, or an interrupt: what is being brought is let go
                scope.cancel()
            threads.shutdown(wait=not scope.cancelled)
        for one in running:
            if one.done():
                one.result()

    def close(self) -> None:
        """End the threads; what they were bringing waits for the next time. One that does not end is left behind."""
        with self._lock:
            self._closed = True
            running, threads = list(self._running), list(self._threads.values())
            for bell in self._bells.values():
                bell.set()
        for scope in running:
            scope.cancel()
        ends = monotonic() + _ENDING_S
        for thread in threads:
            thread.join(max(0.0, ends - monotonic()))
        with suppress(PointsmanError):
            self._outbox.let_go()

    def _run(self, store: str) -> None:
        """In a thread of its own: do what is due, until nothing waits."""
        bell = self._bells[store]
        while True:
            bell.clear()
            try:
                while self._one(store, Scope()) is not None:
                    pass
                wait = self._outbox.next_due(store)
            except Exception as error:
                _log.failed("outbox", error, store=store)
                wait = LEASE_S
            with self._lock:
                if self._closed or (wait is None and not bell.is_set()):
                    self._threads.pop(store, None)
                    return
            bell.wait(wait)

    def _one(self, store: str, within: Scope, tried_before: float = 0.0) -> bool | None:
        """Do one job, and say whether the store did not fail; None if there was none, or its turn has not come."""
        turn = self._turns.setdefault(store, threading.Lock())
        if not turn.acquire(timeout=min(within.left(), threading.TIMEOUT_MAX)):
            return None
        try:
            job = None if self._closed or within.cancelled else self._outbox.take(store, tried_before=tried_before)
            if job is None:
                return None
            scope = Scope(within.left(), idle_timeout=self._idle_timeout)
            forget, renewed = within.on_cancel(scope.cancel), time()
            with self._lock:
                self._running.add(scope)

            def renew() -> None:
                nonlocal renewed
                self._moved = monotonic()
                if time() - renewed > LEASE_S / 4:
                    renewed = time()
                    if not self._outbox.renew(job):
                        scope.cancel()  # nobody wants it any more

            try:
                if self._closed:
                    scope.cancel()
                self._deliver(job, scope, renew)
                self._outbox.done(job)
            except BaseException as raised:  # no Ctrl-C comes to a thread of ours, and nobody begins another one
                error = translated(raised)
                if scope.cancelled and isinstance(raised, Exception):  # that says nothing against anybody
                    self._outbox.let_go(store)
                else:
                    self._outbox.failed(job, str(error), error.retry_after or None)
                return error.blameless
            finally:
                self._moved = monotonic()
                forget()
                with self._lock:
                    self._running.discard(scope)
            return True
        finally:
            turn.release()
