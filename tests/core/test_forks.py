"""What threads share, across a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest
from pointsman.forks import Lock, Shared

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # it is what is tested here
]


class Noted(Shared):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.asked, self.paused = threading.Event(), 0
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self.lock = threading.RLock()

    def locks(self) -> Sequence[Lock]:
        self.asked.set()
        return (self.lock,)

    def before_fork(self) -> None:
        self.paused += 1


def test_who_holds_what_a_fork_waits_for_may_begin_more() -> None:
    """The fork waits for the thread, and not the thread for the fork; what it began is paused as well."""
    first, held, more = Noted(), threading.Event(), list[Noted]()

    def work() -> None:
        with first.lock:
            held.set()
            assert first.asked.wait(20)
            more.append(Noted())

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(20)
    if not (child := os.fork()):
        os._exit([one.paused for one in (first, *more)] != [1, 1])
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    with first.lock, more[0].lock:  # and both go on
        pass
