"""Codex: OpenAI's models through the program and the login of this machine's user."""

from .hosted import HostedBackend


class CodexBackend(HostedBackend):
    """Asks the installed program codex. Needs `pip install pointsman-codex`; key: CODEX_API_KEY, or `codex login`.

    Codex knows neither temperature nor a limit of the answer's length: these are left out.
    """

    kind, name = "codex", "codex"
