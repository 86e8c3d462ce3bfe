"""Connections whose every byte obeys the `Scope` of the running call.

A per-read timeout lets a server that drips one byte a second hold a call for ever. So the sockets
here ask the running call, before each connect, send and receive, how much of its time is left.
Cancelling a call shuts its socket down, which wakes the thread that waits on it.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from math import inf
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError, NewConnectionError, ProtocolError
from urllib3.response import BaseHTTPResponse
from urllib3.util import make_headers, parse_url
from urllib3.util.ssl_ import create_urllib3_context

from .errors import UnavailableError
from .scope import Scope

AT_ONCE_S = 0.5
CONNECT_S = 10.0  # who does not take a connection by then is not worth the rest of the deadline
_AS_IT_IS: dict[str, Any] = {"retries": Retry(False), "redirect": False, "assert_same_host": False, "timeout": None}
_running = threading.local()  # `.call`: urllib3 picks the connection, and it must know for whom
_lock = threading.RLock()  # held for a few instructions; a collected stream may close itself inside them


class Call:
    """The limits of one exchange, and the socket it runs on."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.sock: Any = None
        self.wake: Callable[[], None] | None = None  #: how to end a read on a socket that is not ours
        self.reused = False  #: whether the connection comes from the pool
        self.heard = False  #: whether any byte of an answer came
        self.sent_at = inf  #: when sending last went on
        self.fresh = False  #: whether a pooled connection must not be taken
        self.began = False  #: from here on the first-byte limit counts no more
        self.content_at: float | None = None  #: of a stream: when its last content came
        self.until = inf  #: a nearer limit, for one step
        self._forget = scope.on_cancel(self._abort)

    def left(self) -> float:
        """Seconds until the nearest limit.

        :raises TimeoutError: it has passed, or nobody waits any more.
        """
        scope = self.scope
        limit = min(scope.deadline, self.until)
        if not self.began:
            limit = min(limit, scope.first_byte_by)
        elif self.content_at is not None and scope.idle_timeout is not None:
            limit = min(limit, self.content_at + scope.idle_timeout)
        left = limit - monotonic()
        if left <= 0 or scope.cancelled:
            raise TimeoutError
        return left

    def timeout(self) -> float | None:
        """The same for `settimeout`, which knows no infinity."""
        left = self.left()
        return left if left < 1e8 else None

    def hold(self, sock: Any) -> None:
        """Run on `sock` from now on."""
        with _lock:
            self.sock, sock.call = sock, self

    def _abort(self) -> None:
        with _lock:  # the socket may have gone back to the pool and serve another call by now
            if self.sock is not None and self.sock.call is self:
                with suppress(OSError):
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # SSLSocket's own would forget its keys
        if self.wake is not None:
            with suppress(OSError, ValueError):
                self.wake()

    def finish(self, *, failed: bool) -> None:
        """The exchange is over: a later cancel no longer concerns the socket."""
        self._forget()
        del self._forget  # it refers back to this call
        with _lock:
            if self.sock is not None and self.sock.call is self:
                self.sock.call = None
        if failed and self.sock is not None:
            self.sock.close()


class _Bounded(socket.socket):
    """A socket that gives each operation no more time than its call has left."""

    call: Call | None = None

    def _limited(self, operation: Callable[..., Any], args: tuple[Any, ...], *, reads: bool) -> Any:
        if (call := self.call) is None:
            return operation(*args)
        self.settimeout(call.timeout())
        if not reads:
            call.sent_at = monotonic()
        done = operation(*args)
        call.heard = call.heard or (reads and bool(done))
        return done

    def recv_into(self, *args: Any) -> int:
        return int(self._limited(super().recv_into, args, reads=True))

    def recv(self, *args: Any) -> bytes:  # the way of TLS inside the TLS of a proxy
        return bytes(self._limited(super().recv, args, reads=True))

    def send(self, *args: Any) -> int:
        return int(self._limited(super().send, args, reads=False))

    def sendall(self, *args: Any) -> None:
        self._limited(super().sendall, args, reads=False)


