"""What each family of models takes, as of November 2026; the option `refuses` of `Gemini` overrides it.

Sources: Google's pages on thinking and on each model, and the flags of litellm 1.109. What nobody knows here is taken
for a new model and asked everything: what it refuses is learnt from its answer.
"""

from __future__ import annotations

import re

from pointsman import Request

#: Thinks by levels, and wants its calls of tools signed: all but these.
OLD = re.compile(r"gemini-[12]\b|gemma|learnlm|tunedModels/")
THOUGHTLESS = re.compile(r"gemini-(1|2\.0)|gemma-[1-3]|learnlm")
_MINIMAL = re.compile(r"gemini-3(\.[0-5])?-flash")
#: Knows the levels LOW and HIGH only.
_TWO_LEVELS = re.compile(r"gemini-3-pro")
_BUDGET = re.compile(r"gemini-2\.5")
#: Cannot but think.
_ALWAYS = re.compile(r"gemini-2\.5-pro|gemini-([3-9]|\d\d)(?!.*flash)")
#: Tokens to think with, as Google's own translation of OpenAI's efforts has them.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192}
_UNSAMPLED = re.compile(r"gemini-(3\.([6-9]|5-flash-lite)|[4-9])")
_SAMPLING = {"temperature", "top_p", "top_k"}
_UNPENALIZED = re.compile(r"gemini-(?!2\.0)")
_PENALTIES = {"frequency_penalty", "presence_penalty"}
_MOST_STOPS = 5


def thinking(model: str, effort: str) -> dict[str, str | int]:
    """Return how much the model is to think, in its family's terms: a level, or a budget of tokens."""
    if _BUDGET.search(model):
        return {"thinkingBudget": max(_BUDGETS.get(effort, 24_576), 128 if "pro" in model else 0)}
    least = "MINIMAL" if _MINIMAL.search(model) else "LOW"
    medium = "HIGH" if _TWO_LEVELS.search(model) else "MEDIUM"
    levels = {"none": least, "minimal": least, "low": "LOW", "medium": medium}
    return {"thinkingLevel": levels.get(effort, "HIGH")}


def untaken(request: Request, model: str) -> set[str]:
    """Return the options of this request that the model does not take."""
    names = set(_SAMPLING if _UNSAMPLED.search(model) else ()) | (_PENALTIES if _UNPENALIZED.search(model) else set())
    effort = request.reasoning_effort
    if (effort == "none" and _ALWAYS.search(model)) or (effort not in (None, "none") and THOUGHTLESS.search(model)):
        names.add("reasoning_effort")
    if request.tools and OLD.search(model):
        names.add("schema")  # it takes none beside tools
    return names | ({"stop"} if len(request.stop) > _MOST_STOPS else set())
