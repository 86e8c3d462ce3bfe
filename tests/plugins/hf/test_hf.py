"""The `hf` provider: its router, endpoints that sleep, servers of one's own, tokens, errors, and how it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from pointsman import (
    AuthenticationError,
    BackendTimeout,
    ContextLengthError,
    InvalidRequestError,
    Message,
    ModelInfo,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    Request,
    Router,
    Scope,
    Tool,
    UnavailableError,
)
from pointsman.testing import Clock, Fault, FaultServer, WireError, faults
from pointsman_hf import HuggingFace

TOKEN = "hf_0123456789abcdefghijklmnop"
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.1"
Serve = Callable[..., FaultServer]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token of the machine."""
    for name in (*HuggingFace.KEYS, "HF_HOME", "HF_ENDPOINT", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))


def ask(prompt: str = "Hello", **options: Any) -> Request:
    return Request((Message("user", prompt),), **{"scope": Scope(30), **options})


def provider(server: FaultServer, **options: Any) -> HuggingFace:
    return HuggingFace(**{"base_url": f"{server.origin}/hf/v1", "model": MISTRAL, "api_key": TOKEN, **options})


def says(body: Any, status: int = 200, headers: Any = None) -> Fault:
    """A server that answers with a fixed body."""

    async def play(x: Any) -> None:
        await x.respond(status, body, headers=headers)

    return Fault("says", play)


# What is sent


