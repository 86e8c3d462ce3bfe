"""The `openrouter` provider: what it sends, what it reads, what its errors mean, and how it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from pointsman import (
    AuthenticationError,
    BackendTimeout,
    Chunk,
    ContentFilterError,
    ContextLengthError,
    IncompleteAnswer,
    InvalidRequestError,
    Message,
    ModelInfo,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    Request,
    Router,
    Scope,
    State,
    Tool,
    ToolCall,
    UnavailableError,
    UnusableAnswer,
    Usage,
)
from pointsman.testing import Answer, Ask, Event, Fault, FaultServer, WireError, faults
from pointsman.testing.openrouter import OpenRouter as Dialect
from pointsman_openai import OpenAI
from pointsman_openrouter import OpenRouter

KEY = "sk-or-v1-0123456789abcdefghijkl"
Serve = Callable[..., FaultServer]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the machine."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)


def ask(prompt: str = "Hello", **options: Any) -> Request:
    return Request((Message("user", prompt),), **{"scope": Scope(30), **options})


def provider(server: FaultServer, **options: Any) -> OpenRouter:
    return OpenRouter(**{"base_url": f"{server.origin}/api/v1", "model": "acme/large", "api_key": KEY, **options})


def says(body: Any, status: int = 200, headers: Any = None) -> Fault:
    """A server that answers with a fixed body."""

    async def play(x: Any) -> None:
        await x.respond(status, body, headers=headers)

    return Fault("says", play)


class Fixed(Dialect):
    """A server of OpenRouter's that streams given events."""

    def __init__(self, *events: Any) -> None:
        object.__setattr__(self, "given", events)

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        return [Event(data) for data in self.given]  # type: ignore[attr-defined]  # set above


# What is sent


def test_sends_chat_completions_and_what_is_its_own(fault_server: Serve) -> None:
    """Model, fallback list, preferences and effort; every field of a request has its place; nothing else is sent."""
    server = fault_server()
    provider(server, model=None).generate(ask())
    assert server.asked[0].body == {"messages": [{"role": "user", "content": "Hello"}]}
    preferences = {"order": ["acme"], "allow_fallbacks": False, "zdr": True, "max_price": {"prompt": 1}}
    one = provider(server, models=("acme/small", "other/one"), provider=preferences)
    options: dict[str, Any] = {"top_k": 3, "seed": 7, "max_tokens": 5, "temperature": 0.5, "reasoning_effort": "low"}
    one.generate(ask(stop=("x",), extra={"provider": {"zdr": False}, "user": "u"}, **options))
    body = server.asked[1].body
    assert server.asked[1].path == "/api/v1/chat/completions"
    assert (body["model"], body["models"]) == ("acme/large", ["acme/small", "other/one"])
    assert body["provider"] == {**preferences, "zdr": False}
    assert {**options, "stop": ["x"], "user": "u"}.items() <= body.items()
    assert server.asked[1].key == KEY


def test_tells_which_program_asks(fault_server: Serve) -> None:
    """The app's address, title and categories; what no header can carry is encoded and never an exception."""
    server = fault_server()
    hard = "Übersicht ☂ \n\x00\ud800~"
    categories = ("cli-agent", "writing")
    provider(server, app_url="https://x.example/ü", app_title=hard, app_categories=categories).generate(ask())
    headers = server.asked[0].headers
    assert headers["http-referer"] == "https://x.example/%C3%BC"
    assert headers["x-openrouter-title"] == "%C3%9Cbersicht %E2%98%82 %0A%00%3F~"
    assert headers["x-openrouter-categories"] == "cli-agent,writing"


def test_a_misspelt_preference_is_told_and_a_new_one_is_sent(fault_server: Serve) -> None:
    """OpenRouter would ignore the one, and knows the other before we do."""
    server = fault_server()
    wrong = provider(server, provider={"allow_fallback": False})
    assert wrong.missing == "provider.allow_fallback: unknown preference; did you mean allow_fallbacks?"
    with pytest.raises(AuthenticationError, match="did you mean"):
        wrong.generate(ask())
    provider(server, provider={"horoscope": "good"}).generate(ask())
    assert server.asked[0].body["provider"] == {"horoscope": "good"}


