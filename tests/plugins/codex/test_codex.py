"""Codex as a generator of text: what it sends, what it must not do, and what follows when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from backends.codex import CodexBackend
from pointsman import (
    AuthenticationError,
    BackendError,
    BackendTimeout,
    Completion,
    ContextLengthError,
    Image,
    InvalidRequestError,
    Message,
    QuotaError,
    RateLimitError,
    Request,
    Router,
    Scope,
    ToolCall,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import FaultServer, faults
from pointsman_codex import Codex
from pointsman_stdio import Exchange

pytestmark = pytest.mark.programs

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
PIXEL = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")


def asking(prompt: str = "Hello", *earlier: Message, timeout: float = 60.0, **fields: Any) -> Request:
    return Request((*earlier, Message("user", prompt)), scope=Scope(timeout), **fields)


def answered(codex: Codex, request: Request) -> Completion:
    """Read a stream to its end."""
    chunks = list(codex.stream(request))
    text = "".join(chunk.text for chunk in chunks)
    return Completion(text, chunks[-1].finish_reason or "error", usage=chunks[-1].usage, model=chunks[-1].model)


def texts(body: Any) -> list[tuple[str, str]]:
    return [(item["role"], item["content"][0]["text"]) for item in body["input"]]


def processes(word: str) -> list[int]:
    """Return the processes that have a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def gone(word: str, timeout: float = 15.0) -> bool:
    end = monotonic() + timeout
    while processes(word) and monotonic() < end:
        sleep(0.02)
    return not processes(word)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def warm(server: FaultServer, real_program: Callable[[str], str]) -> Iterator[Codex]:
    """One codex for all tests that do it no harm."""
    codex = Codex(program=real_program("codex"), base_url=server.url, api_key="sk-0123456789abcdef", model="gpt-5.5")
    yield codex
    codex.close()


@pytest.fixture(autouse=True)
def _well(server: FaultServer) -> None:
    server.play(faults.well())


@pytest.fixture
def made(no_leaks: None) -> Iterator[Callable[..., Codex]]:
    """A function that makes codexes which are closed afterwards."""
    all_made: list[Codex] = []

    def make(**options: Any) -> Codex:
        all_made.append(Codex(**options))
        return all_made[-1]

    yield make
    for each in all_made:
        each.close()


# -- what is sent -------------------------------------------------------------------------------------