@pytest.mark.parametrize("model", [MISTRAL, "openai/gpt-oss-120b:groq", "openai/gpt-oss-120b:cheapest"])
def test_the_router_gets_the_model_as_it_is_written(fault_server: Serve, model: str) -> None:
    """With or without a host or a policy behind it; who pays stands in a header; options have their places."""
    server = fault_server()
    options: dict[str, Any] = {"max_tokens": 5, "seed": 7, "presence_penalty": 0.5, "reasoning_effort": "low"}
    provider(server, model=model, bill_to="my-org").generate(ask(stop=("x",), **options))
    (seen,) = server.asked
    assert seen.body == {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stop": ["x"], **options}
    assert (seen.path, seen.key) == ("/hf/v1/chat/completions", TOKEN)
    assert seen.headers["x-hf-bill-to"] == "my-org"
    assert "x-scale-up-timeout" not in seen.headers


@pytest.mark.parametrize("pasted", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_any_url_of_an_endpoint(fault_server: Serve, pasted: str) -> None:
    """Bare or with /v1; it needs no model, and on this machine no token."""
    server = fault_server()
    one = HuggingFace(base_url=server.origin + pasted)
    assert one.missing == ""
    one.generate(ask())
    assert server.asked[0].path == "/v1/chat/completions"
    assert "model" not in server.asked[0].body


def test_an_old_address_is_told() -> None:
    """The host of the former API is gone: the message says what to write instead."""
    one = HuggingFace(base_url="https://api-inference.huggingface.co/models/x", api_key=TOKEN, model="x")
    assert "is gone" in one.missing
    assert one.health().status == "unconfigured"


# Tokens


def test_tokens_and_where_they_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HUGGINGFACE_API_KEY, the file of `hf auth login`; to Hugging Face only."""
    assert "HF_TOKEN" in HuggingFace(model="m").missing
    (tmp_path / "token").write_text("hf_of_the_file\n")
    expected = ["hf_of_the_file"]
    for name in reversed(HuggingFace.KEYS):
        assert [key.reveal() for key in [HuggingFace(model="m").api_key] if key] == expected
        monkeypatch.setenv(name, f" hf_of_{name}\n")
        expected = [f"hf_of_{name}"]
    assert [key.reveal() for key in [HuggingFace(model="m").api_key] if key] == ["hf_of_HF_TOKEN"]
    assert HuggingFace(base_url="https://x.eu-west-1.aws.endpoints.huggingface.cloud").api_key is not None
    for url in ("https://someone.hf.space", "https://huggingface.co.evil.example", "https://other.example/v1"):
        assert HuggingFace(base_url=url).api_key is None
    assert "hf_of" not in repr(HuggingFace(model="m"))


@pytest.mark.parametrize("variable", ["HF_HOME", "XDG_CACHE_HOME"])
def test_the_file_is_found_where_huggingface_hub_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """In HF_HOME, or under XDG_CACHE_HOME; a file that is not text is none."""
    monkeypatch.delenv("HF_TOKEN_PATH")
    monkeypatch.setenv(variable, str(tmp_path))
    folder = tmp_path if variable == "HF_HOME" else tmp_path / "huggingface"
    folder.mkdir(exist_ok=True)
    (folder / "token").write_bytes(b"\xff\xfe")
    assert HuggingFace(model="m").api_key is None
    (folder / "token").write_text("hf_of_the_file")
    assert HuggingFace(model="m").api_key is not None


# Waking


@pytest.mark.parametrize("status", [502, 503])
def test_a_sleeping_endpoint_is_waited_for(fault_server: Serve, status: int) -> None:
    """It is asked again until it is awake, whatever `max_retries` says, and the proxy is told that we wait."""
    clock = Clock()
    server = fault_server([*[faults.status(status, body="empty")] * 9, faults.well("Awake.")], clock=clock)
    with Router([provider(server, sleeps=True)], timeout=300, clock=clock) as router:
        answer = router.generate("Hello")
    assert answer.text == "Awake."
    assert len(answer.attempts) == 10
    assert server.asked[0].headers["x-scale-up-timeout"] == "600"
    waits = [b.arrived_at - a.arrived_at for a, b in zip(server.asked, server.asked[1:], strict=False)]
    assert min(waits) >= 5


def test_waking_ends_with_the_deadline(fault_server: Serve) -> None:
    """It is not waited for beyond the deadline, nor where another backend can answer, nor if no retry is allowed."""
    for options, most in (({}, 6), ({"max_retries": 0}, 1)):
        clock = Clock()
        server = fault_server(faults.status(503), clock=clock)
        with (
            Router([provider(server, sleeps=True)], timeout=25, clock=clock, **options) as router,  # type: ignore[arg-type]
            pytest.raises(UnavailableError),
        ):
            router.generate("Hello")
        assert len(server.asked) <= most
        assert (len(server.asked) > 2) == (most > 2)
    clock = Clock()
    asleep, awake = fault_server(faults.status(503), clock=clock), fault_server(faults.well("Here."), clock=clock)
    with Router({"a": provider(asleep, sleeps=True), "b": provider(awake)}, timeout=60, clock=clock) as router:
        assert router.generate("Hello").backend == "b"
    assert len(asleep.asked) == 2


def test_only_what_may_sleep_is_waited_for(fault_server: Serve) -> None:
    """Dedicated endpoints by their host; the router and other servers fail as all do."""
    assert HuggingFace(base_url="https://x.endpoints.huggingface.cloud").own_headers()["X-Scale-Up-Timeout"]
    assert not HuggingFace().own_headers()["X-Scale-Up-Timeout"]
    with pytest.raises(UnavailableError) as caught:
        provider(fault_server(faults.status(503))).generate(ask())
    assert (caught.value.retry_after, caught.value.retries) == (None, 0)
    with pytest.raises(BackendTimeout):
        provider(fault_server(faults.silent()), sleeps=True).generate(ask(scope=Scope(0.2)))


# What errors mean

UNSERVED = f"The requested model '{MISTRAL}' is not supported by any provider you have enabled."
NOT_SUPPORTED = {"message": UNSERVED, "type": "invalid_request_error", "param": "model", "code": "model_not_supported"}
CREDITS = "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO."
TOO_LONG = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens"
ERRORS: list[tuple[int, Any, type[Exception], bool, bool]] = [
    (401, {"error": "Invalid username or password."}, AuthenticationError, False, True),
    (403, {"error": "This token lacks the permission to call Inference Providers."}, AuthenticationError, False, True),
    (403, {"error": {"message": "No permission."}}, AuthenticationError, False, True),
    (402, {"error": CREDITS}, QuotaError, False, True),
    (400, {"error": NOT_SUPPORTED}, ModelNotFoundError, False, True),
    (429, {"error": "Too many requests."}, RateLimitError, True, True),
    (422, {"error": "Input validation error: `top_p` must be > 0", "error_type": "validation"},
     InvalidRequestError, False, False),
    (422, {"error": TOO_LONG, "error_type": "validation"}, ContextLengthError, False, True),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}, UnavailableError, True, True),
    (424, {"error": "Request failed during generation", "error_type": "generation"}, UnavailableError, True, True),
    (500, {"error": "Incomplete generation", "error_type": "incomplete_generation"}, UnavailableError, True, True),
    (503, {"error": "Service Unavailable"}, UnavailableError, True, True),
    (422, {"detail": [{"loc": ["body", "n"], "msg": "bad", "type": "int"}]}, InvalidRequestError, False, False),
    (404, {"object": "error", "message": "The model does not exist.", "code": 404}, ModelNotFoundError, False, True),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "same", "other"), ERRORS)
def test_each_error(
    fault_server: Serve, status: int, body: Any, kind: type[Exception], same: bool, other: bool
) -> None:
    """Text or object, of the Hub, of TGI, or passed on from the host that serves the model."""
    with pytest.raises(kind) as caught:
        provider(fault_server(says(body, status))).generate(ask())
    assert type(caught.value) is kind
    assert (caught.value.retry_same, caught.value.try_next) == (same, other)  # type: ignore[attr-defined]  # ours


def test_a_model_that_nobody_serves_says_where_to_look(fault_server: Serve) -> None:
    """The guide's model through the whole router: what was asked, where the served ones are, what else to do."""
    server = fault_server(says({"error": NOT_SUPPORTED}, 400))
    with Router([provider(server)]) as router, pytest.raises(ModelNotFoundError) as caught:
        router.generate("Hello")
    for part in (MISTRAL, "huggingface.co/models?inference_provider=all", "pointsman models", "base_url"):
        assert part in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("header", "seconds"), [('"api";r=0;t=55', 55.0), ('"api";r=3;t=55', None)])
def test_the_hubs_own_hint(fault_server: Serve, header: str, seconds: float | None) -> None:
    """`ratelimit` says when the window ends; it means something only when nothing is left in it."""
    with pytest.raises(RateLimitError) as caught:
        provider(fault_server(says({"error": "Too many requests."}, 429, {"ratelimit": header}))).generate(ask())
    assert caught.value.retry_after == seconds


def test_tgi_in_its_own_words(fault_server: Serve) -> None:
    """An error in a stream is text with a type."""
    server = fault_server(faults.error_event_after(2, WireError("Model is overloaded", status=429)))
    with pytest.raises(UnavailableError):
        list(provider(server, base_url=f"{server.origin}/tgi/v1").stream(ask()))


def test_tgi_teaches_its_form_of_a_schema(fault_server: Serve) -> None:
    """Its 422 names the field that it misses: the request is sent again as TGI reads it, and so are later ones."""
    text = "Failed to deserialize the JSON body into the target type: response_format: missing field `value` at line 1"

    def tgi(seen: Any) -> Fault:
        shape = seen.body.get("response_format")
        return faults.well('{"a": "b"}') if not shape or "value" in shape else says(text.encode(), 422)

    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    server = fault_server(tgi)
    with Router([HuggingFace(base_url=server.origin)]) as router:
        assert router.generate("Fill.", schema=schema).text == router.generate("Fill.", schema=schema).text
    shapes = [seen.body["response_format"]["type"] for seen in server.asked]
    assert shapes == ["json_schema", "json_object", "json_object"]
    assert server.asked[1].body["response_format"]["value"] == schema


# How it is, and what it offers


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (says({"type": "user", "name": "anna"}), "healthy"),
        (says({"error": "Invalid username or password."}, 401), "unconfigured"),
        (says({"error": "Too many requests."}, 429), "degraded"),
        (faults.status(503), "unavailable"),
        (faults.reset(), "unavailable"),
    ],
)
def test_the_hub_is_asked_whose_the_token_is(no_leaks: None, fault_server: Serve, fault: Fault, status: str) -> None:
    """`whoami-v2`, and nothing of the endpoint, which would wake; the list of models is public and proves nothing."""
    hub, server = fault_server(paths={"/api/whoami-v2": fault}), fault_server()
    health = provider(server, hub_url=hub.origin).health()
    assert health.status == status
    assert TOKEN not in health.reason
    assert server.log == ()


