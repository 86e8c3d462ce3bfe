"""The contracts of providers and of stores as test suites to inherit: every rule that is relied on, one test each."""

from __future__ import annotations

from typing import Any

from ._answers import Answers
from ._failures import Failures
from ._http import HTTPProviderContract
from ._limits import Limits
from ._secrecy import Secrecy
from ._store import StoreReads
from ._store_writes import StoreContract
from ._suite import RAISES, Failure, Subject, Suite, needs

__all__ = ["RAISES", "Failure", "HTTPProviderContract", "ProviderContract", "StoreContract", "StoreReads", "Subject"]
__all__ += ["Suite", "needs"]


class ProviderContract(Answers, Limits, Failures, Secrecy):
    """Inherit it in your tests, write `make_provider`, and get the suite.

        class TestShout(ProviderContract):
            def make_provider(self):
                return Shout()

    Tests that do not apply to your provider (it has no stream, no key; `make_failing` gives None) are
    not collected, and the end of the report says for each class which and why. To see that,
    `make_provider` and `make_failing` are also called before there are fixtures: build, and
    start nothing. If that raises there, the tests are kept.
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
