"""Deadlines and cancellation of one call."""

import pickle
import threading
from math import inf
from time import monotonic

import pytest
from pointsman import Scope


def test_a_scope_without_limits_never_ends() -> None:
    """A plain scope gives a provider all the time there is."""
    scope = Scope()
    assert scope.remaining() == scope.left() == scope.deadline == scope.first_byte_by == inf
    assert not scope.expired
    assert not scope.cancelled


def test_time_runs_out_and_never_below_zero() -> None:
    """`remaining` and `left` end at 0, and then the scope has expired."""
    scope = Scope(0)
    assert scope.expired
    assert scope.remaining() == scope.left() == 0.0


def test_an_attempt_never_outlives_its_call() -> None:
    """What an attempt is given is cut to what the call has left, for the whole and for the first byte."""
    scope = Scope(10)
    scope.begin(timeout=100, first_byte_timeout=50)
    assert scope.deadline <= monotonic() + 10
    assert scope.first_byte_by <= scope.deadline
    scope.begin(timeout=1, first_byte_timeout=0.5)
    assert scope.remaining() <= 1
    assert scope.first_byte_by <= monotonic() + 0.5
    assert 9 < scope.left() <= 10
    scope.begin()
    assert scope.deadline == scope.first_byte_by <= monotonic() + 10
    assert scope.remaining() > 9, "the limits of one attempt do not touch the next"


def test_an_expired_attempt_is_not_an_expired_call() -> None:
    """When an attempt's time is up, the call may go on with the next one."""
    scope = Scope(10)
    scope.begin(timeout=0)
    assert scope.remaining() == 0.0
    assert not scope.expired


def test_cancelling_runs_each_callback_once() -> None:
    """Every registered callback runs exactly once, however often and from however many threads one cancels."""
    scope = Scope()
    ran: list[int] = []
    for number in range(5):
        scope.on_cancel(lambda number=number: ran.append(number))  # type: ignore[misc] # a default binds the loop's value
    threads = [threading.Thread(target=scope.cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == [0, 1, 2, 3, 4]
    assert scope.cancelled


def test_a_late_callback_runs_at_once() -> None:
    """Who registers after the cancelling is told in the same breath, and forgetting that is harmless."""
    scope = Scope()
    scope.cancel()
    ran: list[str] = []
    forget = scope.on_cancel(lambda: ran.append("told"))
    forget()
    assert ran == ["told"]


def test_a_forgotten_callback_does_not_run() -> None:
    """Forgetting concerns one registration only, and may be repeated."""
    scope = Scope()
    ran: list[str] = []
    forget = scope.on_cancel(lambda: ran.append("first"))
    scope.on_cancel(lambda: ran.append("second"))
    forget()
    forget()
    scope.cancel()
    assert ran == ["second"]


def test_a_callback_may_use_the_scope() -> None:
    """A callback that forgets another, or registers one, does not lock up."""
    scope = Scope()
    ran: list[str] = []

    def register() -> None:
        scope.on_cancel(lambda: ran.append("inner"))

    scope.on_cancel(register)
    scope.cancel()
    assert ran == ["inner"]


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_pickled_scope_has_no_limits(timeout: float | None) -> None:
    """A scope belongs to one running call: another process gets one that limits nothing and was not cancelled."""
    scope = Scope(timeout)
    scope.on_cancel(threading.Event().set)
    scope.cancel()
    again = pickle.loads(pickle.dumps(scope))
    assert again.remaining() == inf
    assert not again.cancelled
