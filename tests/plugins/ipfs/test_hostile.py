"""Blocks that somebody made to do harm: an error, in bounded time and memory, never another exception."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pointsman import ContentNotFoundError, InvalidRequestError, UnusableAnswer
from pointsman_ipfs.dag import _varint, car, dagpb, reader
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.block import links_of
from pointsman_ipfs.dag.dagpb import PBLink
from pointsman_ipfs.dag.tree import extract
from pointsman_ipfs.dag.unixfs import UNIXFS_V1_2025, add_file, add_folder, add_symlink

SMALL = evolve(UNIXFS_V1_2025, chunk=40, width=4, raw_leaves=False, threshold=600, fanout=8)


class Absent(Exception):
    """A block is not there, as a store says it."""


class TooMany(Exception):
    """More blocks were asked for than any reading of so small a DAG may need."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four changes of the kinds that find mistakes in readers."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at, end = sorted((rng.randrange(len(out) + 1), rng.randrange(len(out) + 1)))
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[rng.randrange(len(out))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif kind == 2:
            del out[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            out[at:at] = out[at : at + rng.randrange(60)]
        elif kind == 5:
            out[at:at] = _varint.written(rng.choice([1 << 31, 1 << 63, (1 << 64) - 1, len(out)]))
        else:
            del out[end:]
    return bytes(out)


def invented(blocks: Any, originals: list[bytes], rng: random.Random) -> bytes:
    """Return a well-formed node whose parts do not belong together: changed bytes seldom become one."""
    nodes = [dagpb.decode(blocks[cid]) for cid in rng.choices(originals, k=3)]
    links = [one for node in nodes for one in node.links] or [link(originals[0])]
    links = [one._replace(name=rng.choice([one.name, b"", b"00", b"7", b"2name 1", b".."])) for one in links]
    links = [one._replace(cid=rng.choice([one.cid, rng.choice(originals)])) for one in links]
    links = rng.sample(links, rng.randrange(len(links) + 1))
    messages = [node.data or b"" for node in nodes]
    sizes = [rng.choice([0, 1, 30, 40, 160, 750]) for _ in range(rng.choice([len(links), 2]))]
    messages.append(dagpb.encode_file(sum(sizes), sizes))
    messages.append(dagpb.encode_shard(rng.randbytes(1), 0x22, rng.choice([8, 16])))
    return dagpb.encode(links, rng.choice(messages))


def put(blocks: Any, links: list[PBLink], message: bytes) -> bytes:
    block = dagpb.encode(links, message)
    blocks.put(cids.pb_cid(block), block)
    return cids.pb_cid(block)


def link(cid: bytes) -> PBLink:
    return PBLink(cid, b"", 0)


def read(blocks: Any, cid: bytes) -> bytes:
    return b"".join(reader.read_file(blocks.fetch, cid))


@pytest.fixture
def dag(blocks: Any) -> bytes:
    """A small DAG with everything in it."""
    file = add_file(io.BytesIO(bytes(range(250)) * 3).read, SMALL, blocks.put)
    mixed = [(b"file", file), (b"link", add_symlink(b"file", SMALL, blocks.put))]
    inner = add_folder(mixed, SMALL, blocks.put)
    many = add_folder([(b"name %d" % number, file) for number in range(60)], SMALL, blocks.put)
    return add_folder([(b"inner", inner), (b"many", many)], SMALL, blocks.put).cid


def harmless(use: Callable[[], object]) -> None:
    """Call it: it may succeed, or raise one of the errors that are meant."""
    with suppress(UnusableAnswer, InvalidRequestError, ContentNotFoundError, Absent):
        use()


class Altered:
    """Blocks with one that was changed, under the CID that it has by now."""

    def __init__(self, blocks: dict[bytes, bytes], data: bytes) -> None:
        self.cid, self.data, self.asked = cids.pb_cid(data), data, 0
        self._blocks = {**blocks, self.cid: data}

    def get(self, cid: bytes) -> bytes:
        self.asked += 1
        if self.asked > 3000:
            raise TooMany
        if cid not in self._blocks:
            raise Absent
        return self._blocks[cid]

    def uses(self, out: Path) -> list[Callable[[], object]]:
        """Return all that reads: the result of each is of no interest."""
        get, cid, data = self.get, self.cid, self.data
        return [
            lambda: dagpb.decode(data),
            lambda: dagpb.decode_data(data),
            lambda: links_of(cid, data),
            lambda: sum(map(len, reader.read_file(get, cid, 0, 5000))),
            lambda: list(reader.read_file(get, cid, 10**9, 1)),
            lambda: reader.size_of(get, cid),
            lambda: list(reader.entries(get, cid)),
            lambda: reader.resolve(get, cids.to_text(cid) + "/name 1"),
            lambda: list(reader.walk(get, cid)),
            lambda: extract(get, cid, out, most_bytes=100_000, most_entries=500),
        ]


@pytest.mark.parametrize("seed", range(8))
def test_a_mutated_node_is_an_error_at_most(blocks: Any, dag: bytes, tmp_path: Path, seed: int) -> None:
    """2,000 DAGs with changed or invented nodes, whose CIDs fit: all readers end, without any other exception."""
    rng, originals = random.Random(seed), list(blocks)
    for number in range(250):
        data = mutated(blocks[rng.choice(originals)], rng) if number % 2 else invented(blocks, originals, rng)
        altered = Altered(blocks, data)
        for use in altered.uses(tmp_path / str(number)):
            altered.asked = 0
            harmless(use)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_car_is_an_error_at_most(blocks: Any, dag: bytes, seed: int) -> None:
    """2,000 changed CARs end, without any other exception; what comes out of one is verified."""
    rng = random.Random(seed)
    whole = b"".join(car.write([dag], reader.walk(blocks.fetch, dag)))
    for _ in range(500):
        data = mutated(whole[: rng.choice([100, 500, len(whole)])], rng)

        def use(data: bytes = data) -> None:
            opened = car.Reader(data[at : at + 333] for at in range(0, len(data), 333))
            for cid, block in car.complete(opened.roots, opened):
                assert cids.matches(cid, block)

        harmless(use)


@pytest.mark.parametrize("seed", range(2))
def test_mutated_dag_cbor_is_an_error_at_most(seed: int) -> None:
    """2,000 changed dag-cbor blocks have links, or are an error."""
    rng = random.Random(seed)
    block = car.header([cids.raw_cid(b"x"), cids.pb_cid(b"x", 0)])[1:]
    assert links_of(cids.cbor_cid(block), block) == [cids.raw_cid(b"x"), cids.pb_cid(b"x", 0)]
    for _ in range(1000):
        data = mutated(block, rng)
        harmless(lambda data=data: links_of(cids.cbor_cid(data), data))


def test_random_texts_are_no_cids() -> None:
    """5,000 texts that look a little like CIDs give one of ours, or the one error."""
    rng = random.Random("texts")
    letters = "abcdefghijklmnopqrstuvwxyz234567QmZzBFfk0189+/=-_ \0\u00e4\u8a3c\U0001f680"
    good = cids.to_text(cids.raw_cid(b"x"))
    for _ in range(5000):
        text = "".join(rng.choices(letters, k=rng.randrange(70)))
        if rng.random() < 0.7:
            cut = rng.randrange(len(good))
            text = good[:cut] + text[: rng.randrange(3)] + good[cut + rng.randrange(3) :]
        with suppress(InvalidRequestError):
            assert cids.is_ours(cids.parse(text))


def test_deeply_nested_dag_cbor_is_an_error() -> None:
    """Lists within lists, deeper than a recursion may go, and lengths beyond all bounds, are no crash."""
    for data in b"\x81" * 200_000, b"\x9b" + b"\xff" * 8, b"\x5b\x7f" + b"\xff" * 7, bytes(3 << 20):
        with pytest.raises(UnusableAnswer):
            links_of(cids.cbor_cid(data), data)


@pytest.mark.parametrize(
    "message",
    [
        dagpb.encode_file(11, [5, 5]),
        dagpb.encode_file(9, [5, 4]),
        dagpb.encode_file(11, [5, 6]),
        dagpb.encode_file(10, [10]),
        dagpb.encode_file(15, [5, 5, 5]),
        dagpb.encode_file(10, []),
        dagpb.encode_file((1 << 63) + 4, [5, (1 << 63) - 1]),
        dagpb.encode_file((1 << 64) - 1, [(1 << 63), (1 << 63) - 1]),
        b"\x08\x02\x20\x05\x20\x06",
    ],
    ids=range(9),
)
def test_sizes_that_lie_are_an_error(blocks: Any, message: bytes) -> None:
    """The size of a file, those of its pieces and the pieces themselves must agree."""
    five, also = (cids.raw_cid(data) for data in (b"12345", b"abcde"))
    blocks.put(five, b"12345")
    blocks.put(also, b"abcde")
    assert read(blocks, put(blocks, [link(five), link(also)], dagpb.encode_file(10, [5, 5]))) == b"12345abcde"
    with pytest.raises(UnusableAnswer):
        read(blocks, put(blocks, [link(five), link(also)], message))


def test_a_lie_below_is_found_when_it_is_read(blocks: Any) -> None:
    """A node that is shorter than its parent says is an error, not a file with a hole."""
    inner = put(blocks, [], dagpb.encode_file(3, data=b"abc"))
    root = put(blocks, [link(inner)], dagpb.encode_file(4, [4]))
    with pytest.raises(UnusableAnswer, match="3 bytes of a file where 4 are announced"):
        read(blocks, root)


def test_a_folder_within_a_file_is_an_error(blocks: Any) -> None:
    """A piece of a file is a piece of a file."""
    for inner in put(blocks, [], dagpb.FOLDER), put(blocks, [], dagpb.encode_symlink(b"/")):
        with pytest.raises(UnusableAnswer, match="expected a piece of a file"):
            read(blocks, put(blocks, [link(inner)], dagpb.encode_file(4, [4])))


def test_a_file_too_deep_is_an_error(blocks: Any) -> None:
    """A chain of nodes above one byte is read as deep as a file could be, and no deeper."""
    cid = put(blocks, [], dagpb.encode_file(1, data=b"x"))
    for _ in range(64):
        cid = put(blocks, [link(cid)], dagpb.encode_file(1, [1]))
    assert read(blocks, cid) == b"x"
    with pytest.raises(UnusableAnswer, match="more than 64 levels"):
        read(blocks, put(blocks, [link(cid)], dagpb.encode_file(1, [1])))


def test_links_without_bytes_are_an_error(blocks: Any) -> None:
    """Forty thousand links to nothing, one below another, would be read for ever and give out nothing."""
    cid = put(blocks, [], dagpb.encode_file(0))
    with pytest.raises(UnusableAnswer, match="40000 links for 0 bytes"):
        read(blocks, put(blocks, [link(cid)] * 40_000, dagpb.encode_file(0, [0] * 40_000)))
    assert read(blocks, put(blocks, [link(cid)], dagpb.encode_file(0, [0]))) == b""


def test_one_block_a_million_times_costs_what_is_read_of_it(blocks: Any) -> None:
    """A terabyte made of three blocks is no work until it is read, and then only for the part that is."""
    piece = bytes(1 << 20)
    cid, size = cids.raw_cid(piece), 1 << 20
    blocks.put(cid, piece)
    for _ in range(2):
        cid, size = put(blocks, [link(cid)] * 1024, dagpb.encode_file(size * 1024, [size] * 1024)), size * 1024
    tracemalloc.start()
    try:
        blocks.asked = []
        assert reader.size_of(blocks.fetch, cid) == 1 << 40
        assert b"".join(reader.read_file(blocks.fetch, cid, (1 << 40) - 5)) == bytes(5)
        assert len(blocks.asked) == 4
        assert len(list(reader.walk(blocks.fetch, cid))) == 3
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


def test_folders_within_folders_without_end_are_walked_once(blocks: Any) -> None:
    """A hundred folders, each with two links to the next, are a hundred blocks for every function but `extract`."""
    cid = add_file(io.BytesIO(b"x").read, SMALL, blocks.put).cid
    for _ in range(100):
        cid = put(blocks, [PBLink(cid, b"a", 0), PBLink(cid, b"b", 0)], dagpb.FOLDER)
    assert len(list(reader.walk(blocks.fetch, cid))) == 101
    assert reader.size_of(blocks.fetch, cid) == 1 << 100
    assert len(blocks.asked) < 500


def test_a_chain_of_any_length_is_walked(blocks: Any) -> None:
    """Twenty thousand nodes one below another are no recursion."""
    cid = put(blocks, [], dagpb.FOLDER)
    for _ in range(20_000):
        cid = put(blocks, [PBLink(cid, b"a", 0)], dagpb.FOLDER)
    assert len(list(reader.reachable(blocks.fetch, cid))) == 20_001
    assert reader.size_of(blocks.fetch, cid) == 0


def test_a_full_block_takes_memory_in_proportion() -> None:
    """Two mebibytes of links or of sizes become no more than ten times that."""
    links = dagpb.encode([PBLink(cids.raw_cid(b"%d" % number), b"", 0) for number in range(46_000)], b"")
    sizes = dagpb.encode([], dagpb.encode_file(65_536 * 5, [5] * 65_536))
    assert 1_900_000 < len(links) < 2 << 20
    for block in links, sizes:
        tracemalloc.start()
        try:
            node = dagpb.decode(block)
            dagpb.decode_data(node.data or b"\x08\x01")
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()
