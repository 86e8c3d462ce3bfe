"""The contract of providers in OpenRouter's dialect, and every fault before, in and under an answer, through a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pointsman.testing import FaultServer, HTTPProviderContract
from pointsman.testing.matrix import Case, cases
from pointsman_openrouter import OpenRouter

CAN: Any = frozenset({"tools", "schema", "continuation"})


class TestOpenRouter(HTTPProviderContract):
    """OpenRouter's API lies under /api/v1: by that the double knows what to speak."""

    def make_provider(self, url: str) -> OpenRouter:
        """Return a provider for the double."""
        return OpenRouter(base_url=url, api_key=self.secret, model="test/model")

    def base_url(self, server: FaultServer) -> str:
        """Return where the double speaks as OpenRouter does."""
        return f"{server.origin}/api/v1"


def made(base_url: str, **options: Any) -> OpenRouter:
    """Return a provider of the matrix."""
    return OpenRouter(base_url=base_url.replace("/v1", "/api/v1"), capabilities=CAN, **options)


@pytest.mark.parametrize("case", [c for c in cases() if c.row <= 30], ids=lambda c: f"{c.row}-{c.fault}-{c.way}")
def test_faults(case: Case, no_leaks: Callable[..., None]) -> None:
    """Rows 1 to 30, in OpenRouter's words, keep their promises."""
    assert case.play(made).problem == ""