class _BoundedTLS(_Bounded, ssl.SSLSocket):
    """The same under TLS, from the handshake on."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _BoundedTLS:
        sock = super().__new__(cls, *args, **kwargs)
        _running.call.sock = sock  # where the connection is reset this early, ssl forgets to close it: `finish` does
        return sock

    def do_handshake(self, block: bool = False) -> None:
        _running.call.hold(self)
        self.settimeout(_running.call.timeout())
        super().do_handshake(block)


class _Scoped(HTTPConnection):
    """A connection that makes bounded sockets and lends them to the running call."""

    def _new_conn(self) -> socket.socket:  # where urllib3's own SOCKS support comes in, too
        call: Call = _running.call
        call.reused, call.until = False, monotonic() + CONNECT_S
        problem: OSError = OSError("no address")
        for family, kind, protocol, _, address in self._addresses(call):
            sock = _Bounded(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                call.hold(sock)
                sock.settimeout(call.timeout())
                sock.connect(address)
            except OSError as error:
                sock.close()
                problem = error
            else:
                call.until = inf
                sock.settimeout(call.timeout())
                return sock
        raise NewConnectionError(self, f"no connection: {problem}") from problem

    def _addresses(self, call: Call) -> list[Any]:
        found: list[Any] = []

        def look_up() -> None:
            try:
                found.append(socket.getaddrinfo(self._dns_host.strip("[]"), self.port, type=socket.SOCK_STREAM))
            except Exception as error:
                found.append(error)

        # The system's resolver knows no time limit: it gets a thread that may be left behind.
        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(call.timeout())
        if not found:
            raise TimeoutError
        if isinstance(found[0], Exception):
            raise NameResolutionError(self.host, self, socket.gaierror(str(found[0]))) from found[0]
        return found[0]  # type: ignore[no-any-return] # of getaddrinfo

    @property
    def is_connected(self) -> bool:
        """Asked by the pool before it lends the connection out."""
        return not _running.call.fresh and super().is_connected

    def request(self, *args: Any, **kwargs: Any) -> None:
        call: Call = _running.call
        if self.sock is not None:
            sock: Any = getattr(self.sock, "socket", self.sock)  # TLS inside TLS has its socket inside
            if sock.call is not call:
                call.reused = True
                call.hold(sock)
        super().request(*args, **kwargs)


class _ScopedTLS(_Scoped, HTTPSConnection):
    """The same under TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Scoped


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _ScopedTLS


class Route(NamedTuple):
    """Where requests go and what they trust on the way. One pool of connections for each."""

    origin: str
    proxy: str | None
    authorities: str | None

    @classmethod
    def to(cls, origin: str) -> Route:
        """Read the way to `origin` from the environment, as `requests` does."""
        proxy = _proxy_for(origin)
        tls = origin.startswith("https:") or (proxy or "").startswith("https:")
        return cls(origin, proxy, _authorities() if tls else None)


def _proxy_for(origin: str) -> str | None:
    if sys.platform not in ("win32", "darwin") and not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy

    proxy = select_proxy(origin, get_environ_proxies(origin))
    return str(prepend_scheme_if_needed(proxy, "http")) if proxy else None  # type: ignore[no-untyped-call] # has no types


def _authorities() -> str:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        path = os.environ.get(name)
        if path and not os.path.exists(path):
            raise UnavailableError(f"{name} names {path}, which does not exist: mend it or unset it", retry_same=False)
        if path:
            return path
    import certifi

    return certifi.where()


@lru_cache(maxsize=8)
def _tls(authorities: str) -> ssl.SSLContext:
    context = create_urllib3_context()
    where = "capath" if os.path.isdir(authorities) else "cafile"
    context.load_verify_locations(**{where: authorities})
    context.sslsocket_class = _BoundedTLS
    return context


_pools: dict[Route, HTTPConnectionPool] = {}


def _pool(route: Route) -> HTTPConnectionPool:
    with _lock:
        if route in _pools:
            return _pools[route]
    tls = _tls(route.authorities) if route.authorities else None
    options: dict[str, Any] = {"maxsize": 256, "ssl_context": tls}
    manager: PoolManager = PoolManager(**options)
    if route.proxy is not None:
        proxy = parse_url(route.proxy)
        if proxy.scheme not in ("http", "https"):
            raise UnavailableError(
                f"a {proxy.scheme} proxy needs the option session: a requests.Session", retry_same=False
            )
        login = make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy.auth else None
        manager = ProxyManager(route.proxy, proxy_headers=login, proxy_ssl_context=tls, **options)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
    pool = manager.connection_from_url(route.origin)
    with _lock:
        return _pools.setdefault(route, pool)


def forget(route: Route) -> None:
    """Close the idle connections of a route; calls that run on it end undisturbed."""
    with _lock:
        pool = _pools.pop(route, None)
    del pool  # the last reference: urllib3 closes what lies in it


def _after_fork() -> None:
    """A child must not speak on connections of its parent, nor wait for a lock that nobody releases."""
    global _lock
    _lock = threading.RLock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def send(
    route: Route, target: str, *, method: str, body: bytes | None, headers: Mapping[str, str], call: Call
) -> BaseHTTPResponse:
    """Send one request and return the answer once its headers are there. Follows no redirect."""
    pool = _pool(route)
    if pool.proxy is not None and pool.scheme == "http":
        target = route.origin + target
    _running.call = call
    try:
        return pool.urlopen(method, target, body=body, headers=headers, preload_content=False, **_AS_IT_IS)
    except ProtocolError:
        # A server that closes an idle connection just when our request comes never takes it up (llama.cpp's does so
        # often). From here it looks like a server that dies at its work, which may have been paid for. So we send it
        # again only where there was no time for any work: the connection had served before, and ended at once, without
        # a byte. That is the transport's matter, not a retry: one request has been served.
        if not call.reused or call.heard or monotonic() - call.sent_at > AT_ONCE_S:
            raise
        call.fresh = True
        return pool.urlopen(method, target, body=body, headers=headers, preload_content=False, **_AS_IT_IS)
    finally:
        del _running.call
