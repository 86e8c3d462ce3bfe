"""What each family of models takes, as of November 2026; the option `refuses` of `Gemini` overrides it.

Sources: Google's pages on thinking and on each model, and the flags of litellm 1.109. What nobody knows here is taken
for a new model and asked everything: what it refuses is learnt from its answer.
"""

from __future__ import annotations

import re

#: Thinks by levels, and wants its calls of tools signed: all but these.
OLD = re.compile(r"gemini-[12]\b|gemma|learnlm|tunedModels/")
_THOUGHTLESS = re.compile(r"gemini-(1|2\.0)|gemma-[1-3]|learnlm")
_MINIMAL = re.compile(r"gemini-3(\.[0-5])?-flash")
_BUDGET = re.compile(r"gemini-2\.5")
#: Tokens to think with, as Google's own translation of OpenAI's efforts has them.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192}
_UNSAMPLED = re.compile(r"gemini-(3\.([6-9]|5-flash-lite)|[4-9])")
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_UNPENALIZED = re.compile(r"gemini-(?!2\.0)")
_PENALTIES = frozenset({"frequency_penalty", "presence_penalty"})


def thinking(model: str, effort: str) -> dict[str, str | int]:
    """Return how much the model is to think, in its family's terms: a level, or a budget of tokens."""
    if not _BUDGET.search(model):
        least = "MINIMAL" if _MINIMAL.search(model) else "LOW"
        levels = {"none": least, "minimal": least, "low": "LOW", "medium": "MEDIUM"}
        return {"thinkingLevel": levels.get(effort, "HIGH")}
    return {"thinkingBudget": max(_BUDGETS.get(effort, 24_576), 128 if "pro" in model else 0)}  # which cannot but think


def untaken(model: str) -> frozenset[str]:
    """Return the options of a request that the model does not take."""
    told = (_UNSAMPLED, _SAMPLING), (_UNPENALIZED, _PENALTIES), (_THOUGHTLESS, {"reasoning_effort"})
    return frozenset().union(*(names for family, names in told if family.search(model)))
