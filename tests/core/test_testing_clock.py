"""The clock that is advanced by hand."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from math import inf
from time import sleep

import pytest
from pointsman.scope import Scope
from pointsman.testing import Clock


def test_an_advance_is_seen_at_once() -> None:
    """The time goes on by itself, and by what it is put forward."""
    clock = Clock()
    before = clock.now()
    clock.advance(3600)
    assert clock.now() - before >= 3600
    assert clock.waits == ()


@pytest.mark.parametrize("seconds", [-1, -0.001])
def test_it_never_goes_back(seconds: float) -> None:
    """A negative advance is a mistake that is told."""
    with pytest.raises(ValueError, match=r"Clock\.advance"):
        Clock().advance(seconds)


def test_a_wait_takes_no_time() -> None:
    """The clock and the limits of the waiting call have gone on by so much; the call goes on."""
    clock, scope = Clock(), Scope(1000.0)
    scope.begin(first_byte_timeout=900.0)
    before, first_byte_by = clock.now(), scope.first_byte_by
    assert clock.wait(scope, 400.0)
    assert clock.now() - before >= 400
    assert 500 < scope.left() <= 600
    assert scope.first_byte_by == pytest.approx(first_byte_by - 400)
    assert clock.waits == (400.0,)


def test_a_wait_beyond_the_limit_ends_the_call() -> None:
    """Who waits longer than it has time may not go on."""
    clock, scope = Clock(), Scope(10.0)
    assert not clock.wait(scope, 11.0)
    assert scope.expired
    assert scope.remaining() == 0


def test_without_a_limit_any_wait_fits() -> None:
    """A call that may take for ever can wait for a year."""
    scope = Scope()
    assert Clock().wait(scope, 366 * 86400.0)
    assert scope.left() == inf


def test_nobody_waits_for_a_cancelled_call() -> None:
    """The clock stands still for one that has been cancelled."""
    clock, scope = Clock(), Scope(10.0)
    scope.cancel()
    assert not clock.wait(scope, 5.0)
    assert clock.waits == ()
    assert scope.left() > 9


def test_threads_share_it() -> None:
    """No wait and no advance is lost, and nobody sees the time go back."""
    clock = Clock()
    before, backwards = clock.now(), []

    def use() -> None:
        last = clock.now()
        for _ in range(200):
            clock.wait(Scope(), 1.0)
            clock.advance(1.0)
            now = clock.now()
            backwards.append(now < last)
            last = now

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() - before >= 8 * 400
    assert len(clock.waits) == 8 * 200
    assert not any(backwards)


class TestHeld:
    """A clock that does not jump: waits last until the test advances it."""

    def begin(self, clock: Clock, scope: Scope, woken: threading.Event | None = None) -> "Future[bool]":
        """Wait a minute in another thread, and return when it has begun."""
        threads = ThreadPoolExecutor(1)
        before = len(clock.waits)
        waiting = threads.submit(clock.wait, scope, 60.0, woken)
        while len(clock.waits) == before:
            sleep(0.001)
        threads.shutdown(wait=False)
        return waiting

    def test_until_it_is_advanced(self) -> None:
        """Half the time is not enough, and the call has less left afterwards."""
        clock, scope = Clock(jumps=False), Scope(100.0)
        waiting = self.begin(clock, scope)
        clock.advance(30)
        assert not wait([waiting], timeout=0.05).done
        clock.advance(31)
        assert waiting.result(10)
        assert 30 < scope.left() < 41

    def test_a_cancel_ends_it(self) -> None:
        """Nobody waits for a call that has been cancelled."""
        clock, scope = Clock(jumps=False), Scope()
        waiting = self.begin(clock, scope)
        scope.cancel()
        assert not waiting.result(10)

    def test_it_can_be_woken(self) -> None:
        """Whoever waits for something else too can be told that it has come."""
        clock, scope, woken = Clock(jumps=False), Scope(100.0), threading.Event()
        waiting = self.begin(clock, scope, woken)
        woken.set()
        assert not waiting.result(10)
        assert scope.left() > 80

    def test_many_wait_side_by_side(self) -> None:
        """One advance ends all of them: their waits do not add up."""
        clock = Clock(jumps=False)
        waiting = [self.begin(clock, Scope()) for _ in range(4)]
        before = clock.now()
        clock.advance(60)
        assert all(one.result(10) for one in waiting)
        assert clock.now() - before < 90
