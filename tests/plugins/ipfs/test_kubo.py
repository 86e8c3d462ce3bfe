"""The same CIDs as Kubo, and blocks that both read. Each rule is tried with a real node."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pointsman import InvalidRequestError, Scope, UnusableAnswer
from pointsman.content import Source
from pointsman_ipfs import Kubo
from pointsman_ipfs.dag import car, reader
from pointsman_ipfs.dag.cid import parse, to_text
from pointsman_ipfs.dag.unixfs import CID_V0, CID_V1, UNIXFS_V1_2025, Profile, add_file

pytestmark = pytest.mark.kubo


@pytest.mark.parametrize(
    "profile",
    [UNIXFS_V1_2025, CID_V0, CID_V1, evolve(CID_V1, chunk=1000, width=3), evolve(CID_V0, chunk=997, width=2)],
    ids=lambda profile: f"{profile.name}-{profile.width}",
)
def test_a_file_has_the_cid_that_kubo_gives_it(kubo: Any, noise: Any, tmp_path: Path, profile: Profile) -> None:
    """500 files of all sizes around the boundaries of pieces and of parents have the CIDs that `ipfs add` prints."""
    small = profile.chunk < 2000
    edges = [profile.chunk * count for count in ((1, 2, 3, 4, 6, 8, 9, 16, 27, 81) if small else (1, 2, 3, 4))]
    content = written(tmp_path, edges, (40, 4000, 400_000 if not small else 90_000), noise)
    theirs = kubo.add(profile, "--only-hash", *(tmp_path / name for name in content))
    ours = {name: to_text(add_file(io.BytesIO(data).read, profile, lambda *_: 0).cid) for name, data in content.items()}
    assert ours == theirs


def test_500_files_of_any_size_are_the_same_for_both(kubo: Any, noise: Any, tmp_path: Path) -> None:
    """0 to 5 MiB, and around every boundary: each has Kubo's CID when it is put, and `ipfs get` gives it back."""
    edges, most = [262_144, *(count << 20 for count in range(1, 6))], 5 << 20
    content = written(tmp_path / "in", edges, (300, 30_000, 300_000, 300_000, most), noise)
    store = Kubo(url=kubo.api)
    root = store.store(Source(path=tmp_path / "in"), Scope(300)).cid
    ours = {entry.name: entry.cid for entry in store.entries(root, Scope(60))}
    assert ours == kubo.add(UNIXFS_V1_2025, "--only-hash", *(tmp_path / "in" / name for name in content))
    kubo.run("get", "--output", tmp_path / "out", root)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == content
    store.unpin(root, Scope(60))
    store.close()
    kubo.run("repo", "gc", "--quiet")
    shutil.rmtree(tmp_path)


