"""Removing what no pin keeps, beside puts of any process; and packs that have become mostly empty.

What a put relies on is safe, in this order: a number is taken; the collection is announced (a new generation); what had
been acknowledged before is entered; then all that is pinned is walked; then what is left goes, but for blocks whose
number is larger. A put that began before the announcement looks again, when it is written, at what it took to be there;
one that began after it gives a larger number to what it finds. A long put says when it began: while it runs, the number
that is taken is not larger than that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter, itemgetter
from pathlib import Path

from pointsman import UnavailableError, UnusableAnswer
from pointsman.content import Collected

from .._locked_files import locked, locked_files
from ..dag.block import Verified
from ..dag.cid import to_text
from ._holding import PATIENCE_S, lacking, lacking_still
from ._index import Pin, Place, Sweep, Written
from ._packs import Mark, Pack, head_of, if_there, marked, packs_in
from ._places import Places
from ._shelf import Shelf
from ._writer import Writer

#: A pack of which a smaller part than this is of use is written anew.
_WORTH = 0.5


def collected(places: Places, shelf: Shelf, writer: Writer, alive: Callable[[], object]) -> Collected:
    """Remove what no pin keeps.

    :param alive: raises when nobody waits any more; called often.
    :raises UnusableAnswer: something that is pinned is not whole: what belongs to it cannot be known.
    """
    places.look()
    index = places.index
    for abandoned in index.runs() - {path.stem for path in packs_in(places.folder)}:
        index.running(abandoned, None)  # an interrupt came before its put could say so
    places.catch_up_wholly()  # what is entered after the number is taken would be spared
    before = index.collecting()
    places.new_generation()
    places.catch_up_wholly()
    sweep = index.sweep()
    try:
        for root in index.pins():
            _walk(root, sweep, places, shelf, alive)
        blocks, size = sweep.away(before)
    finally:
        sweep.close()
    writer.let_go()  # our own pack may be one of those
    try:
        with _Mover(places, shelf, writer) as mover:
            # the emptiest first: what they give back, the others may need
            for name, filled in sorted(index.filled().items(), key=itemgetter(1)):
                alive()
                mover.try_to_empty(name, filled)
    finally:
        shelf.close()  # the files of packs that are gone would keep their room
    if mover.failure is not None and not mover.emptied:
        raise mover.failure
    return Collected(blocks, size)


def _walk(root: bytes, sweep: Sweep, places: Places, shelf: Shelf, alive: Callable[[], object]) -> None:
    """Let all that is under a root stay.

    What is missing may have been unpinned and collected by others since the pins were listed.
    """

    def get(cid: bytes) -> bytes:
        alive()
        return shelf.get(cid)

    found, read = _Found(sweep), Verified(get)
    if lacking(places, root, read, found) and (why := lacking_still(places, root, read, found.begin, PATIENCE_S)):
        text = f"nothing was removed: {to_text(root)} is pinned and not whole: {why}; mend or unpin it first"
        raise UnusableAnswer(text, retry_same=False, try_next=False)
    found.settle()


class _Found:
    """What is found under one root: it stays when all of it was found."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep, self._new = sweep, set[bytes]()

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._new or cid in self._sweep

    def add(self, cid: bytes) -> None:
        self._new.add(cid)

    def begin(self) -> _Found:
        """Forget what was found."""
        self._new.clear()
        return self

    def settle(self) -> None:
        for cid in self._new:
            self._sweep.add(cid)


