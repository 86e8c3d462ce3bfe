"""Claude: Anthropic's own API."""

from .hosted import HostedBackend


class ClaudeBackend(HostedBackend):
    """Asks a model of Anthropic. Needs `pip install pointsman-claude`; key: ANTHROPIC_API_KEY."""

    kind, name = "claude", "claude"
