"""The `openai` provider: what it sends, what it reads, what it learns, and how it says that it is unwell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pointsman import (
    AuthenticationError,
    Chunk,
    Completion,
    ContentFilterError,
    Image,
    InvalidRequestError,
    Message,
    ModelNotFoundError,
    RateLimitError,
    Request,
    Scope,
    Tool,
    ToolCall,
    UnusableAnswer,
    Usage,
)
from pointsman.testing import FaultServer, WireError, faults
from pointsman.testing.answers import Event
from pointsman.testing.openai_chat import Chat
from pointsman_openai import OpenAI

KEY = "sk-test-0123456789abcdefghijkl"
Serve = Callable[..., FaultServer]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine."""
    for name in ("API_KEY", "BASE_URL", "MODEL", "ORG_ID", "PROJECT_ID"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


def ask(prompt: str = "Hello", **options: Any) -> Request:
    return Request((Message("user", prompt),), **{"scope": Scope(30), **options})


def provider(server: FaultServer, **options: Any) -> OpenAI:
    return OpenAI(**{"base_url": server.url, "model": "m", "api_key": KEY, **options})


def whole(chunks: Any) -> Completion:
    pieces: list[Chunk] = list(chunks)
    return Completion(
        text="".join(piece.text for piece in pieces),
        thinking="".join(piece.thinking for piece in pieces),
        tool_calls=pieces[-1].tool_calls,
        finish_reason=pieces[-1].finish_reason or "error",
        usage=pieces[-1].usage,
    )


class Fixed:
    """A server of chat completions that answers with a given body and given events."""

    def __init__(self, body: Any, events: tuple[Any, ...]) -> None:
        self._body, self._events, chat = body, events, Chat()
        self.ask, self.error, self.error_event = chat.ask, chat.error, chat.error_event

    def body(self, answer: Any, ask: Any) -> Any:
        return self._body

    def events(self, answer: Any, ask: Any) -> list[Event]:
        return [Event(data) for data in self._events]


def fixed(fault_server: Serve, body: Any = None, *events: Any) -> OpenAI:
    return provider(fault_server(wires={"/chat/completions": Fixed(body, events)}))


def message(finish: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **fields}, "finish_reason": finish}]}


def delta(finish: Any = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields, "finish_reason": finish}]}


# What is sent

CONVERSATION = (
    Message("system", "Be short."),
    Message("user", ("What is this?", Image(data=b"png"), Image(url="https://x.example/a.png"))),
    Message("assistant", "", (ToolCall("c1", "look", '{"at": 1}'),)),
    Message("tool", "a cat", tool_call_id="c1"),
    Message("assistant", "A cat."),
    Message("user", "Sure?"),
)
OPEN_TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
CLOSED: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def test_chat_sends_what_is_set_and_nothing_else(fault_server: Serve) -> None:
    """Every field of the request has its place; a field that is unset does not appear."""
    server = fault_server()
    one = provider(server, organization="org", headers={"X-Mine": "1"})
    one.generate(ask())
    assert server.asked[0].body == {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    options: dict[str, Any] = {"max_tokens": 5, "temperature": 0.0, "top_p": 0.5, "top_k": 3, "seed": 7}
    options |= {"frequency_penalty": 0.1, "presence_penalty": 0.2}
    request = Request(
        CONVERSATION, system="Sys.", stop=("x", "y"), tools=(OPEN_TOOL,), tool_choice="look", schema=CLOSED,
        extra={"user": "u"}, scope=Scope(30), **options,
    )  # fmt: skip
    one.generate(request)
    body = server.asked[1].body
    assert options.items() <= body.items()
    assert (body["stop"], body["user"]) == (["x", "y"], "u")
    function = {"name": "look", "description": "Looks.", "parameters": OPEN_TOOL.parameters}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    shape = {"name": "answer", "schema": CLOSED, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": shape}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    assert body["messages"] == [
        {"role": "system", "content": "Sys."},
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}},
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    assert server.asked[1].headers["x-mine"] == "1"
    assert "openai-organization" not in server.asked[1].headers  # it is OpenAI's business only
    assert server.asked[1].key == KEY


