"""Codex's own: its catalogue, its configuration, its login, and what it says when it is started for one request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import pytest
from backends.codex import CodexBackend
from pointsman import (
    AuthenticationError,
    BackendError,
    ContextLengthError,
    Image,
    InvalidRequestError,
    Message,
    QuotaError,
    RateLimitError,
    Request,
    Scope,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import faults
from pointsman_codex import Codex

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
SCHEMA["additionalProperties"] = False
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def codex(kinds: Callable[[str], Any]) -> Any:
    """The real one."""
    return kinds("codex")


# -- over its server ----------------------------------------------------------------------------------


@pytest.mark.programs
@pytest.mark.parametrize("model", ["gpt-6-astra", None])
def test_no_model_gets_more_than_the_prompt(codex: Any, made: Callable[..., Any], model: str | None) -> None:
    """Also of a model that codex would choose by itself, the prompt is all that is sent, and nothing is stored."""
    codex.answered(codex.asking(model=model), made(codex, model=None))
    assert codex.turns == [("user", "Hello")]
    assert not codex.sent.get("tools")
    assert codex.sent["store"] is False


@pytest.mark.programs
def test_a_tier_of_service_is_passed_on(codex: Any) -> None:
    """Of `extra`, what does not let codex do more than speak goes with the request."""
    codex.answered(codex.asking(extra={"serviceTier": "flex"}))
    assert codex.sent["service_tier"] == "flex"


@pytest.mark.programs
@pytest.mark.parametrize("picture", [b"no picture", b"\x89PNG but no more"])
def test_a_picture_that_is_none_is_refused(codex: Any, picture: bytes) -> None:
    """Codex would put a sentence in the place of what it cannot read: that is refused before."""
    before = len(codex.server.asked)
    with pytest.raises(InvalidRequestError, match="picture"):
        codex.answered(Request((Message("user", ("What?", Image(picture))),), scope=Scope(60)))
    assert len(codex.server.asked) == before


@pytest.mark.programs
def test_it_lists_the_models_of_its_own_service(made: Callable[..., Any], codex: Any) -> None:
    """Without an address it tells the models that this version knows, and asks nobody."""
    models = made(codex, base_url=None, api_key="sk-0123456789abcdefghij").list_models()
    assert any(model.id.startswith("gpt-") for model in models)


# -- the configuration of the machine -----------------------------------------------------------------

MACHINE = """
set -e
mount -t tmpfs none {folder}
mkdir {folder}/up {folder}/work
mount -t overlay overlay -o lowerdir=/etc,upperdir={folder}/up,workdir={folder}/work /etc
mkdir -p /etc/codex
cp {toml} /etc/codex/config.toml
exec {python} {code}
"""
CODE = """
import sys, time
from pointsman import BackendError, Message, Request, Scope
from pointsman.testing import FaultServer
from pointsman_codex import Codex
with FaultServer() as server:
    codex = Codex(program={program!r}, base_url=server.url, model="gpt-5.5")
    list(codex.stream(Request((Message("user", "Hello"),), scope=Scope(30))))
    time.sleep(0.5)  # a notifier runs beside
    body = server.asked[-1].body
    assert not body.get("tools"), body["tools"]
    assert b"CANARY" not in server.asked[-1].raw
    codex._keeper.refuse("of a test")
    try:
        list(codex.stream(Request((Message("user", "Hello"),), scope=Scope(30))))
        sys.exit("it was asked")
    except BackendError as error:
        assert "/etc/codex/config.toml" in error.message
    codex.close()
