"""The `gemini` provider: what it sends, what it reads, and Google's own client as the judge of both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google import genai
from google.genai import types
from google.genai.errors import APIError, ClientError, ServerError
from pointsman import (
    AuthenticationError,
    BackendError,
    ConfigError,
    ContentFilterError,
    ContextLengthError,
    Image,
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
from pointsman.testing.gemini_content import GenerateContent
from pointsman_gemini import Gemini

Serve = Callable[..., FaultServer]
KEY = "AQ.0123456789abcdefghij"
OLD, NEW = "gemini-2.5-flash", "gemini-3-flash-preview"
TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
DUMMY = "skip_thought_signature_validator"
CONVERSATION = (
    Message("system", "Be short."),
    Message("user", ("What is this?", Image(data=b"png"), Image(url="https://x.example/a.jpg"))),
    Message("assistant", "", (ToolCall("call.1", "look", '{"at": 1}'), ToolCall("c2", "look", "oops"))),
    Message("tool", "a cat", tool_call_id="call.1"),
    Message("tool", "a dog", tool_call_id="c2"),
    Message("assistant", "A cat."),
    Message("user", "Sure?"),
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GEMINI_MODEL", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_API_VERSION")
    for name in names:
        monkeypatch.delenv(name, raising=False)


def provider(server: FaultServer, **options: Any) -> Gemini:
    return Gemini(**{"base_url": server.origin, "api_key": KEY, "model": OLD, **options})


def ask(*messages: Message, **options: Any) -> Request:
    return Request(messages or (Message("user", "hi"),), **options)


def sent(fault_server: Serve, request: Request, **options: Any) -> dict[str, Any]:
    """Return the body that the provider sends."""
    server = fault_server()
    provider(server, **options).generate(request)
    return dict(server.asked[-1].body)


# What is sent


def test_sends_what_is_set_and_nothing_else(fault_server: Serve) -> None:
    """A bare request has its contents and no more; the model is in the path, the key in one header only."""
    server = fault_server()
    one = provider(server, headers={"x-goog-user-project": "p"})
    one.generate(ask())
    list(one.stream(ask(model=f"models/{NEW}")))
    plain, streamed = server.asked
    assert plain.path == f"/v1beta/models/{OLD}:generateContent"
    assert streamed.path == f"/v1beta/models/{NEW}:streamGenerateContent?alt=sse"
    for seen in (plain, streamed):
        assert seen.body == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
        assert seen.key == KEY
        assert seen.headers["x-goog-api-key"]
        assert seen.headers["x-goog-user-project"] == "p"
        assert "authorization" not in seen.headers


def test_every_option_has_its_place(fault_server: Serve) -> None:
    """Sampling, penalties, seed, stop, tools and schema are mapped; what `extra` adds to the configuration joins it."""
    body = sent(
        fault_server,
        ask(
            system="Short.", max_tokens=9, temperature=1.5, top_p=0.9, top_k=4, stop=("X",), seed=3, tools=(TOOL,),
            frequency_penalty=0.1, presence_penalty=0.2, tool_choice="look", schema=SCHEMA,
            extra={"generationConfig": {"candidateCount": 1}, "cachedContent": "cachedContents/1"},
        ),
        model=NEW,
    )  # fmt: skip
    assert body.pop("contents")
    assert body == {
        "systemInstruction": {"parts": [{"text": "Short."}]},
        "tools": [{"functionDeclarations": [
            {"name": "look", "description": "Looks.", "parametersJsonSchema": dict(TOOL.parameters)},
        ]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        "cachedContent": "cachedContents/1",
        "generationConfig": {
            "maxOutputTokens": 9, "temperature": 1.5, "topP": 0.9, "topK": 4, "stopSequences": ["X"], "seed": 3,
            "frequencyPenalty": 0.1, "presencePenalty": 0.2, "candidateCount": 1,
            "responseMimeType": "application/json", "responseJsonSchema": SCHEMA,
        },
    }  # fmt: skip
    for choice, mode in {"auto": "AUTO", "none": "NONE", "required": "ANY"}.items():
        config = sent(fault_server, ask(tools=(TOOL,), tool_choice=choice))["toolConfig"]
        assert config == {"functionCallingConfig": {"mode": mode}}


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        (NEW, "none", {"thinkingLevel": "MINIMAL"}),
        (NEW, "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        (NEW, "max", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3.8-flash", "none", {"thinkingLevel": "LOW"}),
        (OLD, "none", {"thinkingBudget": 0}),
        (OLD, "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        (OLD, "xhigh", {"thinkingBudget": 24_576, "includeThoughts": True}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
    ],
)
def test_effort(fault_server: Serve, model: str, effort: Any, expected: dict[str, Any]) -> None:
    """Models from 3 on take a level, 2.5 a budget, none both; the least is what the model has."""
    body = sent(fault_server, ask(reasoning_effort=effort), model=model)
    assert body["generationConfig"] == {"thinkingConfig": expected}


def test_a_conversation_with_tools_of_another_vendor(fault_server: Serve) -> None:
    """Roles alternate, results have the names of their calls and no id, and only new models get a dummy signature."""
    body = sent(fault_server, ask(*CONVERSATION), model=NEW)
    assert body["systemInstruction"] == {"parts": [{"text": "Be short."}]}
    user, called, results, *rest = body["contents"]
    assert user["parts"] == [
        {"text": "What is this?"},
        {"inlineData": {"mimeType": "image/png", "data": "cG5n"}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x.example/a.jpg"}},
    ]
    assert called == {
        "role": "model",
        "parts": [
            {"functionCall": {"name": "look", "args": {"at": 1}}, "thoughtSignature": DUMMY},
            {"functionCall": {"name": "look", "args": {"arguments": "oops"}}},
        ],
    }
    assert results["role"] == "user"
    assert [part["functionResponse"] for part in results["parts"]] == [
        {"name": "look", "response": {"output": "a cat"}},
        {"name": "look", "response": {"output": "a dog"}},
    ]
    assert [turn["role"] for turn in rest] == ["model", "user"]
    assert DUMMY not in json.dumps(sent(fault_server, ask(*CONVERSATION), model=OLD))
    with pytest.raises(InvalidRequestError, match="tool_call_id 'c9'"):
        sent(fault_server, ask(Message("user", "hi"), Message("tool", "?", tool_call_id="c9")))


def test_an_image_of_a_tool(fault_server: Serve) -> None:
    """An image in a result stands beside it, in the same turn."""
    talk = (*CONVERSATION[:3], Message("tool", ("see", Image(data=b"png")), tool_call_id="call.1"))
    *_, results = sent(fault_server, ask(*talk))["contents"]
    assert [list(part) for part in results["parts"]] == [["functionResponse"], ["inlineData"]]
    assert results["parts"][0]["functionResponse"]["response"] == {"output": "see"}


@pytest.mark.parametrize(
    "model", ["a?b", "a#b", "../x", "a/b", "a..b", "a b", "a\n", "models/", "a:b", "a%2fb", "", "ä"]
)
def test_an_id_that_is_none_is_refused_before_sending(fault_server: Serve, model: str) -> None:
    """What has a meaning in a path never gets into it."""
    server = fault_server()
    one = provider(server, model=model)
    for call in (lambda: one.generate(ask()), lambda: list(one.stream(ask()))):
        with pytest.raises(ModelNotFoundError, match="model"):
            call()
    assert not server.log


def test_a_refused_parameter_is_learnt(fault_server: Serve) -> None:
    """What the table does not know is learnt from the 400, in Google's words."""
    told = WireError("Invalid JSON payload received. Unknown name \"topK\" at 'generation_config': ...", status=400)
    server = fault_server([faults.status(400, told), faults.well("yes")])
    with Router({"gemini": provider(server)}) as router:
        answer = router.generate("hi", top_k=4)
    assert (answer.text, len(server.asked)) == ("yes", 2)
    assert "refuses top_k" in answer.warnings[0]


