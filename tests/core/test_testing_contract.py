"""The contract suites themselves: they pass for good providers, and they fail for bad ones."""

from attrs import define, field, frozen

from pointsman import Chunk, Completion, Health, Request, Secret, hookimpl
from pointsman.testing import Failure, HTTPProviderContract, ProviderContract, Scripted, Silent


@frozen
class Shout:
    """Answers in capitals: the smallest provider."""

    suffix: str = "!"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion(text=request.prompt.upper() + self.suffix)

    @hookimpl
    def health(self) -> Health:
        return Health.ok()


class TestTheSmallestProvider(ProviderContract):
    """A provider of fifteen lines fulfils the contract as it is."""

    def make_provider(self) -> Shout:
        return Shout()


class TestScripted(ProviderContract):
    """The double that echoes fulfils the contract."""

    def make_provider(self) -> Scripted:
        return Scripted()