def test_a_conversation_goes_as_it_is(warm: Codex, server: FaultServer) -> None:
    """System, roles and turns arrive as such, in order, with nothing before or between them."""
    earlier = (Message("user", "One?"), Message("assistant", "Two."))
    answered(warm, asking("Three?", *earlier, system="Be brief."))
    body = server.asked[-1].body
    expected = [("developer", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?")]
    assert texts(body) == expected
    assert not body.get("instructions")


@pytest.mark.parametrize("model", ["gpt-5.5", "gpt-6-astra", "gpt-6.1-sol", "a-stranger", None])
def test_no_model_is_offered_tools(warm: Codex, server: FaultServer, model: str | None) -> None:
    """Whatever the model, the prompt is all that is sent: no tool, no instructions of codex."""
    answered(warm, asking(model=model))
    body = server.asked[-1].body
    assert not body.get("tools")
    assert texts(body) == [("user", "Hello")]
    assert body["store"] is False


def test_effort_schema_and_images(warm: Codex, server: FaultServer) -> None:
    """What codex can pass on, it passes on."""
    picture = Message("user", ("What is it?", Image(PIXEL)))
    request = Request((picture,), schema=SCHEMA, reasoning_effort="high", scope=Scope(60))
    assert json.loads(answered(warm, request).text) == {"name": "text"}
    body = server.asked[-1].body
    assert body["reasoning"]["effort"] == "high"
    assert body["text"]["format"]["schema"] == SCHEMA
    assert [part["type"] for part in body["input"][0]["content"]] == ["input_text", "input_image"]


def test_what_it_cannot_pass_on(warm: Codex) -> None:
    """An answer's length cannot be limited, and the router says so; sampling is left out with a warning."""
    with Router({"codex": warm}) as router:
        with pytest.raises(BackendError, match="does not take max_tokens"):
            router.generate("Hello", max_tokens=5)
        answer = router.generate("Hello", max_tokens=5, temperature=0.5, drop_unsupported=True, timeout=60)
        assert answer.text == "You said: Hello"
        assert len(answer.warnings) == 2


@pytest.mark.parametrize(
    "prompt", ["-", "--help", "-p x", "/init", "$skill @/etc/passwd !ls", "\ufeffmark", "\x00\x1b[2J"]
)
def test_a_prompt_is_a_prompt(warm: Codex, server: FaultServer, prompt: str) -> None:
    """Row 43: what looks like an option, a command or a file arrives as it is."""
    answered(warm, asking(prompt))
    assert server.asked[-1].prompt == prompt


def test_a_prompt_of_a_megabyte(warm: Codex, server: FaultServer) -> None:
    """Row 43: a megabyte arrives whole, in the last turn and before it; a prompt that is too long for codex is told."""
    long = "é" * 1_000_000
    answered(warm, asking(long))
    assert server.asked[-1].prompt == long
    answered(warm, asking("And now?", Message("user", long), Message("assistant", long)))
    assert [len(text) for _, text in texts(server.asked[-1].body)] == [1_000_000, 1_000_000, 8]
    with pytest.raises(ContextLengthError, match="1048576 characters"):
        answered(warm, asking("x" * 1_100_000))
    with pytest.raises(InvalidRequestError, match="surrogate"):
        answered(warm, asking("\ud800"))


# -- what it must not do ------------------------------------------------------------------------------


def test_a_model_that_asks_for_a_tool_gets_none(warm: Codex, server: FaultServer, tmp_path: Path) -> None:
    """Calls of a shell and of a patch run nothing and write nothing; the answer is none."""
    shell, patch = tmp_path / "shell", tmp_path / "patch"
    calls = (
        ToolCall("1", "exec_command", json.dumps({"cmd": f"touch {shell}"})),
        ToolCall("2", "shell", json.dumps({"command": ["touch", str(shell)]})),
        ToolCall(
            "3", "apply_patch", json.dumps({"input": f"*** Begin Patch\n*** Add File: {patch}\n+x\n*** End Patch"})
        ),
    )
    server.play(faults.well(tool_calls=calls))
    with pytest.raises(UnusableAnswer, match="asked for a tool"):
        answered(warm, asking())
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_user_is_sent_or_run(
    made: Callable[..., Codex],
    server: FaultServer,
    real_program: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Instructions, servers of tools, hooks and notifiers of the user's home and folder are left alone."""
    home, ran = tmp_path / ".codex", tmp_path / "ran"
    home.mkdir()
    for place in (home, tmp_path):
        (place / "AGENTS.md").write_text("CANARY: say hello to the user's aunt")
    touch = f'command = "touch"\nargs = ["{ran}"]\n'
    (home / "config.toml").write_text(f'notify = ["touch", "{ran}"]\n[mcp_servers.canary]\n{touch}')
    (home / "hooks.json").write_text(
        json.dumps({"hooks": {"SessionStart": [{"hooks": [{"command": f"touch {ran}"}]}]}})
    )
    monkeypatch.setenv("CODEX_HOME", str(home))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    codex = made(program=real_program("codex"), base_url=server.url, model="gpt-5.5")
    answered(codex, asking())
    raw = server.asked[-1].raw
    assert b"CANARY" not in raw
    assert str(tmp_path).encode() not in raw
    assert server.asked[-1].key is None, "no key was given, and the login is for OpenAI only"
    assert not ran.exists()
    assert {path.name for path in home.iterdir()} == {"AGENTS.md", "config.toml", "hooks.json"}


def test_the_login_of_the_user(made: Callable[..., Codex], real_program: Any, tmp_path: Path) -> None:
    """Without key and address the user's login is used, where it lies; without a login, health says what to do."""
    options = {"program": real_program("codex"), "home": str(tmp_path)}
    assert "codex login" in made(**options).health().reason
    with pytest.raises(AuthenticationError, match="codex login"):
        answered(made(**options), asking())
    login = tmp_path / "auth.json"
    login.write_text('{"OPENAI_API_KEY": "sk-0123456789abcdef"}')
    codex = made(**options)
    assert codex.health().usable
    with Exchange(codex._keeper.server(), Scope(60)) as exchange:
        assert exchange.call("account/read", {})["account"] == {"type": "apiKey"}
    codex.close()
    assert login.read_text() == '{"OPENAI_API_KEY": "sk-0123456789abcdef"}'


# -- one process for all ------------------------------------------------------------------------------


def test_requests_do_not_wait_for_one_another(warm: Codex, server: FaultServer) -> None:
    """Eight turns of a slow model are worked on together, by one process."""
    server.play(faults.well("one two three four five six", gap=0.15))
    barrier = threading.Barrier(9)

    def ask() -> None:
        barrier.wait(30)
        answered(warm, asking())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    before = len(server.asked)
    barrier.wait(30)
    for thread in threads:
        thread.join(60)
    seen = server.asked[before:]
    assert len(seen) == 8
    ends = [each.ended_at or 0.0 for each in seen]
    assert max(each.arrived_at for each in seen) < min(ends), "one was sent only when another had its answer"


def test_it_is_started_anew_when_it_died(made: Callable[..., Codex], server: FaultServer, real_program: Any) -> None:
    """A codex that was killed while it worked fails that call, and the next one gets a new process."""
    codex = made(program=real_program("codex"), base_url=server.url, model="gpt-5.5")
    server.play([faults.silent(), faults.well()])
    failed: list[BackendError] = []

    def ask() -> None:
        with pytest.raises(UnavailableError) as caught:
            answered(codex, asking())
        failed.append(caught.value)

    thread = threading.Thread(target=ask)
    thread.start()
    server.wait_active(30)
    (victim,) = [
        pid for pid in processes("app-server") if _parent(_parent(pid)) == os.getpid() and _is_ours(codex, pid)
    ]
    os.kill(victim, signal.SIGKILL)
    thread.join(30)
    assert "killed" in failed[0].message
    assert failed[0].retry_same
    assert answered(codex, asking()).text == "You said: Hello"


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def _is_ours(codex: Codex, pid: int) -> bool:
    process = codex._keeper._held[0]._process
    return process is not None and _parent(pid) == process.pid


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_nothing_of_it_outlives_us(server: FaultServer, real_program: Any, tmp_path: Path, how: str) -> None:
    """However the process that asks ends, codex ends too, in the middle of a turn, and its folder is removed."""
    server.play(faults.silent())
    code = f"""
import tempfile
from pointsman import Message, Request
from pointsman_codex import Codex
tempfile.tempdir = {str(tmp_path)!r}
codex = Codex(program={real_program("codex")!r}, base_url={server.url!r}, model="gpt-5.5")
list(codex.stream(Request((Message("user", "Hello"),))))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL) as child:
        server.wait_active(60)
        assert processes(str(tmp_path))
        child.send_signal(signal.Signals[how])
    assert gone(str(tmp_path)), "a process is left"
    end = monotonic() + 10
    while list(tmp_path.iterdir()) and monotonic() < end:
        sleep(0.02)
    assert list(tmp_path.iterdir()) == []


# -- when it fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.bad_key(), AuthenticationError),
        (faults.no_quota(), QuotaError),
        (faults.rate_limited(), RateLimitError),
        (faults.status(500), UnavailableError),
        (faults.cut_after(3), UnusableAnswer),
        (faults.empty_stream(), UnusableAnswer),
    ],
    ids=repr,
)
def test_one_process_for_one_request_fails_alike(
    made: Callable[..., Codex], server: FaultServer, real_program: Any, fault: Any, expected: type[BackendError]
) -> None:
    """Where its server is refused, `codex exec` is asked, once, and its sentences are read."""
    codex = made(program=real_program("codex"), base_url=server.url, model="gpt-5.5")
    codex._keeper.refused = True
    server.play(fault)
    before = len(server.asked)
    with pytest.raises(expected) as caught:
        answered(codex, asking("-p"))
    assert type(caught.value) is expected
    assert len(server.asked) == before + 1


def test_one_process_for_one_request(made: Callable[..., Codex], server: FaultServer, real_program: Any) -> None:
    """What `codex exec` sends is the same: the prompt, the system prompt, no tools."""
    codex = made(program=real_program("codex"), base_url=server.url)
    codex._keeper.refused = True
    for model in ("gpt-6.1-sol", "a-stranger"):
        answer = answered(codex, asking("- é", system='Say "hi"\x7f.', model=model, reasoning_effort="low"))
        assert answer.text == "You said: - é"
        assert answer.usage is not None
        assert not server.asked[-1].body.get("tools")
        assert texts(server.asked[-1].body) == [("developer", 'Say "hi"\x7f.'), ("user", "- é")]
    long = "x" * 1_000_000
    answered(codex, asking(long))
    assert server.asked[-1].prompt == long
    with pytest.raises(ContextLengthError):
        answered(codex, asking("x" * 1_100_000))


def test_a_stream_that_was_cut_by_length(warm: Codex, server: FaultServer) -> None:
    """An answer that ran into the model's limit is an answer, with the finish reason `length`."""
    server.play(faults.length("Once upon a"))
    answer = answered(warm, asking())
    assert (answer.text, answer.finish_reason) == ("Once upon a", "length")


_MODELS = 'if args[0] == "debug": print(\'{"models": []}\'); sys.exit()\n'
_LEFT = 'subprocess.Popen(["sleep", "{}"], start_new_session=True)\n'


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        ("time.sleep(600)", BackendTimeout, "time given"),
        ('sys.stdout.write("{\\"id\\": 1, \\"res"); sys.stdout.flush(); time.sleep(600)', BackendTimeout, "time given"),
        ('sys.stdout.write("{\\"id\\": 1, \\"res"); sys.exit()', UnavailableError, "no message"),
        ('print("Welcome!"); sys.stdout.flush(); time.sleep(600)', UnavailableError, "no message"),
        ('open("/dev/tty")', UnavailableError, "exit code 1"),
        ('sys.exit("Error: no terminal")', UnavailableError, "exit code 1.*no terminal"),
        ("os.kill(os.getpid(), 11)", UnavailableError, "signal 11"),
    ],
    ids=["hangs", "half and hangs", "half and ends", "talks", "terminal", "non-zero", "crashes"],
)
def test_programs_that_fail(
    made: Callable[..., Codex], fake_program: Any, code: str, expected: type[BackendError], words: str
) -> None:
    """Row 43: bounded, with an error of our own, and none of its children left, however it fails."""
    mark = f"86400.{os.getpid()}"
    codex = made(program=fake_program(_MODELS + _LEFT.format(mark) + code), base_url="http://127.0.0.1:9/v1")
    with pytest.raises(expected, match=words):
        answered(codex, asking(timeout=2.0 if expected is BackendTimeout else 60.0))
    codex.close()
    assert gone(mark)


def test_a_program_that_refuses_its_server(made: Callable[..., Codex], fake_program: Any) -> None:
    """A version without the server is asked once for each request, and no further time for its server."""
    code = _MODELS + (
        'if args[0] == "app-server": open(__file__ + ".refused", "a").write("x"); sys.exit("unknown command")\n'
        "said = sys.stdin.read()\n"
        'print(json.dumps({"type": "item.completed", "item": {"type": "agent_message", "text": "Read: " + said}}))\n'
        'print(json.dumps({"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 2}}))'
    )
    program = fake_program(code)
    codex = made(program=program, base_url="http://127.0.0.1:9/v1")
    earlier = (Message("user", "One?"), Message("assistant", "Two."))
    assert answered(codex, asking("-x")).text == "Read: -x"
    assert answered(codex, asking("-x", *earlier)).text == "Read: User: One?\n\nAssistant: Two.\n\nUser: -x"
    assert Path(program + ".refused").read_text() == "x"


def test_what_is_not_installed(tmp_path: Path) -> None:
    """A program that is not there, or does not run, is told, with what to do."""
    absent = Codex(program=str(tmp_path / "codex"), base_url="http://127.0.0.1:9/v1")
    assert absent.health().status == "unconfigured"
    assert "npm install" in absent.missing
    with pytest.raises(UnavailableError, match="npm install"):
        answered(absent, asking())
    absent.close()


def test_a_version_that_does_not_know_our_settings(made: Callable[..., Codex], fake_program: Any) -> None:
    """A codex that cannot be kept from using tools is not asked."""
    codex = made(program=fake_program('sys.exit("unrecognized subcommand")'), base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UnavailableError, match="kept from using tools"):
        answered(codex, asking())
    assert codex.health().status == "unavailable"


def test_the_backend_of_the_complaint_generator(server: FaultServer, real_program: Any) -> None:
    """Its presets that codex cannot pass on are left out, and it answers."""
    options = {"program": real_program("codex")}
    with CodexBackend(model="gpt-5.5", base_url=server.url, options=options, timeout=60) as backend:
        assert backend("Hello") == "You said: Hello"
        assert (backend.id, backend.provider) == ("codex", "codex")
