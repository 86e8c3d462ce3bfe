"""The log: silent unless asked, through stdlib logging, rendered by structlog.

A program that configures logging for "pointsman" gets every line. `POINTSMAN_LOG=debug` (or info,
warning) writes them to stderr for people who have no such program. Prompts and answers are in it
only where `log_content=True` says so; keys never are.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .forks import ForkLock, Lock
from .secret import redact, words_of

if TYPE_CHECKING:
    from .values import Attempt, Completion, Request

DEBUG, INFO = logging.DEBUG, logging.INFO

_logger = logging.getLogger("pointsman")
_logger.addHandler(logging.NullHandler())  # without it, the last resort of logging would write to stderr


#: Whether anybody reads lines of level debug.
wanted = partial(_logger.isEnabledFor, DEBUG)


class _Importing(ForkLock):
    """A fork waits for an import: the child would wait for ever for a thread that it has not."""

    def locks(self) -> Sequence[Lock]:
        return (self.held,)


_importing = _Importing()


def attempt(made: Attempt, *, verbose: bool = False, **facts: Any) -> None:
    """Report one attempt: ids, outcome, duration and sizes."""
    shown = {name: getattr(made, name) for name in ("backend", "model", "outcome", "error", "reason")}
    write(INFO if verbose else DEBUG, "attempt", **shown, seconds=round(made.duration_s, 4), **facts)


def content(request: Request, completion: Completion) -> None:
    """Report what was asked and answered: only where `log_content=True` allows it."""
    messages = [(message.role, message.text) for message in request.messages]
    write(DEBUG, "content", backend=completion.backend, messages=messages, answer=completion.text)


def warning(event: str, **facts: Any) -> None:
    """Write one line of level warning."""
    write(logging.WARNING, event, **facts)


def failed(hook: str, error: BaseException, **facts: Any) -> None:
    """Report what a hook raised whose failure costs the caller nothing."""
    warning(f"{hook} failed", **facts, error=type(error).__name__, reason=words_of(error))


def write(level: int, event: str, **facts: Any) -> None:
    """Write one line, if anybody reads it."""
    if _logger.isEnabledFor(level):
        try:
            with _importing.held:
                from structlog.processors import KeyValueRenderer  # costs as much as all of the core: when needed
        except OSError:  # no file can be opened just now: the call goes on without this line
            return
        known = {name: fact for name, fact in facts.items() if fact is not None}
        _logger.log(level, "%s", redact(str(KeyValueRenderer()(None, "", {"event": event, **known}))))


class _Stderr(logging.Handler):
    """Writes to what is stderr at the moment: a program, or its tests, may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


def to_stderr(level: int | None = None) -> None:
    """Write lines to stderr from now on, if `level` or POINTSMAN_LOG asks for it. Repeating it changes nothing."""
    name, levels = os.environ.get("POINTSMAN_LOG", "").upper(), logging.getLevelNamesMapping()
    chosen = level or levels.get(name, logging.WARNING if name else None)
    if chosen is None:
        return
    if not any(isinstance(handler, logging.StreamHandler | _Stderr) for handler in _logger.handlers):
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
        _logger.addHandler(handler)
        if name and name not in levels:
            warning("POINTSMAN_LOG is no level", found=name.lower(), expected="debug, info, warning or error")
    if _logger.level == logging.NOTSET or chosen < _logger.level:
        _logger.setLevel(chosen)
