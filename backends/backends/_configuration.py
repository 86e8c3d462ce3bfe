"""Backends from the complaint generator's configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from pointsman import ConfigError, Router, Store
from pointsman.config import Settings, build
from pointsman.config import load as read_settings

from .claude import ClaudeBackend
from .codex import CodexBackend
from .copilot import CopilotBackend
from .gemini import GeminiBackend
from .hosted import HostedBackend
from .huggingface import HuggingFaceBackend
from .llm_router_backend import LLMRouterBackend
from .openai import OpenAIBackend
from .openrouter import OpenRouterBackend
from .text_backend import MAX_TOKENS, TEMPERATURE, TextBackend, placed
from .workstation import WorkstationBackend

_HOSTED: tuple[type[HostedBackend], ...] = (
    OpenAIBackend,
    HuggingFaceBackend,
    OpenRouterBackend,
    ClaudeBackend,
    GeminiBackend,
    CodexBackend,
    CopilotBackend,
)
_CLASS_OF: dict[str, type[TextBackend]] = {"local": WorkstationBackend, **{cls.kind: cls for cls in _HOSTED}}
_PRESETS = {"max_tokens": MAX_TOKENS, "temperature": TEMPERATURE}


def load(source: str | Path | Mapping[str, Any]) -> dict[str, TextBackend]:
    """Return every backend of a JSON or TOML file, or of a mapping of the same form, by its id.

    An entry of type `llm_router` is one backend, with its fallbacks in it. One that is switched off, or
    needs a variable that is not set, says so when it is called, and harms no other. What the section
    ROUTER says holds for each.

    :raises ConfigError: with one line for each problem in the file, each with its path.
    """
    problems: tuple[str, ...] = ()
    try:
        settings = read_settings(source)
    except ConfigError as error:
        problems = error.problems
    del source  # a traceback that shows local variables would show the keys in it
    if problems:
        raise ConfigError(*problems)
    return made_of(settings)


def made_of(settings: Settings, store: Store | None = None) -> dict[str, TextBackend]:
    """Return every backend of settings that were read, by its id.

    :param store: keeps their receipts, and stays open. Without, each opens STORES for its own, if there are any.
    """
    # The path of a fallback, "BACKENDS[2].fallback_providers[0]", begins with that of its router.
    paths = (path.partition(".")[0] for path in settings.paths)
    made: dict[str, TextBackend] = {}
    for path, group in groupby(zip(paths, settings.backends, strict=True), key=lambda pair: pair[0]):
        chain = [placed(backend, backend.priority, _PRESETS) for _, backend in group]
        kind = LLMRouterBackend if path in settings.chains else _CLASS_OF.get(chain[0].type, TextBackend)
        with ExitStack() as own:
            kept = store
            if kept is None and settings.stores and settings.router.get("receipts"):
                kept = own.enter_context(Store(settings.stores))
            backend = kind.around(chain[0].id, Router(chain, **with_receipts(settings.router, kept)))
            backend.closes = own.pop_all()
        made[backend.id] = backend
    return made


def with_receipts(settings: Mapping[str, Any], store: Store | None) -> Mapping[str, Any]:
    """Return the settings of a router whose receipts, if it keeps any, are in this store.

    :raises ConfigError: an option of theirs is wrong.
    """
    if store is None or not (receipts := settings.get("receipts")):
        return settings
    from pointsman_ipfs import Receipts

    kept = build(Receipts, {} if receipts is True else receipts, "ROUTER.receipts", store=store)
    return {**settings, "receipts": False, "middleware": [*settings.get("middleware", ()), kept]}
