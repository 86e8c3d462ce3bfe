"""Chat completions and the Responses API in odd forms: calls, thoughts, pictures, ends; nothing lost, nothing half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pointsman import Completion, Image, Message, Request, Router, Tool, ToolCall, UnusableAnswer, Usage, collect
from pointsman.testing import FaultServer
from pointsman.testing.answers import Answer, Ask, Event
from pointsman_openai import OpenAI

Serve = Callable[..., FaultServer]
TOOL = Tool("look", "Looks.")


class Says:
    """A wire that answers with these bodies: the first of them whole, all of them as the events of a stream."""

    def __init__(self, *bodies: Any) -> None:
        self.bodies = bodies

    def ask(self, body: Any) -> Ask:
        return Ask(prompt="?", streamed=body.get("stream") is True)

    def body(self, answer: Answer, ask: Ask) -> Any:
        return self.bodies[0]

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        return [Event(one, "text") for one in (*self.bodies[1:], "[DONE]")]

    def error(self, error: Any) -> Any:
        return {"error": {"message": error.message}}

    def error_event(self, error: Any) -> Event:
        return Event(self.error(error), "error")


def ask(*messages: Message, **options: Any) -> Request:
    return Request(messages or (Message("user", "hi"),), **options)


def chat(fault_server: Serve, *bodies: Any, path: str = "/chat/completions", **options: Any) -> OpenAI:
    server = fault_server(wires={path: Says(*bodies)})
    return OpenAI(base_url=server.url, model="m", **options)


def message(finish: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"content": None, **fields}, "finish_reason": finish}], "usage": USAGE}


def delta(finish: Any = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def call(index: int | None, id: str | int | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    given = {"index": index, "id": id, "function": function}
    return {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([call(0, "a", "f", '{"q":'), call(0, None, None, "1}")], [("a", "f", '{"q":1}')]),
        ([call(0, None, "f", '{"q":1}'), call(0, None, "f", '{"q":2}')], [("", "f", '{"q":1}'), ("", "f", '{"q":2}')]),
        ([call(None, "a", "f", '{"q":'), call(None, "a", "f", "1}")], [("a", "f", '{"q":1}')]),
        ([call(None, None, "f", '{"q":'), call(None, None, "f", "1}")], [("", "f", '{"q":1}')]),
        ([call(0, "a", "f", "{}"), call(0, "b", "g", "{}")], [("a", "f", "{}"), ("b", "g", "{}")]),
        ([call(0, 17, "f", "{}")], [("17", "f", "{}")]),
        ([call(0, "a", "f", ""), call(1, "b", "g", '{"x": 2}')], [("a", "f", "{}"), ("b", "g", '{"x": 2}')]),
    ],
)
def test_pieces_of_calls(fault_server: Serve, pieces: list[Any], calls: list[tuple[str, str, str]]) -> None:
    """Whatever a server leaves out or says twice, each call comes whole; an id of ours is no other call's."""
    one = chat(fault_server, message(), *(delta(tool_calls=[piece]) for piece in pieces), delta("tool_calls"))
    found = collect(one.stream(ask())).tool_calls
    assert [(known and got.id, got.name, got.arguments) for got, (known, *_) in zip(found, calls, strict=True)] == calls
    assert len({got.id for got in found}) == len(found)
    assert all(got.id for got in found)


@pytest.mark.parametrize("finish", ["tool_calls", "stop", "length"])
@pytest.mark.parametrize("bad", [call(0, "a", "f", '{"q":'), call(0, "a", "f", "oops"), call(0, "a", None, "{}")])
def test_half_a_call_is_no_answer(fault_server: Serve, finish: str, bad: dict[str, Any]) -> None:
    """Arguments that are no JSON, or a call without a name, make an unusable answer, whole or streamed; it is paid."""
    one = chat(
        fault_server, message(finish, tool_calls=[bad]), delta(tool_calls=[bad]), {**delta(finish), "usage": USAGE}
    )
    for way in (lambda: one.generate(ask()), lambda: collect(one.stream(ask()))):
        with pytest.raises(UnusableAnswer, match="not whole") as caught:
            way()
        assert caught.value.usage == Usage(7, 3)


def test_half_a_call_of_the_other_api(fault_server: Serve) -> None:
    """The Responses API is held to the same."""
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"q":'}
    usage = {"input_tokens": 7, "output_tokens": 3}
    body = {"status": "completed", "output": [item], "usage": usage}
    end = {"type": "response.completed", "response": body}
    one = chat(fault_server, body, end, path="/responses", api="responses")
    for way in (lambda: one.generate(ask()), lambda: collect(one.stream(ask()))):
        with pytest.raises(UnusableAnswer, match="not whole") as caught:
            way()
        assert caught.value.usage == Usage(7, 3)


@pytest.mark.parametrize(
    ("status", "reason", "end"),
    [("completed", None, "stop"), ("incomplete", "max_output_tokens", "length"),
     ("incomplete", "content_filter", "content_filter"),
     *(("incomplete", reason, None) for reason in ("max_messages", "steered", "a_new_word", None)),
     *((status, None, None) for status in ("failed", "cancelled", "queued", "in_progress", None))],
)  # fmt: skip
def test_ends_of_the_other_api(fault_server: Serve, status: Any, reason: Any, end: str | None) -> None:
    """What is not complete, cut by its length or filtered is no answer; the error says the word and what it cost."""
    said = {"type": "message", "content": [{"type": "output_text", "text": "Text."}]}
    usage = {"input_tokens": 7, "output_tokens": 3}
    body = {"status": status, "incomplete_details": reason and {"reason": reason}, "output": [said], "usage": usage}
    terminal = {"type": f"response.{status if status in ('completed', 'failed') else 'incomplete'}", "response": body}
    one = chat(fault_server, body, terminal, path="/responses", api="responses")
    for way in (lambda: one.generate(ask()), lambda: collect(one.stream(ask()))):
        if end is None:
            with pytest.raises(UnusableAnswer, match=repr(reason or status)) as caught:
                way()
            assert caught.value.usage == Usage(7, 3)
        else:
            assert (way().finish_reason, way().raw_finish_reason) == (end, reason or status)