"""


@pytest.mark.programs
def test_the_configuration_of_the_machine_starts_nothing(real_program: Any, tmp_path: Path) -> None:
    """Servers of tools, a notifier and instructions in /etc/codex are taken away, or codex is not asked.

    The test has a /etc of its own, in a mount namespace of its own.
    """
    ran, toml = tmp_path / "ran", tmp_path / "config.toml"
    server = f'command = "touch"\nargs = ["{ran}"]\n'
    told = f'notify = ["touch", "{ran}"]\ndeveloper_instructions = "CANARY"\n'
    toml.write_text(f'{told}[mcp_servers.canary]\n{server}[mcp_servers."a.b c"]\n{server}')
    (tmp_path / "etc").mkdir()
    code = tmp_path / "code.py"
    code.write_text(CODE.format(program=real_program("codex")))
    script = MACHINE.format(folder=tmp_path / "etc", toml=toml, python=sys.executable, code=code)
    ran_it = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, timeout=90)
    assert ran_it.returncode == 0, ran_it.stderr[-3000:]
    assert not ran.exists()


def test_a_managed_configuration_is_respected(fake_program: Any, no_leaks: None) -> None:
    """Where an administrator's word stands above ours and would start something, codex is not asked."""
    layer = {"name": {"type": "legacyManagedConfigTomlFromFile"}, "config": {"mcp_servers": {"theirs": {}}}}
    results = {"config/read": {"config": {}, "layers": [layer]}}
    codex = Codex(program=fake_program(SERVES.format(results=results)), base_url=NOWHERE)
    with pytest.raises(UnavailableError, match="managed") as caught:
        ask(codex)
    assert not caught.value.retry_same
    codex.close()


SERVES = """
if args[0] == "debug": print('{{"models": []}}'); sys.exit()
for line in sys.stdin:
    message = json.loads(line)
    result = {results}.get(message["method"], {{}})
    if "id" in message: print(json.dumps({{"id": message["id"], "result": result}}), flush=True)
"""


def ask(codex: Codex, prompt: str = "Hello", **fields: Any) -> str:
    """Return the text that it answers."""
    request = Request((Message("user", prompt),), scope=Scope(30), **fields)
    return "".join(chunk.text for chunk in codex.stream(request))


def test_a_version_that_does_not_tell_its_models(fake_program: Any, no_leaks: None) -> None:
    """A codex that cannot be kept from using tools is not asked."""
    codex = Codex(program=fake_program('sys.exit("unrecognized subcommand")'), base_url=NOWHERE)
    with pytest.raises(UnavailableError, match="kept from using tools"):
        ask(codex)
    assert codex.health().status == "unavailable"
    codex.close()


# -- the login ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[1]", "garbage", '{"auth_mode": "apikey", "OPENAI_API_KEY": null, "tokens": null}']
)
def test_what_is_no_login(tmp_path: Path, fake_program: Any, content: str | None) -> None:
    """A login that is empty, broken, or a folder is none: health says what to do."""
    login = tmp_path / "auth.json"
    login.mkdir() if content is None else login.write_text(content)
    codex = Codex(program=fake_program("pass"), home=str(tmp_path), api_key=None)
    assert codex.health().status == "unconfigured"
    assert "codex login" in codex.missing


def jwt(**claims: Any) -> str:
    """Return a token as OpenAI's login gives out, signed by nobody."""
    account = {"chatgpt_plan_type": "plus", "chatgpt_user_id": "u", "chatgpt_account_id": "acc", "user_id": "u"}
    body = {"email": "a@b.c", "exp": int(time() + 3600), "https://api.openai.com/auth": account, **claims}
    parts = ({"alg": "RS256", "typ": "JWT"}, body)
    return ".".join([*(urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts), "c2ln"])


