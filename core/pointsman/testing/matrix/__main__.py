"""`python -m pointsman.testing.matrix`: plays every row of faults against the installed version, on the real clock."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from time import perf_counter

from . import Result, cases
from ._provider import chosen

_WORKERS = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print what came of it, and return 1 if any promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m pointsman.testing.matrix", description=__doc__)
    parser.add_argument("--row", type=int, action="append", metavar="N", help="play this row only; may be repeated")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--provider", metavar="NAME", help="an installed one that speaks chat completions; or kit")
    given = parser.parse_args(arguments)
    picked = [case for case in cases() if not given.row or case.row in given.row]
    if not picked:
        parser.error(f"no row {given.row}: there are {min(c.row for c in cases())} to {max(c.row for c in cases())}")
    try:
        make = chosen(given.provider)
    except LookupError as error:
        parser.error(str(error))
    began = perf_counter()
    show = (lambda result: None) if given.json else _show
    results: list[Result] = []
    if not given.json:
        _out(f"pointsman {version('pointsman')}, provider: {make.about}\n{_line(_HEADS)}")
    with ThreadPoolExecutor(_WORKERS) as threads:
        for result in threads.map(lambda case: case.play(make), [case for case in picked if not case.alone]):
            show(result)
            results.append(result)
    for case in picked:
        if case.alone:
            results.append(case.play(make))
            show(results[-1])
    failed = [result for result in results if result.problem]
    seconds = perf_counter() - began
    if given.json:
        facts = {
            "version": version("pointsman"),
            "provider": make.about,
            "seconds": round(seconds, 1),
            "failed": len(failed),
        }
        _out(json.dumps({**facts, "cases": [result.as_json() for result in results]}, indent=1))
    else:
        rows = len({result.row for result in results})
        _out(f"{rows} rows, {len(results)} cases, {len(failed)} failed, {seconds:.0f} s")
    return 1 if failed else 0


_HEADS = ("ROW", "FAULT", "REQUEST", "OUTCOME", "ASKED", "TIME", "OF", "CIRCUIT", "VERDICT")
_WIDTHS = (3, 46, 8, 34, 12, 6, 4, 18, 0)


def _show(result: Result) -> None:
    asked = " ".join(f"{name[0]}{count}" for name, count in result.asked.items())
    limit = f"{result.timeout:g}" if result.timeout else ""
    spent = f"{result.seconds:.2f}" if result.seconds else ""
    cells = (f"{result.row:>3}", result.fault, result.way, result.outcome, asked, spent, limit, result.circuit)
    _out(_line((*cells, "FAILED" if result.problem else "kept")))
    for line in result.problem.splitlines():
        _out(f"      {line}")


def _line(cells: Sequence[str]) -> str:
    cut = (c if not w or len(c) <= w else c[: w - 1] + "…" for c, w in zip(cells, _WIDTHS, strict=True))
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cut, _WIDTHS, strict=True)).rstrip()


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":  # for this process, and not for one that calls `main`
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # no proxy stands between us and our own servers
    for name in ("pointsman", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a failure is the rule here
    sys.exit(main())