@pytest.mark.parametrize("finish", [None, ""])
def test_an_answer_without_an_end_is_paid_for(fault_server: Serve, finish: Any) -> None:
    """No finish reason, or an empty one, is a cut answer; what it cost is known all the same."""
    one = chat(fault_server, message(finish, content="Well"))
    with pytest.raises(UnusableAnswer, match="finish_reason") as caught:
        one.generate(ask())
    assert caught.value.usage == Usage(7, 3)


THOUGHTS = [
    (["<think>Hm.", " So</th", "ink>\n\nA cat."], "A cat.", "Hm. So"),
    (["  <thi", "nk>Hm.</think>A cat."], "A cat.", "Hm."),
    (["<", "b>A cat.</b>"], "<b>A cat.</b>", ""),
    (["A cat <think> here"], "A cat <think> here", ""),
    ([[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "A cat."}]],
     "A cat.", "Hm."),
    ([[{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": "A cat."}]], "A cat.", "Hm."),
]  # fmt: skip


@pytest.mark.parametrize(("pieces", "text", "thinking"), THOUGHTS)
def test_thoughts_are_never_in_the_text(fault_server: Serve, pieces: list[Any], text: str, thinking: str) -> None:
    """Thoughts that a server leaves in the text, between tags or as parts of it, are told apart, whole and streamed."""
    whole = "".join(pieces) if isinstance(pieces[0], str) else pieces[0]
    one = chat(fault_server, message(content=whole), *(delta(content=piece) for piece in pieces), delta("stop"))
    for got in (one.generate(ask()), collect(one.stream(ask()))):
        assert (got.text, got.thinking) == (text, thinking)


def test_details_without_a_text_are_thoughts(fault_server: Serve) -> None:
    """Where a host sends only OpenRouter's details, a reader sees what is in them."""
    details = [{"type": "reasoning.text", "index": 0, "text": "Hm."}]
    one = chat(fault_server, message(content="A cat.", reasoning_details=details))
    assert one.generate(ask()).thinking == "Hm."


def test_other_choices_are_left(fault_server: Serve) -> None:
    """Where `extra` asks for several answers, the first is read, and the others are not mixed into it."""
    one = chat(
        fault_server, message(content="A cat."), delta(content="A "), delta(content="No", index=1),
        delta(content="cat."), delta("stop", index=1), delta("stop"),
    )  # fmt: skip
    assert collect(one.stream(ask(extra={"n": 2}))).text == "A cat."


def test_what_breaks_after_the_end_was_not_the_answer(fault_server: Serve) -> None:
    """A broken event after the finish reason takes nothing from a whole answer (row 26)."""
    one = chat(fault_server, message(), delta(content="A cat."), delta("stop"), "{broken")
    with Router([one]) as router, router.stream("hi") as stream:
        assert "".join(chunk.text for chunk in stream) == "A cat."
        assert stream.completion.finish_reason == "stop"


PICTURE = Image(data=b"png")
TALK = (
    Message("user", "What?"),
    Message("assistant", "", (ToolCall("c1", "look"), ToolCall("c2" * 40, "look"))),
    Message("tool", ("a cat", PICTURE), tool_call_id="c1"),
    Message("tool", (PICTURE,), tool_call_id="c2" * 40),
    Message("user", "Sure?"),
)


def test_pictures_of_tools_and_long_ids(fault_server: Serve) -> None:
    """Chat completions take no picture in a result: it follows them all; a long id is the same in call and result."""
    server = fault_server()
    OpenAI(base_url=server.url, model="m").generate(ask(*TALK, tools=(TOOL,)))
    sent = server.asked[-1].body["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert [one["content"] for one in sent[2:4]] == ["a cat", "see the picture below"]
    assert [part["image_url"]["url"] for part in sent[4]["content"]] == [PICTURE.as_url()] * 2
    ids = [made["id"] for made in sent[1]["tool_calls"]]
    assert ids == [one["tool_call_id"] for one in sent[2:4]]
    assert all(len(id) <= 40 for id in ids)
    OpenAI(base_url=server.url, model="m", api="responses").generate(ask(*TALK, tools=(TOOL,)))
    items = {one["call_id"]: one for one in server.asked[-1].body["input"] if one.get("type") == "function_call_output"}
    assert [part["type"] for part in items["c1"]["output"]] == ["input_text", "input_image"]
    assert all(len(id) <= 64 for id in items)


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_there_is_no_choice_among_no_tools(fault_server: Serve, api: Any) -> None:
    """Without tools no choice among them is sent; a request whose tools are dropped has none either."""
    server = fault_server()
    OpenAI(base_url=server.url, model="m", api=api).generate(ask(tool_choice="none"))
    assert "tool_choice" not in server.asked[-1].body
    assert ask(tools=(TOOL,), tool_choice="look").without("tools").tool_choice is None


def test_a_fee_is_not_the_whole_cost(fault_server: Serve) -> None:
    """With a key of the user's own, OpenRouter's cost is its fee: what the host takes comes on top."""
    usage = {**USAGE, "cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}
    one = chat(fault_server, {**message(content="A cat."), "usage": usage})
    with Router([one]) as router:
        answer: Completion = router.generate("hi")
    assert answer.cost == pytest.approx(0.21)
