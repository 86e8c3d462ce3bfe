"""dag-pb nodes and the UnixFS message in them, as bytes: written as Kubo writes them, read without trust.

A node has links to other blocks, and data. Written, the links stand before the data, though its field has the
lower number: so did the first implementation, and identifiers depend on it.

Sources: https://ipld.io/specs/codecs/dag-pb/spec/ and https://specs.ipfs.tech/unixfs/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import islice
from typing import NamedTuple

from attrs import frozen
from pointsman import UnusableAnswer

from . import _varint
from .cid import take

#: Bytes of the largest block that is read. Nodes exchange no larger ones.
MOST_BYTES = 2 << 20
#: A block has room for fewer links; so many sizes are therefore never those of its links.
_MOST_SIZES = 1 << 16
_VARINT, _BYTES = 0, 2
#: wire type of protobuf -> bytes of a value that is not of ours
_FIXED = {1: 8, 5: 4}


class PBLink(NamedTuple):
    """A link of a node. `tsize` is said to be the size of all blocks below, of each as often as it occurs."""

    cid: bytes
    name: bytes
    tsize: int


@frozen
class PBNode:
    """A node. Without data is another thing than with empty data."""

    links: Sequence[PBLink]
    data: bytes | None


class Kind(IntEnum):
    """What a UnixFS node is."""

    RAW = 0  #: a piece of a file, by old programs
    FOLDER = 1
    FILE = 2  #: or a piece of one
    METADATA = 3
    SYMLINK = 4
    SHARD = 5  #: of a folder in many blocks; `hamt` reads it


@frozen
class Data:
    """The UnixFS message in a node. Times and permissions are passed over: nothing here depends on them."""

    kind: Kind
    data: bytes = b""
    filesize: int | None = None
    blocksizes: Sequence[int] = ()
    hash_type: int | None = None
    fanout: int | None = None


#: The data of every folder in one block.
FOLDER = b"\x08\x01"


def link_size(link: PBLink) -> int:
    """Return how many bytes a link takes in a node."""
    return 1 + _sized(_link_length(link))


def encode(links: Iterable[PBLink], data: bytes) -> bytes:
    """Return the bytes of a node with these links, in this order. The order of names is the caller's duty."""
    out: list[bytes] = []
    for link in links:
        cid, name, tsize = link
        out += (
            b"\x12" + _varint.written(_link_length(link)) + b"\x0a" + _varint.written(len(cid)),
            cid,
            b"\x12" + _varint.written(len(name)),
            name,
            b"\x18" + _varint.written(tsize),
        )
    return b"".join((*out, b"\x0a", _varint.written(len(data)), data))


def encode_file(filesize: int, blocksizes: Sequence[int] = (), data: bytes = b"") -> bytes:
    """Return the message of a file, or of a piece: one with links has their sizes, one without has data."""
    parts = [b"\x08\x02"]
    if data:
        parts += b"\x12" + _varint.written(len(data)), data
    parts.append(b"\x18" + _varint.written(filesize))
    parts += [b"\x20" + _varint.written(size) for size in blocksizes]
    return b"".join(parts)


def encode_symlink(target: bytes) -> bytes:
    """Return the message of a symbolic link."""
    return b"\x08\x04\x12" + _varint.written(len(target)) + target


def encode_shard(bitfield: bytes, hash_type: int, fanout: int) -> bytes:
    """Return the message of a shard of a folder."""
    head = b"\x08\x05\x12" + _varint.written(len(bitfield)) + bitfield
    return head + b"\x28" + _varint.written(hash_type) + b"\x30" + _varint.written(fanout)


def decode(block: bytes) -> PBNode:
    """Read a node. Data may stand before the links, as some old programs wrote it.

    :raises UnusableAnswer: it is none; the message says where it goes wrong.
    """
    if len(block) > MOST_BYTES:
        raise UnusableAnswer(f"a dag-pb node: found {len(block)} bytes, expected at most {MOST_BYTES}")
    links: list[PBLink] = []
    data: bytes | None = None
    closed = False  # the links have ended
    for field, wire, value in _fields(block, "a dag-pb node"):
        if (field, wire) == (2, _BYTES) and not closed and isinstance(value, bytes):
            links.append(_decoded_link(value))
        elif (field, wire) == (1, _BYTES) and data is None and isinstance(value, bytes):
            data, closed = value, bool(links)
        else:
            raise UnusableAnswer(f"a dag-pb node: found field {field} of type {wire}, out of place")
    return PBNode(links, data)


def decode_data(message: bytes) -> Data:
    """Read the UnixFS message in the data of a node. Fields that are none of ours are passed over.

    :raises UnusableAnswer: it is none.
    """
    whole: dict[int, int] = {}
    data, sizes = b"", list[int]()
    for field, wire, value in _fields(message, "a UnixFS message"):
        if field == 2 and wire == _BYTES and isinstance(value, bytes):
            data = value
        elif field == 4 and wire in (_VARINT, _BYTES):
            sizes += [value] if isinstance(value, int) else islice(_packed(value), _MOST_SIZES + 1)
            if len(sizes) > _MOST_SIZES:
                raise UnusableAnswer(f"a UnixFS message: found more than {_MOST_SIZES} sizes of blocks")
        elif field in (1, 3, 5, 6) and isinstance(value, int):
            whole[field] = value
        elif field <= 6:
            raise UnusableAnswer(f"a UnixFS message: found field {field} of type {wire}, which it never has")
    kind = whole.get(1)
    if kind is None or kind > max(Kind):
        raise UnusableAnswer(f"a UnixFS message: found type {kind}, expected 0 to {max(Kind):d}")
    return Data(Kind(kind), data, whole.get(3), sizes, whole.get(5), whole.get(6))


def _link_length(link: PBLink) -> int:
    return 2 + _sized(len(link.cid)) + _sized(len(link.name)) + 1 + _varint.size(link.tsize)


def _sized(length: int) -> int:
    return _varint.size(length) + length


def _decoded_link(message: bytes) -> PBLink:
    cid, name, tsize, last = b"", b"", 0, 0
    for field, wire, value in _fields(message, "a link"):
        if field <= last:
            raise UnusableAnswer(f"a link: found field {field} after {last}")
        if field == 1 and wire == _BYTES and isinstance(value, bytes):
            cid, end = take(value)
            if end != len(value):
                raise UnusableAnswer(f"a link: found {len(value)} bytes, expected a CID of {end}")
        elif field == 2 and wire == _BYTES and isinstance(value, bytes):
            name = value
        elif field == 3 and isinstance(value, int):
            tsize = value
        else:
            raise UnusableAnswer(f"a link: found field {field} of type {wire}, which it never has")
        last = field
    if not cid:
        raise UnusableAnswer("a link: found no CID")
    return PBLink(cid, name, tsize)


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint.read(data, at)
        yield value


def _fields(message: bytes, what: str) -> Iterator[tuple[int, int, int | bytes]]:
    """Give out number, wire type and value of each field of a protobuf message."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint.read(message, at)
        wire = tag & 7
        if wire == _VARINT:
            value: int | bytes
            value, at = _varint.read(message, at)
        elif wire == _BYTES or wire in _FIXED:
            length, at = _varint.read(message, at) if wire == _BYTES else (_FIXED[wire], at)
            if length > end - at:
                raise UnusableAnswer(f"{what}: found {length} bytes announced where {end - at} are left")
            value, at = message[at : at + length], at + length
        else:
            raise UnusableAnswer(f"{what}: found a field of type {wire}, which protobuf does not have any more")
        yield tag >> 3, wire, value
