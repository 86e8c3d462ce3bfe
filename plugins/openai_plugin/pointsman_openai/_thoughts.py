"""What a model thought: where servers put it, and what it wants back of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pointsman import State
from pointsman.service import Keep

#: Parts of OpenRouter's details that come in pieces.
_GROWING = {"text", "summary", "data"}
_OPEN, _CLOSE = "<think>", "</think>"


class Thoughts:
    """What a model thought before it called tools, as it wants it back: DeepSeek the text, OpenRouter the details."""

    def __init__(self) -> None:
        self._text = ""
        self._details: list[dict[str, Any]] = []

    def add(self, message: Mapping[str, Any]) -> str:
        """Take what a message, or a piece of one, says of them; return what a reader may see."""
        kept = message.get("reasoning_content")
        if isinstance(kept, str):
            self._text += kept
        details = [{k: v for k, v in one.items() if v is not None} for one in message.get("reasoning_details") or ()]
        for told in details:
            last = self._details[-1] if self._details else {}
            if "index" in told and all(last.get(name) == told.get(name) for name in ("type", "index")):
                last.update(told | {name: last[name] + told[name] for name in _GROWING & last.keys() & told.keys()})
            else:
                self._details.append(dict(told))
        said = (
            kept or message.get("reasoning") or "".join(one.get("text") or one.get("summary") or "" for one in details)
        )
        return said if isinstance(said, str) else ""

    def state(self, keep: Keep, *, called: bool) -> State | None:
        """Return what is kept with the answer."""
        kept = {"reasoning_content": self._text, "reasoning_details": self._details}
        kept = {name: value for name, value in kept.items() if value}
        return keep(kept) if kept and called else None


class Inline:
    """Takes the thoughts out of a text that begins with them: some servers leave them there, between two tags."""

    def __init__(self) -> None:
        self._held = ""
        self._closing: str | None = None  #: what ends the part that we are in; None: not known yet

    def split(self, piece: str, *, last: bool = False) -> tuple[str, str]:
        """Return what of the text so far is answer, and what is thought."""
        if self._closing == "":
            return piece, ""
        self._held += piece
        begun = self._held.lstrip()
        if self._closing is None:
            if begun.startswith(_OPEN):
                self._closing, self._held = _CLOSE, begun.removeprefix(_OPEN)
            elif last or not _OPEN.startswith(begun):
                self._closing = ""
                return self._release(), ""
            else:
                return "", ""
        thought, closed, rest = self._held.partition(_CLOSE)
        if closed:
            self._closing, self._held = "", rest.lstrip()
            return self._release(), thought
        held = 0 if last else next((n for n in range(len(_CLOSE), 0, -1) if thought.endswith(_CLOSE[:n])), 0)
        self._held = thought[len(thought) - held :]
        return "", thought[: len(thought) - held]

    def _release(self) -> str:
        held, self._held = self._held, ""
        return held


def parts_of(content: Any) -> tuple[str, str]:
    """Return the text and the thoughts of a message's content: text, or a list of parts (Mistral's)."""
    if not isinstance(content, list):
        return (content if isinstance(content, str) else ""), ""
    text, thought = "", ""
    for part in content:
        if not isinstance(part, dict):
            continue
        if part.get("type") in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("reasoning") or part.get("text")
            thought += parts_of(inner)[0]
        else:
            text += part.get("text") or ""
    return text, thought
