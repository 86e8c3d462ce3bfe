"""The journal of a batch: what it keeps, what is asked again, and what it refuses."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pointsman import (
    AllBackendsFailed,
    Attempt,
    AuthenticationError,
    BackendError,
    BackendTimeout,
    Completion,
    ConfigError,
    ContextLengthError,
    Image,
    IncompleteAnswer,
    InvalidRequestError,
    Message,
    RateLimitError,
    Request,
    Router,
    Secret,
    State,
    ToolCall,
    UnavailableError,
    Usage,
)
from pointsman._journal import Journal, decoded, digest, encoded
from pointsman.testing import Scripted

pytestmark = pytest.mark.usefixtures("no_leaks")

KEY = "sk-of-the-journal-0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "run.db"


def echo(request: Request) -> str:
    """Answer with the prompt."""
    return request.prompt


def texts(results: Any) -> list[str | None]:
    """The text of each answer; None for an error."""
    return [getattr(result, "text", None) for result in results]


# -- resuming -----------------------------------------------------------------------------------------


def test_the_same_call_again_asks_nothing(path: Path) -> None:
    """The results are equal to those of the first call, and are reported again."""
    provider = Scripted(echo)
    told: dict[int, Completion | BackendError] = {}
    with Router([provider]) as router:
        first = router.batch(["a", "b"], journal=path)
        again = router.batch(["a", "b"], journal=str(path), on_result=told.__setitem__)
    assert provider.calls == 2
    assert first == again == [told[0], told[1]]


def test_only_what_is_not_there_is_asked(path: Path) -> None:
    """A generator that broke, and more prompts than before: the rest is asked, each once."""
    provider = Scripted(echo)

    def broken() -> Any:
        yield from "abc"
        raise LookupError("power cut")

    with Router([provider]) as router:
        with pytest.raises(LookupError):
            router.batch(broken(), journal=path)
        results = router.batch(list("abcde"), journal=path)
    assert texts(results) == list("abcde")
    assert sorted(request.prompt for request in provider.requests) == list("abcde")


def test_what_failed_is_asked_again_only_if_told(path: Path) -> None:
    """Without `retry_failed` the error comes back as it was; with it, the item is asked, and its answer stays."""
    provider = Scripted([RateLimitError("too many", status=429, retry_after=77.0), "now"])
    with Router([provider], max_retries=0) as router:
        (failed,) = router.batch(["a"], journal=path)
        (same,) = router.batch(["a"], journal=path)
        assert isinstance(same, RateLimitError)
        assert (str(same), vars(same)) == (str(failed), vars(failed))
        assert (same.status, same.retry_after, same.attempts[0].error) == (429, 77.0, "RateLimitError")
        assert provider.calls == 1
    with Router([provider]) as router:
        assert texts(router.batch(["a"], journal=path, retry_failed=True)) == ["now"]
        assert texts(router.batch(["a"], journal=path)) == ["now"]
        assert texts(router.batch(["a"], journal=path, retry_failed=True)) == ["now"]
    assert provider.calls == 2


def test_the_journal_of_another_batch_is_refused(path: Path) -> None:
    """Another prompt, or another option, where an answer stands: an error that says so, and nothing is overwritten."""
    with Router([Scripted(echo)]) as router:
        first = router.batch(["a", "b"], journal=path)
        with pytest.raises(ConfigError, match=r"prompts\[1\]: found the answer to another prompt"):
            router.batch(["a", "x"], journal=path)
        with pytest.raises(ConfigError, match="another prompt or other options"):
            router.batch(["a", "b"], journal=path, max_tokens=7)
        assert router.batch(["a", "b"], journal=path, max_retries=3, timeout=77) == first


def test_a_prompt_that_failed_may_be_mended(path: Path) -> None:
    """What was wrong, or failed, may be replaced by another prompt: it is asked at once."""

    def answer(request: Request) -> str:
        if request.prompt == "bad":
            raise InvalidRequestError("no")
        return request.prompt

    items: list[Any] = ["a", {"prompt": "b", "top_k": -1}, "bad"]
    with Router([Scripted(answer)]) as router:
        assert texts(router.batch(items, journal=path)) == ["a", None, None]
        assert texts(router.batch(["a", "b", "good"], journal=path)) == ["a", "b", "good"]


def test_what_was_cancelled_is_not_recorded(path: Path) -> None:
    """A batch that was ended asks again what it had not finished."""
    busy, asked = threading.Event(), []

    def answer(request: Request) -> str:
        asked.append(request.prompt)
        if request.prompt == "slow" and asked.count("slow") == 1:
            busy.set()
            woken = threading.Event()
            request.scope.on_cancel(woken.set)
            assert woken.wait(30)
            raise UnavailableError("cancelled")
        return request.prompt

    def leave(position: int, result: Completion | BackendError) -> None:
        assert busy.wait(30)
        raise LookupError

    with Router([Scripted(answer)]) as router:
        with pytest.raises(LookupError):
            router.batch(["slow", "quick"], journal=path, max_workers=2, on_result=leave)
        assert texts(router.batch(["slow", "quick"], journal=path)) == ["slow", "quick"]
    assert sorted(asked) == ["quick", "slow", "slow"]


def test_results_are_durable_before_they_are_reported(path: Path) -> None:
    """When `on_result` is called, another process that copies the files finds the result in them."""
    found = []

    def look(position: int, result: Completion | BackendError) -> None:
        copy = path.with_name(f"copy{position}.db")
        copy.write_bytes(path.read_bytes())
        copy.with_name(copy.name + "-wal").write_bytes(path.with_name(path.name + "-wal").read_bytes())
        with closing(sqlite3.connect(copy)) as db:
            found.append(db.execute("SELECT count(*) FROM items WHERE position=?", (position,)).fetchone()[0])

    with Router([Scripted(echo)]) as router:
        router.batch(list("abcdef"), journal=path, on_result=look)
    assert found == [1] * 6


def test_commits_are_written_through(path: Path) -> None:
    """WAL, and a sync for each commit: a power cut takes back nothing that was reported."""
    journal = Journal(path)
    try:
        modes = [journal._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert modes == ["wal", 2]
    finally:
        journal.close()


# -- who may use it -----------------------------------------------------------------------------------

HOLDER = """
import sys
from pointsman._journal import Journal
journal = Journal(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    """The lock is told clearly, and dies with its owner, however that ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder, Router([Scripted(echo)]) as router:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match=r"run\.db: database is locked; another batch is using it"):
                router.batch(["a"], journal=path)
        finally:
            holder.kill()
            holder.wait()
        assert texts(router.batch(["a"], journal=path)) == ["a"]


def test_a_second_batch_of_this_process_is_refused(path: Path) -> None:
    """As another process is."""
    journal = Journal(path)
    try:
        with Router([Scripted(echo)]) as router, pytest.raises(ConfigError, match="another batch is using it"):
            router.batch(["a"], journal=path)
    finally:
        journal.close()


def foreign(path: Path) -> None:
    """A database of somebody else's."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE precious(x)")


def damaged(path: Path) -> None:
    """A journal whose pages were overwritten."""
    journal = Journal(path)
    for n in range(100):
        journal.record(n, digest(Request((Message("user", str(n)),))), Completion("x" * 400))
    journal.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + os.urandom(len(data) - 4096))


