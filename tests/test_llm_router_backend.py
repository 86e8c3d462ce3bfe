"""The samples of the complaint generator's guide to its router, run as they stand there; so for those that follow.

Nothing in a sample is changed. What the reader has is set up instead: keys, programs, and services on loopback.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mediator import Mediator
from pointsman import AllBackendsFailed
from pointsman.testing import FaultServer, faults

from backends import LLMRouterBackend, load

Serve = Callable[..., FaultServer]

USAGE = """
from backends import LLMRouterBackend

backend = LLMRouterBackend(
    id='llm-router',
    provider='copilot_cli',
    model='gpt-5-mini',
    max_tokens=256,
    temperature=0.7
)

# Generate text
response = backend.generate(
    prompt="Extract legal claims from: [complaint text]",
    max_tokens=500
)

print(response)
"""

FALLBACK = """
# Configure with fallback chain
backend = LLMRouterBackend(
    id='llm-router',
    provider='copilot_cli',  # Primary
    fallback_providers=['openai', 'huggingface'],  # Fallbacks
    model='gpt-5-mini'
)

# Request will try copilot_cli first, then openai, then huggingface
response = backend.generate(prompt)
"""

RATE_LIMIT = """
backend = LLMRouterBackend(
    id='llm-router',
    provider='openai',
    model='gpt-4',
    rate_limit=60,  # Requests per minute
    rate_limit_window=60  # Window in seconds
)
"""

BATCH = """
prompts = [
    "Analyze complaint 1...",
    "Analyze complaint 2...",
    "Analyze complaint 3..."
]

responses = backend.batch_generate(
    prompts=prompts,
    max_workers=4,  # Parallel workers
    timeout=30  # Timeout per request
)

for prompt, response in zip(prompts, responses):
    print(f"Prompt: {prompt[:50]}...")
    print(f"Response: {response[:100]}...\\n")
"""

ERRORS = """
from backends import LLMRouterBackend
from backends.exceptions import (
    BackendError,
    RateLimitError,
    AuthenticationError,
    ModelNotFoundError
)

backend = LLMRouterBackend(id='llm', provider='openai', model='gpt-4')

try:
    response = backend.generate(prompt)
except RateLimitError as e:
    print(f"Rate limit exceeded: {e}")
    # Wait and retry
except AuthenticationError as e:
    print(f"Authentication failed: {e}")
    # Check API key
except ModelNotFoundError as e:
    print(f"Model not found: {e}")
    # Try different model
except BackendError as e:
    print(f"Backend error: {e}")
    # Fallback to alternative backend
"""

LOGGING = """
import logging

logging.basicConfig(level=logging.DEBUG)

backend = LLMRouterBackend(
    id='llm',
    provider='openai',
    model='gpt-4',
    verbose=True  # Enable verbose logging
)

# Now all API calls will be logged
response = backend.generate(prompt)
"""

CONFIGURATION = """
{
  "BACKENDS": [
    {
      "id": "llm-router",
      "type": "llm_router",
      "provider": "copilot_cli",
      "model": "gpt-5-mini",
      "max_tokens": 128,
      "temperature": 0.7
    }
  ],
  "MEDIATOR": {
    "backends": ["llm-router"]
  }
}
"""

AUTOMATIC = """
{
    "BACKENDS": [
        {
            "id": "llm-router-auto",
            "type": "llm_router",
            "max_tokens": 256
        }
    ]
}
"""

RUN = """
from backends import LLMRouterBackend

for backend_id in config_mediator['backends']:
    backend_config = next((conf for conf in config_backends if conf['id'] == backend_id), None)

    if not backend_config:
        log.error('missing backend configuration "%s" - cannot continue' % backend_id)
        exit(-1)

    if backend_config['type'] == 'llm_router':
        backend = LLMRouterBackend(**backend_config)
    elif backend_config['type'] == 'openai':
        backend = OpenAIBackend(**backend_config)

    backends.append(backend)
"""

PROMPT = "Name a river."
SAID = f"You said: {PROMPT}"


@pytest.fixture
def openai(guide: Any, fault_server: Serve, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """The service of OpenAI, with the reader's key to it in the environment; the reader has a prompt, too."""
    server = fault_server()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-reader-0123456789")
    guide.names["prompt"] = PROMPT
    return server


@pytest.fixture
def copilot(
    guide: Any, fault_server: Serve, monkeypatch: pytest.MonkeyPatch, real_program: Callable[[str], str]
) -> FaultServer:
    """The service that the real copilot of this machine asks."""
    server = fault_server()
    monkeypatch.setenv("PATH", f"{Path(real_program('copilot')).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COPILOT_CACHE_HOME", real_program("cache"))
    monkeypatch.setenv("COPILOT_PROVIDER_BASE_URL", server.url)
    monkeypatch.setenv("COPILOT_PROVIDER_API_KEY", "sk-of-the-reader-0123456789")
    return server


# -- the router -----------------------------------------------------------------------------------------


@pytest.mark.programs
def test_usage(guide: Any, copilot: FaultServer) -> None:
    """The answer of Copilot's model is printed."""
    assert guide.type(USAGE) == "You said: Extract legal claims from: [complaint text]\n"
    assert {seen.model for seen in copilot.asked} == {"gpt-5-mini"}


def test_usage_without_copilot(guide: Any) -> None:
    """Where the program is not there, the error says what to install."""
    with pytest.raises(Exception, match=r"llm-router: .*no program 'copilot': .*npm install"):
        guide.type(USAGE)


