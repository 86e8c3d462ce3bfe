"""A batch in the executor of somebody else, and a batch that a person ends with Ctrl-C."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pointsman import BackendError, Completion, ConfigError, InvalidRequestError, Router
from pointsman.testing import Scripted

ECHO = {"BACKENDS": [{"id": "echo", "type": "echo", "suffix": "!"}]}
KEY = "sk-of-the-executor-0123456789abcdef"


def texts(results: Any) -> list[str | None]:
    """The text of each answer; None for an error."""
    return [getattr(result, "text", None) for result in results]


def processes(workers: int = 2) -> ProcessPoolExecutor:
    """Processes that begin with nothing of ours, as on another machine."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


class Inline(Executor):
    """Runs everything at once, in the thread that asks."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


@pytest.mark.parametrize("make", [Inline, lambda: ThreadPoolExecutor(2)], ids=["inline", "threads"])
def test_any_executor_of_this_process_runs_any_router(make: Any, tmp_path: Path) -> None:
    """Nothing is pickled: the router may be made of objects. The executor is left open."""
    with Router([Scripted(lambda request: request.prompt)]) as router, make() as executor:
        for _ in range(2):
            results = router.batch(list("abc"), executor=executor, journal=tmp_path / "j.db")
            assert texts(results) == list("abc")
        assert executor.submit(len, "ab").result(30) == 2


def test_no_more_than_max_workers_are_handed_to_an_executor() -> None:
    """Its own threads may be many; `max_workers` holds."""
    handed: list[Future[Any]] = []
    most = 0

    class Counting(ThreadPoolExecutor):
        def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            nonlocal most
            future = super().submit(work, *args, **kwargs)
            handed.append(future)
            most = max(most, sum(not one.done() for one in handed))
            return future

    with Router([Scripted("x")]) as router, Counting(16) as executor:
        router.batch(["p"] * 60, 3, executor=executor)
    assert len(handed) == 60
    assert most <= 3


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "mapping"])
def test_processes_make_the_router_anew(tmp_path: Path, as_file: bool) -> None:
    """A router made by `from_config` is made again there; the errors come back as they are."""
    file = tmp_path / "pointsman.json"
    file.write_text(json.dumps(ECHO))
    items: list[Any] = ["a", {"prompt": "b", "max_tokens": 3}, {"prompt": "c", "top_k": -1}]
    with Router.from_config(file if as_file else ECHO) as router, processes() as executor:
        first, second, bad = router.batch(items, executor=executor, journal=tmp_path / "j.db")
        assert texts([first, second]) == ["a!", "b!"]
        assert isinstance(bad, InvalidRequestError)
        assert router.batch(items, journal=tmp_path / "j.db")[:2] == [first, second]


def test_a_router_of_objects_is_refused_by_processes() -> None:
    """One error for the call, which says what to do."""
    refused = pytest.raises(ConfigError, match=r"the objects this router is made of; use Router\.from_config")
    with Router([Scripted("x")]) as router, processes(1) as executor, refused:
        router.batch(["a"] * 5, executor=executor)


def test_a_key_is_sent_to_no_other_process() -> None:
    """A literal key is refused, and shown in nothing that is raised; a variable is read where the work is."""
    settings: dict[str, Any] = {"BACKENDS": [{"id": "main", "type": "openai", "model": "m", "api_key": KEY}]}
    refused = pytest.raises(ConfigError, match=r"holds a key.*write \$\{NAME\}")
    with Router.from_config(settings) as router, processes(1) as executor, refused as caught:
        router.batch(["a"], executor=executor)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY not in shown.replace(repr(settings), "")


def test_a_variable_is_read_where_the_work_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration travels as it was written."""
    monkeypatch.setenv("SUFFIX_OF_THE_TEST", "?")
    settings = {"BACKENDS": [{"id": "echo", "type": "echo", "suffix": "${SUFFIX_OF_THE_TEST}"}]}
    with Router.from_config(settings) as router, processes(1) as executor:
        assert texts(router.batch(["a"], executor=executor)) == ["a?"]


def test_an_item_that_cannot_travel_is_its_own_error() -> None:
    """The others are answered."""
    with Router.from_config(ECHO) as router, processes(1) as executor:
        good, bad, last = router.batch(["a", {"prompt": "b", "extra": {"f": lambda: 0}}, "c"], executor=executor)
    assert texts([good, last]) == ["a!", "c!"]
    assert isinstance(bad, BackendError)
    assert "the executor failed with" in str(bad)


DYING = """
import os
from attrs import frozen
from pointsman import Completion, Request, hookimpl
@frozen
class Dying:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        if request.prompt == "die":
            os._exit(1)
        return Completion(request.prompt)
"""


