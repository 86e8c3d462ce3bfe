"""What a person reads when no answer came: what was tried, why it failed, and what to do."""

from __future__ import annotations

from typing import Any

from pointsman.errors import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    ConfigError,
    ContentNotFoundError,
    InvalidRequestError,
    ModelNotFoundError,
)

from ._output import complain, note

#: What no waiting mends.
_TO_MEND = (AuthenticationError, ModelNotFoundError)


def tell(error: BackendError | ConfigError, health: str = "health") -> int:
    """Say on stderr what happened, and return the exit code.

    :param health: the command that says how each backend is, or each store.
    """
    if isinstance(error, ConfigError):
        problems = error.problems
        file = "".join(getattr(error, "__notes__", ()))
        where = f"{file}: " if file and not problems[0].startswith(file) else ""
        complain(where + (problems[0] if len(problems) == 1 else f"{len(problems)} things to mend:"))
        for problem in problems if len(problems) > 1 else ():
            note(f"  - {problem}")
        return 2
    errors = error.exceptions if isinstance(error, AllBackendsFailed) else (error,)
    if isinstance(error, AllBackendsFailed):
        complain("no backend answered:")
        for one in errors:
            note(f"  - {one}")
    else:
        complain(str(error))
    for line in getattr(error, "__notes__", ()):
        note(f"  {line}")
    if error.retry_after and not all(isinstance(one, _TO_MEND) for one in errors):
        note(f"  try again in {error.retry_after:.0f} s")
    if not isinstance(error, InvalidRequestError | ContentNotFoundError):
        note(f"  `pointsman {health}` says how each one is; POINTSMAN_LOG=debug shows every attempt")
    return 1


def as_values(error: BackendError | ConfigError) -> dict[str, Any]:
    """Return the error for a program that reads JSON."""
    import attrs

    values: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ConfigError):
        return {"error": values | {"problems": list(error.problems)}}
    values |= {"backend": error.backend, "status": error.status, "retry_after": error.retry_after}
    return {"error": values | {"attempts": [attrs.asdict(attempt) for attempt in error.attempts]}}
