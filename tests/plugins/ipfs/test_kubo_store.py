"""The store on Kubo: what its node does that nobody expects, and what it costs."""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pointsman import (
    AuthenticationError,
    BackendError,
    ContentNotFoundError,
    Scope,
    Secret,
    Store,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.content import Source, Stored
from pointsman_ipfs import Blocks, Kubo
from pointsman_ipfs.dag import car, reader
from pointsman_ipfs.dag.cid import parse, raw_cid, to_text
from pointsman_ipfs.dag.unixfs import CID_V1, UNIXFS_V1_2025, add_file

pytestmark = pytest.mark.kubo
MIB = 1 << 20


def limits() -> Scope:
    return Scope(60)


def put(store: Kubo, data: bytes, pin: bool = True, **options: Any) -> Stored:
    return store.store(Source(file=io.BytesIO(data), pin=pin, **options), limits())


def pins(store: Kubo) -> set[str]:
    return {entry.cid for entry in store.entries(None, limits())}


def changed(path: Any) -> None:
    """Change a byte of a block on the disk."""
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))


class Drawn(io.RawIOBase):
    """So many bytes that look random, made as they are read; `hook` is called before each MiB."""

    def __init__(self, size: int, hook: Callable[[int], object] = lambda at: None) -> None:
        self._left, self._size, self._hook = size, size, hook

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        self._hook(self._size - self._left)
        piece = os.urandom(min(self._left, size if size >= 0 else self._left))
        self._left -= len(piece)
        return piece


@pytest.fixture(scope="module")
def kubo(own_kubo: Any) -> Any:
    """A node that has nothing else: some tests here read all of it."""
    return own_kubo


@pytest.fixture
def store(kubo: Any) -> Any:
    store = Kubo(url=kubo.api)
    yield store
    store.close()


