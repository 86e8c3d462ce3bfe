"""What a model does not take is refused before it is sent, or left out; what only a vendor can read stays with it."""

from collections.abc import Collection

import pytest
from attrs import define
from pointsman import Completion, InvalidRequestError, Message, Request, Router, State, Tool, ToolCall, hookimpl
from pointsman.testing import Scripted


@define(eq=False)
class Picky(Scripted):
    """A provider whose small model takes neither a schema nor a temperature."""

    def unsupported(self, model: str | None) -> Collection[str]:
        """Say what `model` does not take."""
        return () if model == "large" else ("schema", "temperature", "stop")


SCHEMA = {"type": "object"}


def test_a_request_goes_where_its_options_are_taken() -> None:
    """A backend whose model does not take an option is left out for that request, and `order` says so."""
    a, b = Picky("a"), Scripted('{"b": 1}')
    with Router({"a": a, "b": b}) as router:
        assert router.generate("hi", schema=SCHEMA).backend == "b"
        reasons = {place.backend.id: place.reason for place in router.order("hi", schema=SCHEMA)}
        assert reasons["a"] == "its model 'scripted-model' does not take schema"
        assert router.generate("hi").backend == "a"
        router.generate("hi", model="large", schema=SCHEMA)
        assert a.requests[-1].schema == SCHEMA


def test_nobody_takes_it() -> None:
    """The error names the option, and who could serve the request, before anything is sent."""
    a = Picky("a")
    with Router({"a": a, "b": Scripted("{}")}) as router:
        with pytest.raises(InvalidRequestError, match="does not take schema; b could serve it") as caught:
            router.generate("hi", schema=SCHEMA, backend="a")
        assert caught.value.parameter == "schema"
        with pytest.raises(InvalidRequestError, match="stop; no other backend could"):
            Router([a]).generate("hi", stop="x")
    assert a.calls == 0


def test_dropped_where_the_user_says_so() -> None:
    """With `drop_unsupported` it is sent without the option, and each answer warns of it once."""
    a = Picky("a")
    with Router({"a": a}) as router:
        for _ in range(2):
            answer = router.generate("hi", schema=SCHEMA, stop="x", drop_unsupported=True)
            assert answer.warnings == (
                "a: model 'scripted-model' does not take schema; sent without it",
                "a: model 'scripted-model' does not take stop; sent without it",
            )
        assert (a.requests[-1].schema, a.requests[-1].stop) == (None, ())


def test_sampling_is_always_dropped() -> None:
    """What shapes the sampling and not the meaning is left out, with a warning, wherever a model does not take it."""
    a = Picky("a")
    with Router({"a": a}) as router:
        answer = router.generate("hi", temperature=0.5)
        assert answer.warnings == ("a: model 'scripted-model' does not take temperature; sent without it",)
        assert a.requests[-1].temperature is None


def test_a_refusal_teaches() -> None:
    """Without a table a refusal teaches the same: the option is dropped if the user said so, else the next is asked."""

    def picky(request: Request) -> Completion:
        if request.schema is not None:
            raise InvalidRequestError("no schema here", parameter="schema", try_next=True)
        return Completion("a")

    a = Scripted(picky)
    with Router({"a": a, "b": Scripted("{}")}) as router:
        answer = router.generate("hi", schema=SCHEMA, drop_unsupported=True)
        assert (answer.backend, a.calls) == ("a", 2)
        assert "refuses schema" in answer.warnings[0]
        assert router.generate("hi", schema=SCHEMA).backend == "b"
        assert a.calls == 2


def test_tools_are_dropped_where_no_call_was_made() -> None:
    """A backend without tools serves a request for them if the user lets them go, but not a conversation with calls."""
    a = Scripted("a", capabilities=frozenset())
    with Router({"a": a}) as router:
        answer = router.generate("hi", tools=[Tool("f")], tool_choice="auto", drop_unsupported=True)
        assert [warning.split()[5] for warning in answer.warnings] == ["take"] * 2
        assert (a.requests[-1].tools, a.requests[-1].tool_choice) == ((), None)
        talk = [
            Message("user", "hi"),
            Message("assistant", tool_calls=(ToolCall("1", "f"),)),
            Message("tool", "3", (), "1"),
        ]
        assert router.order(talk, drop_unsupported=True)[0].reason == "not capable of tools"


@define(eq=False)
class Vendor(Scripted):
    """A provider that answers with a state of its own."""

    vendor: str = "acme"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer with a state."""
        answer = super().generate(request)
        return Completion(answer.text, state=State(self.vendor, {"signature": "s3"}))


def test_state_goes_back_to_its_vendor_only() -> None:
    """An answer's state goes back with the assistant's turn, to the same vendor and to nobody else."""
    a, b = Vendor("one"), Scripted("two")
    with Router({"a": a, "b": b}) as router:
        first = router.generate("hi")
        assert first.state == State("acme", {"signature": "s3"})
        talk = [Message("user", "hi"), first.message, Message("user", "and?")]
        router.generate(talk, backend="a")
        router.generate(talk, backend="b")
    assert a.requests[-1].messages[1].state == first.state
    assert b.requests[-1].messages == (talk[0], Message("assistant", "one"), talk[2])
    assert "s3" not in repr(first)
