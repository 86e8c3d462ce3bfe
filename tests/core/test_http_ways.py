"""`pointsman.http`: TLS, proxies, the user's own session, headers, and what may not be seen or read."""

from __future__ import annotations

import gc
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest
import requests
from pointsman import AuthenticationError, BackendError, BackendTimeout, ConfigError, Scope, Secret, UnavailableError
from pointsman.http import Client
from pointsman.testing import FaultServer, WireError, faults
from pointsman.testing.leaks import leaks_since, resources
from requests.adapters import HTTPAdapter

KEY = "k3y-that-nobody-may-see"
KEY_HEADER = ("Authorization", "Bearer ", Secret(KEY))


class Handler(BaseHTTPRequestHandler):
    """Answers with what it saw; also plays an HTTP proxy."""

    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.path.endswith("/slow"):
            self.server.left.wait(30)
        if self.path.endswith("/events"):
            body = b"data: 1\n\ndata: [DONE]\n\n"
        if self.path.endswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", "/x")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        host, _, port = self.path.rpartition(":")
        with closing(socket.create_connection((host, int(port)), 10)) as onward:
            self.send_response(200)
            self.end_headers()
            threading.Thread(target=_relay, args=(onward, self.connection), daemon=True).start()
            _relay(self.connection, onward)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _relay(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Recorder(ThreadingHTTPServer):
    """A server that remembers what it saw."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.left = threading.Event()
        self.port = self.server_address[1]
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def handle_error(self, *_: Any) -> None:
        """Clients that leave are what the tests are about."""


@pytest.fixture
def record() -> Iterator[Callable[..., Recorder]]:
    """Start servers, with TLS where a context is given."""
    servers: list[Recorder] = []

    def start(tls: ssl.SSLContext | None = None) -> Recorder:
        server = Recorder()
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.thread.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.left.set()
        server.shutdown()
        server.server_close()
        server.thread.join(10)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, authority or netrc of the machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    assert shutil.which("openssl"), "openssl is not installed: it makes the certificate of these tests"
    place = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*command.split(), "-keyout", place / "key.pem", "-out", place / "cert.pem"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    both = place / "both.pem"
    both.write_bytes((place / "cert.pem").read_bytes() + (place / "key.pem").read_bytes())
    return both


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def post(client: Client, path: str = "x", scope: Scope | None = None) -> Any:
    return client.post_json(path, {"a": 1}, scope or Scope(20)).data


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_tls_trusts_what_the_environment_names(
    record: Callable[..., Recorder], tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An unknown certificate is refused, and accepted once a variable names its authority."""
    url = f"https://127.0.0.1:{record(tls).port}"
    with pytest.raises(UnavailableError, match="certificate") as caught:
        post(Client(url))
    assert not caught.value.retry_same
    monkeypatch.setenv(name, str(certificate))
    client = Client(url)
    assert post(client) == post(client) == {"a": 1}
    client.close()
    monkeypatch.setenv(name, "/no/such/file")
    with pytest.raises(UnavailableError, match=name):
        post(Client(url))


def test_limits_and_cancelling_hold_under_tls(
    record: Callable[..., Recorder], tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline ends a call over TLS, and so does cancelling it, also while the server never shakes hands."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = Client(f"https://127.0.0.1:{record(tls).port}")
    with pytest.raises(BackendTimeout):
        post(client, "slow", Scope(0.5))
    _cancel_soon(client, "slow")
    client.close()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        never = Client(f"https://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(BackendTimeout):
            post(never, "x", Scope(0.5))
        _cancel_soon(never, "x")


@pytest.mark.parametrize("refuses", [False, True])
def test_a_body_in_pieces_under_tls(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    """It arrives whole; a server that refuses it before its end is heard; one that takes nothing is given up."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    over, came = threading.Event(), bytearray()

    def run(listener: socket.socket) -> None:
        with suppress(OSError), tls.wrap_socket(listener.accept()[0], server_side=True) as sock:
            sock.settimeout(20)
            while not refuses and not came.endswith(b"\r\n0\r\n\r\n"):
                came.extend(sock.recv(65536))
            answer = b"503 Busy\r\nConnection: close" if refuses else b"200 OK"
            sock.sendall(b"HTTP/1.1 %b\r\nContent-Length: 9\r\n\r\nfor today" % answer)
            over.wait(20)

    def sent(client: Client) -> bytes:
        with client.upload("x", Scope(20)) as upload:
            for _ in range(1 << 20 if refuses else 64):
                upload.send(bytes(1 << 16))
            return upload.answer().read_all()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, args=(listener,))
        thread.start()
        client = Client(f"https://127.0.0.1:{listener.getsockname()[1]}", auth=KEY_HEADER)
        if refuses:
            with pytest.raises(UnavailableError, match=r"HTTP 503 .*for today"):
                sent(client)
        else:
            assert sent(client) == b"for today"
            assert len(came) > 4 << 20
        over.set()
        thread.join(20)
        client.close()


def _cancel_soon(client: Client, path: str) -> None:
    scope, errors = Scope(60), list[BackendError]()

    def run() -> None:
        try:
            post(client, path, scope)
        except BackendError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    scope.cancel()
    thread.join(20)
    assert not thread.is_alive()
    assert "cancelled" in str(errors[0])


def test_cancelling_wakes_a_call_that_waits_for_a_connection() -> None:
    """A server whose queue is full takes no connection: who cancels does not wait for the end of that."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        _cancel_soon(Client(f"http://127.0.0.1:{full.getsockname()[1]}"), "x")


def test_a_proxy_for_http(record: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY gets the whole URL and its own login; NO_PROXY goes past it."""
    server, proxy = record(), record()
    monkeypatch.setenv("HTTP_PROXY", f"http://me:pass%20word@127.0.0.1:{proxy.port}")
    url = f"http://127.0.0.1:{server.port}"
    client = Client(url, auth=KEY_HEADER)
    assert post(client) == {"a": 1}
    ((path, headers),) = proxy.seen
    assert path == f"{url}/x"
    assert headers["proxy-authorization"].startswith("Basic ")
    assert server.seen == []
    client.close()
    assert post(Client(url, proxied=False)) == {"a": 1}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert post(Client(url)) == {"a": 1}
    assert len(server.seen) == 2


def test_a_proxy_for_https(
    record: Callable[..., Recorder], tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is asked for a tunnel and sees neither path nor key; limits hold through it."""
    server, proxy = record(tls), record()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    client = Client(f"https://127.0.0.1:{server.port}", auth=KEY_HEADER)
    assert post(client) == post(client) == {"a": 1}
    assert [path for path, _ in proxy.seen] == [f"127.0.0.1:{server.port}"]
    assert KEY not in str(proxy.seen)
    with pytest.raises(BackendTimeout):
        post(client, "slow", Scope(0.5))
    client.close()


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead proxy is unavailable; a SOCKS proxy needs a session, and the message says so."""
    with faults.nobody_listens() as nobody:
        monkeypatch.setenv("HTTP_PROXY", nobody)
        with pytest.raises(UnavailableError):
            post(Client("http://127.0.0.1:9"))
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="session"):
        post(Client("http://127.0.0.1:9"))


@pytest.mark.parametrize("through_session", [False, True])
def test_netrc_is_not_read(record: Callable[..., Recorder], tmp_path: Path, through_session: bool) -> None:
    """A password in .netrc neither appears nor replaces the key."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    server = record()
    with requests.Session() as session:
        for auth in (None, KEY_HEADER):
            client = Client(f"http://127.0.0.1:{server.port}", auth=auth, session=session if through_session else None)
            post(client)
    assert [headers.get("authorization") for _, headers in server.seen] == [None, f"Bearer {KEY}"]


class Adapter(HTTPAdapter):
    """Counts what goes through it."""

    sent = 0

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        self.sent += 1
        return super().send(*args, **kwargs)


def test_the_users_session(record: Callable[..., Recorder]) -> None:
    """Its adapters and headers count, redirects are not followed, streams stream, and the deadline holds."""
    server, adapter = record(), Adapter()
    with requests.Session() as session:
        session.mount("http://", adapter)
        session.headers["X-Mine"] = "yes"
        client = Client(f"http://127.0.0.1:{server.port}", auth=KEY_HEADER, session=session)
        assert post(client) == {"a": 1}
        with client.post_events("events", {}, Scope(20)) as events:
            assert [event.data for event in events] == ["1"]
        with pytest.raises(UnavailableError, match="redirects"):
            post(client, "redirect")
        with pytest.raises(BackendTimeout):
            post(client, "slow", Scope(0.5))
        assert adapter.sent == 4
        assert {headers["x-mine"] for _, headers in server.seen} == {"yes"}
        assert {headers["authorization"] for _, headers in server.seen} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("ended", [True, False], ids=["idle", "in the middle"])
def test_what_is_collected_in_a_cycle_closes_its_connections(record: Callable[..., Recorder], ended: bool) -> None:
    """An error that is kept leads to its client: the collector tells of no socket that was left open."""
    server = record()
    before, client = resources(), Client(f"http://127.0.0.1:{server.port}")
    events = client.post_events("/events", {}, Scope(20))
    next(events)
    if ended:
        assert list(events) == []
    kept: list[object] = [client, events]
    kept.append(kept)
    del client, events, kept
    with catch_warnings(record=True) as told:
        simplefilter("always")
        gc.collect()
    assert [str(one.message) for one in told] == []
    assert leaks_since(before) == []


@pytest.mark.parametrize("value", ["tit\u0142e", "line\ne", "nul\0e"])
@pytest.mark.parametrize("as_key", [False, True])
def test_a_header_that_cannot_be_sent_is_told(value: str, as_key: bool) -> None:
    """The message names the header and the place in it, and nothing shows its value."""
    secret = Secret(KEY + value)
    options: dict[str, Any] = {"auth": ("x-title", "", secret)} if as_key else {"headers": {"X-Title": secret}}
    what, place = "the key, sent as the header" if as_key else "header", len(KEY) + 1 + value.index(value[-2])
    with pytest.raises(ConfigError, match=f"^{what} 'x-title': character {place} of its value") as caught:
        Client("http://127.0.0.1", **options)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert KEY not in "".join(line for line in trace.format() if "test_http_ways.py" not in line)


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8080", "ftp://x", "http://", "http://user:pass@host/v1", "ftp://user:pass@h"),
        *("http://user:x/pass@host/v1", "http://user:x@host/v1?code=pass@", "http://h:port?code=pass@"),
        *("http://user:password#1@host/v1", "http://user:password?1@host/v1", "http://user:password/v1?1@host"),
        *("http://h:port", "http://h:65536/v1", "http://h:70000", "http://h:100000"),
    ],
)
def test_a_url_that_cannot_be_used_is_told(url: str) -> None:
    """The message says what is expected; a password in the URL is not repeated."""
    with pytest.raises(ConfigError, match="base_url") as caught:
        Client(url)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    told = "".join(line for line in trace.format() if "test_http_ways.py" not in line)
    assert "pass@" not in told
    assert "user:pass" not in told


@pytest.mark.parametrize("said", ["a=KEY", "b%2Fc==", "b/c==", "b%2fc%3d%3d", "opensesame"])
def test_a_key_in_the_query_is_masked_where_the_server_repeats_it(said: str) -> None:
    """As it was written or as it is meant; what is no key stays: it may be what is to be mended."""
    said = said.replace("KEY", KEY)
    words = f"in 2024-10-21-preview of gpt-4o-mini with 1000 as text/plain, {said}| is refused"
    with FaultServer() as server:
        server.play(faults.status(401, WireError(words)), everywhere=True)
        plain = "api-version=2024-10-21-preview&model=gpt-4o-mini&max_tokens=1000&as=text%2Fplain"
        query = f"a={KEY}&code=b%2Fc==&{plain}&token=opensesame"
        client = Client(f"{server.origin}/v1?{query}")
        with pytest.raises(AuthenticationError) as caught:
            client.get_json("x", Scope(5))
        meant = words.replace(said.removeprefix("a="), "***")
        assert meant in str(caught.value)
        client.close()


def test_a_repr_shows_no_key() -> None:
    """Neither does JSON of what one could log."""
    client = Client("https://api.example.com/v1", headers={"X-Key": Secret(KEY)}, auth=KEY_HEADER)
    assert repr(client) == "Client(https://api.example.com/v1)"
    assert KEY not in json.dumps(vars(client), default=repr)
