"""DAG-CBOR as we write and read it, beside the library `dag-cbor`."""

from __future__ import annotations

import random
from typing import Any

import dag_cbor
import pytest
from multiformats import CID
from pointsman import UnusableAnswer
from pointsman_ipfs.dag import cbor
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.block import kept, links_of, made

LINK = cids.raw_cid(b"hello")


def anything(rng: random.Random, depth: int = 0) -> Any:
    """Some value that DAG-CBOR has a place for."""
    kind = rng.randrange(6 if depth > 3 else 9)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1, -1, -24, -25, -(2**63)])
    if kind == 2:
        return rng.choice([0.0, -0.0, 1.5, 1e300, -1e-300])
    if kind == 3:
        return "".join(rng.choices("ab\u00e4\U0001f680", k=rng.choice([0, 3, 11, 12, 23, 24, 31, 32, 300])))
    if kind == 4:
        return rng.randbytes(rng.choice([0, 23, 24, 256]))
    if kind == 5:
        return cbor.Ref(LINK)
    if kind == 6:
        return [anything(rng, depth + 1) for _ in range(rng.choice([0, 3, 30]) if depth < 2 else 2)]
    names = {"".join(rng.choices("abc", k=rng.choice([0, 1, 2, 2, 23, 24]))) for _ in range(rng.choice([0, 4, 40]))}
    return {name: anything(rng, depth + 2) for name in names}


def of_library(value: Any) -> Any:
    """The same value as the library has it."""
    if isinstance(value, cbor.Ref):
        return CID.decode(bytes(value))
    if isinstance(value, dict):
        return {name: of_library(one) for name, one in value.items()}
    return [of_library(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(4))
def test_it_writes_what_the_library_writes_and_reads_it_back(seed: int) -> None:
    """100 values of every kind: the same bytes, and the same values again."""
    rng = random.Random(seed)
    for _ in range(25):
        value = anything(rng)
        data = cbor.encode(value)
        assert data == dag_cbor.encode(of_library(value))
        assert cbor.decode(data) == cbor.read(data) == value
        assert cbor.encode([cbor.Encoded(data)]) == cbor.encode([value])


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_read_that_is_not_canonical(seed: int) -> None:
    """Of 8,000 changed blocks, each is refused, or is exactly what its value is written as."""
    rng = random.Random(seed)
    for _ in range(2000):
        data = bytearray(cbor.encode(anything(rng)))
        for _ in range(rng.choice([1, 1, 2])):
            at = rng.randrange(len(data))
            data[at : at + 1] = rng.choice(
                [bytes([rng.randrange(256)]), b"", bytes([data[at] ^ 1 << rng.randrange(8)])]
            )
            data = data or bytearray(b"\xf6")
        try:
            written = cbor.encode(cbor.decode(bytes(data)))
        except ValueError:  # or it has an integer that is read, and not written
            continue
        assert written == data


@pytest.mark.parametrize(
    "data",
    [b"", b"\x18\x17", b"\xa2aba\xf6aa\xf6", b"\xa2aa\xf6aa\xf6", b"\xa1\x01\xf6", b"\xf9\x00\x00", b"\xd8\x2aA\x01",
     b"\xd9\x00\x2aB\x00\x01", b"\xd8\x2bB\x00\x01", b"\x5f\xff", b"\xf7", b"aab", b"\x61\xff", b"\x81" * 100_000,
     b"\x9b" + b"\xff" * 8, b"\xfb\x7f\xf8" + bytes(6), b"\x5b\x7f" + b"\xff" * 7],
)  # fmt: skip
def test_what_is_none_is_refused(data: bytes) -> None:
    """Too long a head, a wrong order, a name twice, other tags, half an item, NaN, and what has no end."""
    with pytest.raises(ValueError, match="DAG-CBOR"):
        cbor.decode(data)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {2}}, float("nan"), 1 << 63, -(1 << 63) - 1, "\ud83d"])
def test_what_it_has_no_place_for_is_refused(value: Any) -> None:
    """It is an error, and never other bytes."""
    with pytest.raises((TypeError, ValueError)):
        cbor.encode(value)


def test_a_link_that_is_no_cid_is_refused() -> None:
    """The tag of a link is no CID yet."""
    data = cbor.encode({"a": cbor.Ref(b"nothing")})
    with pytest.raises(UnusableAnswer):
        links_of(cids.cbor_cid(data), data)


def test_what_was_made_here_need_not_be_read_again() -> None:
    """Its links are known until it is kept; then they are read."""
    data = cbor.encode({"a": cbor.Ref(LINK)})
    cid = cids.cbor_cid(data)
    made(cid, (LINK, LINK))
    assert links_of(cid, data) == [LINK, LINK]
    kept([cid, cid])
    assert links_of(cid, data) == [LINK]