class _Mover:
    """Writes what is of use in packs, whose writers are gone, into a new one, with all that they say of pins."""

    def __init__(self, places: Places, shelf: Shelf, writer: Writer) -> None:
        self._places, self._shelf, self._writer = places, shelf, writer
        self._pack: Pack | None = None
        self._counts = 0  #: bytes of it that are entered
        self._writing = False  #: whether it holds more than that
        self._said = set[Pin]()  #: what it says of roots
        self.emptied = False  #: whether any pack could be taken away
        self.failure: UnavailableError | UnusableAnswer | None = None  #: why another one could not

    def __enter__(self) -> _Mover:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._end()
        elif self._pack is not None:  # an interrupt: perhaps all is entered; who looks next brings it to its last mark
            self._pack.close()

    def try_to_empty(self, name: str, filled: int) -> None:
        """Empty a pack if that is worth it and nobody writes to it; where there is no room for that, note it."""
        path = self._places.folder / f"{name}.car"
        try:
            with if_there(path):
                self._empty_where_worth_it(path, filled)
        except (UnavailableError, UnusableAnswer) as error:
            self.failure = error
            self._end()

    def _empty_where_worth_it(self, path: Path, filled: int) -> None:
        if filled >= _WORTH * path.stat().st_size or (file := locked(path)) is None:
            return
        try:
            if path.stem not in self._places.index.runs():  # else it holds more than the index knows
                self._empty(path)
                self.emptied = True
        finally:
            locked_files.close(file)

    def _end(self) -> None:
        pack, self._pack, counts = self._pack, None, self._counts
        if pack is not None:
            if counts:
                pack.cut(counts)
            else:
                pack.abandon()
            pack.close()
            if self._writing:
                with suppress(UnavailableError):
                    self._places.index.running(pack.name, None)
        self._counts, self._writing, self._said = 0, False, set()

    def _empty(self, path: Path) -> None:
        """Move what is of use in a pack, and take the pack away.

        :raises UnavailableError: that could not be written: the pack stays.
        :raises UnusableAnswer: something of it is damaged: the pack stays.
        """
        index, moved, roots = self._places.index, dict[bytes, Place](), set[bytes]()
        wrong = dict[bytes, Place]()
        self._places.catch_up_with(path)
        for one in self._shelf.contents(path.stem):
            if isinstance(one, Mark):
                roots.update(cid for cid, _ in one.said())
                continue
            self._move(one.cid, Place(path.stem, one.offset, one.length), moved, wrong)
        for cid, place in self._shelf.hidden(path.stem, len(moved)):
            self._move(cid, place, moved, wrong)
        self._shelf.look_elsewhere(wrong)
        for cid, place in wrong.items():
            if (found := index.place(cid[-32:])) is not None and found.pack == path.stem:
                self._move(cid, found, moved, {})
                found = None
            if found in (None, place) and cid[-32:] not in moved:  # perhaps the disk reads it the next time
                text = f"{path} has damaged blocks, and is left as it is; verify names them"
                raise UnusableAnswer(text, retry_same=False, try_next=False)
        said = sorted({*index.said_of(roots)} - self._said, key=attrgetter("seq"))
        for pin in said:
            pack, kept = self._into(), (pin.cid,)
            pack.append(marked(pack.name, pack.size, Mark(pin.seq, kept) if pin.kept else Mark(pin.seq, (), kept)))
        written = list[Written]()
        if moved or said:
            pack, mark = self._into(), Mark(self._writer.next_mark())
            pack.add(b"", mark)
            written.append(Written(pack.name, pack.size, (), mark))
        index.moved(path.stem, moved, written)
        if self._pack is not None:
            self._said, self._counts, self._writing = self._said.union(said), self._pack.size, False
        path.unlink()

    def _move(self, cid: bytes, place: Place, moved: dict[bytes, Place], wrong: dict[bytes, Place]) -> None:
        """Write a block anew, if it is read from there and whole; where it is read from and wrong is noted."""
        known = self._places.index.place(cid[-32:])
        if known is None or cid[-32:] in moved:
            return
        if (data := self._shelf.at(cid, known)) is None:
            wrong[cid] = known
        elif known == place:
            pack, head = self._into(), head_of(cid, len(data))
            moved[cid[-32:]] = Place(pack.name, pack.append(head + data) + len(head), place.length)

    def _into(self) -> Pack:
        """Return the pack to write to; nobody looks into it while it is written."""
        if self._pack is None:
            self._pack = Pack.create(self._places.folder)
        if not self._writing:
            self._places.index.running(self._pack.name, self._places.index.next_seq())
            self._writing = True
        return self._pack
