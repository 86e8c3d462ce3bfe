"""Numbers as protobuf, CIDs and CARs write them: seven bits a byte, the lowest first.

Source: https://protobuf.dev/programming-guides/encoding/#varints and https://github.com/multiformats/unsigned-varint
"""

from __future__ import annotations

from pointsman import UnusableAnswer

#: Bytes of the longest number: 64 bits.
_LONGEST = 10


def written(value: int) -> bytes:
    """Return a number, 0 or more, in its shortest form."""
    if value < 0x4000:  # nearly all
        return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def size(value: int) -> int:
    """Return how many bytes `written` makes of a number."""
    return max(1, (value.bit_length() + 6) // 7)


def read(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends.

    :raises UnusableAnswer: the data end before it does, or it has more than 64 bits.
    """
    value = shift = 0
    for end, byte in enumerate(data[at : at + _LONGEST], at + 1):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, end
        shift += 7
    raise UnusableAnswer(f"byte {at}: found a number without an end, expected one of at most 64 bits")
