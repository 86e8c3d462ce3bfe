"""A gateway is not trusted: whatever it sends, what comes out is the content, or an error."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pointsman import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    BackendTimeout,
    ContentNotFoundError,
    RateLimitError,
    Scope,
    Store,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.content import Source
from pointsman.testing import WireError, faults
from pointsman_ipfs import Blocks, Gateway, Kubo
from pointsman_ipfs.dag import car, reader
from pointsman_ipfs.dag.cid import parse, raw_cid, to_text
from pointsman_ipfs.dag.tree import add_tree
from pointsman_ipfs.dag.unixfs import UNIXFS_V1_2025, add_file
from pointsman_ipfs.node._ahead import Ahead

MIB = 1 << 20
RAW, CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car; version=1; order=unk; dups=y"
ABSENT = "bafkreia" + "a" * 51


def limits() -> Scope:
    return Scope(30)


class Double(ThreadingHTTPServer):
    """Serves blocks as a gateway that need not be an honest one. It notes what it was asked for."""

    daemon_threads = True

    def __init__(self, blocks: dict[bytes, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.blocks = blocks
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.raw: Callable[[bytes, bytes], bytes] = lambda cid, data: data
        self.car: Callable[[list[tuple[bytes, bytes]]], bytes] | int = lambda found: b"".join(
            car.write([found[0][0]], found)
        )
        self.kinds = {"raw": RAW, "car": CAR}
        self.missing = 404

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def forms(self) -> list[str]:
        return [path.rpartition("format=")[2] for path in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Double

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        text, _, form = self.path.removeprefix("/ipfs/").partition("?format=")
        cid = parse(text)
        if cid not in self.server.blocks:
            self.answer(self.server.missing, b"not here", "text/plain")
        elif form == "raw":
            self.answer(200, self.server.raw(cid, self.server.blocks[cid]), self.server.kinds["raw"])
        elif isinstance(self.server.car, int):
            self.answer(self.server.car, b"no CAR", "text/plain")
        else:
            found = list(reader.walk(self.server.blocks.__getitem__, cid))
            self.answer(200, self.server.car(found), self.server.kinds["car"])

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def double(blocks: Any) -> Iterator[Double]:
    with Double(blocks) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture
def folder(tmp_path: Path, noise: Any) -> Path:
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    for name, data in {"a": b"a", "in/b": noise(3 * MIB + 1, 1), "in/c": bytes(3 * MIB), "z": b"z"}.items():
        (folder / name).write_bytes(data)
    return folder


def everything(gateway: Gateway, cid: str, place: Path) -> tuple[bytes, bytes]:
    """Read all that is under a CID in two ways."""
    gateway.extract(cid, place, limits())
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return b"".join(path.read_bytes() for path in files), b"".join(gateway.export_car(cid, limits()))


ORDERS: dict[str, Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]] = {
    "as asked for": lambda found: found,
    "the last first": lambda found: found[::-1],
    "at random": lambda found: random.Random(1).sample(found, len(found)),
    "each twice": lambda found: [block for block in found for _ in range(2)],
    "with foreign ones": lambda found: [(raw_cid(b"%d" % n), b"%d" % n) for n in range(50)] + found,
    "some missing": lambda found: found[::2],
    "all missing": lambda found: [(raw_cid(b"x"), b"x")],
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_car_in_any_order(double: Double, blocks: Any, folder: Path, tmp_path: Path, order: str) -> None:
    """What comes out is the same, whatever the gateway puts into its CAR, and in which order."""
    root = add_tree(folder, UNIXFS_V1_2025, blocks.put)
    double.car = lambda found: b"".join(car.write([root.cid], ORDERS[order](found)))
    gateway = Gateway(url=double.url)
    files, exported = everything(gateway, to_text(root.cid), tmp_path / "out")
    assert files == b"".join((folder / name).read_bytes() for name in ("a", "in/b", "in/c", "z"))
    assert exported == b"".join(car.write([root.cid], reader.walk(blocks.__getitem__, root.cid)))
    if order in ("as asked for", "each twice"):
        assert set(double.forms()) == {"car"}
    gateway.close()


def broken(how: str) -> Callable[[list[tuple[bytes, bytes]]], bytes]:
    def make(found: list[tuple[bytes, bytes]]) -> bytes:
        whole = b"".join(car.write([found[0][0]], found))
        middle = len(whole) // 2
        return {
            "cut": whole[:middle],
            "altered": whole[:middle] + bytes((whole[middle] ^ 1,)) + whole[middle + 1 :],
            "no CAR": b"<html>" * 1000,
            "empty": b"",
        }[how]

    return make


@pytest.mark.parametrize("how", ["cut", "altered", "no CAR", "empty"])
def test_a_broken_car_is_made_good_block_by_block(
    double: Double, blocks: Any, folder: Path, tmp_path: Path, how: str
) -> None:
    """What a CAR does not give is got by itself."""
    root = add_tree(folder, UNIXFS_V1_2025, blocks.put)
    double.car = broken(how)
    gateway = Gateway(url=double.url)
    files, _ = everything(gateway, to_text(root.cid), tmp_path / "out")
    assert files == b"".join((folder / name).read_bytes() for name in ("a", "in/b", "in/c", "z"))
    assert "raw" in double.forms()
    gateway.close()


@pytest.mark.parametrize("refused", [400, 406, 501, "another kind"])
def test_a_gateway_without_cars(double: Double, blocks: Any, noise: Any, refused: Any) -> None:
    """It is asked for one once, and for blocks from then on."""
    data = noise(3 * MIB, 2)
    cid = to_text(add_file(io.BytesIO(data).read, UNIXFS_V1_2025, blocks.put).cid)
    if refused == "another kind":
        double.kinds["car"] = "text/html"
    else:
        double.car = refused
    gateway = Gateway(url=double.url)
    for _ in range(2):
        assert b"".join(gateway.fetch(cid, 0, None, limits())) == data
    assert double.forms().count("car") == 1
    gateway.close()


def test_a_wrong_block_is_refused(double: Double, blocks: Any, noise: Any) -> None:
    """Neither from a CAR nor by itself: the error names the block. A page in place of a block is named as that."""
    data = noise(3 * MIB, 3)
    cid = to_text(add_file(io.BytesIO(data).read, UNIXFS_V1_2025, blocks.put).cid)
    double.car, double.raw = broken("altered"), lambda cid, data: data[:-1] + bytes((data[-1] ^ 1,))
    gateway = Gateway(url=double.url)
    for read in (
        lambda: list(gateway.fetch(cid, 0, None, limits())),
        lambda: list(gateway.fetch(cid, 5, 5, limits())),
        lambda: list(gateway.export_car(cid, limits())),
    ):
        with pytest.raises(UnusableAnswer, match="not those of its CID"):
            read()
    double.raw, double.kinds["raw"] = lambda cid, data: b"<html>", "text/html; charset=utf-8"
    with pytest.raises(UnusableAnswer, match="'text/html' where a block was asked for"):
        list(gateway.fetch(cid, 5, 5, limits()))
    double.raw = lambda cid, data: bytes(3 * MIB)
    with pytest.raises(UnusableAnswer, match="more than"):
        list(gateway.fetch(cid, 5, 5, limits()))
    gateway.close()


def test_ranges_and_small_files_need_no_car(double: Double, blocks: Any, noise: Any) -> None:
    """A range reads the blocks that it needs; a file in one block is one request; the form is asked for twice."""
    data = noise(5 * MIB, 4)
    cid = to_text(add_file(io.BytesIO(data).read, UNIXFS_V1_2025, blocks.put).cid)
    gateway = Gateway(url=double.url, token="t0ken", headers={"X-A": "b"})
    assert b"".join(gateway.fetch(cid, MIB - 1, 2, limits())) == data[MIB - 1 : MIB + 1]
    assert double.forms() == ["raw"] * 3
    small = to_text(add_file(io.BytesIO(b"small").read, UNIXFS_V1_2025, blocks.put).cid)
    assert b"".join(gateway.fetch(small, 0, None, limits())) == b"small"
    assert double.forms() == ["raw"] * 4
    assert {headers["accept"] for headers in double.headers} == {RAW}
    assert {(headers["authorization"], headers["x-a"]) for headers in double.headers} == {("Bearer t0ken", "b")}
    gateway.close()


def test_has_looks_at_every_block(double: Double, blocks: Any, noise: Any) -> None:
    """One missing leaf of many, and it is not there; leaves are asked for by HEAD."""
    data = noise(5 * MIB, 5)
    cid = to_text(add_file(io.BytesIO(data).read, UNIXFS_V1_2025, blocks.put).cid)
    gateway = Gateway(url=double.url)
    assert gateway.has(cid, limits())
    assert len(double.asked) == 6
    del blocks[raw_cid(data[3 * MIB : 4 * MIB])]
    assert not gateway.has(cid, limits())
    assert not gateway.has(ABSENT, limits())
    assert list(gateway.entries(None, limits())) == []
    gateway.close()


@pytest.mark.parametrize(
    ("status", "error", "health"),
    [
        (400, UnavailableError, "unconfigured"),
        (401, AuthenticationError, "unconfigured"),
        (403, UnusableAnswer, "unconfigured"),
        (404, ContentNotFoundError, "unconfigured"),
        (410, ContentNotFoundError, "unconfigured"),
        (429, RateLimitError, "unavailable"),
        (451, ContentNotFoundError, "unconfigured"),
        (500, UnavailableError, "unavailable"),
        (502, UnavailableError, "unavailable"),
        (504, BackendTimeout, "unavailable"),
    ],
)
def test_what_refusals_mean(fault_server: Any, status: int, error: type[BackendError], health: str) -> None:
    """Each status has its class, and its meaning for health."""
    server = fault_server()
    server.play(faults.status(status), everywhere=True)
    gateway = Gateway(url=server.origin)
    for read in (
        lambda: list(gateway.fetch(ABSENT, 0, None, limits())),
        lambda: list(gateway.entries(ABSENT, limits())),
    ):
        with pytest.raises(error) as caught:
            read()
        assert (type(caught.value), caught.value.status) == (error, status)
    if error is ContentNotFoundError:
        assert not gateway.has(ABSENT, limits())
    else:
        with pytest.raises(error):
            gateway.has(ABSENT, limits())
    found = gateway.health()
    assert found.status == health, found
    gateway.close()


def test_content_that_a_gateway_may_not_give_out_takes_no_other_with_it(double: Double, blocks: Any) -> None:
    """403 may be of one CID, with a gateway that gives out only what its owner has pinned."""
    cid = to_text(add_file(io.BytesIO(b"Dear Sir").read, UNIXFS_V1_2025, blocks.put).cid)
    double.missing = 403
    with Store({"web": Gateway(url=double.url)}) as store:
        with pytest.raises(UnusableAnswer, match="HTTP 403 from "):
            store.get(ABSENT)
        assert store.get(cid) == b"Dear Sir"


@pytest.mark.parametrize("said", ["tok=S3cr%2Fet%C3%A4x", "S3cr%2Fet%C3%A4x", "S3cr/et\u00e4x", "S3cr%2fet%c3%a4x"])
def test_a_key_in_the_query_is_masked_however_it_is_repeated(fault_server: Any, said: str) -> None:
    """With its name or without, as it was written or as it is meant."""
    server = fault_server()
    server.play(faults.status(401, WireError(f"no such key: {said}")), everywhere=True)
    gateway = Gateway(url=f"{server.origin}?lang=en&tok=S3cr%2Fet%C3%A4x")
    with pytest.raises(AuthenticationError) as caught:
        list(gateway.fetch(ABSENT, 0, None, limits()))
    assert "no such key: " in str(caught.value)
    assert "S3cr" not in str(caught.value)
    gateway.close()


@pytest.mark.kubo
def test_a_gateway_by_subdomains_is_told_as_one(kubo: Any) -> None:
    """Kubo on `localhost` redirects to CID.ipfs.localhost: nobody follows, and the error says what to mend."""
    store = Kubo(url=kubo.api)
    cid = store.store(Source(file=io.BytesIO(b"hello world")), limits()).cid
    store.close()
    gateway = Gateway(url=kubo.gateway.replace("127.0.0.1", "localhost"))
    with pytest.raises(UnavailableError, match=r"redirects to \w+\.ipfs\.localhost:\d+: mend url"):
        list(gateway.fetch(cid, 0, None, limits()))
    gateway.close()


def test_blocks_that_come_too_early_are_bounded() -> None:
    """Only so much is kept of what nobody asked for yet; from there on, blocks are got by themselves."""
    data = [bytes([number]) * MIB for number in range(100)]
    cids, got, read = [raw_cid(block) for block in data], list[bytes](), 0

    def stream() -> Iterator[tuple[bytes, bytes]]:
        nonlocal read
        for block in zip(cids, data, strict=True):
            read += 1
            yield block

    def get(cid: bytes) -> bytes:
        got.append(cid)
        return data[cids.index(cid)]

    ahead = Ahead(stream(), get)
    assert [ahead(cid) for cid in reversed(cids)] == data[::-1]
    assert read < 70
    assert len(got) > 30
    ahead, read = Ahead(stream(), get), 0
    got.clear()
    assert [ahead(cid) for cid in [*cids, cids[99], cids[98]]] == [*data, data[99], data[98]]
    assert got == []
    assert ahead(cids[0]) == data[0]
    assert got == [cids[0]]


def test_an_interrupt_ends_has_at_once() -> None:
    """A gateway that never answers: its threads are not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        gateway = Gateway(url=f"http://127.0.0.1:{hangs.getsockname()[1]}")

        def interrupt() -> None:
            with hangs.accept()[0] as asked:
                asked.recv(1)
                os.kill(os.getpid(), signal.SIGINT)
                ended.wait(20)

        ended, thread = threading.Event(), threading.Thread(target=interrupt)
        thread.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            gateway.has(to_text(raw_cid(b"x")), limits())
        took = time.monotonic() - began
        ended.set()
        thread.join(10)
        gateway.close()
    assert took < 15


