"""Types as a user's own mypy sees them: no setting of this project, only what is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LINE = re.compile(r"(\w+)\.py:(\d+): (error|note): (.*)")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, list[str]]]:
    """File -> line -> what `mypy --strict` says there: the revealed type, or the code of the error."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("program.py", "mistakes.py"):
        (folder / name).write_text((HERE / name).read_text())
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "program.py", "mistakes.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    said: dict[str, dict[int, list[str]]] = {"program": {}, "mistakes": {}}
    for line in done.stdout.splitlines():
        match = LINE.fullmatch(line)
        assert match, f"mypy says {line!r}"
        file, number, kind, text = match.groups()
        code = re.search(r"\[([\w-]+)\]$", text)
        shown = re.fullmatch(r'Revealed type is "(.*)"', text)
        if kind == "error" or shown:
            said[file].setdefault(int(number), []).append(shown[1] if shown else code[1] if code else text)
    return said


def expected(name: str) -> dict[int, list[str]]:
    """Line -> what stands behind the arrow in its comment."""
    lines = (HERE / f"{name}.py").read_text().splitlines()
    return {number: [line.partition("# -> ")[2]] for number, line in enumerate(lines, 1) if "# -> " in line}


def test_a_program_that_is_right_passes_strictly(found: dict[str, dict[int, list[str]]]) -> None:
    """The public names are typed completely: nothing that a user writes is `Any` where it need not be."""
    assert found["program"] == expected("program")


def test_mistakes_are_found_before_the_program_runs(found: dict[str, dict[int, list[str]]]) -> None:
    """Each wrong line has its error, and no other line has one."""
    assert found["mistakes"] == expected("mistakes")
