"""The `openai` provider: what it knows of models, effort, state that goes back, and what a server offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from pointsman import (
    AuthenticationError,
    InvalidRequestError,
    Message,
    ModelInfo,
    Request,
    Router,
    Scope,
    State,
    Tool,
    UnusableAnswer,
    Usage,
)
from pointsman.testing import Answer, Ask, Event, Fault, FaultServer, faults
from pointsman.testing.openai_responses import Responses
from pointsman_openai import OpenAI

KEY = "sk-test-0123456789abcdefghijkl"
Serve = Callable[..., FaultServer]
LOOK = Tool("look")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine."""
    for name in ("API_KEY", "BASE_URL", "MODEL", "ORG_ID", "PROJECT_ID"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


def ask(prompt: str = "Hello", **options: Any) -> Request:
    return Request((Message("user", prompt),), **{"scope": Scope(30), **options})


def says(body: Any, status: int = 200) -> Fault:
    """A server that answers with a fixed body."""

    async def play(x: Any) -> None:
        await x.respond(status, body)

    return Fault("says", play)


# What a model takes

SAMPLING = {"temperature", "top_p", "frequency_penalty", "presence_penalty", "stop", "top_k"}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("o3", SAMPLING),
        ("gpt-5.6-mini", SAMPLING),
        ("ft:gpt-6.1-sol:me", SAMPLING),
        ("gpt-10", SAMPLING),
        ("gpt-5.3-codex", {*SAMPLING, "seed"}),
        ("o3-pro", {*SAMPLING, "seed"}),
        ("gpt-4o-mini", {"top_k", "reasoning_effort"}),
        ("gpt-4.1", {"top_k", "reasoning_effort"}),
        ("gpt-5-chat-latest", {"top_k", "reasoning_effort"}),
        ("gpt-4-turbo", {"top_k", "reasoning_effort", "schema"}),
        ("gpt-3.5-turbo", {"top_k", "reasoning_effort", "schema"}),
        (None, {"top_k", "reasoning_effort"}),
    ],
)
def test_what_is_known_of_openais_models(model: str | None, names: set[str]) -> None:
    """By families, on OpenAI's hosts only: of the models of other servers a name tells nothing."""
    request = ask(model=model)
    assert OpenAI(api_key=KEY).unsupported(request) == names
    assert OpenAI(api_key=KEY, refuses=("seed",)).unsupported(request) == {"seed"}
    elsewhere = OpenAI(base_url="https://other.example", api_key=KEY)
    assert elsewhere.unsupported(request) == set()
    responses = OpenAI(base_url="https://other.example", api_key=KEY, api="responses")
    assert responses.unsupported(request) == {"stop", "top_k", "seed", "frequency_penalty", "presence_penalty"}


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        ("gpt-6.1-terra", {"reasoning_effort": "none"}, {"top_k", "stop"}),
        ("gpt-6-astra", {"reasoning_effort": "none"}, {*SAMPLING, "reasoning_effort"}),
        ("o3", {"reasoning_effort": "none"}, {*SAMPLING, "reasoning_effort"}),
        ("gpt-5.4-mini", {"tools": (LOOK,)}, {*SAMPLING, "seed"}),
        ("gpt-4o-mini", {"stop": tuple("abcde")}, {"top_k", "reasoning_effort", "stop"}),
        ("gpt-4o-mini", {"stop": tuple("abcd")}, {"top_k", "reasoning_effort"}),
    ],
)
def test_what_is_not_taken_so_set_or_together(model: str, options: Any, names: set[str]) -> None:
    """Sampling works without reasoning; tools of new models need the other API; four stops are the most."""
    assert OpenAI(api_key=KEY).unsupported(ask(model=model, **options)) == names


def test_the_router_knows_before_it_asks(fault_server: Serve) -> None:
    """A request that needs `stop` goes past a model that reasons, and the order says so; nothing is sent to OpenAI."""
    spare = OpenAI(base_url=fault_server().url, model="m")
    with Router({"main": OpenAI(api_key=KEY, model="o3"), "spare": spare}) as router:
        assert router.generate("Hello", stop="x").backend == "spare"
        why = {place.backend.id: place.reason for place in router.order("Hello", stop="x")}
        assert why["main"] == "its model 'o3' does not take stop"


