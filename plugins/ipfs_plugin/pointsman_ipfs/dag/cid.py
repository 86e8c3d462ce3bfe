"""Content identifiers: binary inside, text outside.

    cid = raw_cid(b"hello world")             # 36 bytes: version, codec, hash function, length, digest
    to_text(cid)                              # 'bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e'
    parse("ipfs://bafkrei...") == cid         # what comes from outside, checked, in the one form that we keep

Ours are of version 0 (dag-pb only) or 1, of the codecs raw, dag-pb and dag-cbor, with a whole sha2-256:
nothing else is taken from outside, so that each of them names its bytes for certain, has one spelling, and
may be the name of a file. Blocks of other programs may link to others; `take` reads those, too.

Source: https://github.com/multiformats/cid, and its tables of codecs and of hash functions
"""

from __future__ import annotations

from base64 import b32decode, b32encode
from hashlib import sha256

from pointsman import InvalidRequestError, UnusableAnswer

from . import _varint

RAW, DAG_PB, DAG_CBOR = 0x55, 0x70, 0x71

#: Longest text, in characters, and longest binary, in bytes, that is looked at: decoding a base takes quadratic time.
MOST = 128

_SHA256, _IDENTITY = 0x12, 0x00
_V0 = b"\x12\x20"
#: Bytes that `hashlib` hashes without letting the interpreter's lock go; and of a block that is not worth it.
_SLICE, _SMALL = 2047, 16384
_RAW, _PB, _CBOR = (bytes((1, codec, _SHA256, 32)) for codec in (RAW, DAG_PB, DAG_CBOR))
_CODECS = {_RAW: RAW, _PB: DAG_PB, _CBOR: DAG_CBOR}
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_DIGITS = bytes(ord(_BASE32[byte & 31]) for byte in range(256))
#: How groups of 5 bits get a byte each, all at once: of every 32, 16, … 1 of them the upper half is moved up. Of each
#: step: the bits of the lower halves, those of the upper ones, and how far.
_SPREAD = [
    (
        sum(half << 8 * at for at in range(0, 64, 2 * many)),
        sum(half << 8 * at + 5 * many for at in range(0, 64, 2 * many)),
        3 * many,
    )
    for many, half in ((1 << step, (1 << (5 << step)) - 1) for step in range(5, -1, -1))
]
_EXPECTED = "expected version 0 or 1, raw, dag-pb or dag-cbor, and sha2-256 with 32 bytes"


def _sha256(data: bytes) -> bytes:
    """Hash a block. A small one keeps the interpreter's lock: others would have taken it for longer than that takes."""
    if not _SLICE < len(data) <= _SMALL:
        return sha256(data).digest()
    hashing, view = sha256(data[:_SLICE]), memoryview(data)
    for start in range(_SLICE, len(data), _SLICE):
        hashing.update(view[start : start + _SLICE])
    return hashing.digest()


def raw_cid(data: bytes) -> bytes:
    """Return the identifier of a block of plain bytes."""
    return _RAW + _sha256(data)


def pb_cid(data: bytes, version: int = 1) -> bytes:
    """Return the identifier of a dag-pb block, in version 0 or 1."""
    return (_PB if version else _V0) + _sha256(data)


def cbor_cid(data: bytes) -> bytes:
    """Return the identifier of a dag-cbor block."""
    return _CBOR + _sha256(data)


def is_ours(cid: bytes) -> bool:
    """Whether it is one of those that we keep: see the top of this file."""
    return (len(cid) == 36 and cid[:4] in _CODECS) or (len(cid) == 34 and cid[:2] == _V0)


def codec_of(cid: bytes) -> int:
    """Return the codec of its block: how that is to be read."""
    if len(cid) == 36 and (codec := _CODECS.get(cid[:4])):
        return codec
    return _facts(cid)[1]


def digest_of(cid: bytes) -> bytes:
    """Return the digest of its block."""
    return cid[-32:] if is_ours(cid) else _facts(cid)[3]


def inline_of(cid: bytes) -> bytes | None:
    """Return the block that an identity CID holds in itself; `None` for every other, which only names its block."""
    if is_ours(cid):
        return None
    _, _, function, digest = _facts(cid)
    return digest if function == _IDENTITY else None


def matches(cid: bytes, data: bytes) -> bool:
    """Whether these are the bytes that a CID of ours, or an identity CID, stands for."""
    return cid[-32:] == sha256(data).digest() if is_ours(cid) else digest_of(cid) == data


def take(data: bytes, at: int = 0) -> tuple[bytes, int]:
    """Return the CID that begins at `at` within a block or a CAR, and where it ends. It may be another than ours.

    :raises UnusableAnswer: there is none.
    """
    prefix = data[at : at + 4]
    if prefix in _CODECS:
        end = at + 36
    elif prefix[:2] == _V0:
        end = at + 34
    else:
        end = _end(data, at)
    if end > len(data):
        raise UnusableAnswer(f"byte {at}: found a CID of {end - at} bytes where {len(data) - at} are left")
    return data[at:end], end


