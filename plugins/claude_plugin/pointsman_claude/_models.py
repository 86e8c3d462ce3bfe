"""What each family of models takes, as of November 2026; the options `refuses` and `thinking` of `Claude` override it.

Sources: Anthropic's notes on version 2026-10-21 of the API and on the migration to Opus 5.5, its client 2.12.0, and the
capability flags of litellm 1.109. What nobody knows here is taken for a new model and asked everything: what it refuses
is learnt from its answer.
"""

from __future__ import annotations

import re
from typing import Literal

from pointsman import Request
from pointsman.schemas import expressible

#: How a model is told to think: with an effort, or with a budget of tokens.
Form = Literal["adaptive", "budget", "none"]

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
#: The Messages API has no such options, whatever the model.
ABSENT = frozenset({"frequency_penalty", "presence_penalty", "seed"})
_THOUGHTLESS = re.compile(r"claude-(3-(?!7)|3$|2|instant)")
_BUDGET = re.compile(r"claude-3-7|(opus|sonnet|haiku)-4(-[0-5]\b|-20\d{6}|@|$)|claude-4-")
_UNSAMPLED = re.compile(r"opus-4-[78]|(opus|sonnet|haiku)-[5-9]|fable|mythos")
#: Takes a temperature or a `top_p`, and not both.
_ONE_OF_TWO = re.compile(r"opus-4-1|(opus|sonnet|haiku)-4-[56]")
_WITHOUT_SCHEMA = re.compile(r"claude-3|(opus|sonnet)-4(-0\b|-20\d{6}|@|$)|claude-4-")
#: Cannot be made to call a tool, nor not to think.
_FREE = re.compile(r"(opus|sonnet)-5-5|(fable|mythos)-5-1")
#: What its client never waits for in one piece.
SLOW = re.compile(r"opus-4(-[01]\b|-20\d{6}|@|$)|claude-4-opus")
#: The longest answers, thoughts included, in tokens.
_LONGEST = {
    re.compile(r"claude-3-(opus|sonnet|haiku)|claude-2"): 4_096,
    re.compile(r"claude-3-5"): 8_192,
    SLOW: 32_000,
    _BUDGET: 64_000,
}
_LONGEST_OF_NEW = 128_000


def named(model: str) -> str:
    """Return the name as the patterns above have it: other services write dots."""
    return model.lower().replace(".", "-")


def form_of(model: str) -> Form:
    """Return how this model thinks."""
    return "none" if _THOUGHTLESS.search(named(model)) else "budget" if _BUDGET.search(named(model)) else "adaptive"


def longest(model: str) -> int:
    """Return the tokens that an answer of this model may have."""
    return next((tokens for family, tokens in _LONGEST.items() if family.search(named(model))), _LONGEST_OF_NEW)


def untaken(request: Request, model: str, version: str, form: Form) -> set[str]:
    """Return the options of this request that the model does not take in this version of the API."""
    model, names = named(model), set[str]()
    thinks = request.reasoning_effort not in (None, "none")
    forced = request.tool_choice not in (None, "auto", "none")
    if version >= "2026-10-21" or _UNSAMPLED.search(model) or (thinks and form != "none"):
        names |= SAMPLING  # it thinks at its own temperature only
    elif request.temperature is not None and request.temperature > 1:
        names.add("temperature")  # the scale ends at 1, which is what it takes by itself
    elif None not in (request.temperature, request.top_p) and _ONE_OF_TWO.search(model):
        names.add("top_p")
    if request.schema is not None and (_WITHOUT_SCHEMA.search(model) or not expressible(request.schema)):
        names.add("schema")
    if forced and _FREE.search(model):
        names.add("tool_choice")
    begun = request.messages[-1].role == "assistant"
    if (thinks and (form == "none" or forced or begun)) or (request.reasoning_effort == "none" and _FREE.search(model)):
        names.add("reasoning_effort")
    return names
