"""`pointsman.http`: bodies of any length, sent as they are made and read as they come; unix sockets."""

from __future__ import annotations

import socket
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from pointsman import (
    BackendError,
    BackendTimeout,
    ConfigError,
    ContentNotFoundError,
    Scope,
    Secret,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.http import Client

KEY = "k3y-that-nobody-may-see"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Handler = Callable[["Peer"], None]


class Peer:
    """The server's end of a connection."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self.sock, self.over, self._rest = sock, over, b""

    def head(self) -> bytes:
        """Return the head of the next request; b"" when the client has gone."""
        while b"\r\n\r\n" not in self._rest and self._more():
            pass
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head

    def chunks(self) -> Iterator[bytes]:
        """Give out the chunks of a body; raises `EOFError` where it was cut."""
        while True:
            while b"\r\n" not in self._rest:
                self._need()
            size, _, self._rest = self._rest.partition(b"\r\n")
            length = int(size, 16)
            while len(self._rest) < length + 2:
                self._need()
            chunk, self._rest = self._rest[:length], self._rest[length + 2 :]
            if not length:
                return
            yield chunk

    def gone(self) -> bool:
        """Wait until the client has closed the connection."""
        while self._more():
            pass
        return True

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def _need(self) -> None:
        if not self._more():
            raise EOFError

    def _more(self) -> bool:
        try:
            piece = self.sock.recv(1 << 16)
        except OSError:
            return False
        self._rest += piece
        return bool(piece)


class Served:
    """A server whose connections are all handled alike."""

    def __init__(self, handler: Handler, path: Path | None = None) -> None:
        if path is None:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
            self.listener.listen()
            self.url = "http+unix://" + str(path).replace("/", "%2F")
        self.handler, self.over, self.connections = handler, threading.Event(), 0
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.threads.append(threading.Thread(target=self._run, args=(sock,)))
            self.threads[-1].start()

    def _run(self, sock: socket.socket) -> None:
        with suppress(OSError, EOFError), sock:
            sock.settimeout(20)
            self.handler(Peer(sock, self.over))

    def stop(self) -> None:
        self.over.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(25)
            assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start servers that end with the test."""
    servers: list[Served] = []

    def start(handler: Handler, path: Path | None = None) -> Served:
        servers.append(Served(handler, path))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def client_of(server: Served, **options: Any) -> Client:
    return Client(server.url + "/v1", auth=("Authorization", "Bearer ", Secret(KEY)), **options)


def fails(call: Callable[[], Any], expected: type[BackendError]) -> BackendError:
    """Return the error of a call, after a look for the key in all that a traceback could show."""
    with pytest.raises(expected) as caught:
        call()
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert KEY not in "".join(line for line in trace.format() if "test_http_bodies.py" not in line)
    return caught.value


def sent(client: Client, pieces: Iterator[bytes] | list[bytes], scope: Scope | None = None) -> bytes:
    with client.upload("x", scope or Scope(20)) as upload:
        for piece in pieces:
            upload.send(piece)
        return upload.answer().read_all()


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(1 << 20)


# -- bodies that are sent ------------------------------------------------------------------------------


def test_a_body_is_sent_as_it_is_made(serve: Callable[..., Served]) -> None:
    """Each piece is there before the next is made, empty ones apart; then the answer; and the connection is kept."""
    came, heads = list[bytes](), list[bytes]()
    seen = threading.Condition()

    def handler(peer: Peer) -> None:
        while head := peer.head():
            heads.append(head)
            for chunk in peer.chunks() if b"chunked" in head else ():
                with seen:
                    came.append(chunk)
                    seen.notify()
            peer.sock.sendall(OK)

    server = serve(handler)
    client = client_of(server)
    with client.upload("x?a=b", Scope(20), {"content-type": "text/plain"}) as upload:
        for number in range(3):
            upload.send(b"%d" % number)
            upload.send(b"")
            with seen:
                assert seen.wait_for(lambda number=number: len(came) == number + 1, 10)  # type: ignore[misc]
        body = upload.answer()
        assert body.headers["content-length"] == "2"
        assert body.read_all() == b"ok"
    assert came == [b"0", b"1", b"2"]
    assert heads[0].startswith(b"POST /v1/x?a=b HTTP/1.1\r\n")
    assert b"content-type: text/plain" in heads[0]
    assert b"authorization: Bearer " + KEY.encode() in heads[0]
    with client.open("POST", "y", Scope(20)) as body:
        assert body.read_all() == b"ok"
    assert b"content-length: 0" in heads[1]
    assert server.connections == 1
    client.close()


def test_a_large_body_takes_no_memory(serve: Callable[..., Served]) -> None:
    """64 MiB go through in pieces of one, and never more than a few are held."""
    size = 0

    def handler(peer: Peer) -> None:
        nonlocal size
        peer.head()
        for chunk in peer.chunks():
            size += len(chunk)
        peer.sock.sendall(OK)

    client, piece = client_of(serve(handler)), bytes(1 << 20)
    tracemalloc.start()
    try:
        assert sent(client, [piece] * 64) == b"ok"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert size == 64 << 20
    client.close()


REFUSAL = b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot today"


@pytest.mark.parametrize("read_first", [0, 1, 300_000])
@pytest.mark.parametrize("end", ["closes", "resets", "waits"])
def test_a_refusal_before_the_end_is_told(serve: Callable[..., Served], read_first: int, end: str) -> None:
    """A server that answers while we still send is heard, whatever it does then; nothing speaks of a broken pipe."""

    def handler(peer: Peer) -> None:
        peer.head()
        left = read_first
        while left > 0:
            left -= len(peer.sock.recv(min(left, 65536)))
        peer.sock.sendall(REFUSAL)
        if end == "resets":
            time.sleep(0.2)  # so that the answer is not taken back
            peer.reset()
        elif end == "waits":
            peer.over.wait(20)

    error = fails(lambda: sent(client_of(serve(handler)), endless()), UnavailableError)
    assert error.status == 503
    assert "not today" in str(error)


def test_an_answer_before_the_end_does_not_end_the_sending(serve: Callable[..., Served]) -> None:
    """A server may say 100, or begin a good answer, before it has everything: it gets the rest."""
    for early in b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n":
        size = 0

        def handler(peer: Peer, early: bytes = early) -> None:
            nonlocal size
            peer.head()
            peer.sock.sendall(early)
            size = sum(map(len, peer.chunks()))
            peer.sock.sendall(OK.replace(b"2\r\n\r\nok", b"7\r\n\r\n") * (b"100" in early) + b"%07d" % size)

        client = client_of(serve(handler))
        assert sent(client, [bytes(1 << 20)] * 8) == b"%07d" % (8 << 20)
        client.close()


def test_an_answer_that_did_not_want_everything_is_none(serve: Callable[..., Served]) -> None:
    """A server that says 200 and goes, while we still send, has not taken what we sent."""

    def handler(peer: Peer) -> None:
        peer.head()
        peer.sock.sendall(OK)

    error = fails(lambda: sent(client_of(serve(handler)), endless()), UnusableAnswer)
    assert "before it had been sent everything" in str(error)


def deaf(peer: Peer) -> None:
    """Take nothing, say nothing."""
    peer.over.wait(20)


@pytest.mark.parametrize("limits", [{"timeout": 0.5}, {"timeout": 60, "idle_timeout": 0.5}])
def test_a_server_that_takes_nothing_is_given_up(serve: Callable[..., Served], limits: dict[str, float]) -> None:
    """The deadline, and the longest silence, hold while a body is sent."""
    began = time.monotonic()
    error = fails(lambda: sent(client_of(serve(deaf)), endless(), Scope(**limits)), BackendTimeout)
    assert "stopped taking" in str(error)
    assert "did not begin" in str(fails(lambda: read(client_of(serve(deaf)), Scope(**limits)), BackendTimeout))
    assert 0.8 < time.monotonic() - began < 9


def test_the_time_to_the_first_byte_counts_from_the_end_of_the_body(serve: Callable[..., Served]) -> None:
    """A body may take longer to send than the answer may take to begin."""

    def handler(peer: Peer) -> None:
        peer.head()
        list(peer.chunks())
        if peer.over.wait(0.0):
            return
        peer.sock.sendall(OK)

    def slowly() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.2)
            yield b"x"

    scope = Scope(20)
    scope.begin(first_byte_timeout=0.6)
    client = client_of(serve(handler))
    assert sent(client, slowly(), scope) == b"ok"
    client.close()

    def mute(peer: Peer) -> None:
        peer.head()
        list(peer.chunks())
        peer.over.wait(20)

    for limits, wait_s in (({"first_byte_timeout": 0.4}, None), ({}, 0.4)):
        scope = Scope(20)
        scope.begin(**limits)
        with client_of(serve(mute)).upload("x", scope) as upload:
            assert "did not begin" in str(fails(lambda upload=upload, w=wait_s: upload.answer(w), BackendTimeout))


