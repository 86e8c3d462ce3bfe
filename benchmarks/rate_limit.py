"""How exactly and how fully a rate is kept: 50 calls a second, 32 threads in each process.

    python benchmarks/rate_limit.py [--quick] [--seconds 10]

Target: no second with more than 50 calls where the provider sees them, and at least 95 % of what is allowed is
used; in one process, and in four that share a Redis server (started here; without redis-server it is left out).
The window that is judged moves over all calls, of all processes. For comparison, the moving window of the library
`limits`, asked again every 10 ms. Below, what limits cost a call that need not wait.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, process_time, sleep
from typing import Any

from _measure import arguments, table
from attrs import define, field
from pointsman import Backend, BackendError, Completion, Request, Router, hookimpl

RATE, THREADS = 50, 32


@define(eq=False)
class Provider:
    """Answers at once, and notes when it was asked."""

    seen: list[float] = field(factory=list)

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Say hello."""
        self.seen.append(monotonic())
        return Completion("hello")


def pointsman(storage: str | None, provider: Provider) -> Callable[[float], None]:
    """Return what a thread does until a time: one call after another, each as soon as the limit lets it."""
    router = Router([Backend(provider, id="bench", rate_limit=RATE, rate_limit_window=1)], rate_limit_storage=storage)

    def work(end: float) -> None:
        try:
            while (left := end - monotonic()) > 0:
                router.generate("hi", timeout=left)
        except BackendError:
            pass  # the next one would be too late

    return work


def library(storage: str | None, provider: Provider) -> Callable[[float], None]:
    """Return the same with the library `limits`."""
    from limits import parse
    from limits.storage import storage_from_string
    from limits.strategies import MovingWindowRateLimiter

    limiter, item = MovingWindowRateLimiter(storage_from_string(storage or "memory://")), parse(f"{RATE}/second")

    def work(end: float) -> None:
        while monotonic() < end:
            if limiter.hit(item):
                provider.seen.append(monotonic())
            else:
                sleep(0.01)

    return work


def worker(kind: str, storage: str, seconds: float) -> None:
    """Be one process: call from many threads when told, and print when each call was seen, and CPU seconds."""
    provider = Provider()
    work = {"pointsman": pointsman, "limits": library}[kind](storage or None, provider)
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    threads = [threading.Thread(target=work, args=(begin + seconds,)) for _ in range(THREADS)]
    sleep(max(0.0, begin - monotonic()))
    started = process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([provider.seen, process_time() - started]))


def measured(kind: str, storage: str, processes: int, seconds: float) -> list[str]:
    """Return a row of the table."""
    command = [sys.executable, __file__, "--worker", json.dumps([kind, storage, seconds])]
    running: list[Any] = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    assert {process.stdout.readline() for process in running} == {"ready\n"}
    begin = monotonic() + 0.5  # all begin together
    for process in running:
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
    found = [json.loads(process.communicate()[0]) for process in running]
    seen = sorted(time for times, _ in found for time in times)
    fullest = max(
        sum(time - 1.0 < other <= time for other in seen[max(0, n - 4 * RATE) : n + 1]) for n, time in enumerate(seen)
    )
    # The first full window comes at once; what is allowed after it is as much for each second.
    use, cpu = (len(seen) - RATE) / (RATE * (seen[-1] - seen[0])), sum(cpu for _, cpu in found) / len(seen)
    where = "Redis" if storage else "memory"
    return [f"{kind}, {where}", str(processes), str(len(seen)), str(fullest), f"{use:.1%}", f"{cpu * 1e3:.2f} ms"]


@contextmanager
def redis() -> Iterator[str | None]:
    """Yield the URL of a server of our own, or None where there is none to be had."""
    if shutil.which("redis-server") is None:
        yield None
        return
    with socket.socket() as one, tempfile.TemporaryDirectory() as folder:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        one.close()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def cost(calls: int, **limits: Any) -> float:
    """Return microseconds of CPU that a call takes through a router: the best of some rounds."""
    best = float("inf")
    with Router([Backend(Provider(), **limits)]) as router:
        for _ in range(7):
            started = process_time()
            for _ in range(calls):
                router.generate("hi")
            best = min(best, (process_time() - started) / calls * 1e6)
    return best


def main() -> None:
    """Measure, and print two tables."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each contestant runs")
    parser.add_argument("--worker", help=SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return worker(*json.loads(given.worker))
    seconds = 1.5 if given.quick else given.seconds
    with redis() as url:
        rows = [measured("pointsman", "", 1, seconds), measured("limits", "", 1, seconds)]
        if url is not None:
            rows += [measured("pointsman", url, 4, seconds), measured("limits", url, 4, seconds)]
    table(("50 a second, 32 threads", "processes", "calls", "fullest second", "used", "CPU / call"), rows)
    print()
    calls, huge = 200 if given.quick else 5000, 10**9
    bare = cost(calls)
    limited: dict[str, dict[str, Any]] = {
        "rate_limit": {"rate_limit": huge, "rate_limit_window": 0.01},
        "rate_limit, tokens_per_minute": {"rate_limit": huge, "rate_limit_window": 0.01, "tokens_per_minute": huge},
        "rate_limit, tokens_per_minute, max_concurrency": {
            "rate_limit": huge,
            "rate_limit_window": 0.01,
            "tokens_per_minute": huge,
            "max_concurrency": 10,
        },
    }
    table(
        ("a call that need not wait", "us more"),
        [[name, f"{cost(calls, **limits) - bare:.1f}"] for name, limits in limited.items()],
    )
    return None


if __name__ == "__main__":
    main()