def test_what_is_pinned_stays_so_while_it_is_put_again(store: Kubo) -> None:
    """Kubo unpins what is pinned anew until it has looked at all of it: a put of the same never lets it."""
    data = b"again" * 500_000
    cid, over = put(store, data).cid, threading.Event()

    def again() -> None:
        while not over.is_set():
            put(store, data)
            store.pin(cid, limits())

    threads = [threading.Thread(target=again) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert all(cid in pins(store) for _ in range(20))
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def test_a_pin_below_another_is_a_pin_of_its_own(store: Kubo, noise: Any) -> None:
    """A block that a pinned file reaches is pinned when asked, and unpinned without harm to the file."""
    data = noise(2 * MIB, 5)
    cid, piece = put(store, data).cid, to_text(raw_cid(data[:MIB]))
    assert piece not in pins(store)
    store.unpin(piece, limits())
    store.pin(piece, limits())
    assert {cid, piece} <= pins(store)
    store.unpin(piece, limits())
    assert cid in pins(store)
    assert b"".join(store.fetch(cid, 0, None, limits())) == data


def test_a_node_is_not_believed_when_it_does_not_pin(store: Kubo, noise: Any) -> None:
    """A root that is not there gives status 200 and a sentence: that is an error, and nothing is pinned."""
    here, absent = noise(1000, 6), raw_cid(noise(1000, 7))
    with store._rpc.importing(limits(), pin=True) as blocks:
        blocks.put(raw_cid(here), here)
        with pytest.raises(UnavailableError, match=r"was not pinned: .*could not find"):
            blocks.finish([raw_cid(here), absent])
    assert to_text(absent) not in pins(store)


def test_a_car_may_lean_on_what_is_there(store: Kubo, noise: Any, blocks: Any) -> None:
    """Blocks that the node has need not be in it; it may have several roots, one twice, or none that was known."""
    one, two = (add_file(io.BytesIO(noise(3 * MIB, seed)).read, UNIXFS_V1_2025, blocks.put) for seed in (8, 9))
    everything = dict(reader.walk(blocks.fetch, one.cid)) | dict(reader.walk(blocks.fetch, two.cid))
    half = [block for place, block in enumerate(everything.items()) if place % 2]
    rest = [block for place, block in enumerate(everything.items()) if not place % 2]
    roots = [one.cid, two.cid, one.cid]

    def take(some: Any, pin: bool) -> list[Stored]:
        return list(store.import_car(io.BytesIO(b"".join(car.write(roots, some))), pin, limits()))

    with pytest.raises(UnusableAnswer, match="not there that others link to"):
        take(half, True)
    assert not {to_text(one.cid), to_text(two.cid)} & pins(store)
    take(half, False)
    assert take(rest, True) == [Stored(to_text(root), 3 * MIB) for root in (one.cid, two.cid)]
    assert {to_text(one.cid), to_text(two.cid)} <= pins(store)
    placeholder = b"\x01\x55\x00\x00"
    streamed = b"".join(car.write([placeholder], everything.items()))
    assert store.import_car(io.BytesIO(streamed), True, limits()) == []


def test_a_block_of_another_hash_function_is_no_content_of_ours(kubo: Any, store: Kubo, tmp_path: Any) -> None:
    """A node has more than what is read here: pins of it are listed, and told as what nobody can verify."""
    (tmp_path / "file").write_bytes(b"blake")
    cid = kubo.run("add", "--quieter", "--hash=blake2b-256", "--pin=true", tmp_path / "file").decode().strip()
    try:
        assert cid in pins(store)
        assert [found.problem for found in store.verify(None, bool, limits()) if found.cid == cid] != []
    finally:
        kubo.run("pin", "rm", cid)


def test_it_says_at_once_what_is_not_there(store: Kubo) -> None:
    """Nobody looks in a network for it, and nobody waits."""
    began = time.monotonic()
    with pytest.raises(ContentNotFoundError, match="could not find"):
        list(store.fetch(to_text(raw_cid(os.urandom(20))), 0, None, Scope(None)))
    assert time.monotonic() - began < 5


def test_ranges_read_only_what_they_need(kubo: Any, store: Kubo, noise: Any) -> None:
    """Ten bytes in the middle of a file come, though all other pieces of it are gone."""
    data = noise(5 * MIB, 11)
    cid = put(store, data).cid
    gone = {kubo.block_file(raw_cid(data[at * MIB : (at + 1) * MIB])) for at in (0, 1, 3, 4)}
    for path in gone:
        path.unlink()
    try:
        assert b"".join(store.fetch(cid, 2 * MIB + 5, 10, limits())) == data[2 * MIB + 5 : 2 * MIB + 15]
        assert not store.has(cid, limits())
        with pytest.raises(ContentNotFoundError):
            list(store.fetch(cid, 0, None, limits()))
        assert {found.cid for found in store.verify(cid, bool, limits())} == {
            to_text(raw_cid(data[at * MIB : (at + 1) * MIB])) for at in (0, 1, 3, 4)
        }
        assert len([found for found in store.verify(None, bool, limits()) if "could not find" in found.problem]) == 4
    finally:
        put(store, data)
    assert store.has(cid, limits())


@pytest.mark.parametrize("pin", [True, False])
def test_a_changed_node_is_refused(kubo: Any, store: Kubo, noise: Any, pin: bool) -> None:
    """Kubo gives out a changed block as if it were well. We do not; `verify` names it, pinned or not."""
    cid = put(store, noise(3 * MIB + pin, 12), pin=pin).cid
    path = kubo.block_file(parse(cid))
    sound = path.read_bytes()
    changed(path)
    try:
        with pytest.raises(UnusableAnswer, match=cid):
            list(store.fetch(cid, 0, None, limits()))
        with pytest.raises(UnusableAnswer, match=cid):
            list(store.fetch(cid, MIB, 1, limits()))
        assert [found.cid for found in store.verify(cid, bool, limits())] == [cid]
        named = {parse(found.cid)[-32:] for found in store.verify(None, bool, limits()) if "not those" in found.problem}
        assert named == {parse(cid)[-32:]}
    finally:
        path.write_bytes(sound)
    assert list(store.verify(cid, bool, limits())) == []


def test_the_node_knows_no_profile_of_ours(kubo: Any, noise: Any) -> None:
    """The CID is the one of our profile, whatever the node would make of the file."""
    data = noise(600_000, 13)
    for profile, made in (("cid-v1", CID_V1), ("unixfs-v1-2025", UNIXFS_V1_2025)):
        store = Kubo(url=kubo.api, profile=profile)
        cid = put(store, data).cid
        assert cid == to_text(add_file(io.BytesIO(data).read, made, lambda *_: 0).cid)
        assert kubo.run("cat", cid) == data
        store.close()


def test_large_content_takes_no_memory(kubo: Any, store: Kubo) -> None:
    """128 MiB are put and read back, and never more than some blocks are held."""
    tracemalloc.start()
    try:
        stored = store.store(Source(file=Drawn(128 * MIB), pin=False), limits())  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
        tracemalloc.reset_peak()
        assert sum(map(len, store.fetch(stored.cid, 0, None, limits()))) == stored.size == 128 * MIB
        assert sum(map(len, store.export_car(stored.cid, limits()))) > 128 * MIB
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()
        kubo.run("repo", "gc", "--quiet")


def test_a_node_that_dies_and_comes_again(spare_kubo: Any, running: Any) -> None:
    """A put in which the node is killed is an error at once; after its restart the same put is whole."""
    store, data = Kubo(url=f"unix://{spare_kubo.socket}"), os.urandom(64 * MIB)
    spare_kubo.run("config", "--json", "Addresses.API", json.dumps([f"/unix{spare_kubo.socket}"]))
    with running(spare_kubo) as node:
        early = put(store, b"before").cid

        def kill(at: int) -> None:
            if at > 30 * MIB:
                node.daemon.kill()
                node.daemon.wait(20)

        began = time.monotonic()
        with pytest.raises(UnavailableError):
            store.store(Source(file=Drawn(64 * MIB, kill)), limits())  # type: ignore[arg-type]
        assert time.monotonic() - began < 20
        with pytest.raises(UnavailableError):
            put(store, b"while it is away")
        assert store.health().status == "unavailable"
    with running(spare_kubo):
        assert store.health().status == "healthy"
        assert early in pins(store)
        cid = put(store, data).cid
        assert b"".join(store.fetch(cid, 0, None, limits())) == data
        assert list(store.verify(None, bool, limits())) == []
    store.close()


AUTHORIZED = {
    "all": {"AuthSecret": "bearer:t0ken-of-all", "AllowedPaths": ["/api/v0"]},
    "reader": {"AuthSecret": "basic:reader:pa55word", "AllowedPaths": ["/api/v0/block/get", "/api/v0/repo/stat"]},
}


@pytest.mark.parametrize("transport", ["http", "ipfshttpclient"])
def test_who_may_do_what(spare_kubo: Any, running: Any, needs_package: Any, transport: Any) -> None:
    """Bearer and basic are sent; who lacks a login, has a wrong one, or may not do it, is told so, without a key."""
    if transport == "ipfshttpclient":
        needs_package()
    spare_kubo.run("config", "--json", "API.Authorizations", json.dumps(AUTHORIZED))
    with running(spare_kubo) as node:

        def opened(**login: Any) -> Kubo:
            return Kubo(url=node.api, transport=transport, **login)

        owner, guest = opened(token="t0ken-of-all"), opened(username="reader", password="pa55word")
        cid = put(owner, b"hello world").cid
        assert owner.health().status == guest.health().status == "healthy"
        assert b"".join(guest.fetch(cid, 0, None, limits())) == b"hello world"
        strangers = [opened(), opened(token="wr0ng-token"), opened(username="reader", password=Secret("wr0ng"))]
        for store in strangers:
            health = store.health()
            assert health.status == "unconfigured"
            assert "token" in health.reason
        calls: list[Callable[[Kubo], Any]] = [
            lambda store: put(store, b"x"),
            lambda store: store.pin(cid, limits()),
            lambda store: list(store.entries(None, limits())),
            lambda store: store.has(cid, limits()),
        ]
        for store in (guest, *strangers):
            for call in calls:
                with pytest.raises(AuthenticationError) as caught:
                    call(store)
                assert caught.value.status == 403
                assert not any(key in repr(caught.value) for key in ("t0ken", "pa55", "wr0ng"))
        shown = repr((owner, guest, strangers))
        assert not any(key in shown for key in ("t0ken", "pa55", "wr0ng"))
        for store in (owner, guest, *strangers):
            store.close()


def test_a_node_that_is_full_says_so(spare_kubo: Any, running: Any) -> None:
    """It takes more than it was told to keep: health says what to do."""
    spare_kubo.run("config", "Datastore.StorageMax", "1KB")
    with running(spare_kubo) as node:
        store = Kubo(url=node.api)
        put(store, os.urandom(100_000))
        for _ in range(100):  # it counts in the background
            if (health := store.health()).status == "degraded":
                break
            time.sleep(0.1)
        assert health.status == "degraded"
        assert "StorageMax" in health.reason
        store.close()


def test_threads_and_processes_share_nothing(store: Kubo) -> None:
    """A forked child speaks on connections of its own."""
    cid = put(store, b"forked").cid
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if b"".join(store.fetch(cid, 0, None, limits())) == b"forked" else 1)
        except BackendError:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"".join(store.fetch(cid, 0, None, limits())) == b"forked"