def test_cancelling_wakes_who_sends(serve: Callable[..., Served]) -> None:
    """A cancel ends the wait for a server that takes nothing, and the server sees a body that was cut."""
    scope, ended = Scope(60), list[BaseException]()
    client = client_of(serve(deaf))

    def run() -> None:
        try:
            sent(client, endless(), scope)
        except BackendError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.4)
    scope.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert "cancelled" in str(ended[0])


def test_a_body_that_is_left_is_cut(serve: Callable[..., Served]) -> None:
    """When its source fails, that error comes out as it is, and the server gets no end of the body."""
    cut = threading.Event()

    def handler(peer: Peer) -> None:
        peer.head()
        try:
            list(peer.chunks())
        except EOFError:
            cut.set()

    def failing() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sent(client_of(serve(handler)), failing())
    assert cut.wait(10)


def test_a_body_in_pieces_goes_over_a_new_connection(serve: Callable[..., Served]) -> None:
    """It could not be sent twice if a kept connection turns out to be dead; its own is kept afterwards."""

    def handler(peer: Peer) -> None:
        while head := peer.head():
            if b"chunked" in head:
                list(peer.chunks())
            peer.sock.sendall(OK)

    server = serve(handler)
    client = client_of(server)
    assert client.open("GET", "x", Scope(20)).read_all() == b"ok"
    assert sent(client, [b"x"]) == b"ok"
    assert server.connections == 2
    for _ in range(2):
        with client.open("POST", "x", Scope(20)) as one, client.open("POST", "x", Scope(20)) as other:
            assert one.read_all() == other.read_all() == b"ok"
    assert server.connections == 2
    client.close()


