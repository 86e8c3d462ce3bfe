"""The pytest plugin: fixtures for the tests of plugins, and the choice of the contract's tests that apply.

It loads nothing until a test asks for a fixture, or has inherited the contract.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import FaultServer

_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the contract's marker known."""
    config.addinivalue_line("markers", "pointsman_needs(part, ...): what a provider must have for this test")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of the contract that do not apply to a provider; last, when others have made their choice."""
    if "pointsman.testing.contract" not in sys.modules:
        return  # nobody can have inherited it
    from .contract._applies import leave_out

    left_out, config.stash[_LEFT_OUT] = leave_out(items)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say for each class of the contract what was left out, and why."""
    if lines := config.stash.get(_LEFT_OUT, []):
        terminalreporter.section("left out of the contracts")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def fault_server() -> Iterator[Callable[..., FaultServer]]:
    """A function that starts a `FaultServer` (it takes the same arguments); all end with the test."""
    from contextlib import ExitStack

    from .server import FaultServer

    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(FaultServer(*args, **kwargs))


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test that leaves a thread, a child process or a socket behind.

    Name it before other fixtures, so that they end first. What ends within five seconds is no leak.
    Children and sockets are seen where there is a `/proc`.
    """
    from .leaks import leaks_since, resources

    before = resources()
    yield
    left = leaks_since(before)
    if left:
        pytest.fail("left behind: " + ", ".join(left), pytrace=False)
