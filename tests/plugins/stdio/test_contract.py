"""The contract of providers, for the real programs over a loopback server that fails as it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pointsman.testing import Failure, ProviderContract, faults
from pointsman.testing.contract import Subject
from pointsman.testing.faults import Fault
from pointsman_codex import Codex
from pointsman_copilot import Copilot

pytestmark = pytest.mark.programs

KEY = "sk-0123456789abcdefghij"
NOWHERE: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "api_key": KEY, "model": "m"}
_FAULTS: dict[Failure, Callable[[], Fault]] = {
    "bad_key": faults.bad_key,
    "no_money": faults.no_quota,
    "rate_limited": faults.rate_limited,
    "unknown_model": faults.unknown_model,
    "context_too_long": faults.context_too_long,
    "refused": faults.content_filtered,
    "bad_request": faults.bad_request,
    "unavailable": lambda: faults.status(503),
    "broken_answer": faults.html,
    "silent": faults.silent,
    "endless": lambda: faults.well("and on " * 5_000, gap=0.02),  # codex passes on no piece of what has not begun
}


class Programs(ProviderContract):
    """A program from npm keeps the contract."""

    secret = KEY
    short_s = 0.4  # a warm turn begins within it
    kind: Any = None
    name: ClassVar[str]
    sampled: ClassVar[Any]  #: when tests are collected

    @pytest.fixture(autouse=True)
    def _well(self, kinds: Callable[[str], Any]) -> None:
        self.kind = kinds(self.name)

    def make_provider(self) -> Any:
        """Return the one that is kept."""
        return self.kind.warm if self.kind is not None else self.sampled

    def make_failing(self, failure: Failure) -> Any:
        """Return it before a server that fails so."""
        if self.kind is not None:
            self.kind.server.play(_FAULTS[failure]())
        return self.make_provider()

    def test_leaves_nothing_behind(self) -> None:
        """After `close` there is no thread and no child process of it: of one that is not kept."""
        kind, self.kind = self.kind, None
        self.sampled = kind.cls(base_url=kind.server.url, api_key=KEY, **kind.options)  # type: ignore[misc]
        super().test_leaves_nothing_behind()

    def await_work(self, subject: Subject) -> None:
        """Return when the server has the request."""
        self.kind.server.wait_active(30)

    def assert_stopped(self, subject: Subject) -> None:
        """The program has closed its connection."""
        assert self.kind.server.asked[-1].wait_closed(self.patience_s)


class TestCodex(Programs):
    """Codex, over its server."""

    name = "codex"
    sampled = Codex(**NOWHERE)


class TestCopilot(Programs):
    """Copilot, over its server and chat completions."""

    name = "copilot"
    sampled = Copilot(**NOWHERE)
