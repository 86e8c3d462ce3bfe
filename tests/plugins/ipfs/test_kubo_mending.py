"""Damaged blocks of a node are replaced, though it writes nothing it believes to have, and keeps what is pinned."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman import BackendError, Scope, UnavailableError, UnusableAnswer
from pointsman.content import Source
from pointsman_ipfs import Kubo
from pointsman_ipfs.dag.cid import parse, raw_cid, to_text

pytestmark = pytest.mark.kubo
MIB = 1 << 20


class Content:
    """A folder with a file of three blocks on a node, pinned by us; the file and a node above the folder by others."""

    def __init__(self, kubo: Any, folder: Path, data: bytes, transport: Any) -> None:
        folder.mkdir()
        (folder / "file").write_bytes(data)
        self.sound = dict[Path, bytes]()
        self.kubo, self.store = kubo, Kubo(url=kubo.api, transport=transport)
        self.folder = self.store.store(Source(path=folder), Scope(60)).cid
        (entry,) = self.store.entries(self.folder, Scope(60))
        self.file, self.data = entry.cid, data
        self.leaves = [to_text(raw_cid(data[at : at + MIB])) for at in range(0, len(data), MIB)]
        put = kubo.run("dag", "put", "--pin", stdin=f'{{"of": {{"/": "{self.folder}"}}}}'.encode())
        self.above = put.decode().strip()
        kubo.run("pin", "add", "--name", "the file", self.file)
        self.car = b"".join(self.store.export_car(self.folder, Scope(60)))
        self.pins = self.pinned()

    def pinned(self) -> dict[str, str]:
        """Return the names of all pins that were set, by their CIDs."""
        found = self.kubo.run("pin", "ls", "--names", "--type=recursive").decode().splitlines()
        return {line.split()[0]: line.partition(" recursive")[2].strip() for line in found}

    def damage(self, cid: str, how: Callable[[bytes], bytes] = lambda data: data[:-1] + bytes((data[-1] ^ 1,))) -> None:
        path = self.kubo.block_file(parse(cid))
        data = self.sound[path] = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(how(data))

    def mend(self, car: bytes | None = None) -> Any:
        return self.store.mend(io.BytesIO(car or self.car), Scope(60))

    def found(self) -> set[str]:
        return {finding.cid for finding in self.store.verify(self.folder, bool, Scope(60))}

    def close(self) -> None:
        self.store.close()
        for path, data in self.sound.items():  # other tests use the node, too
            path.write_bytes(data)
        for cid in {self.folder, self.file, self.above} & set(self.pinned()):
            self.kubo.run("pin", "rm", cid)


@pytest.fixture
def content(request: pytest.FixtureRequest, own_kubo: Any, tmp_path: Path, noise: Any, needs_package: Any) -> Any:
    transport = getattr(request, "param", "http")
    if transport == "ipfshttpclient":
        needs_package()
    made = Content(own_kubo, tmp_path / "folder", noise(3 * MIB, request.node.name), transport)
    yield made
    made.close()


over_both = pytest.mark.parametrize("content", ["http", "ipfshttpclient"], indirect=True)


@pytest.mark.parametrize(
    "how",
    [lambda data: bytes((data[0] ^ 255,)) + data[1:], lambda data: b"", lambda data: data + bytes(3 * MIB)],
    ids=["bit", "empty", "grown"],
)
@pytest.mark.parametrize("place", ["leaf", "file", "folder", "all"])
def test_what_is_damaged_is_replaced(content: Content, place: str, how: Callable[[bytes], bytes]) -> None:
    """Leaves, nodes that cannot even be parsed, and the root: all is sound again, and pinned under the same names."""
    places = {"leaf": [content.leaves[1]], "file": [content.file], "folder": [content.folder]}
    places["all"] = [content.leaves[0], content.leaves[2], content.file, content.folder]
    for cid in places[place]:
        content.damage(cid, how)
    with pytest.raises(UnusableAnswer):
        b"".join(content.store.fetch(f"{content.folder}/file", 0, None, Scope(60)))
    assert [stored.cid for stored in content.mend()] == [content.folder]
    assert content.found() == set()
    assert b"".join(content.store.fetch(f"{content.folder}/file", 0, None, Scope(60))) == content.data
    assert content.pinned() == content.pins


@over_both
def test_a_part_is_replaced_under_the_pins_of_the_whole(content: Content) -> None:
    """A CAR of one damaged block is enough; what is missing comes back, too."""
    one = b"".join(content.store.export_car(content.leaves[1], Scope(60)))
    node = b"".join(content.store.export_car(content.file, Scope(60)))
    content.damage(content.leaves[1])
    content.mend(one)
    assert content.found() == set()
    content.kubo.block_file(parse(content.leaves[1])).unlink()
    assert content.found() == {content.leaves[1]}
    content.mend(one)
    assert content.found() == set()
    content.damage(content.file)
    content.mend(node)
    assert content.found() == set()
    assert content.pinned() == content.pins


@over_both
def test_pins_come_back_after_an_interruption(content: Content, noise: Any) -> None:
    """It ends between taking pins away and setting them again: the next mending, of anything, sets them."""
    other = content.store.store(Source(file=io.BytesIO(b"other")), Scope(60)).cid
    kept = {**content.pins, other: ""}
    content.damage(content.leaves[1])
    with pytest.raises(BackendError):
        content.mend(content.car[:-1])
    lost = set(kept) - set(content.pinned())
    assert lost
    assert content.folder in lost
    (note,) = {name for cid, name in content.pinned().items() if cid not in kept}
    assert "to be pinned again" in note
    content.mend(b"".join(content.store.export_car(other, Scope(60))))
    assert content.pinned() == kept


def test_what_a_mending_left_unpinned_is_told(content: Content) -> None:
    """Nothing else may be wrong with it: to verify all, or that, says so, until it is mended, or pinned again."""
    content.damage(content.leaves[1])
    with pytest.raises(BackendError):
        content.mend(content.car[:-1])
    lost = set(content.pins) - set(content.pinned())
    assert {one.cid for one in content.store.verify(None, bool, Scope(60)) if "is not pinned" in one.problem} == lost
    assert content.folder in lost
    assert content.found() >= {content.folder}
    content.mend()
    assert list(content.store.verify(None, bool, Scope(60))) == []


def test_what_stands_in_for_a_note_keeps_nothing_from_being_mended(content: Content) -> None:
    """It is left, under the name of a note, by who is killed while it notes what is to be pinned again."""
    put = content.kubo.run("dag", "put", stdin=b'{"pointsman": "to be pinned", "links": []}').decode().strip()
    content.kubo.run("pin", "add", "--name", "pointsman: to be pinned again", put)
    content.damage(content.leaves[1])
    content.mend()
    assert list(content.store.verify(None, bool, Scope(60))) == []
    content.kubo.run("pin", "rm", put)


@over_both
def test_what_is_unpinned_does_not_come_back(content: Content) -> None:
    """It was unpinned after a mending had been interrupted: the next one does not set its pin again."""
    other = content.store.store(Source(file=io.BytesIO(b"other")), Scope(60)).cid
    content.damage(content.leaves[1])
    with pytest.raises(BackendError):
        content.mend(content.car[:-1])
    assert content.folder not in content.pinned()
    content.store.unpin(content.folder, Scope(60))
    content.mend(b"".join(content.store.export_car(other, Scope(60))))
    assert content.pinned() == {cid: name for cid, name in content.pins.items() if cid != content.folder} | {other: ""}


@over_both
def test_a_pin_that_could_not_be_set_again_is_left(content: Content) -> None:
    """Something that is pinned has the damaged block, and lacks others that do not come: nothing is touched."""
    one = b"".join(content.store.export_car(content.leaves[1], Scope(60)))
    content.damage(content.leaves[1])
    content.damage(content.leaves[0])
    content.kubo.block_file(parse(content.leaves[0])).unlink()
    with pytest.raises(UnavailableError, match="cannot be replaced: pinned via"):
        content.mend(one)
    assert content.pinned() == content.pins
    content.mend()
    assert content.found() == set()
    assert content.pinned() == content.pins


def test_damage_that_no_pin_keeps_is_told_with_what_to_do(content: Content) -> None:
    """No store may have that any more; unless something that is pinned is damaged, which may have led to it."""
    loose = content.store.store(Source(file=io.BytesIO(b"loose"), pin=False), Scope(60)).cid
    content.damage(loose)
    (found,) = content.store.verify(None, bool, Scope(60))
    advice = "no pin keeps it: `ipfs repo gc` removes it, unless it is of a file under `ipfs files ls`"
    assert (found.cid, found.problem.endswith(advice)) == (loose, True)
    content.damage(content.file)
    told = [found.problem for found in content.store.verify(None, bool, Scope(60))]
    assert len(told) == 2
    assert not any("no pin keeps it" in problem for problem in told)


@over_both
@pytest.mark.parametrize("call", ["put", "pin"])
def test_a_damaged_block_of_our_own_keeps_nothing_from_being_pinned(content: Content, noise: Any, call: str) -> None:
    """The block that stands in for a root while that is pinned is removed if it is damaged: the next try writes it."""
    data, blocks = noise(1000, f"{call} {content.store.transport}"), content.kubo.home / "blocks"

    def put() -> str:
        return content.store.store(Source(file=io.BytesIO(data)), Scope(60)).cid

    before = set(blocks.glob("*/*.data"))
    cid = put()
    (own,) = (path for path in set(blocks.glob("*/*.data")) - before if b"to be pinned" in path.read_bytes())
    content.kubo.run("pin", "rm", cid)
    own.chmod(0o600)
    own.write_bytes(b"\xff" + own.read_bytes()[1:])
    again: Callable[[], object] = put if call == "put" else lambda: content.store.pin(cid, Scope(60))
    with pytest.raises(BackendError):
        again()
    again()
    assert cid in content.pinned()
    content.kubo.run("pin", "rm", cid)
