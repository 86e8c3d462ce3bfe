"""Records of evidence: what they say, and how that stands in a block of DAG-CBOR.

    {"schema": "pointsman.evidence.v1", "id": ..., "data": link, "previous": link or null,
     "size", "media_type", "evidence_type", "description", "claim_type", "user", "time", "metadata"}

`data` links to the evidence itself, so that whoever pins the record keeps it. `previous` links to the record before it
as to plain bytes (codec raw, the same digest): so a pin reaches that record, and neither its data nor all that was
before. `merges`, where it is there, links to the ends of other branches in the same way.

An encrypted record has `sealed` in place of the second line: a link to an age file, in which there is all of that, with
`plain`, the CID of the evidence before it was encrypted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any, TypeVar

from attrs import Attribute, field, frozen
from pointsman import InvalidRequestError, UnusableAnswer

from ..dag import cid as cids
from ..dag.cbor import Ref, decode, encode, is_integer

T = TypeVar("T")

SCHEMA = "pointsman.evidence.v1"
#: Bytes of the largest record. A block may have two million; others must be able to keep it too.
MOST_BYTES = 1 << 20
_TEXTS = ("evidence_type", "description", "claim_type", "user")
#: Levels of metadata within metadata.
DEEPEST = 32
#: Characters of the place of something that a message shows.
_LONGEST = 100
#: A CID is written again where it is the one before of another record.
_text = lru_cache(1024)(cids.to_text)
_RAW, _CBOR = cids.raw_cid(b"")[:4], cids.cbor_cid(b"")[:4]


def plain_mapping(given: object) -> Mapping[str, Any]:
    """Return a copy of metadata, in the types that a block of DAG-CBOR takes.

    :raises InvalidRequestError: a record cannot hold them.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidRequestError(f"metadata: found {type(given).__name__}, expected a mapping")
    return _plain(given, "metadata", 0)  # type: ignore[no-any-return] # a mapping gives a dict


def _plain(value: Any, place: str, depth: int) -> Any:
    """Return a copy of what JSON can hold, and of bytes, in the types that a block of DAG-CBOR takes."""
    if depth > DEEPEST:
        raise _refused(place, f"found more than {DEEPEST} levels")
    if isinstance(value, Mapping):
        return {_name(name, place): _plain(one, f"{place}.{name}", depth + 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, f"{place}[{n}]", depth + 1) for n, one in enumerate(value)]
    if isinstance(value, str):
        return _fits(str.__str__(value), place)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return _fits(int(value) if isinstance(value, int) else float(value), place)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    advice = "expected what JSON can hold, or bytes; write a date as text"
    raise _refused(place, f"found {type(value).__name__}, {advice}")


def _name(name: object, place: str) -> str:
    if not isinstance(name, str):
        raise _refused(place, f"found a key of {type(name).__name__}, expected text")
    return str.__str__(_fits(name, f"a key of {place}"))


def _fits(value: T, place: str) -> T:
    """Return a value that DAG-CBOR has a place for."""
    if isinstance(value, float) and not isfinite(value):
        raise _refused(place, f"found {value}, expected a finite number; write it as text")
    if isinstance(value, int) and not is_integer(value):
        raise _refused(place, "found an integer that takes more than 64 bits with its sign; write it as text")
    if isinstance(value, str) and not _is_unicode(value):
        raise _refused(place, f"found half a surrogate pair in {value!a:.60}, expected text in Unicode")
    return value


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _refused(place: str, why: str) -> InvalidRequestError:
    place = place if len(place) <= _LONGEST else f"{place[:_LONGEST]}..."
    return InvalidRequestError(f"{place.encode(errors='backslashreplace').decode()}: {why}")


def check_text(place: str, value: object) -> None:
    """See that this is text, or None.

    :raises InvalidRequestError: it is not.
    """
    if value is not None and not isinstance(value, str):
        raise _refused(place, f"found {type(value).__name__}, expected text or None")
    _fits(value, place)


