"""What each family of Claude's models takes: what is mapped, what the router leaves out, and what a refusal teaches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from pointsman import Image, InvalidRequestError, Message, Request, Router, State, Tool, ToolCall
from pointsman.schemas import within
from pointsman.testing import FaultServer, Scripted, WireError, faults
from pointsman_claude import Claude
from pointsman_claude._request import _KNOWN

Serve = Callable[..., FaultServer]
KEY = "sk-ant-0123456789abcdefghij"
OLD, NEW, BETWEEN = "claude-sonnet-4-5", "claude-opus-5-5", "claude-sonnet-4-6"
TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
CALL = ToolCall("toolu_1", "look", '{"at": 1}')


def provider(server: FaultServer, **options: Any) -> Claude:
    return Claude(**{"base_url": server.url.removesuffix("/v1"), "api_key": KEY, "model": OLD, **options})


def ask(*messages: Message, **options: Any) -> Request:
    return Request(messages or (Message("user", "hi"),), **options)


def sent(fault_server: Serve, request: Request, **options: Any) -> dict[str, Any]:
    """Return the body that the provider sends."""
    server = fault_server()
    provider(server, **options).generate(request)
    return dict(server.asked[-1].body)


def untaken(model: str, *messages: Message, **options: Any) -> set[str]:
    return set(Claude(model=model, api_key=KEY).unsupported(ask(*messages, **options))) - {
        "frequency_penalty",
        "presence_penalty",
        "seed",
    }


ADAPTIVE = {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        (NEW, "minimal", {"thinking": ADAPTIVE, "output_config": {"effort": "low"}, "max_tokens": 8192 + 1024}),
        (NEW, "max", {"thinking": ADAPTIVE, "output_config": {"effort": "max"}, "max_tokens": 8192 + 32768}),
        ("claude-opus-4.7", "high", {"thinking": ADAPTIVE, "output_config": {"effort": "high"}}),
        ("claude-of-tomorrow", "high", {"thinking": ADAPTIVE, "output_config": {"effort": "high"}}),
        (BETWEEN, "none", {"thinking": {"type": "disabled"}, "max_tokens": 8192}),
        (OLD, "medium", {"thinking": {"type": "enabled", "budget_tokens": 8192}, "max_tokens": 16384}),
        ("claude-opus-4-1", "max", {"thinking": {"type": "enabled", "budget_tokens": 23808}, "max_tokens": 32000}),
        (OLD, "none", {"max_tokens": 8192}),
        ("claude-3-haiku-20240307", "none", {"max_tokens": 4096}),
    ],
)
def test_effort(fault_server: Serve, model: str, effort: Any, expected: dict[str, Any]) -> None:
    """New models take an effort, older ones a budget within the longest answer; none thinks at another temperature."""
    body = sent(fault_server, ask(temperature=0.5, reasoning_effort=effort), model=model)
    assert {name: body.get(name) for name in expected} == expected
    assert ("thinking" in body) == ("thinking" in expected)
    assert ("temperature" in body) == (effort == "none")


def test_a_limit_of_the_caller_counts(fault_server: Serve) -> None:
    """A budget comes on top of what the caller allows for the answer; where there is none, the limit is of both."""
    body = sent(fault_server, ask(max_tokens=100, reasoning_effort="low"))
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (2148, 2048)
    assert sent(fault_server, ask(max_tokens=100, reasoning_effort="low"), model=NEW)["max_tokens"] == 100
    body = sent(fault_server, ask(max_tokens=63_500, reasoning_effort="high"))
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (64_000, 1024)


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        (OLD, {"temperature": 0.5}, set()),
        (OLD, {"temperature": 1.8}, {"temperature"}),
        (OLD, {"temperature": 0.5, "top_p": 0.9}, {"top_p"}),
        (OLD, {"temperature": 0.5, "reasoning_effort": "low"}, {"temperature", "top_p", "top_k"}),
        (BETWEEN, {"reasoning_effort": "low"}, {"temperature", "top_p", "top_k"}),
        (NEW, {"temperature": 0.5}, {"temperature", "top_p", "top_k"}),
        (NEW, {"tools": (TOOL,), "tool_choice": "required"}, {"temperature", "top_p", "top_k", "tool_choice"}),
        (NEW, {"tools": (TOOL,), "tool_choice": "none"}, {"temperature", "top_p", "top_k"}),
        (NEW, {"reasoning_effort": "none"}, {"temperature", "top_p", "top_k", "reasoning_effort"}),
        (OLD, {"tools": (TOOL,), "tool_choice": "look"}, set()),
        (
            OLD,
            {"tools": (TOOL,), "tool_choice": "look", "reasoning_effort": "low"},
            {"temperature", "top_p", "top_k", "reasoning_effort"},
        ),
        ("claude-3-5-haiku-latest", {"reasoning_effort": "low"}, {"reasoning_effort"}),
        ("claude-3-7-sonnet-latest", {"schema": {"type": "string"}}, {"schema"}),
        (OLD, {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}, {"schema"}),
        (OLD, {"schema": {"type": "object", "properties": {"a": {"type": "string"}}}}, set()),
    ],
)
def test_what_is_known_of_the_families(model: str, options: dict[str, Any], names: set[str]) -> None:
    """What a model does not take, so set or together, is known before it is asked."""
    assert untaken(model, **options) == names


def test_the_beginning_of_an_answer_cannot_be_thought_about() -> None:
    """A model that goes on with a part of its answer does not think; only older ones go on at all."""
    begun = Message("user", "hi"), Message("assistant", "Well,")
    assert "reasoning_effort" in untaken(OLD, *begun, reasoning_effort="low")
    assert "continuation" in Claude(model=OLD).capabilities
    assert "continuation" not in Claude(model=NEW).capabilities
    assert "continuation" not in Claude(model=None).capabilities


def test_the_versions_and_the_users_word() -> None:
    """The new version of the API takes no sampling; `refuses` counts in place of the table, but not of the API."""
    assert "temperature" in Claude(model=OLD, version="2026-10-21").unsupported(ask())
    assert Claude(model=NEW, refuses=("stop",)).unsupported(ask()) == {
        "stop", "seed", "frequency_penalty", "presence_penalty"
    }  # fmt: skip


def test_what_models_do_not_take_is_not_sent(fault_server: Serve) -> None:
    """The router drops what shapes the sampling, with a warning, and refuses before sending what it may not drop."""
    server = fault_server()
    with Router({"claude": provider(server, model=NEW), "spare": Scripted("spare")}) as router:
        answer = router.generate("hi", temperature=0.5, seed=1, frequency_penalty=0.1)
        assert len(answer.warnings) == 3
        assert server.asked[-1].body.keys() == {"model", "max_tokens", "messages"}
        assert router.generate("hi", tools=[TOOL], tool_choice="required").backend == "spare"
        with pytest.raises(InvalidRequestError, match="does not take tool_choice; spare could serve it") as caught:
            router.generate("hi", tools=[TOOL], tool_choice="required", backend="claude")
        assert caught.value.parameter == "tool_choice"
        assert len(server.asked) == 1
        free = {"tools": [TOOL], "backend": "claude", "drop_unsupported": True}
        router.generate("hi", tool_choice="required", **free)  # type: ignore[typeddict-item]
        assert "tool_choice" not in server.asked[-1].body
        router.generate("hi", tool_choice="none", **free)  # type: ignore[typeddict-item]
        assert server.asked[-1].body["tool_choice"] == {"type": "none"}


def test_calls_of_another_vendor_are_not_thought_about(fault_server: Serve) -> None:
    """Results of a foreign model's tools are answered without thinking, and a warning says so; its own go on."""
    server = fault_server()
    talk = [Message("user", "hi"), Message("assistant", "", (CALL,)), Message("tool", "a cat", tool_call_id="toolu_1")]
    with Router({"claude": provider(server)}) as router:
        for answer in (
            router.generate(talk, tools=[TOOL], reasoning_effort="low"),
            router.generate(talk, tools=[TOOL], reasoning_effort="low", max_tokens=30_000),  # streamed inside
        ):
            assert "without thinking" in answer.warnings[0]
            assert "thinking" not in server.asked[-1].body
        blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "tool_use", "id": "toolu_1"}]
        own = Message("assistant", "", (CALL,), state=State("anthropic", blocks, OLD))
        assert router.generate([talk[0], own, talk[2]], tools=[TOOL], reasoning_effort="low").warnings == ()
        assert server.asked[-1].body["thinking"]["type"] == "enabled"
        other = Message("assistant", "", (CALL,), state=State("anthropic", blocks, "claude-opus-4-5"))
        router.generate([talk[0], other, talk[2]], tools=[TOOL])
        assert [b["type"] for b in server.asked[-1].body["messages"][1]["content"]] == ["tool_use"]


