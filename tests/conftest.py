"""What every test is held to: it leaves nothing changed that the next one would see."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest


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