def written(folder: Path, edges: Sequence[int], ranges: Sequence[int], noise: Any) -> dict[str, bytes]:
    """Write 500 files: three around each edge, the others below what is drawn of the ranges; return what they hold."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(f"files {edges} {ranges}")
    sizes = [0, 1, 2, *(edge + more for edge in edges for more in (-1, 0, 1) if edge + more <= 5 << 20)]
    sizes += [rng.randrange(rng.choice(ranges)) for _ in range(500 - len(sizes))]
    content = {f"f{number}": noise(size, number) for number, size in enumerate(sizes)}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return content


@pytest.mark.parametrize(
    "options",
    [
        "--trickle",
        "--trickle --cid-version=0 --raw-leaves=false --max-file-links=3 --chunker=size-997",
        "--inline --inline-limit=128 --chunker=size-100",
        "--inline --cid-version=1 --raw-leaves=false --chunker=size-20",
        "--chunker=buzhash",
        "--chunker=rabin-1000-4000-9000 --max-file-links=5",
        "--raw-leaves=false --mode=0640 --mtime=-5 --mtime-nsecs=3 --chunker=size-5000",
        "--cid-version=1 --raw-leaves=false --chunker=size-5000 --max-file-links=4",
        "--cid-version=0 --raw-leaves=true --chunker=size-5000",
    ],
)
def test_a_file_of_any_layout_reads_here(kubo: Any, blocks: Any, noise: Any, tmp_path: Path, options: str) -> None:
    """What Kubo makes with other layouts, pieces and permissions, and blocks within CIDs, reads whole and in part."""
    data = noise(123_456, 7)
    (tmp_path / "file").write_bytes(data)
    root = exported(kubo, kubo.run("add", "--quieter", *options.split(), tmp_path / "file").decode().strip(), blocks)
    reads(blocks, root, data, random.Random(options))


def test_a_file_that_was_written_in_place_reads_here(kubo: Any, blocks: Any, noise: Any) -> None:
    """A file that `ipfs files write` made in parts, with gaps and over one another, reads as Kubo reads it."""
    rng = random.Random("in place")
    for number in range(6):
        for _ in range(rng.randrange(1, 6)):
            data, offset = noise(rng.randrange(1, 400_000), number), rng.randrange(1_500_000)
            kubo.run("files", "write", "--create", f"--offset={offset}", f"/f{number}", stdin=data)
        cid = kubo.run("files", "stat", "--hash", f"/f{number}").decode().strip()
        reads(blocks, exported(kubo, cid, blocks), kubo.run("files", "read", f"/f{number}"), rng)


def test_another_hash_function_is_refused_by_name(kubo: Any, blocks: Any, tmp_path: Path) -> None:
    """A DAG with links by blake2b cannot be verified here: the error names the function and the CID."""
    (tmp_path / "file").write_bytes(bytes(100))
    cid = kubo.run("add", "--quieter", "--hash=blake2b-256", tmp_path / "file").decode().strip()
    with pytest.raises(InvalidRequestError, match="hash function 0xb220"):
        parse(cid)
    node = kubo.run("dag", "put", "--store-codec=dag-cbor", stdin=json.dumps({"a": {"/": cid}}).encode())
    block = kubo.run("block", "get", node.decode().strip())
    blocks.put(parse(node.decode().strip()), block)
    with pytest.raises(UnusableAnswer, match=f"{cid}.*hash function 0xb220"):
        list(reader.walk(blocks.fetch, parse(node.decode().strip())))


def test_dag_cbor_is_walked_as_kubo_walks_it(kubo: Any, blocks: Any, tmp_path: Path) -> None:
    """A dag-cbor node with links in maps and lists is exported by both in the same order, each block once."""
    (tmp_path / "file").write_bytes(bytes(300_000))
    cid = kubo.run("add", "--quieter", "--chunker=size-100000", tmp_path / "file").decode().strip()
    inner = put_cbor(kubo, {"deep": {"er": [{"/": cid}, 1, None]}, "x": "y"})
    root = put_cbor(kubo, {"z": {"/": inner}, "a": {"/": cid}, "list": [{"/": inner}, [[{"/": cid}]]]})
    theirs = kubo.run("dag", "export", root)
    opened = car.Reader(io.BytesIO(theirs))
    for block in car.complete(opened.roots, opened):
        blocks.put(*block)
    assert b"".join(car.write([parse(root)], reader.walk(blocks.fetch, parse(root)))) == theirs


def test_kubo_reads_a_file_that_was_added_here(kubo: Any, blocks: Any, noise: Any, tmp_path: Path) -> None:
    """Files of all profiles, of one block and of many, come out of `ipfs cat` after one CAR with many roots."""
    content, roots = [noise(size, size) for size in (0, 1, 262_144, 262_145, 1_048_577, 3_000_000)], []
    for profile in UNIXFS_V1_2025, CID_V0, CID_V1, evolve(CID_V1, chunk=5000, width=7):
        roots += [(add_file(io.BytesIO(data).read, profile, blocks.put).cid, data) for data in content]
    everything = list(dict.fromkeys(root for root, _ in roots))
    seen: set[bytes] = set()
    found = (block for root in everything for block in reader.walk(blocks.fetch, root, seen))
    (tmp_path / "car").write_bytes(b"".join(car.write(everything, found)))
    kubo.run("dag", "import", tmp_path / "car")
    for root, data in roots:
        assert kubo.run("cat", to_text(root)) == data


def put_cbor(kubo: Any, value: Any) -> str:
    node: bytes = kubo.run("dag", "put", "--store-codec=dag-cbor", stdin=json.dumps(value).encode())
    return node.decode().strip()


def exported(kubo: Any, root: str, blocks: Any) -> bytes:
    """Take all blocks under a root over from Kubo."""
    opened = car.Reader(io.BytesIO(kubo.run("dag", "export", root)))
    for cid, data in car.complete(opened.roots, opened):
        blocks.put(cid, data)
    return opened.roots[0]


def reads(blocks: Any, root: bytes, data: bytes, rng: random.Random) -> None:
    """Assert that a file is these bytes, whole and in part."""
    assert b"".join(reader.read_file(blocks.fetch, root)) == data
    assert reader.size_of(blocks.fetch, root) == len(data)
    for _ in range(20):
        offset, length = rng.randrange(len(data) + 10), rng.choice([0, 1, 1000, None, rng.randrange(len(data))])
        wanted = data[offset:] if length is None else data[offset : offset + length]
        assert b"".join(reader.read_file(blocks.fetch, root, offset, length)) == wanted