def test_a_pool_that_broke_ends_the_batch(tmp_path: Path, install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies ends the call with the pool's own error; what was answered is in the journal."""
    site = install("pointsman-dying", {"dying": "Dying"}, code=DYING)
    monkeypatch.setenv("PYTHONPATH", str(site))
    journal = tmp_path / "j.db"
    with Router.from_config({"BACKENDS": [{"id": "d", "type": "dying"}]}) as router:
        with processes(1) as executor, pytest.raises(BrokenExecutor):
            router.batch(["a", "b", "die", "c"], 1, executor=executor, journal=journal)
        told: list[Any] = []
        router.batch(["a", "b", "x", "c"], journal=journal, on_result=lambda *result: told.append(result))
    with closing(sqlite3.connect(journal)) as db:
        assert db.execute("SELECT count(*) FROM items WHERE answered").fetchone() == (4,)
    assert [position for position, _ in told][:2] == [0, 1]


# -- Ctrl-C -------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading
from attrs import frozen
from pointsman import Completion, Request, Router, UnavailableError, hookimpl
import pointsman._batch

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it, and so would we
pointsman._batch._GRACE = float(sys.argv[3])

@frozen
class Provider:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        if request.prompt != "wait":
            return Completion(request.prompt)
        woken = threading.Event()
        def cancelled():
            os.write(1, b"cancelled\\n")
            if sys.argv[2] == "obeys":
                woken.set()
        request.scope.on_cancel(cancelled)
        os.write(1, b"waiting\\n")  # whole, beside other threads
        woken.wait()
        raise UnavailableError("cancelled")

def prompts():
    yield from "abcdef"
    while True:
        yield "wait"

try:
    with Router([Provider()]) as router:
        router.batch(prompts(), max_workers=2, journal=sys.argv[1], timeout=None)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    if sys.argv[2] != "obeys":
        os._exit(0)
"""


def interrupted(journal: Path, how: str, grace: float, times: int) -> list[str]:
    """Run the program, send so many SIGINT, each when the program is where it should be; return what it printed."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(journal), how, str(grace)], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(60, program.kill)
    watchdog.start()
    with program:
        assert program.stdout is not None
        lines = [program.stdout.readline().strip() for _ in range(2)]
        assert lines == ["waiting"] * 2
        program.send_signal(signal.SIGINT)
        if times == 2:
            lines += [program.stdout.readline().strip() for _ in range(2)]
            program.send_signal(signal.SIGINT)
        lines += program.stdout.read().split()
        assert program.wait(60) == 0
    watchdog.cancel()
    watchdog.join()
    return lines


def test_ctrl_c_ends_a_batch_in_order(tmp_path: Path) -> None:
    """Running calls are cancelled, nothing more is asked, the journal is whole and free, KeyboardInterrupt follows."""
    journal = tmp_path / "j.db"
    assert interrupted(journal, "obeys", 5, 1) == ["waiting"] * 2 + ["cancelled"] * 2 + ["interrupted"]
    assert not journal.with_name("j.db-wal").exists()
    with Router([Scripted("?")]) as router:
        assert texts(router.batch(list("abcdefg"), journal=journal)) == [*"abcdef", "?"]


def test_ctrl_c_does_not_wait_for_what_does_not_obey(tmp_path: Path) -> None:
    """After the time of grace, here a moment, the batch is over."""
    assert interrupted(tmp_path / "j.db", "hangs", 0.1, 1)[-1] == "interrupted"


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """Whatever the time of grace, here ten minutes; what was answered is in the journal."""
    journal = tmp_path / "j.db"
    assert interrupted(journal, "hangs", 600, 2)[-1] == "interrupted"
    with closing(sqlite3.connect(journal)) as db:
        assert db.execute("SELECT count(*) FROM items").fetchone() == (6,)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_completion_that_was_being_written_is_kept(tmp_path: Path, interruptible: None) -> None:
    """An answer that comes although its call was cancelled has been paid for: it is in the journal."""
    journal = tmp_path / "j.db"

    def answer(request: Any) -> str:
        if provider.calls == 1:
            cancelled = threading.Event()
            request.scope.on_cancel(cancelled.set)
            cancelled.wait(0.5)  # until the thread of the caller waits for answers
            os.kill(os.getpid(), signal.SIGINT)
            assert cancelled.wait(30)
        return str(request.prompt)

    provider = Scripted(answer)
    with Router([provider]) as router:
        with pytest.raises(KeyboardInterrupt):
            router.batch(["late"], journal=journal)
        (result,) = router.batch(["late"], journal=journal)
    assert isinstance(result, Completion)
    assert provider.calls == 1
