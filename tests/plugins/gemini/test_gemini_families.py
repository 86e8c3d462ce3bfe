"""What each family of Gemini's models takes, and what of odd answers and requests is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pointsman import Image, InvalidRequestError, Message, Request, Router, State, Tool, ToolCall
from pointsman.testing import FaultServer, faults
from pointsman_gemini import Gemini
from pointsman_gemini._content import _said

Serve = Callable[..., FaultServer]
KEY = "AQ.0123456789abcdefghij"
OLD, NEW = "gemini-2.5-flash", "gemini-3-pro-preview"
TOOL = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def provider(server: FaultServer, **options: Any) -> Gemini:
    return Gemini(**{"base_url": server.url.removesuffix("/v1"), "api_key": KEY, "model": OLD, **options})


def ask(*messages: Message, **options: Any) -> Request:
    return Request(messages or (Message("user", "hi"),), **options)


def sent(fault_server: Serve, request: Request, **options: Any) -> dict[str, Any]:
    """Return the body that the provider sends."""
    server = fault_server()
    provider(server, **options).generate(request)
    return dict(server.asked[-1].body)


def test_what_models_do_not_take_is_not_sent(fault_server: Serve) -> None:
    """The router drops what shapes the sampling, with a warning, and refuses before sending what it may not drop."""
    server = fault_server()
    with Router({"gemini": provider(server, model="gemini-3.8-flash")}) as router:
        answer = router.generate("hi", temperature=0.5, top_p=0.5, frequency_penalty=0.1)
        assert len(answer.warnings) == 3
        assert server.asked[-1].body.keys() == {"contents"}
        with pytest.raises(InvalidRequestError, match="does not take stop"):
            router.generate("hi", stop=list("abcdef"))
        assert router.generate("hi", stop=list("abcde")).text  # what was too much says nothing of the option
    with Router({"gemini": provider(server)}) as router:
        with pytest.raises(InvalidRequestError, match="does not take schema"):
            router.generate("hi", tools=[TOOL], schema=SCHEMA)
        assert router.generate("hi", tools=[TOOL], schema=SCHEMA, drop_unsupported=True).tool_calls
    assert "generationConfig" not in server.asked[-1].body
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        (OLD, {}, {"frequency_penalty", "presence_penalty"}),
        ("gemini-2.0-flash", {"reasoning_effort": "low"}, {"reasoning_effort"}),
        ("gemini-2.0-flash", {"reasoning_effort": "none"}, set()),
        ("gemini-3.5-flash", {}, {"frequency_penalty", "presence_penalty"}),
        ("gemini-3.5-flash-lite", {}, {"frequency_penalty", "presence_penalty", "temperature", "top_p", "top_k"}),
        ("gemini-2.5-pro", {"reasoning_effort": "none"}, {"frequency_penalty", "presence_penalty", "reasoning_effort"}),
        ("gemini-2.5-flash", {"reasoning_effort": "none"}, {"frequency_penalty", "presence_penalty"}),
        ("somebody-elses", {"reasoning_effort": "low"}, set()),
    ],
)
def test_what_is_known_of_the_families(model: str, options: Any, names: set[str]) -> None:
    """What a model does not take, so set or together, is known before it is asked; the user's word counts more."""
    assert Gemini(model=model, api_key=KEY).unsupported(ask(**options)) == names
    assert Gemini(model=model, api_key=KEY, refuses=("stop",)).unsupported(ask(**options)) == {"stop"}


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        (NEW, "medium", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3.1-pro", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        ("gemini-3-flash", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.0-flash", "none", None),
    ],
)
def test_effort(fault_server: Serve, model: str, effort: Any, config: Any) -> None:
    """An effort is a level or a budget, as the family has it; a model that cannot think is told nothing."""
    body = sent(fault_server, ask(reasoning_effort=effort), model=model)
    assert body.get("generationConfig", {}).get("thinkingConfig") == config


def test_extra_is_written_over_the_fields_that_it_names(fault_server: Serve) -> None:
    """Of an object, only what is named is replaced, however deep it lies."""
    extra = {"generationConfig": {"thinkingConfig": {"includeThoughts": False}}, "toolConfig": {"x": 1}}
    body = sent(fault_server, ask(reasoning_effort="low", tools=(TOOL,), tool_choice="required", extra=extra))
    assert body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 1024, "includeThoughts": False}
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}, "x": 1}


def test_what_a_schema_cannot_say_is_told_in_words(fault_server: Serve) -> None:
    """Keywords that the API does not know go into the description; the others stay."""
    inner = {"type": "string", "pattern": "^a", "minLength": 2, "description": "A word."}
    schema = {"type": "object", "properties": {"a": inner, "k": {"const": 1}}, "additionalProperties": False}
    body = sent(fault_server, ask(schema=schema))
    assert body["generationConfig"]["responseJsonSchema"] == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "description": "A word.\n\n{pattern: ^a, minLength: 2}"},
            "k": {"enum": [1]},
        },
        "additionalProperties": False,
    }


def test_results_and_pictures(fault_server: Serve) -> None:
    """A call that failed is told as such; a `data:` URL is the picture itself."""
    talk = (
        Message("user", ("see", Image(url="data:image/webp;base64,cG5n"))),
        Message("assistant", "", (ToolCall("c", "look", "{}"),)),
        Message("tool", "it broke", tool_call_id="c", is_error=True),
    )
    first, _, last = sent(fault_server, ask(*talk))["contents"]
    assert first["parts"][1] == {"inlineData": {"mimeType": "image/webp", "data": "cG5n"}}
    assert last["parts"][0]["functionResponse"]["response"] == {"error": "it broke"}


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("", "/v1beta"),
        ("/", "/v1beta"),
        ("/v1alpha", "/v1alpha"),
        ("/v1beta/models", "/v1beta"),
        ("/proxy", "/proxy/v1beta"),
        ("/v1beta?tenant=1", "/v1beta"),
        ("?tenant=1", "/v1beta"),
    ],
)
def test_addresses(fault_server: Serve, given: str, root: str) -> None:
    """The address may be given in any of the forms that people paste; what is in its query goes with every request."""
    path = f"{root}/models/{OLD}:generateContent"
    server = fault_server(paths={path: faults.well("yes")})
    one = provider(server, base_url=server.url.removesuffix("/v1") + given)
    assert one.generate(ask()).text == "yes"
    assert server.log[-1].path == path + ("?tenant=1" if "?" in given else "")


def test_pieces_become_parts() -> None:
    """Pieces of one kind are joined; what is signed stands for itself, and what is empty is not kept."""
    thought = {"text": "c", "thought": True}
    signed = {"text": "", "thoughtSignature": "s"}
    pieces: list[Any] = [
        {}, {"text": "a"}, {"text": "b"}, {"text": ""}, thought, {**thought, "thought": False}, signed, {"text": "d"},
    ]  # fmt: skip
    answers: list[Any] = [{"candidates": [{"content": {"parts": [piece]}}]} for piece in pieces]
    *_, last = _said([*answers, {"candidates": [{"finishReason": "STOP"}]}], partial(State, "google"))
    assert last.state
    assert last.state.data == [{"text": "ab"}, thought, {"text": "c", "thought": False}, signed, {"text": "d"}]
