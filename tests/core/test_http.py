"""`pointsman.http` against raw sockets: limits, cancelling, pooling, errors, and keys that nobody sees."""

from __future__ import annotations

import gc
import json
import multiprocessing
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pointsman import (
    AuthenticationError,
    BackendError,
    BackendTimeout,
    InvalidRequestError,
    RateLimitError,
    Scope,
    Secret,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.http import Client, Event

KEY = "k3y-that-nobody-may-see"
Handler = Callable[["Peer"], None]


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock, self.server, self._rest = sock, server, b""

    def read(self) -> bytes:
        """Return one request, body included; b"" when the client has gone."""
        raw = self._rest
        while b"\r\n\r\n" not in raw:
            piece = self.sock.recv(65536)
            if not piece:
                return b""
            raw += piece
        head, _, rest = raw.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        while len(rest) < length:
            rest += self.sock.recv(65536)
        self._rest = rest[length:]
        self.server.requests.append(head + b"\r\n\r\n" + rest[:length])
        return self.server.requests[-1]

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def chunk(self, raw: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(raw), raw))

    def gone(self) -> bool:
        """Wait until the client closes; False if it does not within ten seconds."""
        self.sock.settimeout(10)
        try:
            return self.sock.recv(1) == b""
        except OSError as error:
            return not isinstance(error, TimeoutError)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


