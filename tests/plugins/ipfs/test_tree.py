"""From the disk into blocks, and out again: nothing is followed, nothing escapes, nothing is half."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from attrs import evolve
from pointsman import InvalidRequestError, UnusableAnswer
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag import dagpb, reader
from pointsman_ipfs.dag.dagpb import PBLink
from pointsman_ipfs.dag.tree import add_tree, extract
from pointsman_ipfs.dag.unixfs import UNIXFS_V1_2025, add_file, add_symlink

SMALL = evolve(UNIXFS_V1_2025, chunk=100, width=4)


def folder(blocks: Any, *links: tuple[bytes, bytes]) -> bytes:
    """Put a folder with any names, also such as no file can have."""
    block = dagpb.encode([PBLink(cid, name, 0) for name, cid in links], dagpb.FOLDER)
    blocks.put(cids.pb_cid(block), block)
    return cids.pb_cid(block)


def file(blocks: Any, data: bytes) -> bytes:
    return add_file(io.BytesIO(data).read, SMALL, blocks.put).cid


def names(blocks: Any, cid: bytes) -> set[str]:
    return {entry.name for entry in reader.entries(blocks.fetch, cid)}


def test_a_tree_comes_back_as_it_was(blocks: Any, noise: Any, tmp_path: Path) -> None:
    """Files, empty folders, symbolic links that lead nowhere or in a circle, and names of any bytes come back."""
    tree = tmp_path / "in"
    (tree / "empty").mkdir(parents=True)
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "large").write_bytes(noise(5000, 1))
    (tree / "a" / os.fsdecode(b"caf\xe9")).write_bytes(b"latin-1")
    (tree / "circle").symlink_to("circle")
    (tree / "up").symlink_to("../..")
    link = add_tree(tree, SMALL, blocks.put)
    assert link.size == 5007
    extract(blocks.fetch, link.cid, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b" / "large").read_bytes() == noise(5000, 1)
    assert (tmp_path / "out" / "a" / os.fsdecode(b"caf\xe9")).read_bytes() == b"latin-1"
    assert list((tmp_path / "out" / "empty").iterdir()) == []
    assert os.readlink(tmp_path / "out" / "circle") == "circle"
    assert os.readlink(tmp_path / "out" / "up") == "../.."
    assert add_tree(tmp_path / "out", SMALL, blocks.put) == link
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_file_or_a_symbolic_link_is_a_tree_too(blocks: Any, tmp_path: Path) -> None:
    """What is named itself is taken, hidden or not, and a symbolic link as what it is."""
    (tmp_path / ".file").write_bytes(b"x" * 250)
    (tmp_path / "link").symlink_to(".file")
    one, two = (add_tree(str(tmp_path / name), SMALL, blocks.put) for name in (".file", "link"))
    assert (one.cid, one.size) == (file(blocks, b"x" * 250), 250)
    assert two == add_symlink(b".file", SMALL, blocks.put)
    extract(blocks.fetch, one.cid, tmp_path / "one")
    extract(blocks.fetch, two.cid, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == b"x" * 250
    assert os.readlink(tmp_path / "two") == ".file"


def test_hidden_entries_are_taken_when_asked_for(blocks: Any, tmp_path: Path) -> None:
    """Names that begin with a dot are left out, of files and of folders, unless `hidden` is said."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / ".hidden").touch()
    (tmp_path / "seen" / "file").touch()
    seen = add_tree(tmp_path, SMALL, blocks.put).cid
    assert names(blocks, seen) == {"seen"}
    assert names(blocks, reader.resolve(blocks.fetch, cids.to_text(seen) + "/seen")) == {"file"}
    everything = add_tree(tmp_path, SMALL, blocks.put, hidden=True).cid
    assert names(blocks, everything) == {".git", "seen"}