def test_what_thinking_is_called_is_learnt(fault_server: Serve) -> None:
    """A model that thinks in the other way is asked so from then on; the option `thinking` says it beforehand."""
    told = WireError(
        '"thinking.type.adaptive" is not supported for this model. Use "thinking.type.enabled".', status=400
    )
    server = fault_server([faults.status(400, told), faults.well("yes")])
    with Router({"claude": provider(server, model="claude-unheard-of-1")}) as router:
        assert router.generate("hi", reasoning_effort="low").text == "yes"
        router.generate("hi", reasoning_effort="low")
    kinds = [asked.body["thinking"]["type"] for asked in server.asked]
    assert kinds == ["adaptive", "enabled", "enabled"]
    body = sent(fault_server, ask(reasoning_effort="low"), model="claude-unheard-of-1", thinking="budget")
    assert body["thinking"]["type"] == "enabled"


def test_a_state_that_is_refused_is_left_out(fault_server: Serve) -> None:
    """A signature that is not taken any more costs the thought, and not the conversation."""
    told = WireError("messages.1.content.0: Invalid `signature` in `thinking` block", status=400)
    server = fault_server([faults.status(400, told), faults.well("yes")])
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "A cat."}]
    talk = [
        Message("user", "hi"),
        Message("assistant", "A cat.", state=State("anthropic", blocks)),
        Message("user", "?"),
    ]
    with Router({"claude": provider(server)}) as router:
        answer = router.generate(talk)
    assert answer.text == "yes"
    assert "thoughts" in answer.warnings[0]
    assert [block["type"] for block in server.asked[-1].body["messages"][1]["content"]] == ["text"]