def test_a_session_sends_no_body(serve: Callable[..., Served]) -> None:
    """A client with the user's session refuses both: `requests` drops what tells that a body is not whole."""
    with requests.Session() as session:
        client = client_of(serve(deaf), session=session)
        for call in (lambda: client.open("GET", "x", Scope(1)), lambda: client.upload("x", Scope(1))):
            with pytest.raises(ConfigError, match="session"):
                call()


# -- bodies that are read ------------------------------------------------------------------------------


def answering(*raw: bytes, wait: bool = False) -> Handler:
    """Answer each request with these bytes, a pause after each, and close the connection, or wait."""

    def handler(peer: Peer) -> None:
        while peer.head():
            for part in raw:
                peer.sock.sendall(part)
                time.sleep(0.05)
            if wait:
                peer.over.wait(20)
                return
            if not raw[-1].endswith(b"\n0\r\n\r\n"):
                return

    return handler


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TRAILED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Stream-Error\r\n\r\n"


def read(client: Client, scope: Scope | None = None) -> bytes:
    with client.open("GET", "x", scope or Scope(20)) as body:
        return body.read_all()


def test_pieces_come_as_they_are_sent(serve: Callable[..., Served]) -> None:
    """Each piece is handed out before the next is sent; the end is an end, again and again."""
    go = threading.Semaphore(1)

    def handler(peer: Peer) -> None:
        peer.head()
        peer.sock.sendall(CHUNKED)
        for number in range(5):
            go.acquire(timeout=10)
            peer.sock.sendall(b"1\r\n%d\r\n" % number)
        peer.sock.sendall(b"0\r\n\r\n")

    with client_of(serve(handler)).open("GET", "x", Scope(20)) as body:
        for number in range(5):
            assert next(body) == b"%d" % number
            go.release()
        assert list(body) == []
        assert list(body) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        CHUNKED + b"5\r\nshort\r\n",
        CHUNKED + b"9\r\nshort",
        CHUNKED + b"what?\r\n",
        TRAILED + b"5\r\nshort\r\n0\r\n",
        TRAILED + b"5\r\nshort\r\n0\r\nX-Stream-Error: it fai",
        TRAILED + b"5\r\nshort\r\n0\r\n" + b"X-A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_a_body_that_is_cut_never_looks_whole(serve: Callable[..., Served], raw: bytes) -> None:
    """Too few bytes, chunks or a trailer without their end: whoever reads to the end gets an error."""
    error = fails(lambda: read(client_of(serve(answering(raw)))), UnusableAnswer)
    assert "cut or broken" in str(error)


def test_an_error_in_the_trailer_is_told(serve: Callable[..., Served]) -> None:
    """What a server reports after its last piece is raised; a trailer without an error, and none, are well."""
    raw = TRAILED + f"5\r\nshort\r\n0\r\nX-Stream-Error: the disk of {KEY} is gone\r\n\r\n".encode()
    assert "the disk of *** is gone" in str(fails(lambda: read(client_of(serve(answering(raw)))), UnavailableError))
    for raw in TRAILED + b"5\r\nwhole\r\n0\r\nX-Other: 1\r\n\r\n", TRAILED + b"5\r\nwhole\r\n0\r\n\r\n":
        client = client_of(serve(answering(raw)))
        assert read(client) == b"whole"
        client.close()


