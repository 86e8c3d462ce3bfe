"""Programs of our own that speak as codex and copilot do, and fail as they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from pointsman import Completion, Message, Request, Scope
from pointsman_codex import Codex
from pointsman_copilot import Copilot

#: How both begin. What a test adds stands after `def` and before `main()`: it may write over any of the functions.
_COMMON = """
calls = open(__file__ + ".calls", "a", buffering=1)
def version(): print("VERSION"); sys.exit()
def begun(): pass
def result(m): return RESULTS.get(m["method"], {})
def answer(m): say({"id": m["id"], "result": result(m)})
def serve():
    calls.write("served\\n")
    begun()
    for m in hear():
        calls.write(m.get("method", "?") + "\\n")
        if "id" in m and "method" in m:
            answer(m)
            if m["method"] == ASKED: speak(m["params"])
"""
_CODEX = """
RESULTS = {"turn/start": {"turn": {"id": "u"}}, "config/read": {"config": {}}}
ASKED = "turn/start"
def result(m):
    return {"thread": {"id": str(m["id"])}} if m["method"] == "thread/start" else RESULTS.get(m["method"], {})
def say(m): os.write(1, json.dumps(m).encode() + b"\\n")
def hear():
    for line in sys.stdin: yield json.loads(line)
def told(method, thread, **params): say({"method": method, "params": {"threadId": thread, **params}})
def speak(params):
    told("item/agentMessage/delta", params["threadId"], delta="served")
    told("turn/completed", params["threadId"], turn={"status": "completed"})
def alone():
    said = sys.stdin.read()
    say({"type": "item.completed", "item": {"type": "agent_message", "text": "alone: " + said}})
    say({"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 2}})
def main():
    if args[0] == "--version": version()
    elif args[0] == "debug": print('{"models": []}')
    elif args[0] == "app-server": serve()
    else: alone()
"""
_COPILOT = """
RESULTS, ASKED = {}, "session.sendMessages"
def say(m):
    data = json.dumps(m).encode()
    os.write(1, b"Content-Length: %d\\r\\n\\r\\n" % len(data) + data)
def hear():
    while True:
        size = 0
        while (line := sys.stdin.buffer.readline()).strip(): size = int(line.split(b":")[1])
        if not size: return
        yield json.loads(sys.stdin.buffer.read(size))
def told(kind, session, **data):
    say({"method": "session.event", "params": {"sessionId": session, "event": {"type": kind, "data": data}}})
def speak(params):
    told("assistant.message_delta", params["sessionId"], deltaContent="served")
    told("assistant.usage", params["sessionId"], inputTokens=1, outputTokens=1, finishReason="stop")
    told("session.idle", params["sessionId"])
def alone():
    said = sys.stdin.read()
    print(json.dumps({"type": "assistant.message_delta", "data": {"deltaContent": "alone: " + said}}))
    print(json.dumps({"type": "result", "exitCode": 0}))
def main():
    if args[0] == "--version": version()
    elif args[0] == "--headless": serve()
    else: alone()
"""


@frozen
class Fake:
    """One protocol with its program, as the tests that hold for both see it."""

    name: str
    cls: type[Any]
    code: str
    version: str
    write: Callable[[str], str]
    made: list[Any]

    def make(self, code: str = "", **options: Any) -> Any:
        """Return a provider of a program with this code after the usual one; it is closed after the test."""
        usual = _COMMON.replace("VERSION", self.version) + self.code
        program = self.write(f"{usual}\n{code}\nmain()")
        self.made.append(self.cls(**{"program": program, "base_url": "http://127.0.0.1:9/v1", "model": "m", **options}))
        return self.made[-1]

    def ask(self, provider: Any, prompt: str = "Hello", timeout: float = 30.0, **fields: Any) -> Completion:
        """Return what it answers."""
        chunks = list(provider.stream(Request((Message("user", prompt),), scope=Scope(timeout), **fields)))
        warnings = tuple(warning for chunk in chunks for warning in chunk.warnings)
        return Completion("".join(chunk.text for chunk in chunks), usage=chunks[-1].usage, warnings=warnings)

    def calls(self, provider: Any) -> list[str]:
        """Return what its program was called with, in order; "served" is the start of a server."""
        log = Path(provider.program + ".calls")
        return log.read_text().split() if log.exists() else []


@pytest.fixture(params=["codex", "copilot"])
def fake(request: pytest.FixtureRequest, fake_program: Callable[[str], str], no_leaks: None) -> Any:
    """Each of the protocols in turn."""
    cls, code, version = (
        (Codex, _CODEX, "codex-cli 0.169.0") if request.param == "codex" else (Copilot, _COPILOT, "Copilot 1.0.102.")
    )
    fake = Fake(request.param, cls, code, version, fake_program, [])
    yield fake
    for provider in fake.made:
        provider.close()
