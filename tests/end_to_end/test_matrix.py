"""The matrix of faults: one command that plays every row, and the page that lists them."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pointsman import Completion, Request, hookimpl
from pointsman.testing import faults
from pointsman.testing.matrix import Case, Result, cases
from pointsman.testing.matrix.__main__ import main
from pointsman.testing.matrix._provider import Maker, Plain

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_ROW = re.compile(r"^\| *(\d+) *\|.*\|$", re.MULTILINE)
_FAULT = re.compile(r"\b([a-z_0-9]+)\(")


def documented() -> dict[int, list[str]]:
    """Return the cells of each row of the page: number, provider, Pointsman, settings, faults."""
    lines = _ROW.finditer(PAGE.read_text("utf-8"))
    return {int(line[1]): [cell.strip() for cell in line[0].split("|")[1:-1]] for line in lines}


def played() -> dict[int, list[Case]]:
    """Return the cases of each row."""
    found = defaultdict(list)
    for case in cases():
        found[case.row].append(case)
    return found


def test_every_row_is_documented() -> None:
    """The page and the matrix have the same rows, from 1 to 39, in order."""
    assert list(documented()) == sorted(played()) == list(range(1, 40))


@pytest.mark.parametrize("row", range(1, 40))
def test_the_page_names_what_is_played(row: int) -> None:
    """The faults that the page names for a row are those of its cases, and all of them exist."""
    named = set(re.findall(r"`(\w+)`", documented()[row][4]))
    names = {name for case in played()[row] for name in _FAULT.findall(case.fault) if name not in ("well", "later")}
    if named or names:
        assert named == names
    assert named <= set(faults.__all__)


@pytest.mark.parametrize("row", [*range(1, 6), *range(7, 20), 21, 22, 24, 25, 26, 27])
def test_both_ways(row: int) -> None:
    """What makes sense for plain and for streamed requests is played with both."""
    assert {case.way for case in played()[row]} >= {"plain", "streamed"}


def test_the_command(tmp_path: Path) -> None:
    """One command plays rows against the installed version and prints what came of it, with exit code 0."""
    command = [sys.executable, "-W", "error", "-m", "pointsman.testing.matrix", "--row", "2", "--row", "26", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["failed"], {case["row"] for case in told["cases"]}) == (0, {2, 26})
    first = told["cases"][0]
    assert (first["fault"], first["way"], first["outcome"]) == ("rate_limited(3600)", "plain", "spare answered")
    assert (first["asked"], first["timeout"], first["passed"]) == ({"primary": 1, "spare": 1}, 10.0, True)
    assert first["seconds"] > 0
    assert first["circuit"].startswith("open for 3")


def test_the_table(capsys: pytest.CaptureFixture[str], no_leaks: None) -> None:
    """For people there is a table: a line for each case, and one that sums up."""
    assert main(["--row", "19", "--provider", "kit"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("provider: the testing kit's own")
    assert lines[1].split() == ["ROW", "FAULT", "REQUEST", "OUTCOME", "ASKED", "TIME", "OF", "CIRCUIT", "VERDICT"]
    assert [line.split()[0] for line in lines[2:-1]] == ["19", "19"]
    assert [line.split()[-1] for line in lines[2:-1]] == ["kept", "kept"]
    assert lines[-1].startswith("1 rows, 2 cases, 0 failed, ")


@pytest.mark.parametrize("arguments", [["--row", "40"], ["--provider", "nobodys"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A row or a provider that is not there is told, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err


class TestBrokenPromises:
    """The matrix tells a provider that does not do its part."""

    def play(self, row: int, make: Any, word: str = "") -> list[Result]:
        """Play the cases of a row with a provider."""
        maker = Maker("none", "none", make)
        return [case.play(maker) for case in played()[row] if word in case.fault and case.way == "plain"]

    def test_half_an_answer(self, no_leaks: None) -> None:
        """A provider that takes whatever came for an answer is found out."""

        class Careless(Plain):
            @hookimpl
            def generate(self, request: Request) -> Completion:
                return evolve(super().generate(request), finish_reason="stop")

        (result,) = self.play(20, Careless, "no_finish")
        assert "found ('Half an answ'" in result.problem
        assert not result.as_json()["passed"]

    def test_retries_of_its_own(self, no_leaks: None) -> None:
        """A provider that asks twice by itself is found out, by what its server saw."""

        class Stubborn(Plain):
            @hookimpl
            def generate(self, request: Request) -> Completion:
                try:
                    return super().generate(request)
                except Exception:
                    return super().generate(request)

        assert any("requests of each server: found (2, 1)" in result.problem for result in self.play(8, Stubborn))

    def test_a_provider_that_cannot_be_made(self, no_leaks: None) -> None:
        """A case that cannot even be set fails, and says why."""
        (result, *_) = self.play(2, dict)
        assert "the case itself failed" in result.problem
        assert "Traceback" in result.problem

    def test_exit_code(self, capsys: pytest.CaptureFixture[str], no_leaks: None) -> None:
        """If a promise is broken the command says what was wrong, and exits with 1."""
        assert main(["--row", "26", "--provider", "echo"]) == 1
        out = capsys.readouterr().out
        assert "FAILED\n      text that was shown" in out
        assert "2 cases, 2 failed" in out