def test_responses_send_the_same_in_their_words(fault_server: Serve) -> None:
    """Items instead of messages, flat tools, a flat schema, and nothing is stored on the server."""
    server = fault_server()
    one = provider(server, api="responses")
    request = Request(
        CONVERSATION, system="Sys.", max_tokens=50, temperature=0.5, tools=(OPEN_TOOL,), tool_choice="look",
        schema=CLOSED, scope=Scope(30),
    )  # fmt: skip
    one.generate(request)
    body = server.asked[0].body
    assert server.asked[0].path == "/v1/responses"
    assert (body["store"], body["instructions"], body["max_output_tokens"]) == (False, "Sys.", 50)
    assert body["tool_choice"] == {"type": "function", "name": "look"}
    assert body["tools"][0]["strict"] is False
    assert body["text"]["format"] == {"type": "json_schema", "name": "answer", "schema": CLOSED, "strict": True}
    assert [item.get("type", item.get("role")) for item in body["input"]] == [
        "system", "user", "function_call", "function_call_output", "assistant", "user"
    ]  # fmt: skip
    image = {"type": "input_image", "image_url": "https://x.example/a.png", "detail": "auto"}
    assert body["input"][1]["content"][2] == image
    assert "stream" not in body


@pytest.mark.parametrize("name", ["stop", "seed", "frequency_penalty", "presence_penalty", "top_k"])
def test_what_the_responses_api_lacks_is_told(fault_server: Serve, name: str) -> None:
    """A field that the API does not know is refused before anything is sent, by its name."""
    server = fault_server()
    value: Any = ("x",) if name == "stop" else 1
    with pytest.raises(InvalidRequestError) as caught:
        provider(server, api="responses").generate(ask(**{name: value}))
    assert caught.value.parameter == name
    assert caught.value.try_next
    assert server.asked == ()


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({**CLOSED, "required": ["a"]}, False),
        ({**CLOSED, "additionalProperties": True}, False),
        ({**CLOSED, "properties": {"a": {"type": "object"}, "b": {}}}, False),
        ({**CLOSED, "patternProperties": {}}, False),
        ({"type": "array", "items": {}}, False),
        ({"anyOf": [CLOSED]}, False),
    ],
)
def test_strict_is_asked_only_where_it_is_allowed(fault_server: Serve, schema: Any, strict: bool) -> None:
    """Strict mode wants closed objects and every property required; other schemas are sent as a wish."""
    server = fault_server()
    provider(server).generate(ask(schema=schema))
    assert server.asked[0].body["response_format"]["json_schema"].get("strict", False) is strict


@pytest.mark.parametrize(
    "pasted", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/chat/completions/", "/v1/responses", "/v1/models"]
)
def test_any_form_of_base_url(fault_server: Serve, pasted: str) -> None:
    """Bare, with /v1, with or without slash, or the whole path of an endpoint."""
    server = fault_server()
    provider(server, base_url=server.origin + pasted).generate(ask())
    assert server.asked[0].path == "/v1/chat/completions"


def test_a_base_url_keeps_its_own_path_and_query(fault_server: Serve) -> None:
    """A prefix such as /api/v3, and Azure's api-version, are left as they are."""
    server = fault_server()
    provider(server, base_url=server.origin + "/openai/v3?api-version=1").generate(ask())
    assert server.asked[0].path == "/openai/v3/chat/completions?api-version=1"


@pytest.mark.parametrize(
    ("model", "tools", "path"),
    [
        ("gpt-4o-mini", True, "chat/completions"),
        ("gpt-5.4-mini", False, "chat/completions"),
        ("gpt-5.4-mini", True, "responses"),
        ("ft:gpt-6.1-sol:me", True, "responses"),
        ("gpt-5", True, "chat/completions"),
        ("o3-pro", False, "responses"),
        ("gpt-5.3-codex", False, "responses"),
        ("o4-mini-deep-research", False, "responses"),
    ],
)
def test_on_openais_hosts_the_model_decides_which_api(model: str, tools: bool, path: str) -> None:
    """Tools from gpt-5.4 on, and some families always, need the Responses API (WIRE 2.1)."""
    request = ask(tools=(OPEN_TOOL,) if tools else (), max_tokens=5)
    for base in ("https://api.openai.com/v1", "https://eu.api.openai.com/v1"):
        one = OpenAI(model=model, api_key=KEY, base_url=base)
        asked = one.asked(request, streamed=False)
        assert path == asked.path
        assert asked.body["max_output_tokens" if path == "responses" else "max_completion_tokens"] == 5
    asked = OpenAI(model=model, api_key=KEY, base_url="https://other.example").asked(request, streamed=False)
    assert (asked.path, asked.body["max_tokens"]) == ("chat/completions", 5)


