"""The contract of providers, for the real codex over a loopback server that fails as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import fields
from pointsman import hookimpl
from pointsman.testing import Failure, FaultServer, ProviderContract, faults
from pointsman.testing.contract import Subject
from pointsman.testing.faults import Fault
from pointsman_codex import Codex

pytestmark = pytest.mark.programs

SECRET = "sk-contract-0123456789abcdefghij"

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
    "endless": lambda: faults.well("and on " * 50_000, gap=0.02),  # codex passes on no piece of what has not begun
}


class Kept(Codex):
    """Goes on when a test closes it: to start the program for each test would take minutes."""

    @hookimpl
    def close(self) -> None:
        """Leave it to the end of all tests."""


@pytest.fixture(scope="module")
def kept(real_program: Callable[[str], str]) -> Iterator[tuple[FaultServer, Kept]]:
    """Codex before a server that does as it is told."""
    options = {"program": real_program("codex"), "api_key": SECRET, "model": "gpt-5.5"}
    with FaultServer() as server:
        provider = Kept(base_url=server.url, **options)
        yield server, provider
        Codex.close(provider)


class TestCodex(ProviderContract):
    """The program from npm keeps the contract."""

    secret = SECRET
    short_s = 1.5  # a turn begins within it
    server: FaultServer | None = None
    provider = Codex(base_url="http://127.0.0.1:9/v1", api_key=SECRET, model="m")  # when tests are collected

    @pytest.fixture(autouse=True)
    def _well(self, kept: tuple[FaultServer, Kept]) -> None:
        self.server, self.provider = kept
        self.server.play(faults.well())

    def make_provider(self) -> Codex:
        """Return the one that is kept."""
        return self.provider

    def test_leaves_nothing_behind(self) -> None:
        """After `close` there is no thread and no child process of it: of one that is not kept."""
        self.provider = Codex(**{a.name: getattr(self.provider, a.name) for a in fields(Codex) if a.init})
        super().test_leaves_nothing_behind()

    def make_failing(self, failure: Failure) -> Any:
        """Return codex before a server that fails so."""
        if self.server is not None:
            self.server.play(_FAULTS[failure]())
        return self.make_provider()

    def await_work(self, subject: Subject) -> None:
        """Return when the server has the request."""
        assert self.server is not None
        self.server.wait_active(30)

    def assert_stopped(self, subject: Subject) -> None:
        """Codex has closed its connection."""
        assert self.server is not None
        assert self.server.asked[-1].wait_closed(self.patience_s)
