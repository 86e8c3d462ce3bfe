"""The event-stream parser: any cut, any line break, exact text, linear time."""

from __future__ import annotations

import json
import random
from time import process_time

import pytest
from pointsman import AuthenticationError, BackendError, RateLimitError, UnusableAnswer
from pointsman.http import Event, EventParser


def parse(*pieces: bytes) -> list[Event]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


STREAM = (
    "\ufeff: a comment\n\n"
    "event: first\ndata: one\n\n"
    "data:two\ndata: lines\n\n"
    "id: 7\nretry: 10\n\n"
    "data: grüße \u2028 \u2029 \u0085 \U0001f682\n\n"
    "data\n\n"
    "data: [DONE]\n\n"
)
EVENTS = [
    Event("first", "one"),
    Event("", "two\nlines"),
    Event("", "grüße \u2028 \u2029 \u0085 \U0001f682"),
    Event("", ""),
    Event("", "[DONE]"),
]


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n"])
def test_every_line_break_means_the_same(line_break: str) -> None:
    """LF, CR and CRLF end a line; U+2028, U+2029 and U+0085 are text."""
    assert parse(STREAM.replace("\n", line_break).encode()) == EVENTS


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n"])
def test_a_cut_may_fall_anywhere(line_break: str) -> None:
    """Bytes one by one, and every single cut, give the same events, also inside UTF-8, CRLF and the BOM."""
    raw = STREAM.replace("\n", line_break).encode()
    assert parse(*(raw[i : i + 1] for i in range(len(raw)))) == EVENTS
    for cut in range(len(raw)):
        assert parse(raw[:cut], raw[cut:]) == EVENTS


def test_random_cuts_of_random_streams() -> None:
    """However a stream is cut, it says what it says whole."""
    dice = random.Random(5)
    for _ in range(200):
        lines = [
            dice.choice(["data: ä\u2028b", ": ping", "", "event: x", "data:", "data: [1]", "id: 1"]) for _ in range(40)
        ]
        raw = "".join(line + dice.choice(["\n", "\r", "\r\n"]) for line in lines).encode()
        cuts = sorted(dice.randrange(len(raw)) for _ in range(12))
        pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
        # A cut between CR and LF is one line break; so is no cut: both must be told alike.
        assert parse(*pieces) == parse(raw)


def test_an_event_comes_as_soon_as_its_blank_line() -> None:
    """Nothing is held back that is complete, also where CR ends the lines."""
    assert EventParser().feed(b"data: x\n\n") == [Event("", "x")]
    assert EventParser().feed(b"data: x\r\r") == [Event("", "x")]
    parser = EventParser()
    assert parser.feed(b"data: x\r\n\r") == [Event("", "x")]
    assert parser.feed(b"\ndata: y\r\n\r\n") == [Event("", "y")]


def test_the_last_event_counts_without_its_blank_line() -> None:
    """Servers forget the last line break; the event is whole all the same."""
    assert parse(b"data: a\n\ndata: [DONE]") == [Event("", "a"), Event("", "[DONE]")]


def test_bare_json_is_an_event() -> None:
    """Gemini sends errors as JSON without `data:`, also over several lines and in a list."""
    raw = b'data: {"a": 1}\n\n[{\n  "error": {\n    "code": 429,\n    "status": "RESOURCE_EXHAUSTED"\n  }\n}]\n'
    good, bad = parse(raw)
    assert good.json() == {"a": 1}
    with pytest.raises(RateLimitError):
        bad.json()


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    """Twice the bytes cost about twice the time, not four times: an event of 1 and of 4 MiB in pieces of 64 bytes."""

    def cost(size: int) -> float:
        raw = b'data: "' + b"x" * size + b'"\n\n'
        begin = process_time()
        (event,) = parse(*(raw[i : i + 64] for i in range(0, len(raw), 64)))
        assert len(event.data) == size + 2
        return process_time() - begin

    small = min(cost(1 << 20) for _ in range(3))
    assert min(cost(1 << 22) for _ in range(3)) < 12 * small


def test_many_lines_in_one_event() -> None:
    """Multi-line data joins with line feeds."""
    value = {"lines": list(range(2000))}
    raw = "".join(f"data: {line}\n" for line in json.dumps(value, indent=1).split("\n")) + "\n"
    assert parse(raw.encode())[0].json() == value


@pytest.mark.parametrize("raw", [b"data: \xff\xfe\n\n", b"event: \xc3\ndata: x\n\n"])
def test_bytes_that_are_no_utf8_are_no_answer(raw: bytes) -> None:
    """Nothing is replaced silently."""
    with pytest.raises(UnusableAnswer, match="UTF-8"):
        parse(raw)


@pytest.mark.parametrize("data", ['{"cut": ', "", "<html>", '{"a":1}{"b":2}', "[" * 100_000])
def test_data_that_is_no_json_is_no_answer(data: str) -> None:
    """A broken event is an unusable answer."""
    with pytest.raises(UnusableAnswer):
        Event("", data).json()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"error": {"message": "no", "code": "invalid_api_key"}}, AuthenticationError),
        ({"error": "overloaded", "error_type": "overloaded"}, BackendError),
        ({"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}, RateLimitError),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}, RateLimitError),
    ],
)
def test_an_error_event_raises_what_it_means(data: object, expected: type[BackendError]) -> None:
    """An error object in a stream is classified like an error body."""
    with pytest.raises(expected):
        Event("error", json.dumps(data)).json()


def test_null_errors_are_no_errors() -> None:
    """`"error": null` stands in every good object of the Responses API."""
    assert Event("", '{"error": null, "type": "response"}').json()["error"] is None


def test_bare_json_right_behind_data_is_an_event_of_its_own() -> None:
    """An error of Google's may come on the line after what was said, without a blank line between: neither is lost."""
    found = EventParser().feed(b'data: {"text": "a"}\n{"error":\n {"code": 429}}\n\n')
    assert [event.json() if n == 0 else event.data for n, event in enumerate(found)] == [
        {"text": "a"},
        '{"error":\n {"code": 429}}',
    ]
