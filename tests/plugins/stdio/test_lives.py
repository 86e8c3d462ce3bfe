"""The real programs as processes: shared, replaced, ended, and kept from all that is the user's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from pointsman import BackendError, Scope, ToolCall, UnavailableError
from pointsman.testing import Fault, FaultServer, faults

pytestmark = pytest.mark.programs


def test_requests_do_not_wait_for_one_another(program: Any) -> None:
    """Many turns are worked on together, by one process: the model answers none of them before all are there."""
    count, before, answered = 24, len(program.server.asked), list[object]()

    async def play(exchange: Any) -> None:
        while len(program.server.asked) < before + count:
            await asyncio.sleep(0.01)
        await faults.well("one two three").play(exchange)

    program.server.play(Fault("once all are there", play))
    threads = [
        threading.Thread(target=lambda: answered.append(program.answered(program.asking()))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answered) == count, "one waited for another"


def test_it_is_started_anew_when_it_died(program: Any, made: Callable[..., Any], processes: Any) -> None:
    """A program that is killed while it works fails that call, and the next one gets a new process."""
    provider = made(program)
    program.server.play([faults.silent(), faults.well()])
    failed: list[BackendError] = []

    def ask() -> None:
        with pytest.raises(UnavailableError) as caught:
            program.answered(program.asking(), provider)
        failed.append(caught.value)

    thread = threading.Thread(target=ask)
    thread.start()
    program.server.wait_active(30)
    home = str(provider._keeper._held[-1].home).encode()
    word = {"codex": "app-server", "copilot": "--headless"}[program.name]
    for pid in processes(word):
        with suppress(OSError):
            if home in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)
    thread.join(30)
    assert "killed" in failed[0].message
    assert failed[0].retry_same
    assert program.answered(program.asking(), provider).text == "You said: Hello"


def test_nothing_of_it_outlives_us(program: Any, tmp_path: Path, processes: Any, soon: Any) -> None:
    """When the process that asks is killed, in the middle of a turn, the program ends, and its folder is removed."""
    program.server.play(faults.silent())
    script = f"""
import tempfile
from pointsman import Message, Request
from {program.cls.__module__.partition(".")[0]} import {program.cls.__name__} as Program
tempfile.tempdir = {str(tmp_path)!r}
it = Program(base_url={program.server.url!r}, **{dict(program.options)!r})
list(it.stream(Request((Message("user", "Hello"),))))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.DEVNULL) as child:
        program.server.wait_active(60)
        assert processes(str(tmp_path))
        child.kill()
    assert soon(lambda: not processes(str(tmp_path))), "a process is left"
    assert soon(lambda: not list(tmp_path.iterdir())), "a folder is left"


def test_what_was_asked_is_not_kept(program: Any, made: Callable[..., Any], soon: Any) -> None:
    """After a request the program has forgotten it: nothing grows in its memory with their number."""
    provider = made(program)
    for _ in range(3):
        program.answered(program.asking(), provider)
    method, name = {"codex": ("thread/loaded/list", "data"), "copilot": ("session.list", "sessions")}[program.name]

    def kept() -> Any:
        with provider._keeper.exchange(Scope(10)) as exchange:
            return exchange.call(method, {})[name]

    assert soon(lambda: not kept(), 3.0), kept()


def test_one_process_for_one_request(program: Any, made: Callable[..., Any]) -> None:
    """Without its server it takes the prompt by stdin, has no tools either, and warns."""
    provider = made(program)
    provider._keeper.refuse("of a test")
    answer = program.answered(program.asking("-p é", system="Be brief."), provider)
    assert "-p é" in answer.text
    assert "for this request alone" in answer.warnings[0]
    assert not program.sent.get("tools")
    assert "Be brief." in str(program.turns)


