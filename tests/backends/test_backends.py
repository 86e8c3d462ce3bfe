"""The complaint generator's constructors: what they take, what they return, what they raise."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import distributions

import pointsman
import pytest
from backends.exceptions import AuthenticationError, BackendError, ConfigError, ModelNotFoundError, RateLimitError
from pointsman import AllBackendsFailed, Backend
from pointsman.config import PUBLISHED
from pointsman.testing import FaultServer, faults
from pointsman.testing.doubles import Scripted

import backends
from backends import (
    ClaudeBackend,
    GeminiBackend,
    HuggingFaceBackend,
    LLMRouterBackend,
    OpenAIBackend,
    OpenRouterBackend,
    WorkstationBackend,
    exceptions,
)

Serve = Callable[..., FaultServer]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key or address of the person who runs the tests is used."""
    for name in list(os.environ):
        if name.startswith(
            ("OPENAI_", "OPENROUTER_", "HF_", "HUGGING", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "POINTSMAN_")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN_PATH", "nowhere")


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the plugins, only the example is there."""
    found = [one for one in distributions() if one.name.split("-")[-1] not in PUBLISHED]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: found)


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a server that is not there."""
    with faults.nobody_listens() as url:
        yield url


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter; warnings are errors there too."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )


# -- answers ---------------------------------------------------------------------------------


def test_an_answer_is_text_however_it_is_asked_for(fault_server: Serve) -> None:
    """`generate` and the object itself return the answer's text."""
    with OpenAIBackend(model="gpt-4", base_url=fault_server().url) as backend:
        assert backend.generate("Hello") == "You said: Hello"
        assert backend.generate(prompt="Hello") == "You said: Hello"
        assert backend("Hello") == "You said: Hello"
        assert backend([{"role": "user", "content": "Hello"}]) == "You said: Hello"


def test_an_answer_has_128_tokens_and_temperature_07_unless_told(fault_server: Serve) -> None:
    """The presets are 128 and 0.7; what a call says goes before them; what is None is not sent."""
    server = fault_server()
    with OpenAIBackend(model="gpt-4", base_url=server.url) as backend:
        backend("Hello")
        backend.generate("Hello", max_tokens=7, temperature=0.0)
    with OpenAIBackend(model="gpt-4", base_url=server.url, max_tokens=None, temperature=None, top_p=0.5) as backend:
        backend("Hello")
    first, second, third = (seen.body for seen in server.asked)
    assert (tokens(first), first["temperature"]) == (128, 0.7)
    assert (tokens(second), second["temperature"]) == (7, 0.0)
    assert (tokens(third), "temperature" in third, third["top_p"]) == (None, False, 0.5)


def test_a_refused_temperature_is_left_out(fault_server: Serve) -> None:
    """A model that refuses the preset temperature answers without it, and is not sent it again."""
    server = fault_server(faults.unsupported("temperature"))
    with OpenAIBackend(model="o3", base_url=server.url) as backend:
        assert backend("Hello") == "You said: Hello"
        assert backend("Again") == "You said: Again"
    assert ["temperature" in seen.body for seen in server.asked] == [True, False, False]


def test_the_router_beneath_gives_the_whole_completion(fault_server: Serve) -> None:
    """`.router` is the Router, with everything that text alone does not tell."""
    with OpenAIBackend(id="main", model="gpt-4", base_url=fault_server().url) as backend:
        completion = backend.router.generate("Hello")
        assert completion.backend == "main"
        assert completion.usage is not None
        assert "".join(chunk.text for chunk in backend.router.stream("Hello")) == "You said: Hello"


def test_a_backend_knows_its_names() -> None:
    """`id`, `provider` and `model` are what was given."""
    backend = LLMRouterBackend(id="llm", provider="openai", model="gpt-4")
    assert (backend.id, backend.provider, backend.model) == ("llm", "openai", "gpt-4")
    assert repr(backend) == "LLMRouterBackend(id='llm', provider='openai', model='gpt-4')"
    assert backends.LLMRouter is LLMRouterBackend
    assert LLMRouterBackend(provider="workstation").provider == "local"


HOSTED = [
    (OpenAIBackend, "openai", "OPENAI_API_KEY", "/v1"),
    (HuggingFaceBackend, "hf", "HUGGINGFACE_API_KEY", "/v1"),
    (OpenRouterBackend, "openrouter", "OPENROUTER_API_KEY", "/api/v1"),
]


@pytest.mark.parametrize(("cls", "kind", "variable", "path"), HOSTED)
def test_each_service_has_its_backend(
    fault_server: Serve, monkeypatch: pytest.MonkeyPatch, cls: type[OpenAIBackend], kind: str, variable: str, path: str
) -> None:
    """It takes the same arguments, finds its key in its own variable, and asks with its own plugin."""
    monkeypatch.setenv(variable, "a-key-of-nobody")
    server = fault_server()
    with cls(model="maker/model", base_url=server.origin + path, options={"context_window": 9}) as backend:
        assert backend("Hello") == "You said: Hello"
        assert (backend.id, backend.provider) == (cls.name, kind)
        assert backend.router.backends[0].context_window == 9
    (seen,) = server.asked
    assert (seen.path, seen.key) == (f"{path}/chat/completions", "a-key-of-nobody")
    assert (seen.body["model"], tokens(seen.body), seen.body["temperature"]) == ("maker/model", 128, 0.7)


@pytest.mark.parametrize(
    ("cls", "variable", "path"),
    [
        (ClaudeBackend, "ANTHROPIC_API_KEY", "/v1/messages"),
        (GeminiBackend, "GEMINI_API_KEY", "/v1beta/models/a-model:generateContent"),
    ],
)
def test_each_vendor_has_its_backend(
    fault_server: Serve, monkeypatch: pytest.MonkeyPatch, cls: type[OpenAIBackend], variable: str, path: str
) -> None:
    """The same, with an API of its own."""
    monkeypatch.setenv(variable, "a-key-of-nobody")
    server = fault_server()
    with cls(model="a-model", base_url=server.origin, options={"context_window": 9}) as backend:
        assert backend("Hello") == "You said: Hello"
        assert (backend.id, backend.provider) == (cls.name, cls.kind)
        assert backend.router.backends[0].context_window == 9
    (seen,) = server.asked
    assert (seen.path, seen.key, seen.model) == (path, "a-key-of-nobody", "a-model")
    sent = seen.body.get("generationConfig", seen.body)
    assert (sent.get("max_tokens", sent.get("maxOutputTokens")), sent["temperature"]) == (128, 0.7)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("openai", "openai"), ("openrouter", "openrouter"), ("huggingface", "hf"), ("hf", "hf"), ("workstation", "local"),
     ("anthropic", "claude"), ("claude", "claude"), ("gemini", "gemini"), ("codex_cli", "codex"), ("codex", "codex"),
     ("copilot_cli", "copilot"), ("copilot", "copilot"), ("local", "local")],
)  # fmt: skip
def test_every_name_of_the_guide_is_known(name: str, kind: str) -> None:
    """As a provider and as a fallback, whether its plugin is installed or not."""
    with LLMRouterBackend(provider=name, fallback_providers=[name]) as backend:
        assert (backend.provider, [one.type for one in backend.router.backends]) == (kind, [kind, kind])


