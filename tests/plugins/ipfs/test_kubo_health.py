"""What answers may be no Kubo, or nothing may answer: health says so, and what to do, within seconds."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pointsman import (
    AuthenticationError,
    BackendError,
    ConfigError,
    RateLimitError,
    Scope,
    Store,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.content import Source
from pointsman.service import HEALTH_S
from pointsman.testing import faults
from pointsman_ipfs import Gateway, Kubo, usual_node


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No node of the person who runs the tests."""
    monkeypatch.delenv("IPFS_API", raising=False)
    monkeypatch.setenv("IPFS_PATH", str(tmp_path))


def test_a_login_that_is_refused_is_told_as_such_every_time(fault_server: Any) -> None:
    """The node is left alone for an hour then; who asks again meanwhile sees why, and until when, in the same type."""
    server = fault_server(faults.status(403))
    with Store({"node": Kubo(url=server.url)}) as store:
        for words in "check token", "cooling down for 3600 s more: .*check token":
            with pytest.raises(AuthenticationError, match=words) as caught:
                store.get("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
            assert caught.value.backend == "node"
        assert caught.value.retry_after is not None
        assert 3590 < caught.value.retry_after <= 3600


@pytest.mark.parametrize("store", [Kubo, Gateway])
@pytest.mark.parametrize("status", [401, 403])
def test_a_login_that_health_found_refused_is_told_as_such(fault_server: Any, store: Any, status: int) -> None:
    """Whether a call or health was there first, who asks gets the same type of error."""
    server = fault_server()
    server.play(faults.status(status), everywhere=True)
    with Store({"node": store(url=server.origin)}) as kept:
        assert (kept.health()["node"].status, kept.health()["node"].refused) == ("unconfigured", True)
        with pytest.raises(AuthenticationError, match=f"unconfigured: HTTP {status} .*check token") as caught:
            kept.get("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
        assert caught.value.backend == "node"


@pytest.mark.parametrize("transport", ["http", "ipfshttpclient"])
@pytest.mark.parametrize(
    ("fault", "status", "says", "error"),
    [
        (faults.html(), "unconfigured", "is it Kubo's RPC", UnusableAnswer),
        (faults.plain_text(), "unconfigured", "is it Kubo's RPC", UnusableAnswer),
        (faults.empty_body(), "unconfigured", "is it Kubo's RPC", UnusableAnswer),
        (faults.well(), "unconfigured", "is it Kubo's RPC", UnusableAnswer),
        (faults.status(404), "unconfigured", "no RPC of Kubo", UnavailableError),
        (faults.status(405), "unconfigured", "no RPC of Kubo", UnavailableError),
        (faults.status(401), "unconfigured", "check token", AuthenticationError),
        (faults.status(403), "unconfigured", "check token", AuthenticationError),
        (faults.status(429), "unavailable", "429", RateLimitError),
        (faults.status(500), "unavailable", "500", UnavailableError),
        (faults.status(502), "unavailable", "502", UnavailableError),
        (faults.redirect(), "unconfigured", "url", UnavailableError),
        (faults.hang_up(), "unavailable", "", UnavailableError),
        (faults.reset("headers"), "unavailable", "", UnavailableError),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_answers_is_no_kubo(
    fault_server: Any, needs_package: Any, fault: Any, status: str, says: str, error: type[BackendError], transport: Any
) -> None:
    """Pages, other services, refusals: each has its class, and health a reason that names the address or the login."""
    if transport == "ipfshttpclient":
        needs_package()
    server = fault_server()
    server.play(fault, everywhere=True)
    store = Kubo(url=server.origin, transport=transport)
    health = store.health()
    assert (health.status, says in health.reason) == (status, True), health
    calls: list[Callable[[], Any]] = [
        lambda: store.store(Source(file=io.BytesIO(b"x")), Scope(10)),
        lambda: list(store.entries(None, Scope(10))),
    ]
    for call in calls:
        with pytest.raises(error):
            call()
    store.close()


@pytest.mark.parametrize("fault", [faults.html(), faults.well(), faults.empty_body()], ids=lambda fault: fault.name)
def test_another_server_is_no_damaged_node(fault_server: Any, fault: Any) -> None:
    """What another server sends in place of a block is no damage, and its 200 takes no pin back."""
    server = fault_server()
    server.play(fault, everywhere=True)
    with Store({"node": Kubo(url=server.origin)}) as store:
        for call in store.get, store.unpin:
            with pytest.raises(UnusableAnswer, match="is it Kubo's RPC"):
                call("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")


@pytest.mark.parametrize("transport", ["http", "ipfshttpclient"])
@pytest.mark.parametrize("tls", [True, False])
def test_it_speaks_another_protocol(fault_server: Any, needs_package: Any, tls: bool, transport: Any) -> None:
    """TLS is spoken to a server without, and the other way round: unavailable, at once, and the error names `url`."""
    if transport == "ipfshttpclient":
        needs_package()
    with ExitStack() as stack:
        origin = fault_server().origin.replace("http:", "https:") if tls else stack.enter_context(speaking_tls())
        store = Kubo(url=origin, transport=transport)
        health = store.health()
        assert (health.status, "url" in health.reason) == ("unavailable", True), health
        with pytest.raises(UnavailableError, match="url"):
            list(store.fetch("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", 0, None, Scope(10)))
        store.close()


@contextmanager
def speaking_tls() -> Iterator[str]:
    """A server that answers every request with an alert: unexpected message."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.recv(65536)
                        peer.sendall(b"\x15\x03\x03\0\2\2\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("transport", ["http", "ipfshttpclient"])
def test_nothing_answers(needs_package: Any, transport: Any) -> None:
    """Where somebody named an address it is unavailable; at the default one it is not configured, with what to do."""
    if transport == "ipfshttpclient":
        needs_package()
    with faults.nobody_listens() as nobody:
        store = Kubo(url=nobody.removesuffix("/v1"), transport=transport)
        health = store.health()
        assert health.status == "unavailable"
        assert nobody.split("/")[2] in health.reason
        with pytest.raises(UnavailableError):
            list(store.fetch("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", 0, None, Scope(10)))
        store.close()


def test_nobody_named_a_node(usual_address: Callable[[str], None]) -> None:
    """Without an address, and without a node where one would be by default, the way to one is told."""
    with faults.nobody_listens() as nobody:
        usual_address(nobody.removesuffix("/v1"))
        store = Kubo()
        health = store.health()
        assert health.status == "unconfigured"
        assert "ipfs daemon" in health.reason
        assert "IPFS_API" in health.reason
        store.close()


@pytest.mark.kubo
def test_the_usual_node_is_used_if_one_answers(kubo: Any, fault_server: Any, tmp_path: Path) -> None:
    """A node that runs is found by its own file; where nothing, something else, or nobody in time answers, none is."""
    (tmp_path / "api").write_bytes((kubo.home / "api").read_bytes())
    node = usual_node()
    assert node is not None
    assert node.local
    assert node.store(Source(file=io.BytesIO(b"x")), Scope(10)).size == 1
    node.close()
    for fault in faults.html(), faults.well(), faults.status(403), faults.status(404), faults.silent():
        server = fault_server()
        server.play(fault, everywhere=True)
        (tmp_path / "api").write_text(server.origin)
        assert usual_node(0.2) is None, fault
    with faults.nobody_listens() as nobody:
        (tmp_path / "api").write_text(nobody.removesuffix("/v1"))
        began = time.monotonic()
        assert usual_node() is None
        assert time.monotonic() - began < 0.2
    (tmp_path / "api").write_text("no address")
    with pytest.raises(ConfigError, match=f"{tmp_path}/api: found"):
        usual_node()


@pytest.mark.parametrize("make", [Kubo, Gateway])
def test_health_ends_in_its_time(fault_server: Any, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    """A server that never answers is told of when the time is up that is given to all health."""
    assert HEALTH_S < 5
    for module in "kubo", "gateway":
        monkeypatch.setattr(f"pointsman_ipfs.node.{module}.HEALTH_S", 0.3)
    server = fault_server()
    server.play(faults.silent(), everywhere=True)
    store, began = make(url=server.origin), time.monotonic()
    assert store.health().status == "unavailable"
    assert 0.3 <= time.monotonic() - began < 3
    store.close()


def test_a_retry_is_told_when(fault_server: Any) -> None:
    """Too many requests: the error says when the next may come."""
    server = fault_server()
    server.play(faults.rate_limited(retry_after=7), everywhere=True)
    for store in Kubo(url=server.origin), Gateway(url=server.origin):
        with pytest.raises(RateLimitError) as caught:
            list(store.fetch("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", 0, None, Scope(10)))
        assert caught.value.retry_after == 7
        store.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("transport", ["http", "ipfshttpclient"])
def test_a_node_on_this_machine_is_asked_without_a_proxy(
    fault_server: Any,
    needs_package: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    transport: Any,
) -> None:
    """Neither the proxies of the environment nor a password in .netrc come between us and this machine."""
    if transport == "ipfshttpclient":
        needs_package()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server, proxy = fault_server(), fault_server()
    server.play(faults.status(404), everywhere=True)
    monkeypatch.setenv(variable, proxy.origin)
    store = Kubo(url=server.origin, transport=transport)
    store.health()
    store.close()
    assert proxy.log == ()
    assert [seen.headers.get("authorization") for seen in server.log] == [None] * len(server.log) != []
