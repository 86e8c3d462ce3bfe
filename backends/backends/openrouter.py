"""OpenRouter: many models of many vendors behind one key."""

from .hosted import HostedBackend


class OpenRouterBackend(HostedBackend):
    """Asks a model of OpenRouter. Needs `pip install pointsman-openrouter`; key: OPENROUTER_API_KEY."""

    kind, name = "openrouter", "openrouter"
