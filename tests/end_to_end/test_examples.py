"""The examples do what they say, as a person would start them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRETS = ("_API_KEY", "_TOKEN", "OPENAI_", "POINTSMAN_")


def run(*command: str | Path, cwd: Path) -> str:
    """Run Python with a clean environment and warnings as errors; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not any(part in name for part in SECRETS)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_quickstart(tmp_path: Path) -> None:
    """Without key and configuration, the small model summarizes a complaint and fills a form from it."""
    summary, who, facts = run(EXAMPLES / "quickstart.py", cwd=tmp_path).splitlines()
    assert "landlord" in summary
    assert "deposit" in summary
    assert who == "[local: SmolLM2-135M-Instruct.Q4_1]"
    assert ast.literal_eval(facts) == {"amount_in_dollars": 900, "month": "May"}


def test_fallback(tmp_path: Path) -> None:
    """The spare answers for the dead primary, and both attempts are told."""
    lines = [" ".join(line.split()) for line in run(EXAMPLES / "fallback.py", cwd=tmp_path).splitlines()]
    assert lines[0].startswith("spare answered: ")
    assert lines[lines.index("main failed UnavailableError") + 1] == "spare answered"
    assert lines.count("spare answered") == 2
    assert [line.split()[1] for line in lines[-2:]] in (["spare", "main"], ["main", "spare"])  # a matter of seconds


def test_streaming(tmp_path: Path) -> None:
    """The whole story comes in pieces; the second time it is left after a few words."""
    story, end, beginning = run(EXAMPLES / "streaming.py", cwd=tmp_path).rsplit("\n", 3)[:3]
    assert end.startswith(("[stop, ", "[length, "))
    assert beginning.endswith(" ...")
    assert len(beginning.split()) < len(story.split())


def test_batch(tmp_path: Path) -> None:
    """All but the question that makes no sense are answered; the journal answers the second time."""
    *shown, answered, again = run(EXAMPLES / "batch.py", cwd=tmp_path).splitlines()
    assert sorted(line.partition(": ")[0] for line in shown) == ["0", "1", "2", "3"]
    assert answered.startswith("3 of 4 answered, ")
    assert again == "the second run asked nothing: True"


def test_evidence(tmp_path: Path) -> None:
    """What is submitted is found again, byte for byte, also by the next run; the small model says something of it.

    Where it is run it leaves one folder, and says which.
    """
    for pieces in 2, 4:
        lines = run(EXAMPLES / "evidence.py", cwd=tmp_path).splitlines()
        assert lines[0].endswith(", in ['blocks']")
        assert lines[1:3] == [
            "email: Letter to the landlord, which he did not answer",
            "document: The landlord's receipt for the deposit",
        ]
        lines = lines[lines.index("the same bytes: True") + 1 :]
        assert lines[0] == f"{pieces} pieces: {{'email': {pieces // 2}, 'document': {pieces // 2}}}"
        assert lines[1] == "There is nothing of these kinds: image, video, audio, text, financial, medical."
        assert lines[2].startswith("[here] ")
        assert lines[lines.index("Evidence:") + 1].startswith("[")
        assert lines[-1].startswith(f"All of it is kept in {tmp_path / 'case'}, ")
        assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_the_echo_plugin_passes_its_own_tests(tmp_path: Path) -> None:
    """The example of a distribution of one's own is tested as its README says."""
    folder = tmp_path / "echo_plugin"
    shutil.copytree(EXAMPLES / "echo_plugin", folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, "tests", cwd=folder)
    assert " passed" in printed
    assert "failed" not in printed