class Server:
    """Accepts connections; the n-th runs the n-th handler, later ones the last."""

    def __init__(self, *handlers: Handler) -> None:
        self.handlers, self.requests, self.connections = handlers, list[bytes](), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.over = threading.Event()
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            handler = self.handlers[min(self.connections, len(self.handlers) - 1)]
            self.connections += 1
            self._socks.append(sock)
            self._threads.append(threading.Thread(target=self._run, args=(handler, sock)))
            self._threads[-1].start()

    def _run(self, handler: Handler, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            handler(Peer(sock, self))

    def stop(self) -> None:
        self.over.set()
        for sock in (self._listener, *self._socks):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test."""
    servers: list[Server] = []

    def start(*handlers: Handler) -> Server:
        servers.append(Server(*handlers))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def answer(body: bytes = b'{"ok": true}', status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def always(raw: bytes, times: int = 1 << 30) -> Handler:
    """Answer every request of the connection with the same bytes, so many times, and close it without a word."""

    def handler(peer: Peer) -> None:
        for _ in range(times):
            if not peer.read():
                return
            peer.send(raw)

    return handler


EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def client_of(server: Server, **options: Any) -> Client:
    options.setdefault("auth", ("Authorization", "Bearer ", Secret(KEY)))
    return Client(server.url + "/v1", **options)


def limited(timeout: float, first_byte: float | None = None, idle: float | None = None) -> Scope:
    """Return the scope of an attempt."""
    scope = Scope(timeout, idle_timeout=idle)
    scope.begin(first_byte_timeout=first_byte)
    return scope


def fails(call: Callable[[], Any], expected: type[BackendError] = BackendError) -> BackendError:
    """Return the error of a call, after a look for the key in all that a traceback could show."""
    with pytest.raises(expected) as caught:
        call()
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__cause__ is None
    assert error.__context__ is None
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [line for line in trace.format() if "test_http.py" not in line]
    assert KEY not in "".join(frames)
    assert KEY not in repr(error)
    return caught.value


# The plain exchange


def test_a_plain_exchange(serve: Callable[..., Server]) -> None:
    """The body goes out as JSON under the key, the JSON of the answer comes back, headers are found in any case."""
    server = serve(always(answer(b'{"text": "gr\xc3\xbc\xc3\x9fe"}', "200 OK", "X-Request-Id: r1")))
    client = Client(server.url + "/v1/?version=2", headers={"X-Own": "ö"}, auth=("X-Key", "", Secret(f" {KEY}\n")))
    data, headers = client.post_json("/chat", {"prompt": "ü"}, Scope(20))
    assert data == {"text": "grüße"}
    assert headers["x-request-id"] == headers["X-REQUEST-ID"] == "r1"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat?version=2 HTTP/1.1\r\n")
    assert f"x-key: {KEY}".encode() in head.split(b"\r\n")
    assert b"x-own: \xf6" in head.split(b"\r\n")
    assert json.loads(body) == {"prompt": "ü"}
    client.get_json("models?limit=1", Scope(20))
    assert server.requests[1].startswith(b"GET /v1/models?limit=1&version=2 HTTP/1.1\r\n")


BROKEN = {
    "empty": answer(b""),
    "html": answer(b"<html>hello</html>"),
    "cut": answer(b'{"a": '),
    "two": answer(b"{}{}"),
    "bad utf-8": answer(b'{"a": "\xff"}'),
    "bad gzip": answer(b"no gzip", "200 OK", "Content-Encoding: gzip"),
    "deep": answer(b"[" * 200_000),
    "length too long": answer(b'{"a": 1}').replace(b"Content-Length: 8", b"Content-Length: 80"),
    "length too short": answer(b'{"a": 1}').replace(b"Content-Length: 8", b"Content-Length: 5"),
    "cut chunk": EVENTS_HEAD + b'ff\r\n{"a": 1}',
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_a_200_that_is_no_answer(serve: Callable[..., Server], raw: bytes) -> None:
    """Whatever is no whole JSON under 200 is an unusable answer, and the next call is well."""
    server = serve(always(raw, 1), always(answer()))
    client = client_of(server)
    fails(lambda: client.post_json("x", {}, Scope(20)), UnusableAnswer)
    assert client.post_json("x", {}, Scope(20)).data == {"ok": True}


def test_errors_are_classified(serve: Callable[..., Server]) -> None:
    """By status and body, with the hint; under 200 by the error object; a key that is echoed is masked."""
    body = f'{{"error": {{"message": "no: {KEY}"}}}}'.encode()
    server = serve(always(answer(body, "429 Slow", "Retry-After: 7")))
    error = fails(lambda: client_of(server).post_json("x", {}, Scope(20)), RateLimitError)
    assert (error.status, error.retry_after) == (429, 7.0)
    server = serve(always(answer(b'{"error": {"code": "invalid_api_key", "message": "no"}}')))
    fails(lambda: client_of(server).post_json("x", {}, Scope(20)), AuthenticationError)


def test_a_redirect_is_an_error_and_not_followed(serve: Callable[..., Server]) -> None:
    """The message names the other host, so that base_url can be mended; nothing is sent there."""
    server = serve(always(answer(b"", "307 Elsewhere", "Location: http://other.example:81/v1?key=abc")))
    error = fails(lambda: client_of(server).post_json("x", {}, Scope(20)), UnavailableError)
    assert "other.example" in str(error)
    assert not error.retry_same
    assert len(server.requests) == 1


def test_the_request_must_be_json() -> None:
    """What JSON cannot carry is the caller's fault, before anything is sent."""
    with pytest.raises(InvalidRequestError, match="JSON"):
        Client("http://127.0.0.1:9").post_json("x", {"a": object()}, Scope(20))


def test_no_connection_means_the_next_backend_at_always(serve: Callable[..., Server]) -> None:
    """Refused, reset before and after the request, no such host, no TLS: unavailable, and not to be asked again."""
    plain = serve(lambda peer: peer.reset()).url
    after = serve(lambda peer: peer.reset() if peer.read() else None).url
    closed = serve(lambda peer: peer.read() and None).url
    noise = serve(always(b"SSH-2.0-hello\r\n", 1)).url
    tls = serve(lambda peer: peer.send(b"no TLS here")).url.replace("http:", "https:")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for url in (nobody, plain, after, closed, noise, tls, "http://nowhere..invalid"):
        client = Client(url, auth=("Authorization", "Bearer ", Secret(KEY)))
        error = fails(lambda client=client: client.post_json("x", {}, Scope(20)), UnavailableError)  # type: ignore[misc]
        assert not error.retry_same
        assert error.try_next


def drip(raw: bytes, at_once: bytes = b"") -> Handler:
    def handler(peer: Peer) -> None:
        peer.read()
        peer.send(at_once)
        for index in range(len(raw)):
            peer.send(raw[index : index + 1])
            time.sleep(0.05)

    return handler


def silent(peer: Peer) -> None:
    peer.read()
    peer.gone()


def deaf(peer: Peer) -> None:
    peer.server.over.wait(60)


@pytest.mark.parametrize(
    ("handler", "limits"),
    [
        (silent, {"timeout": 0.3}),
        (silent, {"timeout": 30, "first_byte": 0.3}),
        (drip(b"HTTP/1.1 200 OK\r\n" + b"X-Drip: 1\r\n" * 90), {"timeout": 30, "first_byte": 0.5}),
        (drip(b"HTTP/1.1 200 OK\r\n" + b"X-Drip: 1\r\n" * 90), {"timeout": 0.5}),
        (drip(b" " * 500, answer(b"").replace(b": 0", b": 500")), {"timeout": 0.5}),
        (drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 90), {"timeout": 0.5}),
        (deaf, {"timeout": 0.5}),
    ],
    ids=["silent", "silent first byte", "headers first byte", "headers", "body", "only 100 Continue", "deaf"],
)
def test_no_server_can_hold_a_call(serve: Callable[..., Server], handler: Handler, limits: dict[str, float]) -> None:
    """A byte now and then does not prolong anything: the deadline and the first-byte limit are of the whole call."""
    client = client_of(serve(handler))
    begin = time.monotonic()
    body = {"prompt": "x" * (16 << 20 if handler is deaf else 10)}
    fails(lambda: client.post_json("x", body, limited(**limits)), BackendTimeout)
    assert time.monotonic() - begin < min(limits.values()) + 10


