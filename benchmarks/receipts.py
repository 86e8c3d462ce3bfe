"""What receipts add to a call: CPU time of all threads, until every receipt is durable.

    python benchmarks/receipts.py [--quick]

Target: <= 60 us a call, without a key. The provider does nothing, prompt and answer have 500 characters each; the store
is on the disk of this folder. What the thread of the caller takes of that stands beside it.
"""

from __future__ import annotations

import gc
import tempfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from time import process_time, thread_time

from _measure import arguments, interleaved, over, table
from attrs import frozen
from pointsman import Completion, Request, Router, Secret, Store, Usage, hookimpl
from pointsman_ipfs import Blocks, Receipts

_TEXT = "Three rivers of Europe are the Rhine, the Danube and the Rhone, and each begins in the Alps. " * 6
_PROMPT = _TEXT[:500]
_ANSWER = Completion(_TEXT[-500:], usage=Usage(120, 110), model="hello-1", request_id="req_0123456789", cost=0.0012)


@frozen
class Hello:
    """Answers at once."""

    model: str = "hello-1"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Say what it always says."""
        return _ANSWER


def timed(router: Router, receipts: Receipts | None, calls: int) -> Callable[[], float]:
    """Return a function that makes the call many times, and returns microseconds of CPU for one: of all threads.

    What the caller's thread takes of that stands in `own` of it.
    """
    own: list[float] = []

    def run() -> float:
        gc.collect()
        started, mine = process_time(), thread_time()
        for _ in range(calls):
            router.generate(_PROMPT)
        own.append((thread_time() - mine) / calls * 1e6)
        if receipts is not None:
            receipts.close()  # all of them are durable
        return (process_time() - started) / calls * 1e6

    run.own = own  # type: ignore[attr-defined] # of a function
    run()
    own.clear()
    return run


def main() -> None:
    """Measure, and print a table."""
    given = arguments(__doc__).parse_args()
    calls, rounds = (50, 2) if given.quick else (5000, 15)
    key = Secret(b64encode(bytes(range(32))).decode())
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, Store([Blocks(path=Path(folder))]) as store:
        base = "without receipts"
        contestants = {base: timed(Router([Hello()]), None, calls)}
        kinds = {
            "with receipts": Receipts(store=store),
            "... without content": Receipts(store=store, content=False),
            "... signed": Receipts(store=store, key=key),
        }
        for name, receipts in kinds.items():
            contestants[name] = timed(Router([Hello()], middleware=[receipts]), receipts, calls)
        found = interleaved(contestants, rounds)
    own = {name: run.own for name, run in contestants.items()}  # type: ignore[attr-defined] # see `timed`
    head = ["CPU for one call", "least", "over none", "the caller's thread, over none"]
    rows = [
        [name, f"{min(found[name]):.1f} us", f"{over(found, name, base):+.1f} us", f"{over(own, name, base):+.1f} us"]
        for name in contestants
    ]
    table(head, rows)


if __name__ == "__main__":
    main()