def test_the_cache_is_marked(fault_server: Serve) -> None:
    """With `cache=True` the tools, the system, the last long turn and the conversation end in a mark, four at most."""
    request = ask(Message("user", "x" * 5000), Message("assistant", "Yes."), Message("user", "And?"), system="Long.",
                  tools=(TOOL,))  # fmt: skip
    assert "cache_control" not in json.dumps(sent(fault_server, request))
    body = sent(fault_server, request, cache=True)
    first, second, third = body["messages"]
    marked = [body["tools"][-1], body["system"][-1], first["content"][-1], third["content"][-1]]
    assert [block["cache_control"] for block in marked] == [{"type": "ephemeral"}] * 4
    assert "cache_control" not in second["content"][-1]
    assert "cache_control" not in json.dumps(sent(fault_server, ask(), cache=True)), "a short question is not worth it"


def test_extra_is_written_over_the_fields_that_it_names(fault_server: Serve) -> None:
    """Of an object, only what is named is replaced."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = sent(fault_server, ask(schema=schema, extra={"output_config": {"effort": "high"}, "metadata": {"a": 1}}))
    assert body["output_config"]["effort"] == "high"
    assert body["output_config"]["format"]["type"] == "json_schema"
    assert body["metadata"] == {"a": 1}


def test_results_and_pictures(fault_server: Serve) -> None:
    """A picture may be a result, or a `data:` URL; a call that failed is told as such; a tool always has a type."""
    talk = (
        Message("user", ("see", Image(url="data:image/webp;base64,cG5n"))),
        Message("assistant", "", (CALL,)),
        Message("tool", ("this", Image(data=b"png")), tool_call_id="toolu_1", is_error=True),
    )
    body = sent(fault_server, ask(*talk, tools=(Tool("look", "", {}),)))
    picture = {"type": "base64", "media_type": "image/webp", "data": "cG5n"}
    assert body["messages"][0]["content"][1]["source"] == picture
    result = body["messages"][2]["content"][0]
    assert result["is_error"] is True
    assert [part["type"] for part in result["content"]] == ["text", "image"]
    assert body["tools"][0]["input_schema"] == {"type": "object"}


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]},
    {"type": "object", "properties": {"d": {"type": "string", "format": "date", "maxLength": 9}}, "title": "T"},
    {"type": "object", "properties": {"s": {"type": "string", "format": "phone", "description": "A number."}}},
    {"type": "object", "properties": {"l": {"type": "array", "items": {"type": "number"}, "minItems": 2}}},
    {"type": "object", "properties": {"l": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1}}},
    {"type": "object", "properties": {"x": {"oneOf": [{"type": "string"}, {"type": "null"}]}}},
    {
        "type": "object",
        "properties": {"c": {"$ref": "#/$defs/C"}},
        "$defs": {"C": {"type": "object", "properties": {"k": {"const": 1}}, "additionalProperties": True}},
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[30:60])
def test_their_client_writes_schemas_so_too(schema: dict[str, Any]) -> None:
    """A schema is sent as Anthropic's own client would send it."""
    assert within(schema, _KNOWN, closed=True) == anthropic.transform_schema(schema)


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://127.0.0.1:1", "/v1"),
        ("http://127.0.0.1:1/", "/v1"),
        ("http://127.0.0.1:1/v1/", "/v1"),
        ("http://127.0.0.1:1/v1/messages", "/v1"),
        ("http://127.0.0.1:1/proxy/v1", "/proxy/v1"),
        ("http://127.0.0.1:1/v1?tenant=1", "/v1"),
    ],
)
def test_addresses(fault_server: Serve, given: str, root: str) -> None:
    """The address may be given in any of the forms that people paste; what is in its query goes with every request."""
    server = fault_server(paths={f"{root}/messages": faults.well("yes")})
    one = Claude(base_url=given.replace("http://127.0.0.1:1", server.url.removesuffix("/v1")), api_key=KEY, model=OLD)
    assert one.generate(ask()).text == "yes"
    assert server.log[-1].path == f"{root}/messages" + ("?tenant=1" if "?" in given else "")
