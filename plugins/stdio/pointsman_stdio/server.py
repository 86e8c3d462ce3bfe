"""One process of a program that serves, from its start to its end, and the messages that go in and out of it."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from attrs import frozen
from pointsman import BackendError, UnavailableError

from ._process import Ended, Launch, Process
from .frames import BrokenStream, Message
from .program import output, refuses_arguments
from .protocol import Protocol, ProtocolRefused, Undo, Unmake

if TYPE_CHECKING:
    from .exchange import Exchange

_METHOD_UNKNOWN = -32601  # JSON-RPC 2.0
#: Seconds for a program that was told that nothing more comes, for one that is doubted, and for the end of all.
_LEAVES_S, _PINGED_S, _STOPPED_S = 1.0, 3.0, 15.0


@frozen(eq=False)
class _Pending:
    """A call that has not been answered yet."""

    until: float  #: `time.monotonic()`
    exchange: Exchange | None = None  #: that waits for the answer
    undo: Unmake | None = None
    then: Sequence[Undo] = ()  #: what is done next


class Server:
    """Thread-safe. Two threads of its own write and read, so that nobody blocks on a pipe.

    The first exchange starts it. It is never started twice.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.known: dict[str, Any] = {}  #: results of calls that are made once for a process
        self._lock = threading.Lock()  # over the fields below
        self._pending: dict[int, _Pending] = {}
        self._exchanges: dict[Exchange, str | None] = {}
        self._number = self._joined = 0
        self._end: BackendError | None = None
        self._verdict: BackendError | None = None  # why we ended it
        self._retired = self._heard = False
        self._running: list[Process] = []  # the program, and what is asked of it before it serves
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        for message in protocol.hello:
            self._send(message if "id" not in message else {**message, "id": self._enter(self._waiting())})
        self._thread: threading.Thread | None = None

    @property
    def home(self) -> Path:
        """The folder of the process: it is there once a call has been answered."""
        return self._running[0].home

    @property
    def usable(self) -> bool:
        """Whether a new exchange may begin: it lives, answers what it is asked, and has not served too long."""
        self._mind()
        spent = self._retired or self._joined >= self.protocol.exchanges
        return self._end is None and self._verdict is None and not spent

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._end is not None

    def join(self, exchange: Exchange, key: str | None) -> None:
        """Take part: hear of the end, and of the notifications of this key.

        :raises BackendError: the end has come already.
        """
        with self._lock:
            if self._end is not None:
                raise copy.copy(self._end)
            self._exchanges[exchange] = key
            self._joined += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"pointsman-{self.protocol.name}", daemon=True)
                self._thread.start()

    def listen(self, exchange: Exchange, key: str) -> None:
        """Give this exchange the notifications of this key."""
        with self._lock:
            if exchange in self._exchanges:
                self._exchanges[exchange] = key

    def leave(self, exchange: Exchange) -> None:
        """Take no part any more; what this exchange has called is still answered, and undone then."""
        with self._lock:
            self._exchanges.pop(exchange, None)
        self._finish()

    def call(self, method: str, params: Mapping[str, Any], exchange: Exchange, undo: Unmake | None = None) -> int:
        """Send a call of an exchange, and return its number."""
        return self._call(method, params, self._waiting(exchange=exchange, undo=undo))

    def undo(self, steps: Sequence[Undo]) -> None:
        """Do this, each step when the one before it was answered. Nobody waits for that."""
        for place, step in enumerate(steps):
            if not callable(step):
                self._call(*step, self._waiting(then=steps[place + 1 :]))
                return
            with contextlib.suppress(OSError):
                step()

    def doubt(self) -> None:
        """Ask whether it still answers anything, and end it if it does not within seconds."""
        if self._heard:
            self._call("ping", {}, self._waiting(_PINGED_S))

    def kill(self, why: BackendError) -> None:
        """End the process at once. Every exchange fails with `why`."""
        with self._lock:
            self._verdict = self._verdict or why
            running = list(self._running)
        for process in running:
            process.terminate()

    def retire(self) -> None:
        """End the process when its last exchange has ended: it gets no new ones."""
        self._retired = True
        self._finish()

    def close(self) -> None:
        """End the process and wait until nothing of it is left. One that serves ends by itself, and tidies up."""
        why = UnavailableError(f"{self.protocol.name} was closed while it answered", retry_same=False)
        thread = self._thread
        if self._heard and self.protocol.hello and thread is not None:
            with self._lock:
                self._verdict = self._verdict or why
            self._outgoing.put(None)
            thread.join(_LEAVES_S)
        self.kill(why)
        if thread is not None and threading.current_thread() is not thread:
            thread.join(_STOPPED_S)

    def forget(self) -> None:
        """In a forked process: let go of the pipes, which belong to our parent's process."""
        self._lock = threading.Lock()  # whoever held it is not here
        for process in self._running:
            process.forget()
        for exchange in self._exchanges:
            exchange.forget()
        self._over(UnavailableError(f"{self.protocol.name} belongs to the parent of this forked process"))

    def _waiting(self, patience: float | None = None, **more: Any) -> _Pending:
        return _Pending(monotonic() + (self.protocol.patience if patience is None else patience), **more)

    def _call(self, method: str, params: Mapping[str, Any], pending: _Pending) -> int:
        number = self._enter(pending)
        try:
            self._send({"id": number, "method": method, "params": params})
        except BaseException:
            with self._lock:
                self._pending.pop(number, None)
            raise
        return number

    def _enter(self, pending: _Pending) -> int:
        with self._lock:
            self._number += 1
            self._pending[self._number] = pending
            return self._number

    def _send(self, message: Message) -> None:
        self._outgoing.put(self.protocol.framing.pack(message))

    def _mind(self) -> float:
        """End it if it does not answer; return the seconds after which to look again."""
        with self._lock:
            until = min((pending.until for pending in self._pending.values()), default=inf)
        left = until - monotonic()
        if left < 0:
            self.kill(UnavailableError(f"{self.protocol.name} hung: it did not answer in time"))
        return left

    def _finish(self) -> None:
        with self._lock:
            idle = self._retired and not self._exchanges
        if idle:
            self._outgoing.put(None)

    # What runs in the threads of its own.

    def _run(self) -> None:
        try:
            self._live()
        except BackendError as error:
            self._over(error)
        except Exception as error:
            self._over(UnavailableError(f"{self.protocol.name} could not be run: {type(error).__name__}: {error}"))

    def _live(self) -> None:
        process = self._begin(Process(self.protocol.name))
        writer = threading.Thread(target=self._write, args=(process,), name="pointsman-stdin", daemon=True)
        try:
            process.ready()
            process.start(self.protocol.prepare(process.home, self._ask))
            writer.start()
            self._read(process)
        finally:
            self._outgoing.put(None)
            if writer.ident is None:
                process.end_input()
            ended = process.end()
            if writer.ident is not None:
                writer.join()
        raise self._why(ended)

    def _begin(self, process: Process) -> Process:
        with self._lock:
            self._running.append(process)
        if self._verdict is not None:
            process.terminate()
        return process

    def _ask(self, launch: Launch) -> str:
        return output(launch, self.protocol.patience, self._begin)

    def _write(self, process: Process) -> None:
        data: bytes | None = self.protocol.input or b""
        while data is not None:
            process.write(data)
            data = self._next() if self.protocol.input is None else None
        process.end_input()

    def _next(self) -> bytes | None:
        """Return what is to be sent next, or None where nothing will be; look meanwhile whether it answers."""
        while True:
            left = self._mind()
            with contextlib.suppress(Empty):
                return self._outgoing.get(timeout=None if left == inf else max(0.01, left))

    def _read(self, process: Process) -> None:
        try:
            for message in self.protocol.framing.read(process.read()):
                self._heard = True
                self._take(message)
        except BrokenStream as error:
            self.kill(UnavailableError(f"{self.protocol.name} sent {error}"))
        except (AttributeError, LookupError, TypeError) as error:
            self.kill(UnavailableError(f"{self.protocol.name} sent a message of a form of its own: {error!r:.100}"))

    def _take(self, message: Message) -> None:
        if self.protocol.input is not None or "id" not in message:
            self._notified(message)
        elif "method" not in message:
            self._answered(message)
        else:
            refusal = {"code": _METHOD_UNKNOWN, "message": "not offered to this program"}
            self._send({"id": message["id"], "error": refusal})

    def _answered(self, message: Message) -> None:
        with self._lock:
            pending = self._pending.pop(message["id"], None)
        if "error" in message and message["id"] == 1 and self.protocol.hello:
            self.kill(ProtocolRefused(f"{self.protocol.name} refuses its protocol: {str(message['error'])[:200]}"))
        elif pending is not None:
            self.undo(pending.then)
            if pending.exchange is not None:
                pending.exchange.answered(message, pending.undo)

    def _notified(self, message: Message) -> None:
        key = self.protocol.route(message)
        with self._lock:
            for exchange, own in self._exchanges.items():
                if own == key and own is not None:
                    exchange.mailbox.put(message)

    def _why(self, ended: Ended) -> BackendError:
        if self._verdict is not None:
            return self._verdict
        if self.protocol.hello and not self._heard and refuses_arguments(ended):
            return ProtocolRefused(f"{ended.message}, before it answered", status=ended.status)
        return ended

    def _over(self, end: BackendError) -> None:
        with self._lock:
            self._end = end
            exchanges = list(self._exchanges)
            self._exchanges.clear()
            self._pending.clear()
        for exchange in exchanges:
            exchange.mailbox.put(copy.copy(end))