# What is read


@pytest.fixture(params=["plain", "streamed"])
def answered(request: pytest.FixtureRequest, fault_server: Serve) -> Callable[..., Any]:
    """A function that plays an answer and returns it as the provider reads it, whichever way it comes."""

    def answered(fault: Fault, **options: Any) -> Any:
        server = fault_server(fault, **options)
        with Router({"gemini": provider(server)}, max_retries=0) as router:
            if request.param == "plain":
                return router.generate("hi")
            with router.stream("hi") as stream:
                list(stream)
                return stream.completion

    return answered


def test_reads_thoughts_calls_and_usage(answered: Callable[..., Any]) -> None:
    """Thinking apart from the text, calls whole, cached within the input, thoughts within the output, parts kept."""
    usage = Usage(100, 20, 30, 5)
    calls = (ToolCall("fc_1", "look", '{"at": 1}'), ToolCall("fc_2", "look", "{}"))
    found = answered(faults.well("So, then.", tool_calls=calls, thinking="Hm, well.", usage=usage))
    assert (found.text, found.thinking, found.tool_calls, found.usage) == ("So, then.", "Hm, well.", calls, usage)
    assert (found.finish_reason, found.raw_finish_reason, found.model) == ("tool_calls", "STOP", OLD)
    assert found.request_id
    assert found.state.vendor == "google"
    thought, text, first, second = found.state.data
    assert (thought, text) == ({"text": "Hm, well.", "thought": True}, {"text": "So, then."})
    assert first["thoughtSignature"]
    assert second == {"functionCall": {"id": "fc_2", "name": "look", "args": {}}}
    assert answered(faults.well("No thoughts.")).state is None


