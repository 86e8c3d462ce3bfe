"""Files of blocks, read through: every byte is accounted for. Nothing is written, and no index is believed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from attrs import define, evolve, field, frozen
from pointsman import ContentNotFoundError, UnusableAnswer

from ..dag import car
from ..dag.cid import DAG_CBOR, RAW, codec_of, digest_of, inline_of, to_text
from ..embedded._packs import HEADER, Mark, mark_in

_PIECE = 1 << 20


@frozen
class Damage:
    """Something in a file that is not as it should be."""

    where: str  #: the file, and the byte
    text: str
    is_live: bool = False  #: whether it may be what somebody is writing now


#: A block, verified; or what is wrong.
Read = tuple[bytes, bytes] | Damage


@define
class Found:
    """Where the blocks stand that were read from files, and were right.

    Who asks for plain bytes (codec raw) gets any block that has their hash: a store keeps the same bytes once.

    :param progress: is told of bytes that were read.
    """

    progress: Callable[[int], object] = lambda size: None

    _places: dict[bytes, tuple[Path, int, int]] = field(factory=dict)
    _bytes: dict[bytes, tuple[Path, int, int]] = field(factory=dict)  #: by the digest
    _roots: dict[bytes, str] = field(factory=dict)
    _said: dict[bytes, tuple[int, bool, str]] = field(factory=dict)

    @property
    def roots(self) -> dict[bytes, str]:
        """The roots of the CAR files, and what is pinned, each with the file that says so."""
        return self._roots | {root: path for root, (_, pinned, path) in self._said.items() if pinned}

    def __contains__(self, cid: bytes) -> bool:
        return self._place(cid) is not None

    def __len__(self) -> int:
        return len(self._places)

    def get(self, cid: bytes) -> bytes:
        """Return the bytes of a block.

        :raises ContentNotFoundError: it is in none of the files.
        """
        path, offset, length = self._here(cid)
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def length(self, cid: bytes) -> int:
        """Return how many bytes a block has. Raises as `get`."""
        return self._here(cid)[2]

    def _here(self, cid: bytes) -> tuple[Path, int, int]:
        if (place := self._place(cid)) is None:
            raise ContentNotFoundError(f"block {to_text(cid)} is not here")
        return place

    def _place(self, cid: bytes) -> tuple[Path, int, int] | None:
        place = self._places.get(cid)
        return self._bytes.get(digest_of(cid)) if place is None and codec_of(cid) == RAW else place

    def through_car(self, path: Path) -> Iterator[Read]:
        """Read a CAR file through. Raises OSError."""
        with path.open("rb", buffering=0) as file:
            try:
                reader = car.Reader(self._pieces(file, os.fstat(file.fileno()).st_size))
            except UnusableAnswer as error:
                yield Damage(f"{path}, byte 0", error.message)
                return
            self._roots |= {root: str(path) for root in reader.roots if inline_of(root) is None}
            yield from self._blocks(path, reader)
            if not reader.framed:
                yield Damage(f"{path}, byte {reader.begin}", "nothing can be read from here on")

    def through_pack(self, path: Path) -> Iterator[Read]:
        """Read a pack of the embedded store through: what counts, and what is pinned. Raises OSError."""
        with path.open("rb", buffering=0) as file:
            live, end = _has_writer(file), os.fstat(file.fileno()).st_size
            if os.pread(file.fileno(), len(HEADER), 0) != HEADER:
                yield Damage(f"{path}, byte 0", "found another header than every pack has; nothing in it can be read")
                return
            reader, counts, damaged = car.Reader(self._pieces(file, end)), len(HEADER), list[Damage]()
            for one in self._blocks(path, reader):
                if isinstance(one, Damage):
                    damaged.append(one)
                    continue
                mark = mark_in(one[1], one[0], path.stem, reader.begin)
                if mark is None:
                    yield one
                    continue
                if codec_of(one[0]) != DAG_CBOR:
                    damaged.append(Damage(f"{path}, byte {reader.begin}", "found a mark under a CID of another codec"))
                    continue
                yield from damaged
                counts, damaged = reader.end, []
                self._take_up(mark, str(path))
            if not reader.framed and not any(any(piece) for piece in _pieces(file, end, reader.begin)):
                damaged = damaged[:-1]  # what was no block is room for others
            if reader.end > counts:
                text = f"found {reader.end - counts} bytes without a mark: they never counted, or it is damaged"
                damaged.append(Damage(f"{path}, byte {counts}", text))
            yield from (evolve(one, is_live=live) for one in damaged)

    def _pieces(self, file: BinaryIO, end: int) -> Iterator[bytes]:
        for piece in _pieces(file, end):
            yield piece
            self.progress(len(piece))

    def _take_up(self, mark: Mark, path: str) -> None:
        """Note what a mark says of roots: of all that is said, the largest number holds."""
        for root, pinned in mark.said():
            if mark.seq >= self._said.get(root, (-1,))[0]:
                self._said[root] = mark.seq, pinned, path

    def _blocks(self, path: Path, reader: car.Reader) -> Iterator[Read]:
        while True:
            try:
                cid, data = next(reader)
            except StopIteration:
                return
            except UnusableAnswer as error:
                yield Damage(f"{path}, byte {reader.begin}", error.message)
                if not reader.framed:
                    return
                continue
            place = path, reader.end - len(data), len(data)
            self._places[cid] = self._bytes[digest_of(cid)] = place
            yield cid, data


def _pieces(file: BinaryIO, end: int, start: int = 0) -> Iterator[bytes]:
    for place in range(start, end, _PIECE):
        yield os.pread(file.fileno(), min(_PIECE, end - place), place)


def _has_writer(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
