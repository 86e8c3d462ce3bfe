"""The contract of stores that can be written to."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ...content import Stored
from ...errors import BackendError, BackendTimeout, ContentNotFoundError, InvalidRequestError, UnusableAnswer
from ...scope import Scope
from ._store import StoreReads
from ._stored import UNKNOWN, Endless, Failing, Shelf, car_of, grow, noise, raw_cid, text_of
from ._suite import needs

_PIECE = 1 << 20


class StoreContract(StoreReads):
    """Inherit it in your tests, write `make_store`, and get the suite.

        class TestBox(StoreContract):
            @pytest.fixture(autouse=True)
            def folder(self, tmp_path):
                self.path = tmp_path / "box"

            def make_store(self):
                return Box(path=self.path)

    Other tests may use the same content at the same time, only nobody may `collect`. Tests that do not apply are not
    collected, as with `ProviderContract`: `make_store` is called before there are fixtures, or your own `sample`.
    """

    hooks = (*StoreReads.hooks, "store", "import_car", "pin", "unpin", "verify")

    def test_says_what_it_kept(self, shelf: Shelf, tmp_path: Path) -> None:
        """CID, size and kind of files, streams, folders and symbolic links: the same content has the same CID."""
        hello = shelf.put(b"hello world")
        assert hello == Stored("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", 11)
        (tmp_path / "file").write_bytes(b"hello world")
        assert shelf.put(tmp_path / "file") == hello
        assert pickle.loads(pickle.dumps(hello)) == hello  # noqa: S301 - our own
        empty = shelf.put(b"")
        assert empty == Stored("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0)
        data = noise(3 * _PIECE, "kept")
        large = shelf.put(io.BufferedReader(_Slow(data)))
        assert (large.size, large.kind) == (len(data), "file")
        assert shelf.put(data) == large
        content = grow(tmp_path / "folder")
        folder = shelf.put(tmp_path / "folder")
        assert (folder.size, folder.kind) == (sum(len(w) for w in content.values() if isinstance(w, bytes)), "folder")
        assert shelf.put(tmp_path / "folder", hidden=False).cid != folder.cid
        assert shelf.put(tmp_path / "folder" / "in" / "broken").kind == "symlink"

    def test_profiles(self, shelf: Shelf) -> None:
        """A source may name how it becomes blocks, which gives it another CID; a name of none is refused."""
        assert shelf.put(b"hello world", profile="cid-v0").cid == "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"
        assert shelf.whole("Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD") == b"hello world"
        with pytest.raises(InvalidRequestError, match="profile"):
            shelf.put(b"hello world", profile="nonsense")

    def test_tells_its_progress(self, shelf: Shelf, tmp_path: Path) -> None:
        """The bytes that it was told add up to the content."""
        for source in noise(3 * _PIECE + 7, "progress"), tmp_path:
            (tmp_path / "file").write_bytes(b"12345")
            for profile in "unixfs-v1-2025", "cid-v0":
                told: list[int] = []
                assert shelf.put(source, profile=profile, progress=told.append).size == sum(told)

    def test_a_source_that_fails_leaves_nothing(self, shelf: Shelf, tmp_path: Path) -> None:
        """What cannot be read to its end is an `InvalidRequestError`; nothing of it is pinned or there."""
        before = shelf.pinned()
        for size in 0, 10, 3 * _PIECE, 20 * _PIECE:
            data = noise(size)
            with pytest.raises(InvalidRequestError):
                shelf.put(Failing(data))
            assert shelf.pinned() <= before
        with pytest.raises(InvalidRequestError, match="nothing"):
            shelf.put(tmp_path / "nothing")
        assert not shelf.there(text_of(raw_cid(b"nothing that was put")))

    def test_pins(self, shelf: Shelf) -> None:
        """What is put is pinned unless told otherwise; pins are set and taken back, as often as one likes."""
        pinned, loose = shelf.put(noise(_PIECE + 1)).cid, shelf.put(noise(_PIECE + 2), pin=False).cid
        assert pinned in shelf.pinned()
        assert loose not in shelf.pinned()
        for _ in range(2):
            shelf.pin(loose)
            assert loose in shelf.pinned()
        for _ in range(2):
            shelf.unpin(pinned)
            assert pinned not in shelf.pinned()
        shelf.unpin(UNKNOWN)
        with pytest.raises(ContentNotFoundError):
            shelf.pin(UNKNOWN)
        assert UNKNOWN not in shelf.pinned()
        for wrong in "", "xyz", "../a":
            for call in shelf.pin, shelf.unpin, shelf.verify:
                with pytest.raises(InvalidRequestError):
                    call(wrong)

    def test_takes_a_car(self, shelf: Shelf, tmp_path: Path) -> None:
        """What was exported is taken again: the same root, pinned or not; and a root that is there already."""
        grow(tmp_path / "folder")
        folder = shelf.put(tmp_path / "folder")
        shelf.unpin(folder.cid)
        car = shelf.export(folder.cid)
        assert shelf.take(car, pin=False) == [folder]
        assert folder.cid not in shelf.pinned()
        assert shelf.take(car) == [folder]
        assert folder.cid in shelf.pinned()
        assert shelf.export(folder.cid) == car
        fresh = noise(5000)
        root = text_of(raw_cid(fresh))
        assert shelf.take(car_of(raw_cid(fresh), fresh)) == [Stored(root, 5000)]
        assert shelf.whole(root) == fresh
        assert shelf.take(car_of(raw_cid(fresh))) == [Stored(root, 5000)]

    def test_a_car_that_is_not_whole(self, shelf: Shelf) -> None:
        """One that was altered or cut is the caller's error; one that lacks blocks of a root cannot be pinned."""
        fresh, large = noise(5000), shelf.put(noise(8 * _PIECE), pin=False)
        car = car_of(raw_cid(fresh), fresh)
        exported = shelf.export(large.cid)
        wrong = [car[:-1] + bytes((car[-1] ^ 1,)), car[:-1], car[:20], b"", b"<html>"]
        wrong += [exported[:-1], exported[:-1] + bytes((exported[-1] ^ 1,))]
        for bad in wrong:
            with pytest.raises(InvalidRequestError):
                shelf.take(bad)
        with pytest.raises(UnusableAnswer):
            shelf.take(car_of(raw_cid(fresh)))
        assert not {text_of(raw_cid(fresh)), large.cid} & shelf.pinned()
        assert not shelf.there(text_of(raw_cid(fresh)))
        assert [stored.cid for stored in shelf.take(car_of(raw_cid(fresh)), pin=False)] == [text_of(raw_cid(fresh))]

    def test_finds_nothing_wrong(self, shelf: Shelf, tmp_path: Path) -> None:
        """What is sound is passed over; what is not there is told."""
        grow(tmp_path / "folder")
        cid = shelf.put(tmp_path / "folder").cid
        assert shelf.verify(cid) == []
        assert [finding.cid for finding in shelf.verify(UNKNOWN)] == [UNKNOWN]

    def test_tells_how_far_it_has_verified(self, shelf: Shelf) -> None:
        """All bytes that are read again are told of, under a CID as in all of it."""
        stored = shelf.put(noise(3 * _PIECE + 7, "verified"))
        for cid in stored.cid, None:
            told: list[int] = []
            shelf.verify(cid, progress=told.append)
            assert sum(told) >= stored.size
            assert len(told) > 1

    @needs("damage")
    def test_finds_damage(self, shelf: Shelf) -> None:
        """A block that was changed on the disk is never given out, and `verify` names it."""
        cid = shelf.put(noise(5000)).cid
        self.damage(cid)
        shelf.close()
        reads: dict[str, Callable[[str], bytes]] = {"fetch": shelf.whole, "export_car": shelf.export}
        for way, read in reads.items():
            ended = self.run(read, cid)
            assert isinstance(ended.error, UnusableAnswer), f"{way}: found {ended!r}"
        assert [finding.cid for finding in shelf.verify(cid)] == [cid]
        assert cid in {finding.cid for finding in shelf.verify(None)}
        shelf.unpin(cid)

    @needs("collect")
    def test_collects_what_no_pin_keeps(self, shelf: Shelf) -> None:
        """What is not pinned goes, what was put just now perhaps with the next collection; what a pin reaches stays."""
        pinned, loose = shelf.put(noise(_PIECE + 1)).cid, shelf.put(noise(5000), pin=False).cid
        assert sum(shelf.collect().bytes for _ in range(2)) >= 5000
        assert not shelf.there(loose)
        assert shelf.there(pinned)
        shelf.unpin(pinned)
        assert sum(shelf.collect().blocks for _ in range(2)) >= 1
        assert not shelf.there(pinned)

    def test_a_put_ends_when_it_must(self, shelf: Shelf) -> None:
        """A stream without an end is given up when the time is up, or nobody waits; nothing of it is pinned."""
        before = shelf.pinned()
        ended = self.run(shelf.put, Endless(), Scope(self.short_s))
        assert isinstance(ended.error, BackendTimeout), f"found {ended!r}"
        scope = Scope(self.timeout_s)
        begun = self.begin(shelf.put, Endless(), scope)
        threading.Timer(self.short_s, scope.cancel).start()
        ended = self.ended(*begun)
        assert isinstance(ended.error, BackendError), f"found {ended!r}"
        assert shelf.pinned() <= before

    def test_obeys_passed_limits_in_every_call(self, shelf: Shelf) -> None:
        """With no time left, or nobody waiting, each call ends at once, if with an error then with a `BackendError`."""
        cid, car = shelf.put(noise(5000)).cid, car_of(raw_cid(b"x"), b"x")
        calls: dict[str, Callable[[Scope], Any]] = {
            "store": lambda scope: shelf.put(b"late", scope),
            "has": lambda scope: shelf.there(cid, scope),
            "pin": lambda scope: shelf.pin(cid, scope),
            "unpin": lambda scope: shelf.unpin(cid, scope),
            "import_car": lambda scope: shelf.take(car, scope=scope),
            "verify": lambda scope: shelf.verify(cid, scope),
            "entries": lambda scope: shelf.entries(None, scope),
        }
        for name, call in calls.items():
            ended = self.run(call, Scope(0.0))
            assert ended.error is None or isinstance(ended.error, BackendTimeout), f"{name}: found {ended!r}"
            scope = Scope(self.timeout_s)
            scope.cancel()
            ended = self.run(call, scope)
            assert ended.error is None or isinstance(ended.error, BackendError), f"{name}: found {ended!r}"

    def test_many_threads_write(self, shelf: Shelf) -> None:
        """They keep the same content and their own, all at once, and each of it is whole."""
        same = noise(2 * _PIECE)

        def work(number: int) -> list[tuple[str, bytes]]:
            own = [noise(size) for size in (100, _PIECE + number)]
            return [(shelf.put(data).cid, data) for data in (*own, same)]

        begun = [self.begin(work, number) for number in range(self.threads)]
        for each in begun:
            ended = self.ended(*each, within=self.timeout_s)
            assert ended.error is None, f"found {ended.error!r}"
            for cid, data in ended.value:
                assert shelf.whole(cid) == data
                assert cid in shelf.pinned()


class _Slow(io.RawIOBase):
    """A stream that gives out less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = min(len(buffer), 70_001, len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
