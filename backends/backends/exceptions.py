"""What a backend raises: the very classes of `pointsman`, under the names that the complaint generator uses.

`BatchError` alone is of this package: it is what `batch_generate` raises.
"""

from collections.abc import Sequence
from typing import Any

from pointsman import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    BackendTimeout,
    ConfigError,
    ContentFilterError,
    ModelNotFoundError,
    RateLimitError,
    UnavailableError,
)

__all__ = [
    "AllBackendsFailed",
    "AuthenticationError",
    "BackendError",
    "BackendTimeout",
    "BatchError",
    "ConfigError",
    "ContentFilterError",
    "ModelNotFoundError",
    "RateLimitError",
    "UnavailableError",
]


class BatchError(BackendError):
    """Some prompts of a batch were not answered; all others were, and nothing of it is lost.

    `results` has for each prompt, in order, its text or its error; `errors` has the errors alone, by position.
    """

    def __init__(self, results: Sequence[str | BackendError]) -> None:
        self.results = list(results)
        self.errors = {place: one for place, one in enumerate(self.results) if isinstance(one, BackendError)}
        place, first = next(iter(self.errors.items()))
        super().__init__(f"{len(self.errors)} of {len(self.results)} prompts failed; prompts[{place}]: {first}")

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchError, (self.results,), vars(self)
