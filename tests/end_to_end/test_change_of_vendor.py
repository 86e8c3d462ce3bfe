"""A conversation with tools changes hands in its middle: nothing is refused, and nothing lost but vendor state.

The doubles are as strict as the services: each refuses, in its own words, what its service refuses of a history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import pytest
from attrs import evolve, frozen
from pointsman import Completion, InvalidRequestError, Message, Router, Tool, ToolCall
from pointsman.testing import FaultServer, WireError, faults
from pointsman.testing.answers import Answer, Ask, Event
from pointsman.testing.openai_responses import Responses
from pointsman_claude import Claude
from pointsman_gemini import Gemini
from pointsman_openai import OpenAI

KEY = "sk-0123456789abcdefghij"
TOOLS = [Tool("weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})]
CITIES = ("Bonn", "Köln")
RESULTS = {"Bonn": "rain, 9 degrees", "Köln": "fog, 7 degrees", "Kiel": "wind, 5 degrees"}
QUESTION, THOUGHT, LAST = "Where is it warmest?", "I should look that up.", "It is warmest in Bonn."
#: Signs of each vendor's state: what its double signs its turns with.
SIGNS = {"claude": "c2lnbmVk", "gemini": "c2lnbmVkIGJ5IHRoZSBkb3VibGU=", "responses": "gAAAAsealed"}
DUMMY = "skip_thought_signature_validator"

Check = Callable[[Any], Iterator[str]]  #: of the body of a request: yields what the service would say against it


def claude_says(body: Any) -> Iterator[str]:
    """Yield what Anthropic refuses: unpaired or malformed ids, foreign signatures, roles that do not alternate."""
    before: list[str] = []
    for number, turn in enumerate(body["messages"]):
        blocks = turn["content"]
        if not blocks or turn["role"] != ("assistant" if number % 2 else "user"):
            yield f"messages.{number}: roles must alternate, and content must not be empty"
        answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if answered != before:
            yield f"messages.{number}: `tool_use` ids {before} were found with `tool_result` blocks {answered} after"
        before = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for block in blocks:
            if block["type"] not in ("text", "tool_use", "tool_result", "thinking"):
                yield f"messages.{number}: type {block['type']!r}"
            if block["type"] == "tool_use" and not re.fullmatch("[a-zA-Z0-9_-]+", block["id"]):
                yield f"messages.{number}.id: String should match pattern"
            if block["type"] == "thinking" and block["signature"] != SIGNS["claude"]:
                yield f"messages.{number}: Invalid `signature` in `thinking` block"


def gemini_says(body: Any) -> Iterator[str]:
    """Yield what Google refuses: missing or corrupted signatures, ids that it gave to nobody, unanswered calls."""
    before: list[tuple[str | None, str]] = []
    for number, turn in enumerate(body["contents"]):
        parts = turn["parts"]
        if not parts or turn["role"] != ("model" if number % 2 else "user"):
            yield "Please ensure that multiturn requests alternate between user and model."
        results = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if [(result.get("id"), result["name"]) for result in results] != before:
            yield "Please ensure that the number of function response parts is equal to that of function call parts."
        calls = [part for part in parts if "functionCall" in part]
        before = [(part["functionCall"].get("id"), part["functionCall"]["name"]) for part in calls]
        if calls and "thoughtSignature" not in calls[0]:
            yield f"Function call is missing a thought_signature in position {number}."
        if any(part.get("thoughtSignature", DUMMY) not in (DUMMY, SIGNS["gemini"]) for part in parts):
            yield "Corrupted thought signature."
        if any("id" in part["functionCall"] and part.get("thoughtSignature") == DUMMY for part in calls):
            yield "Unknown function call id."
        if any(
            part.keys() - {"text", "thought", "functionCall", "functionResponse", "thoughtSignature"} for part in parts
        ):
            yield f"Unknown name in contents[{number}]"


def chat_says(body: Any) -> Iterator[str]:
    """Yield what OpenAI refuses of chat completions: ids without a call, calls without a result, long ids."""
    open_ids: list[str] = []
    for number, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                yield f"messages[{number}]: 'tool' must be a response to a preceding message with 'tool_calls'"
            open_ids = [one for one in open_ids if one != message["tool_call_id"]]
            continue
        if open_ids:
            yield f"messages[{number}]: An assistant message with 'tool_calls' must be followed by tool messages"
        open_ids = [call["id"] for call in message.get("tool_calls", ())]
        if any(len(one) > 40 for one in open_ids):
            yield f"messages[{number}].tool_calls[0].id: string too long"
        if message.keys() - {"role", "content", "tool_calls"}:
            yield f"messages[{number}]: unknown parameter"


def responses_says(body: Any) -> Iterator[str]:
    """Yield what OpenAI refuses of the Responses API: outputs without a call, calls without one, foreign thoughts."""
    calls = [item["call_id"] for item in body["input"] if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in body["input"] if item.get("type") == "function_call_output"]
    if sorted(calls) != sorted(outputs) or len(set(calls)) != len(calls):
        yield f"No tool call found for function call output: {calls} and {outputs}"
    for item in body["input"]:
        if item.get("type") == "reasoning" and item["encrypted_content"] != SIGNS["responses"]:
            yield "The encrypted content could not be verified."
        if item.get("type", "message") not in ("message", "reasoning", "function_call", "function_call_output"):
            yield f"Invalid value: {item['type']!r}"
        if any(len(item.get(name, "")) > 64 for name in ("id", "call_id")):
            yield "string too long"


class Sealed(Responses):
    """The Responses API, which encrypts its thoughts for a client that asks for them."""

    def body(self, answer: Answer, ask: Ask) -> Any:
        return _sealed(super().body(answer, ask))

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        return [evolve(event, data=_sealed(event.data)) for event in super().events(answer, ask)]


def _sealed(value: Any) -> Any:
    if isinstance(value, dict):
        seal = {"encrypted_content": SIGNS["responses"]} if value.get("type") == "reasoning" else {}
        return {name: _sealed(inner) for name, inner in value.items()} | seal
    return [_sealed(inner) for inner in value] if isinstance(value, list) else value


@frozen
class Service:
    """A service: how to ask it, and what it refuses."""

    make: Callable[[FaultServer], Any]
    says: Check
    id: str  #: what the ids of its calls look like
    wires: Mapping[str, Any] | None = None

    def serve(self, fault_server: Callable[..., FaultServer]) -> FaultServer:
        """Return its double, with nothing to play yet."""
        return fault_server(wires=self.wires) if self.wires else fault_server()

    def playing(self, answers: Sequence[Any]) -> Any:
        """Return a script of these answers, each but for a request that the service refuses."""

        def guarded(fault: Any) -> Any:
            def step(seen: Any) -> Any:
                refused = next(self.says(seen.body), None)
                return fault if refused is None else faults.status(400, WireError(refused, status=400))

            return step

        return [guarded(fault) for fault in answers]


OPTIONS: dict[str, Any] = {"api_key": KEY}
SERVICES = {
    "claude": Service(
        lambda server: Claude(base_url=server.origin, model="claude-opus-5-5", **OPTIONS), claude_says, "toolu_01{}"
    ),
    "gemini": Service(
        lambda server: Gemini(base_url=server.origin, model="gemini-3.8-flash", **OPTIONS), gemini_says, "fc.{}"
    ),
    "gemini without ids": Service(
        lambda server: Gemini(base_url=server.origin, model="gemini-3.8-flash", **OPTIONS), gemini_says, ""
    ),
    "chat": Service(lambda server: OpenAI(base_url=server.url, model="gpt-4o", **OPTIONS), chat_says, "call_{}"),
    "responses": Service(
        lambda server: OpenAI(base_url=server.url, model="gpt-6-sol", api="responses", **OPTIONS),
        responses_says,
        "call_{}",
        {"/responses": Sealed()},
    ),
}


def calls(service: Service, *cities: str) -> tuple[ToolCall, ...]:
    """Return calls of the tool, with ids as the service gives them."""
    return tuple(
        ToolCall(service.id.format(number), "weather", json.dumps({"city": city}, ensure_ascii=False))
        for number, city in enumerate(cities, start=len(cities))
    )


def asked(router: Router, way: str, talk: Sequence[Message]) -> Completion:
    """Ask in one way or the other."""
    if way == "plain":
        return router.generate(talk, tools=TOOLS)
    with router.stream(talk, tools=TOOLS) as stream:
        list(stream)
        assert stream.completion is not None
        return stream.completion


def results(turn: Completion) -> Iterator[Message]:
    """Yield what the tools say."""
    for call in turn.tool_calls:
        yield Message("tool", RESULTS[call.parsed()["city"]], tool_call_id=call.id)


@pytest.mark.parametrize("way", ["plain", "streamed"])
@pytest.mark.parametrize(("first", "second"), list(permutations(SERVICES, 2)))
def test_from_one_to_the_other_and_back(
    fault_server: Callable[..., FaultServer], first: str, second: str, way: str
) -> None:
    """One calls two tools and fails, another goes on with a third call, and the first, well again, ends it."""
    a, b = SERVICES[first], SERVICES[second]
    here, there = a.serve(fault_server), b.serve(fault_server)
    begun = faults.well("", tool_calls=calls(a, *CITIES), thinking="" if first == "chat" else THOUGHT)
    here.play(a.playing([begun, faults.status(503), faults.well(LAST)]))
    there.play(b.playing([faults.well("Hm.", tool_calls=calls(b, "Kiel"))]))
    talk = [Message("user", QUESTION)]
    with Router({"here": a.make(here), "there": b.make(there)}, max_retries=0) as router:
        one = asked(router, way, talk)
        talk += [one.message, *results(one)]
        two = asked(router, way, talk)
        talk += [two.message, *results(two)]
    assert (one.backend, two.backend) == ("here", "there")
    assert two.tool_calls
    with Router({"here": a.make(here)}, max_retries=0) as router:
        assert asked(router, way, talk).text == LAST
    said = [json.dumps(server.asked[-1].body, ensure_ascii=False) for server in (there, here)]
    assert all(part in text for text in said for part in (QUESTION, *CITIES, *map(RESULTS.__getitem__, CITIES)))
    assert all(part in said[1] for part in ("Hm.", "Kiel", RESULTS["Kiel"]))
    signed = [{name for name, sign in SIGNS.items() if f'"{sign}"' in text} for text in said]
    assert signed == [{second.split()[0]} & {first.split()[0]}, {first.split()[0]} & SIGNS.keys()]


@pytest.mark.parametrize("name", SERVICES)
def test_the_doubles_are_strict(fault_server: Callable[..., FaultServer], name: str) -> None:
    """Each refuses a result that answers none of its calls: or else the tests above would prove nothing."""
    service = SERVICES[name]
    server = service.serve(fault_server)
    server.play(service.playing([faults.well("fine")]))
    call = ToolCall("c1", "weather", "{}")
    answer = Message("tool", "rain", tool_call_id="c1")
    twice = [Message("user", QUESTION), Message("assistant", "", (call,)), answer, answer]
    with Router({"one": service.make(server)}, max_retries=0) as router:
        assert router.generate(twice[:-1], tools=TOOLS).text == "fine"
        with pytest.raises(InvalidRequestError):
            router.generate(twice, tools=TOOLS)
