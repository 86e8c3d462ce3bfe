"""Copilot: models through the program and the login of this machine's user."""

from .hosted import HostedBackend


class CopilotBackend(HostedBackend):
    """Asks the installed program copilot. Needs `pip install pointsman-copilot`; key: a token of GitHub, or its login.

    Copilot knows no temperature, and a limit of the answer's length only with a `base_url`: these are left out.
    """

    kind, name = "copilot", "copilot"
