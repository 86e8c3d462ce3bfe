"""What a receipt of version 1 looks like, field by field: docs/receipts.md says what each means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._forms import Of, is_cid, is_count, is_hex, is_time, misfits, number_of, sized, such
from ..dag.cbor import Ref
from ._receipt import VERSION

_TEXT, _REAL, _MAP = Of(str), Of(int, float), Of(dict)
_LONG = Of(str, Ref)  #: text, or the link to a file with it
_USAGE = {
    "input_tokens": is_count,
    "output_tokens": is_count,
    "cached_tokens?": is_count,
    "reasoning_tokens?": is_count,
    "cache_written_tokens?": is_count,
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
    "content": Of(str, Ref, list),
    "tool_calls?": [_CALL],
    "tool_call_id?": _LONG,
    "is_error?": Of(bool),
}
_TOOL = {"name": _LONG, "description": _LONG, "parameters": Of(dict)}
_HOW_ASKED = {"model?": _TEXT, "options?": _MAP}
_HOW_ANSWERED = {"finish_reason": _TEXT, "raw_finish_reason?": _TEXT, "request_id?": _TEXT}
_DIGEST = {"digest": sized(32)}
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
    "receipt": number_of(VERSION),
    "by": _TEXT,
    "chain": is_hex,
    "number": is_count,
    "previous": such(f"nothing or {is_cid}")(lambda value: value is None or is_cid(value)),
    "time": is_time,
    "after?": [is_cid],
    "request": Of(dict, Ref),
    "answer": Of(dict, Ref),
    "attempts": [_ATTEMPT],
    "backend?": _TEXT,
    "model?": _TEXT,
    "usage?": _USAGE,
    "cost?": _REAL,
    "warnings?": [_LONG],
    "evidence?": [is_cid],
    "salt?": sized(16),
    "links?": [Of(Ref)],
    "altered?": [such('"keys" or "values"')(lambda value: value in ("keys", "values"))],
    "key?": sized(32),
    "signature?": sized(64),
}
_PAGE = {"page": number_of(VERSION), "of": [Of(Ref)]}


def problems_of(said: Mapping[str, Any]) -> Iterator[str]:
    """Say what in a record is not as a receipt has it; of request and answer, if they stand in it."""
    yield from misfits(said, _RECEIPT)
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
    yield from misfits(content, {**_DIGEST, **how} if "salt" in said else whole, name)


def is_page(said: Any) -> bool:
    """Whether this is what holds receipts together."""
    return said.__class__ is dict and "page" in said and not any(misfits(said, _PAGE))
