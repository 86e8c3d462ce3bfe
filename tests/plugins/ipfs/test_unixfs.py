"""Files, folders and symbolic links become the blocks that Kubo makes, in flat memory."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from pointsman import InvalidRequestError
from pointsman_ipfs.dag import dagpb, reader
from pointsman_ipfs.dag.block import links_of
from pointsman_ipfs.dag.cid import raw_cid, to_text
from pointsman_ipfs.dag.unixfs import (
    CID_V0,
    CID_V1,
    PROFILES,
    UNIXFS_V1_2025,
    Link,
    Profile,
    add_file,
    add_folder,
    add_symlink,
)

WRAPPED = evolve(CID_V1, raw_leaves=False)
MIXED = evolve(CID_V0, raw_leaves=True)


def nothing(_cid: bytes, _data: bytes) -> None:
    """Take a block and forget it."""


def keystream(size: int, seed: str) -> bytes:
    """Return the content of Kubo's own tests: ChaCha20 with the digest of the seed as its key."""
    return Cipher(algorithms.ChaCha20(sha256(seed.encode()).digest(), bytes(16)), None).encryptor().update(bytes(size))


def cid_of(data: bytes, profile: Profile) -> str:
    return to_text(add_file(io.BytesIO(data).read, profile, nothing).cid)


