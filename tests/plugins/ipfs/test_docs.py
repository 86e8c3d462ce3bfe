"""docs/ipfs.md says what is true: its programs run, on a real Kubo and its gateway."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "ipfs.md"


@pytest.mark.kubo
def test_programs_run(kubo: Any, tmp_path: Path) -> None:
    """Every Python block of the page runs, one after another; they assert what they show."""
    blocks = re.findall(r"(?:^<!-- file: (\S+) -->\n)?^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    for file, _, text in blocks:
        if file:
            (tmp_path / file).write_text(text)
    program = "".join(text for file, language, text in blocks if language == "python" and not file)
    homes = {"HOME": str(tmp_path), "IPFS_PATH": str(tmp_path), "POINTSMAN_STORE": str(tmp_path / "store")}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **homes, "IPFS_API": kubo.api, "GATEWAY": kubo.gateway},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