# What is learnt


def refusing(name: str, text: str, code: str = "unsupported_parameter") -> Any:
    """Answer 400 while the request has a field, or came to another path than the text asks for."""
    error = WireError(text, "invalid_request_error", code, name, 400)

    def script(seen: Any) -> Any:
        return faults.status(400, error=error) if name in (seen.body or {}) else faults.well()

    return script


LESSONS = [
    ("max_tokens", "Use 'max_completion_tokens' instead: 'max_tokens' is not supported.", {"max_tokens": 9}),
    ("stream_options", "stream_options is not supported", {}),
    ("messages", "This model is only supported in v1/responses and not in v1/chat/completions.", {}),
]


@pytest.mark.parametrize(("name", "text", "options"), LESSONS, ids=[lesson[0] for lesson in LESSONS])
def test_a_refusal_teaches(fault_server: Serve, name: str, text: str, options: Any) -> None:
    """The first refusal asks to be tried again, unchanged; the second call, and all later ones, are right."""
    server = fault_server(refusing(name, text))
    one = provider(server)
    with pytest.raises(InvalidRequestError) as caught:
        whole(one.stream(ask(**options)))
    assert caught.value.retry_same
    assert caught.value.parameter is None
    assert whole(one.stream(ask(**options))).text == "You said: Hello"
    whole(one.stream(ask(**options)))
    assert len(server.asked) == 3


def test_what_teaches_nothing_is_the_error_itself(fault_server: Serve) -> None:
    """A refused temperature is for the router to drop; the provider does not ask to be called again."""
    server = fault_server(faults.unsupported("temperature"))
    with pytest.raises(InvalidRequestError) as caught:
        provider(server).generate(ask(temperature=0.5))
    assert (caught.value.parameter, caught.value.retry_same) == ("temperature", False)


# What is read


def test_content_takes_many_forms(fault_server: Serve) -> None:
    """Null, text, or a list of parts; reasoning under either name."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "other"}]
    assert fixed(fault_server, message(content=parts)).generate(ask()).text == "ab"
    assert fixed(fault_server, message(content=None)).generate(ask()).text == ""
    for name in ("reasoning", "reasoning_content"):
        answer = fixed(fault_server, message(content="x", **{name: "hm"})).generate(ask())
        assert (answer.text, answer.thinking) == ("x", "hm")


@pytest.mark.parametrize(
    ("raw", "end"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("error", "error"),
     ("function_call", "tool_calls"), ("model_length", "length"), ("eos", "stop")],
)  # fmt: skip
def test_finish_reasons(fault_server: Serve, raw: str, end: str) -> None:
    """Known words are mapped, unknown ones mean a normal end; the server's own word is kept."""
    one = fixed(fault_server, message(raw, content="x"), delta(raw, content="x"), "[DONE]")
    answer = one.generate(ask())
    assert (answer.finish_reason, answer.raw_finish_reason) == (end, raw)
    assert whole(one.stream(ask())).finish_reason == end


@pytest.mark.parametrize(
    ("given", "read"),
    [('{"a": 1}', '{"a": 1}'), ({"a": 1}, '{"a": 1}'), ("", "{}"), (None, "{}")],
)
def test_arguments_of_tools_take_many_forms(fault_server: Serve, given: Any, read: str) -> None:
    """An object becomes JSON, and nothing becomes {}."""
    calls = [{"id": "c", "function": {"name": "f", "arguments": given}}]
    one = fixed(fault_server, message("stop", tool_calls=calls), delta("stop", tool_calls=calls), "[DONE]")
    for answer in (one.generate(ask()), whole(one.stream(ask()))):
        assert answer.tool_calls == (ToolCall("c", "f", read),)
        assert answer.finish_reason == "tool_calls"


