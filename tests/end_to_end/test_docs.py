"""README and docs say what is true: their programs run, their files are the real ones, their links lead somewhere.

A comment `<!-- file: PATH -->` before a block says which file it is: one of this repository, to which
it must be equal, or one that the programs on the page need. Lines of a console block that begin with
`$ pointsman` are run, and must print what follows them.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest
from pointsman import errors, hookspecs
from pointsman.testing import FaultServer

ROOT = Path(__file__).parents[2]
_FOLDERS = ("", "docs/", "core/", "backends/", "plugins/*/", "examples/*/")
PAGES = sorted(page for folder in _FOLDERS for page in ROOT.glob(f"{folder}*.md"))
_BLOCK = re.compile(r"(?:^<!-- file: (\S+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
_PRIVATE = re.compile("_API_KEY|_TOKEN|OPENAI_|ANTHROPIC_|GOOGLE_|GEMINI_|POINTSMAN_")

#: Runs each block of a page in turn, in one module; line numbers are those of the page.
_RUNNER = """
import json, sys
names = {"__name__": "docs"}
for page, line, text in json.load(sys.stdin):
    exec(compile("\\n" * line + text, page, "exec"), names)
"""


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [Block(text.count("\n", 0, m.start(3)), m[2], m[3], m[1]) for m in _BLOCK.finditer(text)]


def name(page: Path) -> str:
    """How the tests call a page."""
    return page.relative_to(ROOT).as_posix()


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows and that are none of this repository."""
    for block in blocks(page):
        if block.file and not (ROOT / block.file).exists():
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text, "utf-8")


def environment(**more: str) -> dict[str, str]:
    """Return our environment without the keys and settings of the person who runs the tests."""
    ours = {key: value for key, value in os.environ.items() if not _PRIVATE.search(key)}
    return {**ours, "COLUMNS": "200", "HF_TOKEN_PATH": "nowhere", "POINTSMAN_STORE": "store", **more}


def run(command: list[str], folder: Path, stdin: str = "", **more: str) -> str:
    """Run Python, warnings as errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def pages_with(language: str) -> list[Path]:
    """Return the pages that have a block in this language; those that need a node are run beside the tests of it."""
    pages = [page for page in PAGES if any(block.language == language for block in blocks(page))]
    return [page for page in pages if name(page) != "docs/ipfs.md"]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """What stands in for OpenAI."""
    with FaultServer() as server:
        yield server


@pytest.mark.parametrize("page", pages_with("python"), ids=name)
def test_programs_run(page: Path, tmp_path: Path, server: FaultServer) -> None:
    """Every Python block of a page runs, one after another; they assert what they show."""
    write_files(page, tmp_path)
    programs = [(page.name, b.line, b.text) for b in blocks(page) if b.language == "python" and not b.file]
    keys = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-of-nobody-0123456789"}
    keys |= {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "sk-ant-of-nobody-0123456789"}
    keys |= {"GOOGLE_GEMINI_BASE_URL": server.origin, "GOOGLE_API_KEY": "AQ.of-nobody-0123456789"}
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run(["-c", _RUNNER], tmp_path, json.dumps(programs), PYTHONPATH=path, **keys)


def commands(page: Path) -> list[tuple[str, str]]:
    """Return the `pointsman` commands of a page with what is shown below each."""
    found = []
    for block in blocks(page):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append((command, output))
    return found


@pytest.mark.parametrize("page", pages_with("console"), ids=name)
def test_commands_print_what_is_shown(page: Path, tmp_path: Path) -> None:
    """A command line of `pointsman`, or of `scripts/try` in its environment, prints what the page shows."""
    write_files(page, tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command, output in commands(page):
        program, *arguments = shlex.split(command)
        assert not program.startswith("scripts/") or os.access(ROOT / program, os.X_OK), command
        if program == "scripts/try":
            program, arguments = "pointsman", ["generate", *arguments]
        if program == "pointsman":
            printed = run(["-m", "pointsman", *arguments], tmp_path).splitlines()
            shown = output.splitlines()
            if "landlord" in shown[0]:  # a model's own words may differ from one processor to the next
                assert "deposit of 900 dollars" in printed.pop(0)
                del shown[0]
            assert [line.rstrip() for line in printed] == shown, command


def files() -> list[tuple[Path, Block]]:
    """Return all blocks that are files of this repository."""
    return [(page, b) for page in PAGES for b in blocks(page) if b.file and (ROOT / b.file).exists()]


@pytest.mark.parametrize(("page", "block"), files(), ids=lambda value: getattr(value, "file", None))
def test_files_are_the_real_ones(page: Path, block: Block) -> None:
    """A page that shows a file of this repository shows it as it is."""
    assert block.file is not None
    assert block.text == (ROOT / block.file).read_text("utf-8"), f"{name(page)}: copy {block.file} anew"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file has that file at its end."""
    targets = [link for link in _LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_the_provider_of_the_docs_fulfils_the_contract(tmp_path: Path) -> None:
    """The provider that `writing-a-provider.md` writes passes the suite that the page promises."""
    write_files(ROOT / "docs" / "writing-a-provider.md", tmp_path)
    printed = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], tmp_path, PYTHONPATH=str(tmp_path))
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) > 100


def test_every_hook_is_documented_with_its_signature() -> None:
    """The table of hooks says what `hookspecs.py` says."""
    page = (ROOT / "docs" / "writing-a-provider.md").read_text("utf-8").replace("&#124;", "|")
    for hook, function in vars(hookspecs).items():
        if hasattr(function, "pointsman_spec"):
            signature = str(inspect.signature(function)).replace("'", "")
            assert f"`{hook}{signature}`" in page


def test_the_errors_are_documented_as_they_are() -> None:
    """The tree is that of `errors.py`, and each row of the table says what its class does."""
    page = (ROOT / "docs" / "errors-and-fallback.md").read_text("utf-8")
    assert errors.__doc__ is not None
    assert dedent("\n".join(line for line in errors.__doc__.splitlines() if line.startswith("    "))) in page
    told = {0.0: "none", 5.0: "5 s", 15.0: "15 s", 3600.0: "1 hour"}
    for kind, same, _, cooldown in re.findall(r"^\|[^|]+\| `(\w+)` \| ([^|]+) \| ([^|]*) \| ([^|]+) \|$", page, re.M):
        cls = getattr(errors, kind)
        assert told[cls.cooldown] in cooldown, kind
        assert cls.retry_same or same == "no", kind
