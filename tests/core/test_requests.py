"""What a caller may write, and what it becomes."""

from collections.abc import Mapping
from typing import Any

import pytest
from pointsman import ConfigError, Image, Message, Request, Router, Tool, ToolCall
from pointsman.testing import Scripted

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


def asked(prompt: Any, **options: Any) -> Request:
    """Return the request that a provider sees."""
    provider = Scripted()
    with Router([provider]) as router:
        router.generate(prompt, **options)
    return provider.requests[0]


def test_text_becomes_a_user_message() -> None:
    """Plain text is what the user says, and every option that is not given stays unset."""
    request = asked("hello")
    assert request == Request((Message("user", "hello"),), model="scripted-model")


def test_openai_messages_become_values() -> None:
    """A conversation in OpenAI's form (the form that every caller has) becomes ours, part by part."""
    request = asked(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}},
                    {"id": "c2", "function": {"name": "add", "arguments": {"a": 1}}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            Message("user", "and now?"),
        ]
    )
    assert request.messages == (
        Message("system", "Be brief."),
        Message("user", ("What is this?", Image(data=b"\x89PNG", media_type="image/png"))),
        Message("assistant", "", (ToolCall("c1", "look", '{"at": 1}'), ToolCall("c2", "add", '{"a": 1}'))),
        Message("tool", "a cat", tool_call_id="c1"),
        Message("user", "and now?"),
    )


def test_an_image_by_address_is_left_where_it_is() -> None:
    """A URL that is no `data:` URL is sent on, in either of the forms in use."""
    for url in ("https://example.org/a.png", {"url": "https://example.org/a.png", "detail": "low"}):
        request = asked([{"role": "user", "content": [{"type": "image_url", "image_url": url}]}])
        assert request.messages[0].images == (Image(url="https://example.org/a.png"),)


def test_messages_may_come_from_anything_iterable() -> None:
    """A generator of messages is as good as a list."""
    assert asked(Message("user", text) for text in ("a", "b")).prompt == "b"


def test_tools_are_taken_in_every_form_in_use() -> None:
    """A tool is a value, or OpenAI's mapping with or without its envelope."""
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    bare = {"name": "add", "description": "Adds.", "parameters": parameters}
    request = asked("1+1", tools=[Tool("now"), bare, {"type": "function", "function": bare}, {"name": "stop"}])
    assert request.tools == (
        Tool("now"),
        Tool("add", "Adds.", parameters),
        Tool("add", "Adds.", parameters),
        Tool("stop"),
    )


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": None}, {}),
        ({"tools": None}, {}),
        ({"extra": None}, {}),
        ({"schema": None}, {}),
        ({"system": None, "model": None, "seed": None, "on_refusal": None}, {}),
        ({"extra": {"user": "me"}, "seed": 7, "system": "Be kind."},) * 2,
    ],
)
def test_options_become_fields(given: dict[str, Any], becomes: dict[str, Any]) -> None:
    """Every option is a field of the request, None means that it is not set."""
    assert asked("hi", **given) == asked(Request((Message("user", "hi"),), **becomes))


def test_options_overrule_a_request() -> None:
    """A whole request may be sent again with something changed, and is itself left as it was."""
    request = Request((Message("user", "hi"),), temperature=0.1, max_tokens=5)
    assert asked(request, temperature=0.9).temperature == 0.9
    assert asked(request, temperature=None, max_tokens=None).max_tokens is None
    assert request.temperature == 0.1


