"""A whole provider: it answers with the prompt."""

from attrs import frozen
from pointsman import Completion, Health, Request, hookimpl

__all__ = ["Echo"]


@frozen
class Echo:
    """Answers with the prompt, followed by `suffix`."""

    suffix: str | None = None

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Return the prompt."""
        return Completion(text=request.prompt + (self.suffix or ""))

    @hookimpl
    def health(self) -> Health:
        """It is well, but no router should take an echo for an answer unless somebody has asked for it."""
        if self.suffix is None:
            return Health.unconfigured('echo is an example: to use it, set its option suffix ("" adds nothing)')
        return Health.ok()