@pytest.mark.parametrize("without_end", ["the same block", "an empty block", "small blocks"])
def test_a_car_without_end_is_left(without_end: str) -> None:
    """Blocks that nobody asked for, without end, take some memory and some time; what is asked for is got by itself."""
    wanted, read = raw_cid(b"wanted"), 0

    def stream() -> Iterator[tuple[bytes, bytes]]:
        nonlocal read
        while True:
            read += 1
            assert read < 1_000_000
            data = b"%d" % read if without_end == "small blocks" else b"" if "empty" in without_end else b"same" * 99
            yield raw_cid(data), data

    ahead = Ahead(stream(), lambda cid: {wanted: b"wanted"}[cid])
    tracemalloc.start()
    try:
        assert ahead(wanted) == b"wanted"
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


def test_what_a_gateway_has_can_be_pinned_at_home(double: Double, blocks: Any, folder: Path, tmp_path: Path) -> None:
    """It is brought from there; what is nowhere is not there."""
    cid = to_text(add_tree(folder, UNIXFS_V1_2025, blocks.put).cid)
    with Store({"home": Blocks(path=tmp_path / "home"), "web": Gateway(url=double.url)}) as store:
        store.pin(cid)
        assert store.has(cid, store="home")
        assert [entry.cid for entry in store.ls(store="home")] == [cid]
        with pytest.raises(ContentNotFoundError):
            store.pin(ABSENT)


