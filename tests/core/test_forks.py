"""What threads share, across a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from time import monotonic

import pytest
from pointsman.forks import PAUSE_S, Lock, Shared

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # it is what is tested here
]


class Noted(Shared):
    """Notes what it is told."""

    def __init__(self, level: int = 0) -> None:
        self.asked, self.paused, self.level = threading.Event(), 0, level
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
        os._exit(not more or not all(one.paused for one in (first, *more)))
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    with first.lock, more[0].lock:  # and both go on
        pass


#: A thread writes the first line of the log, whose import takes a while; the process forks meanwhile, and so on.
_IMPORTING = """
import os, sys, threading, time
from importlib.abc import MetaPathFinder
from pointsman import _log

begun = threading.Event()

class Slow(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "structlog.processors":
            begun.set()
            time.sleep(0.5)

sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=_log.warning, args=("of the parent",))
thread.start()
assert begun.wait(20)
child = os.fork()
_log.warning("of both")
if not child:
    os._exit(0)
thread.join()
ends = time.monotonic() + 20
while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < ends:
    time.sleep(0.01)
if not ended[0]:
    os.kill(child, 9)
    os.waitpid(child, 0)
sys.exit(ended != (child, 0))
"""


def test_a_child_writes_to_the_log_though_the_parent_was_importing_what_that_needs() -> None:
    """Python leaves the lock of an import that another thread was at locked in the child, which waited for ever."""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", _IMPORTING], timeout=60, check=False).returncode == 0


#: Who is loaded first is asked last before a fork. A thread holds what that waits for, and asks those for theirs.
_FIRST = """
import os, sys, threading, time
from pointsman.forks import PAUSE_S, Shared
import logging
from concurrent.futures import ThreadPoolExecutor

held, asked = threading.RLock(), threading.Event()

class Waited(Shared):
    def locks(self):
        asked.set()
        return (held,)

waited, began, pool = Waited(), threading.Event(), ThreadPoolExecutor(1)

def work():
    with held:
        began.set()
        assert asked.wait(20)
        logging.getLogger("of another").isEnabledFor(logging.INFO)
        pool.submit(int).result()

thread = threading.Thread(target=work)
thread.start()
assert began.wait(20)
before = time.monotonic()
if not (child := os.fork()):
    os._exit(0)
took = time.monotonic() - before
thread.join()
os.waitpid(child, 0)
sys.exit(took > PAUSE_S - 1)
"""


def test_a_fork_holds_no_lock_of_python_while_it_waits_for_ours() -> None:
    """Python takes those of its log and its executors before a fork: who has ours and waits for them held the fork up.

    It came without ours, then, and the child found the index of evidence locked for as long as it lived.
    """
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", _FIRST], timeout=60, check=False).returncode == 0


def test_what_is_begun_meanwhile_is_paused_in_its_order() -> None:
    """Who holds what is new waits for what is of a higher level: the fork lets that go, and begins anew."""
    higher, highest, held, more = Noted(1), Noted(2), threading.Event(), list[Noted]()

    def work() -> None:
        with highest.lock:
            held.set()
            assert highest.asked.wait(20)  # the fork has taken `higher`
            more.append(Noted(0))
            more[0].lock.acquire()
        with higher.lock:
            more[0].lock.release()

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(20)
    before = monotonic()
    if not (child := os.fork()):
        os._exit(not more or not all(one.paused for one in (higher, highest, *more)))
    assert monotonic() - before < PAUSE_S
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


#: The import of what the log needs comes to something that writes to the log: a finalizer, a handler of a signal.
_WRITING = """
import sys
from importlib.abc import MetaPathFinder
from pointsman import _log

class Writing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("structlog"):
            sys.meta_path.remove(self)
            _log.warning("within")

sys.meta_path.insert(0, Writing())
_log.warning("of the program")
"""


def test_what_runs_within_that_import_may_write_to_the_log() -> None:
    """A thread does not wait for itself."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", _WRITING], timeout=60, check=True, capture_output=True)
    assert run.stderr == b""


#: A thread is in a call of a router, and another one has been; the process forks.
_ROUTER = """
import asyncio, os, sys, threading
from attrs import frozen
from pointsman import Backend, Completion, Router, UnavailableError, hookimpl
from pointsman.testing import Clock

begun, asked, parent = threading.Event(), threading.Event(), os.getpid()

@frozen
class Provider:
    answer: str = "answer"

    @hookimpl
    def generate(self, request):
        if request.prompt == "fail" and self.answer == "answer":
            raise UnavailableError("away", retry_after=5)
        if request.prompt == "wait" and os.getpid() == parent:
            begun.set()
            asked.wait(20)
        return Completion(text=self.answer)

clock = Clock()
backends = [Backend(Provider(), id="one", {OPTIONS}), Backend(Provider("of another"), id="two")]
router = Router(backends, max_retries=0, clock=clock)
{BEFORE}
thread = threading.Thread(target=router.generate, args=("wait",))
thread.start()
assert begun.wait(20)
if not (child := os.fork()):
    try:
        assert {CALL} == "answer"
        os._exit(0)
    finally:
        os._exit(1)
ended = os.waitpid(child, 0)
asked.set()
thread.join()
sys.exit(ended != (child, 0))
"""
_FAILED = 'router.generate("fail"); clock.advance(6)'
_PLAIN = 'router.generate("in the child", timeout=2).text'
_IN_THREAD = """asyncio.run(asyncio.wait_for(router.agenerate("in the child"), 5)).text"""


@pytest.mark.parametrize(
    ("options", "before", "call"),
    [
        ("max_concurrency=1", "", _PLAIN),
        ("", _FAILED, _PLAIN),
        ("", 'asyncio.run(router.agenerate("before"))', _IN_THREAD),
    ],
    ids=["all that may run at once", "the try of one that was away", "threads of async calls"],
)
def test_a_child_waits_for_no_call_and_no_thread_of_its_parent(options: str, before: str, call: str) -> None:
    """A router that is used on both sides of a fork serves both: what its parent has under way ends in the parent."""
    code = _ROUTER.replace("{OPTIONS}", options).replace("{BEFORE}", before).replace("{CALL}", call)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=False, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
