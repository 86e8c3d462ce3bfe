"""The pytest plugin: fixtures for the tests of plugins. It loads nothing until a test asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import FaultServer


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