def _is_text(_: Any, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _refused(attribute.name, f"found {value!r:.60}, expected text that is not empty")
    _fits(value, attribute.name)


def _may_be_text(_: Any, attribute: Attribute[Any], value: object) -> None:
    check_text(attribute.name, value)


@frozen
class About:
    """What a person says of a piece of evidence.

    :raises InvalidRequestError: something is not of the type that it should be.
    """

    evidence_type: str = field(validator=_is_text)  #: document, image, video, audio, email, text, ... or any other
    description: str | None = field(default=None, validator=_may_be_text)
    claim_type: str | None = field(default=None, validator=_may_be_text)  #: the claim that it is to support
    user: str | None = field(default=None, validator=_may_be_text)  #: who submits it
    media_type: str | None = field(default=None, validator=_may_be_text)  #: guessed if None
    #: Anything that JSON can hold, and bytes.
    metadata: Mapping[str, Any] = field(factory=dict, converter=plain_mapping)


@frozen(kw_only=True)
class Record:
    """Who described which bytes, how and when."""

    cid: str  #: of the evidence, as it is stored
    record_cid: str  #: of the record
    id: str  #: of the record, given when it was made: no two have the same
    previous: tuple[str, ...]  #: CIDs of the records that it follows: one, unless it is the first, or joins branches
    size: int  #: bytes of the evidence, before it was encrypted
    media_type: str
    evidence_type: str
    description: str | None
    claim_type: str | None
    user: str | None
    time: datetime  #: when it was submitted, in UTC
    metadata: Mapping[str, Any]
    plain_cid: str  #: of the evidence before it was encrypted; else the same as `cid`
    encrypted: bool


@frozen
class Envelope:
    """What a record's block says by itself. Of an encrypted one that is neither who nor what nor when."""

    cid: bytes
    block: bytes
    id: str
    data: bytes
    previous: tuple[bytes, ...]  #: CIDs of records, the first of them that of `previous`
    sealed: bytes | None  #: the CID of the age file; None of a record that is not encrypted
    said: Mapping[str, Any] = field(repr=False)  #: the rest, if it is not

    @classmethod
    def read(cls, cid: bytes, block: bytes) -> Envelope:
        """Return what a block says, whose bytes are taken for those of its CID.

        :raises UnusableAnswer: it is no record of this kind.
        """
        try:
            said = decode(block)
        except ValueError as error:
            raise _wrong(cid, str(error)) from error
        if not isinstance(said, dict) or said.get("schema") != SCHEMA:
            raise _wrong(cid, f"it is no record of evidence: expected the schema {SCHEMA}")
        before, more = said.get("previous"), said.get("merges", [])
        ends = [*([] if before is None else [before]), *(more if isinstance(more, list) else [None])]
        sealed = said.get("sealed")
        links = [said.get("data"), *ends, *([] if sealed is None else [sealed])]
        if not isinstance(said.get("id"), str) or not all(isinstance(one, Ref) and cids.is_ours(one) for one in links):
            raise _wrong(cid, "its id or its links are not what they should be")
        previous = tuple(map(as_record, ends))
        return cls(cid, block, said["id"], bytes(said["data"]), previous, sealed and bytes(sealed), said)

    def record(self, opened: bytes | None = None) -> Record:
        """Return the whole record.

        :param opened: what was in the age file, if there is one.
        :raises UnusableAnswer: something in it is not what it should be.
        """
        said = self.said
        if opened is not None:
            try:
                said = decode(opened)
            except ValueError as error:
                raise _wrong(self.cid, f"what is sealed in it: {error}") from error
            same = isinstance(said, dict) and (said.get("id"), said.get("data")) == (self.id, self.data)
            if not same or not isinstance(said.get("plain"), Ref):
                raise _wrong(self.cid, "what is sealed in it belongs to another record")
        try:
            return Record(
                cid=_text(self.data),
                record_cid=_text(self.cid),
                id=self.id,
                previous=tuple(map(_text, self.previous)),
                plain_cid=_text(said.get("plain", self.data)),
                encrypted=self.sealed is not None,
                time=_time_of(said),
                size=_of(said, "size", int),
                media_type=_of(said, "media_type", str),
                evidence_type=_of(said, "evidence_type", str),
                description=_of(said, "description", str | None),
                claim_type=_of(said, "claim_type", str | None),
                user=_of(said, "user", str | None),
                metadata=_of(said, "metadata", dict),
            )
        except (ValueError, OverflowError) as error:  # the first hour of the year 1 is none in UTC everywhere
            raise _wrong(self.cid, str(error)) from error


def said_of(about: About, size: int, media_type: str, time: datetime) -> dict[str, Any]:
    """Return what a record says of its evidence, apart from links."""
    texts = {name: _plain(getattr(about, name), name, 0) for name in _TEXTS}  # of a subclass, an enumeration's say
    return {
        **texts,
        "size": size,
        "media_type": str.__str__(media_type),
        "time": time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "metadata": about.metadata,
    }


def block_of(id: str, data: bytes, said: Mapping[str, Any], ends: Sequence[bytes]) -> bytes:
    """Return the block of a record.

    :param said: what `said_of` returned, or `sealed`.
    :param ends: CIDs of the records that it follows.
    """
    before, *more = (Ref(as_bytes(end)) for end in ends) if ends else (None,)
    links = {"data": Ref(data), "previous": before, **({"merges": more} if more else {})}
    return encode({"schema": SCHEMA, "id": id, **links, **said})


def sealed_of(id: str, data: bytes, plain: bytes, said: Mapping[str, Any]) -> bytes:
    """Return what is to be encrypted of a record."""
    return encode({"schema": SCHEMA, "id": id, "data": Ref(data), "plain": Ref(plain), **said})


def check(said: Mapping[str, Any]) -> None:
    """See that this can be in a record.

    :raises InvalidRequestError: it is too large.
    """
    if (size := len(encode(said))) > MOST_BYTES:
        advice = "submit what is long as evidence of its own"
        raise InvalidRequestError(f"found {size} bytes that describe it, expected at most {MOST_BYTES}: {advice}")


def as_bytes(cid: bytes) -> bytes:
    """Return the CID that stands for a record's block as plain bytes: whoever follows it goes no further."""
    return _RAW + cid[-32:]


def as_record(cid: bytes) -> bytes:
    """Return the CID of the record whose plain bytes this one stands for."""
    return _CBOR + cid[-32:]


def _wrong(cid: bytes, why: str) -> UnusableAnswer:
    return UnusableAnswer(f"record {cids.to_text(cid)}: {why}")


def _of(said: Mapping[str, Any], name: str, kind: Any) -> Any:
    if isinstance(value := said.get(name), kind) and not isinstance(value, bool):
        return value
    raise ValueError(f"{name}: found {type(value).__name__}")


def _time_of(said: Mapping[str, Any]) -> datetime:
    time = datetime.fromisoformat(_of(said, "time", str))
    if time.tzinfo is None:
        raise ValueError("time: found one without its zone")
    return time.astimezone(UTC)
