"""The child process: loads one model and answers through the pipe until its parent is gone.

    python -P -c "..." (see `_launch.command`)

Its own fds 0 and 1 are the pipe; they are moved away before anything else is imported, so that whatever
the engine prints goes to fd 2, where the parent reads why it failed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from queue import SimpleQueue
from typing import Any, NoReturn

from ._engines import Engine, EngineMissing, Refused
from ._frames import MAGIC, frames, pack


def main() -> NoReturn:
    """Serve, and leave without cleaning up: llama.cpp hangs or aborts in its destructors."""
    code = 0
    try:
        _Server(*_own_pipe()).run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    os._exit(code)


def _own_pipe() -> tuple[int, int]:
    """Move the pipe off fds 0 and 1: the library may read and print, but not there."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return incoming, outgoing


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill us when our parent's thread ends; elsewhere the end of the pipe does it after the load."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.name == "posix" and os.getppid() != parent:
        os._exit(0)


def _limit(settings: dict[str, Any]) -> None:
    """Bound what a hostile file can take: memory, time to load, and no core dumps."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every platform, not above a hard limit
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if settings["memory"]:
            resource.setrlimit(resource.RLIMIT_AS, (settings["memory"], settings["memory"]))


def _load(settings: dict[str, Any]) -> Engine:
    if settings["engine"] == "xllamacpp":
        from ._engines import xllamacpp

        return xllamacpp.load(settings)
    from ._engines import llama_cpp_python

    return llama_cpp_python.load(settings)


class _Request:
    """One request, and whether somebody still waits for its answer."""

    __slots__ = ("body", "cancelled", "id")

    def __init__(self, number: int, body: dict[str, Any]) -> None:
        self.id = number
        self.body = body
        self.cancelled = False


class _Server:
    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._writing = threading.Lock()
        self._waiting: SimpleQueue[_Request] = SimpleQueue()  # first come, first served
        self._requests: dict[int, _Request] = {}

    def run(self) -> None:
        """Load, then read until the end of the pipe."""
        os.write(self._outgoing, MAGIC)
        messages = frames(lambda: os.read(self._incoming, 1 << 16))
        settings = next(messages, None)
        if settings is None:
            return
        _die_with_parent(settings["parent"])
        _limit(settings)
        if hasattr(signal, "alarm"):  # a load holds the GIL: without this it would outlive a parent that is gone
            signal.alarm(int(settings["load_timeout"]) + 2)
        try:
            engine = _load(settings)
        except Exception as error:
            self._send(
                {
                    "op": "failed",
                    "kind": "engine" if isinstance(error, EngineMissing) else "model",
                    "message": str(error),
                }
            )
            return
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        for _ in range(engine.slots):
            threading.Thread(target=self._work, args=(engine,), daemon=True).start()
        self._send({"op": "ready"})
        for message in messages:
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if message["op"] == "ask":
            request = self._requests[message["id"]] = _Request(message["id"], message["body"])
            self._waiting.put(request)
        elif message["id"] in self._requests:
            self._requests[message["id"]].cancelled = True

    def _work(self, engine: Engine) -> None:
        while True:
            request = self._waiting.get()
            last = self._answer(engine, request)
            self._requests.pop(request.id, None)
            self._send({"id": request.id, **last})

    def _answer(self, engine: Engine, request: _Request) -> dict[str, Any]:
        """Return the last message about the request."""
        last: dict[str, Any] = {}

        def emit(event: dict[str, Any]) -> None:
            if "end" in event:
                last.update(event)
            else:
                self._send({"id": request.id, **event})

        try:
            if not request.cancelled:
                engine.answer(request.body, emit, lambda: request.cancelled)
        except Refused as error:
            return {"error": {"kind": error.kind, "message": str(error), "limit": error.limit, "needed": error.needed}}
        except Exception as error:
            return {"error": {"kind": "engine", "message": f"{type(error).__name__}: {error}"}}
        if request.cancelled:
            return {"error": {"kind": "cancelled", "message": "cancelled"}}
        return last or {"error": {"kind": "unusable", "message": "the engine ended without saying why"}}

    def _send(self, message: dict[str, Any]) -> None:
        data = memoryview(pack(message))
        with self._writing:
            try:
                while data:
                    data = data[os.write(self._outgoing, data) :]
            except OSError:
                os._exit(0)  # the parent is gone