def test_what_is_not_known_is_learnt(fault_server: Serve) -> None:
    """A 400 that names `reasoning_effort` sends the request on, or drops the option where the user says so."""
    error = {"message": "Unsupported parameter: 'reasoning_effort'", "type": "invalid_request_error"}
    error |= {"param": "reasoning_effort", "code": "unsupported_parameter"}

    def script(seen: Any) -> Fault:
        return says({"error": error}, 400) if "reasoning_effort" in seen.body else faults.well()

    server = fault_server(script)
    one = OpenAI(base_url=server.url, model="m")
    with pytest.raises(InvalidRequestError) as caught:
        one.generate(ask(reasoning_effort="low"))
    assert (caught.value.parameter, caught.value.try_next) == ("reasoning_effort", True)
    with Router([one]) as router:
        answer = router.generate("Hello", reasoning_effort="low", drop_unsupported=True)
    assert answer.text == "You said: Hello"
    assert "reasoning_effort" in answer.warnings[0]


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_effort(fault_server: Serve, effort: Any) -> None:
    """Each API has its own place for it; what `extra` says of the same object is added."""
    server = fault_server()
    OpenAI(base_url=server.url, model="m").generate(ask(reasoning_effort=effort))
    one = OpenAI(base_url=server.url, model="m", api="responses")
    one.generate(ask(reasoning_effort=effort, extra={"reasoning": {"summary": "auto"}}))
    assert server.asked[0].body["reasoning_effort"] == effort
    assert server.asked[1].body["reasoning"] == {"effort": effort, "summary": "auto"}


# State


class Thinking(Responses):
    """A Responses API whose model thinks, says a word between, and calls a tool."""

    items = (
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}],
         "encrypted_content": "gAAAA"},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": "commentary",
         "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
        {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}",
         "status": "completed"},
    )  # fmt: skip

    def body(self, answer: Answer, ask: Ask) -> Any:
        """Return the items in place of the double's, unless the tool has been called."""
        whole = super().body(answer, ask)
        return {**whole, "output": list(self.items)} if ask.tools else whole

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        """Return only the terminal event: it carries all of them."""
        last = {"type": "response.completed", "sequence_number": 1, "response": self.body(answer, ask)}
        return [Event(last, "finish", "response.completed")]


@pytest.mark.parametrize("way", ["plain", "streamed"])
def test_encrypted_thoughts_go_back_unchanged(fault_server: Serve, way: str) -> None:
    """Nothing is stored on the server: thoughts, phases and calls go back as they came, with the tool's result."""
    server = fault_server(wires={"/responses": Thinking()})
    one = OpenAI(base_url=server.url, model="gpt-6-sol", api="responses")
    with Router([one]) as router:
        if way == "plain":
            first = router.generate("Where?", tools=[LOOK])
        else:
            with router.stream("Where?", tools=[LOOK]) as stream:
                list(stream)
            assert stream.completion is not None
            first = stream.completion
        assert (first.text, first.state) == ("", State(one.vendor, list(Thinking.items), "gpt-6-sol"))
        if way == "plain":
            assert first.thinking == "Hm.Let me look."
        talk = [Message("user", "Where?"), first.message, Message("tool", "There.", tool_call_id="c1")]
        assert router.generate(talk).text
    asked, again = (seen.body for seen in server.asked)
    assert (asked["store"], asked["include"]) == (False, ["reasoning.encrypted_content"])
    assert again["input"][1:4] == list(Thinking.items)
    assert again["input"][4] == {"type": "function_call_output", "call_id": "c1", "output": "There."}


def test_thoughts_of_another_form_are_not_sent(fault_server: Serve) -> None:
    """Chat completions have no place for items, nor the Responses API for theirs: the calls go on without."""
    server = fault_server()
    for api, data in (("chat", list(Thinking.items)), ("responses", {"reasoning_content": "Hm."})):
        one = OpenAI(base_url=server.url, model="m", api=api)  # type: ignore[arg-type]  # one of the two
        call = Message("assistant", "Let me look.", state=State(one.vendor, data))
        one.generate(Request((Message("user", "Where?"), call, Message("user", "Well?")), scope=Scope(30)))
    assert "Hm." not in str([seen.body for seen in server.asked])
    assert "include" not in server.asked[1].body
    assert (OpenAI(api_key=KEY).vendor, OpenAI(base_url="https://a.example", api_key=KEY).vendor) == (
        "openai",
        "a.example",
    )


