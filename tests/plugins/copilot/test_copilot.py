"""Copilot's own: its variables, its login, GitHub's service, and what it says when it is started for one request."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pointsman import (
    AuthenticationError,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    UnavailableError,
)
from pointsman.testing import FaultServer, faults
from pointsman_copilot import Copilot
from pointsman_copilot._errors import failure

from backends import CopilotBackend, HuggingFaceBackend, LLMRouterBackend, OpenAIBackend

VARIABLES = ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN", "COPILOT_MODEL", "COPILOT_HOME", "COPILOT_CACHE_HOME")
OF_URL = {"BASE_URL": "http://127.0.0.1:9/v1", "API_KEY": "sk-of-the-environment", "WIRE_API": "responses"}
TOKEN = "gho_0123456789abcdefghij0123456789abcdef"


@pytest.fixture
def copilot(kinds: Callable[[str], Any]) -> Any:
    """The real one."""
    return kinds("copilot")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *(f"COPILOT_PROVIDER_{name}" for name in (*OF_URL, "TYPE"))):
        monkeypatch.delenv(name, raising=False)


# -- its variables ------------------------------------------------------------------------------------


def test_its_own_variables_are_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in copilot's own variables is taken with its key, its wire and the model."""
    for name, value in OF_URL.items():
        monkeypatch.setenv(f"COPILOT_PROVIDER_{name}", value)
    monkeypatch.setenv("COPILOT_MODEL", "theirs")
    monkeypatch.setenv("GH_TOKEN", TOKEN)
    it = Copilot()
    assert (it.base_url, it.wire_api, it.model) == (OF_URL["BASE_URL"], "responses", "theirs")
    assert it.api_key is not None
    assert it.api_key.reveal() == OF_URL["API_KEY"]


def test_the_variables_are_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's key and wire go with its address, and to no other server."""
    for name in ("API_KEY", "WIRE_API"):
        monkeypatch.setenv(f"COPILOT_PROVIDER_{name}", OF_URL[name])
    monkeypatch.setenv("GH_TOKEN", TOKEN)
    other = Copilot(base_url="http://127.0.0.1:8/v1")
    assert (other.api_key, other.wire_api) == (None, "completions")
    github = Copilot()
    assert github.api_key is not None
    assert github.api_key.reveal() == TOKEN


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TYPE", "anthropic", "only openai"),
        ("WIRE_API", "grpc", "completions or responses"),
        ("BASE_URL", "x", "base_url"),
    ],
)
def test_variables_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, fake_program: Any, name: str, value: str, words: str
) -> None:
    """A server that we cannot ask is told, and not asked in another way."""
    for each, usual in {**OF_URL, name: value}.items():
        monkeypatch.setenv(f"COPILOT_PROVIDER_{each}", usual)
    assert words in Copilot(program=fake_program("pass"), model="m").missing


def test_a_server_needs_a_model(fake_program: Any) -> None:
    """With an address, somebody must name the model."""
    assert "COPILOT_MODEL" in Copilot(program=fake_program("pass"), base_url="http://127.0.0.1:9/v1").missing


# -- its options --------------------------------------------------------------------------------------


@pytest.mark.programs
@pytest.mark.parametrize("name", ["copilot", "copilot responses"])
def test_the_length_is_limited(kinds: Callable[[str], Any], name: str) -> None:
    """A limit of the answer's length reaches a server of one's own, on both wires."""
    kind = kinds(name)
    kind.answered(kind.asking(max_tokens=9))
    assert kind.sent.get("max_tokens", kind.sent.get("max_output_tokens")) == 9


@pytest.mark.programs
def test_an_effort_of_none(copilot: Any, kinds: Callable[[str], Any]) -> None:
    """Chat completions have no effort of none: that is told; the Responses API has it."""
    (warning,) = copilot.answered(copilot.asking(reasoning_effort="none")).warnings
    assert "reasoning_effort" in warning
    assert "reasoning_effort" not in copilot.sent
    responses = kinds("copilot responses")
    assert responses.answered(responses.asking(reasoning_effort="none")).warnings == ()
    assert responses.sent["reasoning"]["effort"] == "none"


