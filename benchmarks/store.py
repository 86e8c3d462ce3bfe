"""What a durable put costs, and a verified get: the embedded store beside plain writes and bare SHA-256.

    python benchmarks/store.py [--quick] [--mib 1024] [--small 10000] [--folder DIR]

Targets: a put of 1 GiB reaches 60 % of the speed of writing the same bytes and one fsync, with at most 60 MiB of
memory; 10,000 puts of 2 KiB with 8 threads are 5 times as fast as one fsync each (a disk takes those of many threads
together, too: so that is shown as well); a get reaches 70 % of bare SHA-256.
Disks differ from minute to minute: only the ratios of one run mean anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from pathlib import Path
from shutil import rmtree
from statistics import median
from subprocess import run
from tempfile import TemporaryDirectory
from time import perf_counter

from _measure import arguments, at_once, interleaved, table, times
from pointsman import Store
from pointsman_ipfs import Blocks

_MIB, _SMALL, _THREADS = 1 << 20, 2048, 8
_PUT = """
import resource, sys
from pathlib import Path
from pointsman import Store
from pointsman_ipfs import Blocks
with Store([Blocks(path=sys.argv[2])]) as store:
    store.put(b"what is imported late is so now")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.put(Path(sys.argv[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def written(source: Path, target: Path) -> Callable[[], float]:
    """Return a function that copies a file, makes it durable, and returns the seconds that took."""

    def copy() -> float:
        began = perf_counter()
        with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as copied:
            while piece := file.read(_MIB):
                copied.write(piece)
            os.fsync(copied.fileno())
        took = perf_counter() - began
        target.unlink()
        return took

    return copy


def put(source: Path, folder: Path) -> Callable[[], float]:
    """Return a function that puts a file into a new store, and returns the seconds that took."""

    def keep() -> float:
        with Store([Blocks(path=folder)]) as store:
            store.put(b"the store is there now")
            began = perf_counter()
            store.put(source)
            took = perf_counter() - began
        rmtree(folder)
        return took

    return keep


def each_synced(items: list[bytes], folder: Path, threads: int = _THREADS) -> Callable[[], float]:
    """Return a function that writes each item to a file of its own, with one fsync for each.

    Nothing is removed before the end: a disk that has just lost ten thousand files is slow for long.
    """
    rounds = count()

    def write() -> float:
        place = folder / f"{threads}-{next(rounds)}"
        place.mkdir(parents=True)

        def keep(item: bytes) -> None:
            with (place / sha256(item).hexdigest()).open("wb", buffering=0) as file:
                file.write(item)
                os.fsync(file.fileno())

        os.sync()
        return at_once(items, keep, threads)

    return write


def each_put(items: list[bytes], folder: Path, threads: int = _THREADS) -> Callable[[], float]:
    """Return a function that puts each item into a new store."""
    rounds = count()

    def write() -> float:
        with Store([Blocks(path=folder / f"{threads}-{next(rounds)}")]) as store:
            store.put(b"the store is there now")
            os.sync()
            return at_once(items, store.put, threads)

    return write


def hashed(source: Path) -> Callable[[], float]:
    """Return a function that hashes a file piece by piece, and returns the seconds that took."""

    def digest() -> float:
        began = perf_counter()
        with source.open("rb", buffering=0) as file:
            while piece := file.read(_MIB):
                sha256(piece).digest()
        return perf_counter() - began

    return digest


def got(store: Store, cid: str) -> Callable[[], float]:
    """Return a function that reads content, verified, and returns the seconds that took."""

    def read() -> float:
        began = perf_counter()
        with store.open(cid) as content:
            for _ in content:
                pass
        return perf_counter() - began

    return read


def main() -> None:
    """Measure, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large file")
    parser.add_argument("--small", type=int, default=10_000, help="how many small things")
    parser.add_argument("--folder", help="on the disk that is to be measured")
    given = parser.parse_args()
    mib, number, rounds = (16, 200, 1) if given.quick else (given.mib, given.small, 7)
    with TemporaryDirectory(dir=given.folder, prefix="pointsman-store-") as name:
        folder = Path(name)
        source = folder / "source"
        with source.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(_MIB))
        one = "write, one fsync", "Store.put"
        large = interleaved({one[0]: written(source, folder / "copy"), one[1]: put(source, folder / "large")}, rounds)
        command = [sys.executable, "-c", _PUT, str(source), str(folder / "memory")]
        grown = int(run(command, capture_output=True, text=True, check=True).stdout) / 1024
        items = [os.urandom(_SMALL) for _ in range(number)]
        many = "write, fsync each, 1 thread", f"Store.put each, {_THREADS} threads", f"fsync each, {_THREADS} threads"
        one_by_one, at_a_time = (each_synced(items, folder / "files", threads) for threads in (1, _THREADS))
        ways = one_by_one, each_put(items, folder / "small"), at_a_time
        small = interleaved(dict(zip(many, ways, strict=True)), rounds)
        with Store([Blocks(path=folder / "read")]) as store:
            cid = store.put(source).cid
            read = "bare SHA-256", "Store.open"
            gets = interleaved({read[0]: hashed(source), read[1]: got(store, cid)}, rounds)
    rows = [
        [f"{name} ({mib} MiB)", f"{mib / median(found[name]):,.0f} MiB/s", f"{times(found, pair[0], name):.2f} x"]
        for pair, found in ((one, large), (read, gets))
        for name in pair
    ]
    rows[2:2] = [
        [
            f"{name} ({number:,} x 2 KiB)",
            f"{number / median(small[name]):,.0f} /s",
            f"{times(small, many[0], name):.2f} x",
        ]
        for name in many
    ]
    table(["", "speed", "of the first"], rows)
    print(f"memory of a put of {mib} MiB: {grown:+.1f} MiB")


if __name__ == "__main__":
    main()
