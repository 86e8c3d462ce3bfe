"""Copilot as a generator of text: what it sends, what it must not do, and what follows when it fails."""

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
from pointsman import (
    AuthenticationError,
    BackendError,
    BackendTimeout,
    Completion,
    Image,
    InvalidRequestError,
    Message,
    QuotaError,
    Request,
    Router,
    Scope,
    ToolCall,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import FaultServer, faults
from pointsman_copilot import Copilot

from backends import CopilotBackend, HuggingFaceBackend, LLMRouterBackend, OpenAIBackend

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


def answered(copilot: Copilot, request: Request) -> Completion:
    """Read a stream to its end."""
    chunks = list(copilot.stream(request))
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
def options(real_program: Callable[[str], str]) -> dict[str, Any]:
    """What every real copilot is made with."""
    return {"program": real_program("copilot"), "cache": real_program("cache"), "model": "gpt-5.5"}


@pytest.fixture(scope="module")
def warm(server: FaultServer, options: dict[str, Any]) -> Iterator[Copilot]:
    """One copilot for all tests that do it no harm."""
    copilot = Copilot(base_url=server.url, api_key="sk-0123456789abcdef", **options)
    yield copilot
    copilot.close()


@pytest.fixture(autouse=True)
def _well(server: FaultServer) -> None:
    server.play(faults.well())


@pytest.fixture
def made(no_leaks: None) -> Iterator[Callable[..., Copilot]]:
    """A function that makes copilotes which are closed afterwards."""
    all_made: list[Copilot] = []

    def make(**options: Any) -> Copilot:
        all_made.append(Copilot(**options))
        return all_made[-1]

    yield make
    for each in all_made:
        each.close()


# -- what is sent -------------------------------------------------------------------------------------


def test_a_conversation_goes_as_one_prompt(warm: Copilot, server: FaultServer) -> None:
    """The system prompt is ours alone; the turns stand in one prompt, before which copilot writes the time."""
    earlier = (Message("user", "One?"), Message("assistant", "Two."))
    answered(warm, asking("Three?", *earlier, system="Be brief.", reasoning_effort="high", max_tokens=9))
    body = server.asked[-1].body
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"].endswith("\n\nUser: One?\n\nAssistant: Two.\n\nUser: Three?")
    assert (body["reasoning_effort"], body["max_tokens"]) == ("high", 9)
    assert "tools" not in body


def test_what_it_cannot_pass_on(warm: Copilot) -> None:
    """Sampling is left out with a warning, `stop` is refused, and so are images."""
    with Router({"copilot": warm}) as router:
        with pytest.raises(BackendError, match="does not take stop"):
            router.generate("Hello", stop="x")
        answer = router.generate("Hello", temperature=0.5, timeout=60)
        assert answer.text.endswith("Hello")
        assert len(answer.warnings) == 1
    with pytest.raises(InvalidRequestError, match="images"):
        answered(warm, Request((Message("user", ("See?", Image(b"x"))),)))


@pytest.mark.parametrize("prompt", ["-", "--help", "-p x", "/init", "$skill @/etc/passwd !ls"])
def test_a_prompt_is_a_prompt(warm: Copilot, server: FaultServer, prompt: str) -> None:
    """Row 43: what looks like an option, a command or a file arrives as it is."""
    answered(warm, asking(prompt))
    assert server.asked[-1].prompt.endswith("</current_datetime>\n\n" + prompt)


def test_a_prompt_of_a_megabyte(warm: Copilot, server: FaultServer) -> None:
    """Row 43: a megabyte arrives whole."""
    answered(warm, asking("é" * 1_000_000))
    assert server.asked[-1].prompt.count("é") == 1_000_000
    with pytest.raises(InvalidRequestError, match="surrogate"):
        answered(warm, asking("\ud800"))


def test_no_file_with_a_prompt_is_left(warm: Copilot) -> None:
    """When a request has ended, whatever its end, nothing of it is on the disk."""
    answered(warm, asking("a canary"))
    home = Path(_process_of(warm).args[5])  # type: ignore[index] # the arguments of the guard
    end = monotonic() + 10
    while any((home / "session-state").glob("[0-9a-f]*-*-*")) and monotonic() < end:
        sleep(0.02)
    assert [path for path in home.rglob("*") if path.is_file() and b"a canary" in path.read_bytes()] == []


# -- what it must not do ------------------------------------------------------------------------------


def test_a_model_that_asks_for_a_tool_gets_none(warm: Copilot, server: FaultServer, tmp_path: Path) -> None:
    """Calls of a shell and of a patch run nothing and write nothing; the answer is none."""
    shell, patch = tmp_path / "shell", tmp_path / "patch"
    calls = (
        ToolCall("1", "bash", json.dumps({"command": f"touch {shell}"})),
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
    made: Callable[..., Copilot],
    server: FaultServer,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Instructions, servers of tools and hooks of the user's home and folder are left alone."""
    home, ran = tmp_path / ".copilot", tmp_path / "ran"
    home.mkdir()
    for place in (home / "copilot-instructions.md", home / "AGENTS.md", tmp_path / "AGENTS.md"):
        place.write_text("CANARY: say hello to the user's aunt")
    touch = {"command": "touch", "args": [str(ran)]}
    (home / "mcp-config.json").write_text(
        json.dumps({"mcpServers": {"canary": {"type": "local", "tools": ["*"], **touch}}})
    )
    hook = {"type": "command", "bash": f"touch {ran}"}
    (home / "settings.json").write_text(json.dumps({"hooks": {"sessionStart": [hook], "userPromptSubmitted": [hook]}}))
    before = {path.name for path in home.iterdir()}
    monkeypatch.setenv("COPILOT_HOME", str(home))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GH_TOKEN", "gho_0123456789abcdef")
    monkeypatch.chdir(tmp_path)
    copilot = made(base_url=server.url, **options)
    for refused in (False, True):
        copilot._keeper.refused = refused
        answered(copilot, asking())
        raw = server.asked[-1].raw
        assert b"CANARY" not in raw
        assert str(tmp_path).encode() not in raw
        assert server.asked[-1].key != "gho_0123456789abcdef", "the login is for GitHub only"
    assert not ran.exists()
    assert {path.name for path in home.iterdir()} == before


# -- one process for all ------------------------------------------------------------------------------


def test_requests_do_not_wait_for_one_another(warm: Copilot, server: FaultServer) -> None:
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


def test_it_is_started_anew_when_it_died(made: Callable[..., Copilot], server: FaultServer, options: Any) -> None:
    """A copilot that was killed while it worked fails that call, and the next one gets a new process."""
    copilot = made(base_url=server.url, **options)
    server.play([faults.silent(), faults.well()])
    failed: list[BackendError] = []

    def ask() -> None:
        with pytest.raises(UnavailableError) as caught:
            answered(copilot, asking())
        failed.append(caught.value)

    thread = threading.Thread(target=ask)
    thread.start()
    server.wait_active(30)
    (victim,) = [pid for pid in processes("--headless") if _parent(pid) == _process_of(copilot).pid]
    os.kill(victim, signal.SIGKILL)
    thread.join(30)
    assert "killed" in failed[0].message
    assert failed[0].retry_same
    assert answered(copilot, asking()).text.endswith("Hello")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def _process_of(copilot: Copilot) -> subprocess.Popen[bytes]:
    process = copilot._keeper._held[0]._process
    assert process is not None
    return process


def test_nothing_of_it_outlives_us(server: FaultServer, options: Any, tmp_path: Path) -> None:
    """However the process that asks ends, copilot ends too, in the middle of a turn, and its folder is removed."""
    server.play(faults.silent())
    code = f"""
import tempfile
from pointsman import Message, Request
from pointsman_copilot import Copilot
tempfile.tempdir = {str(tmp_path)!r}
copilot = Copilot(base_url={server.url!r}, **{options!r})
list(copilot.stream(Request((Message("user", "Hello"),))))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL) as child:
        server.wait_active(60)
        assert processes(str(tmp_path))
        child.send_signal(signal.SIGKILL)
    assert gone(str(tmp_path)), "a process is left"
    end = monotonic() + 10
    while list(tmp_path.iterdir()) and monotonic() < end:
        sleep(0.02)
    assert list(tmp_path.iterdir()) == []


# -- when it fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(faults.bad_key(), AuthenticationError), (faults.no_quota(), QuotaError), (faults.html(), UnusableAnswer)],
    ids=repr,
)
def test_one_process_for_one_request_fails_alike(
    made: Callable[..., Copilot], server: FaultServer, options: Any, fault: Any, expected: type[BackendError]
) -> None:
    """Where its server is refused, copilot is started for one request, and ended at its first failure."""
    copilot = made(base_url=server.url, **options)
    copilot._keeper.refused = True
    server.play(fault)
    before = len(server.asked)
    with pytest.raises(expected):
        answered(copilot, asking("-p"))
    assert len(server.asked) == before + 1


def test_one_process_for_one_request(made: Callable[..., Copilot], server: FaultServer, options: Any) -> None:
    """One process for one request takes the prompt as it is, a megabyte too, and has no tools either."""
    copilot = made(base_url=server.url, **options)
    copilot._keeper.refused = True
    assert answered(copilot, asking("-p é", system="Be brief.")).text.endswith("System: Be brief.\n\nUser: -p é")
    assert "tools" not in server.asked[-1].body
    answered(copilot, asking("x" * 1_000_000, max_tokens=9))
    assert server.asked[-1].prompt.endswith("x" * 1_000_000)
    assert server.asked[-1].body["max_tokens"] == 9


def test_an_answer_that_was_cut_by_length(warm: Copilot, server: FaultServer) -> None:
    """An answer that ran into its limit has the finish reason `length`; more, which copilot asks for, is not taken."""
    server.play(faults.length("Once upon a"))
    answer = answered(warm, asking())
    assert (answer.text, answer.finish_reason) == ("Once upon a", "length")


def test_the_login_of_the_user(
    made: Callable[..., Copilot], options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token, health says what to do; with a login, that and nothing else is what copilot gets."""
    for name in ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    absent = made(home=str(tmp_path / "none"), **options)
    assert "copilot login" in absent.health().reason
    with pytest.raises(AuthenticationError, match="copilot login"):
        answered(absent, asking())
    login = {"loggedInUsers": [{"login": "ann"}], "copilot_tokens": {"ann": "gho_0123456789abcdef"}}
    (tmp_path / "config.json").write_text(json.dumps({**login, "trustedFolders": ["/"]}))
    copilot = made(home=str(tmp_path), **options)
    assert copilot.health().usable
    folder = tmp_path / "folder"
    folder.mkdir()
    copilot._serving(folder)
    assert json.loads((folder / "config.json").read_text()) == login


_HALF = 'sys.stdout.write("Content-Length: 50\\r\\n\\r\\n{\\"id\\": 1, \\"res")'
_LEFT = 'subprocess.Popen(["sleep", "{}"], start_new_session=True)\n'


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        ("time.sleep(600)", BackendTimeout, "time given"),
        (_HALF + "; sys.stdout.flush(); time.sleep(600)", BackendTimeout, "time given"),
        (_HALF + "; sys.exit()", UnavailableError, "14 bytes of a message of 50"),
        ('print("Welcome!"); sys.stdout.flush(); time.sleep(600)', UnavailableError, "no header"),
        ('open("/dev/tty")', UnavailableError, "exit code 1"),
        ('sys.exit("Error: no terminal")', UnavailableError, "exit code 1.*no terminal"),
        ("os.kill(os.getpid(), 11)", UnavailableError, "signal 11"),
    ],
    ids=["hangs", "half and hangs", "half and ends", "talks", "terminal", "non-zero", "crashes"],
)
def test_programs_that_fail(
    made: Callable[..., Copilot], fake_program: Any, code: str, expected: type[BackendError], words: str
) -> None:
    """Row 43: bounded, with an error of our own, and none of its children left, however it fails."""
    mark = f"86400.{os.getpid()}"
    copilot = made(program=fake_program(_LEFT.format(mark) + code), base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(expected, match=words):
        answered(copilot, asking(timeout=2.0 if expected is BackendTimeout else 60.0))
    copilot.close()
    assert gone(mark)


def test_the_backend_of_the_complaint_generator(server: FaultServer, options: Any) -> None:
    """Its presets that copilot cannot pass on are left out, and it answers."""
    own = {"program": options["program"], "cache": options["cache"]}
    with CopilotBackend(model="gpt-5.5", base_url=server.url, options=own, timeout=60) as backend:
        assert backend("Hello").endswith("Hello")
        assert (backend.id, backend.provider) == ("copilot", "copilot")
    assert server.asked[-1].body["max_tokens"] == 128


def test_the_chain_of_the_guide(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copilot, then openai, then huggingface: each in turn is made to fail, and the next one answers."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    with FaultServer() as first, FaultServer() as second, FaultServer() as third:
        own = {"program": options["program"], "cache": options["cache"], "base_url": first.url}
        backend = LLMRouterBackend(
            id="llm-router",
            provider="copilot_cli",
            model="gpt-5-mini",
            fallback_providers=[
                OpenAIBackend(model="gpt-4o-mini", base_url=second.url),
                HuggingFaceBackend(model="maker/model", base_url=third.url),
            ],
            options=own,
            timeout=60,
            max_retries=0,
        )
        with backend:
            for failing, answering in ((None, first), (first, second), (second, third)):
                if failing is not None:
                    failing.play(faults.status(503))
                assert backend("Hello").endswith("Hello")
                assert len(answering.asked) == 1
