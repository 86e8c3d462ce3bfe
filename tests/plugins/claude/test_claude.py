"""The `claude` provider: what it sends, what it reads, and Anthropic's own client as the judge of both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import anthropic
import pytest
from pointsman import (
    AuthenticationError,
    BackendError,
    ConfigError,
    ContentFilterError,
    ContextLengthError,
    Image,
    IncompleteAnswer,
    InvalidRequestError,
    Message,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    Request,
    Router,
    State,
    Tool,
    ToolCall,
    UnavailableError,
    UnusableAnswer,
    Usage,
    collect,
)
from pointsman.testing import Fault, FaultServer, WireError, faults
from pointsman.testing.answers import Answer, Ask, Event
from pointsman.testing.anthropic_messages import Messages
from pointsman_claude import Claude

Serve = Callable[..., FaultServer]
KEY = "sk-ant-0123456789abcdefghij"
OLD, NEW = "claude-sonnet-4-5", "claude-opus-5-5"
TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
CONVERSATION = (
    Message("system", "Be short."),
    Message("user", ("What is this?", Image(data=b"png"), Image(url="https://x.example/a.png"))),
    Message("assistant", "", (ToolCall("call.1", "look", '{"at": 1}'), ToolCall("c2", "look", "oops"))),
    Message("tool", "a cat", tool_call_id="call.1"),
    Message("tool", "a dog", tool_call_id="c2"),
    Message("assistant", "A cat."),
    Message("user", "Sure?"),
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "AUTH_TOKEN", "BASE_URL", "MODEL"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)


def root(server: FaultServer) -> str:
    return server.url.removesuffix("/v1")


def provider(server: FaultServer, **options: Any) -> Claude:
    return Claude(**{"base_url": root(server), "api_key": KEY, "model": OLD, **options})


def ask(*messages: Message, **options: Any) -> Request:
    return Request(messages or (Message("user", "hi"),), **options)


def sent(fault_server: Serve, request: Request, **options: Any) -> dict[str, Any]:
    """Return the body that the provider sends."""
    server = fault_server()
    provider(server, **options).generate(request)
    return dict(server.asked[-1].body)


# What is sent


def test_sends_what_is_set_and_nothing_else(fault_server: Serve) -> None:
    """A bare request has the three fields that the API wants; the key, the version and JSON are in the headers."""
    server = fault_server()
    provider(server, headers={"anthropic-beta": "a,b"}).generate(ask())
    seen = server.asked[-1]
    assert seen.path == "/v1/messages"
    assert seen.body == {
        "model": OLD,
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }
    assert seen.key == KEY
    assert "x-api-key" in seen.headers
    assert "authorization" not in seen.headers
    assert (seen.headers["anthropic-version"], seen.headers["anthropic-beta"]) == ("2023-06-01", "a,b")


def test_every_option_has_its_place(fault_server: Serve) -> None:
    """Sampling, stop, tools, schema and effort are mapped; the temperature ends at 1."""
    body = sent(
        fault_server,
        ask(
            system="Short.", max_tokens=9, temperature=1.5, top_p=0.9, top_k=4, stop=("X",), tools=(TOOL,),
            tool_choice="look", schema=SCHEMA, extra={"metadata": {"user_id": "u"}},
        ),
    )  # fmt: skip
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["top_k"]) == (9, 1.0, 0.9, 4)
    assert body["system"] == [{"type": "text", "text": "Short."}]
    assert body["stop_sequences"] == ["X"]
    assert body["tools"] == [{"name": "look", "description": "Looks.", "input_schema": dict(TOOL.parameters)}]
    assert body["tool_choice"] == {"type": "tool", "name": "look"}
    assert body["output_config"]["format"]["schema"] == SCHEMA | {"additionalProperties": False}
    assert body["metadata"] == {"user_id": "u"}
    choices = {choice: sent(fault_server, ask(tools=(TOOL,), tool_choice=choice))["tool_choice"] for choice in
               ("auto", "none", "required")}  # fmt: skip
    assert choices == {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}


def test_a_conversation_with_tools_of_another_vendor(fault_server: Serve) -> None:
    """Roles alternate, results of one turn are one message, ids are made fit, and nothing empty is sent."""
    body = sent(fault_server, ask(*CONVERSATION, Message("assistant", "Well, ")))
    assert body["system"] == [{"type": "text", "text": "Be short."}]
    user, called, results, *rest = body["messages"]
    assert [part["type"] for part in user["content"]] == ["text", "image", "image"]
    assert user["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "cG5n"}
    assert user["content"][2]["source"] == {"type": "url", "url": "https://x.example/a.png"}
    assert called["content"] == [
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}},
        {"type": "tool_use", "id": "c2", "name": "look", "input": {"arguments": "oops"}},
    ]
    assert results["role"] == "user"
    assert [part["tool_use_id"] for part in results["content"]] == ["call_1", "c2"]
    assert [turn["role"] for turn in rest] == ["assistant", "user", "assistant"]
    assert rest[-1]["content"] == [{"type": "text", "text": "Well,"}]


def test_a_refused_parameter_is_learnt(fault_server: Serve) -> None:
    """What the table does not know is learnt from the 400, in Anthropic's words."""
    told = WireError("temperature: Extra inputs are not permitted", status=400)
    server = fault_server([faults.status(400, told), faults.well("yes")])
    with Router({"claude": provider(server, model="claude-unheard-of-1")}) as router:
        answer = router.generate("hi", temperature=0.5)
    assert (answer.text, len(server.asked)) == ("yes", 2)
    assert "refuses temperature" in answer.warnings[0]