def test_each_call_has_a_scope_of_its_own() -> None:
    """A request that is sent twice is two calls: the deadline and the cancelling of one are not the other's."""
    provider, request = Scripted(), Request((Message("user", "hi"),))
    with Router([provider]) as router:
        router.generate(request)
        router.generate(request)
    first, second = provider.requests
    assert len({id(first.scope), id(second.scope), id(request.scope)}) == 3


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (None, "prompt: found NoneType, expected text, a list of messages, or a Request"),
        (42, "prompt: found int, expected text"),
        ("", "prompt: found no text, expected what is to be asked"),
        (" \n", "prompt: found no text, expected what is to be asked"),
        (b"hi", "prompt: found bytes, expected text"),
        ({"role": "user", "content": "hi"}, "prompt: found dict, expected text, a list of messages"),
        ([], "Request.messages: found none, expected at least one message"),
        (["hi"], "messages[0]: found str, expected a Message or a mapping"),
        ([{"content": "hi"}], "messages[0]: the key 'role' is missing"),
        ([{"role": "user", "text": "hi"}], "messages[0]: the key 'content' is missing"),
        ([{"role": "robot", "content": "hi"}], "messages[0]: Message.role: found 'robot'"),
        ([{"role": ["user"], "content": "hi"}], "messages[0]: Message.role: found ['user']"),
        ([{"role": "tool", "content": "hi"}], "messages[0]: Message: a message of role tool needs tool_call_id"),
        ([{"role": "tool", "tool_call_id": 5}], "messages[0].tool_call_id: found int, expected text"),
        ([Message("user", "a"), {"role": "user", "content": 5}], "messages[1].content: found int, expected a list"),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content: found dict, expected a list"),
        ([{"role": "user", "content": b"hi"}], "messages[0].content: found bytes, expected a list"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]: found int, expected text, an Image or a mapping"),
        (
            [{"role": "user", "content": [{"type": "audio"}]}],
            "messages[0].content[0].type: found 'audio', expected text or",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]: the key 'text' is missing"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content[0].text: found int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "content[0]: the key 'image_url' is missing"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "content[0]: the key 'url' is missing",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}],
            "messages[0].content[0].image_url: found int, expected text",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png,abc"}]}],
            "messages[0].content[0]: a data: URL of an image must be base64",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,%%%"}]}],
            "messages[0].content[0]: Only base64 data is allowed",
        ),
        ([{"role": "assistant", "tool_calls": {"id": 1}}], "messages[0].tool_calls: found dict, expected a list"),
        ([{"role": "assistant", "tool_calls": [7]}], "messages[0].tool_calls[0]: found int, expected a ToolCall or"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}],
            "tool_calls[0]: the key 'id' is missing",
        ),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "tool_calls[0]: the key 'name' is missing"),
        ([{"role": "assistant", "tool_calls": [{"id": "1", "function": 5}]}], "tool_calls[0].function: found int"),
        ([{"role": "assistant", "tool_calls": [{"id": 1, "name": "f"}]}], "tool_calls[0].id: found int, expected text"),
        (Request(("hi",)), "messages[0]: found str, expected a Message"),  # type: ignore[arg-type] # which is the point
    ],
)
def test_a_malformed_prompt_is_named_by_its_place(prompt: Any, says: str) -> None:
    """Whatever is wrong in a prompt is told with its path, what was found and what was expected."""
    with pytest.raises(ConfigError) as caught:
        asked(prompt)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temprature": 1}, "temprature: no such option; did you mean temperature?"),
        ({"service_tier": "flex"}, "service_tier: no such option; expected one of backend, "),
        ({"messages": ()}, "messages: no such option"),
        ({"scope": None}, "scope: no such option"),
        ({"max_tokens": 0}, "Request.max_tokens: found 0, expected a whole number from 1"),
        ({"temperature": "hot"}, 'Request.temperature: found "hot", expected a number from 0 to 2'),
        ({"system": 5}, "system: found 5, expected text"),
        ({"model": ["m"]}, "model: found a list, expected text"),
        ({"backend": 1}, "backend: found 1, expected text"),
        ({"tool_choice": {"type": "function"}}, "tool_choice: found a mapping, expected text"),
        ({"seed": "7"}, 'seed: found "7", expected a whole number'),
        ({"seed": True}, "seed: found true, expected a whole number"),
        ({"local_only": "no"}, 'local_only: found "no", expected true or false'),
        ({"on_refusal": "ignore"}, 'on_refusal: found "ignore", expected one of "raise", "next"'),
        ({"stop": 5}, "stop: found 5, expected a list, each text"),
        ({"stop": ["a", 5]}, "stop[1]: found 5, expected text"),
        ({"stop": [{"a": 1}]}, "stop[0]: found a mapping, expected text"),
        ({"schema": "{}"}, 'schema: found "{}", expected a mapping'),
        ({"extra": [1]}, "extra: found a list, expected a mapping"),
        ({"tools": "add"}, "tools: found str, expected a list"),
        ({"tools": ["add"]}, "tools[0]: found str, expected a Tool or a mapping"),
        ({"tools": [{"description": "Adds."}]}, "tools[0]: the key 'name' is missing"),
        ({"tools": [{"name": 5}]}, "tools[0].name: found int, expected text"),
        ({"tools": [{"function": None}]}, "tools[0].function: found NoneType, expected a mapping"),
        (
            {"tools": [Tool("a"), {"name": "b", "parameters": "{}"}]},
            "tools[1].parameters: found str, expected a mapping",
        ),
    ],
)
@pytest.mark.parametrize("prompt", ["hi", Request((Message("user", "hi"),))])
def test_a_malformed_option_is_named(prompt: Any, options: Mapping[str, Any], says: str) -> None:
    """Whatever is wrong with an option is told by its name, and nothing has been sent."""
    with pytest.raises(ConfigError) as caught:
        asked(prompt, **options)
    assert says in str(caught.value)


def test_every_wrong_name_is_told_at_once() -> None:
    """Two misspelt options are two problems of one error."""
    with pytest.raises(ConfigError) as caught:
        asked("hi", tempature=1, max_token=5)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"timeout": "30"}, r'Router\.timeout: found "30", expected a number above 0'),
        ({"first_token_timeout": -1}, "first_token_timeout: found -1"),
        ({"idle_timeout": True}, "idle_timeout: found true"),
        ({"max_retries": -1}, "max_retries: found -1, expected a whole number from 0 to 100"),
        ({"on_refusal": "ignore"}, 'on_refusal: found "ignore", expected one of "raise", "next"'),
        ({"health_ttl": "x"}, r'Router\.health_ttl: found "x", expected a number from 0 upwards'),
        ({"verbose": "x"}, r'Router\.verbose: found "x", expected true or false'),
        ({"log_content": 1}, r"Router\.log_content: found 1, expected true or false"),
    ],
)
def test_a_malformed_setting_is_named(settings: dict[str, Any], says: str) -> None:
    """The limits of a router are checked as those of a call are, when it is made."""
    with pytest.raises(ConfigError, match=says):
        Router([Scripted()], **settings)


def test_a_tool_choice_that_names_no_tool_is_told() -> None:
    """What the model must call is one of the tools of the request."""
    weather = Tool("weather")
    with pytest.raises(ValueError, match="tool_choice: found 'frob', expected auto, none, required"):
        Request((Message("user", "?"),), tools=(weather,), tool_choice="frob")
    assert Request((Message("user", "?"),), tools=(weather,), tool_choice="weather").tool_choice == "weather"
