"""The guide's chain by its names alone: the real copilot, then OpenAI, then Hugging Face, each in turn made to fail."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman import AllBackendsFailed
from pointsman.testing import Fault, FaultServer, faults

import backends
from backends import LLMRouterBackend

pytestmark = pytest.mark.programs
KEYS = ("COPILOT_PROVIDER_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
PYTHON = {
    "id": "llm-router",
    "provider": "copilot_cli",
    "fallback_providers": ["openai", "huggingface"],
    "model": "gpt-5-mini",
    "max_tokens": 128,
}


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, real_program: Callable[[str], str]) -> Iterator[dict[str, FaultServer]]:
    """The three services, each where its variables say: nothing else is set."""
    for name in list(os.environ):
        if name.startswith(("COPILOT_", "GH_", "GITHUB_", "OPENAI_", "HF_", "HUGGING", "POINTSMAN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(real_program('copilot')).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COPILOT_CACHE_HOME", real_program("cache"))
    monkeypatch.setenv("HF_MODEL", "meta-llama/Llama-3.1-8B-Instruct")
    for name in KEYS:
        monkeypatch.setenv(name, f"sk-{name.lower()}-0123456789")
    with FaultServer() as copilot, FaultServer() as openai, FaultServer() as hf:
        monkeypatch.setenv("COPILOT_PROVIDER_BASE_URL", copilot.url)
        monkeypatch.setenv("OPENAI_BASE_URL", openai.url)
        monkeypatch.setenv("HF_BASE_URL", f"{hf.origin}/hf/v1")
        yield {"copilot": copilot, "openai": openai, "hf": hf}


@pytest.fixture(params=["Python", "JSON"])
def chain(request: pytest.FixtureRequest, tmp_path: Path, services: Any) -> Iterator[Any]:
    """The chain, as the guide's code and as its configuration file make it."""
    if request.param == "Python":
        with LLMRouterBackend(**PYTHON) as made:
            yield made
        return
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"BACKENDS": [{"type": "llm_router", **PYTHON}]}))
    with backends.load(path)["llm-router"] as made:
        yield made


def test_each_of_the_chain_in_turn(chain: Any, services: dict[str, FaultServer]) -> None:
    """Whoever is first of those that are well answers; what the others said stands in the attempts; keys stay apart."""
    ids = ["llm-router", "llm-router/openai", "llm-router/huggingface"]
    down: list[tuple[str, Fault]] = [
        ("copilot", faults.status(503)),
        ("openai", faults.bad_key()),
        ("hf", faults.status(500)),
    ]
    answer = chain.router.generate("Name a river.")
    assert (answer.text, answer.backend) == ("You said: Name a river.", ids[0])
    for number, (name, fault) in enumerate(down[:2], 1):
        services[name].play(fault)
        answer = chain.router.generate("Name a river.")
        assert (answer.text, answer.backend) == ("You said: Name a river.", ids[number])
    services["hf"].play(down[2][1])
    with pytest.raises(AllBackendsFailed) as failed:
        chain.generate("Name a river.")
    assert {error.backend for error in failed.value.exceptions} == {ids[0], ids[2]}
    assert re.search(rf"not asked: {ids[1]}: cooling down for 3[56]\d\d s more: ", failed.value.__notes__[0])
    for server, key in zip(services.values(), KEYS, strict=True):
        assert {seen.key for seen in server.asked} == {f"sk-{key.lower()}-0123456789"}
    assert services["openai"].asked[0].body["model"] == "gpt-5-mini"
    assert services["hf"].asked[0].body["model"] == "meta-llama/Llama-3.1-8B-Instruct"


def test_without_the_program_the_next_one_answers(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where copilot was never installed."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    answer = chain.router.generate("Name a river.", max_tokens=500)
    assert (answer.text, answer.backend) == ("You said: Name a river.", "llm-router/openai")
