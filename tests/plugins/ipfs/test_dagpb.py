"""dag-pb nodes and UnixFS messages: written as Kubo writes them, and read without trust."""

from __future__ import annotations

import random

import pytest
from pointsman import UnusableAnswer
from pointsman_ipfs.dag import dagpb
from pointsman_ipfs.dag.cid import pb_cid, raw_cid
from pointsman_ipfs.dag.dagpb import Data, Kind, PBLink, PBNode

CID = raw_cid(b"x")


def numbers(rng: random.Random) -> int:
    return rng.randrange(1 << rng.choice([1, 7, 8, 14, 21, 32, 50, 63]))


def test_a_node_comes_back_as_it_was_written() -> None:
    """Any links and data are read again; a link takes the bytes that `link_size` says; links stand before the data."""
    rng = random.Random("nodes")
    for _ in range(300):
        links = [
            PBLink(rng.choice([CID, pb_cid(b"y", 0)]), rng.randbytes(rng.choice([0, 1, 127, 128, 300])), numbers(rng))
            for _ in range(rng.choice([0, 1, 2, 50]))
        ]
        data = rng.randbytes(rng.choice([0, 1, 127, 128, 20_000]))
        block = dagpb.encode(links, data)
        assert dagpb.decode(block) == PBNode(links, data)
        assert len(block) == len(dagpb.encode([], data)) + sum(map(dagpb.link_size, links))
        assert block.endswith(data)


def test_the_empty_node_has_no_data() -> None:
    """No bytes at all are a node without data, which is another than one with empty data."""
    assert dagpb.decode(b"") == PBNode([], None)
    assert dagpb.decode(b"\x0a\x00") == PBNode([], b"")


def test_data_may_stand_before_the_links() -> None:
    """Old programs wrote the data first: that is read, but not links on both sides of it."""
    link = dagpb.encode([PBLink(CID, b"a", 1)], b"")[:-2]
    assert dagpb.decode(b"\x0a\x01x" + link) == PBNode([PBLink(CID, b"a", 1)], b"x")
    with pytest.raises(UnusableAnswer, match="out of place"):
        dagpb.decode(link + b"\x0a\x01x" + link)


def test_what_a_link_leaves_out_is_empty() -> None:
    """A link needs its CID only: no name is the empty one, no size is 0."""
    assert dagpb.decode(b"\x12\x26\x0a\x24" + CID).links == [PBLink(CID, b"", 0)]


@pytest.mark.parametrize(
    "block",
    [
        b"\x0a",
        b"\x0a\x05x",
        b"\x0a\x01x\x0a\x01x",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fx",
        b"\x0a" + b"\x80" * 20,
        b"\x08\x01",
        b"\x1a\x01x",
        b"\x0b",
        b"\x12\x00",
        b"\x12\x02\x12\x00",
        b"\x12\x28\x12\x00\x0a\x24" + CID,
        b"\x12\x28\x0a\x24" + CID + b"\x12\x05",
        b"\x12\x27\x0a\x25" + CID + b"x",
        b"\x12\x25\x0a\x23" + CID[:-1],
        b"\x12\x4c" + (b"\x0a\x24" + CID) * 2,
        b"\x12\x28\x0a\x24" + CID + b"\x20\x00",
        b"\x12\x28\x0a\x24" + CID + b"\x1a\x00",
        b"\x00",
        bytes((2 << 20) + 1),
    ],
    ids=range(19),
)
def test_a_broken_node_is_refused(block: bytes) -> None:
    """Cut, twice, too long, in the wrong order, of the wrong type, with fields that no node has: each is an error."""
    with pytest.raises(UnusableAnswer):
        dagpb.decode(block)


def test_messages_are_those_of_kubo() -> None:
    """The bytes of a folder, an empty file, a piece, a parent, a symbolic link and a shard are the known ones."""
    assert dagpb.FOLDER.hex() == "0801"
    assert dagpb.encode_file(0).hex() == "08021800"
    assert dagpb.encode_file(3, data=b"abc").hex() == "080212036162631803"
    assert dagpb.encode_file(300, [200, 100]).hex() == "080218ac0220c8012064"
    assert dagpb.encode_symlink(b"/a").hex() == "080412022f61"
    assert dagpb.encode_shard(b"\x01", 0x22, 256).hex() == "08051201012822308002"


def test_messages_come_back_as_they_were_written() -> None:
    """Every kind of message is read again, and sizes of blocks one by one or packed."""
    rng = random.Random("messages")
    for _ in range(200):
        sizes = [numbers(rng) for _ in range(rng.choice([0, 1, 3, 200]))]
        size, data = numbers(rng), rng.randbytes(rng.choice([0, 1, 200]))
        assert dagpb.decode_data(dagpb.encode_file(size, sizes, data)) == Data(Kind.FILE, data, size, sizes)
    assert dagpb.decode_data(dagpb.encode_symlink(b"/a")) == Data(Kind.SYMLINK, b"/a", None, [])
    assert dagpb.decode_data(dagpb.encode_shard(b"\x80", 34, 256)) == Data(Kind.SHARD, b"\x80", None, [], 34, 256)
    assert dagpb.decode_data(bytes.fromhex("0802220401ac0202")).blocksizes == [1, 300, 2]
    for kind in Kind:
        assert dagpb.decode_data(bytes((8, kind))).kind is kind


def test_times_permissions_and_the_unknown_are_passed_over() -> None:
    """Mode, time and fields of the future do not keep a message from being read."""
    mode_and_time, unknown = "38a4034202080a", "4a016151" + "00" * 8 + "5d" + "00" * 4 + "6001"
    assert dagpb.decode_data(bytes.fromhex("0802" + mode_and_time + unknown + "1805")) == Data(Kind.FILE, b"", 5, [])
    with pytest.raises(UnusableAnswer):
        dagpb.decode_data(bytes.fromhex("080238"))


@pytest.mark.parametrize(
    "message",
    [b"", b"\x18\x01", b"\x08\x06", b"\x0a\x01x", b"\x08\x02\x10\x01", b"\x08\x02\x1a\x01x", b"\x08", b"\x08\x02\x0b"],
)
def test_a_broken_message_is_refused(message: bytes) -> None:
    """Without a type, of an unknown one, with a field of the wrong form or cut, it is none."""
    with pytest.raises(UnusableAnswer):
        dagpb.decode_data(message)


def test_sizes_without_end_are_refused_early() -> None:
    """Two million sizes in one field cost no two million numbers."""
    with pytest.raises(UnusableAnswer, match="65536 sizes"):
        dagpb.decode_data(b"\x08\x02\x22\x80\x89\x7a" + bytes(2_000_000))
