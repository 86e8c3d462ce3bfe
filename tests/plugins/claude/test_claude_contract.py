"""The contract of providers, over the Messages API."""

from __future__ import annotations

from pointsman.testing import FaultServer, HTTPProviderContract
from pointsman.testing.anthropic_messages import Messages
from pointsman_claude import Claude


class TestClaude(HTTPProviderContract):
    """Claude, in both versions of the API."""

    wires = {"/messages": Messages()}  # noqa: RUF012 - a class variable of the contract's own

    def make_provider(self, url: str) -> Claude:
        """Return a provider for the double."""
        return Claude(base_url=url, api_key=self.secret, model="claude-test-model")

    def base_url(self, server: FaultServer) -> str:
        """Return the address without a path, as Anthropic gives it."""
        return server.url.removesuffix("/v1")