def of_the_future(path: Path) -> None:
    """A journal of another version."""
    Journal(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA user_version=99")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_text("no database " * 100), "file is not a database; name another file"),
        (foreign, "no journal of a batch; name another file"),
        (of_the_future, "of another version of pointsman"),
        (damaged, "it is damaged"),
        (lambda path: path.mkdir(), "unable to open"),
    ],
)
def test_a_file_that_is_none_is_refused_and_left_alone(path: Path, make: Callable[[Path], object], says: str) -> None:
    """The error says what the file is and what to do; nothing in it is changed."""
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    provider = Scripted(echo)
    with Router([provider]) as router, pytest.raises(ConfigError, match=says) as caught:
        router.batch([str(n) for n in range(100)], journal=path)
    assert str(path) in str(caught.value)
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    """As it is left by a process that was killed at its first step, or made by `mktemp`."""
    path.touch()
    with Router([Scripted(echo)]) as router:
        router.batch(["a"], journal=path)
        assert texts(router.batch(["a"], journal=path)) == ["a"]


def test_a_disk_that_is_full_ends_the_batch(path: Path) -> None:
    """What was reported before is in the journal; the error says that it cannot be written."""
    told: list[int] = []
    provider = Scripted("x" * 5000)
    with Router([provider]) as router:
        router.batch(["0"], journal=path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON items WHEN NEW.position > 3 "
                "BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
            )
        with pytest.raises(ConfigError, match=r"run\.db: database or disk is full"):
            router.batch([str(n) for n in range(100)], journal=path, on_result=lambda n, _: told.append(n))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        kept = {row[0] for row in db.execute("SELECT position FROM items")}
    assert set(told) <= kept
    assert provider.calls < 100


