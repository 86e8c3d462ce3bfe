"""The contract of providers, over `generateContent`."""

from __future__ import annotations

from pointsman.testing import FaultServer, HTTPProviderContract
from pointsman_gemini import Gemini


class TestGemini(HTTPProviderContract):
    """Gemini, in the version of the API that it has by default."""

    def make_provider(self, url: str) -> Gemini:
        """Return a provider for the double."""
        return Gemini(base_url=url, api_key=self.secret, model="gemini-test-model")

    def base_url(self, server: FaultServer) -> str:
        """Return the address without a version, as Google gives it."""
        return server.origin