def test_the_hub_is_asked_rarely(fault_server: Serve) -> None:
    """It limits that question strictly: a good answer is kept, a bad one is not."""
    hub = fault_server(paths={"/api/whoami-v2": [faults.status(503), says({"name": "anna"})]})
    one = provider(hub, hub_url=hub.origin)
    assert [one.health().status for _ in range(5)] == ["unavailable", *["healthy"] * 4]
    assert len(hub.log) == 2
    assert hub.log[0].key == TOKEN


def test_a_server_of_ones_own_is_asked_itself(fault_server: Serve) -> None:
    """It lists its models; one that cannot is not down."""
    server = fault_server(paths={"/v1/models": [faults.models("tgi"), faults.no_such_page()]})
    one = HuggingFace(base_url=server.origin)
    assert [one.health().status for _ in range(2)] == ["healthy", "degraded"]


def test_without_a_model_the_router_is_unconfigured() -> None:
    """It needs one, and the message says where they are listed."""
    one = HuggingFace(api_key=TOKEN)
    assert "option model" in one.missing
    assert one.health().status == "unconfigured"


def test_models_with_hosts_context_and_prices(fault_server: Serve) -> None:
    """A model stands once for each live host, under the name that asks for that one; prices are per million."""
    hosts = [
        {"provider": "groq", "status": "live", "context_length": 131_072, "pricing": {"input": 0.15, "output": 0.75}},
        {"provider": "novita", "status": "live"},
        {"provider": "gone", "status": "error"},
    ]
    listed = [{"id": "openai/gpt-oss-120b", "providers": hosts}, {"id": "local", "max_model_len": 4096}]
    server = fault_server(paths={"/hf/v1/models": says({"object": "list", "data": listed})})
    assert provider(server).list_models() == [
        ModelInfo("openai/gpt-oss-120b:groq", 131_072, {"input": 0.15, "output": 0.75}),
        ModelInfo("openai/gpt-oss-120b:novita"),
        ModelInfo("local", 4096),
    ]


