"""A proxy between the store and a real Kubo breaks the line in every way: each call ends right or with an error."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pointsman import AuthenticationError, BackendError, BackendTimeout, Scope, Store, UnavailableError, UnusableAnswer
from pointsman.content import Source
from pointsman.testing.leaks import leaks_since, resources
from pointsman_ipfs import Blocks, Gateway, Kubo
from pointsman_ipfs.dag.cid import parse, raw_cid, to_text

pytestmark = pytest.mark.kubo
MIB = 1 << 20
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>Hi</html>"
#: Seconds that a call may take beyond those that it has.
GRACE = 5.0
#: Faults that let nobody go before the time is up.
HOLD = ("never answers", "takes the request and never answers", "drips", "stops taking the request")


def target_of(url: str) -> tuple[str, int]:
    return str(urlsplit(url).hostname), urlsplit(url).port or 80


class Proxy:
    """Passes on what two ends say, as its fault lets it."""

    def __init__(self, target: str, fault: Callable[[Wire], None]) -> None:
        self.target = target_of(target)
        self.fault, self.over = fault, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.socks: list[socket.socket] = [self.listener]
        self.threads: list[threading.Thread] = []
        self.start(self._accept)

    def start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.socks.append(client)
                self.start(self._run, client)

    def _run(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self.target) as server:
            self.socks.append(server)
            for sock in client, server:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.fault(Wire(self, client, server))

    def mend(self, target: str = "") -> None:
        """End all connections, and pass on from now on what is said on new ones."""
        self.fault, self.target = Wire.passing, target_of(target) if target else self.target
        for sock in self.socks[1:]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.over.set()
        for sock in self.socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


class Wire:
    """One connection: both its ends."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server

    def passing(self, up: Callable[[bytes], bytes] = bytes, down: Callable[[bytes], bytes] = bytes) -> None:
        """Pass on what comes, changed by these; an `OSError` of theirs ends the connection."""
        self.proxy.start(self._pump, self.client, self.server, up)
        self._pump(self.server, self.client, down)

    def _pump(self, source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(change(piece))
        for sock in source, target:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def reset(self, _: bytes) -> bytes:
        """End the connection with RST, which nobody may wait for by then."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.client.shutdown(socket.SHUT_RD)
        time.sleep(0.02)
        self.client.close()
        raise OSError

    def held(self, _: bytes) -> bytes:
        """Keep everything from now on."""
        self.proxy.over.wait(30)
        raise OSError


class After:
    """Does something once so many bytes have passed."""

    def __init__(self, size: int, then: Callable[[bytes], bytes]) -> None:
        self.size, self.then = size, then

    def __call__(self, piece: bytes) -> bytes:
        if self.size >= len(piece):
            self.size -= len(piece)
            return piece
        cut, self.size = self.size, -1
        return piece[:cut] + self.then(piece[cut:]) if cut >= 0 else self.then(piece)


def ended(_: bytes) -> bytes:
    raise OSError


def altered(piece: bytes) -> bytes:
    return bytes((piece[0] ^ 1,)) + piece[1:]


def dripping(wire: Wire) -> None:
    def drip(piece: bytes) -> bytes:
        for at in range(len(piece)):
            wire.client.sendall(piece[at : at + 1])
            if wire.proxy.over.wait(0.02):
                raise OSError
        return b""

    wire.passing(down=drip)


def spoken(answer: bytes) -> Callable[[Wire], None]:
    def speak(wire: Wire) -> None:
        while wire.client.recv(65536):
            wire.client.sendall(answer)

    return speak


FAULTS: dict[str, Callable[[Wire], None]] = {
    "closes at once": lambda wire: None,
    "never answers": lambda wire: wire.held(b"") and None,
    "takes the request and never answers": lambda wire: wire.passing(down=wire.held),
    "is late": lambda wire: wire.passing(down=lambda piece: time.sleep(0.002) or piece),
    "drips": dripping,
    "ends the answer after its head": lambda wire: wire.passing(down=After(700, ended)),
    "ends a long answer": lambda wire: wire.passing(down=After(MIB + 200_000, ended)),
    "resets": lambda wire: wire.passing(down=After(500, wire.reset)),
    "ends the request": lambda wire: wire.passing(up=After(100_000, ended)),
    "ends a long request": lambda wire: wire.passing(up=After(5 * MIB, ended)),
    "stops taking the request": lambda wire: wire.passing(
        up=After(100_000, lambda _: wire.proxy.over.wait(30) and b"")
    ),
    "alters the answer": lambda wire: wire.passing(down=After(1500, altered)),
    "alters a long answer": lambda wire: wire.passing(down=After(MIB, altered)),
    "alters the request": lambda wire: wire.passing(up=After(1000, altered)),
    "alters a long request": lambda wire: wire.passing(up=After(5 * MIB, altered)),
    "sends a page": spoken(PAGE),
    "sends 500": spoken(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"),
    "sends 502 and a page": spoken(b"HTTP/1.1 502 Bad\r\nContent-Length: 6\r\n\r\n<html>"),
    "sends nothing whole": spoken(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "sends noise": spoken(bytes(range(256)) * 4),
    "sends other JSON": spoken(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a": 1}\n'),
}


@pytest.fixture(scope="module")
def held(kubo: Any, noise: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the node has, and a store that speaks with it directly."""
    folder = tmp_path_factory.mktemp("held") / "folder"
    folder.mkdir()
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(noise(2 * MIB, 1))
    store = Kubo(url=kubo.api)
    cid = store.store(Source(path=folder), Scope(60)).cid
    car = b"".join(store.export_car(cid, Scope(60)))
    yield {"store": store, "cid": cid, "folder": folder, "car": car, "large": noise(6 * MIB, 2)}
    store.close()


def calls(held: dict[str, Any], tmp_path: Path) -> dict[str, tuple[Callable[[Kubo, Scope], Any], Any]]:
    """Each call of the contract, and what it returns if all is well."""
    cid, direct, target = held["cid"], held["store"], tmp_path / "out"

    def put(data: bytes) -> Callable[[Kubo, Scope], Any]:
        return lambda store, scope: store.store(Source(file=io.BytesIO(data)), scope).size

    def extract(store: Kubo, scope: Scope) -> bytes:
        store.extract(cid, target, scope)
        return (target / "large").read_bytes()

    whole = (held["folder"] / "large").read_bytes()
    return {
        "store small": (put(b"a few bytes"), 11),
        "store large": (put(held["large"]), 6 * MIB),
        "fetch": (lambda store, scope: b"".join(store.fetch(f"{cid}/large", 0, None, scope)), whole),
        "part": (
            lambda store, scope: b"".join(store.fetch(f"{cid}/large", MIB - 1, 2, scope)),
            whole[MIB - 1 :][:2],
        ),
        "has": (lambda store, scope: store.has(cid, scope), True),
        "entries": (lambda store, scope: list(store.entries(cid, scope)), list(direct.entries(cid, Scope(60)))),
        "pinned": (lambda store, scope: cid in {entry.cid for entry in store.entries(None, scope)}, True),
        "extract": (extract, whole),
        "export": (lambda store, scope: b"".join(store.export_car(cid, scope)), held["car"]),
        "import": (lambda store, scope: [s.cid for s in store.import_car(io.BytesIO(held["car"]), True, scope)], [cid]),
        "pin": (lambda store, scope: store.pin(cid, scope), None),
        "verify": (lambda store, scope: list(store.verify(cid, bool, scope)), []),
    }


@pytest.mark.parametrize("transport", ["http", "ipfshttpclient", "gateway"])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_ends_right_or_with_an_error(
    kubo: Any, held: dict[str, Any], tmp_path: Path, needs_package: Any, fault: str, transport: Any
) -> None:
    """Within its time each call gives what is true, or a `BackendError`: no part that looks whole, and no hang."""
    if transport == "ipfshttpclient":
        needs_package()
    before, limit = resources(), 0.1 if fault in HOLD else 0.5
    proxy = Proxy(kubo.gateway if transport == "gateway" else kubo.api, FAULTS[fault])
    store: Any = Gateway(url=proxy.url) if transport == "gateway" else Kubo(url=proxy.url, transport=transport)
    told, tried = dict[str, BackendError](), calls(held, tmp_path)
    if transport == "gateway":
        tried = {name: tried[name] for name in ("fetch", "part", "has", "entries", "extract", "export")}
    try:
        for name, (call, right) in tried.items():
            began = time.monotonic()
            try:
                found = call(store, Scope(limit))
            except BackendError as error:
                told[name] = error
                assert not (tmp_path / "out").exists(), name
            else:
                assert found == right or (name == "verify" and found), f"{name}: found {found!r:.300}"
                shutil.rmtree(tmp_path / "out", ignore_errors=True)
            assert time.monotonic() - began < limit + GRACE, name
        assert fault in HOLD or store.health().status
    finally:
        store.close()
        proxy.stop()
    left = leaks_since(before)
    assert not left, f"left behind: {left}"
    assert held["store"].has(held["cid"], Scope(60))
    check(fault, told, len(tried))


def check(fault: str, told: dict[str, BackendError], count: int) -> None:
    """Some errors must be what they are."""
    if fault in ("never answers", "takes the request and never answers"):
        assert all(isinstance(error, BackendTimeout) for error in told.values()), told
        assert len(told) == count
    if fault in ("closes at once", "sends 500", "sends 502 and a page", "sends noise"):
        assert all(isinstance(error, UnavailableError | UnusableAnswer) for error in told.values()), told
        assert len(told) == count
    if fault in ("alters the answer", "alters a long answer", "alters a long request"):
        assert all(isinstance(error, UnavailableError | UnusableAnswer) for error in told.values()), told


def without_end(wire: Wire) -> None:
    wire.client.recv(65536)
    wire.client.sendall(b"HTTP/1.1 200 OK\r\nX-Chunked-Output: 1\r\n\r\n")
    while True:
        wire.client.sendall(b'{"Version": "0.42.0", "Keys": {}}\n' * 1000)


JSON = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n" + b'{"Keys": 7, "RepoSize": "a", "StorageMax": 1, "Version": {}}'
)
LIST = b'HTTP/1.1 500 Oh\r\nContent-Length: 19\r\n\r\n{"Message": [4, 5]}'


