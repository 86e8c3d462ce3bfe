"""Reading out of blocks: what is needed and no more, every block verified."""

from __future__ import annotations

import io
from typing import Any

import pytest
from attrs import evolve
from pointsman import ContentNotFoundError, InvalidRequestError, UnusableAnswer
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag import dagpb, reader
from pointsman_ipfs.dag.block import links_of, loaded, verified
from pointsman_ipfs.dag.dagpb import PBLink
from pointsman_ipfs.dag.reader import Entry
from pointsman_ipfs.dag.unixfs import CID_V0, CID_V1, UNIXFS_V1_2025, Link, add_file, add_folder, add_symlink

SMALL = evolve(UNIXFS_V1_2025, chunk=100, width=4)


def file(blocks: Any, data: bytes, profile: Any = SMALL) -> Link:
    return add_file(io.BytesIO(data).read, profile, blocks.put)


def node(blocks: Any, links: list[PBLink], message: bytes) -> bytes:
    block = dagpb.encode(links, message)
    blocks.put(cids.pb_cid(block), block)
    return cids.pb_cid(block)


def read(blocks: Any, cid: bytes, *place: Any) -> bytes:
    return b"".join(reader.read_file(blocks.fetch, cid, *place))


def test_a_block_that_is_not_its_cids_is_refused_by_name() -> None:
    """One changed bit is an error that names the CID; so is a CID whose hash function is none of ours."""
    data = b"evidence"
    for cid in cids.raw_cid(data), cids.pb_cid(data), cids.pb_cid(data, 0), cids.cbor_cid(data):
        assert verified(cid, data) == data
        with pytest.raises(UnusableAnswer, match=cids.to_text(cid)):
            verified(cid, b"evidencf")
    assert verified(b"\x01\x55\x00\x02hi", b"hi") == b"hi"
    with pytest.raises(UnusableAnswer, match="bafkqaataba"[:7]):
        verified(b"\x01\x55\x00\x02hi", b"ho")
    with pytest.raises(UnusableAnswer, match="hash function 0x13"):
        verified(b"\x01\x55\x13\x20" + bytes(32), data)


@pytest.mark.parametrize("size", [0, 1, 100, 101, 400, 401, 3333])
def test_a_file_is_measured_without_its_content(blocks: Any, noise: Any, size: int) -> None:
    """Nodes are read, and no plain block but a file that is one; one of another length is an error."""
    cid = file(blocks, noise(size, 1)).cid
    assert reader.measured(blocks.fetch, lambda one: len(blocks[one]), cid) == size
    assert [one for one in blocks.asked if cids.codec_of(one) == cids.RAW] in ([], [cid])
    if cids.codec_of(cid) != cids.RAW:
        with pytest.raises(UnusableAnswer, match=r"found \d+ bytes of a file, expected \d+"):
            reader.measured(blocks.fetch, lambda one: len(blocks[one]) + 1, cid)


def test_a_file_that_unfolds_without_end_is_measured_soon(blocks: Any) -> None:
    """2^50 bytes, which are the same piece again and again: each node is read once."""
    cid, size = cids.raw_cid(bytes(1024)), 1024
    blocks.put(cid, bytes(1024))
    for _ in range(8):
        cid = node(blocks, [PBLink(cid, b"", size)] * 32, dagpb.encode_file(32 * size, (size,) * 32))
        size *= 32
    assert reader.measured(blocks.fetch, lambda one: len(blocks[one]), cid) == size == 1 << 50
    assert len(blocks.asked) == 8


def test_a_block_within_a_cid_is_asked_of_nobody(blocks: Any) -> None:
    """An identity CID is its own block; a CID that cannot be verified is not asked for either."""
    assert loaded(blocks.fetch, b"\x01\x55\x00\x02hi") == b"hi"
    with pytest.raises(UnusableAnswer, match="hash function"):
        loaded(blocks.fetch, b"\x01\x55\x13\x20" + bytes(32))
    assert blocks.asked == []


@pytest.mark.parametrize("profile", [SMALL, evolve(CID_V0, chunk=100, width=4), evolve(CID_V1, chunk=64, width=2)])
def test_any_range_is_read(blocks: Any, noise: Any, profile: Any) -> None:
    """Every range gives the bytes of the slice, beyond the end nothing."""
    data = noise(3333, 1)
    root = file(blocks, data, profile).cid
    for offset in 0, 1, 99, 100, 101, 399, 400, 401, 1600, 3299, 3332, 3333, 3334, 99_999:
        for length in 0, 1, 99, 100, 101, 500, 3333, 99_999, None:
            wanted = data[offset:] if length is None else data[offset : offset + length]
            assert read(blocks, root, offset, length) == wanted


