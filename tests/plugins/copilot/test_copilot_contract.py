"""The contract of providers, for the real copilot over a loopback server that fails as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pointsman.testing import Failure, FaultServer, ProviderContract, faults
from pointsman.testing.contract import Subject
from pointsman.testing.faults import Fault
from pointsman_copilot import Copilot

pytestmark = pytest.mark.programs

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
    "endless": lambda: faults.well("and on " * 50_000, gap=0.02),  # copilot passes on no piece of what has not begun
}


class TestCopilot(ProviderContract):
    """The program from npm keeps the contract."""

    secret = "sk-contract-0123456789abcdefghij"
    short_s = 4.0  # its start is within the limit
    program = "copilot"
    cache = "nowhere"
    server: FaultServer | None = None

    @pytest.fixture(autouse=True)
    def _server(self, real_program: Callable[[str], str]) -> Iterator[None]:
        self.program, self.cache = real_program("copilot"), real_program("cache")
        with FaultServer() as self.server:
            yield

    def make_provider(self) -> Copilot:
        """Return copilot before a server that is well, or, when tests are collected, before none."""
        url = self.server.url if self.server is not None else "http://127.0.0.1:9/v1"
        return Copilot(program=self.program, base_url=url, api_key=self.secret, model="gpt-5.5", cache=self.cache)

    def make_failing(self, failure: Failure) -> Any:
        """Return copilot before a server that fails so."""
        if self.server is not None:
            self.server.play(_FAULTS[failure]())
        return self.make_provider()

    def await_work(self, subject: Subject) -> None:
        """Return when the server has the request."""
        assert self.server is not None
        self.server.wait_active(30)

    def assert_stopped(self, subject: Subject) -> None:
        """Copilot has closed its connection."""
        assert self.server is not None
        assert self.server.asked[-1].wait_closed(self.patience_s)