# -- fallback --------------------------------------------------------------------------------


def test_a_fallback_answers_for_a_dead_provider(fault_server: Serve, dead: str) -> None:
    """A named fallback uses its own plugin, without the model, address and key of the first provider."""
    key = "sk-of-the-first-provider"
    with LLMRouterBackend(
        provider="openai", model="gpt-4", base_url=dead, api_key=key, fallback_providers=["echo"]
    ) as backend:
        assert backend("Hello") == "Hello"
        completion = backend.router.generate("Hello")
    assert completion.backend == "llm-router/echo"
    assert completion.model is None


def test_a_fallback_may_name_its_model(fault_server: Serve, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """\"provider/model\" asks that model; the rest of the name may hold further slashes."""
    server = fault_server()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with LLMRouterBackend(
        provider="openai", model="gpt-4", base_url=dead, fallback_providers=["openai/meta/llama-3"], max_tokens=9
    ) as backend:
        assert backend("Hello") == "You said: Hello"
    (seen,) = server.asked
    assert seen.body["model"] == "meta/llama-3"
    assert (tokens(seen.body), seen.body["temperature"]) == (9, 0.7)


def test_a_fallback_may_be_an_object_with_its_own_settings(fault_server: Serve, dead: str) -> None:
    """Objects and names are asked in the order given; an object keeps its model and its presets."""
    broken, server = fault_server(faults.status(503)), fault_server()
    spare = OpenAIBackend(id="spare", model="gpt-5-mini", base_url=server.url, max_tokens=500, max_retries=0)
    with LLMRouterBackend(
        provider="openai",
        model="gpt-4",
        base_url=dead,
        max_retries=0,
        fallback_providers=[OpenAIBackend(id="ill", base_url=broken.url, model="m", max_retries=0), spare, "echo"],
    ) as backend:
        completion = backend.router.generate("Hello")
        order = [place.backend.id for place in backend.router.order()]
    assert completion.text == "You said: Hello"
    assert [attempt.backend for attempt in completion.attempts] == ["llm-router", "ill", "spare"]
    assert (server.asked[0].body["model"], tokens(server.asked[0].body)) == ("gpt-5-mini", 500)
    assert set(order) == {"llm-router", "ill", "spare", "llm-router/echo"}


def test_a_fallback_may_be_a_backend_of_pointsman(dead: str) -> None:
    """What `pointsman.Router` takes is a fallback too."""
    provider = Scripted("I am here.")
    with LLMRouterBackend(
        provider="openai", base_url=dead, fallback_providers=[Backend(provider, id="own", priority=3)]
    ) as backend:
        assert backend("Hello") == "I am here."
    assert provider.closed == 1


def test_further_options_reach_the_first_provider() -> None:
    """`options` are those of its plugin, checked like any others."""
    with LLMRouterBackend(provider="echo", options={"suffix": "!"}, fallback_providers=["echo"]) as backend:
        assert backend("Hello") == "Hello!"
    with pytest.raises(ConfigError, match=r"LLMRouterBackend\.sufix: unknown key; did you mean suffix"):
        LLMRouterBackend(provider="echo", options={"sufix": "!"})


def test_one_fallback_needs_no_list(dead: str) -> None:
    """A single name is taken for a list of one."""
    with LLMRouterBackend(provider="openai", model="m", base_url=dead, fallback_providers="echo") as backend:
        assert backend("Hello") == "Hello"


def test_no_fallback_may_be_none(dead: str) -> None:
    """A setting that is absent is often None: then there is no fallback, and the error is the provider's own."""
    with (
        LLMRouterBackend(
            provider="openai", model="m", base_url=dead, fallback_providers=None, max_retries=0
        ) as backend,
        pytest.raises(pointsman.UnavailableError),
    ):
        backend("Hello")


def test_what_can_be_no_fallback_is_told() -> None:
    """Its place, what was found and what was expected."""
    with pytest.raises(ConfigError, match=r"LLMRouterBackend\.fallback_providers\[1\]: found int, expected a name"):
        LLMRouterBackend(provider="echo", fallback_providers=["echo", 5])  # type: ignore[list-item]  # the mistake


def test_when_all_fail_every_reason_is_told(fault_server: Serve, dead: str) -> None:
    """Several that fail are one error, which is a BackendError too."""
    spare = OpenAIBackend(id="spare", model="m", base_url=fault_server(faults.bad_key()).url, max_retries=0)
    with (
        LLMRouterBackend(
            provider="openai", model="gpt-4", base_url=dead, fallback_providers=[spare], max_retries=0
        ) as backend,
        pytest.raises(BackendError) as caught,
    ):
        backend("Hello")
    assert isinstance(caught.value, AllBackendsFailed)
    assert [attempt.backend for attempt in caught.value.attempts] == ["llm-router", "spare"]


# -- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in exceptions.__all__ if name != "BatchError"])
def test_the_exceptions_are_those_of_pointsman(name: str) -> None:
    """Whoever catches the one has caught the other."""
    assert getattr(exceptions, name) is getattr(pointsman, name)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.rate_limited(retry_after="3600"), RateLimitError),
        (faults.bad_key(), AuthenticationError),
        (faults.unknown_model(), ModelNotFoundError),
    ],
)
def test_a_failure_has_the_class_that_the_guide_names(
    fault_server: Serve, fault: faults.Fault, error: type[BackendError]
) -> None:
    """Rate limit, key and model are told apart, by name and id."""
    url = fault_server(fault).url
    with OpenAIBackend(id="main", model="gpt-4", base_url=url) as backend, pytest.raises(error, match=r"^main: "):
        backend("Hello")


