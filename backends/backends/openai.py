"""OpenAI, and every server that speaks its API. Not to be confused with the package `openai`, which is not needed."""

from __future__ import annotations

from pointsman import Secret

from .text_backend import MAX_TOKENS, TEMPERATURE, TextBackend, router_for


class OpenAIBackend(TextBackend):
    """Asks a model of OpenAI, or of a compatible server. Needs `pip install pointsman-openai`.

    :param id: its name.
    :param model: the model; without it, the plugin's default.
    :param api_key: the key; without it, the environment variable OPENAI_API_KEY.
    :param base_url: another server that speaks the same API.
    :param max_tokens: of an answer.
    :param temperature: from 0 to 2.
    :param timeout: seconds that one attempt may take.
    :param max_retries: further attempts, where trying again may help.
    :param rate_limit: requests in any `rate_limit_window` seconds (60 without it); a call waits for its turn.
    :param verbose: show every attempt on stderr.
    :raises ConfigError: an argument is wrong. A plugin that is not installed is told by the first call.
    """

    def __init__(  # noqa: PLR0913 - the complaint generator's own names
        self,
        *,
        id: str = "openai",
        model: str | None = None,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
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
        api_key = Secret.of(api_key)  # so that no traceback shows it
        super().__init__(id, router_for(locals(), "openai"))
