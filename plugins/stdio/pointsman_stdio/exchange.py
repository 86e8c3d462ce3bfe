"""One request in flight between a caller's thread and a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from pointsman import BackendError, BackendTimeout, Scope, UnavailableError

from .frames import Message
from .protocol import Protocol, Undo, Unmake
from .server import Server

_CANCELLED = "cancelled"
_STRANGE = {"code": -32602, "message": "its answer is of a form of its own"}


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
        self._undo: list[Sequence[Undo]] | None = []  # None: it was left
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

    @property
    def home(self) -> Path:
        """The folder of the process: it is there once a call has been answered."""
        return self._server.home

    def listen(self, key: str) -> None:
        """Receive the notifications of this key from now on."""
        self._server.listen(self, key)

    def call(self, method: str, params: Mapping[str, Any], undo: Unmake | None = None) -> Any:
        """Return the result of a call.

        :param undo: makes of the result the steps that end what this call began.
        :raises BackendError: the program answered with an error (`Protocol.refusal`), died or hung, or the scope has
            ended.
        """
        number = self._server.call(method, params, self, undo)
        hung_at = monotonic() + self._server.protocol.patience
        try:
            while (message := self._receive(hung_at)).get("id") != number:
                pass
        except BackendTimeout:
            self._server.doubt()
            raise
        if "error" not in message:
            return message.get("result")
        error = self._server.protocol.refusal(message["error"])
        del message  # it may hold a key, and a traceback shows what is here
        raise error

    def asked(self, method: str, params: Mapping[str, Any]) -> Any:
        """Return the result of a call that is made once for a process. Raises as `call` does."""
        if method not in self._server.known:
            self._server.known[method] = self.call(method, params)
        return self._server.known[method]

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

    def done(self, *undo: Undo) -> None:
        """Note the steps to be done when this is left, before those that were noted before.

        Without any: the last such steps are not needed any more.
        """
        with self._lock:
            if self._undo is not None:
                self._undo = [*self._undo, undo] if undo else self._undo[:-1]
                return
        self._server.undo(undo)

    def answered(self, message: Message, undo: Unmake | None) -> None:
        """Take the answer to a call: the process's thread says so."""
        if undo is not None and "error" not in message:
            try:
                self.done(*undo(message.get("result")))
            except (AttributeError, LookupError, TypeError):
                message = {"id": message["id"], "error": _STRANGE}
        self.mailbox.put(message)

    def forget(self) -> None:
        """In a forked process: whoever held the lock is not here."""
        self._lock = threading.Lock()

    def _cancel(self) -> None:
        self.mailbox.put(_CANCELLED)
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            noted, self._undo = self._undo or [], None
        self._server.undo([step for steps in reversed(noted) for step in steps])

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
            self._server.kill(UnavailableError(f"{self._server.protocol.name} hung: it did not answer in time"))
            hung_at = now + 60  # its end comes as a message
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
