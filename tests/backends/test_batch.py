"""`batch_generate`: texts in order, or a `BatchError` that has all of them, and all errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backends.exceptions import BackendError, BatchError, ConfigError
from pointsman import RateLimitError, Router, UnavailableError
from pointsman.testing import FaultServer, Scripted

from backends import LLMRouterBackend, OpenAIBackend, TextBackend, WorkstationBackend

Serve = Callable[..., FaultServer]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key or address of the person who runs the tests is used."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "POINTSMAN_MODEL"):
        monkeypatch.delenv(name, raising=False)


def answer(request: Any) -> str:
    """Answer with the prompt, but not everything."""
    if request.prompt == "bad":
        raise UnavailableError("down", retry_same=False)
    if request.prompt == "more":
        raise RateLimitError("too many", retry_after=3600)
    return str(request.prompt)


@pytest.mark.parametrize(
    "make",
    [
        lambda url: OpenAIBackend(model="m", base_url=url),
        lambda url: LLMRouterBackend(provider="openai", model="m", base_url=url),
    ],
)
def test_every_hosted_backend_answers_many_prompts(fault_server: Serve, make: Callable[[str], TextBackend]) -> None:
    """Texts in the order of the prompts, with the backend's own presets."""
    server = fault_server()
    with make(server.url) as backend:
        assert backend.batch_generate(["a", "b", "c"], max_workers=2, timeout=20) == [f"You said: {p}" for p in "abc"]
        assert backend.batch_generate((p for p in "de"), 1, 20, max_tokens=7) == ["You said: d", "You said: e"]
    limits = [visit.body.get("max_tokens") or visit.body["max_completion_tokens"] for visit in server.log]
    assert limits == [128, 128, 128, 7, 7]


def test_a_workstation_answers_many_prompts() -> None:
    """The model of this machine, some requests at once."""
    with WorkstationBackend(max_tokens=3) as backend:
        texts = backend.batch_generate(["Say yes.", "Say no."], max_workers=2, timeout=100)
    assert [bool(text) for text in texts] == [True, True]


def test_a_failure_raises_with_all_that_came(tmp_path: Path) -> None:
    """Every text and every error, in order; the failures stop no other; the journal keeps the answers."""
    provider = Scripted(answer)
    with TextBackend("b", Router([provider], max_retries=0)) as backend:
        with pytest.raises(BatchError, match=r"2 of 4 prompts failed; prompts\[1\]: scripted: down") as caught:
            backend.batch_generate(["a", "bad", "c", "more"], max_workers=1, journal=tmp_path / "j.db")
        assert backend.batch_generate(["a"], journal=tmp_path / "j.db") == ["a"]
    error = pickle.loads(pickle.dumps(caught.value))
    for one in (caught.value, error):
        assert isinstance(one, BatchError)
        assert [getattr(result, "message", result) for result in one.results][::2] == ["a", "c"]
        assert {place: type(failed) for place, failed in one.errors.items()} == {1: UnavailableError, 3: RateLimitError}
        assert one.results[1] is one.errors[1]
    assert issubclass(BatchError, BackendError)
    assert provider.calls == 4


def test_no_prompts_no_texts() -> None:
    """And a mistake of the call is a ConfigError."""
    with TextBackend("b", Router([Scripted(answer)])) as backend:
        assert backend.batch_generate([]) == []
        with pytest.raises(ConfigError, match="prompts: found str"):
            backend.batch_generate("a text")
