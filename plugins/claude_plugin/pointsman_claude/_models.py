"""What each family of models takes, as of November 2026; the option `refuses` of `Claude` overrides it.

Sources: Anthropic's notes on version 2026-10-21 of the API and on the migration to Opus 5.5; the capability flags of
litellm 1.109. A model that nobody knows here is asked everything: what it refuses is learnt from its answer.
"""

from __future__ import annotations

import re

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
#: The Messages API has no such thing, whatever the model.
_NEVER = frozenset({"frequency_penalty", "presence_penalty", "seed"})
_NEW = r"opus-4-[78]|(opus|sonnet|haiku)-[5-9]|fable|mythos"
_NO_SAMPLING = re.compile(_NEW)
_NO_SCHEMA = re.compile(r"claude-3|(opus|sonnet)-4-(0|20\d{6})")
#: Takes an effort, and not the beginning of its answer; the older ones take a budget of tokens to think with.
ADAPTIVE = re.compile(rf"{_NEW}|(opus|sonnet)-4-6")
#: Cannot be made to call a tool.
FREE = re.compile(r"(opus|sonnet)-5-5|(fable|mythos)-5-1")


def untaken(model: str, version: str) -> frozenset[str]:
    """Return the options of a request that the model does not take in this version of the API."""
    sampling = SAMPLING if version >= "2026-10-21" or _NO_SAMPLING.search(model) else frozenset()
    return _NEVER | sampling | (frozenset({"schema"}) if _NO_SCHEMA.search(model) else frozenset())