def test_a_range_reads_only_the_blocks_that_it_needs(blocks: Any, noise: Any) -> None:
    """One byte of 10,000 costs one block of each level; the rest may be absent."""
    data = noise(10_000, 2)
    root = file(blocks, data).cid
    blocks.asked = []
    assert read(blocks, root, 5050, 1) == data[5050:5051]
    assert len(blocks.asked) == 5
    needed = {cid: blocks[cid] for cid in blocks.asked}
    assert b"".join(reader.read_file(needed.__getitem__, root, 5000, 100)) == data[5000:5100]
    blocks.asked = []
    assert reader.size_of(blocks.fetch, root) == 10_000
    assert len(blocks.asked) == 1


def test_pieces_come_one_by_one(blocks: Any, noise: Any) -> None:
    """Who reads the first piece has waited for no other."""
    pieces = reader.read_file(blocks.fetch, file(blocks, noise(10_000, 3)).cid)
    blocks.asked = []
    assert len(next(pieces)) == 100
    assert len(blocks.asked) == 5


@pytest.mark.parametrize("place", [(-1,), (0, -1)])
def test_a_place_before_the_file_is_refused(blocks: Any, place: tuple[int, ...]) -> None:
    """A negative offset or length has no meaning here."""
    with pytest.raises(InvalidRequestError, match="expected 0 or more"):
        read(blocks, file(blocks, b"x").cid, *place)


def test_data_beside_links_is_read_first(blocks: Any) -> None:
    """A node may hold the beginning of what its links go on with, and pieces may be of the old kind."""
    raw, old = file(blocks, b"middle").cid, node(blocks, [], b"\x08\x00\x12\x03end\x18\x03")
    root = node(blocks, [PBLink(raw, b"", 0), PBLink(old, b"", 0)], dagpb.encode_file(14, [6, 3], b"begin"))
    assert read(blocks, root) == b"beginmiddleend"
    assert read(blocks, root, 3, 9) == b"inmiddlee"
    assert read(blocks, old) == b"end"


def test_a_size_that_is_not_said_is_computed(blocks: Any) -> None:
    """Old programs left the size of the whole out: the pieces tell."""
    root = node(blocks, [PBLink(file(blocks, b"abc").cid, b"", 0)], b"\x08\x02\x20\x03")
    assert reader.size_of(blocks.fetch, root) == 3
    assert read(blocks, root) == b"abc"


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_is_listed_and_searched(blocks: Any, sharded: bool) -> None:
    """Entries have name, CID, size and kind; a path leads to each, and no other does."""
    profile = evolve(SMALL, threshold=1 if sharded else 1 << 30)
    raw, large = file(blocks, b"abc"), file(blocks, bytes(1000))
    link, inner = add_symlink(b"raw", profile, blocks.put), add_folder([(b"deep", raw)], profile, blocks.put)
    cbor = Link(cids.cbor_cid(b"\xf6"), 0, 1)
    foreign, plain = Link(b"\x01\x70\x13\x20" + bytes(32), 0, 1), Link(node(blocks, [], b"no UnixFS"), 0, 1)
    parts = {"raw": raw, "large": large, "link": link, "inner": inner, "cbor": cbor, "caf\u00e9": foreign, "p": plain}
    root = add_folder([(name.encode(), part) for name, part in parts.items()], profile, blocks.put).cid
    expected = {
        Entry("raw", raw.cid, 3, "file"),
        Entry("large", large.cid, 1000, "file"),
        Entry("link", link.cid, None, "symlink"),
        Entry("inner", inner.cid, None, "folder"),
        Entry("cbor", cbor.cid, None, "other"),
        Entry("caf\u00e9", foreign.cid, None, "other"),
        Entry("p", plain.cid, None, "other"),
    }
    assert set(reader.entries(blocks.fetch, root)) == expected
    text = cids.to_text(root)
    assert reader.resolve(blocks.fetch, text) == root
    assert reader.resolve(blocks.fetch, f"ipfs://{text}/inner/deep") == raw.cid
    assert reader.target_of(blocks.fetch, reader.resolve(blocks.fetch, f"/ipfs/{text}/link/")) == b"raw"
    for path in "no", "inner/no", "inner/..", "RAW", "raw\0":
        with pytest.raises(ContentNotFoundError, match=r"^ba\w+: nothing of the name '.*' is in that folder$"):
            reader.resolve(blocks.fetch, f"{text}/{path}")
    for path in "raw/x", "link/x":
        with pytest.raises(
            ContentNotFoundError, match=r"it has no 'x': found '(file|symlink|other)', expected a folder$"
        ):
            reader.resolve(blocks.fetch, f"{text}/{path}")
    with pytest.raises(UnusableAnswer, match="hash function 0x13"):
        reader.resolve(blocks.fetch, f"{text}/caf\u00e9")


