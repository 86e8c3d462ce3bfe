"""DAG-CBOR, fast: the canonical form of the IPLD specification, byte for byte that of the library `dag-cbor`.

What is foreign is read with that library. Ours is here, since a receipt is written in the path of every call, and a
store that is opened reads a mark for each put.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from struct import error as struct_error
from struct import pack, unpack_from
from typing import Any


class Ref(bytes):
    """A binary CID that stands for the block it names: a link, and not bytes."""

    __slots__ = ()


def encode(value: Any) -> bytes:
    """Return the canonical DAG-CBOR of None, truths, numbers, text, bytes, links (`Ref`), lists and mappings of these.

    :raises TypeError: it holds anything else, or a key that is no text.
    :raises ValueError: it holds a number that DAG-CBOR has no place for: an infinite one, or an integer over 64 bits.
    """
    out: list[bytes] = []
    _write(value, out)
    return b"".join(out)


def _write(value: Any, out: list[bytes]) -> None:  # noqa: C901 - a case for each kind: calls would cost more
    kind = value.__class__
    if kind is str:
        out.append(_short(value) if len(value) < 32 else _text(value))
    elif kind is dict:
        out.append(_head(0xA0, len(value)))
        for name in sorted(value, key=_order):
            out.append(_short(name))
            _write(value[name], out)
    elif kind is int:
        out.append(_integer(value))
    elif value is None or value is True or value is False:
        out.append(b"\xf6" if value is None else b"\xf5" if value else b"\xf4")
    elif kind is list or kind is tuple:
        out.append(_head(0x80, len(value)))
        for one in value:
            _write(one, out)
    elif kind is Ref:
        out += (b"\xd8\x2a", _head(0x40, len(value) + 1), b"\x00", value)
    elif kind is bytes:
        out += (_head(0x40, len(value)), value)
    elif kind is float:
        if not isfinite(value):
            raise ValueError(f"DAG-CBOR has no number {value}")
        out.append(b"\xfb" + pack(">d", value))
    else:
        raise TypeError(f"DAG-CBOR has no place for {kind.__name__}")


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


def _integer(number: int) -> bytes:
    if not -(1 << 64) <= number < 1 << 64:
        raise ValueError(f"DAG-CBOR has no integer {number}: it takes 64 bits")
    return _head(0x00, number) if number >= 0 else _head(0x20, -1 - number)


def _head(kind: int, count: int) -> bytes:
    """Return the first bytes of an item: its kind, and its size or value in as few bytes as can be."""
    if count < 24:
        return bytes((kind | count,))
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
        if end == len(data) and encode(value) == data:
            return value
    except (LookupError, TypeError, RecursionError, UnicodeDecodeError, struct_error) as error:
        raise ValueError(f"no DAG-CBOR: {error!r:.100}") from error
    raise ValueError("no DAG-CBOR in its canonical form")


def _read(data: bytes, at: int) -> tuple[Any, int]:
    """Return the item at a place, and where it ends."""
    first = data[at]
    kind, number, at = first & 0xE0, first & 0x1F, at + 1
    if kind == 0xE0:
        if number == 27:
            return unpack_from(">d", data, at)[0], at + 8
        return {20: False, 21: True, 22: None}[number], at
    if number > 23:
        size = 1 << number - 24
        number, at = int.from_bytes(data[at : at + size], "big"), at + size
    if kind == 0x00:
        return number, at
    if kind == 0x20:
        return -1 - number, at
    if kind == 0x40:
        return data[at : at + number], at + number
    if kind == 0x60:
        return data[at : at + number].decode(), at + number
    if kind == 0xC0:
        inner, at = _read(data, at)
        return Ref(inner[1:]), at
    items = list[Any]()
    for _ in range(number if kind == 0x80 else 2 * number):
        item, at = _read(data, at)
        items.append(item)
    return (items if kind == 0x80 else dict(zip(items[::2], items[1::2], strict=True))), at