def test_an_error_without_its_body_is_still_that_error(serve: Callable[..., Server]) -> None:
    """A server that announces an error and stalls is classified by the status, within the deadline."""
    server = serve(drip(b" " * 900, answer(b"", "503 Busy").replace(b": 0", b": 900")))
    assert fails(lambda: client_of(server).post_json("x", {}, Scope(3)), UnavailableError).status == 503


def test_cancelling_wakes_the_call_and_the_server_sees_it(serve: Callable[..., Server]) -> None:
    """A thread blocked in a read comes back at once, and the server's end of the connection closes."""
    seen: list[bool] = []

    def waits(peer: Peer) -> None:
        peer.read()
        seen.append(peer.gone())

    server = serve(waits)
    scope, errors = Scope(60), list[BackendError]()
    client = client_of(server)
    thread = threading.Thread(target=lambda: errors.append(fails(lambda: client.post_json("x", {}, scope))))
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    scope.cancel()
    thread.join(20)
    assert not thread.is_alive()
    assert "cancelled" in str(errors[0])
    assert not errors[0].try_next
    while not seen:
        time.sleep(0.01)
    assert seen == [True]


def test_a_late_cancel_does_not_reach_the_next_call(serve: Callable[..., Server]) -> None:
    """Cancelling a call that is over leaves the connection, which serves another by now, alone."""
    server = serve(always(answer()))
    client, old = client_of(server), Scope(20)
    client.post_json("x", {}, old)
    old.cancel()
    assert client.post_json("x", {}, Scope(20)).data == {"ok": True}
    assert server.connections == 1


def test_a_call_that_nobody_waits_for_sends_nothing(serve: Callable[..., Server]) -> None:
    """Without time left, or cancelled before it began, nothing is asked."""
    server, scope = serve(always(answer())), Scope(20)
    fails(lambda: client_of(server).post_json("x", {}, Scope(0)), BackendTimeout)
    scope.cancel()
    fails(lambda: client_of(server).post_json("x", {}, scope))
    assert server.requests == []


# The pool


