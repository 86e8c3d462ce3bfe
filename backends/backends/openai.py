"""OpenAI, and every server that speaks its API. Not to be confused with the package `openai`, which is not needed."""

from .hosted import HostedBackend


class OpenAIBackend(HostedBackend):
    """Asks a model of OpenAI, or of a compatible server. Needs `pip install pointsman-openai`; key: OPENAI_API_KEY."""

    kind, name = "openai", "openai"
