"""Gemini: Google's own API."""

from .hosted import HostedBackend


class GeminiBackend(HostedBackend):
    """Asks a model of Google. Needs `pip install pointsman-gemini`; key: GOOGLE_API_KEY, or GEMINI_API_KEY."""

    kind, name = "gemini", "gemini"