@pytest.mark.parametrize("given", ["fc_1", ""])
def test_its_own_turn_goes_back_unchanged(fault_server: Serve, given: str) -> None:
    """A turn with calls is replayed part by part, its signature in the same part; an id goes back if it was given."""
    calls = (ToolCall(given, "look", '{"at": 1}'), ToolCall(given and "fc_2", "look", '{"at": 2}'))
    server = fault_server([faults.well("", tool_calls=calls, thinking="Hm."), faults.well()])
    with Router({"gemini": provider(server, model=NEW)}) as router:
        first = router.generate("hi", tools=[TOOL])
        one, two = first.tool_calls
        assert one.id
        assert one.id != two.id
        results = [Message("tool", text, tool_call_id=call.id) for text, call in (("a", one), ("b", two))]
        router.generate([Message("user", "hi"), first.message, *results], tools=[TOOL])
    _, own, answers = server.asked[-1].body["contents"]
    assert first.state
    assert own == {"role": "model", "parts": first.state.data}
    assert DUMMY not in json.dumps(own)
    found = [part["functionResponse"] for part in answers["parts"]]
    assert [(part.get("id", ""), part["response"]["output"]) for part in found] == [
        (given, "a"),
        (given and "fc_2", "b"),
    ]


def test_the_state_of_an_older_model_gets_a_signature(fault_server: Serve) -> None:
    """Calls that a model without signatures made are marked as unsigned when the conversation goes to a newer one."""
    calls = (ToolCall("c1", "look", "{}"),)
    unsigned = Message("assistant", "", calls, state=State("google", [{"functionCall": {"name": "look", "args": {}}}]))
    talk = ask(Message("user", "hi"), unsigned, Message("tool", "a cat", tool_call_id="c1"))
    assert sent(fault_server, talk, model=NEW)["contents"][1]["parts"][0]["thoughtSignature"] == DUMMY
    assert "thoughtSignature" not in sent(fault_server, talk, model=OLD)["contents"][1]["parts"][0]


def google(kind: str, **facts: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **facts}


def quota(name: str) -> dict[str, Any]:
    return google("QuotaFailure", violations=[{"quotaId": f"GenerateRequests{name}PerProjectPerModel-FreeTier"}])


