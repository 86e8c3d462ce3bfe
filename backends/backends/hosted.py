"""What the backends of services on the network have in common: their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pointsman import Secret
from pointsman.config import sealed

from .text_backend import MAX_TOKENS, TEMPERATURE, TextBackend, router_for


class HostedBackend(TextBackend):
    """Asks a model of one service. Its plugin is installed on need; a call says how where it is not.

    :param id: its name; without it, the service's.
    :param type: what an entry of a configuration says of itself: the type of this class, or another name of it.
    :param model: the model; without it, the plugin's default.
    :param api_key: the key; without it, the environment variable of the service.
    :param base_url: another server that speaks the same API.
    :param options: further options of the plugin, as in a configuration.
    :param max_tokens: of an answer.
    :param temperature: from 0 to 2.
    :param timeout: seconds that one attempt may take.
    :param max_retries: further attempts, where trying again may help.
    :param rate_limit: requests in any `rate_limit_window` seconds (60 without it); a call waits for its turn.
    :param verbose: show every attempt on stderr.
    :raises ConfigError: an argument is wrong. A plugin that is not installed is told by the first call.
    """

    kind: ClassVar[str]  #: the type of its provider
    name: ClassVar[str]  #: its id, unless one is given

    def __init__(  # noqa: PLR0913 - the complaint generator's own names
        self,
        *,
        id: str | None = None,
        type: str | None = None,
        model: str | None = None,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        options: Mapping[str, Any] | None = None,
        max_tokens: int | None = MAX_TOKENS,
        temperature: float | None = TEMPERATURE,
        top_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        rate_limit: int | None = None,
        rate_limit_window: float | None = None,
        verbose: bool = False,
    ) -> None:
        api_key, options = Secret.of(api_key), sealed(options or {})  # so that no traceback shows a key
        id = id or self.name
        super().__init__(id, router_for(locals(), self.kind))
