"""DAG-CBOR, fast: the canonical form of the IPLD specification, byte for byte that of the library `dag-cbor`.

What is foreign, and not canonical, is read with that library. Ours is here, since a receipt is written in the path of
every call, and a store that is opened reads a mark for each put.

Source: https://ipld.io/specs/codecs/dag-cbor/spec/
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isfinite
from struct import error as struct_error
from struct import pack, unpack_from
from typing import Any

_BYTES = [bytes((number,)) for number in range(256)]
#: Names of a mapping up to which their order is remembered: those of a record, and not of somebody's data.
_FEW = 32
#: What stands before a CID of version 1.
_REF = b"\xd8\x2a\x58\x25\x00"
_NO = "no DAG-CBOR in its canonical form"


class Ref(bytes):
    """A binary CID that stands for the block it names: a link, and not bytes."""

    __slots__ = ()


class Encoded(bytes):
    """What `encode` has returned, to stand as it is within something larger."""

    __slots__ = ()


def encode(value: Any) -> bytes:
    """Return the canonical DAG-CBOR of None, truths, numbers, text, bytes, links (`Ref`), lists and mappings of these.

    :raises TypeError: it holds anything else, or a key that is no text.
    :raises ValueError: it holds what DAG-CBOR has no place for, an infinite number or half a surrogate pair; or an
        integer that not every reader takes: `is_integer`.
    """
    out: list[bytes] = []
    _write(value, out)
    return b"".join(out)


def _write(value: Any, out: list[bytes]) -> None:  # noqa: C901 - a case for each kind: calls would cost more
    kind = value.__class__
    if kind is str:
        out.append(_short(value) if len(value) < 24 else _text(value))
    elif kind is dict:
        head, names = _shape(tuple(value)) if len(value) <= _FEW else _ordered(tuple(value))
        out.append(head)
        for name, written in names:
            out.append(written)
            one = value[name]
            kind = one.__class__  # what most values are stands here, too: a call costs more
            if kind is str:
                out.append(_short(one) if len(one) < 24 else _text(one))
            elif kind is int:
                out.append(_BYTES[one] if 0 <= one < 24 else _integer(one))
            else:
                _write(one, out)
    elif kind is int:
        out.append(_BYTES[value] if 0 <= value < 24 else _integer(value))
    elif value is None or value is True or value is False:
        out.append(b"\xf6" if value is None else b"\xf5" if value else b"\xf4")
    elif kind is list or kind is tuple:
        out.append(_head(0x80, len(value)))
        for one in value:
            _write(one, out)
    elif kind is Ref:
        out += (_REF if len(value) == 36 else b"\xd8\x2a" + _head(0x40, len(value) + 1) + b"\x00", value)
    elif kind is bytes:
        out += (_head(0x40, len(value)), value)
    elif kind is float:
        if not isfinite(value):
            raise ValueError(f"DAG-CBOR has no number {value}")
        out.append(b"\xfb" + pack(">d", value))
    elif kind is Encoded:
        out.append(value)
    else:
        raise TypeError(f"DAG-CBOR has no place for {kind.__name__}")


def _ordered(names: tuple[Any, ...]) -> tuple[bytes, Sequence[tuple[str, bytes]]]:
    """Return how a mapping with these names begins, and each name, written too, in the canonical order."""
    return _head(0xA0, len(names)), [(name, _short(name)) for name in sorted(names, key=_order)]


_shape = lru_cache(1024)(_ordered)


@lru_cache(4096)
def _order(name: str) -> tuple[int, bytes]:
    """The canonical order of keys: the shorter one first, then by bytes."""
    if name.__class__ is not str:
        raise TypeError(f"DAG-CBOR has no key of {name.__class__.__name__}: found {name!r:.60}, expected text")
    raw = name.encode()
    return len(raw), raw


@lru_cache(4096)
def _short(text: str) -> bytes:
    return _text(text)


def _text(text: str) -> bytes:
    raw = text.encode()
    return _head(0x60, len(raw)) + raw


def is_integer(number: int) -> bool:
    """Whether every reader takes this integer: it has 64 bits with its sign.

    DAG-CBOR has twice as many. Of the others, Kubo shows none of those above; blocks with those below it refuses, or
    reads another number there.
    """
    return -(1 << 63) <= number < 1 << 63


def _integer(number: int) -> bytes:
    if not is_integer(number):
        raise ValueError(f"no reader of DAG-CBOR need take the integer {number}: expected 64 bits with its sign")
    return _head(0x00, number) if number >= 0 else _head(0x20, -1 - number)


def _head(kind: int, count: int) -> bytes:
    """Return the first bytes of an item: its kind, and its size or value in as few bytes as can be."""
    if count < 24:
        return _BYTES[kind | count]
    if count < 0x100:
        return bytes((kind | 24, count))
    if count < 0x1_0000:
        return pack(">BH", kind | 25, count)
    if count < 0x1_0000_0000:
        return pack(">BI", kind | 26, count)
    return pack(">BQ", kind | 27, count)


def decode(data: bytes) -> Any:
    """Return what `encode` has written: links as `Ref`, lists as lists.

    :raises ValueError: it is anything else, such as DAG-CBOR that is not canonical.
    """
    try:
        value, end = _read(data, 0)
    except (LookupError, TypeError, RecursionError, UnicodeDecodeError, struct_error) as error:
        raise ValueError(f"no DAG-CBOR: {type(error).__name__}") from error  # its text may have what was read
    if end != len(data):
        raise ValueError(_NO)
    return value


def read(data: bytes) -> Any:
    """Return what DAG-CBOR of other programs holds, canonical or not: links as `Ref`, lists as lists.

    :raises ValueError: it is none.
    """
    try:
        return decode(data)
    except ValueError:
        pass
    import dag_cbor
    from multiformats import CID

    def ours(value: Any) -> Any:
        if isinstance(value, CID):
            return Ref(bytes(value))
        if isinstance(value, dict):
            return {name: ours(one) for name, one in value.items()}
        return [ours(one) for one in value] if isinstance(value, list) else value

    try:
        return ours(dag_cbor.decode(data))
    except (Exception, RecursionError) as error:  # of many classes: the library promises none
        raise ValueError(f"no dag-cbor: {type(error).__name__}") from error


def links_in(value: Any) -> list[bytes]:
    """Return the CIDs that something links to that was read, in its order, as often as it does."""
    found, waiting = list[bytes](), [value]
    while waiting:
        value = waiting.pop()
        kind = value.__class__
        if kind is Ref:
            found.append(bytes(value))
        elif kind is dict:
            waiting += reversed(value.values())
        elif kind is list:
            waiting += reversed(value)
    return found


def _read(data: bytes, at: int) -> tuple[Any, int]:
    """Return the item at a place, and where it ends."""
    first = data[at]
    kind, number, at = first >> 5, first & 0x1F, at + 1
    if kind == 7:
        return _simple(data, number, at)
    if number > 23:
        number, at = _number(data, number, at)
    if kind == 5:
        return _mapping(data, number, at)
    if kind == 4:
        return _list(data, number, at)
    end = at + number
    if kind == 3 and end <= len(data):
        return data[at:end].decode(), end
    if kind == 2 and end <= len(data):
        return data[at:end], end
    if kind < 2:
        return (number if kind == 0 else -1 - number), at
    if first != 0xD8 or number != 42:
        raise ValueError(_NO)
    inner, end = _read(data, at)
    if inner.__class__ is not bytes or len(inner) < 2 or inner[0]:
        raise ValueError(_NO)
    return Ref(inner[1:]), end


def _number(data: bytes, size: int, at: int) -> tuple[int, int]:
    """Return what stands behind a first byte that says in how many bytes."""
    end = at + (1 << size - 24)
    number = int.from_bytes(data[at:end], "big")
    if size > 27 or end > len(data) or number < (24 if size == 24 else 1 << 4 * (end - at)):
        raise ValueError(_NO)  # fewer bytes would do
    return number, end


def _simple(data: bytes, number: int, at: int) -> tuple[Any, int]:
    if number != 27:
        return {20: False, 21: True, 22: None}[number], at
    (real,) = unpack_from(">d", data, at)
    if not isfinite(real):
        raise ValueError(_NO)
    return real, at + 8


def _list(data: bytes, count: int, at: int) -> tuple[Any, int]:
    items = list[Any]()
    for _ in range(count):
        item, at = _read(data, at)
        items.append(item)
    return items, at


def _mapping(data: bytes, count: int, at: int) -> tuple[Any, int]:
    """The order of names is that of their bytes, heads included: those say how long they are."""
    items, before = dict[str, Any](), b""
    for _ in range(count):
        first = data[at]
        if 0x60 <= first < 0x78:
            end = at + first - 0x5F
            written = data[at:end]
            name = _name(written)
        else:
            name, end = _read(data, at)
            written = data[at:end]
            if name.__class__ is not str:
                raise ValueError(_NO)
        if written <= before:
            raise ValueError(_NO)
        before, first = written, data[end]
        if 0x60 <= first < 0x78:  # what most values are
            at = end + first - 0x5F
            items[name] = data[end + 1 : at].decode()
        else:
            items[name], at = _read(data, end)
    return items, at


@lru_cache(4096)
def _name(written: bytes) -> str:
    return written[1:].decode()
