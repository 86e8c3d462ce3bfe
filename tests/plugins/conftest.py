"""The matrix of faults, for a provider in the dialect of its own service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pointsman.testing.matrix import Case, cases

Played = Callable[[Any, Iterable[int]], dict[str, str]]


@pytest.fixture
def played(no_leaks: None) -> Played:
    """A function that plays rows through a router with providers that `make` makes, and returns what went wrong."""

    def play(make: Any, rows: Iterable[int]) -> dict[str, str]:
        picked = [case for case in cases() if case.row in set(rows)]
        assert picked

        def result(case: Case) -> tuple[str, str]:
            return f"{case.row} {case.fault} {case.way}", case.play(make).problem

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(result, [case for case in picked if not case.alone]))
        found += [result(case) for case in picked if case.alone]
        return {name: problem for name, problem in found if problem}

    return play