@pytest.mark.programs
@pytest.mark.parametrize("kind", ["plan", "key"])
def test_the_login_of_the_user(internet: Any, codex: Any, made: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    """Without key and address a turn is asked with the user's login, which stays theirs; nobody else hears of it."""
    tokens = {"id_token": jwt(), "access_token": jwt(), "refresh_token": "old", "account_id": "acc"}
    plan = {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "2099-01-01T00:00:00Z"}
    login = plan if kind == "plan" else {"OPENAI_API_KEY": "sk-0123456789abcdefghij"}
    (tmp_path / "auth.json").write_text(json.dumps(login))
    internet.answer = answers
    provider = made(codex, base_url=None, home=str(tmp_path))
    assert provider.health().usable
    assert codex.answered(codex.asking("A secret."), provider).text == "Hello from OpenAI."
    provider.close()
    asked = [(host, what) for host, what, body in internet.log if b"A secret." in body]
    assert asked == [("chatgpt.com" if kind == "plan" else "api.openai.com", asked[0][1])]
    assert internet.hosts() <= {"chatgpt.com", "api.openai.com"}
    assert json.loads((tmp_path / "auth.json").read_text()) == login
    assert [path.name for path in tmp_path.iterdir()] == ["auth.json"]


@pytest.mark.programs
def test_a_login_that_codex_renews_stays_the_users(
    internet: Any, codex: Any, made: Callable[..., Any], tmp_path: Path
) -> None:
    """A token that has expired is renewed where it lies: the user's own codex goes on with the new one."""
    old, new = jwt(exp=int(time() - 3600)), jwt()
    tokens = {"id_token": old, "access_token": old, "refresh_token": "old", "account_id": "acc"}
    login = {"auth_mode": "chatgpt", "tokens": tokens, "last_refresh": "2026-01-01T00:00:00Z"}
    (tmp_path / "auth.json").write_text(json.dumps(login))
    renewed = {"id_token": new, "access_token": new, "refresh_token": "new"}
    internet.answer = lambda host, what: (200, renewed) if what.endswith("/oauth/token") else answers(host, what)
    provider = made(codex, base_url=None, home=str(tmp_path))
    assert codex.answered(codex.asking(), provider).text == "Hello from OpenAI."
    assert json.loads((tmp_path / "auth.json").read_text())["tokens"]["refresh_token"] == "new"


def answers(host: str, what: str) -> tuple[int, Any]:
    """Answer a turn as OpenAI does, and nothing else."""
    if not what.startswith("POST") or not what.endswith("/responses"):
        return 404, {}
    item = {"id": "m", "type": "message", "status": "completed", "role": "assistant"}
    item["content"] = [{"type": "output_text", "text": "Hello from OpenAI.", "annotations": []}]
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    response = {"id": "r", "object": "response", "status": "completed", "output": [item], "usage": usage}
    delta = {"delta": "Hello from OpenAI."}
    events = [
        {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.output_text.delta", "output_index": 0, "item_id": "m", "content_index": 0, **delta},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    ]  # fmt: skip
    return 200, "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


# -- started for one request --------------------------------------------------------------------------


@pytest.fixture
def alone(codex: Any, made: Callable[..., Any]) -> Any:
    """One that has no server."""
    provider = made(codex)
    provider._keeper.refuse("of a test")
    return provider


@pytest.mark.programs
def test_what_codex_exec_sends(codex: Any, alone: Any) -> None:
    """The prompt, the system prompt, effort and schema are the same as over its server, and tokens come back."""
    fields = {"system": 'Say "hi"\x7f.', "reasoning_effort": "low", "schema": SCHEMA}
    answer = codex.answered(codex.asking("- é", model="gpt-6.1-sol", **fields), alone)
    assert answer.usage.output_tokens == 8
    assert codex.turns == [("developer", 'Say "hi"\x7f.'), ("user", "- é")]
    assert codex.sent["reasoning"]["effort"] == "low"
    assert codex.sent["text"]["format"]["schema"] == SCHEMA
    long = "é" * 1_000_000
    codex.answered(codex.asking(long), alone)
    assert codex.turns == [("user", long)]
    with pytest.raises(ContextLengthError):
        codex.answered(codex.asking("x" * 1_100_000), alone)
    with pytest.raises(InvalidRequestError, match="images"):
        codex.answered(Request((Message("user", ("?", Image(b"x"))),), scope=Scope(60)), alone)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.bad_key(), AuthenticationError),
        (faults.no_quota(), QuotaError),
        (faults.rate_limited(), RateLimitError),
        (faults.status(500), UnavailableError),
        (faults.empty_stream(), UnusableAnswer),
    ],
    ids=repr,
)
def test_what_codex_exec_says(codex: Any, alone: Any, fault: Any, expected: type[BackendError]) -> None:
    """Its sentences mean what its server's words do, and it asks once."""
    found, asked = codex.played(fault, provider=alone)
    assert type(found) is expected
    assert asked == 1


@pytest.mark.programs
def test_codex_exec_cut_by_length(codex: Any, alone: Any) -> None:
    """An answer that ran into the model's limit is one."""
    answer, _ = codex.played(faults.length("Once upon a"), provider=alone)
    assert (answer.text, answer.finish_reason) == ("Once upon a", "length")


@pytest.mark.programs
def test_the_backend_of_the_complaint_generator(codex: Any) -> None:
    """Its presets that codex cannot pass on are left out, and it answers."""
    options = {"program": codex.options["program"]}
    with CodexBackend(model="gpt-5.5", base_url=codex.server.url, options=options, timeout=60) as backend:
        assert backend("Hello") == "You said: Hello"
        assert (backend.id, backend.provider) == ("codex", "codex")
    assert os.path.exists(codex.options["program"])
