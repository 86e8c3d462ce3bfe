"""The values that go in and out of hooks."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from attrs import exceptions, fields
from pointsman import (
    Attempt,
    Chunk,
    Completion,
    Health,
    Image,
    Message,
    Options,
    Request,
    Scope,
    Tool,
    ToolCall,
    Usage,
)
from pointsman.values import DROPPABLE

HELLO = Message("user", "hello")
VALUES = [
    Image(data=b"\x89PNG"),
    ToolCall("c1", "add", '{"a": 1}'),
    Tool("add", "Adds."),
    Message("user", ("look: ", Image(url="https://example.org/a.png"))),
    Request((HELLO,), stop=("END",), schema={"type": "object"}, extra={"user": "x"}),
    Usage(10, 5, 2, 1),
    Attempt("main", "m", "failed", "RateLimitError", "slow down", 0.25),
    Completion("hi", usage=Usage(1, 1), attempts=(Attempt("a", None, "answered"),)),
    Chunk("hi", finish_reason="stop"),
    Health.degraded("slow"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen_comparable_and_picklable(value: Any) -> None:
    """Every value can be pickled, equals its copy, and refuses to be changed."""
    assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(exceptions.FrozenInstanceError):
        setattr(value, fields(type(value))[0].name, None)
    assert isinstance(value, Request) or not hasattr(value, "__dict__"), (
        "values are slotted, but for the one copied most"
    )


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "many"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", "warm"),
        ("top_p", 1.01),
        ("top_k", -1),
        ("frequency_penalty", -2.5),
        ("presence_penalty", 3),
        ("timeout", -1),
        ("timeout", float("inf")),
        ("first_token_timeout", "soon"),
        ("idle_timeout", -0.5),
        ("max_retries", -1),
        ("max_retries", 101),
    ],
)
def test_a_number_out_of_range_is_named(name: str, bad: Any) -> None:
    """A parameter that no provider would take is refused with its name, what was found and what was expected."""
    with pytest.raises(ValueError, match=rf"^Request\.{name}: found .*, expected a (whole )?number from"):
        Request((HELLO,), **{name: bad})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Request(()), "expected at least one message"),
        (
            lambda: Message("robot"),  # type: ignore[arg-type] # which is the point
            "found 'robot', expected system, user, assistant or tool",
        ),
        (lambda: Message("tool", "42"), "needs tool_call_id"),
        (lambda: Image(), "either data"),
        (lambda: Image(data=b"x", url="https://example.org"), "not both"),
        (lambda: Image("a.png"), "data is bytes and url is text"),  # type: ignore[arg-type] # the mistake
    ],
)
def test_a_value_that_makes_no_sense_is_refused(make: Callable[[], object], says: str) -> None:
    """A value that could not be sent to any provider is never made."""
    with pytest.raises(ValueError, match=says):
        make()


def test_the_prompt_is_the_last_thing_the_user_said() -> None:
    """`Request.prompt` is the text of the last user message, without images, and empty where there is none."""
    image = Image(url="https://example.org/a.png")
    asked = Request((HELLO, Message("assistant", "yes?"), Message("user", ("what ", image, "is it?"))))
    assert asked.prompt == "what is it?"
    assert asked.messages[-1].images == (image,)
    assert Request((Message("system", "be brief"),)).prompt == ""


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (Request((HELLO,)), set()),
        (Request((HELLO,), tools=(Tool("add"),)), {"tools"}),
        (Request((HELLO, Message("assistant", "", (ToolCall("1", "add"),)))), {"tools"}),
        (Request((HELLO, Message("tool", "3", tool_call_id="1"))), {"tools"}),
        (Request((HELLO,), schema={}), {"schema"}),
        (Request((Message("user", ("a", "b")),)), set()),
        (Request((Message("user", (Image(url="https://example.org"),)), HELLO)), {"images"}),
        (
            Request((Message("user", (Image(url="x:"),)), Message("tool", "3", tool_call_id="1")), schema={}),
            {"images", "schema", "tools"},
        ),
    ],
)
def test_needs_follow_from_what_the_request_holds(request_: Request, needs: set[str]) -> None:
    """What a backend must be capable of is read off the request; nobody declares it."""
    assert request_.needs == needs


def test_without_unsets_fields_and_keeps_the_scope() -> None:
    """A parameter that is dropped is unset; everything else, the running scope too, stays."""
    asked = Request((HELLO,), temperature=0.5, seed=3)
    fewer = asked.without("temperature")
    assert fewer == Request((HELLO,), seed=3)
    assert fewer.scope is asked.scope


def test_the_scope_is_no_part_of_what_is_asked() -> None:
    """Two requests are equal if they ask the same, whatever call they belong to; a pickled one has no limits."""
    limited = Request((HELLO,), scope=Scope(5))
    assert limited == Request((HELLO,))
    assert "scope" not in repr(limited)
    assert pickle.loads(pickle.dumps(limited)).scope.remaining() == float("inf")


def test_options_are_the_fields_of_request() -> None:
    """The keywords that type checkers know are exactly the fields that `Request` has."""
    names = {field.name for field in fields(Request)}
    assert set(Options.__annotations__) == names - {"messages", "scope"}
    assert names >= DROPPABLE


def test_images_become_data_urls() -> None:
    """The bytes of an image travel as a `data:` URL, and its repr does not hold them."""
    image = Image(data=b"\x00\xff", media_type="image/jpeg")
    assert image.as_url() == "data:image/jpeg;base64,AP8="
    assert repr(image) == "Image(data=<2 bytes>, url=None, media_type='image/jpeg')"
    assert Image(url="https://example.org/a.png").as_url() == "https://example.org/a.png"


def test_json_is_parsed_when_asked_for() -> None:
    """`parsed` gives Python values of an answer and of a tool call's arguments, and raises for what is no JSON."""
    assert Completion('{"a": [1]}').parsed() == {"a": [1]}
    assert ToolCall("1", "now", "").parsed() == {}
    for broken in (Completion("{"), ToolCall("1", "now", "{")):
        with pytest.raises(ValueError, match="Expecting"):
            broken.parsed()


def test_health_says_whether_it_is_usable() -> None:
    """Healthy and degraded backends are asked, unavailable and unconfigured ones are not."""
    usable = {h.status: h.usable for h in (Health.ok(), Health.degraded("slow"))}
    unusable = {h.status: h.usable for h in (Health.unavailable("off"), Health.unconfigured("no key"))}
    assert usable == {"healthy": True, "degraded": True}
    assert unusable == {"unavailable": False, "unconfigured": False}


def test_usage_adds_up() -> None:
    """Cached tokens are part of the input and reasoning is part of the output: neither is counted twice."""
    assert Usage(10, 5, cached_tokens=8, reasoning_tokens=4).total_tokens == 15