def test_connections_are_reused(serve: Callable[..., Server]) -> None:
    """Whole answers, error answers and streams read to their end give their connection back."""
    stream = EVENTS_HEAD + b"9\r\ndata: 1\n\n\r\nE\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

    def handler(peer: Peer) -> None:
        while raw := peer.read():
            peer.send(
                stream if b"POST /v1/events" in raw else answer(b"{}", "500 No") if b"POST /v1/bad" in raw else answer()
            )

    server = serve(handler)
    client = client_of(server)
    client.post_json("x", {}, Scope(20))
    fails(lambda: client.post_json("bad", {}, Scope(20)))
    with client.post_events("events", {}, Scope(20)) as events:
        assert list(events) == [Event("", "1")]
    client.get_json("x", Scope(20))
    assert (server.connections, len(server.requests)) == (1, 4)


def test_the_race_with_a_server_that_closes_idle_connections(serve: Callable[..., Server]) -> None:
    """A server that closes without a word after each answer loses no request, however fast the next one comes."""
    server = serve(always(answer(), 1))
    client = client_of(server)
    for _ in range(100):
        assert client.post_json("x", {}, Scope(20)).data == {"ok": True}
    assert len(server.requests) == 100


def test_a_request_that_the_server_did_not_take_up(serve: Callable[..., Server]) -> None:
    """A used connection that ends at once, without a byte: sent once more, on a fresh one, and only once."""

    def ends_at_once(peer: Peer) -> None:
        peer.send(answer() if peer.read() else b"")
        peer.read()

    server = serve(ends_at_once)
    client = client_of(server)
    for number in (1, 3, 5):
        assert client.post_json("x", {}, Scope(20)).data == {"ok": True}
        assert len(server.requests) == number
    server = serve(ends_at_once, lambda peer: peer.read() and None)
    client = client_of(server)
    client.post_json("x", {}, Scope(20))
    fails(lambda: client.post_json("x", {}, Scope(20)), UnavailableError)
    assert len(server.requests) == 3


def test_a_server_that_dies_at_work_is_not_asked_again(serve: Callable[..., Server]) -> None:
    """The same end after a while is a failure: the request may have been served, and paid for."""

    def dying(peer: Peer) -> None:
        peer.send(answer() if peer.read() else b"")
        peer.read()
        time.sleep(1)

    server = serve(dying)
    client = client_of(server)
    client.post_json("x", {}, Scope(20))
    fails(lambda: client.post_json("x", {}, Scope(20)), UnavailableError)
    assert len(server.requests) == 2


def test_sixteen_threads(serve: Callable[..., Server]) -> None:
    """Each gets its own answer."""

    def echo(peer: Peer) -> None:
        while raw := peer.read():
            peer.send(answer(raw.partition(b"\r\n\r\n")[2]))

    client, wrong = client_of(serve(echo)), list[object]()

    def work(number: int) -> None:
        for turn in range(30):
            sent = {"n": number, "turn": turn}
            if (got := client.post_json("x", sent, Scope(60)).data) != sent:
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []


def _in_child(client: Client, out: Any) -> None:
    out.send(client.post_json("child", {}, Scope(20)).data)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_speaks_on_connections_of_its_own(serve: Callable[..., Server]) -> None:
    """Parent and child never share a connection."""
    server = serve(always(answer()))
    client = client_of(server)
    client.post_json("x", {}, Scope(20))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(client, sender))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert receiver.recv() == {"ok": True}
    client.post_json("x", {}, Scope(20))
    assert server.connections == 2
    for used in (receiver, sender, child):
        used.close()


def test_close_ends_idle_connections(serve: Callable[..., Server]) -> None:
    """The server sees it, and the client stays usable."""
    seen: list[bool] = []

    def handler(peer: Peer) -> None:
        peer.read()
        peer.send(answer())
        seen.append(peer.gone())

    server = serve(handler)
    client = client_of(server)
    client.post_json("x", {}, Scope(20))
    client.close()
    while not seen:
        time.sleep(0.01)
    assert seen == [True]
    assert client.post_json("x", {}, Scope(20)).data == {"ok": True}
    client.close()