@pytest.mark.programs
def test_a_summary_of_the_thoughts(kinds: Callable[[str], Any]) -> None:
    """Of `extra`, what does not let copilot do more than speak goes with the request; nonsense is not tried again."""
    kind = kinds("copilot responses")
    kind.answered(kind.asking(extra={"reasoningSummary": "none"}))
    assert "summary" not in kind.sent["reasoning"]
    with pytest.raises(UnavailableError, match="nonsense") as caught:
        kind.answered(kind.asking(extra={"reasoningSummary": "nonsense"}))
    assert not caught.value.retry_same


def test_what_github_does_not_take(copilot_of_github: Copilot) -> None:
    """GitHub's service takes no limit of the length."""
    assert {"max_tokens", "stop"} <= copilot_of_github.unsupported(request())


@pytest.fixture
def copilot_of_github() -> Copilot:
    """One without an address."""
    return Copilot(api_key=TOKEN)


def request() -> Any:
    """Return any request."""
    from pointsman import Message, Request

    return Request((Message("user", "Hello"),))


# -- the login ----------------------------------------------------------------------------------------

HEAD = "// User settings belong in settings.json.\n// This file is managed automatically.\n"
LOGIN = {
    "authTokens": {"https://github.com:ann:github": {"token": TOKEN}},
    "loggedInUsers": [{"host": "https://github.com", "login": "ann", "kind": "githubDotCom"}],
    "lastLoggedInUser": {"host": "https://github.com", "login": "ann"},
}


@pytest.mark.parametrize("head", ["", HEAD, "\ufeff"])
def test_a_login_is_found(tmp_path: Path, fake_program: Any, head: str) -> None:
    """A login is found in what `copilot login` writes, with its comments, and nothing else of it is copied."""
    (tmp_path / "config.json").write_text(head + json.dumps({**LOGIN, "trustedFolders": ["/"]}, indent=2))
    it = Copilot(program=fake_program('print("Copilot 1.0.102")'), home=str(tmp_path), cache=str(tmp_path))
    assert it.health().usable
    folder = tmp_path / "folder"
    folder.mkdir()
    it.protocol().prepare(folder, lambda launch: "")
    assert json.loads((folder / "config.json").read_text()) == LOGIN


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", "[1]", '"x"', '{"includeCoAuthoredBy": true}', '{"lastTokenRefresh": 1}', '{"authTokens": {}}'),
        json.dumps({"loggedInUsers": LOGIN["loggedInUsers"]}),
    ],
)
def test_what_is_no_login(tmp_path: Path, fake_program: Any, content: str) -> None:
    """A file without a token is no login, whatever else it holds: health says what to do."""
    (tmp_path / "config.json").write_text(content)
    it = Copilot(program=fake_program("pass"), home=str(tmp_path))
    assert it.health().status == "unconfigured"
    assert "copilot login" in it.missing