def test_entries_need_not_be_looked_at(blocks: Any) -> None:
    """With `look=False` no block but the folder's is read: of what only its block would tell, nothing is said."""
    parts = [(b"raw", file(blocks, b"abc")), (b"large", file(blocks, bytes(1000)))]
    root = add_folder(parts, SMALL, blocks.put).cid
    blocks.asked = []
    found = {entry.name: (entry.size, entry.kind) for entry in reader.entries(blocks.fetch, root, look=False)}
    assert found == {"raw": (3, "file"), "large": (None, "other")}
    assert blocks.asked == [root]


def test_each_is_asked_what_it_is(blocks: Any) -> None:
    """What is no file is not read as one, a file has no entries, and neither is a symbolic link."""
    root, folder = file(blocks, b"x").cid, add_folder([], SMALL, blocks.put).cid
    with pytest.raises(InvalidRequestError, match="'folder', expected 'file'"):
        read(blocks, folder)
    record = cids.cbor_cid(b"\xf6")
    blocks.put(record, b"\xf6")
    with pytest.raises(InvalidRequestError, match=r"'other', expected 'file'; .* export"):
        read(blocks, record)
    with pytest.raises(InvalidRequestError, match="'file', expected 'folder'"):
        list(reader.entries(blocks.fetch, root))
    with pytest.raises(InvalidRequestError, match="'file', expected 'symlink'"):
        reader.target_of(blocks.fetch, root)


def test_every_block_is_walked_once(blocks: Any, noise: Any) -> None:
    """A DAG is given out depth first, the root before what it links to, each block once, whoever links to it again."""
    one, two = file(blocks, noise(450, 4)), file(blocks, noise(450, 5))
    inner = add_folder([(b"1", one), (b"2", two)], SMALL, blocks.put)
    root = add_folder([(b"a", one), (b"b", inner), (b"c", inner)], SMALL, blocks.put)
    walked = list(reader.walk(blocks.fetch, root.cid))
    assert dict(walked) == blocks
    assert len(walked) == len(blocks)
    first = [cid for cid, _ in reader.walk(blocks.fetch, one.cid)]
    second = [cid for cid, _ in reader.walk(blocks.fetch, two.cid)]
    assert [cid for cid, _ in walked] == [root.cid, *first, inner.cid, *second]
    blocks.asked = []
    assert list(reader.reachable(blocks.fetch, root.cid)) == [cid for cid, _ in walked]
    assert all(cids.codec_of(cid) != cids.RAW for cid in blocks.asked)


def test_what_was_seen_is_passed_over(blocks: Any, noise: Any) -> None:
    """A set of CIDs keeps the walk from what is in it, with all below, and has the walked ones at the end."""
    one, two = file(blocks, noise(450, 6)), file(blocks, noise(450, 7))
    root = add_folder([(b"1", one), (b"2", two)], SMALL, blocks.put)
    seen = {one.cid}
    assert root.cid in [cid for cid, _ in reader.walk(blocks.fetch, root.cid, seen)]
    assert seen >= {root.cid, two.cid, one.cid}
    assert not seen & (set(links_of(one.cid, blocks[one.cid])) - {one.cid})
    assert list(reader.walk(blocks.fetch, root.cid, seen)) == []


def test_a_node_within_a_cid_is_walked_through(blocks: Any) -> None:
    """A node that its CID holds is not given out, but what it links to is."""
    leaf = file(blocks, b"x").cid
    inner = dagpb.encode([PBLink(leaf, b"", 1)], dagpb.encode_file(1, [1]))
    root = node(blocks, [PBLink(b"\x01\x70\x00" + bytes((len(inner),)) + inner, b"a", 0)], dagpb.FOLDER)
    assert [cid for cid, _ in reader.walk(blocks.fetch, root)] == [root, leaf]
    assert read(blocks, reader.resolve(blocks.fetch, cids.to_text(root) + "/a")) == b"x"


def test_a_codec_that_is_none_of_ours_has_no_links() -> None:
    """What links a block of an unknown codec has nobody can say: an error, not none."""
    with pytest.raises(UnusableAnswer, match="codec 0x129"):
        links_of(b"\x01\xa9\x02\x12\x20" + bytes(32), b"{}")


def test_an_absent_block_is_the_callers_error(blocks: Any) -> None:
    """What `get` raises goes through as it is."""
    root = file(blocks, bytes(range(250))).cid
    del blocks[links_of(root, blocks[root])[1]]
    with pytest.raises(KeyError):
        read(blocks, root)
    assert read(blocks, root, 0, 100) == bytes(range(100))
