"""One request and its answer over a connection whose every wait obeys the `Scope` of the running call.

A per-read timeout lets a server that drips one byte a second hold a call for ever. So before each
send and receive the socket is given what is left of the time. Cancelling the call shuts the socket
down, which wakes the thread that waits on it. `http.client` reads the answers; idle connections and
the tunnel through a proxy are ours, because no library has them with a limit for the whole.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import lru_cache, partial
from http.client import HTTPResponse, IncompleteRead
from io import BufferedReader, RawIOBase
from math import inf
from threading import RLock, Thread
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from .errors import BackendError, BackendTimeout, UnavailableError, UnusableAnswer
from .scope import Scope
from .secret import Secret

Headers = Mapping[str, str | Secret]
AT_ONCE_S = 0.5
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

    def __init__(self, scope: Scope, host: str) -> None:
        self.scope, self.host = scope, host
        self.step_by = scope.first_byte_by  #: when what is awaited now must have come, within the deadline
        self.late = "did not begin to answer in time"  #: what the server is blamed for if it has not
        self.whole = False  #: all that matters has come: the rest may fail
        self.done = False
        self.heard = False
        self.answer: Any = None  #: of `http.client`, or of `urllib3` where a session sends
        self.wake: Callable[[], object] | None = None  #: ends what the thread waits for
        self.server: Server | None = None  #: who gets the connection back
        self._sock: Any = None
        self._unpacker: Any = None  #: of an answer that comes packed
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
        self.answer = HTTPResponse(_Incoming(self))  # type: ignore[arg-type] # of a socket it only wants makefile
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
            came: bytes = self.answer.read1(_PIECE)
            piece = self._unpacked(came)
            if not came:
                if missing := getattr(self.answer, "length", None):
                    raise IncompleteRead(b"", missing)
                self.close(at_end=True)
                break
        return piece

    def _unpacked(self, came: bytes) -> bytes:
        """Return what these bytes stand for: some servers pack their answers, though they were asked not to."""
        packing = self.answer.headers.get("content-encoding", "identity").lower()
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
        count = int(self._exchange.ready().recv_into(buffer))
        self._exchange.heard = self._exchange.heard or count > 0
        return count


class Server:
    """The way to a server, read from the environment as `requests` does, and the idle connections. Thread-safe."""

    def __init__(self, origin: str) -> None:
        self.idle: list[socket.socket] = []
        self._pid = os.getpid()
        self._url = urlsplit(origin)
        self._tls = _tls(_authorities()) if self._url.scheme == "https" else None
        self._proxy, self._login = _proxy_for(origin)

    def send(self, exchange: Exchange, method: str, target: str, headers: Headers, body: bytes) -> None:
        """Send a request over an idle connection or a new one, and wait for the headers of the answer."""
        headers = {"host": self._url.netloc, "user-agent": "pointsman", **headers}
        if self._proxy and not self._tls:
            target, headers = self._url.geturl() + target, {**headers, **self._login}
        request = _head(method, target, headers) + body
        exchange.server = self
        if self._lend(exchange):
            began = monotonic()
            try:
                return exchange.ask(request)
            except OSError:
                # A server that closes an idle connection just when our request comes never takes it up (llama.cpp's
                # does so often). From here it looks like a server that dies at its work, which may have been paid
                # for. So we send it again only where there was no time for any work: the connection had served
                # before, and ended at once, without a byte. That is the transport's matter, not a retry.
                if exchange.heard or monotonic() - began > AT_ONCE_S:
                    raise
        self._connect(exchange)
        return exchange.ask(request)

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(IndexError):
            while True:
                self.idle.pop().close()

    __del__ = close

    def _lend(self, exchange: Exchange) -> bool:
        """Let `exchange` run on an idle connection, if there is one where nothing came since: above all no end."""
        if self._pid != os.getpid():  # a forked child must not speak on connections of its parent
            self.close()
            self._pid = os.getpid()
        with suppress(IndexError, ConnectionError):
            sock = self.idle.pop()
            exchange.hold(sock)
            sock.settimeout(0)
            try:
                socket.socket.recv(sock, 1, socket.MSG_PEEK)
            except BlockingIOError:
                return True
        return False

    def _connect(self, exchange: Exchange) -> None:
        """Let `exchange` run on a new connection."""
        via = self._proxy or self._url
        sock = _dialled(exchange, via.hostname or "", via.port or (443 if via.scheme == "https" else 80))
        exchange.hold(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return
        if self._proxy:
            place = self._url.netloc if self._url.port else f"{self._url.netloc}:443"
            exchange.ask(_head("CONNECT", place, {"host": place, **self._login}))
            if exchange.answer.status != 200:
                raise OSError(f"ProxyError: HTTP {exchange.answer.status}")
        sock = self._tls.wrap_socket(sock, server_hostname=self._url.hostname, do_handshake_on_connect=False)
        exchange.hold(sock)
        exchange.ready().do_handshake()


def _dialled(exchange: Exchange, host: str, port: int) -> socket.socket:
    # The system's resolver knows no time limit, and nothing wakes it: it gets a thread that may be left behind.
    found: Future[socket.socket] = Future()

    def dial() -> None:
        try:
            sock = socket.create_connection((host, port), CONNECT_S)
        except Exception as error:
            with suppress(InvalidStateError):
                found.set_exception(error)
            return
        try:
            found.set_result(sock)
        except InvalidStateError:  # nobody waits any more
            sock.close()

    exchange.wake = found.cancel
    left = exchange.left()
    Thread(target=dial, daemon=True).start()
    try:
        return found.result(left)
    finally:
        found.cancel()


def _head(method: str, target: str, headers: Headers) -> bytes:
    lines = (f"{name}: {revealed(value)}" for name, value in headers.items())
    return "\r\n".join((f"{method} {target} HTTP/1.1", *lines, "", "")).encode("latin-1")


def revealed(value: str | Secret) -> str:
    """Return what is sent of a header's value."""
    return value.reveal() if isinstance(value, Secret) else value.strip()


def _proxy_for(origin: str) -> tuple[SplitResult | None, Headers]:
    """Return the proxy on the way, and what tells it who we are."""
    if not getproxies():
        return None, {}  # without the long import
    from requests.adapters import HTTPAdapter
    from requests.utils import get_environ_proxies, select_proxy

    url = select_proxy(origin, get_environ_proxies(origin))
    if not url:
        return None, {}
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http":
        what = f"a proxy of the kind {parts.scheme} needs the option session: a requests.Session"
        raise UnavailableError(what, retry_same=False)
    return parts, {name: Secret(value) for name, value in HTTPAdapter().proxy_headers(parts.geturl()).items()}


class _SocketTLS(ssl.SSLSocket):
    """One that closes itself: where the server resets before the handshake, `wrap_socket` loses it open."""

    def __del__(self) -> None:
        self.close()


def _authorities() -> str:
    import certifi

    named = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))
    return next(filter(None, named), None) or certifi.where()


@lru_cache(maxsize=8)
def _tls(authorities: str) -> ssl.SSLContext:
    context = ssl.create_default_context(**{"capath" if os.path.isdir(authorities) else "cafile": authorities})  # type: ignore[arg-type] # a path
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = _SocketTLS
    return context
