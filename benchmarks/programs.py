"""What a program adds to the time of the service that it asks: warm turns over loopback, in interleaved rounds.

    python benchmarks/programs.py [--quick]

The service is a fault server that answers at once; beside each program, the same server is asked over HTTP by
the provider `openai`. Then eight turns of a model that takes half a second are asked at once. The programs are
those that scripts/test installs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread
from time import perf_counter
from typing import Any

from _measure import arguments, interleaved, over
from pointsman import Message, Request
from pointsman.testing import FaultServer, faults
from pointsman_codex import Codex
from pointsman_copilot import Copilot
from pointsman_openai import OpenAI

PROGRAMS = Path(__file__).parents[1] / ".tools" / "programs" / "node_modules" / ".bin"
TARGETS = {"codex": 60.0, "copilot": 80.0}  # milliseconds


def request(prompt: str = "Name three rivers.") -> Request:
    """Return what every contestant is asked."""
    return Request((Message("user", prompt),))


def timed(provider: Any) -> Callable[[], float]:
    """Return a call that asks once, and returns its milliseconds."""

    def ask() -> float:
        before = perf_counter()
        list(provider.stream(request()))
        return (perf_counter() - before) * 1000

    return ask


def together(provider: Any, count: int) -> float:
    """Return the seconds that this many turns at once take."""
    threads = [Thread(target=lambda: list(provider.stream(request()))) for _ in range(count)]
    before = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return perf_counter() - before


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__).parse_args()
    with FaultServer() as server, TemporaryDirectory() as cache:
        made: dict[str, Any] = {
            "codex": Codex(program=str(PROGRAMS / "codex"), base_url=server.url, model="gpt-5.5"),
            "copilot": Copilot(program=str(PROGRAMS / "copilot"), cache=cache, base_url=server.url, model="m"),
        }
        direct = OpenAI(base_url=server.url, model="gpt-5.5", api="responses")
        contestants = {name: timed(provider) for name, provider in {"http": direct, **made}.items()}
        for name, ask in contestants.items():
            print(f"{name:8} first call {ask():7.1f} ms")
            ask()
        found = interleaved(contestants, 5 if options.quick else 60)
        print(f"{'http':8} median     {median(found['http']):7.1f} ms")
        for name in made:
            print(f"{name:8} adds       {over(found, name, 'http'):7.1f} ms (target <= {TARGETS[name]:g} ms)")
        server.play(faults.well("one two three four five six", gap=0.05))
        for name, provider in made.items():
            alone, eight = together(provider, 1), together(provider, 8)
            print(f"{name:8} a slow turn {alone:.2f} s, eight at once {eight:.2f} s")
            provider.close()
        direct.close()


if __name__ == "__main__":
    main()
