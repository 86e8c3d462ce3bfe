"""How a server is reached: over TCP or a unix socket, with TLS, through a proxy; and the idle connections to it."""

from __future__ import annotations

import os
import socket
import ssl
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import lru_cache
from threading import Thread
from time import monotonic
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies

from ._http_transport import CONNECT_S, Exchange, Headers, revealed
from .errors import UnavailableError
from .secret import Secret

AT_ONCE_S = 0.5
#: The scheme of a URL whose host is the path of a unix socket, quoted.
UNIX = "http+unix"


class Server:
    """The way to a server, read from the environment as `requests` does, and the idle connections. Thread-safe."""

    def __init__(self, origin: str, proxied: bool = True) -> None:
        self.idle: list[socket.socket] = []
        self._pid = os.getpid()
        self._url = urlsplit(origin)
        self._path = unquote(self._url.netloc) if self._url.scheme == UNIX else ""
        self._tls = _tls(_authorities()) if self._url.scheme == "https" else None
        self._proxy, self._login = _proxy_for(origin) if proxied and not self._path else (None, {})

    def send(self, exchange: Exchange, method: str, target: str, headers: Headers, body: bytes) -> None:
        """Send a request over an idle connection or a new one, and wait for the headers of the answer."""
        request = self._written(method, target, headers) + body
        exchange.server, exchange.method = self, method
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

    def begin(self, exchange: Exchange, method: str, target: str, headers: Headers) -> None:
        """Begin a request over a new connection: its body follows in pieces, which could not be sent twice."""
        exchange.server = self
        self._connect(exchange)
        exchange.push(self._written(method, target, headers))

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(IndexError):
            while True:
                self.idle.pop().close()

    def _written(self, method: str, target: str, headers: Headers) -> bytes:
        headers = {"host": "localhost" if self._path else self._url.netloc, "user-agent": "pointsman", **headers}
        if self._proxy and not self._tls:
            target, headers = self._url.geturl() + target, {**headers, **self._login}
        return _head(method, target, headers)

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
        if self._path:
            _connect_unix(exchange, self._path)
            return
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


def _connect_unix(exchange: Exchange, path: str) -> None:
    exchange.hold(_Socket(socket.AF_UNIX))
    try:
        exchange.ready().connect(path)
    except TimeoutError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise UnavailableError(f"{path}: no connection: {why}: does the server run?", retry_same=False) from None


def _dialled(exchange: Exchange, host: str, port: int) -> socket.socket:
    # The system's resolver knows no time limit, and nothing wakes it: it gets a thread that may be left behind.
    found: Future[socket.socket] = Future()

    def dial() -> None:
        with suppress(InvalidStateError):  # nobody waits any more: what was connected closes itself
            try:
                found.set_result(_Socket(fileno=socket.create_connection((host, port), CONNECT_S).detach()))
            except Exception as error:
                found.set_exception(error)

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


class _Socket(socket.socket):
    """One that closes itself: in a cycle, the collector may come to it before it comes to who would close it."""

    __del__ = socket.SocketType.close  # of the lower class, which asks for nothing that a failed `__init__` did not set


class _SocketTLS(ssl.SSLSocket):
    """The same: where the server resets before the handshake, `wrap_socket` loses it open."""

    __del__ = _Socket.__del__


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
