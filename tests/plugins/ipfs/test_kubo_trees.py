"""Folders: the same CIDs as Kubo, above all where it begins to shard; and out of blocks again as they were."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pointsman_ipfs.dag import car, dagpb, reader
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cid import to_text
from pointsman_ipfs.dag.tree import add_tree, extract
from pointsman_ipfs.dag.unixfs import CID_V0, CID_V1, UNIXFS_V1_2025, Profile

pytestmark = pytest.mark.kubo

PROFILES = [UNIXFS_V1_2025, CID_V0, CID_V1]
#: Parts of names: of all lengths of UTF-8, that must not be unquoted or normalised, and, the last one, not UTF-8.
WORDS = ["a", "b.txt", "Beweis", "caf\u00e9", "cafe\u0301", "\u8a3c\u62e0", "\U0001f4c4.pdf", "x" * 200]
WORDS += ["with space", "%41", "\u0301", "~", "A", "\udcff\udc80x"]


def theirs(kubo: Any, parent: Path, profile: Profile, *options: str) -> dict[str, str]:
    """Return the CIDs that Kubo gives the entries of a folder."""
    found = kubo.add(profile, "--only-hash", *options, parent)
    return {name.partition("/")[2]: cid for name, cid in found.items() if name.count("/") == 1}


def ours(parent: Path, profile: Profile, put: Any = lambda *_: 0, *, hidden: bool = False) -> dict[str, str]:
    def cid(name: str) -> str:
        return to_text(add_tree(parent / name, profile, put, hidden=hidden).cid)

    return {name: cid(name) for name in os.listdir(parent) if hidden or not name.startswith(".")}


def grow(folder: Path, rng: random.Random, depth: int) -> None:
    """Fill a folder with files, folders and symbolic links with names of all kinds."""
    folder.mkdir()
    for number in range(rng.randrange(12)):
        name = f"{rng.choice(WORDS)}{rng.choice(['', number])}"
        if rng.random() < 0.2:
            name = "." + name
        path, kind = folder / name, rng.random()
        if path.exists() or path.is_symlink():
            continue
        if kind < 0.25 and depth:
            grow(path, rng, depth - 1)
        elif kind < 0.4:
            path.symlink_to(rng.choice(["..", "/etc/passwd", "nothing/there", "\u8a3c", "."]))
        else:
            path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 3000, 300_000])))


def content(folder: Path) -> dict[str, Any]:
    """Return all that is in a folder: the bytes of files, where symbolic links point to."""
    found: dict[str, Any] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(folder))] = what
    return found


def fill(folder: Path, size: int, profile: Profile, *, inner: bool) -> None:
    """Make a folder whose estimated size is this, to the byte, and which may have folders in it."""
    folder.mkdir()
    width = 34 if profile.version == 0 else 36

    def cost(name: str, tsize: int) -> int:
        if not profile.by_block:
            return len(name) + width
        return dagpb.link_size(dagpb.PBLink(bytes(width), name.encode(), tsize))

    left, number = size - (4 if profile.by_block else 0), 0
    size_of_empty, empty = 0 if profile.raw_leaves else 6, folder.parent / ".empty"
    empty.touch()  # other names for one file are made in less time than files
    if inner:  # a folder is first put empty: its size grows, and with it that of the link
        for name, length in ("inner", 300), ("other", 20_000):
            (folder / name).mkdir()
            (folder / name / "file").write_bytes(bytes(length))
            left -= cost(name, add_tree(folder / name, profile, lambda *_: 0).tsize)
    while left > 2 * cost("n" * 240, size_of_empty):
        name = f"{number:0240}"
        (folder / name).hardlink_to(empty)
        left -= cost(name, size_of_empty)
        number += 1
    first = next(length for length in range(1, 250) if 60 < left - cost("n" * length, size_of_empty) < 240)
    left -= cost("m" * first, size_of_empty)
    last = next(length for length in range(1, 250) if cost("n" * length, size_of_empty) == left)
    (folder / ("m" * first)).hardlink_to(empty)
    (folder / ("n" * last)).hardlink_to(empty)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_tree_has_the_cid_that_kubo_gives_it(node: Any, tmp_path: Path, profile: Profile) -> None:
    """40 random trees have the CIDs that `ipfs add -r` prints, which leaves hidden entries out."""
    rng = random.Random(f"trees {profile.name}")
    for number in range(40):
        grow(tmp_path / f"tree{number}", rng, 4)
    assert len(ours(tmp_path, profile)) == 40
    assert ours(tmp_path, profile) == theirs(node(profile), tmp_path, profile)
    assert ours(tmp_path, profile, hidden=True) == theirs(node(profile), tmp_path, profile, "--hidden")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_folder_is_sharded_where_kubo_shards_it(node: Any, tmp_path: Path, profile: Profile) -> None:
    """Folders of exactly the threshold are one block, those of one byte more are shards, whatever is in them."""
    for more in 0, 1:
        for inner in False, True:
            fill(tmp_path / f"{more} {inner}", profile.threshold + more, profile, inner=inner)
    stored: dict[bytes, bytes] = {}
    for name, cid in ours(tmp_path, profile, stored.__setitem__).items():
        message = dagpb.decode_data(dagpb.decode(stored[cids.parse(cid)]).data or b"")
        assert message.kind == (dagpb.Kind.SHARD if name[0] == "1" else dagpb.Kind.FOLDER)
    assert len(ours(tmp_path, profile)) == 4
    assert ours(tmp_path, profile) == theirs(node(profile), tmp_path, profile)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of 6,000 files, and one of 1,200 with a long name each, which has another such folder in it."""
    tree, empty = tmp_path_factory.mktemp("large"), tmp_path_factory.mktemp("empty") / "file"
    empty.touch()  # other names for one file are made in less time than files
    for name, count, width in ("many", 6000, 1), ("nested", 1200, 220), ("nested/inner", 1200, 220):
        (tree / name).mkdir()
        for number in range(count):
            (tree / name / f"caf\u00e9 {number:0{width}}").hardlink_to(empty)
    yield tree
    shutil.rmtree(tree)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_large_folder_has_the_cid_that_kubo_gives_it(node: Any, large: Path, profile: Profile) -> None:
    """A folder of 6,000 files, and a sharded folder within a sharded folder, agree with Kubo, each alone too."""
    found = ours(large, profile)
    assert found == theirs(node(profile), large, profile)
    for name, cid in found.items():
        assert node(profile).add(profile, "--only-hash", large / name)[name] == cid


