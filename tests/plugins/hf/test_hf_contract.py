"""The contract of providers in Hugging Face's dialect, and the faults of sections A to C through a router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pointsman.testing import FaultServer, HTTPProviderContract
from pointsman_hf import HuggingFace

CAN: Any = frozenset({"tools", "schema", "continuation"})


class TestHuggingFace(HTTPProviderContract):
    """The double speaks as the router does under /hf/v1."""

    def make_provider(self, url: str) -> HuggingFace:
        """Return a provider for the double."""
        return HuggingFace(base_url=url, api_key=self.secret, model="test/model:fastest")

    def base_url(self, server: FaultServer) -> str:
        """Return where the double speaks as the service does."""
        return f"{server.origin}/hf/v1"


def made(base_url: str, **options: Any) -> HuggingFace:
    """Return a provider of the matrix."""
    return HuggingFace(base_url=base_url.replace("/v1", "/hf/v1"), capabilities=CAN, **options)


@pytest.mark.parametrize("rows", [range(1, 15), range(15, 21), range(21, 31)], ids="ABC")
def test_faults(played: Callable[..., dict[str, str]], rows: range) -> None:
    """Each row, in Hugging Face's words, keeps its promise: plain and streamed."""
    assert played(made, rows) == {}