def test_a_missing_key_is_told_by_the_first_call() -> None:
    """Without a key the backend can be made; the call says what to do."""
    with OpenAIBackend(model="gpt-4") as backend, pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        backend("Hello")


@pytest.mark.parametrize("kind", [OpenAIBackend, HuggingFaceBackend, WorkstationBackend, LLMRouterBackend])
def test_a_misspelt_argument_is_an_error(kind: type[OpenAIBackend]) -> None:
    """Constructors take the arguments that they name, and no others."""
    with pytest.raises(TypeError, match="max_token"):
        kind(max_token=5)  # type: ignore[call-arg]  # the mistake under test


def test_every_wrong_argument_is_told_at_once() -> None:
    """The message names the class and the argument, what was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        OpenAIBackend(model=5, temperature=9)  # type: ignore[arg-type]  # the mistake under test
    assert caught.value.problems == (
        "OpenAIBackend.model: found 5, expected text",
        "OpenAIBackend.temperature: found 9, expected a number from 0 to 2",
    )


def test_a_plugin_that_is_not_installed_is_named_with_the_command(none_installed: None) -> None:
    """The error of a call is the command that mends it, for each provider; a typo is told at once."""
    with pytest.raises(BackendError) as caught:
        LLMRouterBackend(provider="copilot_cli", fallback_providers=["huggingface"]).generate("?")
    text = str(caught.value)
    assert "pip install pointsman-copilot" in text
    assert "pip install pointsman-hf" in text
    with pytest.raises(ConfigError, match="did you mean 'echo'"):
        LLMRouterBackend(provider="ehco")


def test_a_fallback_whose_plugin_is_not_installed_costs_nobody_else(none_installed: None) -> None:
    """The others answer; the order says what to install."""
    backend = LLMRouterBackend(provider="copilot_cli", fallback_providers=["echo"])
    assert backend.generate("Name three rivers.") == "Name three rivers."
    assert "pip install pointsman-copilot" in backend.router.order("?")[-1].reason


def test_an_unknown_option_of_a_call_is_an_error() -> None:
    """Calls check their options as the Router does."""
    with LLMRouterBackend(provider="echo") as backend, pytest.raises(ConfigError, match="did you mean max_tokens"):
        backend.generate("Hello", max_token=5)  # type: ignore[call-arg]  # the mistake under test


def test_no_key_is_in_any_traceback(fault_server: Serve) -> None:
    """Neither a wrong argument nor a refusing server shows the key, not even with all local variables."""
    key = "sk-" + "a1b2c3d4" * 4

    def made(**arguments: object) -> OpenAIBackend:
        return OpenAIBackend(api_key=keys.pop(), model="m", **arguments)  # type: ignore[arg-type]  # any may be wrong

    keys = [key, key]
    with pytest.raises(ConfigError) as wrong:
        made(temperature=9)
    with made(base_url=fault_server(faults.bad_key()).url) as backend:
        assert key not in repr(backend) + repr(vars(backend))
        with pytest.raises(AuthenticationError) as refused:
            backend("Hello")
    del key
    for error in (wrong.value, refused.value):
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "a1b2c3d4a1b2" not in shown


# -- importing -------------------------------------------------------------------------------


def test_the_modules_of_the_guide_import() -> None:
    """Every module that the generator's guide names is there, and warns of nothing."""
    run(
        "import backends.exceptions\n"
        "from backends import LLMRouterBackend, OpenAIBackend, WorkstationBackend, load\n"
        "from backends.llm_router_backend import LLMRouterBackend as A\n"
        "from backends.openai import OpenAIBackend as B\n"
        "from backends.openaibackend import OpenAIBackend as C\n"
        "from backends.workstation import WorkstationBackend as D\n"
        "from backends.huggingface import HuggingFaceBackend\n"
        "from backends.openrouter import OpenRouterBackend\n"
        "from backends.claude import ClaudeBackend\n"
        "from backends.gemini import GeminiBackend\n"
        "assert (A, B, C, D) == (LLMRouterBackend, OpenAIBackend, OpenAIBackend, WorkstationBackend)\n"
    )


def test_importing_loads_no_provider() -> None:
    """No plugin, no HTTP library and no engine is imported before a backend is made."""
    code = (
        "import sys\nfrom backends import LLMRouterBackend, OpenAIBackend, WorkstationBackend, load\n"
        "print([m for m in sys.modules if m.startswith(('pointsman_', 'requests', 'urllib3', 'xllamacpp', 'openai'))])"
    )
    assert run(code).stdout == "[]\n"


def test_the_module_openai_hides_no_package() -> None:
    """`import openai` means the package, also after `backends.openai`."""
    run("import backends.openai, openai\nassert 'backends' not in openai.__file__ and hasattr(openai, 'OpenAI')")


def test_verbose_shows_each_attempt_and_no_content() -> None:
    """`verbose=True` writes ids, outcome and duration to stderr, never the prompt."""
    done = run("from backends import LLMRouterBackend\nLLMRouterBackend(provider='echo', verbose=True)('my words')")
    assert "llm-router" in done.stderr
    assert "answered" in done.stderr
    assert "my words" not in done.stderr


def tokens(body: dict[str, int]) -> int | None:
    """The limit of the answer, whichever of its two names the wire has."""
    return body.get("max_tokens", body.get("max_completion_tokens"))
