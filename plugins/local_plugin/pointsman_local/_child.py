"""The parent's side of the child process: starts it, notices its end, and hands its messages out.

A thread of its own starts the child and reads from it until it ends. It must be the same thread: on Linux
the child is killed when the thread that started it ends, not only when the whole process does.
"""

from __future__ import annotations

import contextlib
import copy
import os
import select
import shutil
import signal
import subprocess
import threading
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from pointsman import BackendError, BackendTimeout, InvalidModelError, Scope, UnavailableError

from ._exchange import READY, Exchange
from ._frames import MAGIC, BrokenStream, frames, pack, packed
from ._gguf import Header, read_header
from ._last_words import LastWords
from ._launch import EngineName, Launch, command, environment, private_directory


class _EngineBroken(Exception):
    """This engine does not run on this machine, whatever the model."""


class Child:
    """One child process, from its start to its end. Thread-safe. It is never started twice."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._lock = threading.Lock()  # over the four fields below
        self._exchanges: dict[int, Exchange] = {}
        self._leaving: dict[int, float] = {}  # cancelled, but not ended yet: since when
        self._count = 0
        self._end: BackendError | None = None
        self._writing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._verdict: BackendError | None = None  # why we killed it
        self._sign = monotonic()  # when it last gave a sign of life
        self.header = Header()
        self.engine: EngineName | None = None
        self.ready = False
        self._thread = threading.Thread(target=self._run, name="pointsman-local", daemon=True)
        self._thread.start()

    # What callers use.

    @property
    def usable(self) -> bool:
        """Whether a new request may be given to it: it lives, and ends what was cancelled."""
        with self._lock:
            stuck = min(self._leaving.values(), default=inf) + self._launch.hang_timeout < monotonic()
        if stuck:
            self.kill(UnavailableError("The model's process was ended: it did not stop a cancelled request."))
        return self._end is None and self._verdict is None

    def enter(self, exchange: Exchange) -> int:
        """Take a request in and return its number.

        :raises BackendError: the child has ended meanwhile.
        """
        with self._lock:
            if self._end is not None:
                raise copy.copy(self._end)
            if not self._exchanges:
                self._sign = monotonic()
            self._count += 1
            self._exchanges[self._count] = exchange
            return self._count

    def leave(self, exchange: Exchange) -> None:
        """Forget a request, and cancel it if it has not ended."""
        self.cancel(exchange)
        with self._lock:
            self._exchanges.pop(exchange.number, None)

    def cancel(self, exchange: Exchange) -> None:
        """Tell the child that nobody waits for this answer, if it works on one. Never blocks for long."""
        with self._lock:
            running = exchange.sent and exchange.number in self._exchanges
            if not running or exchange.number in self._leaving:
                return
            self._leaving[exchange.number] = monotonic()
        with contextlib.suppress(BackendError):  # it is gone, or will be found hung
            self._write(pack({"op": "cancel", "id": exchange.number}), monotonic() + 0.2)

    def send(self, payload: bytes, scope: Scope) -> None:
        """Send one message.

        :raises BackendError: the child does not take it.
        """
        hung_at = monotonic() + self._launch.hang_timeout
        try:
            self._write(packed(payload), min(scope.deadline, hung_at))
        except BackendTimeout:
            if monotonic() >= hung_at:
                self.kill(UnavailableError("The model's process hung: it does not read what it is sent."))
            raise

    def check_alive(self) -> float:
        """Return the time until which the child may say nothing. Kill it if that has passed."""
        if not self.ready:
            return inf  # the time to load is limited on its own
        until = self._sign + self._launch.hang_timeout
        if monotonic() < until or self._verdict is not None:
            return max(until, monotonic() + 1)
        self.kill(UnavailableError(f"The model's process hung: no sign of life for {self._launch.hang_timeout:g} s."))
        return inf

    def kill(self, why: BackendError) -> None:
        """End the process at once. Every request in flight fails with `why`."""
        self._verdict = self._verdict or why
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process and wait until nothing of it is left."""
        self.kill(UnavailableError("The backend was closed while it answered.", retry_same=False))
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def forget(self) -> None:
        """In a forked process: let go of the pipes, which belong to our parent's child."""
        self._end = UnavailableError("The model's process belongs to the parent of this forked process.")
        self._exchanges.clear()
        self._lock, self._writing = threading.Lock(), threading.Lock()  # whoever held them is not here
        if self._process is not None:
            _close_pipes(self._process)
            self._process.returncode = 0  # not ours to wait for

    # What runs in the thread of its own.

    def _run(self) -> None:
        end: BackendError
        try:
            path = self._launch.file()
            self.header = read_header(path)
            engines = self._launch.engines()
            for number, engine in enumerate(engines, 1):
                try:
                    self._live(path, engine)
                except _EngineBroken as error:
                    end = UnavailableError(f"The engine {engine} does not run here: {error}", retry_same=False)
                    if number < len(engines):
                        continue
                break
        except BackendError as error:
            end = error
        except Exception as error:
            end = UnavailableError(f"The model's process could not be run: {type(error).__name__}: {error}")
        self._over(end)

    def _live(self, path: Path, engine: EngineName) -> None:
        """Run one process from start to end; always raises why it ended."""
        if self._verdict is not None:
            raise self._verdict
        self.engine = engine
        directory = private_directory()
        process = subprocess.Popen(  # noqa: S603 - our own Python
            command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment(),
            start_new_session=True,
        )
        self._process = process
        assert process.stderr is not None  # noqa: S101 - we asked for a pipe
        words = LastWords(process.stderr)
        late = InvalidModelError(
            f"{path}: not loaded within {self._launch.load_timeout:g} s (load_timeout): broken, or the disk is slow."
        )
        timer = threading.Timer(self._launch.load_timeout, self.kill, (late,))
        timer.daemon = True
        timer.start()
        try:
            if self._verdict is not None:
                process.kill()
            with contextlib.suppress(BackendError):  # it is dead already; why, is found out below
                self._write(pack(self._launch.settings(path, self.header, engine, f"{directory}/http.sock")), inf)
            failure = self._read(process, timer, directory)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            words.join()
            with self._writing:
                _close_pipes(process)
            shutil.rmtree(directory, ignore_errors=True)
        raise self._why(process.returncode, failure, path, words)

    def _read(self, process: subprocess.Popen[bytes], timer: threading.Timer, directory: Path) -> dict[str, Any] | None:
        """Hand out messages until the end. Returns the message that says why nothing was loaded, if there is one."""
        stream = process.stdout
        assert stream is not None  # noqa: S101 - we asked for a pipe
        try:
            for message in frames(lambda: stream.read(1 << 16) or b"", magic=MAGIC):
                self._sign = monotonic()
                if "id" in message:
                    self._hand_out(message)
                elif message["op"] == "failed":
                    return message
                else:
                    timer.cancel()
                    shutil.rmtree(directory, ignore_errors=True)  # nobody needs to find the socket
                    self._become_ready()
        except BrokenStream as error:
            self.kill(UnavailableError(f"The model's process sent {error}."))
        return None

    def _become_ready(self) -> None:
        with self._lock:
            self.ready = True
            for exchange in self._exchanges.values():
                exchange.mailbox.put(READY)

    def _hand_out(self, message: dict[str, Any]) -> None:
        number = message["id"]
        with self._lock:
            if "end" in message or "error" in message:
                exchange = self._exchanges.pop(number, None)
                self._leaving.pop(number, None)
            else:
                exchange = self._exchanges.get(number)
        if exchange is not None:
            exchange.mailbox.put(message)

    def _why(self, code: int, failure: dict[str, Any] | None, path: Path, words: LastWords) -> Exception:
        if self._verdict is not None:
            return self._verdict
        if failure is not None:
            if failure["kind"] == "engine":
                return _EngineBroken(failure["message"])
            return InvalidModelError(f"{path}: the engine cannot load it: {words.first() or failure['message']}")
        name = _signal(code)
        if name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"):  # by others: what it said before tells nothing
            when = "" if self.ready else " while it loaded"
            return UnavailableError(f"The model's process was killed{when} ({name}): is there too little memory?")
        said = f" Its last words: {last}" if (last := words.last()) else ""
        if self.ready:
            return UnavailableError(f"The model's process died ({name}).{said}")
        if name == "SIGILL":
            return _EngineBroken("it uses instructions that this processor does not have (SIGILL)")
        return InvalidModelError(f"{path}: loading it kills the engine ({name}): the file is broken or hostile.{said}")

    def _over(self, end: BackendError) -> None:
        with self._lock:
            self._end = end
            exchanges = list(self._exchanges.values())
            self._exchanges.clear()
            self._leaving.clear()
        for exchange in exchanges:
            exchange.mailbox.put(copy.copy(end))

    def _write(self, data: bytes, deadline: float) -> None:
        """Write one frame. A child that stops reading in its middle is killed: half a frame cannot be taken back."""
        process = self._process
        if process is None or process.stdin is None or not self._writing.acquire(timeout=_wait(deadline)):
            raise BackendTimeout("the model's process takes no request at the moment")
        try:
            view, pipe = memoryview(data), process.stdin.fileno()
            while view:
                if os.name == "posix" and not select.select([], [pipe], [], _wait(deadline))[1]:
                    if len(view) < len(data):
                        self.kill(UnavailableError("The model's process stopped reading in the middle of a request."))
                    raise BackendTimeout("the model's process did not read the request in time")
                view = view[os.write(pipe, view[: select.PIPE_BUF if os.name == "posix" else None]) :]
        except BackendTimeout:  # is an OSError too
            raise
        except (OSError, ValueError) as error:
            raise UnavailableError("The model's process died before it took the request.") from error
        finally:
            self._writing.release()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _wait(deadline: float) -> float:
    """Return the seconds until `deadline`, at most a day: that long a lock and a pipe can wait."""
    return min(max(0.0, deadline - monotonic()), 86_400.0)


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