def test_one_process_for_one_request_fails_alike(program: Any, made: Callable[..., Any], tmp_path: Path) -> None:
    """Without its server, failures have the same classes; a call for a tool ends it, and nothing runs."""
    provider, ran = made(program), tmp_path / "ran"
    provider._keeper.refuse("of a test")
    call = ToolCall("1", "exec_command", json.dumps({"cmd": f"touch {ran}"}))
    for fault, expected in (
        (faults.cut_after(3), "UnusableAnswer"),
        (faults.well(tool_calls=(call,), gap=0.02), "UnusableAnswer"),
    ):
        found, asked = program.played(fault, provider=provider)
        assert type(found).__name__ == expected
        assert asked <= 2
    assert "tool" in found.message.lower()
    assert not ran.exists()


@pytest.fixture
def haunted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a working folder and a repository above TMPDIR full of what must not be read, sent or run.

    Returns the file that would be there if anything ran.
    """
    ran, home = tmp_path / "ran", tmp_path / "home"
    touch = {"command": "touch", "args": [str(ran)]}
    hook = {"type": "command", "bash": f"touch {ran}"}
    hooks = {"version": 1, "hooks": {name: [hook] for name in ("sessionStart", "userPromptSubmitted")}}
    claude = {"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": f"touch {ran}"}]}]}}
    toml = f'notify = ["touch", "{ran}"]\n[mcp_servers.canary]\ncommand = "touch"\nargs = ["{ran}"]\n'
    files = {
        ".codex/config.toml": toml,
        ".codex/hooks.json": json.dumps(claude),
        ".copilot/mcp-config.json": json.dumps({"mcpServers": {"canary": {"type": "local", "tools": ["*"], **touch}}}),
        ".copilot/settings.json": json.dumps(hooks),
        ".claude/settings.json": json.dumps(claude),
        ".github/hooks/h.json": json.dumps(hooks),
        ".github/copilot/settings.json": json.dumps(hooks),
        **dict.fromkeys((".codex/AGENTS.md", ".copilot/AGENTS.md", ".copilot/copilot-instructions.md"), "CANARY"),
        **dict.fromkeys(("AGENTS.md", "CLAUDE.md", ".github/copilot-instructions.md"), "CANARY"),
    }
    for place in (home, tmp_path / "repository"):
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(tmp_path / "repository")], check=True)
    (tmp_path / "repository" / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "repository" / "tmp"))
    monkeypatch.chdir(tmp_path / "repository")
    for name, value in {"HOME": home, "CODEX_HOME": home / ".codex", "COPILOT_HOME": home / ".copilot"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("GH_TOKEN", "gho_0123456789abcdef")
    monkeypatch.setenv("CODEX_API_KEY", "sk-9876543210fedcba")
    return ran


def test_nothing_of_the_user_is_sent_or_run(program: Any, made: Callable[..., Any], haunted: Path) -> None:
    """Instructions, servers of tools, hooks, notifiers and keys of the user are left alone, in both ways of asking."""
    home = haunted.parent / "home"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    provider = made(program)
    for way in ("served", "alone"):
        if way == "alone":
            provider._keeper.refuse("of a test")
        program.answered(program.asking("Say nothing of home."), provider)
        (seen,) = [each for each in program.server.asked[-1:] if b"Say nothing" in each.raw]
        assert b"CANARY" not in seen.raw
        assert str(home).encode() not in seen.raw
        assert seen.key in (None, ""), "no key was given, and the login is for its own service only"
    sleep(0.3)  # a hook runs beside the turn
    assert not haunted.exists()
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_nobody_else_is_contacted(program: Any, made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With an address of one's own no other host is contacted: no telemetry, no update, no list of models."""
    with FaultServer() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        provider = made(program)
        program.answered(program.asking(), provider)
        provider._keeper.refuse("of a test")
        program.answered(program.asking(), provider)
        sleep(0.5)  # what is sent in the background
        assert [visit.number for visit in proxy.visits] == []
    assert {seen.method for seen in program.server.log} == {"POST"}
