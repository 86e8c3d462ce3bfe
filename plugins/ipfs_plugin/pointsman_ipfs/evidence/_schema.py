"""What a record of evidence of version 1 looks like, field by field: docs/evidence.md says what each means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pointsman import InvalidRequestError, UnusableAnswer

from .._forms import Of, is_count, is_hex, is_time, misfits, such
from ..dag.cbor import Ref, encode
from ..dag.cid import RAW, codec_of, is_ours, to_text
from ._records import DEEPEST, SCHEMA, Envelope, plain_mapping

#: What stands in the block of every record.
_SIGN = encode("schema") + encode(SCHEMA)


@such("a link by a CID of version 0 or 1, raw, dag-pb or dag-cbor, and sha2-256")
def _is_link(value: Any) -> bool:
    return value.__class__ is Ref and is_ours(value)


@such("a link to a block of plain bytes (codec raw)")
def _is_plain(value: Any) -> bool:
    return _is_link(value) and codec_of(value) == RAW


@such(f"the text {SCHEMA}")
def _is_schema(value: Any) -> bool:
    return value.__class__ is str and value == SCHEMA


@such(f"a map that a record can hold: of at most {DEEPEST} levels, of integers of 64 bits with their sign")
def _is_metadata(value: Any) -> bool:
    with suppress(InvalidRequestError):
        return value.__class__ is dict and plain_mapping(value) is not None
    return False


_MAY_BE_TEXT = Of(str, type(None))
_ABOUT = {
    "size": is_count,
    "media_type": Of(str),
    "evidence_type": Of(str),
    "description": _MAY_BE_TEXT,
    "claim_type": _MAY_BE_TEXT,
    "user": _MAY_BE_TEXT,
    "time": is_time,
    "metadata": _is_metadata,
}
_LINKS = {
    "schema": _is_schema,
    "id": is_hex,
    "data": _is_link,
    "previous": such(f"nothing or {_is_plain}")(lambda value: value is None or _is_plain(value)),
    "merges?": [_is_plain],
}
_OPENED = {"schema": _is_schema, "id": is_hex, "data": _is_link, "plain": _is_link, **_ABOUT}


def problems_of(said: Mapping[str, Any]) -> Iterator[str]:
    """Say what in a block is not as a record of evidence has it; of one that is encrypted, what is not encrypted."""
    yield from misfits(said, {**_LINKS, **({"sealed": _is_plain} if "sealed" in said else _ABOUT)})
    merges = said.get("merges")
    if merges is not None and (not merges or said.get("previous") is None):
        yield "merges: found none, or more than `previous` has"
    if merges.__class__ is list and len({*map(repr, merges), repr(said.get("previous"))}) <= len(merges):
        yield "merges: found the same record twice"


def envelope_of(cid: bytes, block: bytes) -> Envelope | None:
    """Return what a block says, which anybody may have written; None if it is one of something else.

    :raises UnusableAnswer: it says that it is a record, and is not as one is.
    """
    if _SIGN not in block:
        return None
    envelope = Envelope.read(cid, block)
    if (problem := next(problems_of(envelope.said), None)) is not None:
        raise UnusableAnswer(f"record {to_text(cid)}: {problem}")
    return envelope


def opened_problems(said: Any) -> Iterator[str]:
    """Say what in the encrypted part of a record is not as it should be."""
    return misfits(said, _OPENED)