SOON = google("RetryInfo", retryDelay="47.43s")
PLAN = "You exceeded your current quota, please check your plan and billing details."
ERRORS: list[tuple[int, str, str | None, dict[str, Any], type[BackendError]]] = [
    (400, "API key not valid. Please pass a valid API key.", "API_KEY_INVALID", {}, AuthenticationError),
    (400, "User location is not supported.", None, {"status": "FAILED_PRECONDITION"}, AuthenticationError),
    (400, "Please enable billing.", None, {"status": "FAILED_PRECONDITION"}, AuthenticationError),
    (400, "The input token count (2) exceeds the maximum number of tokens allowed (1).", None, {}, ContextLengthError),
    (400, "Please use a valid role: user, model.", None, {}, InvalidRequestError),
    (401, "Request had invalid credentials.", "ACCESS_TOKEN_TYPE_UNSUPPORTED", {}, AuthenticationError),
    (403, "Your API key was reported as leaked.", None, {}, AuthenticationError),
    (
        403,
        "Generative Language API has not been used in project 1 before.",
        "SERVICE_DISABLED",
        {},
        AuthenticationError,
    ),
    (404, "models/gemini-nobody is not found for API version v1beta.", None, {}, ModelNotFoundError),
    (429, "Resource has been exhausted. Please retry in 47.4s.", None, {}, RateLimitError),
    (429, f"{PLAN} Please retry in 47.43s.", None, {"details": [quota("PerMinute"), SOON]}, RateLimitError),
    (429, f"{PLAN} Please retry in 47.43s.", None, {"details": [quota("PerDay"), SOON]}, QuotaError),
    (429, PLAN, None, {}, QuotaError),
    (500, "An internal error has occurred.", None, {}, UnavailableError),
    (503, "The model is overloaded. Please try again later.", None, {}, UnavailableError),
    (504, "Deadline expired before operation could complete.", None, {}, UnavailableError),
]


class Listed(GenerateContent):
    """Wraps its errors in a list, as some of Google's hosts do."""

    def error(self, error: WireError) -> Any:
        return [super().error(error)]


WIRES = {
    cls.__name__: {":generateContent": cls(), ":streamGenerateContent": cls(streamed=True)}
    for cls in (GenerateContent, Listed)
}


@pytest.mark.parametrize("wires", WIRES.values(), ids=WIRES)
@pytest.mark.parametrize(("status", "text", "code", "extra", "kind"), ERRORS, ids=lambda value: str(value)[:30])
def test_errors(
    fault_server: Serve, status: int, text: str, code: str | None, extra: Any, kind: type[BackendError], wires: Any
) -> None:
    """Each row of the API's table has its class, as a status, under 200 and as bare JSON in a stream, without a key."""
    told = WireError(f"{text} {KEY}", code=code, status=status, extra=extra)
    for fault in (faults.status(status, told), faults.error_event_after(2, told)):
        one = provider(fault_server(fault, wires=wires))
        for call in (lambda one=one: one.generate(ask()), lambda one=one: list(one.stream(ask()))):
            with pytest.raises(BackendError) as caught:
                call()
            assert type(caught.value) is kind
            assert caught.value.status == status
            assert KEY not in str(caught.value)
            expected = pytest.approx(47.4, abs=0.1) if kind is RateLimitError else None  # a day is no matter of seconds
            assert caught.value.retry_after == expected


def test_a_refused_signature_is_this_vendors_matter(fault_server: Serve) -> None:
    """A signature that the service does not take is no fault of the request: another backend is asked."""
    told = WireError("Corrupted thought signature.", status=400)
    server = fault_server(faults.status(400, told))
    with Router({"a": provider(server), "b": provider(fault_server(faults.well("yes")))}) as router:
        assert router.generate("hi").text == "yes"


