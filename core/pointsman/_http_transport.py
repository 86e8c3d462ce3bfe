"""One request and its answer over a connection whose every wait obeys the `Scope` of the running call.

A per-read timeout lets a server that drips one byte a second hold a call for ever. So before each
send and receive the socket is given what is left of the time. Cancelling the call shuts the socket
down, which wakes the thread that waits on it. `http.client` reads the answers; connections are ours
(`_http_connect`), because no library has them with a limit for the whole.
"""

from __future__ import annotations

import re
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPResponse, IncompleteRead
from io import BufferedReader, RawIOBase
from math import inf
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any

from .errors import BackendError, BackendTimeout, UnavailableError, UnusableAnswer
from .scope import Scope
from .secret import Secret

if TYPE_CHECKING:
    from ._http_connect import Server

Headers = Mapping[str, str | Secret]
CONNECT_S = 10.0  # who does not take a connection by then is not worth the rest of the deadline
MAX_BODY = 64 << 20  #: bytes of a plain answer; a longer one is unusable
_PIECE = 1 << 16
#: sign in the name or text of an exception -> what it means
_TROUBLE = {
    "CERTIFICATE_VERIFY": "its certificate is not trusted: check base_url, or name your authorities in SSL_CERT_FILE",
    "FileNotFound": "no such file: check REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE",
    "SSL|BadStatusLine": "it speaks another protocol: is base_url http or https?",
    "gaierror|NameRes|Unicode|Refused|NewConn|Proxy": "no connection: check the server, base_url and the proxy",
    "": "the connection broke",
}


