"""What every benchmark here needs: interleaved rounds, medians, and a short table."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the parser that all benchmarks share: `--quick` proves that it works and measures nothing well."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few rounds only: proves that it runs")
    return parser


def interleaved(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each contestant once in every round, in turn, so that a slow minute of the machine hits all."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in names if number % 2 else reversed(names):
            found[name].append(contestants[name]())
    return found


def over(found: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Return the median of the differences of `name` and `base`, round by round."""
    return median(one - other for one, other in zip(found[name], found[base], strict=True))


def times(found: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Return the median of the ratios of `name` and `base`, round by round."""
    return median(one / other for one, other in zip(found[name], found[base], strict=True))


def at_once(items: Sequence[T], do: Callable[[T], object], count: int) -> float:
    """Do something with each item, in so many threads; return the seconds that took."""

    def work(number: int) -> None:
        for item in items[number::count]:
            do(item)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return perf_counter() - began


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
