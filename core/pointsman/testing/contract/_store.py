"""The contract of stores as test suites to inherit: every rule that their callers rely on, one test each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import pytest

from ...content import Source
from ...errors import BackendError, BackendTimeout, ContentNotFoundError, InvalidRequestError
from ...scope import Scope
from ..leaks import leaks_since, resources
from ._secrecy import check_hidden
from ._stored import UNKNOWN, Shelf, car_of, found_in, grow, noise, raw_cid
from ._suite import Failure, Subject, Suite, needs

#: What nobody may take for a CID: of the wrong form, base or length, and what could be a path.
_MALFORMED = ["", " ", "/", "xyz", "bafy", "Qm", UNKNOWN[:-1], UNKNOWN + "a", "b" * 2000, "bafkrei\0" + "a" * 51]
_MALFORMED += [
    "../../etc/passwd",
    "/ipfs/",
    "ipfs://",
    "/ipfs/../a",
    "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyq",
]
_PIECE = 1 << 20  #: bytes of the pieces that most stores make of a file: what is around them is tried
_SIZES = [0, 1, 1000, _PIECE - 1, _PIECE, _PIECE + 1, 3 * _PIECE + 5]


class StoreReads(Suite):
    """What holds for every store, also for one that only reads.

    Write `make_store(self)`, and `keep(self, source)` if the content must get there in another way than by the store.
    """

    #: The hooks that it must have.
    hooks: ClassVar[tuple[str, ...]] = ("fetch", "resolve", "has", "entries", "extract", "export_car")
    #: A method `damage(self, cid)` that changes a byte of a block of plain bytes where the store keeps it.
    damage: Any = None

    def make_store(self) -> Any:
        """Return a new store on the same content as the last one."""
        raise TypeError(f"{type(self).__name__}: write make_store(self)")

    def keep(self, source: Source) -> str:
        """Bring content to where the store finds it, and return its CID."""
        shelf = Shelf(self.make_store())
        try:
            return str(shelf.provider.store(source, shelf.scope()).cid)
        finally:
            shelf.close()

    def build(self, failure: Failure | None = None) -> Any:
        """Return what `make_store` makes."""
        return self.make_store()

    def parts(self, subject: Subject) -> dict[str, bool]:
        """Say which of the parts it has that tests are marked with."""
        return {**super().parts(subject), "collect": subject.has("collect"), "damage": self.damage is not None}

    @pytest.fixture
    def shelf(self) -> Iterator[Shelf]:
        """A store, closed after the test."""
        shelf = Shelf(self.make_store(), self.timeout_s)
        yield shelf
        shelf.close()

    def kept(self, data: bytes, tmp_path: Path) -> str:
        """Keep these bytes, and return their CID."""
        path = tmp_path / "kept"
        path.write_bytes(data)
        return self.keep(Source(path=path))

    def test_has_its_hooks(self, shelf: Shelf) -> None:
        """It has every hook that the other tests call: where one is missing, those fail in less clear words."""
        missing = [hook for hook in self.hooks if not shelf.has(hook)]
        assert not missing, f"it has no hook {', '.join(missing)}"

    @pytest.mark.parametrize("size", _SIZES)
    def test_gives_back_what_was_kept(self, shelf: Shelf, tmp_path: Path, size: int) -> None:
        """A file comes back as it was, whole, and in parts around the ends of its pieces and of itself."""
        data = noise(size, ("file", size))
        cid = self.kept(data, tmp_path)
        assert shelf.whole(cid) == data
        assert shelf.whole(f"ipfs://{cid}") == data
        for offset in {0, 1, size // 2, _PIECE - 1, _PIECE, size - 1, size, size + 1, size + _PIECE} - {-1}:
            for length in (0, 1, 2, _PIECE, None):
                end = None if length is None else offset + length
                assert shelf.whole(cid, offset, length) == data[offset:end], f"bytes {offset} to {end} of {size}"

    def test_gives_back_a_folder(self, shelf: Shelf, tmp_path: Path) -> None:
        """Its entries are listed with names, kinds and sizes, read by path, and extracted as they were."""
        content = grow(tmp_path / "folder")
        cid = self.keep(Source(path=tmp_path / "folder"))
        listed = {entry.name: entry for entry in shelf.entries(cid)}
        assert listed.keys() == {name for name in content if "/" not in name}
        assert {name: entry.kind for name, entry in listed.items() if entry.kind != "file"} == {
            "in": "folder",
            "nothing": "folder",
        }
        assert listed["a.txt"].size == 5
        assert shelf.whole(listed["a.txt"].cid) == b"hello"
        assert shelf.named(f"ipfs://{cid}/a.txt") == listed["a.txt"].cid
        assert shelf.named(f"/ipfs/{cid}") == shelf.named(cid) == cid
        assert {entry.name: entry.kind for entry in shelf.entries(f"{cid}/in")} == {
            "deep": "folder", "same": "file", "link": "symlink", "broken": "symlink"
        }  # fmt: skip
        for name, what in content.items():
            if isinstance(what, bytes):
                assert shelf.whole(f"{cid}/{name}") == what, name
        shelf.extract(cid, tmp_path / "out")
        assert found_in(tmp_path / "out") == content
        shelf.extract(f"{cid}/in/deep", tmp_path / "deep")
        assert found_in(tmp_path / "deep") == {"large": content["in/deep/large"]}
        assert shelf.there(cid)
        assert shelf.there(f"{cid}/in/deep/large")

    def test_extracts_whole_or_not_at_all(self, shelf: Shelf, tmp_path: Path) -> None:
        """Where something is, nothing is written; where it is absent, nothing is left behind."""
        target = tmp_path / "place" / "target"
        target.parent.mkdir()
        with pytest.raises(ContentNotFoundError):
            shelf.extract(UNKNOWN, target)
        assert list(target.parent.iterdir()) == []
        target.write_text("mine")
        cid = self.kept(b"theirs", tmp_path)
        with pytest.raises(InvalidRequestError):
            shelf.extract(cid, target)
        assert [path.read_text() for path in target.parent.iterdir()] == ["mine"]

    def test_exports_a_car(self, shelf: Shelf, tmp_path: Path) -> None:
        """A block of plain bytes is a CAR of version 1 of known form, and one of more blocks has them all."""
        data = noise(300, "exported")
        assert shelf.export(self.kept(data, tmp_path)) == car_of(raw_cid(data), data)
        data = noise(2 * _PIECE, "large")
        car = shelf.export(self.kept(data, tmp_path))
        assert data[:_PIECE] in car
        assert data[_PIECE:] in car

    def test_absent_content(self, shelf: Shelf, tmp_path: Path) -> None:
        """What is not there is `ContentNotFoundError`, from each way to read, and `has` says no."""
        assert not shelf.there(UNKNOWN)
        for way, read in shelf.reading().items():
            ended = self.run(read, UNKNOWN, tmp_path, None)
            assert isinstance(ended.error, ContentNotFoundError), f"{way}: found {ended!r}"

    @pytest.mark.parametrize("text", _MALFORMED, ids=lambda text: repr(text[:20]))
    def test_what_is_no_cid(self, shelf: Shelf, tmp_path: Path, text: str) -> None:
        """It is `InvalidRequestError` with a message, from each way to read and from `has`; nothing is written."""
        for way, read in {**shelf.reading(), "has": lambda cid, _, scope: shelf.there(cid, scope)}.items():
            ended = self.run(read, text, tmp_path, None)
            assert isinstance(ended.error, InvalidRequestError), f"{way}: found {ended!r}"
            assert ended.error.message, way
        assert list(tmp_path.iterdir()) == []

    def test_what_is_of_another_kind(self, shelf: Shelf, tmp_path: Path) -> None:
        """A folder is no file, a file no folder; an entry that is in no folder is `ContentNotFoundError`, too."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_bytes(b"x")
        cid = self.keep(Source(path=tmp_path / "folder"))
        for read, wrong in (shelf.whole, cid), (shelf.entries, f"{cid}/file"):
            with pytest.raises(InvalidRequestError):
                read(wrong)
        for nowhere in f"{cid}/nothing", f"{cid}/file/deeper":
            assert not shelf.there(nowhere)
            for read in shelf.whole, shelf.entries:
                with pytest.raises(ContentNotFoundError):
                    read(nowhere)

    def test_obeys_limits_that_have_passed(self, shelf: Shelf, tmp_path: Path) -> None:
        """With no time left, or nobody waiting, each way ends at once, if with an error then with the right one."""
        cid = self.kept(noise(3 * _PIECE, "limits"), tmp_path)
        for way, read in shelf.reading().items():
            ended = self.run(read, cid, tmp_path, Scope(0.0))
            assert ended.error is None or isinstance(ended.error, BackendTimeout | InvalidRequestError), (
                f"{way}: found {ended!r}"
            )
            scope = Scope(self.timeout_s)
            scope.cancel()
            ended = self.run(read, cid, tmp_path, scope)
            assert ended.error is None or isinstance(ended.error, BackendError), f"{way}: found {ended!r}"

    def test_leaving_and_cancelling(self, shelf: Shelf, tmp_path: Path) -> None:
        """Who closes the pieces, or cancels, stops the work at once; the next read is whole."""
        data = noise(5 * _PIECE, "left")
        cid = self.kept(data, tmp_path)
        for how in "close", "cancel":
            scope = Scope(self.timeout_s)
            pieces: Any = shelf.fetch(cid, scope=scope)
            assert data.startswith(next(pieces))
            began = monotonic()
            if how == "close":
                pieces.close()
            else:
                scope.cancel()
                ended = self.run(lambda pieces=pieces: sum(map(len, pieces)))
                assert isinstance(ended.error, BackendError), f"after a cancel: found {ended!r}"
            assert monotonic() - began < self.patience_s
        assert shelf.whole(cid) == data

    def test_many_threads_read(self, shelf: Shelf, tmp_path: Path) -> None:
        """They get their own content, all at once."""
        contents = [noise(_PIECE + number, ("thread", number)) for number in range(self.threads)]
        cids = [self.kept(data, tmp_path) for data in contents]
        begun = [self.begin(lambda cid=cid: [shelf.whole(cid) for _ in range(3)]) for cid in cids]
        for data, each in zip(contents, begun, strict=True):
            ended = self.ended(*each, within=self.timeout_s)
            assert ended.error is None, f"found {ended.error!r}"
            assert ended.value == [data] * 3

    @needs("health")
    def test_health(self, shelf: Shelf) -> None:
        """It is well, and says so within seconds."""
        health = self.run(shelf.health).value
        assert health.status == "healthy", f"found {health!r}"

    def test_leaves_nothing_behind(self, tmp_path: Path) -> None:
        """After `close` there is no thread, child process or socket of it; and it can be used again."""
        cid = self.kept(b"left", tmp_path)
        before = resources()
        shelf = Shelf(self.make_store())
        for _ in range(2):
            assert shelf.whole(cid) == b"left"
            shelf.close()
            left = leaks_since(before, self.patience_s)
            assert not left, f"left behind: {left}"

    @needs("key")
    def test_no_key_in_a_repr(self, shelf: Shelf) -> None:
        """Neither the store's repr nor what is in it shows a key."""
        store = shelf.provider
        check_hidden(self.secrets(store), "the store", repr(store), str(store), repr(getattr(store, "__dict__", "")))