# What is read


@pytest.fixture(params=["plain", "streamed", "long"])
def answered(request: pytest.FixtureRequest, fault_server: Serve) -> Callable[..., Any]:
    """A function that plays an answer and returns it as the provider reads it, whichever way it comes."""

    def answered(fault: Fault) -> Any:
        server = fault_server(fault)
        with Router({"claude": provider(server)}) as router:
            if request.param == "plain":
                return router.generate("hi")
            if request.param == "long":  # fetched by streaming inside
                whole = router.generate("hi", max_tokens=30_000)
                assert server.asked[-1].body["stream"] is True
                return whole
            with router.stream("hi") as stream:
                list(stream)
                return stream.completion

    return answered


def test_reads_thoughts_calls_and_usage(answered: Callable[..., Any]) -> None:
    """Thinking apart from the text, calls whole, cached and written input within the input, signed blocks kept."""
    usage = Usage(100, 20, 30, 5, 10)
    calls = (ToolCall("toolu_1", "look", '{"at": 1}'),)
    found = answered(faults.well("So.", tool_calls=calls, thinking="Hm, well.", usage=usage))
    assert (found.text, found.thinking, found.tool_calls, found.usage) == ("So.", "Hm, well.", calls, usage)
    assert (found.finish_reason, found.raw_finish_reason) == ("tool_calls", "tool_use")
    assert found.state.vendor == "anthropic"
    assert [block["type"] for block in found.state.data] == ["thinking", "text", "tool_use"]
    assert found.state.data[0]["signature"]
    assert answered(faults.well("No thoughts.")).state is None


class Ending(Messages):
    """Thinks where nobody may read it, and ends its answers with the word that was asked for."""

    HIDDEN: ClassVar[dict[str, Any]] = {"type": "redacted_thinking", "data": "c2VjcmV0"}

    def body(self, answer: Answer, ask: Ask) -> Any:
        whole = super().body(answer, ask)
        return whole | {"content": [self.HIDDEN, *whole["content"]], "stop_reason": ask.model}

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        events = super().events(answer, ask)
        first = {"index": 7, "content_block": self.HIDDEN, "type": "content_block_start"}
        for event in events:
            if isinstance(event.data, dict) and event.data["type"] == "message_delta":
                event.data["delta"]["stop_reason"] = ask.model
        return [events[0], Event(first, "lifecycle", "content_block_start"), *events[1:]]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("raw", "end"),
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("pause_turn", "error"),
     ("model_context_window_exceeded", "length"), ("a_new_word", "stop")],
)  # fmt: skip
def test_stop_reasons(fault_server: Serve, raw: str, end: str, streamed: bool) -> None:
    """Each has its meaning and is kept as it came; thoughts that nobody may read are kept for the next turn."""
    one = provider(fault_server(faults.well("Text."), wires={"/v1/messages": Ending()}), model=raw)
    found = collect(one.stream(ask())) if streamed else one.generate(ask())
    assert (found.text, found.thinking) == ("Text.", "")
    assert (found.finish_reason, found.raw_finish_reason) == (end, raw)
    assert found.state is not None
    assert Ending.HIDDEN in found.state.data