def test_the_host_of_the_login_is_told(tmp_path: Path, fake_program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GitHub of one's own is asked where it lies, and a token goes nowhere else; with an address, neither counts."""
    monkeypatch.setenv("GH_HOST", "mine.ghe.com")
    for options, expected in (({"api_key": TOKEN}, "mine.ghe.com"), ({"base_url": OF_URL["BASE_URL"]}, None)):
        it = Copilot(program=fake_program("pass"), model="m", **options)
        launch = it.protocol().prepare(tmp_path, lambda launch: "")
        assert launch.environment.get("GH_HOST") == expected
        assert (TOKEN in launch.environment.values()) is ("api_key" in options)
        assert TOKEN not in " ".join(launch.command)


def test_a_disk_that_is_full(fake_program: Any, no_leaks: None) -> None:
    """Where the conversation cannot be written down, that is told, and it is no answer of copilot's."""
    code = 'open("../session-state", "w")\nfor line in sys.stdin.buffer:\n    size = int(line.split(b":")[1])\n'
    code += "    sys.stdin.buffer.readline()\n    m = json.loads(sys.stdin.buffer.read(size))\n"
    code += '    data = json.dumps({"id": m["id"], "result": {}}).encode()\n'
    code += '    os.write(1, b"Content-Length: %d\\r\\n\\r\\n" % len(data) + data)'
    it = Copilot(program=fake_program(code), base_url=OF_URL["BASE_URL"], model="m")
    with pytest.raises(UnavailableError, match="cannot be written") as caught:
        list(it.stream(request()))
    assert not caught.value.retry_same
    it.close()


# -- GitHub's service, by one that stands for it ------------------------------------------------------

USER = {
    "login": "ann",
    "copilot_plan": "individual",
    "chat_enabled": True,
    "endpoints": {
        "api": "https://api.githubcopilot.com",
        "telemetry": "https://copilot-telemetry.githubusercontent.com",
    },
    "organization_list": [],
    "quota_snapshots": {},
}
MODEL = {
    "id": "gpt-5-mini",
    "name": "GPT-5 mini",
    "object": "model",
    "vendor": "OpenAI",
    "version": "1",
    "model_picker_enabled": True,
    "policy": {"state": "enabled", "terms": ""},
    "capabilities": {
        "family": "gpt-5-mini",
        "type": "chat",
        "tokenizer": "o200k_base",
        "limits": {"max_context_window_tokens": 128000, "max_output_tokens": 16000, "max_prompt_tokens": 128000},
        "supports": {"streaming": True, "tool_calls": True},
    },
    "supported_endpoints": ["/chat/completions"],
}


def github(host: str, what: str) -> tuple[int, Any]:
    """Answer as GitHub does."""
    if "copilot_internal/user" in what:
        return 200, USER
    if what == "GET /user":
        return 200, {"login": "ann", "id": 1}
    if what.startswith("GET /models"):
        return 200, {"data": [MODEL], "object": "list"}
    if what.endswith("/chat/completions"):
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini"}
        delta = {"role": "assistant", "content": "Hello from GitHub."}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        said = {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        last = {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
        return 200, f"data: {json.dumps(said)}\n\ndata: {json.dumps(last)}\n\ndata: [DONE]\n\n"
    return 404, {}


@pytest.mark.programs
@pytest.mark.parametrize("how", ["token", "login"])
def test_github_is_asked_and_nothing_else(
    internet: Any, copilot: Any, made: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    """A token or a login gets its answer; there is no telemetry, and no server of tools is started."""
    internet.answer = github
    if how == "login":
        (tmp_path / "config.json").write_text(HEAD + json.dumps(LOGIN))
    key = TOKEN if how == "token" else None
    provider = made(copilot, base_url=None, api_key=key, home=str(tmp_path), model="gpt-5-mini")
    assert copilot.answered(copilot.asking("A secret."), provider).text == "Hello from GitHub."
    assert "gpt-5-mini" in [model.id for model in provider.list_models()]
    provider.close()  # what it would send at its end is sent
    assert [host for host, _, body in internet.log if b"A secret." in body] == ["api.githubcopilot.com"]
    assert internet.hosts() <= {"api.github.com", "api.githubcopilot.com"}
    assert not [what for _, what, _ in internet.log if "mcp" in what or "telemetry" in what]


@pytest.mark.programs
@pytest.mark.parametrize("token", [TOKEN, "github_pat_0123456789abcdefghij", "ghp_" + 4 * "0123456789"])
def test_a_token_that_github_does_not_take(internet: Any, copilot: Any, made: Callable[..., Any], token: str) -> None:
    """A token that is wrong, old, or of a kind that copilot does not take, is told with what to do, and no retry."""
    internet.answer = lambda host, what: (401, {"message": "Bad credentials"})
    with pytest.raises(AuthenticationError, match="copilot login") as caught:
        copilot.answered(copilot.asking(), made(copilot, base_url=None, api_key=token, model="gpt-5-mini"))
    assert not caught.value.retry_same
    assert token not in copilot.shown(caught.value)


@pytest.mark.programs
def test_what_github_refuses(internet: Any, copilot: Any, made: Callable[..., Any]) -> None:
    """A quota that is spent, a model that is none, a service that fails: each has its class."""
    provider = made(copilot, base_url=None, api_key=TOKEN, model="gpt-5-mini")
    for status, code, message, expected in (
        (402, "quota_exceeded", "You have no premium requests left", QuotaError),
        (429, "quota_exceeded", "You have exceeded your monthly quota", QuotaError),
        (429, "rate_limited", "Sorry, you have exceeded your rate limit", RateLimitError),
        (400, "model_not_supported", "The requested model is not supported.", ModelNotFoundError),
        (500, "internal", "x", UnavailableError),
    ):
        refusal = status, {"error": {"code": code, "message": message}}
        internet.answer = partial(refused, refusal)
        found, _ = copilot.played(faults.well(), provider=provider)
        assert type(found) is expected, found


def refused(refusal: tuple[int, Any], host: str, what: str) -> tuple[int, Any]:
    """Answer as GitHub does, but for what the model is asked."""
    return refusal if what.endswith("/chat/completions") else github(host, what)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Authentication failed: Failed to fetch PAT user login (401): GitHub returned: Bad credentials",
            AuthenticationError,
        ),
        ("InvalidArg, No GitHub OAuth token or Copilot HMAC key provided", AuthenticationError),
        ("Authentication failed: network fetch failed", UnavailableError),
        ('Model "x" is not available.', ModelNotFoundError),
        ("You have exceeded your monthly quota", QuotaError),
        ("No response was returned", "UnusableAnswer"),
        ("non-streaming response body was not valid JSON", "UnusableAnswer"),
    ],
)
def test_what_it_says(message: str, expected: Any) -> None:
    """Its sentences mean what follows from them, where there is neither a status nor a code."""
    name = expected if isinstance(expected, str) else expected.__name__
    assert type(failure({"message": message, "errorType": "query"})).__name__ == name


# -- started for one request --------------------------------------------------------------------------


@pytest.mark.programs
def test_a_prompt_where_it_is_started_once(copilot: Any, made: Callable[..., Any]) -> None:
    """Of a model that it knows, copilot would keep a limit of its own: a long prompt arrives, and so does the limit."""
    provider = made(copilot)
    provider._keeper.refuse("of a test")
    copilot.answered(copilot.asking("é" * 1_200_000, max_tokens=9, reasoning_effort="high"), provider)
    assert copilot.sent["max_tokens"] == 9
    assert copilot.sent["reasoning_effort"] == "high"
    assert copilot.sent["model"] == "gpt-5.5"
    with pytest.raises(InvalidRequestError, match="schema"):
        copilot.answered(copilot.asking(schema={"type": "object"}), provider)


@pytest.mark.programs
def test_it_leaves_nothing_in_its_cache(copilot: Any, made: Callable[..., Any]) -> None:
    """A copilot that is closed, or ended in the middle, has tidied up what it shares with others."""
    cache = Path(copilot.options["cache"])
    before = set(cache.rglob("inuse.*"))
    provider = made(copilot)
    copilot.answered(copilot.asking(), provider)
    provider.close()
    provider._keeper.refuse("of a test")
    copilot.played(faults.bad_key(), provider=provider)
    assert set(cache.rglob("inuse.*")) == before


@pytest.mark.programs
def test_a_cache_that_cannot_be_written(copilot: Any, made: Callable[..., Any], tmp_path: Path) -> None:
    """Where copilot cannot unpack itself, its own words say so."""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UnavailableError, match=r"(?i)cache|extract|not a directory"):
        copilot.answered(copilot.asking(), made(copilot, cache=str(tmp_path / "cache")))