@pytest.mark.parametrize(
    ("fault", "error", "health"),
    [
        (without_end, UnusableAnswer, "unconfigured"),
        (spoken(JSON), UnusableAnswer, "unconfigured"),
        (spoken(LIST), UnavailableError, "unavailable"),
    ],
    ids=["without end", "other JSON", "a list"],
)
def test_what_is_no_answer_is_told_at_once(kubo: Any, fault: Any, error: type[BackendError], health: str) -> None:
    """Lines without end take neither memory nor time; values of other types are an error that says what they are."""
    proxy = Proxy(kubo.api, fault)
    store = Kubo(url=proxy.url)
    try:
        with within(GRACE):
            for pin in True, False:
                with pytest.raises(error, match=r"Kubo's RPC\?|promises|HTTP 500 .*4, 5|taken"):
                    store.store(Source(file=io.BytesIO(b"a few bytes"), pin=pin), Scope(30))
            assert store.health().status == health
    finally:
        store.close()
        proxy.stop()


def test_a_cid_of_the_node_that_is_none_is_the_nodes_fault(kubo: Any) -> None:
    """Of the block that it took, say: whoever put something gave no CID, and another store can be asked."""
    proxy = Proxy(kubo.api, lambda wire: wire.passing(down=lambda piece: piece.replace(b'"Key":"baf', b'"Key":"!af')))
    store = Kubo(url=proxy.url, transport="ipfshttpclient")
    try:
        with pytest.raises(UnusableAnswer, match=r"found !af.* taken"):
            store.store(Source(file=io.BytesIO(b"a few bytes")), Scope(30))
    finally:
        store.close()
        proxy.stop()