def test_its_own_turn_goes_back_unchanged(fault_server: Serve) -> None:
    """A turn with signed thoughts is replayed block by block; of another vendor's turn only text and calls are sent."""
    calls = (ToolCall("toolu_1", "look", '{"at": 1}'),)
    server = fault_server([faults.well("", tool_calls=calls, thinking="Hm."), faults.well()])
    with Router({"claude": provider(server)}) as router:
        first = router.generate("hi", tools=[TOOL])
        talk = [Message("user", "hi"), first.message, Message("tool", "a cat", tool_call_id="toolu_1")]
        router.generate(talk, tools=[TOOL])
        assert server.asked[-1].body["messages"][1]["content"] == first.state.data  # type: ignore[union-attr]
        foreign = Message("assistant", "", calls, state=State("openai", [{"type": "reasoning"}]))
        router.generate([talk[0], foreign, talk[2]], tools=[TOOL])
        assert [b["type"] for b in server.asked[-1].body["messages"][1]["content"]] == ["tool_use"]


ERRORS: list[tuple[int, str, str | None, type[BackendError]]] = [
    (400, "messages: at least one message is required", None, InvalidRequestError),
    (400, "You have reached your specified workspace API usage limits. You will regain access.", None, QuotaError),
    (400, "Your credit balance is too low to access the Anthropic API.", None, QuotaError),
    (400, "This organization is on hold.", "organization_on_hold", QuotaError),
    (400, "prompt is too long: 210000 tokens > 200000 maximum", None, ContextLengthError),
    (400, "Output blocked by content filtering policy", None, ContentFilterError),
    (401, "invalid x-api-key", None, AuthenticationError),
    (402, "Payment required", None, QuotaError),
    (403, "Your API key does not have permission", None, AuthenticationError),
    (404, "model: claude-nobody", None, ModelNotFoundError),
    (408, "Request timed out", None, UnavailableError),
    (409, "Conflict", None, UnavailableError),
    (413, "Request exceeds the maximum size", None, InvalidRequestError),
    (429, "This request would exceed your rate limit", None, RateLimitError),
    (429, "Spend limit", "enforced_spend_limit_reached", QuotaError),
    (429, "Spend limit", "contract_spend_limit_reached", QuotaError),
    (429, "Slow down", "ramp_limit_exceeded", RateLimitError),
    (500, "Internal server error", None, UnavailableError),
    (502, "Bad gateway", None, UnavailableError),
    (503, "Unavailable", None, UnavailableError),
    (504, "Timeout", None, UnavailableError),
    (529, "Overloaded", None, UnavailableError),
]


@pytest.mark.parametrize(("status", "text", "code", "kind"), ERRORS, ids=lambda value: str(value)[:30])
def test_errors(fault_server: Serve, status: int, text: str, code: str | None, kind: type[BackendError]) -> None:
    """Each row of the API's table of errors has its class, plain and as an event of a stream, and holds no key."""
    server = fault_server(faults.status(status, WireError(f"{text} {KEY}", code=code, status=status)))
    one = provider(server)
    for call in (lambda: one.generate(ask()), lambda: list(one.stream(ask()))):
        with pytest.raises(BackendError) as caught:
            call()
        assert type(caught.value) is kind
        assert caught.value.status == status
        assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.safety_stop("Well, "), ContentFilterError),
        (faults.refusal(), ContentFilterError),
        (faults.finish_error("Well, "), UnusableAnswer),
    ],
    ids=repr,
)
def test_what_is_no_answer(answered: Callable[..., Any], fault: Fault, kind: type[BackendError]) -> None:
    """A refusal and a pause are errors, however much text came before."""
    with pytest.raises(kind):
        answered(fault)


# How it is, and what it offers


def test_health_and_models(fault_server: Serve) -> None:
    """Both ask the list of models, which costs nothing; what is missing is told with the variable to set."""
    server = fault_server(paths={"/v1/models": faults.models("claude-x")})
    one = provider(server)
    assert one.health().status == "healthy"
    assert server.log[-1].path == "/v1/models?limit=1"
    assert [info.id for info in one.list_models()] == ["claude-x"]
    assert not server.asked
    assert "ANTHROPIC_API_KEY" in Claude(model=OLD).health().reason
    assert "ANTHROPIC_API_KEY" in Claude(model=OLD).missing
    assert "ANTHROPIC_MODEL" in provider(server, model=None).health().reason
    refused = provider(fault_server(paths={"/v1/models": faults.bad_key()}))
    assert refused.health().status == "unconfigured"


