"""Part of the contract: each failure of the service is the class of error that says what follows from it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from ...errors import BackendError
from ...scope import Scope
from ...values import Completion, Health
from ._secrecy import check_hidden
from ._suite import RAISES, Failure, Subject, Suite, needs


class Failures(Suite):
    """Errors by class, from both ways of asking; health of a service that is not well."""

    @pytest.mark.parametrize("failure", list(RAISES))
    def test_raises_the_right_class(self, make: Callable[..., Subject], failure: Failure) -> None:
        """Every way of asking raises the class that fits, before any content, and it survives pickling."""
        for way, ask in make(failure).ways():
            ended = self.run(ask, self.request(scope=Scope(self.short_s if failure == "silent" else self.timeout_s)))
            if failure == "refused" and _refusal(ended.value):
                continue
            expected = RAISES[failure]
            assert isinstance(ended.error, expected), f"{way}: {failure} gave {ended!r}, expected {expected.__name__}"
            self._check_error(way, ended.error)

    def _check_error(self, way: str, error: BackendError) -> None:
        assert error.message.strip(), f"{way}: the error has no message: say what was wrong and what to do"
        assert error.backend is None, f"{way}: backend is the router's to fill, found {error.backend!r}"
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        facts = {name: value for name, value in vars(error).items() if not name.startswith("__")}
        assert type(again) is type(error), f"{way}: after pickling it is a {type(again).__name__}"
        assert str(again) == str(error), f"{way}: after pickling it says {again!s}"
        assert vars(again) == facts, f"{way}: pickling lost some of {facts}"

    @needs("unavailable")
    def test_a_failure_is_over_when_it_is_over(self, make: Callable[..., Subject]) -> None:
        """A provider that failed once fails the same way again: it hides nothing and retries nothing by itself."""
        subject = make("unavailable")
        for way, ask in subject.ways():
            for _ in range(2):
                ended = self.run(ask, self.request())
                assert isinstance(ended.error, BackendError), f"{way}: found {ended!r}"

    @needs("health")
    @pytest.mark.parametrize("failure", ["unavailable", "bad_key", "silent"])
    def test_health_of_a_sick_service(self, make: Callable[..., Subject], failure: Failure) -> None:
        """Health never raises and never hangs; what is not usable has a reason, without a key."""
        subject = make(failure)
        ended = self.run(subject.health)
        assert ended.error is None, f"health raised {ended.error!r}: what is wrong belongs into Health.reason"
        health: Health = ended.value
        assert health.status == "healthy" or health.reason.strip(), f"{health!r} does not say what to do about it"
        check_hidden(self.secrets(subject.provider), "health", repr(health))


def _refusal(value: Any) -> bool:
    """Whether this is how a refusal looks that came as an answer: the router raises the error then."""
    return isinstance(value, Completion) and value.finish_reason == "content_filter"
