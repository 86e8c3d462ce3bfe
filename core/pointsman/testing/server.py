"""A server that plays faults: what a provider's worst day looks like, on loopback, byte for byte.

    with FaultServer([faults.status(503), faults.well()]) as server:
        ...                     # point the provider at server.url
        server.log              # what it saw

It speaks OpenAI's wire formats (`/v1/chat/completions`, `/v1/responses`, `/v1/models`); any other is
given as `wires`. It runs in a thread of its own and leaves nothing behind when it stops.

What depends on time (`faults.flapping`) goes by the server's clock, and so do the times in its log: a
`pointsman.testing.Clock` puts both forward.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal

from attrs import Factory, define, field

from ..scope import Clock
from . import faults as _faults
from ._connection import ClientGone, Connection, Exchange, serve
from .answers import Wire
from .anthropic_messages import Messages
from .faults import Fault
from .gemini_content import GenerateContent
from .huggingface import TGI, HuggingFace
from .openai_chat import Chat
from .openai_responses import Responses
from .openrouter import OpenRouter

#: One fault or callable, or several to be played one after another; the last is played again and again.
Script = Fault | Callable[["Seen"], Fault] | Iterable[Fault | Callable[["Seen"], Fault]]

#: Names of headers that carry a key, whatever a service calls its own.
_KEY_HEADERS = re.compile(r"\b(authorization|cookie|key|token|secret)\b")


@define(eq=False)
class Visit:
    """One connection as the server saw it. Times are of the server's clock."""

    number: int  #: from 1
    clock: Clock = field(factory=Clock, repr=False)
    opened_at: float = field(default=Factory(lambda self: self.clock.now(), takes_self=True))
    closed_at: float | None = None
    closed_by: Literal["client", "server"] | None = None
    _over: threading.Event = field(factory=threading.Event, init=False, repr=False)

    def wait_closed(self, timeout: float = 10.0) -> bool:
        """Wait until either side has closed it; False if neither has in `timeout` seconds."""
        return self._over.wait(timeout)

    def ended(self, by: Literal["client", "server"]) -> None:
        """Note who closed it."""
        self.closed_at, self.closed_by = self.clock.now(), by
        self._over.set()