def test_a_login_is_masked_in_what_comes_back(kubo: Any) -> None:
    """The password, and what it is sent as, are not shown, though a server repeats them."""
    sent = b64encode(b"bob:correct horse battery").decode()
    body = f"{sent} is no login, nor is correct horse battery".encode()
    proxy = Proxy(kubo.api, spoken(b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    store = Kubo(url=proxy.url, username="bob", password="correct horse battery")
    try:
        with pytest.raises(AuthenticationError, match=r"\*\*\* is no login, nor is \*\*\*"):
            store.has("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", Scope(30))
    finally:
        store.close()
        proxy.stop()


@pytest.mark.parametrize("fault", ["alters the request", "alters a long request", "ends a long request", "resets"])
def test_what_was_acknowledged_is_there(kubo: Any, held: dict[str, Any], noise: Any, fault: str) -> None:
    """If a put over a bad line says that it is kept, then all of it is; and if not, a put over a good one mends it."""
    data = noise(9 * MIB, fault)
    proxy = Proxy(kubo.api, FAULTS[fault])
    store = Kubo(url=proxy.url)
    try:
        cid = store.store(Source(file=io.BytesIO(data)), Scope(5)).cid
    except BackendError:
        cid = held["store"].store(Source(file=io.BytesIO(data)), Scope(60)).cid
    finally:
        store.close()
        proxy.stop()
    assert b"".join(held["store"].fetch(cid, 0, None, Scope(60))) == data
    assert list(held["store"].verify(cid, bool, Scope(60))) == []


@pytest.fixture
def pair(kubo: Any, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """A function that returns a store with two places: this disk, and a node at an address."""
    with ExitStack() as stack:

        def pair(address: str, limit: float | None = 60.0) -> Store:
            places = {"home": Blocks(path=tmp_path / "home"), "node": Kubo(url=address)}
            return stack.enter_context(Store(places, timeout=limit, idle_timeout=limit, max_retries=0))

        yield pair


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_that_a_node_does_is_in_the_way(kubo: Any, pair: Any, noise: Any, fault: str) -> None:
    """A put is kept at home at once, reads come from there, and once the line is good both have all of it."""
    limit = 0.5 if fault in HOLD else 1.0
    proxy = Proxy(kubo.api, FAULTS[fault])
    store, data = pair(proxy.url, limit), noise(6 * MIB, fault)
    try:
        with within(limit):
            kept = store.put(data)
        assert (kept.stored_in, kept.waiting_for) == (("home",), ("node",))
        with within(limit):
            waiting = store.sync(timeout=limit)
        assert fault not in HOLD or [(one.store, one.cid) for one in waiting] == [("node", kept.cid)]
        with within(limit):
            assert store.get(kept.cid, timeout=30) == data
        with within(limit), suppress(BackendError):
            assert store.get(kept.cid, store="node", timeout=limit) == data
        with within(limit):
            assert store.has(kept.cid, timeout=30)
        with within(2 * limit):
            states = {copy.store: copy.state for copy in store.status(kept.cid)}
        assert states["home"] == "kept"
        with within(limit):
            assert {found.store for found in store.verify(kept.cid)} <= {"node"}
        proxy.mend()
        assert store.sync(timeout=60) == ()
        assert [copy.state for copy in store.status(kept.cid)] == ["kept", "kept"]
        assert list(store.verify(kept.cid)) == []
        assert store.get(kept.cid, store="node") == data
    finally:
        store.close()
        proxy.stop()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_node_that_ends_in_the_middle_of_a_put(
    spare_kubo: Any, running: Any, pair: Any, noise: Any, end: int
) -> None:
    """It is killed or ended while it takes content from the outbox: when it is back it gets all of it, by itself."""
    data, before = noise(24 * MIB, 1), noise(3 * MIB, 2)
    with running(spare_kubo) as node:
        proxy = Proxy(node.api, Wire.passing)
        store = pair(proxy.url)
        first = store.put(before)
        assert store.sync() == ()

        def ended_now(_: bytes) -> bytes:
            node.daemon.send_signal(end)
            raise OSError

        proxy.fault = lambda wire: wire.passing(up=After(12 * MIB, ended_now))
        second = store.put(data)
        assert second.waiting_for == ("node",)
        node.daemon.wait(30)
        (waiting,) = store.sync()
        assert (waiting.store, waiting.cid) == ("node", second.cid)
        assert waiting.reason
        assert [copy.state for copy in store.status(second.cid)] == ["kept", "waiting"]
        assert "1 in the outbox wait for it" in store.health()["node"].reason
        assert store.get(second.cid) == data
    with running(spare_kubo) as node:
        proxy.mend(node.api)
        for _ in range(600):  # nobody calls sync: the outbox tries again by itself
            if [copy.state for copy in store.status(second.cid)] == ["kept", "kept"]:
                break
            time.sleep(0.1)
        assert [copy.state for copy in store.status(second.cid)] == ["kept", "kept"]
        for stored, content in (first, before), (second, data):
            assert list(store.verify(stored.cid, store="node")) == []
            assert node.run("cat", stored.cid) == content
        assert {stored.cid for stored in (first, second)} <= {entry.cid for entry in store.ls(store="node")}
        store.close()
        proxy.stop()


@pytest.mark.parametrize("transport", ["http", "ipfshttpclient"])
@pytest.mark.parametrize("stays", [True, False])
def test_a_block_that_is_cut_on_its_way_is_not_damaged(
    spare_kubo: Any, running: Any, noise: Any, tmp_path: Path, transport: Any, stays: bool
) -> None:
    """It is read again before it is called so: the node may have been ended in the middle of it, or only the line."""
    with running(spare_kubo) as node, ExitStack() as stack:
        proxy = Proxy(node.api, Wire.passing)
        stack.callback(proxy.stop)
        store = stack.enter_context(Store([Kubo(url=proxy.url, transport=transport)], outbox=tmp_path / "outbox"))
        cid = store.put(noise(6 * MIB, 1)).cid

        def cut(_: bytes) -> bytes:
            proxy.fault = Wire.passing
            if not stays:
                node.daemon.kill()
                node.daemon.wait(30)
            raise OSError

        part = After(MIB, cut)
        proxy.mend()  # ends its connections, too
        proxy.fault = lambda wire: wire.passing(down=part)
        found = list(store.verify(cid))
    assert [one.unchecked for one in found] == ([] if stays else [True]), found


def test_a_node_that_stands_still_keeps_nobody(spare_kubo: Any, running: Any, pair: Any, noise: Any) -> None:
    """Its process is stopped, its connections stay open: every call ends in its time, and goes on when it does."""
    with running(spare_kubo) as node:
        store, data = pair(node.api, 1.0), noise(6 * MIB, 3)
        before = store.put(b"before")
        assert store.sync() == ()
        os.kill(node.daemon.pid, signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, node.daemon.pid, os.WSTOPPED | os.WNOWAIT)  # until then it may still answer
            with within(0.9):
                assert [copy.state for copy in store.status(before.cid, timeout=0.9)] == ["kept", "unknown"]
            with within(1.0):
                kept = store.put(data)
            with within(1.0):
                assert [one.cid for one in store.sync(timeout=1.0)] == [kept.cid]
            with within(1.0), pytest.raises(BackendTimeout):
                store.get(kept.cid, store="node", timeout=1.0)
            with within(1.0):
                assert store.get(kept.cid) == data
        finally:
            os.kill(node.daemon.pid, signal.SIGCONT)
        assert store.sync(timeout=60) == ()
        assert [copy.state for copy in store.status(kept.cid)] == ["kept", "kept"]


def test_a_bit_that_flips_on_the_disk_of_the_node_is_mended(kubo: Any, pair: Any, noise: Any) -> None:
    """It is refused when it is read from there, comes from home instead, and the node gets it back by itself."""
    store, data = pair(kubo.api), noise(5 * MIB, 4)
    cid = store.put(data).cid
    assert store.sync() == ()
    path = kubo.block_file(raw_cid(data[2 * MIB : 3 * MIB]))
    sound = path.read_bytes()
    path.chmod(0o600)
    for repair in False, True:
        path.write_bytes(sound[:70_000] + bytes((sound[70_000] ^ 4,)) + sound[70_001:])
        with pytest.raises(UnusableAnswer, match=to_text(raw_cid(sound))):
            store.get(cid, store="node")
        (found,) = store.verify(cid, repair=repair)
        assert (found.cid, found.store, found.mended) == (to_text(raw_cid(sound)), "node", repair)
        if not repair:  # whoever reads has it mended, too
            with Store(
                {"node": Kubo(url=kubo.api), "home": store.stores[0].provider}, outbox=path.parent / "x"
            ) as other:
                assert other.get(cid) == data
                assert other.sync() == ()
        assert path.read_bytes() == sound
        assert store.get(cid, store="node") == data


def test_a_root_that_the_node_cannot_parse_is_mended(kubo: Any, pair: Any, noise: Any) -> None:
    """What the node cannot parse is damaged content, not a node that is away; whoever reads it has it mended."""
    store, data = pair(kubo.api), noise(2 * MIB, 5)
    cid = store.put(data).cid
    assert store.sync() == ()
    path = kubo.block_file(parse(cid))
    sound = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes((sound[0] ^ 7,)) + sound[1:])
    with pytest.raises(UnusableAnswer):
        store.has(cid, store="node")
    assert [copy.state for copy in store.status(cid)] == ["kept", "unknown"]
    assert [(found.store, found.mended) for found in store.verify(cid, repair=True)] == [("node", True)]
    assert path.read_bytes() == sound
    assert [copy.state for copy in store.status(cid)] == ["kept", "kept"]


@pytest.mark.parametrize("seconds", [0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05])
def test_a_put_that_is_cut_takes_no_pin_of_another(own_kubo: Any, tmp_path: Path, seconds: float) -> None:
    """Two processes put the same. What one was told stays kept when the node loses the other while it looks at it."""
    waits, go = threading.Event(), threading.Event()
    for name in range(1500):
        (tmp_path / f"{name}").write_bytes(b"%d of %f" % (name, seconds))

    def late(wire: Wire, piece: bytes) -> bytes:
        """Let the end of an import go when the other one is done, and cut the connection so many seconds later."""
        if not piece.endswith(b"--\r\n\r\n0\r\n\r\n") and not piece.endswith(b"--\r\n"):
            return piece
        waits.set()
        go.wait(60)
        wire.server.sendall(piece)
        time.sleep(seconds)
        raise OSError

    def put() -> None:
        with suppress(BackendError):
            second.store(Source(path=tmp_path), Scope(60))

    proxy = Proxy(own_kubo.api, lambda wire: wire.passing(up=lambda piece: late(wire, piece)))
    first, second, thread = Kubo(url=own_kubo.api), Kubo(url=proxy.url), threading.Thread(target=put)
    thread.start()
    assert waits.wait(60)
    cid = first.store(Source(path=tmp_path), Scope(60)).cid
    go.set()
    thread.join(60)
    second.close()
    proxy.stop()
    own_kubo.run("repo", "gc", "--quiet")
    assert cid in {entry.cid for entry in first.pinned(Scope(60))}
    assert first.has(cid, Scope(60))
    first.unpin(cid, Scope(60))
    own_kubo.run("repo", "gc", "--quiet")
    assert not first.has(cid, Scope(60))  # and the other one has left nothing that keeps it
    first.close()


@contextmanager
def within(limit: float) -> Iterator[None]:
    """What is done here ends in its time."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < limit + GRACE
