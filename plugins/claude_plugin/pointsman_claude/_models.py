"""What each family of models takes, as of November 2026; the options `refuses` and `thinking` of `Claude` override it.

Sources: Anthropic's notes on version 2026-10-21 of the API and on the migration to Opus 5.5, its client 2.12.0, and the
capability flags of litellm 1.109. What nobody knows here is taken for a new model and asked everything: what it refuses
is learnt from its answer.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from pointsman import Request
from pointsman.schemas import expressible

#: How a model is told to think: with an effort, or with a budget of tokens.
Form = Literal["adaptive", "budget", "none"]

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
#: The Messages API has no such options, whatever the model.
ABSENT = frozenset({"frequency_penalty", "presence_penalty", "seed"})
_THOUGHTLESS = r"claude-(3-(?!7)|3$|2|instant)"
_BUDGET = r"claude-3-7|(opus|sonnet|haiku)-4(-[0-5]\b|-20\d{6}|@|$)|claude-4-"
_SLOW = r"opus-4(-[01]\b|-20\d{6}|@|$)|claude-4-opus"
_OLD = r"claude-3-(opus|sonnet|haiku)|claude-2"
#: The longest answers, thoughts included, in tokens; those of new models last.
_LONGEST = {_OLD: 4_096, "claude-3-5": 8_192, _SLOW: 32_000, _BUDGET: 64_000, "": 128_000}


class Family(NamedTuple):
    """What is known of a model."""

    form: Form
    longest: int  #: tokens of an answer
    unsampled: bool  #: takes no sampling parameters
    one_of_two: bool  #: takes a temperature or a `top_p`, and not both
    without_schema: bool
    free: bool  #: cannot be made to call a tool, nor not to think
    slow: bool  #: Anthropic's own client never waits for a long answer of it in one piece


@lru_cache(256)
def family(model: str) -> Family:
    """Return what is known of a model by its name; other services write it with dots."""
    name = model.lower().replace(".", "-")

    def fits(pattern: str) -> bool:
        return re.search(pattern, name) is not None

    return Family(
        form="none" if fits(_THOUGHTLESS) else "budget" if fits(_BUDGET) else "adaptive",
        longest=next(tokens for pattern, tokens in _LONGEST.items() if fits(pattern)),
        unsampled=fits("opus-4-[78]|(opus|sonnet|haiku)-[5-9]|fable|mythos"),
        one_of_two=fits("opus-4-1|(opus|sonnet|haiku)-4-[56]"),
        without_schema=fits(r"claude-3|(opus|sonnet)-4(-0\b|-20\d{6}|@|$)|claude-4-"),
        free=fits("(opus|sonnet)-5-5|(fable|mythos)-5-1"),
        slow=fits(_SLOW),
    )


def untaken(request: Request, model: str, version: str, form: Form) -> set[str]:
    """Return the options of this request that the model does not take in this version of the API."""
    known, names = family(model), set[str]()
    thinks = request.reasoning_effort not in (None, "none")
    forced = request.tool_choice not in (None, "auto", "none")
    if version >= "2026-10-21" or known.unsampled or (thinks and form != "none"):
        names |= SAMPLING  # it thinks at its own temperature only
    elif request.temperature is not None and request.temperature > 1:
        names.add("temperature")  # the scale ends at 1, which is what it takes by itself
    elif known.one_of_two and None not in (request.temperature, request.top_p):
        names.add("top_p")
    if request.schema is not None and (known.without_schema or not expressible(request.schema)):
        names.add("schema")
    if forced and known.free:
        names.add("tool_choice")
    begun = request.messages[-1].role == "assistant"
    if (thinks and (form == "none" or forced or begun)) or (request.reasoning_effort == "none" and known.free):
        names.add("reasoning_effort")
    return names
