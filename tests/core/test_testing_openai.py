"""The fault server speaks OpenAI's wire: their own client reads its answers, streams and errors."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pointsman import ToolCall, Usage
from pointsman.testing import Fault, FaultServer, faults

Server = Callable[..., FaultServer]
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello you"}]
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS: list[ChatCompletionToolParam] = [{"type": "function", "function": {"name": "tell", "parameters": SCHEMA}}]
FORMAT: Any = {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}


@pytest.fixture
def client(no_leaks: None, fault_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-test", base_url=fault_server().url, max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture
def playing(no_leaks: None, fault_server: Server) -> Iterator[Callable[..., openai.OpenAI]]:
    """A client of a server that plays a fault."""
    clients: list[openai.OpenAI] = []

    def playing(fault: Fault) -> openai.OpenAI:
        url = fault_server(fault).url
        clients.append(openai.OpenAI(api_key="sk-test", base_url=url, max_retries=0, timeout=20))
        return clients[-1]

    yield playing
    for client in clients:
        client.close()


class TestChatCompletions:
    """`/v1/chat/completions`."""

    def test_plain(self, client: openai.OpenAI) -> None:
        """Text, finish reason, model, and usage with cached and reasoning tokens."""
        answer = client.chat.completions.with_raw_response.create(model="gpt-x", messages=ASK)
        found = answer.parse()
        assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("You said: hello you", "stop")
        assert found.model == "gpt-x"
        assert answer.headers["x-request-id"].startswith("req_")
        usage = found.usage
        assert usage
        assert usage.prompt_tokens_details
        assert usage.completion_tokens_details
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (19, 8, 27)
        assert usage.prompt_tokens_details.cached_tokens == 4
        assert usage.completion_tokens_details.reasoning_tokens == 2

    @pytest.mark.parametrize("wanted", [True, False])
    def test_streamed(self, client: openai.OpenAI, wanted: bool) -> None:
        """The pieces are the text; usage comes last, and only where it was asked for."""
        stream = client.chat.completions.create(
            model="m", messages=ASK, stream=True, stream_options={"include_usage": wanted}
        )
        chunks = list(stream)
        text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(text) == "You said: hello you"
        assert len([piece for piece in text if piece]) == 4
        assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [wanted]

    def test_tools(self, client: openai.OpenAI) -> None:
        """A tool that is offered is called, whole, with arguments that fit its schema."""
        message = client.chat.completions.create(model="m", messages=ASK, tools=TOOLS).choices[0].message
        assert message.content is None
        assert message.tool_calls
        assert message.tool_calls[0].type == "function"
        assert message.tool_calls[0].function.arguments == '{"name": "text", "age": 1}'

    def test_tools_streamed(self, client: openai.OpenAI) -> None:
        """Its arguments come in pieces, which their accumulator puts together."""
        with client.chat.completions.stream(model="m", messages=ASK, tools=TOOLS) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].finish_reason == "tool_calls"
        assert final.choices[0].message.tool_calls
        assert final.choices[0].message.tool_calls[0].function.arguments == '{"name": "text", "age": 1}'

    def test_after_a_tool_result(self, client: openai.OpenAI) -> None:
        """The result of a call is answered with text."""
        done: list[ChatCompletionMessageParam] = [*ASK, {"role": "tool", "tool_call_id": "call_1", "content": "7"}]
        assert client.chat.completions.create(model="m", messages=done, tools=TOOLS).choices[0].message.content

    def test_schema(self, client: openai.OpenAI) -> None:
        """An answer to a schema fulfils it."""
        answer = client.chat.completions.create(
            model="m", messages=ASK, response_format={"type": "json_schema", "json_schema": FORMAT}
        )
        assert answer.choices[0].message.content == '{"name": "text", "age": 1}'

    @pytest.mark.parametrize("how", faults.HOSTILE)
    def test_hostile_text(self, playing: Callable[..., openai.OpenAI], how: Any) -> None:
        """Row 28 is lawful: their client reads the exact text and usage, however it is framed."""
        stream = playing(faults.hostile_text(how)).chat.completions.create(
            model="m", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == (faults.BIG_TEXT if how == "big_event" else faults.HOSTILE_TEXT)
        assert [chunk.usage.prompt_tokens for chunk in chunks if chunk.usage] == [19]


class TestResponses:
    """`/v1/responses`."""

    def test_plain(self, client: openai.OpenAI) -> None:
        """Text, status, and usage with cached and reasoning tokens."""
        found = client.responses.create(model="gpt-x", input="hello you")
        assert (found.output_text, found.status, found.model) == ("You said: hello you", "completed", "gpt-x")
        assert found.usage
        assert (found.usage.input_tokens, found.usage.output_tokens) == (19, 8)
        assert found.usage.input_tokens_details.cached_tokens == 4
        assert found.usage.output_tokens_details.reasoning_tokens == 2

    def test_streamed(self, client: openai.OpenAI) -> None:
        """Their accumulator accepts the events, and finds the same answer in them."""
        with client.responses.stream(model="m", input="hello you") as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert "".join(deltas) == final.output_text == "You said: hello you"
        assert len(deltas) == 4
        assert final.usage
        assert final.usage.total_tokens == 27

    @pytest.mark.parametrize("streamed", [False, True])
    def test_tools(self, client: openai.OpenAI, streamed: bool) -> None:
        """A function call is an item of its own."""
        tools: Any = [{"type": "function", "name": "tell", "parameters": SCHEMA, "strict": True}]
        if streamed:
            with client.responses.stream(model="m", input="hello", tools=tools) as stream:
                output: Any = stream.get_final_response().output
        else:
            output = client.responses.create(model="m", input="hello", tools=tools).output
        assert [(item.type, item.name, item.arguments) for item in output] == [
            ("function_call", "tell", '{"name": "text", "age": 1}')
        ]

    def test_schema(self, client: openai.OpenAI) -> None:
        """An answer to a schema fulfils it."""
        answer = client.responses.create(model="m", input="hello", text={"format": FORMAT})
        assert answer.output_text == '{"name": "text", "age": 1}'

    @pytest.mark.parametrize("streamed", [False, True])
    def test_reasoning_and_calls(self, playing: Callable[..., openai.OpenAI], streamed: bool) -> None:
        """Reasoning, and several calls, each an item."""
        calls = (ToolCall("a", "one", "{}"), ToolCall("b", "two", '{"x": 1}'))
        client = playing(faults.well(tool_calls=calls, thinking="let me think", usage=Usage(1, 2, 0, 1)))
        if streamed:
            with client.responses.stream(model="m", input="hello") as stream:
                found: Any = stream.get_final_response()
        else:
            found = client.responses.create(model="m", input="hello")
        assert [item.type for item in found.output] == ["reasoning", "function_call", "function_call"]
        assert found.output[0].summary[0].text == "let me think"
        assert [item.call_id for item in found.output[1:]] == ["a", "b"]

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [(faults.length(), "max_output_tokens"), (faults.safety_stop("x"), "content_filter")],
        ids=repr,
    )
    def test_incomplete(self, playing: Callable[..., openai.OpenAI], fault: Fault, reason: str) -> None:
        """What is not complete says why."""
        found = playing(fault).responses.create(model="m", input="hello")
        assert (found.status, found.incomplete_details and found.incomplete_details.reason) == ("incomplete", reason)

    def test_failed(self, playing: Callable[..., openai.OpenAI]) -> None:
        """A failure is a response of that status, with its error."""
        found = playing(faults.finish_error()).responses.create(model="m", input="hello")
        assert (found.status, found.error and found.error.code) == ("failed", "server_error")

    def test_refusal(self, playing: Callable[..., openai.OpenAI]) -> None:
        """A refusal is a part of its own kind."""
        message: Any = playing(faults.refusal()).responses.create(model="m", input="hello").output[0]
        assert message.content[0].type == "refusal"


class TestErrors:
    """Their exception classes, from our errors."""

    def test_models(self, client: openai.OpenAI) -> None:
        """The list of models is read."""
        assert [model.id for model in client.models.list()] == ["default-model"]

    @pytest.mark.parametrize("api", ["chat", "responses"])
    @pytest.mark.parametrize(
        ("fault", "kind", "code"),
        [
            (faults.bad_key(), openai.AuthenticationError, "invalid_api_key"),
            (faults.no_permission(), openai.PermissionDeniedError, "unsupported_country"),
            (faults.rate_limited(1), openai.RateLimitError, "rate_limit_exceeded"),
            (faults.no_quota(), openai.RateLimitError, "credit_balance_exhausted"),
            (faults.unknown_model(), openai.NotFoundError, "model_not_found"),
            (faults.context_too_long(), openai.BadRequestError, "context_length_exceeded"),
            (faults.unsupported("temperature", always=True), openai.BadRequestError, "unsupported_parameter"),
            (faults.bad_request(status=422), openai.UnprocessableEntityError, "invalid_value"),
            (faults.status(503), openai.InternalServerError, None),
        ],
        ids=repr,
    )
    def test_by_class(
        self,
        playing: Callable[..., openai.OpenAI],
        api: str,
        fault: Fault,
        kind: type[openai.APIStatusError],
        code: str,
    ) -> None:
        """Each error has the class, the code and the request id that OpenAI's own would have."""
        client = playing(fault)
        asks: dict[str, Callable[[], object]] = {
            "chat": lambda: client.chat.completions.create(model="m", messages=ASK),
            "responses": lambda: client.responses.create(model="m", input="hello"),
        }
        with pytest.raises(openai.APIStatusError) as caught:
            asks[api]()
        assert type(caught.value) is kind
        assert caught.value.code == code
        assert (caught.value.request_id or "").startswith("req_")

    @pytest.mark.parametrize("fault", [faults.error_first(), faults.error_event_after(3)], ids=repr)
    def test_in_streams(self, playing: Callable[..., openai.OpenAI], fault: Fault) -> None:
        """An error event in a stream is raised while reading."""
        stream = playing(fault).chat.completions.create(model="m", messages=ASK, stream=True)
        with pytest.raises(openai.APIError, match="overloaded"):
            list(stream)

    @pytest.mark.parametrize("fault", [faults.reset(), faults.hang_up(), faults.reset_on_connect()], ids=repr)
    def test_connection(self, playing: Callable[..., openai.OpenAI], fault: Fault) -> None:
        """A connection that ends is a connection error."""
        with pytest.raises(openai.APIConnectionError):
            playing(fault).chat.completions.create(model="m", messages=ASK)

    def test_silent(self, playing: Callable[..., openai.OpenAI]) -> None:
        """A server that says nothing is a timeout."""
        with pytest.raises(openai.APITimeoutError):
            playing(faults.silent()).chat.completions.create(model="m", messages=ASK, timeout=0.3)
