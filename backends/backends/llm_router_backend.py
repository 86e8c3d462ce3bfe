"""One provider and its spares behind one name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pointsman import Backend, Router, Secret
from pointsman.config import sealed

from .text_backend import MAX_TOKENS, TEMPERATURE, TextBackend, chained, router_for

_log = logging.getLogger("pointsman.backends")


class LLMRouterBackend(TextBackend):
    """Asks a provider, and when it does not answer, one fallback after another.

    :param id: its name.
    :param type: what an entry of a configuration says of itself: `llm_router`.
    :param provider: what is asked first: a provider's name or alias (`openai`, `local`, `workstation` ...). Without it,
        every installed one that finds what it needs (a key, a program, a model's file), those of this machine last.
    :param model: of that provider; without it, the plugin's default.
    :param fallback_providers: what is asked next, in this order: a name, "provider/model", or another backend. Each
        uses its own model and key: those of the environment, where it is a name. `close` closes the backends too.
    :param api_key: of the first provider; without it, what its plugin finds in the environment.
    :param base_url: of the first provider.
    :param options: further options of the first provider, as in a configuration.
    :param max_tokens: of an answer; also of those fallbacks that are names.
    :param temperature: from 0 to 2; also of those fallbacks that are names, and so on for the others.
    :param timeout: seconds that one attempt may take.
    :param max_retries: further attempts at each provider, where trying again may help.
    :param rate_limit: requests of each provider in any `rate_limit_window` seconds (60 without it). Beyond it the next
        provider is asked; a call waits where there is none.
    :param verbose: show every attempt on stderr.
    :raises ConfigError: an argument is wrong. A plugin that is not installed is told by the call that needs it.
    """

    def __init__(  # noqa: PLR0913 - the complaint generator's own names
        self,
        *,
        id: str = "llm-router",
        type: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        fallback_providers: Sequence[str | TextBackend | Backend | Callable[[str], object]] | None = (),
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
        if fallback_providers is None or isinstance(fallback_providers, str):
            fallback_providers = [fallback_providers] if fallback_providers else []
        given = sealed(locals())
        names = [one for one in fallback_providers if isinstance(one, str)]
        router = router_for(sealed({**given, "fallback_providers": names}), "llm_router")
        if len(names) < len(fallback_providers):
            named = iter(router.backends)
            first = next(named)
            others = [next(named) if isinstance(one, str) else one for one in fallback_providers]
            where, expected = "LLMRouterBackend.fallback_providers", 'a name, "provider/model", or a backend'
            router = Router(chained(others, where, expected, first=[first]))
        for backend in router.backends:
            if missing := backend.missing or getattr(backend.provider, "missing", ""):
                _log.warning("%s cannot be asked: %s", backend.id, missing)
        super().__init__(id, router)


LLMRouter = LLMRouterBackend