# Streams


def test_events_come_as_they_are_sent(serve: Callable[..., Server]) -> None:
    """Each event is handed out before the server sends the next."""
    go_on = threading.Semaphore(0)

    def handler(peer: Peer) -> None:
        peer.read()
        peer.send(EVENTS_HEAD)
        for number in range(3):
            peer.chunk(b"data: %d\n\n" % number)
            assert go_on.acquire(timeout=20)
        peer.send(b"0\r\n\r\n")

    got = []
    with client_of(serve(handler)).post_events("x", {}, Scope(30)) as events:
        for event in events:
            got.append(event.data)
            go_on.release()
    assert got == ["0", "1", "2"]


def pinging(first: bytes) -> Handler:
    def handler(peer: Peer) -> None:
        peer.read()
        peer.send(EVENTS_HEAD + b"%x\r\n%b\r\n" % (len(first), first))
        for _ in range(300):
            peer.chunk(b": ping\n\n\n\nevent: ping\ndata: {}\n\n")
            time.sleep(0.05)

    return handler


def test_pings_do_not_count_as_content(serve: Callable[..., Server]) -> None:
    """The first-byte limit holds until the provider says that content came; then the idle limit does."""
    client = client_of(serve(pinging(b"data: hello\n\n")))
    begin = time.monotonic()
    with client.post_events("x", {}, limited(60, 0.5)) as events:
        fails(lambda: list(events), BackendTimeout)
    with client.post_events("x", {}, limited(60, 2.0, 2.5)) as events:
        assert next(events).data == "hello"
        events.content_seen()
        error = fails(lambda: list(events), BackendTimeout)
        assert "middle" in str(error)
    assert time.monotonic() - begin < 14


def test_leaving_a_stream_closes_its_connection(serve: Callable[..., Server]) -> None:
    """By `close`, by `with`, by cancelling while nobody reads, and by dropping the iterator: the server sees it."""
    seen: list[bool] = []

    def handler(peer: Peer) -> None:
        peer.read()
        peer.send(EVENTS_HEAD)
        peer.chunk(b"data: 1\n\n")
        seen.append(peer.gone())

    client = client_of(serve(handler))

    def expect(count: int) -> None:
        while len(seen) < count:
            time.sleep(0.01)
        assert seen == [True] * count

    events = client.post_events("x", {}, Scope(60))
    next(events)
    events.close()
    expect(1)
    assert list(events) == []
    with client.post_events("x", {}, Scope(60)) as events:
        next(events)
    expect(2)
    scope = Scope(60)
    events = client.post_events("x", {}, scope)
    next(events)
    scope.cancel()
    expect(3)
    fails(events.__next__)
    events = client.post_events("x", {}, Scope(60))
    next(events)
    del events
    gc.collect()
    expect(4)


def test_what_follows_a_whole_answer_does_not_matter(serve: Callable[..., Server]) -> None:
    """After `[DONE]`, or after `ending()`, a server that stalls or breaks takes nothing away."""

    def stalls(peer: Peer) -> None:
        peer.read()
        peer.send(EVENTS_HEAD)
        peer.chunk(b"data: 1\n\ndata: [DONE]\n\n")
        peer.gone()

    go_on = threading.Semaphore(0)

    def breaks(peer: Peer) -> None:
        peer.read()
        peer.send(EVENTS_HEAD)
        peer.chunk(b"data: 1\n\n")
        assert go_on.acquire(timeout=20)
        peer.reset()

    with client_of(serve(stalls)).post_events("x", {}, Scope(60)) as events:
        assert [event.data for event in events] == ["1"]
    with client_of(serve(breaks)).post_events("x", {}, Scope(60)) as events:
        assert next(events).data == "1"
        events.ending()
        go_on.release()
        assert list(events) == []
    with client_of(serve(breaks)).post_events("x", {}, Scope(60)) as events:
        next(events)
        go_on.release()
        fails(lambda: next(events), UnavailableError)
