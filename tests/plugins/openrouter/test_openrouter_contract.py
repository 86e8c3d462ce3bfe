"""The contract of providers in OpenRouter's dialect, and the faults of sections A to C through a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pointsman.testing import FaultServer, HTTPProviderContract
from pointsman_openrouter import OpenRouter

CAN: Any = frozenset({"tools", "schema", "continuation"})


class TestOpenRouter(HTTPProviderContract):
    """OpenRouter's API lies under /api/v1: by that the double knows what to speak."""

    def make_provider(self, url: str) -> OpenRouter:
        """Return a provider for the double."""
        return OpenRouter(base_url=url, api_key=self.secret, model="test/model")

    def base_url(self, server: FaultServer) -> str:
        """Return where the double speaks as the service does."""
        return f"{server.origin}/api/v1"


def made(base_url: str, **options: Any) -> OpenRouter:
    """Return a provider of the matrix."""
    return OpenRouter(base_url=base_url.replace("/v1", "/api/v1"), capabilities=CAN, **options)


@pytest.mark.parametrize("rows", [range(1, 15), range(15, 21), range(21, 31)], ids="ABC")
def test_faults(played: Callable[..., dict[str, str]], rows: range) -> None:
    """Each row, in OpenRouter's words, keeps its promise: plain and streamed."""
    assert played(made, rows) == {}