# -- what it keeps ------------------------------------------------------------------------------------

RESULTS = [
    Completion("text \u2028 \ud800 \0", "length", usage=Usage(1, 2, 3, 4), cost=0.0, warnings=("w",), thinking="r"),
    Completion(state=State("v", {"is": [1, {"is": "Usage"}], "n": None})),
    Completion("", "tool_calls", (ToolCall("1", "f", '{"is": 1}'), ToolCall("2", "g"))),
    Completion(attempts=(Attempt("b", None, "failed", "X", "y", 1.5, Usage(1, 1), 0.5), Attempt("c", "m", "answered"))),
]


@pytest.mark.parametrize("result", RESULTS)
def test_a_completion_comes_back_equal(result: Completion) -> None:
    """Text of any kind, tool calls, usage, cost, attempts, warnings."""
    assert decoded(encoded(result)) == result


class OfAPlugin(AuthenticationError):
    """An error class that only its plugin knows."""


def with_facts(error: BackendError, **facts: Any) -> BackendError:
    """The error, as the router leaves it."""
    vars(error).update({"backend": "b", "model": "m", "attempts": (Attempt("b", "m", "failed"),), **facts})
    return error


@pytest.mark.parametrize(
    "error",
    [
        with_facts(BackendTimeout("late", code="c", parameter="p")),
        with_facts(ContextLengthError("long"), limit=3, needed=4),
        with_facts(IncompleteAnswer("cut"), text="half", usage=Usage(1, 2)),
        with_facts(RateLimitError("m", retry_after=1.5, retry_same=False, try_next=False, status=429)),
    ],
)
def test_an_error_comes_back_as_it_was(error: BackendError) -> None:
    """Its class, its text and its facts."""
    again = decoded(encoded(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_group_comes_back_with_its_errors() -> None:
    """All that failed, in order; a class that only a plugin knows comes back as the one of ours that it is."""
    group = AllBackendsFailed("all", [with_facts(OfAPlugin("key")), RateLimitError("m")], retry_after=3.0)
    again = decoded(encoded(group))
    assert isinstance(again, AllBackendsFailed)
    assert (again.message, again.retry_after) == ("all", 3.0)
    assert [type(one) for one in again.exceptions] == [AuthenticationError, RateLimitError]
    assert str(again.exceptions[0]) == "b: key"


def test_neither_keys_nor_prompts_are_stored(path: Path) -> None:
    """Not even where a provider puts the key into its error, or the prompt holds one."""
    secret = Secret(KEY)
    provider = Scripted([AuthenticationError(f"wrong key {KEY}"), UnavailableError(f"sent {KEY}"), "fine"])
    with Router([provider], max_retries=0) as router:
        router.batch(["private words", f"my key is {KEY}", "c"], journal=path, max_workers=1)
    data = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.reveal().encode() not in data
    assert b"private words" not in data


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({}, {"timeout": 3.0, "max_retries": 2, "local_only": True, "on_limit": "wait"}, True),
        ({}, {"system": "x"}, False),
        ({}, {"model": "x"}, False),
        ({}, {"backend": "x"}, False),
        ({}, {"temperature": 0.0}, False),
        ({"schema": {"a": 1, "b": 2}}, {"schema": {"b": 2, "a": 1}}, True),
        ({"extra": {"a": object}}, {"extra": {"a": object}}, True),
        ({"messages": (Message("user", (Image(b"1"),)),)}, {"messages": (Message("user", (Image(b"2"),)),)}, False),
    ],
)
def test_a_digest_is_that_of_what_is_asked(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """How long it may take, and by which way, is not what is asked."""
    made = [Request(**{"messages": (Message("user", "p"),), **facts}) for facts in (one, other)]
    assert (digest(made[0]) == digest(made[1])) is same