# -- the complaint generator --------------------------------------------------------------------------


@pytest.mark.programs
def test_the_backend_of_the_complaint_generator(copilot: Any) -> None:
    """Its presets that copilot cannot pass on are left out, and it answers."""
    own = {name: copilot.options[name] for name in ("program", "cache")}
    with CopilotBackend(model="gpt-5.5", base_url=copilot.server.url, options=own, timeout=60) as backend:
        assert backend("Hello") == "You said: Hello"
        assert (backend.id, backend.provider) == ("copilot", "copilot")
    assert copilot.sent["max_tokens"] == 128


@pytest.mark.programs
def test_the_chain_of_the_guide(copilot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copilot, then openai, then huggingface: each in turn is made to fail, and the next one answers."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    with FaultServer() as first, FaultServer() as second, FaultServer() as third:
        own = {name: copilot.options[name] for name in ("program", "cache")}
        backend = LLMRouterBackend(
            id="llm-router",
            provider="copilot_cli",
            model="gpt-5-mini",
            fallback_providers=[
                OpenAIBackend(model="gpt-4o-mini", base_url=second.url),
                HuggingFaceBackend(model="maker/model", base_url=third.url),
            ],
            options={**own, "base_url": first.url},
            timeout=60,
            max_retries=0,
        )
        with backend:
            for failing, answering in ((None, first), (first, second), (second, third)):
                if failing is not None:
                    failing.play(faults.status(503))
                assert backend("Hello") == "You said: Hello"
                assert len(answering.asked) == 1
