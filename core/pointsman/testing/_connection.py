"""One client's connection to the fault server, byte by byte.

Written on `asyncio.Protocol`, because everything above it refuses to do what a fault needs: to
reset, to stall in mid-header, to cut a chunk, to lie about a length.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from attrs import evolve

from .answers import Answer, Ask, Event, Wire

if TYPE_CHECKING:
    from .faults import Fault
    from .server import Seen, Visit

_RESET = struct.pack("ii", 1, 0)  # linger for no time: close() sends RST and not FIN
_TLS_HANDSHAKE = 22  # first byte of a ClientHello (RFC 8446, 5.1)
_PAUSE = 0.002  # seconds between two writes that must arrive apart


class ClientGone(Exception):
    """The client closed the connection while the server was still at work."""


class Connection(asyncio.Protocol):
    """Reads requests one after another and lets the script's faults answer them."""

    def __init__(
        self, visit: Visit, opened: Callable[[Connection], None], closed: Callable[[Connection], None]
    ) -> None:
        self.visit = visit
        self._opened, self._closed = opened, closed
        self._buffer = bytearray()
        self._woken = asyncio.Event()  # data came, or the client went
        self._writable = asyncio.Event()
        self._writable.set()
        self._ours = False  # we closed it, not the client
        self.gone = asyncio.Event()
        self.on_gone: Callable[[], None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Keep what came for whoever reads next."""
        self._buffer += data
        self._woken.set()

    def eof_received(self) -> bool:
        """Take the end of the client's stream for the end of the client."""
        self._went()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is no more, whoever ended it."""
        self._went()
        self._writable.set()
        self._closed(self)

    def pause_writing(self) -> None:
        """Wait with writing: the client does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Write on."""
        self._writable.set()

    def _went(self) -> None:
        if not self.gone.is_set():
            self.gone.set()
            self._woken.set()
            self.visit.ended("server" if self._ours else "client")
            if self.on_gone is not None and not self._ours:
                self.on_gone()

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client's buffers are full.

        :raises ClientGone: nobody is there any more.
        """
        if self.gone.is_set():
            raise ClientGone
        self.transport.write(data)
        await self._writable.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not longer than the client does.

        :raises ClientGone: it went meanwhile.
        """
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            return
        raise ClientGone

    def close(self) -> None:
        """Close with FIN, after what was written."""
        self._ours = True
        self.transport.close()

    def reset(self) -> None:
        """Close with RST, at once."""
        if not self.transport.is_closing():
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort()

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        self._ours = True
        self.transport.abort()

    async def first_byte(self) -> bool:
        """Wait for the next request to begin; False if the client goes away, or speaks TLS, which nobody here does."""
        if not await self._fill(1):
            return False
        if self._buffer[0] == _TLS_HANDSHAKE:
            await self.write(head(400, {"Connection": "close", "Content-Length": "0"}))
            return False
        return True

    async def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            if self.gone.is_set():
                return False
            self._woken.clear()
            await self._woken.wait()
        return True

    async def _line(self) -> bytes | None:
        while (end := self._buffer.find(b"\n")) < 0:
            if not await self._fill(len(self._buffer) + 1):
                return None
        return self._take(end + 1).rstrip(b"\r\n")

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def read_head(self) -> tuple[str, str, dict[str, str]] | None:
        """Return method, target and headers (names in lower case); None at the end of the client."""
        lines = []
        while line := await self._line():
            lines.append(line.decode("latin-1"))
        if line is None or not lines:
            return None
        method, _, rest = lines[0].partition(" ")
        headers = (header.partition(":") for header in lines[1:])
        return method, rest.partition(" ")[0], {name.strip().lower(): value.strip() for name, _, value in headers}

    async def read_body(self, headers: Mapping[str, str]) -> bytes | None:
        """Return the body, of a given length or chunked; None if the client went before its end."""
        if headers.get("transfer-encoding", "").lower() != "chunked":
            size = int(headers.get("content-length") or 0)
            return self._take(size) if await self._fill(size) else None
        body = b""
        while (line := await self._line()) is not None:
            size = int(line.partition(b";")[0] or b"0", 16)
            if not await self._fill(size + 2):
                return None
            body += self._take(size + 2)[:size]
            if size == 0:
                return body
        return None


class Exchange:
    """One request and the way to answer it: what a fault gets to play with."""

    def __init__(self, connection: Connection, seen: Seen, wire: Wire, origin: str) -> None:
        self._connection = connection
        self.wire = wire  #: the wire format of this request's path
        self._chunked = False
        self.seen = seen
        self.origin = origin  #: of the server: "http://127.0.0.1:PORT"
        self.ask: Ask = evolve(wire.ask(seen.body), id=seen.request_id)
        if named := re.search("/models/([^/:]+):", seen.path):  # where Google's API has the model
            self.ask = evolve(self.ask, model=named[1])

    @property
    def streamed(self) -> bool:
        """Whether the client wants a stream."""
        return self.ask.streamed

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        await self._connection.write(data)
        self.seen.sent += len(data)

    async def send_apart(self, pieces: Iterable[bytes]) -> None:
        """Send each piece on its own: its own chunk if the body is chunked, and a packet of its own."""
        for piece in pieces:
            await (self.chunk(piece) if self._chunked else self.send(piece))
            await self.sleep(_PAUSE)

    async def sleep(self, seconds: float) -> None:
        """Wait; ends with `ClientGone` when the client closes the connection meanwhile."""
        await self._connection.sleep(seconds)

    async def hold(self) -> None:
        """Say nothing more and wait until the client goes."""
        await self._connection.gone.wait()
        raise ClientGone

    def reset(self) -> None:
        """End the connection with RST."""
        self._connection.reset()

    def close(self) -> None:
        """End the connection with FIN."""
        self._connection.close()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and the headers."""
        await self.send(head(status, headers))

    async def respond(
        self,
        status: int,
        body: bytes | Any,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        """Send a whole response; a body that is not bytes is sent as JSON. `length` is the one to claim.

        The answer to HEAD has the headers alone (RFC 9110, 9.3.2).
        """
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        said = {"Content-Type": content_type, "Content-Length": str(len(data) if length is None else length)}
        await self.head(status, {**said, "x-request-id": self.seen.request_id, **(headers or {})})
        if self.seen.method != "HEAD":
            await self.send(data)

    async def begin_stream(self, *, chunked: bool = True) -> None:
        """Send the head of an event stream. Without chunks its end is the end of the connection."""
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        kind = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        await self.head(200, {**kind, "x-request-id": self.seen.request_id, **framing})
        self._chunked = chunked

    async def chunk(self, data: bytes) -> None:
        """Send a piece of the stream."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def events(self, events: Iterable[Event], *, gap: float = 0.0) -> None:
        """Send events, each a chunk of its own, with `gap` seconds before each but the first."""
        for number, event in enumerate(events):
            if number and gap:
                await self.sleep(gap)
            await self.chunk(event.encode())

    async def end_stream(self) -> None:
        """End the stream as it should end."""
        if self._chunked:
            await self.send(b"0\r\n\r\n")
        else:
            self.close()

    async def answer(self, answer: Answer | None = None, *, gap: float = 0.0) -> None:
        """Answer as a well server does, plain or streamed as asked; None: what `Ask.answer` makes."""
        answer = answer or self.ask.answer()
        if not self.streamed:
            await self.respond(200, self.wire.body(answer, self.ask))
            return
        await self.begin_stream()
        await self.events(self.wire.events(answer, self.ask), gap=gap)
        await self.end_stream()


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return a status line and headers as bytes, with the blank line that ends them."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def serve(connection: Connection, next_fault: Callable[[Seen], Fault], new: Callable[..., Exchange]) -> None:
    """Answer one request after another until either side wants the connection to end."""
    while await connection.first_byte():
        request = await connection.read_head()
        body = request and await connection.read_body(request[2])
        if request is None or body is None:
            return
        exchange = new(connection, *request, body)
        seen = exchange.seen
        connection.on_gone = seen.client_left
        if connection.gone.is_set():  # it had asked, and left before we came to its request
            seen.client_left()
        fault = next_fault(seen)
        seen.fault = fault.name
        try:
            await fault.play(exchange)
        except ClientGone:
            return
        seen.answered()
        if request[2].get("connection", "").lower() == "close":
            return