def piece(index: int | None, id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    given = {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, "a", "f", ""), piece(0, None, None, '{"x":'), piece(1, "b", "g", ""), piece(0, None, None, " 1}")],
        [piece(None, "a", "f", '{"x":'), piece(None, None, None, " 1}"), piece(None, "b", "g", "")],
        [piece(0, "a", "f", '{"x": 1}'), piece(0, "b", "g", "{}")],
        [piece(None, "a", "f", '{"x":'), piece(None, "a", None, " 1}"), piece(None, "b", "g", "{}")],
    ],
    ids=["indexed", "without index", "all number 0", "id repeated"],
)
def test_tool_calls_in_pieces(fault_server: Serve, pieces: list[Any]) -> None:
    """Pieces find their call by index, by id, or by coming after its first."""
    events = [delta(tool_calls=[one]) for one in pieces]
    answer = whole(fixed(fault_server, None, *events, delta("tool_calls"), "[DONE]").stream(ask()))
    assert answer.tool_calls == (ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}"))


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@pytest.mark.parametrize(
    "events",
    [
        [{"choices": [], "usage": USAGE}, delta(content="hi"), delta("stop")],
        [delta(content="hi"), {**delta("stop"), "usage": USAGE}],
        [delta(content="hi"), delta("stop"), {"choices": [], "usage": USAGE}],
        [delta(content="hi"), {**delta("stop"), "usage": None}, {"choices": None, "usage": USAGE}],
        [delta(content="hi"), {**delta("stop"), "x_groq": {"usage": USAGE}}],
    ],
)
def test_usage_wherever_it_comes(fault_server: Serve, events: list[Any]) -> None:
    """Before, in or after the last chunk; with cached and reasoning tokens."""
    for end in ([], ["[DONE]"]):
        answer = whole(fixed(fault_server, None, *events, *end).stream(ask()))
        assert (answer.text, answer.usage) == ("hi", Usage(9, 5, 4, 2))


def test_strange_usage_is_no_error(fault_server: Serve) -> None:
    """Missing, null or nonsense: what can be counted is counted."""
    for usage, read in ((None, None), ("many", None), ({"prompt_tokens": "x"}, Usage()), ({}, Usage())):
        assert fixed(fault_server, {**message(content="x"), "usage": usage}).generate(ask()).usage == read


def test_done_without_a_finish_reason_is_not_whole(fault_server: Serve) -> None:
    """`[DONE]` says that the stream is over, not that the answer is; a finish reason without it does."""
    with pytest.raises(UnusableAnswer):
        whole(fixed(fault_server, None, delta(content="hi"), "[DONE]").stream(ask()))
    assert whole(fixed(fault_server, None, delta(content="hi"), delta("stop")).stream(ask())).text == "hi"


def test_refusals(fault_server: Serve) -> None:
    """The field `refusal`, whole or in pieces, in either API."""
    one = fixed(fault_server, message(refusal="I cannot."), delta(refusal="I "), delta("stop", refusal="cannot."))
    for way in (one.generate, lambda request: whole(one.stream(request))):
        with pytest.raises(ContentFilterError, match="I cannot"):
            way(ask())
    with pytest.raises(ContentFilterError):
        provider(fault_server(faults.refusal()), api="responses").generate(ask())


def test_errors_in_a_stream(fault_server: Serve) -> None:
    """Object or string, at the top or in the choice, first or later: raised as what they mean."""
    rate = {"message": "slow", "code": "rate_limit_exceeded"}
    for event in ({"error": rate}, {"error": {**rate, "code": 429}}, {"choices": [{"error": rate, "delta": {}}]}):
        with pytest.raises(RateLimitError):
            whole(fixed(fault_server, None, event).stream(ask()))
        chunks = fixed(fault_server, None, delta(content="hi"), event).stream(ask())
        assert next(chunks).text == "hi"
        with pytest.raises(RateLimitError):
            next(chunks)
    with pytest.raises(RateLimitError):
        whole(fixed(fault_server, None, {"error": "Too many requests", "error_type": "x"}).stream(ask()))


def test_a_part_of_an_answer_is_paid_for_too(fault_server: Serve) -> None:
    """What a server counted before its stream broke is with the error (row 39)."""
    counted = {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52}
    with pytest.raises(RateLimitError) as caught:
        whole(
            fixed(fault_server, None, delta(content="hi") | {"usage": counted}, {"error": "Too many requests"}).stream(
                ask()
            )
        )
    assert caught.value.usage == Usage(50, 2)