def test_the_key_goes_to_openrouter_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the environment, stripped; a key that is missing is told with the variable's name."""
    assert "OPENROUTER_API_KEY" in OpenRouter().missing
    monkeypatch.setenv("OPENROUTER_API_KEY", f" {KEY}\n")
    assert OpenRouter().missing == ""
    assert OpenRouter(base_url="https://eu.openrouter.ai/api/v1").api_key is not None
    assert OpenRouter(base_url="https://openrouter.ai.evil.example/api/v1").api_key is None
    key = OpenRouter().api_key
    assert key is not None
    assert key.reveal() == KEY
    assert KEY not in repr(OpenRouter())


# What is read


def test_cost_usage_and_the_words_of_the_host(fault_server: Serve) -> None:
    """Cost comes from `usage.cost`, plain and streamed, and goes before any prices; the host's own word is kept."""
    usage = Usage(10, 5, 4, 2, cost=0.0042)
    server = fault_server(faults.well("Hi.", usage=usage))
    with Router([provider(server)]) as router:
        answer = router.generate("Hello")
        with router.stream("Hello") as stream:
            list(stream)
    for one in (answer, stream.completion):
        assert one is not None
        assert (one.cost, one.usage, one.raw_finish_reason) == (0.0042, usage, "end_turn")
    assert "stream_options" in server.asked[1].body  # which OpenRouter takes, and does not need


def test_cache_writes_are_counted(fault_server: Serve) -> None:
    """Tokens written to a cache stand apart, within the input."""
    details = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cache_write_tokens": 7}}
    choice = {"message": {"content": "x"}, "finish_reason": "stop"}
    server = fault_server(says({"choices": [choice], "usage": details}))
    assert provider(server).generate(ask()).usage == Usage(9, 1, cache_written_tokens=7)


THOUGHTS = [
    {"type": "reasoning.text", "index": 0, "text": "Let me ", "signature": None},
    {"type": "reasoning.text", "index": 0, "text": "look.", "signature": "s1"},
    {"type": "reasoning.encrypted", "index": 1, "data": "abc"},
]


