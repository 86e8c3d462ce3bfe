"""The embedded store under kills, failing writes and sixteen processes: what was acknowledged is there, and whole."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from pointsman import Scope
from pointsman_ipfs import Blocks

#: What each process does: it puts, and prints a line for each put that was acknowledged: CID and size.
WORK = """
import io, os, random, resource, signal, sys, threading
from pointsman import BackendError, Scope
from pointsman.content import Source
from pointsman_ipfs import Blocks

SIZES = (0, 1, 100, 2048, 70_000, 1 << 20, (1 << 20) + 1, 5_000_000)

def told(cid, size):
    os.write(1, f"{cid} {size}\\n".encode())

def put(blocks, data, pin=True):
    return blocks.store(Source(file=io.BytesIO(data), pin=pin), Scope()).cid

def one(blocks, some):
    size = some.choice(SIZES)
    data = (b"the same" * (size // 8 + 1))[:size] if some.random() < 0.2 else some.randbytes(size)
    told(put(blocks, data), size)

def until_killed(path, seed):
    blocks = Blocks(path=path)
    def work(number):
        some = random.Random(seed * 10 + number)
        while True:
            one(blocks, some)
            if some.random() < 0.05:
                blocks.collect(Scope())
    for number in range(3):
        threading.Thread(target=work, args=(number,)).start()

def many(path, seed, count):
    blocks, some, mine = Blocks(path=path), random.Random(seed), []
    for _ in range(count):
        shared = random.Random(some.randrange(40))
        size = shared.choice((100, 2048, 70_000, 1 << 20, 3_000_000))
        data = shared.randbytes(size)
        if some.random() < 0.5:  # it shares its first pieces with what others put
            data += some.randbytes(some.choice((10, 100_000)))
        mine.append((put(blocks, data), len(data)))
        cid, size = some.choice(mine)
        if sum(map(len, blocks.fetch(cid, 0, None, Scope()))) != size:
            os._exit(3)
    blocks.close()
    for cid, size in mine:
        told(cid, size)

def collecting(path):
    blocks, some, times, gone = Blocks(path=path), random.Random(), 0, 0
    while not os.path.exists(f"{path}/enough"):
        shared = random.Random(some.randrange(40))
        data = shared.randbytes(shared.choice((100, 2048, 70_000, 1 << 20, 3_000_000)))
        put(blocks, data, pin=False)
        blocks.unpin(put(blocks, data + b"x"), Scope())
        put(blocks, some.randbytes(300_000), pin=False)
        gone += blocks.collect(Scope()).blocks
        times += 1
    told(times, gone)

def with_little_room(path, seed, count):
    # Files may not grow beyond what is drawn anew for each put: the system cuts a write that would, and refuses others.
    blocks, some, failed = Blocks(path=path), random.Random(seed), 0
    put(blocks, b"first")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for n in range(count):
        largest = max((os.path.getsize(f"{path}/packs/{name}") for name in os.listdir(f"{path}/packs")), default=0)
        room = some.choice((0, 100, 5_000, 300_000, 1 << 20, 8 << 20))
        resource.setrlimit(resource.RLIMIT_FSIZE, (some.choice((largest, 1 << 16, 40_000)) + room, hard))
        try:
            one(blocks, some)
        except BackendError:
            failed += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    blocks.close()
    sys.stderr.write(f"{failed}")
"""

Start = Callable[[str], "subprocess.Popen[str]"]
Killed = Callable[[str, Path, Iterable[float]], Iterator[str]]


def acknowledged(text: str) -> dict[str, int]:
    return {cid: int(size) for cid, size in (line.split() for line in text.splitlines())}


def check(path: Path, there: dict[str, int]) -> None:
    """What was acknowledged is there, whole and pinned, and nothing in the store is wrong."""
    blocks, scope = Blocks(path=path), Scope()
    try:
        assert list(blocks.verify(None, bool, scope)) == []
        assert {cid for cid in there if not blocks.has(cid, scope)} == set()
        assert there.keys() <= {entry.cid for entry in blocks.entries(None, scope)}
        for cid, size in there.items():
            assert sum(len(piece) for piece in blocks.fetch(cid, 0, None, scope)) == size
    finally:
        blocks.close()
    assert not list(path.rglob("*.new"))


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_a_hundred_kills_take_nothing_that_was_acknowledged(tmp_path: Path, killed: Killed, index: str) -> None:
    """At random instants of three threads of puts, with collections among them; half of them with a lost index."""
    some, path, there = random.Random(7), tmp_path / "store", dict[str, int]()
    seconds = [some.uniform(0.02, 0.15) for _ in range(50)]
    for n, said in enumerate(killed(WORK, path, seconds)):
        there |= acknowledged(said)
        if index == "lost" and some.random() < 0.3:
            for file in path.glob("index.sqlite*"):
                file.unlink()
        if n % 10 == 9:
            check(path, there)
    assert len(there) >= 20


def test_sixteen_processes_put_into_one_store_beside_collections(tmp_path: Path, start: Start) -> None:
    """Content that overlaps, and two more processes that collect what is not pinned: nothing is lost, nobody hangs."""
    path = tmp_path / "store"
    path.mkdir()
    collectors = [start(f"{WORK}collecting({str(path)!r})") for _ in range(2)]
    putting = [start(f"{WORK}many({str(path)!r}, {n}, 40)") for n in range(16)]
    there = dict[str, int]()
    for one in putting:
        said, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
        assert errors == ""
        there |= acknowledged(said)
    (path / "enough").touch()
    for one in collectors:
        said, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
        assert errors == ""
        times, gone = said.split()
        assert int(times) > 0
        assert int(gone) > 0
    assert len(there) > 100
    check(path, there)
    blocks = Blocks(path=path)
    blocks.collect(Scope())
    blocks.close()
    check(path, there)


@pytest.mark.parametrize("seed", range(3))
def test_writes_that_fail_take_nothing_that_was_acknowledged(tmp_path: Path, start: Start, seed: int) -> None:
    """Each put may find no room, for its blocks, or for the index: it is there, or it was not acknowledged."""
    path = tmp_path / "store"
    child = start(f"{WORK}with_little_room({str(path)!r}, {seed}, 150)")
    said, failed = child.communicate(timeout=300)
    assert child.returncode == 0, failed
    there = acknowledged(said)
    assert int(failed) > 20
    assert len(there) > 20
    check(path, there)
