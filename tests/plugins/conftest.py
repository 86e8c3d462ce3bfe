"""The matrix of faults, for a provider in the dialect of its own service; and programs that providers ask."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pointsman.testing.matrix import Case, cases

Played = Callable[[Any, Iterable[int]], dict[str, str]]
_PROGRAMS = Path(__file__).parents[2] / ".tools" / "programs" / "node_modules" / ".bin"


@pytest.fixture(scope="session")
def real_program() -> Callable[[str], str]:
    """A function that returns the path of a program which npm installed, as npm puts it into the PATH.

    "cache" is the folder in which copilot unpacks itself once.
    """

    def find(name: str) -> str:
        path = _PROGRAMS / name
        if name == "cache":
            return str(_PROGRAMS.parent / name)
        if not path.exists():
            pytest.fail(f'{path} is not there: scripts/test installs it, and leaves out "programs" where it cannot')
        return str(path)

    return find


@pytest.fixture
def fake_program(tmp_path: Path) -> Callable[[str], str]:
    """A function that writes a program in Python, and returns its path. Its code finds `sys`, `os` and `args`."""

    def write(code: str) -> str:
        path = tmp_path / "program"
        path.write_text(
            f"#!{sys.executable} -IS\nimport json, os, subprocess, sys, time\nargs = sys.argv[1:]\n{code}\n"
        )
        path.chmod(0o755)
        return str(path)

    return write


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
