"""The log: silent unless asked, and then without prompts, answers and keys."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pointsman import Backend, Completion, Router, Secret
from pointsman.errors import InvalidRequestError, UnavailableError
from pointsman.testing import Scripted

KEY = "some-key-that-a-provider-echoes"

CALLS = """
from pointsman import Backend, Router, Secret
from pointsman.errors import UnavailableError
from pointsman.testing import Scripted

key = Secret("some-key-that-a-provider-echoes")
down = UnavailableError("wrong key " + key.reveal(), retry_same=False)
with Router([Backend(Scripted(down), id="one"), Backend(Scripted("ANSWER"), id="two", verbose=VERBOSE)]) as router:
    router.generate("PROMPT")
    "".join(chunk.text for chunk in router.stream("PROMPT"))
"""


def run(tmp_path: Path, *, code: str = CALLS, verbose: bool = False, **environment: str) -> str:
    """Run the calls in a process of their own, and return all that it wrote."""
    script = tmp_path / "calls.py"
    script.write_text(code.replace("VERBOSE", str(verbose)))
    clean = {name: value for name, value in os.environ.items() if name != "POINTSMAN_LOG"}
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=clean | environment, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    return ran.stderr


@pytest.fixture(autouse=True)
def silent_again() -> Iterator[None]:
    """Leave the logger of the package as it was."""
    logger = logging.getLogger("pointsman")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    """Without a configuration of logging nothing is written, not even warnings through logging's last resort."""
    code = CALLS + "\nfrom pointsman import _log\n_log.warning('something bad')"
    assert run(tmp_path, code=code) == ""


@pytest.mark.parametrize("level", ["debug", "DEBUG"])
def test_debug_shows_every_attempt(tmp_path: Path, level: str) -> None:
    """`POINTSMAN_LOG=debug` shows ids, sizes, durations and outcomes, and neither prompt nor answer nor key."""
    written = run(tmp_path, POINTSMAN_LOG=level)
    lines = [line for line in written.splitlines() if "event='attempt'" in line]
    assert [line.split("backend=")[1].split()[0] for line in lines] == ["'one'", "'two'", "'two'"]
    assert "outcome='failed'" in lines[0]
    assert "error='UnavailableError'" in lines[0]
    assert all(word in line for line in lines for word in ("seconds=", "prompt_chars=6", "model=", "DEBUG"))
    assert not any(word in written for word in ("PROMPT", "ANSWER", KEY))


def test_other_levels_and_nonsense(tmp_path: Path) -> None:
    """A higher level shows less; a level that does not exist is no error, and is told in one line."""
    assert run(tmp_path, POINTSMAN_LOG="error") == ""
    assert run(tmp_path, POINTSMAN_LOG="") == ""
    (line,) = run(tmp_path, POINTSMAN_LOG="warning").splitlines()
    assert "event='circuit opened' backend='one'" in line
    line, circuit = run(tmp_path, POINTSMAN_LOG="loud").splitlines()
    assert "circuit opened" in circuit
    assert line.endswith("event='POINTSMAN_LOG is no level' found='loud' expected='debug, info, warning or error'")


def test_verbose_shows_the_attempts_of_one_backend(tmp_path: Path) -> None:
    """`verbose=True` on a backend shows its attempts on stderr, and those of no other."""
    lines = [line for line in run(tmp_path, verbose=True).splitlines() if "event='attempt'" in line]
    assert len(lines) == 2
    assert all("backend='two'" in line and "INFO" in line for line in lines)


def test_content_is_logged_only_on_demand(caplog: pytest.LogCaptureFixture) -> None:
    """Prompts and answers are in the log only of a router with `log_content=True`, and keys never are."""
    key = Secret(KEY)
    provider = Scripted(Completion(f"ANSWER {key.reveal()}"))
    for log_content in (False, True):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "pointsman"), Router([provider], log_content=log_content) as router:
            router.generate(f"PROMPT {key.reveal()}", system="SYSTEM")
        text = "\n".join(record.getMessage() for record in caplog.records)
        assert ("PROMPT" in text, "ANSWER" in text) == (log_content, log_content)
        assert KEY not in text


def test_a_program_gets_every_line_through_its_own_logging(caplog: pytest.LogCaptureFixture) -> None:
    """Lines are ordinary records of the logger "pointsman", one line each, whatever a server wrote into its message."""
    down = UnavailableError("first line\nsecond line", retry_same=False)
    picky = InvalidRequestError("unsupported", parameter="seed")
    with (
        caplog.at_level(logging.DEBUG, "pointsman"),
        Router({"a": Scripted(down), "b": Scripted([picky, "x"])}) as router,
    ):
        router.generate("x", seed=1)
    assert {record.name for record in caplog.records} == {"pointsman"}
    events = [(record.levelname, record.getMessage().split("'")[1]) for record in caplog.records]
    assert events[:2] == [("DEBUG", "attempt"), ("WARNING", "circuit opened")]
    assert [level for level, _ in events[2:]] == ["DEBUG", "WARNING", "DEBUG"]
    assert not any("\n" in record.getMessage() for record in caplog.records)


def test_making_routers_does_not_pile_up_handlers() -> None:
    """However many verbose routers are made, every line is written once."""
    logger = logging.getLogger("pointsman")
    for _ in range(3):
        Router([Backend(Scripted(), verbose=True)]).close()
    assert sum(not isinstance(handler, logging.NullHandler) for handler in logger.handlers) == 1
