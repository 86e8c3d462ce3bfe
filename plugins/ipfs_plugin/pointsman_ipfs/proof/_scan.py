"""Files of blocks, read through: every byte is accounted for. Nothing is written, and no index is believed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import BinaryIO

from attrs import define, evolve, field, frozen
from pointsman import UnusableAnswer

from .._locked_files import locks
from ..dag import car
from ..dag.cid import DAG_CBOR, RAW, codec_of, inline_of, to_text
from ..embedded._packs import HEADER, Mark, mark_in, next_whole
from ._found import Found

_PIECE = 1 << 20
_DAMAGED = "they never counted, or it is damaged"
_LIVE = "somebody is writing it now"
_BEGUN = "a writer was killed before they counted, or it was cut; whoever opens the store next takes them away"


@frozen
class Damage:
    """Something in a file that is not as it should be."""

    where: str  #: the file, and the byte
    text: str
    never_counted: bool = False  #: whether nobody was told that it is kept, or not yet
    cid: bytes | None = None  #: of the block that should stand there, if that is known


#: A block, verified; or what is wrong.
Read = tuple[bytes, bytes] | Damage


@define
class _Behind:
    """What stands behind the last mark of a pack."""

    start: int  #: where that mark ends
    damaged: list[Damage] = field(factory=list)
    moved: bool = False  #: whether a mark of another place is there

    def told(
        self, path: Path, file: BinaryIO, before: os.stat_result, reader: car.Reader, *, live: bool
    ) -> Iterator[Damage]:
        """Tell of it, once all was read.

        :param before: what the file was when that began.
        :param live: whether somebody was writing it then.
        """
        damaged, end, ends = list(self.damaged), before.st_size, reader.end
        if not reader.framed and not any(any(piece) for piece in _pieces(file, end, reader.begin)):
            damaged.pop()  # what was no block is room for others
        elif len(damaged) == 1 and reader.is_cut and _is_begun(path.stem.encode(), file, reader.begin, end):
            damaged, ends = [], end
        begun = not damaged and not self.moved  # who was killed has left no mark
        live = live or os.fstat(file.fileno()).st_mtime_ns != before.st_mtime_ns  # somebody has gone on with it
        if ends > self.start:
            why = _LIVE if live else _BEGUN if begun else _DAMAGED
            text = f"found {ends - self.start} bytes without a mark: {why}"
            damaged.append(Damage(f"{path}, byte {self.start}", text))
        return (evolve(one, never_counted=live or begun) for one in damaged)


@frozen
class Scan:
    """Reads files through, and notes what was found in them.

    :param progress: is told of bytes that were read.
    """

    found: Found
    progress: Callable[[int], object]
    counted: dict[Path, int] = field(init=False, factory=dict)  #: how far each pack counted when it was read

    def through_car(self, path: Path) -> Iterator[Read]:
        """Read a CAR file through. Raises OSError."""
        with path.open("rb", buffering=0) as file:
            try:
                reader = car.Reader(self._pieces(file, os.fstat(file.fileno()).st_size))
            except UnusableAnswer as error:
                yield Damage(f"{path}, byte 0", error.message)
                return
            self.found.begin(path, file.fileno())
            for root in reader.roots:
                if inline_of(root) is None:
                    self.found.say(root, 0, pinned=True)
            roots = {root for root in reader.roots if codec_of(root) == RAW and inline_of(root) is None}
            for one in self._blocks(path, reader):
                if not isinstance(one, Damage):
                    roots.discard(one[0])
                yield one
            for root in roots:  # whoever imports it would keep the block, and nothing to which that links
                if root in self.found:
                    yield Damage(f"{path}, byte 0", f"its root {to_text(root)} stands in it under another CID")
            if not reader.framed:
                yield Damage(f"{path}, byte {reader.begin}", "nothing can be read from here on")

    def through_pack(self, path: Path, until: float = inf) -> Iterator[Read]:
        """Read a pack of the embedded store through: what counts, and what is pinned. Raises OSError.

        :param until: of what stands behind this place, blocks are noted as found, and no more.
        """
        with path.open("rb", buffering=0) as file:
            live, before = _has_writer(file), os.fstat(file.fileno())
            if os.pread(file.fileno(), len(HEADER), 0) != HEADER:
                yield Damage(f"{path}, byte 0", "found another header than every pack has; nothing in it can be read")
                return
            self.found.begin(path, file.fileno())
            reader, name = car.Reader(self._pieces(file, before.st_size)), path.stem.encode()
            behind = _Behind(len(HEADER))
            for one in self._blocks(path, reader):
                late = reader.end > until
                if isinstance(one, Damage):
                    behind.damaged.append(one)
                elif (mark := mark_in(one[1], one[0], path.stem, reader.begin)) is None:
                    behind.moved |= codec_of(one[0]) == DAG_CBOR and name in one[1]
                    if not late:
                        yield one
                elif codec_of(one[0]) != DAG_CBOR:
                    text = "found a mark under a CID of another codec"
                    behind.damaged.append(Damage(f"{path}, byte {reader.begin}", text))
                else:
                    yield from behind.damaged
                    behind = _Behind(reader.end)
                    if not late:
                        self._count(path, reader.end, mark)
            yield from behind.told(path, file, before, reader, live=live)

    def _count(self, path: Path, end: int, mark: Mark) -> None:
        self.counted[path] = end
        for root, pinned in mark.said():
            self.found.say(root, mark.seq, pinned=pinned)

    def _pieces(self, file: BinaryIO, end: int) -> Iterator[bytes]:
        for piece in _pieces(file, end):
            yield piece
            self.progress(len(piece))

    def _blocks(self, path: Path, reader: car.Reader) -> Iterator[Read]:
        while True:
            try:
                cid, data = next(reader)
            except StopIteration:
                return
            except UnusableAnswer as error:
                yield Damage(f"{path}, byte {reader.begin}", error.message, cid=reader.cid)
                if not reader.framed:
                    return
                continue
            self.found.add(cid, reader.end - len(data), len(data))
            yield cid, data


def _pieces(file: BinaryIO, end: int, start: int = 0) -> Iterator[bytes]:
    for place in range(start, end, _PIECE):
        yield os.pread(file.fileno(), min(_PIECE, end - place), place)


def _is_begun(name: bytes, file: BinaryIO, place: int, end: int) -> bool:
    """Whether a block was begun there, and nothing else: no mark, nor a whole block, behind a length that is wrong."""
    rest = os.pread(file.fileno(), end - place, place)
    return name not in rest and next_whole(file.fileno(), place, end) is None


def _has_writer(file: BinaryIO) -> bool:
    if not locks(file.fileno(), fcntl.LOCK_SH):  # whoever writes it has locked it
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
