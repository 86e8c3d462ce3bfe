"""Removing what no pin keeps, beside puts of any process; and packs that have become mostly empty.

What a put relies on is safe, in this order: a number is taken; the collection is announced (a new generation); what had
been acknowledged before is entered; then all that is pinned is walked; then what is left goes, but for blocks whose
number is larger. A put that began before the announcement looks again, when it is written, at what it took to be there;
one that began after it gives a larger number to what it finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pointsman import UnavailableError, UnusableAnswer
from pointsman.content import Collected

from ._index import Place
from ._packs import Mark, Pack, head_of, locked, marked
from ._places import Places
from ._shelf import Shelf
from ._writer import Writer
from .block import Verified
from .cid import to_text
from .reader import reachable

#: A pack of which a smaller part than this is of use is written anew.
_WORTH = 0.5


def collected(places: Places, shelf: Shelf, writer: Writer, alive: Callable[[], object]) -> Collected:
    """Remove what no pin keeps.

    :param alive: raises when nobody waits any more; called often.
    :raises UnusableAnswer: something that is pinned is not whole: what belongs to it cannot be known.
    """
    index = places.index
    before = index.next_seq()
    places.new_generation()
    places.catch_up_wholly()
    sweep = index.sweep()
    try:
        for root in index.pins():
            try:
                for _ in reachable(Verified(shelf.get), root, sweep):
                    alive()
            except Exception as error:
                if isinstance(error, UnavailableError):
                    raise
                text = f"nothing was removed: {to_text(root)} is pinned and not whole: {error}; mend or unpin it first"
                raise UnusableAnswer(text, retry_same=False, try_next=False) from error
        blocks, size = sweep.away(before)
    finally:
        sweep.close()
    writer.let_go()  # our own pack may be one of those
    with _Mover(places, shelf, writer) as mover:
        for name, filled in index.filled().items():
            alive()
            with suppress(FileNotFoundError):
                path = places.folder / f"{name}.car"
                if filled < _WORTH * path.stat().st_size and (file := locked(path)) is not None:
                    try:
                        mover.empty(path)
                    finally:
                        os.close(file)
    return Collected(blocks, size)


class _Mover:
    """Writes what is of use in packs, whose writers are gone, into a new one, with all that they say of pins."""

    def __init__(self, places: Places, shelf: Shelf, writer: Writer) -> None:
        self._places, self._shelf, self._writer = places, shelf, writer
        self._pack: Pack | None = None
        self._counts = 0  #: bytes of it
        self._said = set[bytes]()  #: roots of which it says what was said last

    def __enter__(self) -> _Mover:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pack is not None:
            if self._counts:
                self._pack.cut(self._counts)
            else:
                self._pack.abandon()
            self._pack.close()

    def empty(self, path: Path) -> None:
        """Move what is of use in a pack, and take the pack away."""
        index, moved, roots = self._places.index, dict[bytes, Place](), set[bytes]()
        self._places.catch_up_wholly()
        for one in self._shelf.contents(path.stem):
            if isinstance(one, Mark):
                roots.update(cid for cid, _ in one.said())
                continue
            place = Place(path.stem, one.offset, one.length)
            if index.place(one.cid[-32:]) == place:
                data = self._shelf.at(one.cid, place)
                if data is not None:
                    head = head_of(one.cid, len(data))
                    moved[one.cid[-32:]] = Place("", self._into().append(head + data) + len(head), one.length)
        said = sorted(index.said_of(roots - self._said), key=lambda pin: pin.seq)
        for pin in said:
            pack, kept = self._into(), (pin.cid,)
            mark = Mark(pin.seq, kept) if pin.kept else Mark(pin.seq, (), kept)
            pack.append(marked(pack.name, pack.size, mark))
        if moved or said:
            pack = self._into()
            pack.add(b"", Mark(self._writer.next_mark()))
            for written in self._places.written(pack.path, pack.fileno(), self._counts, pack.size):
                index.entered(written)
            self._said, self._counts = self._said | roots, pack.size
            index.moved(path.stem, pack.name, moved)
        else:
            index.moved(path.stem, "", {})
        path.unlink()

    def _into(self) -> Pack:
        if self._pack is None:
            self._pack = Pack.create(self._places.folder)
        return self._pack
