"""What a model does not take is refused before it is sent, or left out; what only a vendor can read stays with it."""

from collections.abc import Collection

import pytest
from attrs import define
from pointsman import (
    AllBackendsFailed,
    Completion,
    ConfigError,
    Image,
    InvalidRequestError,
    Message,
    ModelNotFoundError,
    Request,
    Router,
    State,
    Tool,
    ToolCall,
    UnavailableError,
    hookimpl,
)
from pointsman.testing import Scripted


@define(eq=False)
class Picky(Scripted):
    """A provider whose small model takes neither a schema nor a temperature."""

    def unsupported(self, request: Request) -> Collection[str]:
        """Say what its model does not take."""
        return () if request.model == "large" else ("schema", "temperature", "stop")


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


def test_the_model_that_is_asked_counts() -> None:
    """A request names a model for the first backend only: what the others' own models take is theirs to say."""
    broken = InvalidRequestError("no", try_next=True)
    own = Picky("b", model="small")
    with Router({"a": Scripted(broken), "b": own}) as router, pytest.raises(AllBackendsFailed) as caught:
        router.generate("hi", schema=SCHEMA, model="large")
    assert "b: its model 'small' does not take schema" in str(caught.value)
    assert own.calls == 0, "what may not be left out is not left out"
    able = Picky('{"b": 1}', model="large")
    with Router({"a": Scripted(broken), "b": able}) as router:
        assert router.generate("hi", schema=SCHEMA, model="small").backend == "b"
        assert able.requests[-1].schema == SCHEMA


def test_its_own_model_in_place_of_the_one_it_lacks() -> None:
    """A backend that is asked its own model, since it lacks the one that was named, is asked nothing which it drops."""

    def lacks(request: Request) -> Completion:
        if request.model == "large":
            raise ModelNotFoundError("no such model")
        return Completion("{}")

    a = Picky(lacks, model="small")
    with Router({"a": a, "b": Scripted('{"b": 1}')}) as router:
        assert router.generate("hi", schema=SCHEMA, model="large").backend == "b"
        assert a.calls == 1


def test_only_what_the_user_names_is_dropped() -> None:
    """`drop_unsupported` may be the names of the options that may go; any other is still needed."""
    a = Picky("a")
    with Router({"a": a}) as router:
        answer = router.generate("hi", stop="x", drop_unsupported="stop")
        assert answer.warnings == ("a: model 'scripted-model' does not take stop; sent without it",)
        with pytest.raises(InvalidRequestError, match="does not take schema"):
            router.generate("hi", stop="x", schema=SCHEMA, drop_unsupported=["stop"])
        with pytest.raises(ConfigError, match=r'drop_unsupported.*found "stopp", expected one of'):
            router.generate("hi", drop_unsupported=["stopp"])  # type: ignore[list-item] # which is the point


def test_a_refused_value_says_nothing_of_others() -> None:
    """A model that refuses one effort, or one choice among tools, is asked the others as before."""

    def picky(request: Request) -> Completion:
        if request.reasoning_effort == "xhigh":
            raise InvalidRequestError("no such effort", parameter="reasoning_effort", try_next=True)
        return Completion("a")

    a = Scripted(picky)
    with Router({"a": a}) as router:
        assert router.generate("hi", reasoning_effort="xhigh", drop_unsupported=True).warnings
        assert a.calls == 2
        assert router.generate("hi", reasoning_effort="xhigh", drop_unsupported=True).warnings
        assert a.calls == 3
        assert router.generate("hi", reasoning_effort="low").warnings == ()
        assert a.requests[-1].reasoning_effort == "low"


def test_who_was_not_asked_is_told() -> None:
    """When all fail who could be asked, the error says who could not be, and why; so does that of nobody at all."""
    spare = Scripted("b", capabilities=frozenset())
    down = Scripted(UnavailableError("down"), capabilities=frozenset({"tools"}))
    with Router({"a": down, "b": spare}, max_retries=0) as router, pytest.raises(UnavailableError) as caught:
        router.generate("hi", tools=[Tool("f")])
    assert caught.value.__notes__ == ["not asked: b: not capable of tools"]
    with Router({"b": spare}) as router:
        with pytest.raises(
            InvalidRequestError, match="not capable of tools; no other backend could serve it; drop"
        ) as c:
            router.generate("hi", tools=[Tool("f")])
        assert (c.value.backend, c.value.parameter) == ("b", "tools")
        with pytest.raises(InvalidRequestError) as c:
            router.generate([Message("user", (Image(b"png"),))])
        assert "drop_unsupported" not in str(c.value), "a picture cannot be left out"


def test_states_that_are_refused_are_left_out() -> None:
    """A vendor that cannot read its own state any more is asked once more without it, and the answer warns of that."""

    def forgetful(request: Request) -> Completion:
        if any(message.state for message in request.messages):
            raise InvalidRequestError("invalid signature", parameter="state", try_next=True)
        return Completion("a")

    a = Scripted(forgetful)
    talk = [Message("user", "hi"), Message("assistant", "a", state=State("scripted", "s")), Message("user", "?")]
    with Router({"a": a}) as router:
        answer = router.generate(talk)
    assert (answer.text, a.calls, len(answer.warnings)) == ("a", 2, 1)


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


def test_state_of_one_model_does_not_go_to_another() -> None:
    """What only one model can read is kept from the vendor's others."""
    a = Vendor("one")
    own = Message("assistant", "one", state=State("acme", "s", "small"))
    with Router({"a": a}) as router:
        for model, kept in (("small", True), ("large", False)):
            router.generate([Message("user", "hi"), own, Message("user", "?")], model=model)
            assert (a.requests[-1].messages[1].state is not None) == kept