def test_fallback(guide: Any, openai: FaultServer) -> None:
    """OpenAI answers where there is no Copilot, with the model that is of both."""
    guide.type("from backends import LLMRouterBackend")
    guide.type(FALLBACK)
    assert guide.names["response"] == SAID
    (seen,) = openai.asked
    assert (seen.model, seen.key) == ("gpt-5-mini", "sk-of-the-reader-0123456789")


@pytest.mark.programs
def test_fallback_with_copilot(guide: Any, copilot: FaultServer, openai: FaultServer) -> None:
    """The primary answers while it is well, and nobody else is asked."""
    guide.type("from backends import LLMRouterBackend")
    guide.type(FALLBACK)
    assert guide.names["response"] == SAID
    assert copilot.asked
    assert not openai.asked


def test_rate_limit_and_batch(guide: Any, openai: FaultServer) -> None:
    """All answers are printed in the order of their prompts; sixty requests fit into the window of a minute."""
    guide.type("from backends import LLMRouterBackend")
    guide.type(RATE_LIMIT)
    lines = "".join(
        f"Prompt: Analyze complaint {n}......\nResponse: You said: Analyze complaint {n}......\n\n" for n in (1, 2, 3)
    )
    assert guide.type(BATCH) == lines
    (backend,) = guide.names["backend"].router.backends
    assert (backend.rate_limit, backend.rate_limit_window) == (60, 60)
    assert {seen.model for seen in openai.asked} == {"gpt-4"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (faults.rate_limited(retry_after="3600"), "Rate limit exceeded: llm: "),
        (faults.bad_key(), "Authentication failed: llm: "),
        (faults.unknown_model(), "Model not found: llm: "),
        (faults.status(500), "Backend error: llm: "),
        (faults.well("Thames"), ""),
    ],
    ids=["rate", "key", "model", "server", "none"],
)
def test_errors(guide: Any, openai: FaultServer, fault: faults.Fault, said: str) -> None:
    """Each failure has the class that the sample catches, and a text that begins with the backend's id."""
    openai.play(fault)
    printed = guide.type(ERRORS)
    assert printed.startswith(said)
    assert printed.count("\n") == bool(said)


def test_logging(guide: Any, openai: FaultServer) -> None:
    """Every attempt is logged, with its backend; no prompt, no answer and no key is."""
    done = guide.alone("from backends import LLMRouterBackend\n", f"prompt = {PROMPT!r}\n", LOGGING)
    assert "answered" in done.stderr
    assert "llm" in done.stderr
    assert not any(words in done.stderr for words in (PROMPT, "You said", "0123456789"))


# -- its configuration ----------------------------------------------------------------------------------


def test_an_entry_of_the_file_is_what_the_class_takes() -> None:
    """`id` and `type` among it."""
    (entry,) = json.loads(CONFIGURATION)["BACKENDS"]
    with LLMRouterBackend(**entry) as backend:
        assert (backend.id, backend.provider, backend.model) == ("llm-router", "copilot", "gpt-5-mini")
        assert backend.router.backends[0].defaults == {"max_tokens": 128, "temperature": 0.7}


@pytest.mark.programs
def test_the_file_is_a_mediator(guide: Any, copilot: FaultServer, tmp_path: Path) -> None:
    """The section MEDIATOR says whom it asks."""
    (tmp_path / "config.llm_router.json").write_text(CONFIGURATION)
    with Mediator.from_config("config.llm_router.json") as mediator:
        assert mediator.generate(PROMPT) == SAID


def test_whoever_names_no_provider_gets_those_that_are_ready(
    guide: Any, openai: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key in the environment its service is asked; with no key and no program, nobody of those who need one."""
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4")
    read = json.loads(AUTOMATIC)
    for backend in LLMRouterBackend(**read["BACKENDS"][0]), load(read)["llm-router-auto"]:
        with backend:
            types = [one.type for one in backend.router.backends]
            assert "openai" in types
            assert types[-1] == "local"
            assert not {"claude", "gemini", "copilot", "codex", "openrouter"} & set(types)
            assert backend.router.backends[0].id == "llm-router-auto"
            assert backend.router.backends[0].defaults["max_tokens"] == 256
            assert backend.router.generate(PROMPT, backend="llm-router-auto/openai").text == SAID


def test_what_is_named_as_a_fallback_is_asked_in_its_place(guide: Any) -> None:
    """It comes after those that were found, and not twice; where nothing else was found it is the provider."""
    with LLMRouterBackend(fallback_providers=["echo"]) as backend:
        assert [one.type for one in backend.router.backends] == ["local", "echo"]
    with LLMRouterBackend(fallback_providers=["echo", "local"]) as backend:
        assert [one.id for one in backend.router.backends] == ["llm-router", "llm-router/local"]


def test_the_program_of_the_authors_makes_its_backends(guide: Any) -> None:
    """The loop over the configuration that their `run.py` has."""
    read = json.loads(CONFIGURATION)
    guide.names |= {"config_mediator": read["MEDIATOR"], "config_backends": read["BACKENDS"], "backends": []}
    guide.type(RUN)
    assert [backend.id for backend in guide.names["backends"]] == ["llm-router"]


def test_when_all_fail_the_error_has_the_reason_of_each(guide: Any, openai: FaultServer) -> None:
    """The chain of the guide, with nobody well: no answer, and one text that names all three."""
    openai.play(faults.bad_key())
    guide.type("from backends import LLMRouterBackend")
    with pytest.raises(AllBackendsFailed) as caught:
        guide.type(FALLBACK)
    assert [error.backend for error in caught.value.exceptions] == [
        "llm-router",
        "llm-router/openai",
        "llm-router/huggingface",
    ]
