"""Tool calls of an answer, whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from uuid import uuid4

from pointsman import ToolCall, UnusableAnswer
from pointsman.values import FinishReason


class Calls:
    """Puts calls together. Some servers leave out `index` or `id`, or send every call as number 0, or a name again."""

    def __init__(self) -> None:
        self._calls: list[dict[str, str]] = []
        self._at: dict[Any, dict[str, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, pieces: Any) -> bool:
        """Take the pieces of one event; say whether there were any."""
        for piece in pieces or ():
            function, index = piece.get("function") or {}, piece.get("index")
            given, name = str(piece.get("id") or ""), function.get("name") or ""
            call = self._at.get(index)  # under None is the last one
            if call is None or not _continues(call, given, name):
                call = {"id": "", "name": "", "arguments": ""}
                self._calls.append(call)
            self._at[index] = self._at[None] = call
            arguments = function.get("arguments") or ""
            call["id"], call["name"] = call["id"] or given, call["name"] or name
            call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)
        return bool(pieces)

    def whole(self, end: FinishReason) -> tuple[ToolCall, ...]:
        """Return the calls. Raises as `checked` does."""
        made = (made_call(call["id"], call["name"], call["arguments"]) for call in self._calls)
        return checked(tuple(made), end)


def _continues(call: Mapping[str, str], given: str, name: str) -> bool:
    """Whether a piece with this id and name goes on with the call."""
    if given and call["id"]:
        return given == call["id"]
    if name and call["name"]:
        return name == call["name"] and not _is_json(call["arguments"])
    return True


def made_call(given: str | None, name: str | None, arguments: str | None) -> ToolCall:
    """Return a call, under an id of ours where the server gave none: no other turn has the same."""
    return ToolCall(given or f"call_{uuid4().hex}", name or "", (arguments or "").strip() or "{}")


def checked(calls: tuple[ToolCall, ...], end: FinishReason) -> tuple[ToolCall, ...]:
    """Return `calls`.

    :raises UnusableAnswer: one of them is not whole.
    """
    for call in calls:
        if not call.name or not _is_json(call.arguments):
            why = "max_tokens was used up inside it: give more" if end == "length" else "it has no name, or no JSON"
            raise UnusableAnswer(f"a tool call is not whole: {why}")
    return calls


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def short_id(given: str | None, longest: int) -> str:
    """Return the id, or what stands for it where it is longer than the API takes: a call's and its result's alike."""
    given = given or ""
    return given if len(given) <= longest else "call_" + sha256(given.encode()).hexdigest()[:32]