def test_thoughts_before_a_tool_call_go_back(fault_server: Serve) -> None:
    """What a model thought before it called a tool is shown, and goes back as its host wants it; to no other vendor."""
    call = [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": "{}"}}]
    deltas: list[dict[str, Any]] = [{"reasoning": t.get("text", ""), "reasoning_details": [t]} for t in THOUGHTS]
    events = [{"choices": [{"delta": delta}]} for delta in [*deltas, {"tool_calls": call}]]
    end = {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}
    server = fault_server(wires={"/chat/completions": Fixed(*events, end, "[DONE]")})
    tool = Tool("look")
    with Router([provider(server)]) as router, router.stream("Where?", tools=[tool]) as stream:
        list(stream)
        first = stream.completion
        assert first is not None
        assert first.thinking == "Let me look."
        whole = [{"type": "reasoning.text", "index": 0, "text": "Let me look.", "signature": "s1"}, THOUGHTS[2]]
        assert first.state is not None
        assert (first.state.vendor, first.state.data) == ("openrouter", {"reasoning_details": whole})
        talk = [Message("user", "Where?"), first.message, Message("tool", "There.", tool_call_id="c1")]
        with router.stream(talk, tools=[tool]) as again:
            list(again)
    assert server.asked[1].body["messages"][1]["reasoning_details"] == whole


def test_keep_alives_are_no_content(fault_server: Serve) -> None:
    """Comments before the first token do not stretch its limit, nor those between tokens that of silence."""
    silent, broken = provider(fault_server(faults.comments_only())), provider(fault_server(faults.pings_after(3)))
    with Router([silent], max_retries=0) as router, pytest.raises(BackendTimeout):
        list(router.stream("Hello", first_token_timeout=0.5, timeout=60))
    with Router([broken], max_retries=0) as router:
        with pytest.raises(IncompleteAnswer) as caught:
            list(router.stream("Hello", idle_timeout=0.5, timeout=60))
        assert isinstance(caught.value.__cause__, BackendTimeout)
        assert faults.STORY.text is not None
        assert faults.STORY.text.startswith(caught.value.text)


# What errors mean


def error(kind: str | None, **facts: Any) -> dict[str, Any]:
    """Return an error body with `error_type` where the documentation has it."""
    return {"error": {"message": "No.", **({"metadata": {"error_type": kind}} if kind else {}), **facts}}


ERRORS: list[tuple[int, Any, type[Exception], bool, bool]] = [
    (400, error("invalid_request"), InvalidRequestError, False, False),
    (400, error("invalid_prompt"), InvalidRequestError, False, False),
    (422, error("unprocessable"), InvalidRequestError, False, False),
    (413, error("payload_too_large"), InvalidRequestError, False, False),
    (412, error("precondition_failed"), InvalidRequestError, False, False),
    (400, error("context_length_exceeded"), ContextLengthError, False, True),
    (400, error("token_limit_exceeded"), ContextLengthError, False, True),
    (400, error("string_too_long"), ContextLengthError, False, True),
    (400, error("max_tokens_exceeded"), ContextLengthError, False, True),
    (401, error("authentication"), AuthenticationError, False, True),
    (402, error("payment_required"), QuotaError, False, True),
    (403, error("permission_denied"), AuthenticationError, False, True),
    (403, error("permission_denied", message="The budget of the key is used up."), QuotaError, False, True),
    (403, error("permission_denied", message="Your input was flagged."), ContentFilterError, False, False),
    (404, error("not_found"), ModelNotFoundError, False, True),
    (429, error("rate_limit_exceeded"), RateLimitError, True, True),
    (502, error("provider_unavailable"), UnavailableError, True, True),
    (503, error("provider_overloaded"), UnavailableError, True, True),
    (504, error("timeout"), UnavailableError, True, True),
    (500, error("server"), UnavailableError, True, True),
    (500, error("unmapped"), UnavailableError, True, True),
    (400, error("content_policy_violation"), ContentFilterError, False, False),
    (400, error("refusal"), ContentFilterError, False, False),
]


@pytest.mark.parametrize(("status", "body", "kind", "same", "other"), ERRORS)
def test_each_error_type(
    fault_server: Serve, status: int, body: Any, kind: type[Exception], same: bool, other: bool
) -> None:
    """The class, and what follows from it, of each `error_type`: with its status, and alone under 200."""
    coded = {"error": {**body["error"], "code": status}}
    for number, given in ((status, body), (status, coded), (200, coded), (200, {"choices": [coded]})):
        with pytest.raises(kind) as caught:
            provider(fault_server(says(given, number))).generate(ask())
        assert type(caught.value) is kind
        assert (caught.value.retry_same, caught.value.try_next) == (same, other)  # type: ignore[attr-defined]  # ours


AVAILABILITY: list[tuple[int, str, type[Exception]]] = [
    (400, "model_not_found", ModelNotFoundError),
    (400, "wrong_endpoint", ModelNotFoundError),
    *((404, code, ModelNotFoundError) for code in ("no_endpoints", "model_deprecated", "model_unavailable_upstream")),
    *((404, code, ModelNotFoundError) for code in ("privacy_restricted", "constraint_filtered", "free_variant_ended")),
    (403, "region_restricted", AuthenticationError),
    (429, "capacity_exhausted", UnavailableError),
    (503, "temporarily_unavailable", UnavailableError),
]


@pytest.mark.parametrize(("status", "code", "kind"), AVAILABILITY)
def test_availability(fault_server: Serve, status: int, code: str, kind: type[Exception]) -> None:
    """The class by its code; `retryable` and `retry_after` count more than the class."""
    for retryable in (True, False):
        facts = {"http_status": status, "availability": {"code": code, "retryable": retryable, "retry_after": 9}}
        for number in (status, 200):
            with pytest.raises(kind) as caught:
                provider(fault_server(says({"error": {"message": "No.", **facts}}, number))).generate(ask())
            assert (caught.value.retry_same, caught.value.retry_after) == (retryable, 9)  # type: ignore[attr-defined]


def test_money_that_is_a_matter_of_seconds_or_of_tokens(fault_server: Serve) -> None:
    """402 with a hint may be asked again; one that reserves for `max_tokens` says so, and smaller requests may come."""
    again = provider(fault_server(says(error("payment_required"), 402, {"retry-after": "3"})))
    with pytest.raises(QuotaError) as caught:
        again.generate(ask())
    assert (caught.value.retry_same, caught.value.retry_after) == (True, 3)
    text = "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens."
    with pytest.raises(QuotaError, match="fewer max_tokens") as caught:
        provider(fault_server(says(error(None, code=402, message=text), 402))).generate(ask())
    assert (caught.value.retry_same, caught.value.retry_after) == (False, 0), "a smaller one may be asked at once"


def test_a_model_without_tools_is_still_there(fault_server: Serve) -> None:
    """404 because no host of the model takes tools says nothing against the model: the next backend gets that one."""
    text = "No endpoints found that support tool use."
    server = fault_server(says(error(None, code=404, message=text), 404))
    with pytest.raises(InvalidRequestError) as caught:
        provider(server).generate(ask(tools=(Tool("look"),)))
    assert (caught.value.parameter, caught.value.try_next) == ("tools", True)
    text = "No endpoints found that support the provided 'tool_choice' value."
    server.play(says(error(None, code=404, message=text), 404))
    with pytest.raises(InvalidRequestError) as caught:
        provider(server).generate(ask(tools=(Tool("look"),), tool_choice="required"))
    assert caught.value.parameter == "tool_choice"


def test_an_error_in_a_stream(fault_server: Serve) -> None:
    """At the top of a chunk, after text, under 200: it is raised as what it is; its code may be a word."""
    text = {"choices": [{"delta": {"content": "Well, "}}]}
    for code, kind in ((429, RateLimitError), ("server_error", UnavailableError), (502, UnavailableError)):
        last = {"error": {"code": code, "message": "No."}, "choices": [{"delta": {}, "finish_reason": "error"}]}
        chunks = provider(fault_server(wires={"/chat/completions": Fixed(text, last)})).stream(ask())
        assert next(chunks) == Chunk("Well, ")
        with pytest.raises(kind):
            next(chunks)
    with pytest.raises(UnusableAnswer):
        list(provider(fault_server(wires={"/chat/completions": Fixed(text)})).stream(ask()))


# How it is, and what it offers


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (says({"data": {"label": "k", "limit": None, "limit_remaining": None, "usage": 3.5}}), "healthy"),
        (says({"data": {"label": "k", "limit": 10, "limit_remaining": 2.5, "usage": 7.5}}), "healthy"),
        (says({"data": {"label": "k", "limit": 10, "limit_remaining": 0, "usage": 10}}), "unavailable"),
        (says([]), "healthy"),
        (says({"data": [1]}), "unavailable"),
        (says(error("authentication", code=401), 401), "unconfigured"),
        (says(error("rate_limit_exceeded"), 429), "degraded"),
        (faults.status(503), "unavailable"),
        (faults.html(), "unavailable"),
        (faults.reset(), "unavailable"),
    ],
)
def test_health(fault_server: Serve, fault: Any, status: str) -> None:
    """`GET /key` proves the key and says what is left; the public list of models proves nothing."""
    server = fault_server(paths={"/api/v1/key": fault, "/api/v1/models": faults.models("m")})
    health = provider(server).health()
    assert health.status == status
    assert [seen.path for seen in server.log if seen.path] == ["/api/v1/key"]
    assert server.asked == ()


