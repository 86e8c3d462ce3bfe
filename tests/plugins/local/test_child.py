"""The child process: it may die, hang or be killed; the caller gets a typed error, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import pytest
from pointsman import (
    BackendError,
    BackendTimeout,
    InvalidModelError,
    ModelNotFoundError,
    Request,
    Scope,
    UnavailableError,
)
from pointsman_local import Local

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

Make = Callable[..., Local]
Ask = Callable[..., Request]

#: Recurses, or loops, only when asked to: a load asks it other things.
RECURSES = "{% macro f() %}{{ f() }}{% endmacro %}{% if messages[-1]['content'] == 'die' %}{{ f() }}{% endif %}x"
LOOPS = (
    "{% if messages[-1]['content'] == 'hang' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}{% endif %}x"
)


def children(parent: int | None = None) -> set[int]:
    """Return the children of a process: ours if none is named."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == (parent or os.getpid()) and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def gone(pid: int, within: float = 10.0) -> bool:
    """Wait until a process has ended."""
    end = monotonic() + within
    while monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z":
                return True
        except OSError:
            return True
        sleep(0.02)
    return False


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory where temporary files go; its path is short enough for a socket's, wherever the tests run."""
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


@pytest.fixture
def child_of() -> Callable[[Local, Request], int]:
    """A function that asks once and returns the id of the process that answered."""

    def find(local: Local, request: Request) -> int:
        before = children()
        local.generate(request)
        (pid,) = children() - before
        return pid

    return find


def test_nothing_starts_before_the_first_call(local: Make) -> None:
    """Building a provider, its health and its properties start no process and no thread."""
    processes, threads = children(), threading.active_count()
    idle = local()
    assert idle.health().status == "healthy"
    assert "schema" in idle.capabilities
    assert idle.context_window == 512
    assert (children(), threading.active_count()) == (processes, threads)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_killed_in_mid_answer(endless: Make, child_of: Callable[..., int], request_for: Ask, number: int) -> None:
    """A child that dies while it answers is an UnavailableError that names the signal; the next call works.

    Where others killed it, what the engine said before is no reason.
    """
    mortal = endless()
    pid = child_of(mortal, request_for(max_tokens=1))
    stream = mortal.stream(request_for())
    next(stream)
    os.kill(pid, number)
    with pytest.raises(UnavailableError, match=signal.Signals(number).name) as caught:
        list(stream)
    assert str(caught.value).endswith("too little memory?") == (number != signal.SIGSEGV)
    assert caught.value.retry_same
    assert caught.value.try_next
    assert child_of(mortal, request_for(max_tokens=1)) != pid
    assert gone(pid)


class Noted(Scope):
    """A scope that says when somebody listens to it: the request is on its way then."""

    def __init__(self, heard: threading.Semaphore) -> None:
        super().__init__(60)
        self.heard = heard

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.heard.release()
        return super().on_cancel(callback)


def test_death_reaches_everyone(endless: Make, child_of: Callable[..., int], request_for: Ask) -> None:
    """All requests in flight, those that wait for a slot too, end with the error; then all work again."""
    mortal, under_way = endless(n_parallel=2), threading.Semaphore(0)
    pid = child_of(mortal, request_for(max_tokens=1))
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(mortal.generate, request_for(scope=Noted(under_way))) for _ in range(8)]
        assert all(under_way.acquire(timeout=20) for _ in answers)
        sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        errors = [answer.exception(30) for answer in answers]
        assert all(isinstance(error, UnavailableError) for error in errors)
        assert len({id(error) for error in errors}) == 8
        for answer in [pool.submit(mortal.generate, request_for(max_tokens=2)) for _ in range(8)]:
            assert answer.result(30).usage


def test_engine_that_dies_of_a_request(local: Make, model_file: Callable[..., Path], request_for: Ask) -> None:
    """A request that kills the engine costs a typed error, and not the provider."""
    mortal = local(model_file(template=RECURSES))
    assert mortal.generate(request_for(max_tokens=1)).usage
    with pytest.raises(BackendError):
        mortal.generate(request_for("die"))
    assert mortal.generate(request_for(max_tokens=1)).usage


def test_hung_engine_is_ended(local: Make, child_of: Callable[..., int], request_for: Ask) -> None:
    """A child that gives no sign of life for hang_timeout while it should work is killed, and the next call works."""
    frozen = local(n_ctx=4096, hang_timeout=2.0)
    pid = child_of(frozen, request_for(max_tokens=1))
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(UnavailableError, match="hung"):
        frozen.generate(request_for(max_tokens=1))
    assert gone(pid)
    assert frozen.generate(request_for(max_tokens=1)).usage


def test_silence_within_an_answer(endless: Make, child_of: Callable[..., int], request_for: Ask) -> None:
    """A stream that falls silent for longer than its idle_timeout is a BackendTimeout; a caller who pauses is not."""
    slow = endless(n_parallel=1)
    pid = child_of(slow, request_for(max_tokens=1))
    patient = slow.stream(request_for(max_tokens=6, scope=Scope(60, idle_timeout=1.0)))
    next(patient)
    sleep(1.2)
    assert list(patient)[-1].finish_reason == "length"
    stream = slow.stream(request_for(scope=Scope(60, idle_timeout=1.0)))
    next(stream)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(BackendTimeout, match="for 1 s"):
        list(stream)
    os.kill(pid, signal.SIGCONT)
    assert slow.generate(request_for(max_tokens=1)).usage


