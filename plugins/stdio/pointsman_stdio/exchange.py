"""One request in flight between a caller's thread and a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from pointsman import BackendError, BackendTimeout, InvalidRequestError, Scope, UnavailableError

from .frames import Message
from .server import Protocol, Server, Undo

_CANCELLED = "cancelled"


class RefusedCall(Exception):
    """The program answered a call with an error. `message` and `data` are its own words."""

    def __init__(self, error: Any) -> None:
        facts = error if isinstance(error, Mapping) else {}
        super().__init__(str(facts.get("message") or error))
        self.data: Any = facts.get("data")


class Exchange:
    """Calls, and waits for what comes back, within the limits of a scope.

    A context manager: leaving it, or cancelling the scope, undoes what was begun. Used by one thread; the
    process's threads and whoever cancels only put messages into its mailbox.

    :param key: of the notifications that it receives; `listen` sets it later.
    """

    def __init__(self, server: Server, scope: Scope, *, key: str | None = None) -> None:
        self._server = server
        self._scope = scope
        self._lock = threading.Lock()
        self._undo: list[Undo] | None = []  # None: it was left
        self._content_at: float | None = None
        self.mailbox: SimpleQueue[Any] = SimpleQueue()
        server.join(self, key)
        self._forget = scope.on_cancel(self._cancel)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        self._leave()
        self._server.leave(self)

    def listen(self, key: str) -> None:
        """Receive the notifications of this key from now on."""
        self._server.listen(self, key)

    def call(self, method: str, params: Mapping[str, Any], undo: Callable[[Any], Undo] | None = None) -> Any:
        """Return the result of a call.

        :param undo: makes of the result the call that ends what this one began.
        :raises RefusedCall: the program answered with an error.
        :raises BackendError: it died or hung, or the scope has ended.
        """
        number = None
        with suppress(UnicodeEncodeError):  # which holds the whole message: it must not become a context
            number = self._server.call(method, params, self, undo)
        if number is None:
            raise InvalidRequestError("the request has a lone surrogate: it is no valid text")
        hung_at = monotonic() + self._server.patience
        while True:
            message = self._receive(hung_at)
            if message.get("id") == number:
                if "error" in message:
                    raise RefusedCall(message["error"])
                return message.get("result")

    def messages(self) -> Iterator[Message]:
        """Yield notifications as they come, without an end.

        :raises BackendError: the process died, or the scope has ended.
        """
        while True:
            message = self._receive(inf)
            if "id" not in message or not {"result", "error"} & message.keys():
                yield message

    def content_seen(self) -> None:
        """Say that content came: from here on the limit for silence counts, and that for the first token no more."""
        self._content_at = monotonic()

    def done(self, undo: Undo | None = None) -> None:
        """Note what is to be called when this is left; without it, the last such call is not needed any more."""
        with self._lock:
            if self._undo is not None:
                self._undo = self._undo[:-1] if undo is None else [*self._undo, undo]
                return
        if undo is not None:
            self._server.undo((undo,))

    def _cancel(self) -> None:
        self.mailbox.put(_CANCELLED)
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            calls, self._undo = self._undo or (), None
        self._server.undo(calls[::-1])

    def _receive(self, hung_at: float) -> Message:
        while True:
            try:
                message = self.mailbox.get(timeout=self._wait(hung_at) if self.mailbox.empty() else None)
            except Empty:
                continue
            if message is _CANCELLED:
                raise UnavailableError("cancelled by the caller", retry_same=False, try_next=False)
            if isinstance(message, BackendError):
                raise message
            return message  # type: ignore[no-any-return]  # nothing else is put there

    def _wait(self, hung_at: float) -> float | None:
        """Return the seconds after which to look at the limits again; None if there is no limit.

        :raises BackendError: one has passed.
        """
        scope = self._scope
        limits = [(scope.deadline, "no answer came within the time given")]
        if self._content_at is None:
            limits.append((scope.first_byte_by, "no answer came within the time given for the first token"))
        elif scope.idle_timeout is not None:
            limits.append((self._content_at + scope.idle_timeout, f"nothing came for {scope.idle_timeout:g} s"))
        until, why = min(limits)
        now = monotonic()
        if now >= until:
            raise BackendTimeout(why)
        if now >= hung_at:
            self._server.hung()  # its end comes as a message
            hung_at = now + 60
        until = min(until, hung_at)
        return None if until == inf else until - now


@contextmanager
def once(protocol: Protocol, scope: Scope) -> Iterator[Exchange]:
    """Hold an exchange with a process of its own, which ends with it; whatever it sends belongs to the exchange."""
    server = Server(protocol)
    try:
        with Exchange(server, scope, key="") as exchange:
            yield exchange
    finally:
        server.close()