def test_models_with_context_and_prices(fault_server: Serve) -> None:
    """Prices are text, in dollars for one token; the router of all models has none, nor has what is nonsense."""
    pricing = {"prompt": "0.000003", "completion": "0.000015", "input_cache_read": "0.0000003", "image": "0"}
    listed = [
        {"id": "acme/large", "context_length": 200_000, "pricing": pricing, "expiration_date": "2027-01-01"},
        {"id": "openrouter/auto", "context_length": 2_000_000, "pricing": {"prompt": "-1", "completion": "-1"}},
        {"id": "acme/odd", "pricing": {"prompt": "free"}},
    ]
    found = provider(fault_server(paths={"/api/v1/models": says({"data": listed})})).list_models()
    assert found == [
        ModelInfo("acme/large", 200_000, {"input": 3.0, "output": 15.0, "cached": 0.3}, "2027-01-01"),
        ModelInfo("openrouter/auto", 2_000_000),
        ModelInfo("acme/odd"),
    ]


# The judge: OpenAI's client, which OpenRouter's documentation tells to use


@pytest.fixture
def client(fault_server: Serve) -> Callable[..., tuple[FaultServer, openai.OpenAI]]:
    """A function that starts the double, and OpenAI's client for it."""

    def start(*script: Any) -> tuple[FaultServer, openai.OpenAI]:
        server = fault_server(script)
        return server, openai.OpenAI(base_url=f"{server.origin}/api/v1", api_key=KEY, max_retries=0, timeout=20)

    return start