def test_what_is_no_file_is_refused_by_its_path(blocks: Any, tmp_path: Path) -> None:
    """A pipe, a socket or a device is an error that names it; nobody waits for it."""
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    pipe = tmp_path / "tree" / "inner" / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidRequestError, match=f"{pipe}: found a pipe"):
        add_tree(tmp_path / "tree", SMALL, blocks.put)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(InvalidRequestError, match="found a socket"):
            add_tree(tmp_path / "s", SMALL, blocks.put)
    with pytest.raises(InvalidRequestError, match="/dev/null: found a device"):
        add_tree("/dev/null", SMALL, blocks.put)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_what_a_process_has_open_is_no_path(blocks: Any, tmp_path: Path) -> None:
    """A shell passes it as one (`<(date)`): kept as the link that it is, nothing would be kept of what it gives out."""
    (tmp_path / "stdin").symlink_to("/proc/self/fd/0")
    with (tmp_path / "file").open("w+b") as file:
        for path in f"/dev/fd/{file.fileno()}", f"/proc/self/fd/{file.fileno()}", str(tmp_path / "stdin"):
            with pytest.raises(InvalidRequestError, match=f"{path}: found what this process has open; give the open"):
                add_tree(path, SMALL, blocks.put)


def test_what_vanishes_is_an_error_with_its_path(blocks: Any, tmp_path: Path) -> None:
    """A file that is there when its folder is listed, and then not any more, is named."""
    for name in "a", "b":
        (tmp_path / name).write_bytes(b"x" * 50)

    def put(cid: bytes, data: bytes) -> None:
        blocks.put(cid, data)
        (tmp_path / "b").unlink()

    with pytest.raises(InvalidRequestError, match=f"{tmp_path}/b: cannot be read: nothing is there, or not any more"):
        add_tree(tmp_path, SMALL, put)
    with pytest.raises(InvalidRequestError, match="no/where: cannot be read"):
        add_tree(tmp_path / "no" / "where", SMALL, blocks.put)


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_read_is_an_error(blocks: Any, tmp_path: Path, change: str) -> None:
    """A file that grows, shrinks or is written over between its pieces would be stored as something that never was."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(0, 0))

    def put(cid: bytes, data: bytes) -> None:
        blocks.put(cid, data)
        if len(blocks) == 1:
            with path.open("r+b") as log:
                log.truncate({"longer": 1500, "shorter": 500, "other": 1000}[change])
                log.write(b"y")

    with pytest.raises(InvalidRequestError, match=f"{path}: it was changed while it was read"):
        add_tree(path, SMALL, put)


def test_no_more_is_read_of_a_file_than_it_had_at_first(blocks: Any, tmp_path: Path) -> None:
    """One that grows as fast as it is read, as our own pack in a folder that is put does, would never end."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1000)
    read = 0

    def put(cid: bytes, data: bytes) -> None:
        nonlocal read
        read += len(data)
        assert read < 3000
        with path.open("ab") as log:
            log.write(data)

    with pytest.raises(InvalidRequestError, match=f"{path}: it was changed while it was read"):
        add_tree(path, SMALL, put)


