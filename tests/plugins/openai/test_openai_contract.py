"""The contract of providers, over chat completions and over the Responses API."""

from __future__ import annotations

from pointsman.testing import HTTPProviderContract
from pointsman_openai import OpenAI


class TestChat(HTTPProviderContract):
    """Chat completions."""

    def make_provider(self, url: str) -> OpenAI:
        """Return a provider for the double."""
        return OpenAI(base_url=url, api_key=self.secret, model="test-model")


class TestResponses(HTTPProviderContract):
    """The Responses API."""

    def make_provider(self, url: str) -> OpenAI:
        """Return a provider for the double."""
        return OpenAI(base_url=url, api_key=self.secret, model="test-model", api="responses")