class Exchange:
    """One request on its way, and what comes back. One thread runs it; any thread may cancel its scope."""

    def __init__(self, scope: Scope, host: str, named: str = "base_url") -> None:
        self.scope, self.host = scope, host
        self.named = named  #: what the option that holds the server's address is called
        self.step_by = scope.first_byte_by  #: when what is awaited now must have come, within the deadline
        self.late = "did not begin to answer in time"  #: what the server is blamed for if it has not
        self.whole = False  #: all that matters has come: the rest may fail
        self.done = False
        self.heard = False
        self.method = "POST"  #: an answer to HEAD has no body
        self.answer: Any = None  #: of `http.client`, or of `urllib3` where a session sends
        self.receive: Callable[[int], bytes] | None = None  #: what gives out its body, in place of its own `read1`
        self.wake: Callable[[], object] | None = None  #: ends what the thread waits for
        self.server: Server | None = None  #: who gets the connection back
        self._sock: Any = None
        self._packing = ""
        self._unpacker: Any = None  #: of an answer that comes packed
        self.early = bytearray()  #: of the answer, what came while the request was sent
        self._lock = RLock()  # not a plain one: a collected stream may close itself inside
        self._forget = scope.on_cancel(self._abort)

    def left(self) -> float:
        """Seconds until the nearest limit.

        :raises TimeoutError: it has passed, or nobody waits any more.
        """
        left = min(self.scope.deadline, self.step_by) - monotonic()
        if left <= 0 or self.scope.cancelled:
            raise TimeoutError
        return min(left, 1e8)  # `settimeout` knows no infinity

    def step(self, action: Callable[..., Any], *args: Any) -> Any:
        """Take one step and return what it returns; if it fails, end the exchange.

        What the lower libraries raise may lead to a key, by its text, a variable or its cause. So what it means is
        raised here, where none is in sight.

        :raises BackendError: the step raised anything.
        """
        try:
            return action(*args)
        except BaseException as error:
            failure = self._meaning(error).with_traceback(None) if isinstance(error, Exception) else error
        del args
        self.close()
        raise failure

    def hold(self, sock: socket.socket) -> None:
        """Run on `sock` from now on, in place of what there was before."""
        if self._sock is not None:
            self._sock.close()
        self._sock = sock
        self.wake = partial(socket.socket.shutdown, sock, socket.SHUT_RDWR)  # SSLSocket's own would forget its keys

    def ready(self) -> Any:
        """Return the socket, for one operation: it may take no longer than is left."""
        self._sock.settimeout(self.left())
        return self._sock

    def ask(self, request: bytes) -> None:
        """Send these bytes, and wait for the headers of the answer. No redirect is followed."""
        rest = memoryview(request)
        with suppress(BrokenPipeError, ConnectionResetError):  # who answers early need not read it all
            while rest:
                rest = rest[self.ready().send(rest[:_PIECE]) :]
        self.listen()

    def push(self, data: bytes) -> bool:
        """Send these bytes of a longer request; say whether the rest is wanted: not once the server refuses it."""
        rest = memoryview(data)
        with suppress(BrokenPipeError, ConnectionResetError):
            while rest:
                if self._is_refused():
                    return False
                rest = rest[self.ready().send(rest[:_PIECE]) :]
            return True
        return False

    def _is_refused(self) -> bool:
        """Wait until the server takes more, or says why it does not."""
        listening = EVENT_READ if len(self.early) < _PIECE else 0
        with DefaultSelector() as both:
            both.register(self._sock, EVENT_WRITE | listening)
            while not (happened := both.select(min(self.left(), 60.0))):  # it knows no longer waits
                pass
        if any(events & EVENT_READ for _, events in happened):
            self._sock.settimeout(0)
            with suppress(BlockingIOError, ssl.SSLWantReadError):  # under TLS, what came may not have been for us
                came = self._sock.recv(_PIECE)
                self.early += came
                if not came:
                    return True
        return bytes(self.early[9:10]) not in (b"", b"1", b"2")  # of "HTTP/1.1 200"

    def listen(self) -> None:
        """Wait for the headers of the answer."""
        incoming: Any = _Incoming(self)  # of a socket it only wants makefile
        self.answer = HTTPResponse(incoming, method=self.method)
        self.answer.begin()
        while self.answer.status < 200:  # `http.client` itself passes over none but 100
            self.answer.headers = None
            self.answer.begin()

    def read(self) -> bytes:
        """Return what has come; b"" at the end."""
        try:
            return bytes(self.step(self._read))
        except BackendError:
            if self.scope.cancelled or not self.whole:
                raise
            return b""

    def read_all(self, wait_s: float = inf) -> bytes:
        """Return the whole body."""
        self.step_by, self.late = monotonic() + wait_s, "did not finish in time"
        data = bytearray()
        while piece := self.read():
            data += piece
            if len(data) > MAX_BODY:
                raise UnusableAnswer(f"{self.host} answered with more than {MAX_BODY} bytes")
        return bytes(data)

    def _read(self) -> bytes:
        if self.done:
            return b""
        piece = b""
        while not piece:
            self.left()
            came: bytes = (self.receive or self.answer.read1)(_PIECE)
            piece = self._unpacked(came)
            if not came:
                if missing := getattr(self.answer, "length", None):
                    raise IncompleteRead(b"", missing)
                self.close(at_end=True)
                break
        return piece

    def _unpacked(self, came: bytes) -> bytes:
        """Return what these bytes stand for: some servers pack their answers, though they were asked not to."""
        packing = self._packing = self._packing or self.answer.headers.get("content-encoding", "identity").lower()
        if packing == "identity":
            return came
        if packing not in ("gzip", "x-gzip", "deflate"):
            raise UnusableAnswer(
                f"{self.host} packed its answer with {packing!r:.30}, though it was asked for a plain one"
            )
        if self._unpacker is None:
            self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either form
        if not came and not self._unpacker.eof:
            raise IncompleteRead(b"")
        return bytes(self._unpacker.decompress(came))

    def close(self, *, at_end: bool = False) -> None:
        """End the exchange, and close the connection unless its answer has been read to its end."""
        if self.done:
            return
        self.done = True
        self._forget()
        del self._forget  # it refers back to here
        with self._lock:  # a later cancel must not reach the socket, which may serve another call by then
            self.wake = None
        if self.answer is not None:
            self.answer.close()
        if at_end and self.server is not None and not self.answer.will_close:
            self.server.idle.append(self._sock)
        elif self._sock is not None:
            self._sock.close()

    def _abort(self) -> None:
        with self._lock, suppress(OSError, RuntimeError, ValueError):
            if self.wake is not None:
                self.wake()

    def _meaning(self, error: Exception) -> BackendError:
        if self.scope.cancelled:
            return UnavailableError("the call was cancelled", retry_same=False, try_next=False)
        if isinstance(error, BackendError):
            return error
        kind = f"{type(error).__name__} {error}"
        if isinstance(error, TimeoutError) or "Timeout" in kind:
            return BackendTimeout(f"{self.host} {self.late}")
        if isinstance(error, zlib.error) or re.search("IncompleteRead|InvalidChunk", kind):
            return UnusableAnswer(f"{self.host} sent an answer that is cut or broken")
        what = next(words for sign, words in _TROUBLE.items() if re.search(sign, kind))
        what = what.replace("base_url", self.named)
        return UnavailableError(f"{self.host}: {what} ({type(error).__name__})", retry_same=False)


class _Incoming(RawIOBase):
    """What an exchange receives, as `http.client` reads it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def makefile(self, _mode: str) -> BufferedReader:
        return BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if early := self._exchange.early:
            count = min(len(buffer), len(early))
            buffer[:count] = early[:count]
            del early[:count]
        else:
            count = int(self._exchange.ready().recv_into(buffer))
        self._exchange.heard = self._exchange.heard or count > 0
        return count


def revealed(value: str | Secret) -> str:
    """Return what is sent of a header's value."""
    return value.reveal() if isinstance(value, Secret) else value.strip()
