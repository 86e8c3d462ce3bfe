"""Folders in many blocks: the trie over the hashes of names, built and read."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pointsman import InvalidRequestError, UnusableAnswer
from pointsman_ipfs.dag import dagpb, hamt
from pointsman_ipfs.dag.cid import pb_cid, raw_cid
from pointsman_ipfs.dag.dagpb import PBLink

LEAF = raw_cid(b"x")


def made(blocks: Any, count: int, fanout: int = 256, version: int = 1) -> tuple[bytes, dict[bytes, PBLink]]:
    entries = {name: PBLink(LEAF, name, number) for number, name in enumerate(b"name %d" % n for n in range(count))}
    return hamt.build(entries.values(), fanout, version, blocks.put).cid, entries


def shard(blocks: Any, links: dict[int, PBLink], fanout: int = 256, field: int | None = None) -> PBLink:
    """Put a shard with these slots, true or not, and return a link to it."""
    bits = sum(1 << slot for slot in links) if field is None else field
    width = len(f"{fanout - 1:X}")
    named = [link._replace(name=b"%0*X" % (width, slot) + link.name) for slot, link in sorted(links.items())]
    bitfield = bits.to_bytes((bits.bit_length() + 7) // 8, "big")
    block = dagpb.encode(named, dagpb.encode_shard(bitfield, 0x22, fanout))
    cid = pb_cid(block)
    blocks.put(cid, block)
    return PBLink(cid, b"", 0)


def listed(blocks: Any, cid: bytes) -> list[PBLink]:
    return list(hamt.entries(blocks.fetch, cid, blocks[cid]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"hello", 0xCBD8A7B341BD9B02),
        (b"hello, world", 0x342FAC623A5EBC8E),
        (b"19 Jan 2038 at 3:14:07 AM", 0xB89E5988B737AFFC),
        (b"The quick brown fox jumps over the lazy dog.", 0xCD99481F9EE902C9),
    ],
)
def test_the_hash_is_the_published_one(data: bytes, expected: int) -> None:
    """The hash has the values that other implementations of it test against."""
    assert hamt.murmur3(data) == expected


@pytest.mark.parametrize("fanout", [8, 16, 256, 1024])
@pytest.mark.parametrize("count", [1, 2, 300, 3000])
def test_a_trie_is_read_as_it_was_built(blocks: Any, count: int, fanout: int) -> None:
    """All entries come out, each once; each is found by its name, and no other name is."""
    root, entries = made(blocks, count, fanout)
    assert {link.name: link for link in listed(blocks, root)} == entries
    assert len(listed(blocks, root)) == count
    for name in random.Random(count).sample(list(entries), min(count, 50)):
        assert hamt.find(blocks.fetch, root, blocks[root], name) == entries[name]
        assert hamt.find(blocks.fetch, root, blocks[root], name + b"?") is None


def test_the_order_of_entries_does_not_matter(blocks: Any) -> None:
    """The same entries make the same root, and the entries come out in one order."""
    root, entries = made(blocks, 500)
    mixed = list(entries.values())
    random.Random(1).shuffle(mixed)
    assert hamt.build(mixed, 256, 1, blocks.put).cid == root


def test_a_name_is_found_without_reading_the_whole(blocks: Any) -> None:
    """In a folder of 5,000 entries at most two blocks under the root are read for one."""
    root, _ = made(blocks, 5000)
    data, blocks.asked = blocks[root], []
    assert hamt.find(blocks.fetch, root, data, b"name 4999")
    assert len(blocks.asked) <= 2 < 100 < len(blocks)


def test_names_whose_hashes_agree_are_refused(blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hashes of two names are the same the trie would have no end: the error names them."""
    monkeypatch.setattr(hamt, "murmur3", lambda _: 5)
    with pytest.raises(InvalidRequestError, match="name 0, name 1"):
        made(blocks, 2)


def test_names_whose_hashes_agree_long_are_deep_in_the_trie(blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hashes that differ in their last bit only make a trie of the greatest depth, which is read."""
    monkeypatch.setattr(hamt, "murmur3", lambda name: int(name.split()[-1]))
    root, entries = made(blocks, 2)
    assert len(blocks) == 8
    assert {link.name for link in listed(blocks, root)} == set(entries)


def test_one_shard_in_all_slots_is_refused(blocks: Any) -> None:
    """A shard that stands where its entries' hashes do not belong is an error, not a folder of 256 times its size."""
    inner = shard(blocks, {n: PBLink(LEAF, b"%d" % n, 0) for n in range(256)})
    for _ in range(6):
        inner = shard(blocks, dict.fromkeys(range(256), inner))
    blocks.asked = []
    with pytest.raises(UnusableAnswer, match="belongs elsewhere"):
        listed(blocks, inner.cid)
    assert len(blocks.asked) < 10


def test_empty_shards_are_refused(blocks: Any) -> None:
    """Shards of nothing but shards of nothing would be read without giving anything out."""
    inner = shard(blocks, {})
    assert listed(blocks, inner.cid) == []
    for _ in range(3):
        inner = shard(blocks, dict.fromkeys(range(256), inner))
    with pytest.raises(UnusableAnswer, match="empty"):
        listed(blocks, inner.cid)
    assert len(blocks.asked) < 10


def test_a_trie_deeper_than_a_hash_is_refused(blocks: Any) -> None:
    """After eight levels of 256 slots a hash has no bits left."""
    inner = shard(blocks, {0: PBLink(LEAF, b"x", 0)})
    for _ in range(9):
        inner = shard(blocks, {0: inner})
    with pytest.raises(UnusableAnswer, match="deeper than a hash"):
        listed(blocks, inner.cid)


def test_a_shard_that_contradicts_itself_is_refused(blocks: Any) -> None:
    """Slots and links must agree, in number and in name; the hash function is known, the width a power of two."""
    name = next(b"%d" % n for n in range(9999) if hamt.murmur3(b"%d" % n) >> 56 == 7)
    entry = PBLink(LEAF, name, 0)
    assert listed(blocks, shard(blocks, {7: entry}).cid) == [entry]
    wrong = [
        shard(blocks, {7: entry}, field=0),
        shard(blocks, {7: entry}, field=1 << 7 | 1),
        shard(blocks, {7: entry}, field=1 << 8),
        shard(blocks, {7: entry}, field=1 << 300),
        shard(blocks, {7: entry}, fanout=7),
        shard(blocks, {7: entry}, fanout=24),
        shard(blocks, {7: entry}, fanout=1 << 40),
        shard(blocks, {7: PBLink(LEAF, b"", 0)}),
        shard(blocks, {7: shard(blocks, {7: entry}, fanout=8)}),
    ]
    for message in b"\x08\x01", dagpb.encode_shard(b"", 0x12, 256), b"\x08\x05", b"":
        block = dagpb.encode([], message)
        blocks.put(pb_cid(block), block)
        wrong.append(PBLink(pb_cid(block), b"", 0))
    for link in wrong:
        with pytest.raises(UnusableAnswer):
            listed(blocks, link.cid)