@pytest.mark.parametrize(
    ("data", "profile", "cid"),
    [
        (b"hello world", CID_V0, "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
        (b"hello world", UNIXFS_V1_2025, "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
        (b"hello world", WRAPPED, "bafybeihykld7uyxzogax6vgyvag42y7464eywpf55gxi5qpoisibh3c5wa"),
        (keystream(262_144, "chunk-v0-seed"), CID_V0, "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE"),
        (keystream(262_145, "chunk-v0-seed"), CID_V0, "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ"),
        (
            keystream(1_048_576, "chunk-v1-seed"),
            UNIXFS_V1_2025,
            "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta",
        ),
        (
            keystream(1_048_577, "chunk-v1-seed"),
            UNIXFS_V1_2025,
            "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64",
        ),
        (b"", CID_V0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (b"", UNIXFS_V1_2025, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (b"Hello Worlds!\n", CID_V0, "QmVr26fY1tKyspEJBniVhqxQeEjhF78XerGiqWAwraVLQH"),
        (b"Hello Mars!\n", CID_V1, "bafkreibmlvvgdyihetgocpof6xk64kjjzdeq2e4c7hqs3krdheosk4tgj4"),
        (b"Hello Venus!\n", CID_V1, "bafkreihfsphazrk2ilejpekyltjeh5k4yvwgjuwg26ueafohqioeo3sdca"),
    ],
    ids=range(12),
)
def test_a_file_has_the_cid_of_kubos_own_tests(data: bytes, profile: Profile, cid: str) -> None:
    """Every file whose CID Kubo's tests state has it here."""
    assert cid_of(data, profile) == cid


@pytest.mark.parametrize(
    ("profile", "cid"),
    [
        (CID_V1, "bafybeih7e5dmkyk25up5vxug4q3hrg2fxbzf23dfrac2fns5h7z4aa7ioi"),
        (UNIXFS_V1_2025, "bafybeih7e5dmkyk25up5vxug4q3hrg2fxbzf23dfrac2fns5h7z4aa7ioi"),
        (WRAPPED, "bafybeif5tuep5ap2d7zyhbktucey75aoacxufgt6i3v4gebmixyipnyp7y"),
        (CID_V0, "QmWSgS32xQEcXMeqd3YPJLrNBLSdsfYCep2U7CFkyrjXwY"),
        (MIXED, "QmfWfQfKCY5Ukv9peBbxM5vqWM9BzmqUSXvdCgjT2wsiBT"),
    ],
)
def test_a_folder_has_the_cid_of_kubos_own_tests(profile: Profile, cid: str) -> None:
    """The folder of Kubo's tests has its CID in every profile, in whatever order its files were given."""
    files = {b"venus.txt": b"Hello Venus!\n", b"mars.txt": b"Hello Mars!\n"}
    entries = [(name, add_file(io.BytesIO(data).read, profile, nothing)) for name, data in files.items()]
    assert to_text(add_folder(entries, profile, nothing).cid) == cid
    assert to_text(add_folder(reversed(entries), profile, nothing).cid) == cid


def test_the_empty_folder_is_known() -> None:
    """A folder without entries has the CID that Kubo has for it in its source."""
    assert to_text(add_folder([], CID_V0, nothing).cid) == "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    empty = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    assert to_text(add_folder([], UNIXFS_V1_2025, nothing).cid) == empty


@pytest.mark.parametrize("width", [2, 3, 7])
@pytest.mark.parametrize("raw", [True, False])
def test_a_file_of_any_length_is_read_again(blocks: Any, noise: Any, width: int, raw: bool) -> None:
    """Of every length around every boundary the file comes back, sizes add up, and blocks are no wider than allowed."""
    profile = Profile("small", 1, raw, chunk=10, width=width, by_block=True)
    for length in sorted({*range(45), *(10 * width**level + more for level in (2, 3) for more in range(-11, 12))}):
        data = noise(max(length, 0), length)
        link = add_file(io.BytesIO(data).read, profile, blocks.put)
        assert b"".join(reader.read_file(blocks.fetch, link.cid)) == data
        assert link.size == reader.size_of(blocks.fetch, link.cid) == len(data)
        assert link.tsize == tsize(blocks, link.cid)
    assert all(len(links_of(cid, block)) <= width for cid, block in blocks.items())


def tsize(blocks: Any, cid: bytes) -> int:
    return len(blocks[cid]) + sum(tsize(blocks, link) for link in links_of(cid, blocks[cid]))


def test_short_reads_change_nothing(noise: Any) -> None:
    """A pipe that gives a few bytes at a time makes the same blocks as a file."""
    profile, data = evolve(CID_V1, chunk=1000), noise(7777, 1)
    source, rng = io.BytesIO(data), random.Random("short")
    link = add_file(lambda size: source.read(rng.randrange(1, size + 1)), profile, nothing)
    assert to_text(link.cid) == cid_of(data, profile)


def test_children_are_put_before_their_parents() -> None:
    """Each block comes after all that it links to, and the root last: who stops in the middle has no root."""
    order: list[bytes] = []

    def put(cid: bytes, data: bytes) -> None:
        assert set(links_of(cid, data)) <= set(order)
        order.append(cid)

    profile = Profile("small", 0, False, chunk=10, width=3, by_block=False, threshold=1000, fanout=8)
    file = add_file(io.BytesIO(bytes(range(256))).read, profile, put)
    assert order[-1] == file.cid
    folder = add_folder([(b"%d" % number, file) for number in range(100)], profile, put)
    assert order[-1] == folder.cid


def test_leaves_are_put_as_they_come() -> None:
    """Of a source whose length nobody knows, each piece is put before the next one is read."""
    events: list[str] = []

    def pieces() -> Iterator[bytes]:
        for number in range(5):
            events.append("read")
            yield b"%d" % number * 10

    source = pieces()
    profile = evolve(UNIXFS_V1_2025, chunk=10)
    add_file(lambda _: next(source, b""), profile, lambda *_: events.append("put"))
    assert events == ["read", "put"] * 5 + ["put"]


@pytest.mark.parametrize("profile", [UNIXFS_V1_2025, CID_V0])
def test_a_large_file_takes_little_memory(profile: Profile) -> None:
    """200 MiB go through in less than 10 MiB."""
    piece, left = bytes(1 << 20), 200

    def read(size: int) -> bytes:
        nonlocal left
        left -= size / (1 << 20)
        return piece[:size] if left >= 0 else b""

    tracemalloc.start()
    try:
        add_file(read, profile, nothing)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0"])
def test_a_name_that_no_file_can_have_is_refused(name: bytes) -> None:
    """A folder with such an entry could not be written out again."""
    with pytest.raises(InvalidRequestError, match="no entry of a folder can have"):
        add_folder([(name, Link(raw_cid(b""), 0, 0))], CID_V1, nothing)


def test_a_name_that_occurs_twice_is_refused() -> None:
    """Two entries of one name are no folder."""
    entry = b"a", Link(raw_cid(b""), 0, 0)
    with pytest.raises(InvalidRequestError, match="twice"):
        add_folder([entry, (b"b", entry[1]), entry], CID_V1, nothing)


def test_names_are_sorted_by_their_bytes() -> None:
    """The order is that of UTF-8, not that of letters or of UTF-16."""
    names = ["B", "a", "\u00e4", "\uffff", "\U00010000"]
    stored: dict[bytes, bytes] = {}
    entries = [(name.encode(), Link(raw_cid(b""), 0, 0)) for name in reversed(names)]
    folder = add_folder(entries, CID_V1, stored.__setitem__)
    assert [link.name.decode() for link in dagpb.decode(stored[folder.cid]).links] == names


def test_sizes_of_folders_add_up(blocks: Any, noise: Any) -> None:
    """The size of a folder is that of all files below it; symbolic links have none."""
    file = add_file(io.BytesIO(noise(5000, 1)).read, evolve(CID_V1, chunk=1000), blocks.put)
    inner = add_folder([(b"f", file), (b"l", add_symlink(b"f", CID_V1, blocks.put))], CID_V1, blocks.put)
    outer = add_folder([(b"a", inner), (b"b", inner), (b"c", file)], CID_V1, blocks.put)
    assert (file.size, inner.size, outer.size) == (5000, 5000, 15_000)
    assert [reader.size_of(blocks.fetch, link.cid) for link in (file, inner, outer)] == [5000, 5000, 15_000]
    assert outer.tsize == tsize(blocks, outer.cid)


def test_profiles_are_found_by_name() -> None:
    """The three profiles have the names that a configuration uses; what no block could hold is no profile."""
    assert list(PROFILES) == ["unixfs-v1-2025", "cid-v0", "cid-v1"]
    wrong: list[Callable[[], Profile]] = [
        lambda: evolve(CID_V1, chunk=0),
        lambda: evolve(CID_V1, chunk=3 << 20),
        lambda: evolve(CID_V1, width=1),
        lambda: evolve(CID_V1, version=2),
        lambda: evolve(CID_V1, fanout=100),
    ]
    for make in wrong:
        with pytest.raises(ValueError, match="must be"):
            make()