def test_a_plugin_says_what_a_refusal_means(serve: Callable[..., Served]) -> None:
    """Status, headers, body and host go to its function; messages name the option that holds the address."""
    asked = list[Any]()

    def refusal(status: int, headers: Any, body: bytes, *, where: str) -> BackendError:
        asked.append((status, headers["x-a"], body, where))
        return ContentNotFoundError("not here")

    raw = b"HTTP/1.1 410 Gone\r\nX-A: b\r\nContent-Length: 3\r\n\r\nwhy"
    server = serve(answering(raw))
    client = client_of(server, refusal=refusal, named="url")
    for call in (lambda: read(client), lambda: sent(client, [b"x"]), lambda: client.get_json("x", Scope(20))):
        fails(call, ContentNotFoundError)
    assert asked == [(410, "b", b"why", client.host)] * 3
    moved = serve(answering(b"HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"))
    assert "mend url" in str(fails(lambda: read(client_of(moved, named="url")), UnavailableError))
    with pytest.raises(ConfigError, match="url: found"):
        Client("nowhere", named="url")


@pytest.mark.parametrize(
    ("limits", "drips"),
    [({"timeout": 0.5}, False), ({"timeout": 60, "idle_timeout": 0.5}, False), ({"timeout": 0.5}, True)],
)
def test_no_server_holds_who_reads(serve: Callable[..., Served], limits: dict[str, float], drips: bool) -> None:
    """Silence in the middle ends with the longest one that is allowed, and dripping with the deadline."""

    def handler(peer: Peer) -> None:
        peer.head()
        peer.sock.sendall(CHUNKED + b"1\r\nx\r\n")
        while drips and not peer.over.wait(0.05):
            peer.sock.sendall(b"1\r\nx\r\n")
        peer.over.wait(20)

    began = time.monotonic()
    error = fails(lambda: read(client_of(serve(handler)), Scope(**limits)), BackendTimeout)
    assert "in the middle" in str(error)
    assert 0.4 < time.monotonic() - began < 5


def test_leaving_and_cancelling_close_the_connection(serve: Callable[..., Served]) -> None:
    """Who leaves a body early, by closing or by cancelling, closes the connection; who reads it whole keeps it."""
    gone = threading.Semaphore(0)

    def handler(peer: Peer) -> None:
        peer.head()
        peer.sock.sendall(CHUNKED + b"1\r\nx\r\n")
        if peer.gone():
            gone.release()

    client = client_of(serve(handler))
    with client.open("GET", "x", Scope(20)) as body:
        next(body)
    assert gone.acquire(timeout=10)
    scope = Scope(20)
    body = client.open("GET", "x", scope)
    next(body)
    threading.Timer(0.3, scope.cancel).start()
    assert "cancelled" in str(fails(lambda: next(body), UnavailableError))
    assert gone.acquire(timeout=10)


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_an_answer_to_head_has_no_body(serve: Callable[..., Served], framing: str) -> None:
    """What it would have is announced and does not come; the connection is kept."""

    def handler(peer: Peer) -> None:
        while peer.head():
            peer.sock.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())

    server = serve(handler)
    client = client_of(server)
    for _ in range(2):
        with client.open("HEAD", "x", Scope(20)) as body:
            assert body.read_all() == b""
    assert server.connections == 1
    client.close()


def test_more_than_was_wanted_is_refused(serve: Callable[..., Served]) -> None:
    """`read_all` takes no more than it was told to."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfive!"
    client = client_of(serve(answering(raw)))
    with client.open("GET", "x", Scope(20)) as body:
        assert body.read_all(5) == b"five!"
    client.close()
    error = fails(lambda: client.open("GET", "x", Scope(20)).read_all(4), UnusableAnswer)
    assert "more than 4 bytes" in str(error)


# -- unix sockets --------------------------------------------------------------------------------------


def test_a_unix_socket(serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path takes the place of host and port, for each kind of call, and no proxy is asked on the way."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    heads = list[bytes]()

    def handler(peer: Peer) -> None:
        while head := peer.head():
            heads.append(head)
            if b"chunked" in head:
                list(peer.chunks())
            peer.sock.sendall(OK.replace(b"ok", b"{}"))

    server = serve(handler, Path("a b.sock"))
    server.url = "http+unix://a%20b.sock"
    client = client_of(server)
    assert client.host == "a b.sock"
    assert client.get_json("x", Scope(20)).data == {}
    assert sent(client, [b"x"]) == read(client) == b"{}"
    assert server.connections == 2
    assert all(b"host: localhost" in head for head in heads)
    client.close()


def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    """Nothing there, nobody listening, a path that is too long: unavailable, with the path and a reason."""
    nobody = tmp_path / "nobody"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(nobody))
    for path in tmp_path / "nothing", nobody, tmp_path / ("x" * 120):
        client = Client("http+unix://" + str(path).replace("/", "%2F"))
        error = fails(lambda client=client: read(client), UnavailableError)  # type: ignore[misc]
        assert str(path) in str(error)
        assert "does the server run" in str(error)
        assert not error.retry_same