# The judge: huggingface_hub's client

TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})


def test_the_client_reads_the_double_and_sends_the_same(fault_server: Serve) -> None:
    """Answer, stream and tools. It differs in two things: where a URL is the model it names a "dummy", and writes a
    schema as TGI reads it; we write OpenAI's form until a TGI teaches us that one."""
    server = fault_server()
    client: Any = InferenceClient(base_url=f"{server.origin}/hf/v1", api_key=TOKEN, timeout=20)
    ours = provider(server)
    messages = [{"role": "user", "content": "Hello"}]
    answer = client.chat_completion(messages, max_tokens=7)
    chunks = list(client.chat_completion(messages, max_tokens=7, stream=True, stream_options={"include_usage": True}))
    tool: Any = {"name": "look", "description": "Looks.", "parameters": TOOL.parameters}
    called = client.chat_completion(messages, tools=[{"type": "function", "function": tool}], tool_choice="required")
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    shape: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    client.chat_completion(messages, response_format=shape)
    own = ours.generate(ask(max_tokens=7))
    streamed = "".join(chunk.text for chunk in ours.stream(ask(max_tokens=7)))
    (call,) = ours.generate(ask(tools=(TOOL,), tool_choice="required")).tool_calls
    form = ours.generate(ask(schema=schema))
    assert answer.choices[0].message.content == own.text == "You said: Hello"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == streamed == own.text
    assert (called.choices[0].message.tool_calls or [])[0].function.name == call.name
    assert form.text == '{"a": "text"}'
    assert own.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (19, 8)
    assert (own.usage.input_tokens, own.usage.output_tokens) == (19, 8)
    sent = [{name: value for name, value in seen.body.items() if value not in (None, False)} for seen in server.asked]
    assert sent[3].pop("response_format") == {"type": "json_object", "value": schema}
    assert sent[7].pop("response_format")["type"] == "json_schema"
    for theirs, mine in zip(sent[:4], sent[4:], strict=True):
        assert (theirs.pop("model"), mine.pop("model")) == ("dummy", MISTRAL)
        assert theirs == mine
    assert {seen.key for seen in server.asked} == {TOKEN}


@pytest.mark.parametrize(
    "fault",
    [faults.bad_key(), faults.no_money(), faults.unknown_model(status=400), faults.rate_limited(), faults.status(500)],
    ids=lambda fault: fault.name,
)
def test_the_client_reads_errors(fault_server: Serve, fault: Fault) -> None:
    """Each is an HTTP error to the client, with the double's status."""
    server = fault_server(fault)
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(base_url=f"{server.origin}/hf/v1", api_key=TOKEN, timeout=20).chat_completion(
            [{"role": "user", "content": "Hello"}]
        )
    with pytest.raises(Exception, match=str(caught.value.response.status_code)):
        provider(server).generate(ask())