def test_deepseeks_thoughts_go_back_with_its_calls(fault_server: Serve) -> None:
    """`reasoning_content` is wanted back on the turns with tools, and on no other."""
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    message = {"role": "assistant", "content": None, "reasoning_content": "Hm."}
    answers = [{"choices": [{"message": {**message, **more}, "finish_reason": "stop"}]}
               for more in ({"tool_calls": calls}, {"content": "x"})]  # fmt: skip
    server = fault_server([says(answer) for answer in answers])
    one = OpenAI(base_url=server.url, model="m")
    first = one.generate(ask(tools=(LOOK,)))
    assert first.state == State("127.0.0.1", {"reasoning_content": "Hm."}, "m")
    talk = (Message("user", "Where?"), first.message, Message("tool", "There.", tool_call_id="c1"))
    second = one.generate(Request(talk, scope=Scope(30)))
    assert (second.thinking, second.state) == ("Hm.", None)
    assert server.asked[1].body["messages"][1]["reasoning_content"] == "Hm."


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_cache_writes_are_counted(fault_server: Serve, api: Any) -> None:
    """Tokens that were written to the cache stand apart, in either API."""
    names = ("prompt_tokens", "completion_tokens") if api == "chat" else ("input_tokens", "output_tokens")
    usage = {names[0]: 9, names[1]: 2, f"{names[0]}_details": {"cached_tokens": 1, "cache_write_tokens": 7}}
    text = {"type": "message", "content": [{"type": "output_text", "text": "x"}]}
    bodies = {
        "chat": {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage},
        "responses": {"status": "completed", "output": [text], "usage": usage},
    }
    one = OpenAI(base_url=fault_server(says(bodies[api])).url, model="m", api=api)
    assert one.generate(ask()).usage == Usage(9, 2, 1, 0, 7)


# What is offered


@pytest.mark.parametrize(
    ("entry", "info"),
    [
        ({"id": "gpt-4o", "shutdown_date": "2027-01-14"}, ModelInfo("gpt-4o", None, None, "2027-01-14")),
        ({"id": "qwen3", "max_model_len": 32_768}, ModelInfo("qwen3", 32_768)),
        ({"id": "llama", "meta": {"n_ctx_train": 8192}}, ModelInfo("llama", 8192)),
        ({"id": "mixtral", "context_window": 32_000, "meta": None}, ModelInfo("mixtral", 32_000)),
        ({"id": "odd", "context_length": "many"}, ModelInfo("odd")),
    ],
)  # fmt: skip
def test_models(fault_server: Serve, entry: Any, info: ModelInfo) -> None:
    """Ids, with the context window and the last day where the server tells them; in a list, or bare."""
    for body in ({"object": "list", "data": [entry]}, [entry]):
        server = fault_server(paths={"/v1/models": says(body)})
        assert OpenAI(base_url=server.url).list_models() == [info]
        assert server.asked == ()


def test_models_that_cannot_be_listed(fault_server: Serve) -> None:
    """A strange answer is an error with a class, and so is what keeps the provider from asking."""
    strange: tuple[Any, ...] = ("text", {"data": None}, {"data": [None]}, {"data": [{}]})
    for body in strange:
        with pytest.raises(UnusableAnswer):
            OpenAI(base_url=fault_server(paths={"/v1/models": says(body)}).url).list_models()
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        OpenAI().list_models()


# Side by side with OpenAI's client


def test_what_the_client_sends_is_what_we_send(fault_server: Serve) -> None:
    """The same conversation, over either API. Ours alone says that nothing is to be stored."""
    server = fault_server()
    function = {"name": "look", "description": "", "parameters": LOOK.parameters}
    messages: Any = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    asked: Any = {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "reasoning_effort": "low",
        "stop": ["x"],
    }
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=20) as client:
        tools: Any = [{"type": "function", "function": function}]
        client.chat.completions.create(messages=messages, tools=tools, tool_choice="required", **asked)
        flat: Any = [{"type": "function", **function, "strict": False}]
        client.responses.create(
            model="m", instructions="Be short.", input=messages[1:], tools=flat, tool_choice="required",
            max_output_tokens=9, reasoning={"effort": "low"},
        )  # fmt: skip
    options: Any = {"system": "Be short.", "tools": (LOOK,), "tool_choice": "required", "reasoning_effort": "low"}
    chat = OpenAI(base_url=server.url, model="m", api_key=KEY)
    chat.generate(ask(max_tokens=9, temperature=0.5, seed=3, stop=("x",), **options))
    OpenAI(base_url=server.url, model="m", api="responses").generate(ask(max_tokens=9, **options))
    theirs_chat, theirs, ours_chat, ours = (seen.body for seen in server.asked)
    assert ours_chat == theirs_chat
    assert ours.pop("store") is False
    assert ours == theirs