def test_the_environment(fault_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, address and model come from Anthropic's variables; a token instead of a key is sent as a bearer."""
    server = fault_server()
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", f" {KEY}\n")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)  # with /v1
    monkeypatch.setenv("ANTHROPIC_MODEL", "claude-from-env")
    one = Claude()
    assert one.generate(ask()).model == "claude-from-env"
    assert server.asked[-1].headers.get("authorization")
    assert server.asked[-1].key == KEY
    assert KEY not in repr(one)
    with pytest.raises(AuthenticationError):
        Claude(api_key="k\nk", model=OLD).generate(ask())
    with pytest.raises(ConfigError):
        Router.from_config({"BACKENDS": [{"id": "a", "type": "claude", "modell": "x"}]})


# Anthropic's own client is the judge


@pytest.fixture
def official(fault_server: Serve) -> Iterator[Callable[..., anthropic.Anthropic]]:
    clients: list[anthropic.Anthropic] = []

    def official(server: FaultServer) -> anthropic.Anthropic:
        clients.append(anthropic.Anthropic(api_key=KEY, base_url=root(server), max_retries=0, timeout=20))
        return clients[-1]

    yield official
    for client in clients:
        client.close()


def test_their_client_reads_our_double(fault_server: Serve, official: Callable[..., anthropic.Anthropic]) -> None:
    """Text, thoughts, calls and usage of the double arrive in their client, plain and streamed; so do its errors."""
    calls = (ToolCall("toolu_1", "look", '{"at": 1}'),)
    server = fault_server(faults.well("So.", tool_calls=calls, thinking="Hm."))
    messages: Any = [{"role": "user", "content": "hi"}]
    client = official(server)
    plain = client.messages.create(model=NEW, max_tokens=9, messages=messages)
    with client.messages.stream(model=NEW, max_tokens=9, messages=messages) as stream:
        streamed = stream.get_final_message()
    for found in (plain, streamed):
        assert [block.type for block in found.content] == ["thinking", "text", "tool_use"]
        assert found.stop_reason == "tool_use"
        assert (found.usage.input_tokens, found.usage.cache_read_input_tokens, found.usage.output_tokens) == (15, 4, 8)
    kinds = {401: anthropic.AuthenticationError, 429: anthropic.RateLimitError, 529: anthropic.InternalServerError}
    for status, kind in kinds.items():
        server.play(faults.status(status))
        with pytest.raises(kind):
            client.messages.create(model=NEW, max_tokens=9, messages=messages)
    server.play(faults.error_event_after(2))
    with (
        pytest.raises(anthropic.APIStatusError),
        client.messages.stream(model=NEW, max_tokens=9, messages=messages) as s,
    ):
        s.get_final_message()


def test_we_send_what_their_client_sends(fault_server: Serve, official: Callable[..., anthropic.Anthropic]) -> None:
    """The same conversation carries the same fields; text as one block instead of a string means the same."""
    server = fault_server()
    blocks: Any = [{"type": "text", "text": "hi"}]
    tools: Any = [{"name": "look", "description": "Looks.", "input_schema": dict(TOOL.parameters)}]
    official(server).messages.create(
        model=NEW, max_tokens=9, system=[{"type": "text", "text": "Short."}], stop_sequences=["X"], tools=tools,
        tool_choice={"type": "auto"}, messages=[{"role": "user", "content": blocks}],
    )  # fmt: skip
    provider(server, model=NEW, version="2026-10-21").generate(
        ask(system="Short.", max_tokens=9, stop=("X",), tools=(TOOL,), tool_choice="auto")
    )
    theirs, ours = server.asked
    assert ours.body == theirs.body
    assert ours.path == theirs.path
    assert ours.headers["anthropic-version"] == theirs.headers["anthropic-version"]


def test_every_fault_in_its_dialect() -> None:
    """The whole matrix of faults, A to D, with this provider: the router keeps its promise in Anthropic's words too."""
    command = [sys.executable, "-m", "pointsman.testing.matrix", "--provider", "claude"]
    played = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert played.returncode == 0, played.stdout + played.stderr


def test_a_part_of_an_answer_is_paid_for_too(fault_server: Any) -> None:
    """What the server counted before a stream broke is with the error, and with the attempt (row 39)."""
    server = fault_server(faults.cut_after(2))
    with Router({"claude": provider(server)}) as router, pytest.raises(IncompleteAnswer) as caught:
        list(router.stream("hi"))
    assert caught.value.usage is not None
    assert caught.value.usage == caught.value.attempts[0].usage
    assert caught.value.usage.input_tokens > 0