def test_hung_engine_does_not_take_prompts(local: Make, child_of: Callable[..., int], request_for: Ask) -> None:
    """A prompt larger than the pipe, to a child that does not read, blocks no longer than the caller's time."""
    frozen = local(hang_timeout=60.0)
    pid = child_of(frozen, request_for(max_tokens=1))
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(BackendTimeout):
        frozen.generate(request_for("y", stop=("z" * 300_000,), scope=Scope(0.5)))
    assert gone(pid)
    assert frozen.generate(request_for(max_tokens=1)).usage


def test_request_that_hangs_the_engine(local: Make, model_file: Callable[..., Path], request_for: Ask) -> None:
    """Whoever asks for something endless gets a BackendTimeout in time; an engine that cannot stop it is replaced."""
    slow = local(model_file(template=LOOPS), hang_timeout=2.0, n_parallel=1)
    assert slow.generate(request_for(max_tokens=1)).usage
    started = monotonic()
    with pytest.raises(BackendTimeout):
        slow.generate(request_for("hang", scope=Scope(0.5)))
    assert monotonic() - started < 10
    sleep(2.1)
    assert slow.generate(request_for(max_tokens=1, scope=Scope(30))).usage


def test_limits_hold_while_loading(local: Make, model_file: Callable[..., Path], request_for: Ask) -> None:
    """A caller's limits hold while the model is loaded: the deadline, the first token's, and a cancel."""
    path = model_file(template="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    for limits in ({"timeout": 0.4}, {"first_byte_timeout": 0.4}):
        loading, scope = local(path), Scope(60)
        scope.begin(**limits)
        with pytest.raises(BackendTimeout, match="loaded"):
            loading.generate(request_for(scope=scope))
        loading.close()
    loading, scope = local(path), Scope()
    threading.Timer(0.3, scope.cancel).start()
    with pytest.raises(UnavailableError, match="cancelled") as caught:
        loading.generate(request_for(scope=scope))
    assert not caught.value.try_next


def test_load_timeout(local: Make, model_file: Callable[..., Path], request_for: Ask) -> None:
    """A model that does not load within load_timeout is an InvalidModelError, and its process is gone."""
    path = model_file(template="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    before = children()
    with pytest.raises(InvalidModelError, match="load_timeout"):
        local(path, load_timeout=1.0).generate(request_for())
    assert children() == before


def test_close_leaves_nothing(temporary: Path, endless: Make, request_for: Ask) -> None:
    """Close ends the process, in mid-answer too, and removes its directory; it may be called twice, and before use."""
    closed = endless()
    closed.close()
    before = children()
    stream = closed.stream(request_for())
    next(stream)
    assert len(children() - before) == 1
    assert not list(temporary.iterdir())
    closed.close()
    closed.close()
    assert children() == before
    with pytest.raises(UnavailableError, match="closed"):
        list(stream)
    assert closed.generate(request_for(max_tokens=1)).usage


def test_directory_is_private(temporary: Path, local: Make, model_file: Callable[..., Path], request_for: Ask) -> None:
    """While it loads, the engine's socket lies where only we can enter; a failed load removes it too."""
    path = model_file(template="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    loading = local(path, load_timeout=2.0)
    stream = loading.stream(request_for())

    def ask() -> None:
        with pytest.raises(InvalidModelError):
            next(stream)

    thread = threading.Thread(target=ask)
    thread.start()
    while not (found := list(temporary.iterdir())):
        assert thread.is_alive()
        sleep(0.01)
    assert found[0].stat().st_mode & 0o777 == 0o700
    thread.join()
    assert not list(temporary.iterdir())


def test_dropped_without_close(local: Make, model_file: Callable[..., Path], request_for: Ask) -> None:
    """A provider that is forgotten takes its process with it."""
    before = children()
    dropped = Local(model_path=str(model_file()), n_ctx=512, n_threads=1)
    assert dropped.generate(request_for(max_tokens=1)).usage
    (pid,) = children() - before
    del dropped
    assert gone(pid)


def test_sixteen_threads_start_one_child(local: Make, request_for: Ask) -> None:
    """However many ask first, one process is started, and it outlives the thread that asked first."""
    before = children()
    shared = local()
    with ThreadPoolExecutor(16) as pool:
        assert all(answer.usage for answer in pool.map(shared.generate, [request_for(max_tokens=2)] * 16))
        assert len(children() - before) == 1
    pids = children() - before
    sleep(0.2)
    assert shared.generate(request_for(max_tokens=1)).usage
    assert children() - before == pids


PARENT = """
import os, sys, threading, time
from pointsman import Message, Request, Scope
from pointsman_local import Local
local = Local(model_path=sys.argv[1], n_ctx=4096, n_threads=1)
def ask():
    try:
        for chunk in local.stream(Request((Message("user", "x"),), scope=Scope(60))): os.write(1, b"chunk\\n")
    except Exception as error: os.write(1, f"{error}\\n".encode())  # no print: Python aborts if one runs as it exits
thread = threading.Thread(target=ask, daemon=True)
thread.start()
sys.stdin.read()
if sys.argv[2] == "exit": sys.exit(0)
if sys.argv[2] == "_exit": os._exit(0)
"""


@pytest.mark.parametrize("how", ["kill", "exit", "_exit", "kill while it loads"])
def test_no_child_outlives_its_parent(model_file: Callable[..., Path], how: str) -> None:
    """However the parent ends (kill -9, exit, while the model is loaded), no child remains."""
    template = {"template": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"}
    path = model_file(**template) if "loads" in how else model_file()
    mode = how if how in ("exit", "_exit") else "wait"
    command = [sys.executable, "-c", PARENT, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        if "loads" not in how:
            assert parent.stdout.readline()
        while not (found := children(parent.pid)):
            assert parent.poll() is None
            sleep(0.01)
        (pid,) = found
        if "kill" in how:
            sleep(0.3)
            parent.kill()
        else:
            parent.stdin.close()
        assert parent.wait(30) in (0, -9)
        assert gone(pid)


FORK = """
import os, sys, threading
from pointsman import Message, Request, Scope
from pointsman_local import Local
local = Local(model_path=sys.argv[1], n_ctx=512, n_threads=1)
def ask():
    return local.generate(Request((Message("user", "x"),), max_tokens=4, seed=1, scope=Scope(30))).text
text = ask()
stream = local.stream(Request((Message("user", "x"),), scope=Scope(30)))
next(stream)
pid = os.fork()
if pid == 0:
    stream.close()
    same = ask() == text
    local.close()
    os._exit(0 if same else 1)
assert os.waitpid(pid, 0)[1] == 0
assert len(list(stream)) > 10
assert ask() == text
local.close()
"""


def test_fork(model_file: Callable[..., Path]) -> None:
    """A forked process gets a child of its own; the parent's goes on answering the parent."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(model_file())], timeout=60
    )
    assert done.returncode == 0


@pytest.mark.llama_cpp_python
@pytest.mark.parametrize("how", ["SIGILL", "broken"])
def test_second_engine_where_the_first_does_not_run(
    local: Make,
    model_file: Callable[..., Path],
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request_for: Ask,
) -> None:
    """With engine "auto", a processor that xllamacpp does not know, or a broken install, leads to llama-cpp-python."""
    before = children()
    if how == "broken":
        (tmp_path / "xllamacpp").mkdir()
        (tmp_path / "xllamacpp" / "__init__.py").write_text("raise ImportError('libgomp.so.1: not found')")
        monkeypatch.syspath_prepend(str(tmp_path))
        auto = local()
    else:  # hangs at load in xllamacpp, until the signal that an unknown instruction causes; only there
        auto = local(
            model_file(template="{% if messages[-1]['content'] != 'x' %}" + LOOPS[LOOPS.index("{% for") :] + "y")
        )

        def spoil() -> None:
            while not (found := children() - before):
                sleep(0.01)
            sleep(0.3)
            os.kill(found.pop(), signal.SIGILL)

        threading.Thread(target=spoil).start()
    assert auto.generate(request_for("x", max_tokens=2, scope=Scope(60))).usage
    only = local(engine="xllamacpp")
    if how == "broken":
        with pytest.raises(UnavailableError, match="libgomp"):
            only.generate(request_for())


def test_larger_than_memory(local: Make, tmp_path: Path, request_for: Ask) -> None:
    """A file larger than the memory is refused before anything is loaded."""
    huge = tmp_path / "huge.gguf"
    with huge.open("wb") as file:
        file.truncate(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + 1)
    before = children()
    with pytest.raises(InvalidModelError, match="memory"):
        local(huge).generate(request_for())
    assert local(huge).health().status == "unavailable"
    assert children() == before


def test_missing_file(local: Make, tmp_path: Path, request_for: Ask) -> None:
    """A path without a file is a ModelNotFoundError that says where, each time, and health says what to set."""
    missing = local(tmp_path / "missing.gguf")
    for _ in range(3):
        with pytest.raises(ModelNotFoundError, match=r"missing\.gguf") as caught:
            missing.generate(request_for())
        assert type(caught.value) is ModelNotFoundError
    assert missing.health().status == "unconfigured"
    assert missing.missing == missing.health().reason
    assert "model_path" in missing.health().reason


def test_keys_do_not_reach_the_child(
    local: Make, child_of: Callable[..., int], monkeypatch: pytest.MonkeyPatch, request_for: Ask
) -> None:
    """Environment variables that look like keys are not handed on."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-the-child")
    pid = child_of(local(), request_for(max_tokens=1))
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"sk-not-for-the-child" not in environment
    assert b"GGML_NO_BACKTRACE=1" in environment
