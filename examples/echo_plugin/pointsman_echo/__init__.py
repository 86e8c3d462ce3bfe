"""A whole provider: it answers with the prompt."""

from attrs import frozen
from pointsman import Completion, Health, Request, hookimpl

__all__ = ["Echo"]


@frozen
class Echo:
    """Answers with the prompt, and whatever `suffix` says."""

    suffix: str = ""

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Return the prompt."""
        return Completion(text=request.prompt + self.suffix)

    @hookimpl
    def health(self) -> Health:
        """It is always well."""
        return Health.ok()