def to_text(cid: bytes) -> str:
    """Return the one spelling that we use: base58 for version 0, base32 in small letters for version 1."""
    if len(cid) == 36:  # nearly all: in the path of a call that is recorded
        number = int.from_bytes(cid, "big") << 2
        for lower, upper, up in _SPREAD:
            number = number & lower | (number & upper) << up
        return "b" + number.to_bytes(58, "big").translate(_DIGITS).decode()
    if cid[:2] != _V0:
        return "b" + b32encode(cid).decode().lower().rstrip("=")
    number, out = int.from_bytes(cid, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        out = _BASE58[digit] + out
    return out


def parse(text: str) -> bytes:
    """Return the CID that somebody wrote, in any base, perhaps after `ipfs://` or `/ipfs/`.

    :raises InvalidRequestError: it is none, or none of ours; the message says what was found.
    """
    written = _bare(text)
    if len(written) > MOST:
        raise InvalidRequestError(f"CID: found {len(written)} characters, expected at most {MOST}")
    if (cid := canonical(written)) is not None:
        return cid
    from multiformats import CID

    try:
        cid = bytes(CID.decode(written))
    except Exception as error:  # of many classes, IndexError and KeyError among them
        found = "a path" if "/" in written else f"none ({error})"
        raise InvalidRequestError(
            f"{text!r:.160}: found {found}, expected a CID: bafkrei..., bafybei..., Qm..."
        ) from error
    return parse_bytes(cid)


def parse_bytes(cid: bytes) -> bytes:
    """Return a binary CID from outside as it is, once it is known to be one of ours.

    :raises InvalidRequestError: it is none, or none of ours; the message says what was found.
    """
    if is_ours(cid):
        return cid
    try:
        found = _told(*_facts(cid))
    except UnusableAnswer as error:
        raise InvalidRequestError(f"CID: found {len(cid)} bytes that are none, {_EXPECTED}") from error
    raise InvalidRequestError(f"{to_text(cid):.160}: found {found}, {_EXPECTED}")


def version_1(cid: bytes) -> bytes:
    """Return the CID of version 1 that names the same block in the same way."""
    return _PB[:2] + cid if cid.startswith(_V0) else cid


def split(path: str) -> tuple[bytes, list[str]]:
    """Return the CID and the names of `CID/a/b`, perhaps after `ipfs://` or `/ipfs/`; empty names are left out.

    :raises InvalidRequestError: as `parse` does.
    """
    first, _, rest = _bare(path).partition("/")
    if not first and rest:
        raise InvalidRequestError(
            f"{path!r:.160}: found no CID, expected CID or CID/a/b: bafkrei..., bafybei..., Qm..."
        )
    return parse(first), [name for name in rest.split("/") if name]


def _bare(text: object) -> str:
    if not isinstance(text, str):
        raise InvalidRequestError(f"CID: found {type(text).__name__}, expected text: bafkrei..., bafybei..., Qm...")
    bare = text.removeprefix("ipfs://").removeprefix("/ipfs/")
    if bare.lower().startswith(("http://", "https://")):
        raise InvalidRequestError(
            f"{text!r:.160}: found a URL, expected the CID in it, perhaps after ipfs:// or /ipfs/"
        )
    return bare


def refusal(cid: bytes) -> UnusableAnswer:
    """Return the error that says why the block of a link cannot be read: its CID is none of ours."""
    return UnusableAnswer(f"{to_text(cid):.160}: a link with {_told(*_facts(cid))}, {_EXPECTED}")


def canonical(text: str) -> bytes | None:
    """Return the CID of a text in the spelling that we use, without the library, whose import takes 50 ms."""
    cid = b""
    if len(text) == 59 and text.startswith("baf"):
        try:
            cid = b32decode(text[1:].upper() + "======")
        except ValueError:
            return None
    elif len(text) == 46 and text.startswith("Qm") and set(text) <= set(_BASE58):
        number = 0
        for letter in text:
            number = number * 58 + _BASE58.index(letter)
        cid = number.to_bytes(35, "big")[1:]
    return cid if is_ours(cid) and to_text(cid) == text else None


def _facts(cid: bytes) -> tuple[int, int, int, bytes]:
    """Return version, codec, hash function and digest."""
    if is_ours(cid):
        return (1, _CODECS[cid[:4]], _SHA256, cid[4:]) if len(cid) == 36 else (0, DAG_PB, _SHA256, cid[2:])
    if _end(cid, 0) != len(cid):
        raise UnusableAnswer(f"CID: found {len(cid)} bytes, expected {_end(cid, 0)}")
    codec, at = _varint.read(cid, 1)
    function, at = _varint.read(cid, at)
    return 1, codec, function, cid[_varint.read(cid, at)[1] :]


def _end(data: bytes, at: int) -> int:
    """Return where the CID of version 1 that begins at `at` ends."""
    if data[at : at + 1] != b"\x01":
        raise UnusableAnswer(
            f"byte {at}: found {data[at : at + 4].hex() or 'nothing'}, expected a CID of version 0 or 1"
        )
    place = at + 1
    for _ in "codec", "hash function":
        _, place = _varint.read(data, place)
    length, place = _varint.read(data, place)
    if length > MOST:
        raise UnusableAnswer(f"byte {at}: found a CID with a digest of {length} bytes, expected at most {MOST}")
    return place + length


def _told(version: int, codec: int, function: int, digest: bytes) -> str:
    return f"version {version}, codec 0x{codec:x}, hash function 0x{function:x} with {len(digest)} bytes"
