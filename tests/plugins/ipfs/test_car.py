"""CARs: written as others write them, read block by block, with nothing believed."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dag_cbor
import pytest
from attrs import evolve
from multiformats import CID
from pointsman import InvalidRequestError, UnusableAnswer
from pointsman_ipfs.dag import _varint, car, reader
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.unixfs import UNIXFS_V1_2025, add_file

PLACEHOLDER = b"\x01\x55\x00\x00"
ROOT = cids.pb_cid(b"")


def by_library(roots: list[bytes]) -> bytes:
    body = dag_cbor.encode({"roots": [CID.decode(root) for root in roots], "version": 1})
    return _varint.written(len(body)) + body


def headed(value: Any) -> bytes:
    body = dag_cbor.encode(value)
    return _varint.written(len(body)) + body


@pytest.fixture
def dag(blocks: Any, noise: Any) -> bytes:
    return add_file(io.BytesIO(noise(3000, 1)).read, evolve(UNIXFS_V1_2025, chunk=100, width=5), blocks.put).cid


def whole(blocks: Any, root: bytes) -> bytes:
    return b"".join(car.write([root], reader.walk(blocks.fetch, root)))


def test_the_header_is_the_known_one() -> None:
    """For one root of 36 bytes the header has the bytes that other programs write."""
    expected = "3aa265726f6f747381d82a582500" + ROOT.hex() + "6776657273696f6e01"
    assert car.header([ROOT]).hex() == expected


@pytest.mark.parametrize("count", [1, 2, 23, 24, 255, 256, 1500])
def test_the_header_is_dag_cbor(count: int) -> None:
    """Of any number of roots, of both versions, the header is what the library makes, and is read again."""
    roots = [cids.pb_cid(b"%d" % number, number % 2) for number in range(count - 1)] + [PLACEHOLDER]
    assert car.header(roots) == by_library(roots)
    assert car.Reader([car.header(roots)]).roots == roots


def test_a_car_needs_a_root() -> None:
    """Without a root nobody knows what the blocks are for."""
    with pytest.raises(InvalidRequestError, match="no root"):
        car.header([])


@pytest.mark.parametrize("size", [1, 2, 7, 99, 100, 101, 4096, 1 << 20])
def test_a_car_is_read_as_it_was_written(blocks: Any, dag: bytes, size: int) -> None:
    """Blocks come out in their order, in whatever pieces the bytes arrive."""
    data = whole(blocks, dag)
    read = car.Reader(data[at : at + size] for at in range(0, len(data), size))
    assert read.roots == [dag]
    assert list(read) == list(reader.walk(blocks.fetch, dag))


def test_a_car_is_read_from_a_file(blocks: Any, dag: bytes, tmp_path: Path) -> None:
    """A binary file may be given as it is, and empty pieces mean nothing."""
    (tmp_path / "car").write_bytes(whole(blocks, dag))
    with (tmp_path / "car").open("rb") as file:
        assert dict(car.Reader(file)) == blocks
    assert dict(car.Reader([b"", whole(blocks, dag), b""])) == blocks


def test_a_car_is_read_piece_by_piece(noise: Any) -> None:
    """Who reads a block has waited for no byte beyond its piece; 200 MiB take little memory."""
    data = noise(1 << 20, 1)
    given: list[int] = []

    def pieces() -> Iterator[bytes]:
        yield car.header([cids.raw_cid(data)])
        for number in range(200):
            given.append(number)
            yield car.record(cids.raw_cid(data), data)

    read = car.Reader(pieces())
    assert next(read) == (cids.raw_cid(data), data)
    assert given == [0]
    tracemalloc.start()
    try:
        assert sum(1 for _ in read) == 199
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_changed_byte_is_found(blocks: Any, dag: bytes) -> None:
    """Wherever one byte is another, reading the whole ends with an error."""
    data = bytearray(whole(blocks, dag))
    for at in range(0, len(data), 13):
        data[at] ^= 1
        with pytest.raises(UnusableAnswer):
            read_all(bytes(data))
        data[at] ^= 1
    read_all(bytes(data))


def read_all(data: bytes) -> None:
    opened = car.Reader([data])
    for _ in car.complete(opened.roots, opened):
        pass


def test_a_cut_car_is_found_wherever_it_was_cut(blocks: Any, dag: bytes) -> None:
    """Within a block the reader says so; between two blocks only `complete` does."""
    data = whole(blocks, dag)
    for end in range(0, len(data), 7):
        with pytest.raises(UnusableAnswer):
            read_all(data[:end])
    last = len(car.record(*list(reader.walk(blocks.fetch, dag))[-1]))
    assert len(list(car.Reader([data[:-last]]))) == len(blocks) - 1
    with pytest.raises(UnusableAnswer, match="1 blocks are not there"):
        read_all(data[:-last])


def test_complete_names_what_is_absent(blocks: Any, dag: bytes) -> None:
    """The error names a block that is not there and says how many; order, repetition and more blocks do not matter."""
    found = list(reader.walk(blocks.fetch, dag))
    more = cids.raw_cid(b"more"), b"more"
    assert len(list(car.complete([dag], [*reversed(found), *found, more]))) == 2 * len(found) + 1
    with pytest.raises(UnusableAnswer, match=f"^a CAR: 1 blocks .*{cids.to_text(found[-1][0])}"):
        list(car.complete([dag], found[:-1]))
    with pytest.raises(UnusableAnswer, match=f"^a CAR: 1 blocks .*{cids.to_text(dag)}"):
        list(car.complete([dag], found[1:]))
    assert list(car.complete([PLACEHOLDER], [])) == []


def test_complete_gives_blocks_out_before_it_knows() -> None:
    """Each block is passed on at once: the error at the end is for who has not kept them for good yet."""
    passed = car.complete([ROOT], [(cids.raw_cid(b"x"), b"x")])
    assert next(passed) == (cids.raw_cid(b"x"), b"x")
    with pytest.raises(UnusableAnswer, match="1 blocks are not there"):
        next(passed)


def test_links_within_a_cid_count(blocks: Any) -> None:
    """A node that its CID holds needs no block, but what it links to does."""
    leaf = cids.raw_cid(b"x")
    value = dag_cbor.encode({"a": CID.decode(leaf)})
    inline = b"\x01\x71\x00" + bytes((len(value),)) + value
    with pytest.raises(UnusableAnswer, match=cids.to_text(leaf)):
        list(car.complete([inline], []))
    assert len(list(car.complete([inline], [(leaf, b"x")]))) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing at all"),
        (b"\x00", "a header of 0 bytes"),
        (b"\x80", "cut"),
        (b"\xff" * 20, "without an end"),
        (_varint.written((4 << 20) + 1) + bytes(70_000), "expected 1 to 4194304"),
        (b"\x05hello", "this is no CAR file"),
        (b"<!DOCTYPE html>", "this is no CAR file"),
        (b"garbage, and shorter than it says", "this is no CAR file"),
        (b"\x05\xa1\xff\xff\xff\xff", "no dag-cbor"),
        (_varint.written(50_000) + b"\xa1" + b"\x81" * 49_999, "no dag-cbor"),
        (bytes.fromhex("0aa16776657273696f6e02") + bytes(40), "found version 2.*`ipfs dag export ROOT`"),
        (headed({"version": 1}), "expected version 1 and roots"),
        (headed({"version": 2, "roots": []}), "expected version 1 and roots"),
        (headed({"version": 1, "roots": ["x"]}), "expected version 1 and roots"),
        (headed({"version": 1, "roots": [], "more": 1}), "expected version 1 and roots only"),
        (b"\xba\x00" + car.header([ROOT])[1:], "byte 0: found the length of a header in 2 bytes, expected fewer"),
        (car.header([ROOT]) + b"\xa5\x00" + ROOT + b"x", "byte 59: found the length of a block in 2 bytes"),
        (headed(["roots"]), "this is no CAR file"),
        (headed({"version": 1, "roots": [CID("base32", 1, "raw", ("sha2-512", bytes(64)))]}), "hash function 0x13"),
        (car.header([ROOT])[:-1], "it ends 1 bytes too early: it was cut"),
        (car.header([ROOT]) + b"\x00", "a block of 0 bytes"),
        (car.header([ROOT]) + b"\x80\x80", "cut"),
        (car.header([ROOT]) + b"\x05abc", "it ends 2 bytes too early"),
        (car.header([ROOT]) + b"\x03abc", "expected a CID"),
        (car.header([ROOT]) + _varint.written(3 << 20) + bytes(3 << 20), "expected 1 to"),
        (car.header([ROOT]) + car.record(ROOT, bytes((2 << 20) + 1)), "expected at most 2097152"),
        (car.header([ROOT]) + car.record(cids.raw_cid(b"x"), b"y"), "not those of its CID"),
        (car.header([ROOT]) + car.record(b"\x01\x55\x13\x20" + bytes(32), b"y"), "hash function 0x13"),
    ],
    ids=range(28),
)
def test_what_is_no_car_is_refused(data: bytes, message: str) -> None:
    """Each way to be none, too large, cut or of another version has its message; nothing large is read for it."""
    with pytest.raises(UnusableAnswer, match=message):
        read_all(data)


def test_a_block_within_its_cid_is_read(blocks: Any) -> None:
    """Other programs write identity blocks out: they are read, and verified against themselves."""
    inline = b"\x01\x55\x00\x02hi"
    assert list(car.Reader([car.header([inline]) + car.record(inline, b"hi")])) == [(inline, b"hi")]
    with pytest.raises(UnusableAnswer, match="not those of its CID"):
        list(car.Reader([car.header([inline]) + car.record(inline, b"ho")]))
