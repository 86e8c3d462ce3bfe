"""The engines that run in the child process, behind one small interface.

Each module has `load(settings) -> Engine`. Nothing here imports the parent's side: the child stays lean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

#: Passes on what has come: `{"text"}`, `{"reasoning"}`, `{"busy": True}`, and once, at last, `{"end"}`.
Emit = Callable[[dict[str, Any]], None]
#: Whether nobody waits for the answer any more.
Cancelled = Callable[[], bool]


class Refused(Exception):
    """The engine does not answer this request, but lives.

    :param kind: "context" (too long), "request" (the engine does not take it), "unusable" (what the
        model wrote cannot be read), "engine" (anything else).
    """

    def __init__(self, kind: str, message: str, *, limit: int | None = None, needed: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.limit = limit
        self.needed = needed


class EngineMissing(Exception):
    """The engine is not installed, or cannot work on this machine."""


class Engine(Protocol):
    """A loaded model."""

    slots: int  #: requests that it works on at a time: as many threads call `answer` at once

    def answer(self, body: dict[str, Any], emit: Emit, cancelled: Cancelled) -> None:
        """Work on one request. Return early when `cancelled()`.

        The last thing emitted is `{"end": {"reason": "stop" | "length" | "tool_calls", "usage": [input,
        output, cached], "calls": [[id, name, arguments], ...]}}`.

        :raises Refused: there is no answer.
        """
