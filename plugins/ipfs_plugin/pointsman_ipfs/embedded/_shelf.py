"""Reading blocks from packs: every one is hashed, and one that is wrong is put aside, for whoever wants to see it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import time_ns

from pointsman import ContentNotFoundError, UnavailableError, UnusableAnswer
from pointsman.content import Progress
from pointsman.forks import Shared

from ..dag.cid import matches, to_text, version_1
from ._disk import standing
from ._index import Place
from ._packs import Mark, Record, cid_before, if_there, is_formed, packs_in, scanned
from ._places import Places

#: Packs that are kept open at most.
_OPEN = 64


class Shelf(Shared):
    """Reads the blocks of one store. Thread-safe; a forked child keeps no file open: packs may go meanwhile.

    :param quarantine: the folder for what is wrong; None where nothing can be put aside.
    """

    def __init__(self, places: Places, quarantine: Path | None) -> None:
        self._places, self._quarantine = places, quarantine
        self._generation = places.generation
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _File] = {}

    def get(self, cid: bytes) -> bytes:
        """Return the bytes of a block, verified.

        :raises ContentNotFoundError: it is not here.
        :raises UnusableAnswer: its bytes are damaged: they have been put aside, where that can be done.
        """
        digest, missed, wrong = cid[-32:], 0, set[Place]()
        while (place := self._places.find(digest)) is not None and place not in wrong:
            data = self._read(place)
            if data is not None and matches(cid, data):
                return data
            if data is None and missed < 2:  # the pack is gone: its blocks may have moved
                missed += 1
                self._places.forget(digest)
                self._places.catch_up()
                continue
            self._put_aside(cid, place, data)
            self.look_elsewhere({cid: place})
            wrong.add(place)
        if place or any(damaged[-32:] == digest for damaged in self._places.index.damaged()):
            raise UnusableAnswer(f"block {to_text(cid)} was damaged on this disk{self._aside(cid)}", try_next=True)
        self._places.look()
        raise ContentNotFoundError(f"block {to_text(cid)} is not in this store")

    def holds(self, cid: bytes, data: bytes) -> bool:
        """Whether the store has these bytes of a block: what stands in a pack is read, and put aside if it is wrong.

        What is more than plain bytes has to stand there as what it is.
        """
        place = self._places.find(cid[-32:])
        if place is None:
            return False
        if (file := self._open.get(place.pack)) is not None and standing(file.number) != file.stood:
            with self._lock:  # it was removed, or another one was put in its place
                self._open.pop(place.pack, None)
        if (found := self._read(place)) != data:
            self._put_aside(cid, place, found)
            return False
        if not is_formed(cid):
            return True
        file = self._file(place.pack)
        return file is not None and version_1(cid_before(file.number, place.offset, cid[-32:])) == version_1(cid)

    def check(self, name: str, progress: Progress) -> Iterator[tuple[bytes, str]]:
        """Read a pack through; put aside what is wrong, and yield it with the reason if it is whole nowhere else."""
        wrong = {}
        for cid, place in self._standing(name):
            if self.at(cid, place) is None:
                wrong[cid] = place
            progress(place.length)
        self.look_elsewhere(wrong)
        for cid in wrong:
            if self._places.index.place(cid[-32:]) is None and self._file(name) is not None:  # else it was moved
                yield cid, f"its bytes in {name}.car are not those of its CID{self._aside(cid)}"

    def _standing(self, name: str) -> Iterator[tuple[bytes, Place]]:
        """Yield the blocks that are read from a pack, and where each stands."""
        seen = 0
        for record in self.records(name):
            place = Place(name, record.offset, record.length)
            if self._places.index.place(record.cid[-32:]) == place:
                seen += 1
                yield record.cid, place
        yield from self.hidden(name, seen)

    def hidden(self, name: str, seen: int) -> Iterator[tuple[bytes, Place]]:
        """Yield the blocks of a pack that only the index knows: what stands before them is damaged.

        :param seen: how many blocks of the pack are known otherwise.
        """
        if standing := self._places.index.standing(name, beyond=seen):
            shown, file = {record.offset for record in self.records(name)}, self._file(name)
            for digest, place in standing:
                if place.offset not in shown and file is not None:
                    yield cid_before(file.number, place.offset, digest), place

    def at(self, cid: bytes, place: Place) -> bytes | None:
        """Return the bytes of the block at a place; None if they are wrong: it has been put aside."""
        data = self._read(place)
        if data is not None and matches(cid, data):
            return data
        self._put_aside(cid, place, data)
        return None

    def look_elsewhere(self, wrong: Mapping[bytes, Place | None]) -> None:
        """See whether these blocks, which are wrong where they were read, stand elsewhere, too: whole ones are entered.

        What was put again since it is damaged does: the index has the older place of two.
        """
        left = {cid[-32:]: (cid, place) for cid, place in wrong.items()}
        for path in packs_in(self._places.folder) if left else ():
            for record in self.records(path.stem):
                if (sought := left.get(record.cid[-32:])) is None:
                    continue
                cid, read = sought
                place = Place(path.stem, record.offset, record.length)
                if read != place and matches(cid, self._read(place) or b""):
                    self._places.index.found(record, path.stem)
                    del left[cid[-32:]]
                    if not left:
                        return

    def records(self, name: str) -> Iterator[Record]:
        """Yield the blocks that stand in a pack, without reading them; nothing if the pack is gone."""
        return (one for one in self.contents(name) if isinstance(one, Record))

    def contents(self, name: str) -> Iterator[Record | Mark]:
        """Yield what stands in a pack.

        :raises UnavailableError: the disk cannot read what stands between the blocks.
        """
        file, path = self._file(name), self._places.folder / f"{name}.car"
        if file is not None:
            with if_there(path):
                for one in scanned(path, file.number, 0, os.fstat(file.number).st_size):
                    yield one if isinstance(one, Record) else one[1]

    def close(self) -> None:
        """Let the files go."""
        with self._lock:
            self._open.clear()

    def _read(self, place: Place) -> bytes | None:
        """Return the bytes at a place, whatever they are; None if the pack is gone."""
        file = self._file(place.pack)
        if file is None:
            return None
        try:
            return os.pread(file.number, place.length, place.offset)
        except OSError as error:
            if error.errno == errno.EIO:  # the disk cannot read it any more
                return b""
            raise UnavailableError(f"{self._places.folder} cannot be read: {error.strerror}") from error

    def _file(self, pack: str) -> _File | None:
        if self._generation != self._places.generation:  # packs may have gone, whose files would keep their room
            self._generation = self._places.generation
            self.close()
        file = self._open.get(pack)
        if file is None:
            try:
                file = _File(os.open(self._places.folder / f"{pack}.car", os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                return None
            except OSError as error:
                raise UnavailableError(f"{self._places.folder} cannot be read: {error.strerror}") from error
            with self._lock:
                while len(self._open) >= _OPEN:
                    del self._open[next(iter(self._open))]
                self._open[pack] = file
        return file

    def _put_aside(self, cid: bytes, place: Place, data: bytes | None) -> None:
        """Strike out what is wrong, and keep what is there in its place.

        What the index does not have there was taken back by its writer: something else may stand in its place.
        """
        if data is None:
            self._places.look()
        if self._places.lost(cid, place) and data and self._quarantine is not None:
            with suppress(OSError):
                self._quarantine.mkdir(mode=0o700, exist_ok=True)
                (self._quarantine / f"{to_text(cid)}.{time_ns()}").write_bytes(data)

    def _aside(self, cid: bytes) -> str:
        """Say whether anything was put aside in the place of a block."""
        is_there = self._quarantine is not None and any(self._quarantine.glob(f"{to_text(cid)}.*"))
        return ": what is there in its place has been put aside" if is_there else ""


class _File:
    """An open file, which is closed when nobody reads from it any more."""

    def __init__(self, number: int) -> None:
        self.number, self.stood = number, standing(number)

    def __del__(self) -> None:
        os.close(self.number)
