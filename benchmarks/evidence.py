"""What a record of evidence costs: beside a bare put of the same bytes, and beside a bare query of SQLite.

    python benchmarks/evidence.py [--quick] [--records 10000] [--folder DIR]

Disks differ from minute to minute: only the ratios of one run mean anything.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import pyrage
from _measure import arguments, at_once, interleaved, table, times
from pointsman import Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence, Record
from store import each_put

_SIZE, _USERS = 2048, 100
_SELECT = "SELECT place, cid, block, sealed FROM records"
_numbers = count()


def about() -> About:
    """Return what people say of a document."""
    number = next(_numbers)
    said = {"page": number, "file": f"scan-{number}.pdf"}
    return About("document", f"Letter {number} of the landlord", "eviction", f"user {number % _USERS}", metadata=said)


def submitting(items: list[bytes], folder: Path, threads: int, **keys: Any) -> Callable[[], float]:
    """Return a function that submits each item to a new store, and returns the seconds that took."""

    def submit() -> float:
        with Store([Blocks(path=folder)]) as store, Evidence(store, **keys) as evidence:
            evidence.submit(b"the store is there now", about())
            took = at_once(items, lambda item: evidence.submit(item, about()), threads)
        rmtree(folder)
        return took

    return submit


def submits(size: int, rounds: int, folder: Path) -> list[list[str]]:
    """Measure submits with one thread and with eight."""
    rows = []
    key = str(pyrage.x25519.Identity.generate())
    for threads, number in ((1, size // 10), (8, size)):
        items = [os.urandom(_SIZE) for _ in range(number)]
        contestants = {
            "Store.put": each_put(items, folder / "put", threads),
            "submit": submitting(items, folder / "clear", threads),
            "submit, encrypted": submitting(items, folder / "encrypted", threads, identity=key),
        }
        found = interleaved(contestants, rounds)
        rows += [
            [
                f"{name} ({number:,} x 2 KiB, threads: {threads})",
                f"{number / median(found[name]):,.0f} /s",
                f"{times(found, name, 'Store.put'):.2f} x",
            ]
            for name in contestants
        ]
    return rows


def queries(size: int, rounds: int, folder: Path) -> list[list[str]]:
    """Measure what is found among so many records: one by its CID, those of a user, all."""
    with Store([Blocks(path=folder / "found")]) as store, Evidence(store) as evidence:
        at_once([os.urandom(_SIZE) for _ in range(size)], lambda item: evidence.submit(item, about()), 8)
        records = list(evidence.records())
        with closing(sqlite3.connect(evidence.path)) as db:
            return _asked(evidence, db, records, rounds)


def _asked(evidence: Evidence, db: sqlite3.Connection, records: list[Record], rounds: int) -> list[list[str]]:
    some, user = records[:: max(1, len(records) // 200)], records[0].user
    cids = [row[0] for row in db.execute("SELECT cid FROM records LIMIT ?", (len(some),)).fetchall()]
    pairs: list[tuple[str, int, Callable[[], object], Callable[[], object]]] = [
        (
            "find",
            len(some),
            lambda: [evidence.find(one.record_cid) for one in some],
            lambda: [db.execute(f"{_SELECT} WHERE cid=?", (cid,)).fetchone() for cid in cids],
        ),
        (
            f"records(user), {len(records) // _USERS}",
            1,
            lambda: list(evidence.records(user)),
            lambda: db.execute(f"{_SELECT} WHERE user=? ORDER BY place", (user,)).fetchall(),
        ),
        (
            f"records(), {len(records):,}",
            1,
            lambda: list(evidence.records()),
            lambda: db.execute(f"{_SELECT} ORDER BY place").fetchall(),
        ),
    ]
    rows = []
    for name, number, ours, bare in pairs:
        found = interleaved({name: timed(ours), "bare": timed(bare)}, rounds)
        rows.append([f"a bare query: {name}", f"{1e6 * median(found['bare']) / number:,.0f} us", "1.0 x"])
        rows.append([name, f"{1e6 * median(found[name]) / number:,.0f} us", f"{times(found, name, 'bare'):.1f} x"])
    return rows


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return a function that calls this one, and returns the seconds that took."""

    def timing() -> float:
        began = perf_counter()
        call()
        return perf_counter() - began

    return timing


def main() -> None:
    """Measure, and print two tables."""
    parser = arguments(__doc__)
    parser.add_argument("--records", type=int, default=10_000, help="how many there are when they are asked for")
    parser.add_argument("--folder", help="on the disk that is to be measured")
    given = parser.parse_args()
    size, rounds = (200, 1) if given.quick else (given.records, 7)
    with TemporaryDirectory(dir=given.folder, prefix="pointsman-evidence-") as name:
        folder = Path(name)
        table(["", "speed", "time, of Store.put"], submits(size // 2, rounds, folder))
        print()
        table([f"among {size:,} records", "time", "of the bare query"], queries(size, rounds, folder))


if __name__ == "__main__":
    main()
