"""What every test is held to: it leaves nothing changed that the next one would see."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pointsman.testing import faults

_PROGRAMS = Path(__file__).parents[1] / ".tools" / "programs" / "node_modules" / ".bin"
#: Variables that hold keys, addresses and settings of the person who runs the tests.
_PERSONAL = re.compile("(OPENAI|OPENROUTER|HF|ANTHROPIC|GOOGLE|GEMINI|COPILOT|CODEX|GH|GITHUB|POINTSMAN)_|HUGGING")


def pytest_configure() -> None:
    """Obey Ctrl-C: a shell's background job ignores it, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _global_state() -> dict[str, Any]:
    loggers = [logging.getLogger(name) for name in ("", "pointsman", "asyncio")]
    return {
        "the environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "the working directory": os.getcwd(),
        "levels of loggers": [logging.root.manager.disable, *((log.level, log.propagate) for log in loggers)],
        "what Ctrl-C does": signal.getsignal(signal.SIGINT),
        "how often threads switch": sys.getswitchinterval(),
        "the profiler of threads": threading.getprofile(),
    }


@pytest.fixture(autouse=True)
def leaves_nothing_changed() -> Iterator[None]:
    """Fail the test that changes what all tests share: whether another one passes would depend on the order."""
    before = _global_state()
    yield
    for name, value in _global_state().items():
        assert value == before[name], f"the test left {name} changed"


@pytest.fixture(scope="session")
def real_program() -> Iterator[Callable[[str], str]]:
    """A function that returns the path of a program which npm installed, as npm puts it into the PATH.

    "cache" is the folder in which copilot unpacks itself once.
    """
    with TemporaryDirectory(prefix="pointsman-tests-") as cache:

        def find(name: str) -> str:
            path = _PROGRAMS / name
            if name == "cache":
                return cache
            if not path.exists():
                pytest.fail(f'{path} is not there: scripts/test installs it, and leaves out "programs" where it cannot')
            return str(path)

        yield find


class Guide:
    """Runs what a person types who follows a guide: one sample after another, as it stands there, in one module."""

    def __init__(self, printed: Callable[[], str]) -> None:
        self.names: dict[str, Any] = {"__name__": "guide"}
        self._printed = printed
        self._made: dict[int, Any] = {}

    def type(self, sample: str) -> str:
        """Run a sample and return what it prints."""
        try:
            exec(compile(sample, "the guide", "exec"), self.names)
        finally:
            self._made |= {
                id(one): one for one in self.names.values() if not isinstance(one, type) and hasattr(one, "close")
            }
        return self._printed()

    def alone(self, *samples: str) -> subprocess.CompletedProcess[str]:
        """Run samples as a program of their own; warnings are errors, but for what a sample leaves open."""
        command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", "".join(samples)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    def close(self) -> None:
        for one in self._made.values():
            one.close()


@pytest.fixture
def usual_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """A function: an IPFS node would be at this address, and nobody has configured one, or a store."""

    def at(address: str) -> None:
        monkeypatch.delenv("IPFS_API", raising=False)
        monkeypatch.setenv("IPFS_PATH", str(tmp_path / "none"))
        monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "store"))
        monkeypatch.setattr("pointsman_ipfs.node._address.DEFAULT", address)

    return at


@pytest.fixture
def guide(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_leaks: None,
    usual_address: Callable[[str], None],
) -> Iterator[Guide]:
    """A person with a guide, on a machine where nothing is set up: no key, no login, no node."""
    for name in [name for name in os.environ if _PERSONAL.match(name)]:
        monkeypatch.delenv(name)
    for name in "HF_TOKEN_PATH", "CODEX_HOME", "COPILOT_HOME":
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    with faults.nobody_listens() as nobody:
        usual_address(nobody.removesuffix("/v1"))
        person = Guide(lambda: capsys.readouterr().out)
        try:
            yield person
        finally:
            person.close()