@pytest.mark.parametrize(
    "body",
    [[], {}, {"choices": None}, {"choices": [None]}, {"choices": [3]}, message(content="x", tool_calls=[None]), "text",
     {"choices": [{"message": "x", "finish_reason": "stop"}]}, message(None, content="x"), message(7, content="x")],
)  # fmt: skip
def test_no_form_is_too_strange(fault_server: Serve, body: Any) -> None:
    """An answer that is none is unusable, whatever it is, whole or as an event."""
    one = fixed(fault_server, body, body, "[DONE]")
    with pytest.raises(UnusableAnswer):
        one.generate(ask())
    with pytest.raises(UnusableAnswer):
        whole(one.stream(ask()))


def test_a_server_that_does_not_stream_is_read_all_the_same(fault_server: Serve) -> None:
    """The JSON of a whole answer in place of events."""
    one = fixed(fault_server, None, message(content="hi"))
    assert whole(one.stream(ask())).text == "hi"


# How it is


def test_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unconfigured, and an error at each call, that names what to set; on loopback no key is needed."""
    one = OpenAI(model="m")
    assert one.health().status == "unconfigured"
    assert "OPENAI_API_KEY" in one.health().reason
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        one.generate(ask())
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert OpenAI(model="m").api_key is not None
    assert OpenAI(model="m", base_url="http://127.0.0.1:9").api_key is not None
    assert OpenAI(model="m", base_url="https://other.example/v1").api_key is None
    monkeypatch.setenv("OPENAI_BASE_URL", "https://other.example/v1")
    assert OpenAI(model="m").api_key is not None
    assert KEY not in repr(OpenAI(model="m", headers={"api-key": KEY}))


def test_without_a_model(fault_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI needs one; a server of one model does not. The request's own comes first, OPENAI_MODEL last."""
    one = OpenAI(api_key=KEY)
    assert "OPENAI_MODEL" in one.health().reason
    with pytest.raises(ModelNotFoundError, match="OPENAI_MODEL"):
        one.generate(ask())
    server = fault_server()
    provider(server, model=None).generate(ask())
    assert "model" not in server.asked[0].body
    monkeypatch.setenv("OPENAI_MODEL", "from-env")
    OpenAI(base_url=server.url).generate(ask())
    OpenAI(base_url=server.url).generate(ask(model="own"))
    assert [seen.body["model"] for seen in server.asked[1:]] == ["from-env", "own"]


def test_local_is_for_loopback_only(fault_server: Serve) -> None:
    """A server elsewhere cannot be declared to keep requests on this machine."""
    assert provider(fault_server(), local=True).health().usable
    one = OpenAI(model="m", api_key=KEY, base_url="https://other.example", local=True)
    assert one.health().status == "unconfigured"
    with pytest.raises(AuthenticationError, match="local"):
        one.generate(ask())


def test_a_wrong_option_is_told_by_health_and_by_every_call() -> None:
    """A URL that is none, a header that cannot be sent."""
    for options in ({"base_url": "ftp://x"}, {"base_url": "http://["}, {"base_url": KEY}, {"headers": {"X": "a\nb"}}):
        one = OpenAI(**{"model": "m", "api_key": KEY, "base_url": "http://127.0.0.1:9", **options})  # type: ignore[arg-type]
        assert one.health().status == "unconfigured"
        assert one.missing == one.health().reason
        assert KEY not in one.missing + repr(one), "a key at the wrong place is a key"
        with pytest.raises(AuthenticationError):
            one.generate(ask())


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.models("m"), "healthy"),
        (faults.no_such_page(), "degraded"),
        (faults.status(405), "degraded"),
        (faults.status(403), "degraded"),
        (faults.rate_limited(), "degraded"),
        (faults.bad_key(), "unconfigured"),
        (faults.no_quota(), "unavailable"),
        (faults.status(503), "unavailable"),
        (faults.html(), "unavailable"),
        (faults.reset(), "unavailable"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_health(fault_server: Serve, fault: Any, status: str) -> None:
    """`GET /models` tells it; a server without that list is not down."""
    health = provider(fault_server(paths={"/v1/models": fault})).health()
    assert health.status == status
    assert bool(health.reason) == (status != "healthy")
    assert KEY not in json.dumps(health.reason)
