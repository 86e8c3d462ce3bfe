"""What a receipt of version 1 looks like, field by field: docs/receipts.md says what each means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from ..dag.cbor import Ref
from ..dag.cid import canonical
from ._receipt import VERSION

Is = Callable[[Any], bool]
_CHAIN = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


def _of(*kinds: type) -> Is:
    return lambda value: value.__class__ in kinds


def _sized(size: int) -> Is:
    return lambda value: value.__class__ is bytes and len(value) == size


def _is_cid(value: Any) -> bool:
    return value.__class__ is str and canonical(value) is not None


def _is_count(value: Any) -> bool:
    return value.__class__ is int and value >= 0


def _is_time(value: Any) -> bool:
    if value.__class__ is not str or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


_TEXT, _REAL, _MAP = _of(str), _of(int, float), _of(dict)
_LONG = _of(str, Ref)  #: text, or the link to a file with it
_USAGE = {
    "input_tokens": _is_count,
    "output_tokens": _is_count,
    "cached_tokens?": _is_count,
    "reasoning_tokens?": _is_count,
    "cache_written_tokens?": _is_count,
    "cost?": _REAL,
}
_ATTEMPT = {
    "backend": _TEXT,
    "outcome": _TEXT,
    "seconds": _REAL,
    "model?": _TEXT,
    "error?": _TEXT,
    "reason?": _LONG,
    "usage?": _USAGE,
    "cost?": _REAL,
}
_CALL = {"id": _LONG, "name": _LONG, "arguments": _LONG}
_TURN = {
    "role": _TEXT,
    "content": _of(str, Ref, list),
    "tool_calls?": [_CALL],
    "tool_call_id?": _LONG,
    "is_error?": _of(bool),
}
_TOOL = {"name": _LONG, "description": _LONG, "parameters": _of(dict)}
_HOW_ASKED = {"model?": _TEXT, "options?": _MAP}
_HOW_ANSWERED = {"finish_reason": _TEXT, "raw_finish_reason?": _TEXT, "request_id?": _TEXT}
_DIGEST = {"digest": _sized(32)}
_ASKED = {
    "messages": [_TURN],
    "system?": _LONG,
    "stop?": [_TEXT],
    "tools?": [_TOOL],
    "tool_choice?": _TEXT,
    "schema?": _MAP,
    "extra?": _MAP,
    **_HOW_ASKED,
}
_ANSWER = {"text": _LONG, "thinking?": _LONG, "tool_calls?": [_CALL], **_HOW_ANSWERED}
_RECEIPT = {
    "receipt": lambda value: value.__class__ is int and value == VERSION,
    "by": _TEXT,
    "chain": lambda value: value.__class__ is str and _CHAIN.fullmatch(value) is not None,
    "number": _is_count,
    "previous": lambda value: value is None or _is_cid(value),
    "time": _is_time,
    "after?": [_is_cid],
    "request": _of(dict, Ref),
    "answer": _of(dict, Ref),
    "attempts": [_ATTEMPT],
    "backend?": _TEXT,
    "model?": _TEXT,
    "usage?": _USAGE,
    "cost?": _REAL,
    "warnings?": [_LONG],
    "evidence?": [_is_cid],
    "salt?": _sized(16),
    "links?": [_of(Ref)],
    "altered?": [lambda value: value in ("keys", "values")],
    "key?": _sized(32),
    "signature?": _sized(64),
}
_PAGE = {"page": lambda value: value.__class__ is int and value == VERSION, "of": [_of(Ref)]}


def problems_of(said: Mapping[str, Any]) -> Iterator[str]:
    """Say what in a record is not as a receipt has it; of request and answer, if they stand in it."""
    yield from _misfits("", said, _RECEIPT)
    for name in ("request", "answer"):
        if said.get(name).__class__ is dict:
            yield from content_problems(name, said[name], said)
    if (said.get("number") == 0) != (said.get("previous", "") is None):
        yield "previous: found none of a later receipt, or one of the first"
    if said.get("number") and "after" in said:
        yield "after: found it in another receipt than the first"
    if ("key" in said) != ("signature" in said):
        yield "signature: found it, or its key, without the other"


def content_problems(name: str, content: Any, said: Mapping[str, Any]) -> Iterator[str]:
    """Say what in a request or an answer is not as a receipt has it."""
    whole, how = (_ASKED, _HOW_ASKED) if name == "request" else (_ANSWER, _HOW_ANSWERED)
    yield from _misfits(name, content, {**_DIGEST, **how} if "salt" in said else whole)


def is_page(said: Any) -> bool:
    """Whether this is what holds receipts together."""
    return said.__class__ is dict and "page" in said and not any(_misfits("", said, _PAGE))


def _misfits(place: str, value: Any, spec: Any) -> Iterator[str]:
    if spec.__class__ is list:
        if value.__class__ is not list:
            yield f"{place}: found {_told(value)}, expected a list"
            return
        for number, one in enumerate(value):
            yield from _misfits(f"{place}[{number}]", one, spec[0])
    elif spec.__class__ is dict:
        yield from _misfits_of_map(place, value, spec)
    elif not spec(value):
        yield f"{place}: found {_told(value)}, expected something else"


def _misfits_of_map(place: str, value: Any, spec: Mapping[str, Any]) -> Iterator[str]:
    if value.__class__ is not dict:
        yield f"{place}: found {_told(value)}, expected a map"
        return
    before, left = f"{place}." if place else "", dict(value)
    for written, inner in spec.items():
        name = written.removesuffix("?")
        if name in left:
            yield from _misfits(f"{before}{name}", left.pop(name), inner)
        elif name == written:
            yield f"{before}{name}: it is missing"
    for name in left:
        yield f"{before}{name:.40}: version {VERSION} has no such field"


def _told(value: Any) -> str:
    return f"{value!r:.60}" if value.__class__ in (str, int, float, bool) else value.__class__.__name__