def test_the_client_reads_the_double(client: Callable[..., tuple[FaultServer, openai.OpenAI]]) -> None:
    """Answer, stream and usage with cost are what our provider reads; what both send for the same is the same."""
    server, theirs = client(faults.well("Hi there.", usage=Usage(10, 5, 4, 2, cost=0.5)))
    asked: Any = {"model": "acme/large", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 7}
    extra = {"models": ["acme/small"], "provider": {"zdr": True}}
    with theirs:
        answer = theirs.chat.completions.create(**asked, extra_body=extra)
        with theirs.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
    one = provider(server, models=("acme/small",), provider={"zdr": True})
    ours = one.generate(ask(max_tokens=7))
    assert ours.usage is not None
    assert answer.usage is not None
    assert answer.choices[0].message.content == ours.text == "Hi there."
    assert answer.usage.model_extra is not None
    assert answer.usage.model_extra["cost"] == ours.usage.cost == 0.5
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hi there."
    provider(server).stream(ask(max_tokens=7)).__next__()
    sent = [seen.body for seen in server.asked]
    assert (sent[2], sent[3]) == (sent[0], sent[1])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.bad_key(), openai.AuthenticationError),
        (faults.rate_limited(), openai.RateLimitError),
        (faults.unknown_model(), openai.NotFoundError),
        (faults.context_too_long(), openai.BadRequestError),
        (faults.status(503), openai.InternalServerError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_client_reads_errors(
    client: Callable[..., tuple[FaultServer, openai.OpenAI]], fault: Fault, kind: type[openai.APIStatusError]
) -> None:
    """The double's errors have OpenRouter's form: a number as the code, and the type in the metadata."""
    _, theirs = client(fault)
    with theirs, pytest.raises(kind) as caught:
        theirs.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
    body: Any = caught.value.body
    assert body["code"] == caught.value.status_code
    assert body["metadata"]["error_type"]


def test_the_client_reads_an_error_in_a_stream(client: Callable[..., tuple[FaultServer, openai.OpenAI]]) -> None:
    """A chunk with an error at its top ends the stream for both."""
    server, theirs = client(faults.error_event_after(2, WireError("Slow down.", status=429)))
    with theirs, pytest.raises(openai.APIError):
        list(theirs.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True))
    with pytest.raises(RateLimitError):
        list(provider(server).stream(ask()))


def test_what_a_fallback_keeps(fault_server: Serve) -> None:
    """Calls of tools go on with another backend, without what only OpenRouter's model can read."""
    here, there = fault_server(), fault_server()
    state = State("openrouter", {"reasoning_details": THOUGHTS})
    talk = [
        Message("user", "Where?"),
        Message("assistant", "", (ToolCall("c1", "look"),), state=state),
        Message("tool", "There.", tool_call_id="c1"),
    ]
    other = OpenAI(base_url=there.url, model="m", api_key=KEY)
    for server, one in ((here, provider(here)), (there, other)):
        with Router([one]) as router:
            router.generate(talk)
        sent = server.asked[0].body["messages"][1]
        assert ("reasoning_details" in sent, sent["tool_calls"][0]["id"]) == (server is here, "c1")
