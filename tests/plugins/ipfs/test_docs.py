"""docs/ipfs.md and docs/evidence.md say what is true: their programs run, on a real Kubo, and their commands of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[3] / "docs"


def blocks(page: str, folder: Path) -> list[tuple[str, str]]:
    """Write the files that a page shows; return its other blocks, each with its language."""
    text = (DOCS / page).read_text("utf-8")
    found = re.findall(r"(?:^<!-- file: (\S+) -->\n)?^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    for file, _, shown in found:
        if file:
            (folder / file).write_text(shown)
    return [(language, shown) for file, language, shown in found if not file]


def ran(command: list[str], folder: Path, **more: str) -> str:
    """Run a command in a folder which is also the home, and return what it prints."""
    homes = {"HOME": str(folder), "IPFS_PATH": str(folder), "POINTSMAN_STORE": str(folder / "store")}
    environment = {**os.environ, **homes, **more}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.kubo
def test_programs_run(kubo: Any, tmp_path: Path) -> None:
    """Every Python block of docs/ipfs.md runs, one after another; they assert what they show."""
    program = "".join(text for language, text in blocks("ipfs.md", tmp_path) if language == "python")
    ran([sys.executable, "-W", "error", "-c", program], tmp_path, IPFS_API=kubo.api, GATEWAY=kubo.gateway)


@pytest.mark.kubo
def test_evidence_is_shown_by_kubo(kubo: Any, tmp_path: Path) -> None:
    """The commands of `ipfs` in docs/evidence.md print what the page shows, of what its programs have written."""
    page = blocks("evidence.md", tmp_path)
    program = "".join(text for language, text in page if language == "python")
    record = ran([sys.executable, "-W", "error", "-c", f"{program}\nprint(record.record_cid)"], tmp_path).strip()
    places = {"RECORD": record, "IPFS_PATH": str(kubo.home), "PATH": f"{kubo.binary.parent}:{os.environ['PATH']}"}
    parts = [part for language, text in page if language == "console" for part in re.split(r"^\$ ", text, flags=re.M)]
    commands = [part.partition("\n") for part in parts if part.startswith("ipfs ")]
    assert len(commands) == 4
    for command, _, shown in commands:
        printed = ran(["bash", "-c", command], tmp_path, **places)
        if "dag get" in command:
            (example,) = (json.loads(text) for language, text in page if language == "json")
            said = json.loads(printed)
            assert said | {name: example[name] for name in ("id", "time")} == example
        elif shown:
            assert printed.strip() == shown.strip()