@define(eq=False)
class Seen:
    """One request as the server saw it. Times are of the server's clock: `time.monotonic()` unless it was given one."""

    number: int  #: from 1, over all paths; connections that were reset before they asked count too
    method: str = ""
    path: str = ""
    headers: Mapping[str, str] = field(factory=dict)  #: names in lower case, keys masked
    raw: bytes = field(default=b"", repr=False)  #: the body as it came
    key: str | None = field(default=None, repr=False)  #: the key that came in a header, without "Bearer"
    prompt: str = ""  #: the text of the last user message, as the wire format has it
    model: str = ""  #: that was asked for, in the body or the path
    visit: Visit = field(factory=lambda: Visit(0), repr=False)  #: the connection on which it came
    arrived_at: float = field(default=Factory(lambda self: self.visit.clock.now(), takes_self=True), repr=False)
    fault: str = ""  #: name of what was played
    sent: int = 0  #: bytes of the answer
    ended_at: float | None = field(default=None, repr=False)  #: when the server had played to the end
    closed_at: float | None = field(default=None, repr=False)  #: when the client closed the connection
    _left: threading.Event = field(factory=threading.Event, init=False, repr=False)

    @property
    def body(self) -> Any:
        """The body's JSON; None if it is none."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return None

    @property
    def request_id(self) -> str:
        """What the server sends as `x-request-id`."""
        return f"req_{self.number:032d}"

    @property
    def cancelled(self) -> bool:
        """Whether the client went before the server had played to the end."""
        return self.closed_at is not None and self.ended_at is None

    @property
    def active(self) -> bool:
        """Whether the server still plays, and the client is still there."""
        return self.closed_at is None and self.ended_at is None

    def wait_closed(self, timeout: float = 10.0) -> bool:
        """Wait until the client has closed the connection; False if it has not in `timeout` seconds."""
        return self._left.wait(timeout)

    def client_left(self) -> None:
        """Note that the client closed the connection."""
        self.closed_at = self.visit.clock.now()
        self._left.set()

    def answered(self) -> None:
        """Note that the server has played to the end."""
        self.ended_at = self.visit.clock.now()


#: End of a path -> what is spoken there; the first that fits counts.
_WIRES: Mapping[str, Wire] = {
    "/api/v1/chat/completions": OpenRouter(),
    "/hf/v1/chat/completions": HuggingFace(),
    "/tgi/v1/chat/completions": TGI(),
    "/chat/completions": Chat(),
    "/responses": Responses(),
    "/messages": Messages(),
    ":generateContent": GenerateContent(),
    ":streamGenerateContent": GenerateContent(streamed=True),
    "/v1beta/models": GenerateContent(),
}


class FaultServer:
    """An HTTP server on a loopback port of its own that answers each request as its script says.

    :param script: what to play for POST requests; nothing means `faults.well()`.
    :param paths: scripts of their own for some paths, GET or POST ("/v1/models"); every one counts by itself.
    :param wires: end of a path -> the wire format that is spoken there.
    :param clock: what timetables and the log go by; real time unless given.

    Thread-safe. Errors of your own callables are raised by `stop`.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        paths: Mapping[str, Script] | None = None,
        wires: Mapping[str, Wire] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._log: list[Seen] = []
        self._visits: list[Visit] = []
        self._errors: list[Exception] = []
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._ready: Future[int] = Future()
        self._wires = wires or _WIRES
        self._paths = {path: _Steps(own) for path, own in (paths or {}).items()}
        self.play(script)
        self._thread = threading.Thread(target=self._run, name="pointsman-fault-server", daemon=True)

    def play(self, script: Script, *, everywhere: bool = False) -> None:
        """Play another script from the next request on; `everywhere` also for GET, whatever the path."""
        self._steps, self._everywhere = _Steps(script), everywhere

    def start(self) -> FaultServer:
        """Begin to listen; `with` does it."""
        self._thread.start()
        self.port = self._ready.result(30)
        return self

    def stop(self) -> None:
        """End every connection, task and the thread; the port is free afterwards.

        :raises ExceptionGroup: a callable of the script failed.
        """
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(30)
        if self._errors:
            raise ExceptionGroup("the fault server's script failed", self._errors)

    def __enter__(self) -> FaultServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What a provider takes as `base_url`."""
        return f"{self.origin}/v1"

    @property
    def tls_url(self) -> str:
        """The same with https: no TLS is spoken here, so the handshake fails (row 6)."""
        return f"https://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> tuple[Seen, ...]:
        """All requests so far, in the order in which they came."""
        with self._lock:
            return tuple(self._log)

    @property
    def asked(self) -> tuple[Seen, ...]:
        """The requests for answers: the log without `GET`."""
        return tuple(seen for seen in self.log if seen.method != "GET")

    @property
    def visits(self) -> tuple[Visit, ...]:
        """All connections so far, in the order in which they came."""
        with self._lock:
            return tuple(self._visits)

    def history(self) -> str:
        """Tell for a person what happened and when: connections, requests, and what was played to them."""
        told: list[tuple[float, str]] = []
        for visit in self.visits:
            told.append((visit.opened_at, f"connection {visit.number} opened"))
            if visit.closed_at is not None:
                told.append((visit.closed_at, f"connection {visit.number} closed by the {visit.closed_by}"))
        for seen in self.log:
            told.append((seen.arrived_at, f"request {seen.number} on connection {seen.visit.number}: {seen.fault}"))
            if seen.ended_at is not None:
                told.append((seen.ended_at, f"request {seen.number} played to the end, {seen.sent} bytes"))
        told.sort(key=lambda line: line[0])
        return "\n".join(f"{at - told[0][0]:10.3f} s  {what}" for at, what in told)

    def wait_for(self, count: int, timeout: float = 10.0) -> tuple[Seen, ...]:
        """Wait until `count` requests for answers have come, and return them.

        :raises TimeoutError: they have not in `timeout` seconds.
        """
        self._wait(lambda: sum(s.method != "GET" for s in self._log) >= count, timeout, f"{count} requests")
        return self.asked

    def wait_active(self, timeout: float = 10.0) -> None:
        """Wait until the server is at work on a request for an answer.

        :raises TimeoutError: it is not within `timeout` seconds.
        """
        self._wait(lambda: any(s.method != "GET" and s.active for s in self._log), timeout, "one at work")

    def _wait(self, found: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(found, timeout):
                raise TimeoutError(f"in {timeout:g} s the server saw {len(self._log)} requests, expected {what}")

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        listener = await self._loop.create_server(self._connection, "127.0.0.1", 0)
        self._ready.set_result(listener.sockets[0].getsockname()[1])
        await self._stopping.wait()
        listener.close()
        tasks = list(self._connections.values())
        for connection, task in list(self._connections.items()):
            task.cancel()
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
        await asyncio.sleep(0)  # lets the aborted transports close their sockets

    def _connection(self) -> Connection:
        visit = Visit(len(self._visits) + 1, self.clock)
        with self._lock:
            self._visits.append(visit)
        return Connection(visit, self._opened, self._closed)

    def _opened(self, connection: Connection) -> None:
        self._connections[connection] = self._loop.create_task(self._serve(connection))

    def _closed(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    async def _serve(self, connection: Connection) -> None:
        try:
            if self._steps.resets_on_connect():
                fault = self._steps.next(None).name
                self._see(Seen(self._next_number(), fault=fault, visit=connection.visit))
                connection.reset()
                return
            await serve(connection, self._fault_for, self._exchange)
        except ClientGone:
            pass
        except Exception as error:
            self._errors.append(error)
        finally:
            connection.close()

    def _next_number(self) -> int:
        return len(self._log) + 1

    def _see(self, seen: Seen) -> None:
        with self._changed:
            self._log.append(seen)
            self._changed.notify_all()

    def _exchange(
        self, connection: Connection, method: str, target: str, headers: dict[str, str], raw: bytes
    ) -> Exchange:
        given = next((headers[name] for name in sorted(headers) if _KEY_HEADERS.search(name)), None)
        masked = {name: "***" if _KEY_HEADERS.search(name) else value for name, value in headers.items()}
        key = given and given.removeprefix("Bearer ")
        seen = Seen(self._next_number(), method, target, masked, raw, key, visit=connection.visit)
        self._see(seen)
        path = target.partition("?")[0]
        wire = next((wire for end, wire in self._wires.items() if path.endswith(end)), None)
        wire = wire or self._wires.get("/chat/completions") or next(iter(self._wires.values()))
        exchange = Exchange(connection, seen, wire, self.origin)
        seen.prompt, seen.model = exchange.ask.prompt, exchange.ask.model
        return exchange

    def _fault_for(self, seen: Seen) -> Fault:
        path = seen.path.partition("?")[0]
        if path in self._paths and not self._everywhere:
            return self._paths[path].next(seen)
        if seen.method == "POST" or self._everywhere:
            return self._steps.next(seen)
        return _faults.models() if path.endswith("/models") else _faults.no_such_page()


class _Steps:
    """A script and the place in it. Used by the server's loop only."""

    def __init__(self, script: Script) -> None:
        single = isinstance(script, Fault) or callable(script)
        steps = [script] if single else list(script)  # type: ignore[arg-type]  # told apart just before
        self._steps: list[Fault | Callable[[Seen], Fault]] = steps or [_faults.well()]  # type: ignore[assignment]

    def resets_on_connect(self) -> bool:
        step = self._steps[0]
        return isinstance(step, Fault) and step.on_connect

    def next(self, seen: Seen | None) -> Fault:
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return step if isinstance(step, Fault) or seen is None else step(seen)  # type: ignore[return-value]