@pytest.mark.parametrize("fanout", [8, 16, 64, 512, 1024])
def test_shards_of_any_width_have_the_cid_that_kubo_gives_them(kubo: Any, large: Path, fanout: int) -> None:
    """A folder sharded with another fanout agrees with Kubo, unless it is the root: Kubo 0.42 shards that otherwise."""
    profile = evolve(UNIXFS_V1_2025, fanout=fanout)
    inner = to_text(add_tree(large / "nested" / "inner", profile, lambda *_: 0).cid)
    assert inner == kubo.add(profile, "--only-hash", large)[f"{large.name}/nested/inner"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_kubo_gives_back_what_was_added_here(kubo: Any, blocks: Any, tmp_path: Path, profile: Profile) -> None:
    """40 trees, one of 6,000 entries, imported as one CAR come out of `ipfs get` as they were, names and all."""
    rng, whole = random.Random(f"there {profile.name}"), profile is UNIXFS_V1_2025
    (tmp_path / "in").mkdir()
    for number in range(39 if whole else 5):
        grow(tmp_path / "in" / f"tree{number}", rng, 3)
    (tmp_path / "in" / "many").mkdir()
    for number in range(6000 if whole else 10):
        (tmp_path / "in" / "many" / f"entry {number}").symlink_to("..")
    fill(tmp_path / "in" / "sharded", profile.threshold + 1, profile, inner=True)
    root = add_tree(tmp_path / "in", profile, blocks.put, hidden=True).cid
    (tmp_path / "car").write_bytes(b"".join(car.write([root], reader.walk(blocks.fetch, root))))
    kubo.run("dag", "import", tmp_path / "car")
    kubo.run("get", "--output", tmp_path / "out", to_text(root))
    assert content(tmp_path / "out") == content(tmp_path / "in")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_what_kubo_exports_reads_here(kubo: Any, blocks: Any, tmp_path: Path, profile: Profile) -> None:
    """The CAR that Kubo makes of a tree is ours to the byte, and `extract` writes from it what was added."""
    grow(tmp_path / "in", random.Random(f"back {profile.name}"), 4)
    fill(tmp_path / "in" / "sharded", profile.threshold + 1, profile, inner=True)
    root = cids.parse(kubo.add(profile, "--hidden", tmp_path / "in")["in"])
    exported = kubo.run("dag", "export", to_text(root))
    opened = car.Reader(io.BytesIO(exported))
    assert opened.roots == [root]
    for cid, data in car.complete(opened.roots, opened):
        blocks.put(cid, data)
    assert b"".join(car.write([root], reader.walk(blocks.fetch, root))) == exported
    extract(blocks.fetch, root, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "in")