def test_a_child_waits_for_no_thread_of_its_parent(store: Kubo, forked: Callable[[Callable[[], object]], int]) -> None:
    """A fork may come while another thread looks at who pins what: that thread is not in the child."""
    cid = put(store, b"looked at").cid
    held, done = threading.Event(), threading.Event()

    def look() -> None:
        with store._rpc._free:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=look)
    thread.start()
    assert held.wait(20)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(forked(lambda: store.pin(cid, limits())), 0)[1]) == 0
    finally:
        done.set()
        thread.join()


#: Three threads put, and print the CID of each put that was acknowledged.
PUTS = """
import os, random, threading
from pointsman import Store
from pointsman_ipfs import Blocks, Kubo

def until_killed(path, seed):
    store = Store({"home": Blocks(path=path), "node": Kubo(url=os.environ["NODE"])})

    def work(number):
        some = random.Random(seed * 10 + number)
        while True:
            data = some.randbytes(some.choice((100, 2048, 70_000, 3_000_000)))
            os.write(1, store.put(data).cid.encode() + b"\\n")

    for number in range(3):
        threading.Thread(target=work, args=(number,)).start()
"""


def test_kills_take_no_copy_that_was_promised(
    own_kubo: Any, killed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 30 kills, each acknowledged CID waits for the node or is there; what waits is pinned in the first store."""
    monkeypatch.setenv("NODE", own_kubo.api)
    path, some, said = tmp_path / "home", random.Random(1), set[str]()
    for told in killed(PUTS, path, (some.uniform(0, 0.3) for _ in range(30))):
        said.update(told.split())
        waiting = set[str]()
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path / "outbox.sqlite")) as outbox:  # not yet
            waiting = {cid for (cid,) in outbox.execute("SELECT cid FROM jobs WHERE store='node' AND what='put'")}
        home, node = Blocks(path=path), Kubo(url=own_kubo.api)
        assert waiting <= {entry.cid for entry in home.entries(None, limits())}
        assert said - waiting <= pins(node)
        home.close()
        node.close()
    assert len(said) > 30
    with closing(sqlite3.connect(path / "outbox.sqlite")) as outbox, outbox:
        outbox.execute("UPDATE jobs SET lease=0")  # as a minute does: what was killed had taken some of it
    with Store({"home": Blocks(path=path), "node": Kubo(url=own_kubo.api)}) as store:
        assert store.sync() == ()
        assert all(store.has(cid, store=where) for cid in said for where in ("home", "node"))


def test_what_nobody_here_can_verify_is_not_told_as_damaged(kubo: Any, tmp_path: Path) -> None:
    """A node has content of other hash functions, too: pinned, within something else, and in its CID itself."""
    (tmp_path / "file").write_bytes(b"by another function")
    cid = kubo.run("add", "--quieter", "--hash=blake2b-256", tmp_path / "file").decode().strip()
    node = kubo.run("dag", "put", "--pin", "--store-codec=dag-cbor", stdin=json.dumps({"a": {"/": cid}}).encode())
    (tmp_path / "file").write_bytes(b"tiny")
    tiny = kubo.run("add", "--quieter", "--inline", tmp_path / "file").decode().strip()
    try:
        with Store({"node": Kubo(url=kubo.api)}) as store:
            found = {one.cid: one.unchecked for one in store.verify() if one.cid in (cid, tiny)}
            assert found == {cid: True, tiny: True}
            assert [one.unchecked for one in store.verify(node.decode().strip())] == [True]
    finally:
        kubo.run("pin", "rm", cid, tiny, node.decode().strip())
