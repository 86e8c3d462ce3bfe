"""What a batch costs for each item, in CPU time and in memory, without and with a journal.

    python benchmarks/batch.py [--quick]

100,000 items from a generator over a provider that answers at once. Targets: <= 0.3 ms of CPU each without a journal,
<= 0.6 ms with one, and a resident memory that grows by <= 30 MB. Each run has a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from _measure import arguments, table
from attrs import frozen
from pointsman import Completion, Request, Router, Usage, hookimpl

_TEXT = "An answer of the length that answers have. " * 10


@frozen
class Instant:
    """Answers at once."""

    model: str = "instant-1"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer, with a text of its own."""
        return Completion(f"{request.prompt}: {_TEXT}", usage=Usage(20, 100))


def resident() -> float:
    """Return the megabytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(items: int, journal: str | None) -> dict[str, Any]:
    """Run a batch, and return milliseconds for each item and megabytes that it took at most."""
    with Router([Instant()]) as router:
        router.batch(map(str, range(200)))  # what is loaded late is loaded now
        most = before = resident()

        def look(position: int, _: object) -> None:
            nonlocal most
            if position % 500 == 0:
                most = max(most, resident())

        begun, cpu = perf_counter(), process_time()
        results = router.batch((f"prompt {n}" for n in range(items)), journal=journal, on_result=look)
        cpu, wall = process_time() - cpu, perf_counter() - begun
        assert len(results) == items
        most = max(most, resident())
        last = results[items - 1]
        assert isinstance(last, Completion)
        assert last.text.startswith(f"prompt {items - 1}: ")
    return {"cpu": cpu / items * 1e3, "wall": wall / items * 1e3, "growth": most - before}


def main() -> None:
    """Measure, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--run", nargs=2, metavar=("ITEMS", "JOURNAL"), help="one run, told as JSON")
    given = parser.parse_args()
    if given.run:
        print(json.dumps(measured(int(given.run[0]), given.run[1] or None)))
        return
    items = 2000 if given.quick else 100_000
    rows = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on a disk: /tmp may be none
        journal = str(Path(folder) / "run.db")
        for name, path in [("without a journal", ""), ("with a journal", journal), ("resumed from it", journal)]:
            command = [sys.executable, __file__, "--run", str(items), path]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(ran.stdout)
            rows.append([name, *(f"{found[what]:.3f}" for what in ("cpu", "wall")), f"{found['growth']:+.1f}"])
        size = Path(journal).stat().st_size
    table([f"{items:,} items", "CPU ms/item", "wall ms/item", "memory MB"], rows)
    print(f"the journal has {size / items:.0f} bytes for each item")


if __name__ == "__main__":
    main()