class Ending(GenerateContent):
    """Ends its answers with the word that was asked for."""

    def body(self, answer: Answer, ask: Ask) -> Any:
        whole = super().body(answer, ask)
        whole["candidates"][0]["finishReason"] = ask.model
        return whole


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        *((word, ContentFilterError) for word in (
            "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "ESCALATION", "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER", "MODEL_ARMOR",
        )),
        *((word, UnusableAnswer) for word in (
            "LANGUAGE", "OTHER", "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "NO_IMAGE",
            "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE", "CONTINUATION", "FINISH_REASON_UNSPECIFIED", "NEW_WORD",
        )),
        ("PUP_LIMITED_DISABLED", AuthenticationError),
    ],
)  # fmt: skip
def test_finish_reasons_that_are_none(fault_server: Serve, raw: str, kind: type[BackendError]) -> None:
    """Whatever ends an answer but STOP and MAX_TOKENS is an error that says the word, and what it cost."""
    one = provider(fault_server(faults.well("Text."), wires={":generateContent": Ending()}), model=raw)
    with pytest.raises(kind, match=raw) as caught:
        one.generate(ask())
    assert type(caught.value) is kind
    assert caught.value.usage == Usage(19, 8, 4, 2)


class Blocking(GenerateContent):
    """Answers no prompt, for the reason that was asked for."""

    def body(self, answer: Answer, ask: Ask) -> Any:
        return {"promptFeedback": {"blockReason": ask.model}, "usageMetadata": {"promptTokenCount": 9}}

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        return [Event(self.body(answer, ask))]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("reason", sorted({word.value for word in types.BlockedReason}))
def test_a_blocked_prompt_is_told_with_its_reason(fault_server: Serve, reason: str, streamed: bool) -> None:
    """There is no answer then, under status 200: a refusal, with Google's word for it and what it cost."""
    path = ":streamGenerateContent" if streamed else ":generateContent"
    one = provider(fault_server(wires={path: Blocking()}), model=reason)
    with pytest.raises(ContentFilterError, match=f"the prompt was blocked: {reason}$") as caught:
        collect(one.stream(ask())) if streamed else one.generate(ask())
    assert caught.value.usage == Usage(9, 0)


def test_the_words_of_success(fault_server: Serve) -> None:
    """STOP is an end, MAX_TOKENS a length; Google's own list has no word that these tests do not know."""
    for raw, expected in {"STOP": "stop", "MAX_TOKENS": "length"}.items():
        one = provider(fault_server(faults.well("Text."), wires={":generateContent": Ending()}), model=raw)
        answer = one.generate(ask())
        assert (answer.finish_reason, answer.raw_finish_reason) == (expected, raw)
    (tested,) = (mark.args[1] for mark in test_finish_reasons_that_are_none.pytestmark)  # type: ignore[attr-defined]
    assert {word.value for word in types.FinishReason} <= {raw for raw, _ in tested} | {"STOP", "MAX_TOKENS"}


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (faults.safety_stop("Well, "), ContentFilterError, "SAFETY"),
        (faults.refusal(), ContentFilterError, "prompt was blocked: SAFETY"),
        (faults.finish_error("Well, "), UnusableAnswer, "OTHER"),
        (faults.length(""), UnusableAnswer, "empty.*MAX_TOKENS"),
        (faults.thinking_only(), UnusableAnswer, "empty.*STOP"),
        (faults.no_finish(), UnusableAnswer, "finishReason"),
        (faults.cut_in_tool_call("length"), UnusableAnswer, "MALFORMED_FUNCTION_CALL"),
    ],
    ids=repr,
)
def test_what_is_no_answer(answered: Callable[..., Any], fault: Fault, kind: type[BackendError], says: str) -> None:
    """A blocked prompt, a stop for safety and an answer of thoughts only are errors, however they come."""
    with pytest.raises(kind, match=says):
        answered(fault)


# How it is, and what it offers


