"""The matrix of faults: every row of docs/reliability.md, played through a real router over fault servers.

    python -m pointsman.testing.matrix [--row N] [--json]

It plays on the real clock, with the provider `openai` where that is installed. A row has several
cases: faults, and plain and streamed requests.
"""

from __future__ import annotations

from importlib import import_module

from ._play import CASES, Case, Result

__all__ = ["Case", "Result", "cases"]


def cases() -> tuple[Case, ...]:
    """Return all cases, in the order of their rows."""
    for part in ("_before", "_answers", "_streams", "_state", "_batch"):
        import_module(f".{part}", __name__)
    return tuple(sorted(CASES, key=lambda case: case.row))