def test_a_file_that_may_not_be_read_is_an_error_with_its_path(
    blocks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system says about a path is passed on with it, and what `put` raises is not taken for it."""
    (tmp_path / "file").touch()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        add_tree(tmp_path / "file", SMALL, refuse)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InvalidRequestError, match=f"{tmp_path}/file: cannot be read: Permission denied"):
        add_tree(tmp_path, SMALL, blocks.put)


def test_folders_are_as_deep_as_the_system_has_paths_for(blocks: Any) -> None:
    """A thousand of them, within one another, come out and in again; more is told, and nothing of it is left."""
    deep, cid = os.pathconf("/", "PC_PATH_MAX") // 4, file(blocks, b"x")
    with TemporaryDirectory() as within:
        try:
            for _ in range(deep):
                cid = folder(blocks, (b"d", cid))
            extract(blocks.fetch, cid, os.path.join(within, "out"))
            again = add_tree(os.path.join(within, "out"), SMALL, blocks.put).cid
            extract(blocks.fetch, again, os.path.join(within, "again"))
            for _ in range(deep):
                cid = folder(blocks, (b"d", cid))
            with pytest.raises(InvalidRequestError, match="cannot be written: File name too long"):
                extract(blocks.fetch, cid, os.path.join(within, "no"))
            assert sorted(os.listdir(within)) == ["again", "out"]
        finally:  # `shutil.rmtree` takes some hundred levels only
            subprocess.run(["rm", "-rf", *(entry.path for entry in os.scandir(within))], check=True)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../x", b"a/b", b"/etc/x", b"a\0b"])
def test_no_name_leads_out_of_its_folder(blocks: Any, tmp_path: Path, name: bytes) -> None:
    """A folder with such an entry is refused, and what was written of it is gone."""
    with pytest.raises(UnusableAnswer, match="no file can have that name"):
        extract(
            blocks.fetch, folder(blocks, (b"first", file(blocks, b"x")), (name, file(blocks, b"y"))), tmp_path / "o"
        )
    assert list(tmp_path.iterdir()) == []


def test_no_symbolic_link_is_written_through(blocks: Any, tmp_path: Path) -> None:
    """A folder that names a symbolic link, and then a folder in its place, is refused before anything is written."""
    (tmp_path / "victim").mkdir()
    link = add_symlink(os.fsencode(tmp_path / "victim"), SMALL, blocks.put).cid
    inner = folder(blocks, (b"x", file(blocks, b"x")))
    with pytest.raises(UnusableAnswer, match="two entries of one name"):
        extract(blocks.fetch, folder(blocks, (b"a", link), (b"a", inner)), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["victim"]


def test_what_is_there_is_never_replaced(blocks: Any, tmp_path: Path) -> None:
    """A file, a folder or a symbolic link in the target's place is an error, and stays as it was."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in "file", "folder", "link":
        with pytest.raises(InvalidRequestError, match="something is there"):
            extract(blocks.fetch, file(blocks, b"new"), tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(InvalidRequestError, match="no/where: cannot be written"):
        extract(blocks.fetch, file(blocks, b"new"), tmp_path / "no" / "where")


def test_a_tree_is_written_whole_or_not_at_all(blocks: Any, tmp_path: Path) -> None:
    """When a block is broken or absent in the middle, nothing is left, and the error is the one that it was."""
    root = folder(blocks, (b"a", file(blocks, b"a" * 300)), (b"b", file(blocks, b"b" * 300)))
    broken = dict(blocks)
    broken[cids.raw_cid(b"b" * 100)] = b"c" * 100
    with pytest.raises(UnusableAnswer, match="not those of its CID"):
        extract(broken.__getitem__, root, tmp_path / "out")
    del broken[cids.raw_cid(b"b" * 100)]
    with pytest.raises(KeyError):
        extract(broken.__getitem__, root, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tree_without_end_is_bounded(blocks: Any, tmp_path: Path) -> None:
    """Thirty blocks that stand for a milliard of files, or a terabyte of zeros, are written as far as is allowed."""
    cid = file(blocks, b"x")
    for _ in range(30):
        cid = folder(blocks, (b"a", cid), (b"b", cid))
    with pytest.raises(UnusableAnswer, match="more than 1000 files and folders"):
        extract(blocks.fetch, cid, tmp_path / "out", most_entries=1000)
    zeros = file(blocks, bytes(100))
    cid = folder(blocks, (b"a", zeros), (b"b", zeros), (b"c", zeros))
    with pytest.raises(UnusableAnswer, match="more than 250 bytes"):
        extract(blocks.fetch, cid, tmp_path / "out", most_bytes=250)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_part_of_a_tree_is_not_written(blocks: Any, tmp_path: Path) -> None:
    """An entry that is neither file, folder nor symbolic link, or a link to nothing that a path can be, is an error."""
    cbor = cids.cbor_cid(b"\xf6")
    blocks.put(cbor, b"\xf6")
    for root in cbor, folder(blocks, (b"a", cbor)):  # no block of it is wrong
        with pytest.raises(
            InvalidRequestError, match=r"bafyrei\w+: found a block of kind 'other', expected a file or a"
        ):
            extract(blocks.fetch, root, tmp_path / "out")
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        extract(blocks.fetch, add_symlink(b"a\0b", SMALL, blocks.put).cid, tmp_path / "out")
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        extract(blocks.fetch, folder(blocks, (b"n" * 256, file(blocks, b"x"))), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