def test_a_pin_says_why_a_gateway_did_not_give_it(double: Double, blocks: Any, tmp_path: Path) -> None:
    """As `export_car` does: what fails, at once or in the middle, is not what is not there, and no caller's mistake."""
    cid = to_text(add_file(io.BytesIO(random.Random(0).randbytes(3 << 20)).read, UNIXFS_V1_2025, blocks.put).cid)
    right, double.car = double.raw, 404
    stores = {"home": Blocks(path=tmp_path / "home"), "web": Gateway(url=double.url)}
    for good in range(4):  # blocks that come before the gateway fails
        for call in (lambda store: b"".join(store.export_car(cid))), (lambda store: store.pin(cid)):
            given = set[bytes]()

            def cut(cid: bytes, data: bytes, good: int = good, given: set[bytes] = given) -> bytes:
                given.add(cid)
                return right(cid, data) if len(given) <= good else b"wrong"

            double.raw = cut
            with Store(stores) as store, pytest.raises(AllBackendsFailed, match="web: "):
                call(store)
    with Store(stores) as store:
        assert not list(store.ls(store="home"))


def test_a_gateway_alone_verifies_nothing_and_says_so() -> None:
    """That all is as it should be is no answer where nothing was looked at."""
    with Store({"world": Gateway(url="http://127.0.0.1:1")}) as store:
        for cid in None, ABSENT:
            with pytest.raises(UnavailableError, match="no hook verify"):
                list(store.verify(cid))
