"""`backends.load`: one configuration, one mapping of ids to backends."""

from __future__ import annotations

import json
import tomllib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman import AuthenticationError, BackendError, ConfigError, Router
from pointsman.testing import FaultServer, faults

from backends import LLMRouterBackend, OpenAIBackend, TextBackend, WorkstationBackend, load

Serve = Callable[..., FaultServer]


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a server that is not there."""
    with faults.nobody_listens() as url:
        yield url


def only(entry: dict[str, Any], **sections: Any) -> TextBackend:
    """Load a configuration of one backend and return that."""
    (made,) = load({"BACKENDS": [entry], **sections}).values()
    return made


def test_a_file_gives_a_backend_for_each_entry(
    fault_server: Serve, dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form of the design: OpenAI, a workstation, and a router with fallbacks; JSON and TOML alike."""
    monkeypatch.setenv("MAIN_KEY", "sk-from-the-environment")
    server = fault_server()
    (tmp_path / "pointsman.json").write_text(
        json.dumps(
            {
                "BACKENDS": [
                    {"id": "main", "type": "openai", "model": "m", "base_url": server.url, "api_key": "${MAIN_KEY}"},
                    {"id": "spare", "type": "workstation", "model_path": "model.gguf", "n_ctx": 4096},
                    {
                        "id": "llm-router",
                        "type": "llm_router",
                        "provider": "openai",
                        "base_url": dead,
                        "model": "m",
                        "fallback_providers": ["echo"],
                    },
                ],
                "MEDIATOR": {"backends": ["llm-router"], "timeout": 30, "max_retries": 3},
            }
        )
    )
    made = load(tmp_path / "pointsman.json")
    assert [type(made[name]) for name in ("main", "spare", "llm-router")] == [
        OpenAIBackend,
        WorkstationBackend,
        LLMRouterBackend,
    ]
    assert list(made) == ["main", "spare", "llm-router"]
    assert made["main"]("Hello") == "You said: Hello"
    assert made["llm-router"]("Hello") == "Hello"
    assert server.asked[0].key == "sk-from-the-environment"
    for backend in made.values():
        backend.close()


def test_toml_says_the_same(tmp_path: Path) -> None:
    """A TOML file, and the mapping that it holds, give the same backends."""
    text = '[[BACKENDS]]\nid = "one"\ntype = "echo"\nsuffix = "!"\n'
    (tmp_path / "pointsman.toml").write_text(text)
    for source in (str(tmp_path / "pointsman.toml"), tomllib.loads(text)):
        assert load(source)["one"]("Hello") == "Hello!"


def test_the_presets_hold_for_what_an_entry_leaves_open(fault_server: Serve) -> None:
    """128 tokens and temperature 0.7, unless the entry says otherwise."""
    server = fault_server()
    only({"id": "a", "type": "openai", "model": "m", "base_url": server.url})("Hello")
    only({"id": "b", "type": "openai", "model": "m", "base_url": server.url, "max_tokens": 5})("Hello")
    bodies = [seen.body for seen in server.asked]
    assert [body.get("max_tokens", body.get("max_completion_tokens")) for body in bodies] == [128, 5]
    assert [body["temperature"] for body in bodies] == [0.7, 0.7]


def test_the_section_router_holds_for_each_backend(fault_server: Serve) -> None:
    """A time limit of ROUTER ends the call of any backend."""
    entry = {"id": "a", "type": "openai", "model": "m", "base_url": fault_server(faults.silent()).url}
    with only(entry, ROUTER={"timeout": 0.5}) as backend, pytest.raises(TimeoutError):
        backend("Hello")


def test_a_variable_that_is_not_set_harms_its_own_backend_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of that backend names the variable; the others answer."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    made = load(
        {
            "BACKENDS": [
                {"id": "a", "type": "openai", "model": "m", "api_key": "${NO_SUCH_KEY}"},
                {"id": "b", "type": "echo"},
            ]
        }
    )
    assert made["b"]("Hello") == "Hello"
    with pytest.raises(BackendError, match="set NO_SUCH_KEY in the environment"):
        made["a"]("Hello")


def test_every_problem_is_told_with_its_path() -> None:
    """Unknown keys, wrong values and types that nobody knows, all at once."""
    with pytest.raises(ConfigError) as caught:
        load(
            {
                "BACKENDS": [
                    {"id": "a", "type": "openai", "max_token": 5},
                    {"id": "b", "type": "antropic", "model": "m"},
                ]
            }
        )
    text = str(caught.value)
    assert "BACKENDS[0].max_token: unknown key; did you mean max_tokens?" in text
    assert "BACKENDS[1].type" in text


def test_no_key_is_in_the_traceback_of_a_wrong_configuration() -> None:
    """Not even with all local variables."""
    entry: dict[str, object] = {"id": "a", "type": "openai", "temperature": 9, "api_key": "a1b2c3d4" * 4}
    with pytest.raises(ConfigError) as caught:
        load({"BACKENDS": [entry]})
    entry.clear()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    assert "a1b2c3d4a1b2" not in "".join(shown)


def test_one_file_serves_the_router_too(dead: str) -> None:
    """`Router.from_config` reads an entry of type llm_router as its provider and its fallbacks."""
    entry = {
        "id": "r",
        "type": "llm_router",
        "provider": "openai",
        "base_url": dead,
        "model": "m",
        "fallback_providers": ["echo"],
    }
    with Router.from_config({"BACKENDS": [entry]}) as router:
        completion = router.generate("Hello")
    assert completion.text == "Hello"
    assert [attempt.backend for attempt in completion.attempts][-1] == "r/echo"
    assert completion.attempts[0].backend == "r"


def test_a_refused_key_raises_through_load(fault_server: Serve) -> None:
    """Errors are those of the guide, whoever made the backend."""
    entry = {"id": "a", "type": "openai", "model": "m", "base_url": fault_server(faults.bad_key()).url}
    with pytest.raises(AuthenticationError):
        only(entry)("Hello")
