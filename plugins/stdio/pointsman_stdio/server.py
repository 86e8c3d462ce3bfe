"""One process of a program, from its start to its end, and the messages that go in and out of it."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from pointsman import BackendError, UnavailableError

from .frames import BrokenStream, Framing, Message
from .program import surroundings

if TYPE_CHECKING:
    from .exchange import Exchange

_GUARD = str(Path(__file__).with_name("_guard.py"))
_LEAVES_S, _STOPPED_S = 2.0, 10.0
_METHOD_UNKNOWN = -32601  # JSON-RPC 2.0
#: What a call to be made when the caller leaves is made of: its method and its parameters.
Undo = tuple[str, Mapping[str, Any]]


class Ended(UnavailableError):
    """The process has ended: `status` is its exit code, or 128 and its signal."""


class ProtocolRefused(UnavailableError):
    """The program does not speak the protocol: it refused the first message, or ended before it answered."""


@frozen
class Launch:
    """What is started: an absolute path with its arguments, and what its environment has beside `surroundings`."""

    command: Sequence[str]
    environment: Mapping[str, str]


@frozen
class Protocol:
    """How a program is started and spoken to."""

    name: str  #: of the program, for messages
    framing: Framing
    #: Fills the process's own new home, which is removed when it ends, and says what to start.
    #: It works in the empty folder "empty" there; "tmp" is for its temporary files.
    prepare: Callable[[Path], Launch]
    #: Sent first. The answer to the first call among them says whether the program speaks the protocol.
    hello: Sequence[Message] = ()
    #: Raw bytes that are sent in place of messages, and then the end of input: for a program that serves once.
    input: bytes | None = None
    #: Names the exchange that a notification belongs to.
    route: Callable[[Message], str | None] = lambda message: ""
    #: Seconds within which every call must be answered, and the program be there.
    patience: float = 30.0


@frozen(eq=False)
class _Pending:
    """A call that has not been answered yet."""

    exchange: Exchange | None = None  #: that waits for the answer
    undo: Callable[[Any], Undo] | None = None  #: what ends that which this call began
    then: Sequence[Undo] = ()  #: what is called next
    since: float = field(factory=monotonic)


class Server:
    """Thread-safe. Two threads of its own write and read, so that nobody blocks on a pipe.

    The first exchange starts it. It is never started twice.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._lock = threading.Lock()  # over the fields below
        self._pending: dict[int, _Pending] = {}
        self._exchanges: dict[Exchange, str | None] = {}
        self._number = 0
        self._end: BackendError | None = None
        self._verdict: BackendError | None = None  # why we ended it
        self._heard = False
        self._process: subprocess.Popen[bytes] | None = None
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        for message in protocol.hello:
            self._send(message if "id" not in message else {**message, "id": self._enter(_Pending())})
        self._thread: threading.Thread | None = None

    @property
    def patience(self) -> float:
        """Seconds within which every call must be answered."""
        return self._protocol.patience

    @property
    def usable(self) -> bool:
        """Whether a new exchange may begin: it lives, and answers what it is asked."""
        with self._lock:
            oldest = min((pending.since for pending in self._pending.values()), default=inf)
        if oldest + self.patience < monotonic():
            self.hung()
        return self._end is None and self._verdict is None

    def hung(self) -> None:
        """End it, because it does not answer."""
        self.kill(UnavailableError(f"{self._protocol.name} hung: it did not answer for {self.patience:g} s"))

    def join(self, exchange: Exchange, key: str | None) -> None:
        """Take part: hear of the end, and of the notifications of this key.

        :raises BackendError: the end has come already.
        """
        with self._lock:
            if self._end is not None:
                raise copy.copy(self._end)
            self._exchanges[exchange] = key
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"pointsman-{self._protocol.name}", daemon=True)
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

    def call(
        self,
        method: str,
        params: Mapping[str, Any],
        exchange: Exchange,
        undo: Callable[[Any], Undo] | None = None,
    ) -> int:
        """Send a call of an exchange, and return its number."""
        return self._call(method, params, _Pending(exchange, undo))

    def undo(self, calls: Sequence[Undo]) -> None:
        """Send these calls, each when the one before it was answered. Nobody waits for that."""
        if calls:
            self._call(*calls[0], _Pending(then=calls[1:]))

    def _call(self, method: str, params: Mapping[str, Any], pending: _Pending) -> int:
        number = self._enter(pending)
        try:
            self._send({"id": number, "method": method, "params": params})
        except BaseException:
            with self._lock:
                self._pending.pop(number, None)
            raise
        return number

    def kill(self, why: BackendError) -> None:
        """End the process at once. Every exchange fails with `why`."""
        with self._lock:
            self._verdict = self._verdict or why
            process = self._process
        if process is not None:
            process.terminate()  # the guard: it kills the program and all its children

    def close(self) -> None:
        """End the process and wait until nothing of it is left."""
        self.kill(UnavailableError(f"{self._protocol.name} was closed while it answered", retry_same=False))
        thread = self._thread
        if thread is not None and threading.current_thread() is not thread:
            thread.join(_STOPPED_S)

    def forget(self) -> None:
        """In a forked process: let go of the pipes, which belong to our parent's process."""
        self._end = UnavailableError(f"{self._protocol.name} belongs to the parent of this forked process")
        self._lock = threading.Lock()  # whoever held it is not here
        self._exchanges.clear()
        if self._process is not None:
            _close_pipes(self._process)
            self._process.returncode = 0  # not ours to wait for

    def _enter(self, pending: _Pending) -> int:
        with self._lock:
            self._number += 1
            self._pending[self._number] = pending
            return self._number

    def _send(self, message: Message) -> None:
        self._outgoing.put(self._protocol.framing.pack(message))

    # What runs in the threads of its own.

    def _run(self) -> None:
        home = Path(tempfile.mkdtemp(prefix=f"pointsman-{self._protocol.name}-")).resolve()
        try:
            self._live(home)
        except BackendError as error:
            self._over(error)
        except Exception as error:
            self._over(UnavailableError(f"{self._protocol.name} could not be run: {type(error).__name__}: {error}"))
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _live(self, home: Path) -> None:
        for name in ("empty", "tmp"):
            (home / name).mkdir()
        launch = self._protocol.prepare(home)
        with (home / "stderr").open("wb") as errors, self._lock:
            if self._verdict is not None:
                raise self._verdict
            self._process = process = subprocess.Popen(  # noqa: S603 - the program that the user configured
                [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), str(home), *launch.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=home / "empty",
                env={**surroundings(home), **launch.environment},
                start_new_session=True,
            )
            words = (home / "stderr").open("rb")  # now: the guard removes the file before it ends
        writer = threading.Thread(target=self._write, args=(process,), name="pointsman-stdin", daemon=True)
        writer.start()
        try:
            self._read(process)
        finally:
            self._outgoing.put(None)
            _stop(process)
            writer.join()
            _close_pipes(process)
            with words:
                said = _last_line(words.read()[-4000:])
        raise self._why(process.returncode, said)

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None  # noqa: S101 - we asked for a pipe
        with contextlib.suppress(OSError, ValueError):  # it has ended; why, the reader finds out
            if self._protocol.input is not None:
                process.stdin.write(self._protocol.input)
                process.stdin.close()
            while (data := self._outgoing.get()) is not None:
                process.stdin.write(data)
                process.stdin.flush()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - we asked for a pipe
        try:
            for message in self._protocol.framing.read(process.stdout):
                self._heard = True
                if self._protocol.input is not None:
                    self._notified(message)
                elif "method" not in message and "id" in message:
                    self._answered(message)
                elif "id" in message:
                    refusal = {"code": _METHOD_UNKNOWN, "message": "not offered to this program"}
                    self._send({"id": message["id"], "error": refusal})
                else:
                    self._notified(message)
        except BrokenStream as error:
            self.kill(UnavailableError(f"{self._protocol.name} sent {error}"))

    def _answered(self, message: Message) -> None:
        with self._lock:
            pending = self._pending.pop(message["id"], _Pending())
        if "error" in message and message["id"] == 1 and self._protocol.hello:
            self.kill(ProtocolRefused(f"{self._protocol.name} refuses its protocol: {str(message['error'])[:200]}"))
            return
        self.undo(pending.then)
        if pending.exchange is not None:
            if pending.undo is not None and "error" not in message:
                pending.exchange.done(pending.undo(message.get("result")))
            pending.exchange.mailbox.put(message)

    def _notified(self, message: Message) -> None:
        key = self._protocol.route(message)
        with self._lock:
            for exchange, own in self._exchanges.items():
                if own == key and own is not None:
                    exchange.mailbox.put(message)

    def _why(self, code: int, said: str) -> BackendError:
        if self._verdict is not None:
            return self._verdict
        how = f"was killed (signal {code - 128})" if code > 128 else f"ended (exit code {code})"
        text = f"{self._protocol.name} {how}" + (f": {said}" if said else "")
        if not self._heard and self._protocol.hello:
            return ProtocolRefused(f"{text}, before it answered", status=code)
        return Ended(text, status=code)

    def _over(self, end: BackendError) -> None:
        with self._lock:
            self._end = end
            exchanges = list(self._exchanges)
            self._exchanges.clear()
            self._pending.clear()
        for exchange in exchanges:
            exchange.mailbox.put(copy.copy(end))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a guard whose program says nothing more, and bring it about if it does not come."""
    for patience, then in ((_LEAVES_S, process.terminate), (_STOPPED_S, process.kill)):
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            then()
        else:
            return
    process.wait()


def _last_line(data: bytes) -> str:
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    told = [line for line in lines if line and not line.startswith(("WARNING", "Stack backtrace", "at "))]
    told = [line for line in told if not line.partition(":")[0].isdigit()]
    return next((line for line in told if line.lower().startswith("error")), told[-1] if told else "")[:300]


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
