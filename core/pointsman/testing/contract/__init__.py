"""The contract of providers as test suites to inherit: every rule that the router relies on, one test each."""

from __future__ import annotations

from typing import Any

from ._answers import Answers
from ._failures import Failures
from ._http import HTTPProviderContract
from ._limits import Limits
from ._secrecy import Secrecy
from ._suite import RAISES, Failure, Subject, Suite

__all__ = ["RAISES", "Failure", "HTTPProviderContract", "ProviderContract", "Subject", "Suite"]


class ProviderContract(Answers, Limits, Failures, Secrecy):
    """Inherit it in your tests, write `make_provider`, and get the suite.

        class TestShout(ProviderContract):
            def make_provider(self):
                return Shout()

    Every test that your provider's hooks and capabilities allow is run; what is left out is skipped
    with its reason. The more of `make_failing` you write, the more of the contract is shown.
    """

    def make_provider(self) -> Any:
        """Return a new provider whose service is well."""
        raise TypeError(f"{type(self).__name__}: write make_provider(self)")

    def make_failing(self, failure: Failure) -> Any:
        """Return a new provider whose service fails in this way, or None if it cannot."""
        return None

    def build(self, failure: Failure | None = None) -> Any:
        """Return what `make_provider` or `make_failing` makes."""
        return self.make_provider() if failure is None else self.make_failing(failure)