def test_health_and_models(fault_server: Serve) -> None:
    """Both ask the list of models, which costs nothing; what is missing is told with the variable to set."""
    server = fault_server(paths={"/v1beta/models": faults.models("gemini-x")})
    one = provider(server)
    assert one.health().status == "healthy"
    assert server.log[-1].path == "/v1beta/models?pageSize=1"
    (found,) = one.list_models()
    assert (found.id, found.context_window) == ("gemini-x", 1_048_576)
    assert not server.asked
    assert "GOOGLE_API_KEY" in Gemini(model=OLD).health().reason
    assert "GEMINI_API_KEY" in Gemini(model=OLD).missing
    assert "GEMINI_MODEL" in provider(server, model=None).health().reason
    with pytest.raises(AuthenticationError):
        Gemini(model=OLD).list_models()
    refused = provider(fault_server(paths={"/v1beta/models": faults.bad_key_under_400()}))
    assert refused.health().status == "unconfigured"


def test_the_environment(fault_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, address, version and model come from Google's variables; GOOGLE_API_KEY wins, as with Google's client."""
    server = fault_server()
    monkeypatch.setenv("GOOGLE_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("GEMINI_API_KEY", "AQ.of-the-loser-0123456789")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.origin + "/")
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v1alpha")
    monkeypatch.setenv("GEMINI_MODEL", "gemini-from-env")
    one = Gemini()
    assert one.generate(ask()).model == "gemini-from-env"
    assert server.asked[-1].path == "/v1alpha/models/gemini-from-env:generateContent"
    assert server.asked[-1].key == KEY
    assert KEY not in repr(one)
    assert Gemini(base_url=f"{server.origin}/v1").generate(ask())
    assert server.asked[-1].path.startswith("/v1/models/")
    monkeypatch.delenv("GOOGLE_API_KEY")
    assert Gemini().generate(ask())
    assert server.asked[-1].key == "AQ.of-the-loser-0123456789"
    with pytest.raises(AuthenticationError):
        Gemini(api_key="k\nk", model=OLD).generate(ask())
    with pytest.raises(ConfigError):
        Router.from_config({"BACKENDS": [{"id": "a", "type": "gemini", "modell": "x"}]})


# Google's own client is the judge


@pytest.fixture
def official(fault_server: Serve) -> Iterator[Callable[..., genai.Client]]:
    clients: list[genai.Client] = []

    def official(server: FaultServer) -> genai.Client:
        options = types.HttpOptions(base_url=server.origin, api_version="v1beta", timeout=20_000)
        clients.append(genai.Client(api_key=KEY, http_options=options))
        return clients[-1]

    yield official
    for client in clients:
        client.close()


def test_their_client_reads_our_double(fault_server: Serve, official: Callable[..., genai.Client]) -> None:
    """Text, thoughts, calls and usage of the double arrive in their client, plain and streamed; so do its errors."""
    calls = (ToolCall("fc_1", "look", '{"at": 1}'),)
    server = fault_server(faults.well("So, then.", tool_calls=calls, thinking="Hm."))
    client = official(server)
    plain = client.models.generate_content(model=NEW, contents="hi")
    pieces = list(client.models.generate_content_stream(model=NEW, contents="hi"))
    for answers in ([plain], pieces):
        parts: list[Any] = [part for one in answers for part in one.candidates[0].content.parts or ()]  # type: ignore[union-attr, index]
        assert "".join(part.text for part in parts if part.text and not part.thought) == "So, then."
        assert "".join(part.text for part in parts if part.thought) == "Hm."
        (call,) = (part for part in parts if part.function_call)
        assert (call.function_call.id, call.function_call.args) == ("fc_1", {"at": 1})
        assert call.thought_signature
        counted: Any = answers[-1].usage_metadata
        assert (counted.prompt_token_count, counted.cached_content_token_count) == (19, 4)
        assert (counted.candidates_token_count, counted.thoughts_token_count, counted.total_token_count) == (6, 2, 27)
        assert answers[-1].candidates[0].finish_reason == types.FinishReason.STOP  # type: ignore[index]
        assert (answers[-1].model_version, bool(answers[-1].response_id)) == (NEW, True)
    server.play(faults.refusal())
    assert client.models.generate_content(model=NEW, contents="hi").prompt_feedback.block_reason == "SAFETY"  # type: ignore[union-attr]
    for status, kind in {400: ClientError, 429: ClientError, 503: ServerError}.items():
        server.play(faults.status(status))
        with pytest.raises(kind) as caught:
            client.models.generate_content(model=NEW, contents="hi")
        assert caught.value.code == status
    server.play(faults.error_event_after(2))
    with pytest.raises(APIError):
        list(client.models.generate_content_stream(model=NEW, contents="hi"))
    assert [model.name for model in client.models.list()] == ["models/default-model"]


def camel(value: Any) -> Any:
    """Return JSON with the names that their client writes in snake case as the API's documents have them."""
    if isinstance(value, dict):
        return {re.sub("_(.)", lambda m: m[1].upper(), name): camel(inner) for name, inner in value.items()}
    return [camel(inner) for inner in value] if isinstance(value, list) else value


def test_we_send_what_their_client_sends(fault_server: Serve, official: Callable[..., genai.Client]) -> None:
    """The same conversation carries the same fields.

    Two differences: their client gives the system instruction a role, which the API ignores, and writes some names
    in snake case, which the API takes as well. (A third is outside: from 3.0 on it asks version v1 by default.)
    """
    calls = (ToolCall("fc_1", "look", '{"at": 1}'),)
    server = fault_server([faults.well("", tool_calls=calls), faults.well()])
    config = types.GenerateContentConfig(
        system_instruction="Short.", max_output_tokens=9, stop_sequences=["X"], temperature=0.5, seed=3,
        tools=[types.Tool(function_declarations=[types.FunctionDeclaration(
            name="look", description="Looks.", parameters_json_schema=dict(TOOL.parameters),
        )])],
        tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(
            mode=types.FunctionCallingConfigMode.AUTO,
        )),
        thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW, include_thoughts=True),
        response_mime_type="application/json", response_json_schema=SCHEMA,
    )  # fmt: skip
    client = official(server)
    contents: Any = [types.Content(role="user", parts=[
        types.Part(text="hi"), types.Part(inline_data=types.Blob(data=b"png", mime_type="image/png")),
    ])]  # fmt: skip
    asked: Any = client.models.generate_content(model=NEW, contents=contents, config=config)
    contents.append(asked.candidates[0].content)
    answer = types.FunctionResponse(id="fc_1", name="look", response={"output": "a cat"})
    contents.append(types.Content(role="user", parts=[types.Part(function_response=answer)]))
    client.models.generate_content(model=NEW, contents=contents, config=config)
    server.play([faults.well("", tool_calls=calls), faults.well()])
    options: dict[str, Any] = {
        "system": "Short.", "max_tokens": 9, "stop": ("X",), "temperature": 0.5, "seed": 3, "tools": (TOOL,),
        "tool_choice": "auto", "reasoning_effort": "low", "schema": SCHEMA,
    }  # fmt: skip
    one, user = provider(server, model=NEW), Message("user", ("hi", Image(data=b"png")))
    first = one.generate(ask(user, **options))
    one.generate(ask(user, first.message, Message("tool", "a cat", tool_call_id="fc_1"), **options))
    theirs, ours = server.asked[:2], server.asked[2:]
    for their, our in zip(theirs, ours, strict=True):
        wanted = camel(their.body)
        assert wanted["systemInstruction"].pop("role") == "user"
        assert our.body == wanted
        assert our.path == their.path
        assert our.headers["x-goog-api-key"]


def test_every_fault_in_its_dialect() -> None:
    """The whole matrix of faults, A to D, with this provider: the router keeps its promise in Google's words too."""
    command = [sys.executable, "-m", "pointsman.testing.matrix", "--provider", "gemini"]
    played = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert played.returncode == 0, played.stdout + played.stderr
