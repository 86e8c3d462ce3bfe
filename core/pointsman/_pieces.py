"""Whole answers and the pieces of streamed ones: each can be made of the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import fields_dict

from .errors import UnusableAnswer
from .values import Chunk, Completion


def chunk_of(completion: Completion) -> Chunk:
    """Return a whole answer as one chunk."""
    return Chunk(**{name: getattr(completion, name) for name in fields_dict(Chunk) if name != "restarted"})


def collect(chunks: Iterable[Chunk]) -> Completion:
    """Put the pieces of a stream together.

    :raises UnusableAnswer: it ended without a finish reason.
    """
    pieces = list(chunks)
    finish = last_of(pieces, "finish_reason")
    if finish is None:
        raise UnusableAnswer("the stream ended without a finish reason")
    return Completion(
        "".join(piece.text for piece in pieces),
        finish,
        tuple(call for piece in pieces for call in piece.tool_calls),
        last_of(pieces, "usage"),
        last_of(pieces, "model"),
        "".join(piece.thinking for piece in pieces),
        last_of(pieces, "raw_finish_reason"),
        last_of(pieces, "request_id"),
        warnings=tuple(warning for piece in pieces for warning in piece.warnings),
        state=last_of(pieces, "state"),
    )


def last_of(pieces: list[Chunk], name: str) -> Any:
    """Return the last value of a field that any piece has."""
    return next((value for piece in reversed(pieces) if (value := getattr(piece, name)) is not None), None)
