"""How blocks get into packs: small things of many threads with one wait for the disk, large ones by themselves."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from operator import attrgetter, itemgetter
from queue import SimpleQueue
from time import monotonic_ns, time_ns
from typing import NamedTuple, TypeAlias

from pointsman import UnavailableError

from .._sqlite import patience, until
from .._together import Together
from ._disk import sync_file, unwritten
from ._index import Written
from ._packs import Mark, Pack, head_of, is_formed, joined, packs_in
from ._places import Places
from ._reserve import Reserve
from ._shelf import Shelf

_Blocks: TypeAlias = "Sequence[tuple[bytes, bytes]]"  # (binary CID, data)

#: A pack is not added to beyond so many bytes, and one that others have left is gone on with up to half of it.
_FULL = 256 << 20
#: Bytes that are written together at most.
_BATCH = 16 << 20
#: Of a large put: pieces that may wait to be written; blocks looked up together; bytes after which the disk is told to
#: begin; digests that are remembered.
_AHEAD, _TOGETHER, _STRIDE, _REMEMBERED = 16, 32, 32 << 20, 1 << 17
#: Bytes of a block that is worth looking up before it is written again.
_WORTH = 1 << 16


_DATA = itemgetter(1)  #: of a block
_ENDS = attrgetter("ends")  #: of what a thread adds


class _Entry(NamedTuple):
    """What one thread adds."""

    blocks: _Blocks
    pins: tuple[bytes, ...]
    unpins: tuple[bytes, ...]
    ends: float  #: until when its thread waits for who changes the index


class Writer:
    """Adds blocks to the packs of one store. Thread-safe; not to be used in a forked child."""

    def __init__(self, places: Places, shelf: Shelf, reserve: Reserve) -> None:
        self._places, self._index, self._shelf = places, places.index, shelf
        self._together = Together(self._write_batch, self._fitting)
        self._reserve, self._full = reserve, False
        self._pack: Pack | None = None
        self._last = places.index.last_mark()
        self._ahead = max(self._last, time_ns()) - monotonic_ns()  #: of that clock, which nobody sets back

    def add(self, blocks: _Blocks, pins: tuple[bytes, ...] = (), unpins: tuple[bytes, ...] = ()) -> None:
        """Make these blocks durable, with their pins: all of it or nothing.

        :raises UnavailableError: they could not be written.
        """
        self._together.add(_Entry(blocks, pins, unpins, patience.ends))

    def large(self) -> Large:
        """Return what takes many blocks, in a pack of its own."""
        self._places.look()
        since = self._index.next_seq()
        pack = Pack.create(self._places.folder)
        try:
            self._index.running(pack.name, since)
        except BaseException:
            pack.path.unlink()
            pack.close()
            raise
        return Large(pack, self._places, self._shelf, self, self._reserve)

    def next_mark(self) -> int:
        """Return a number for the next mark: larger than any before, also of others, though the clock is set back."""
        self._last = max(self._last + 1, time_ns(), monotonic_ns() + self._ahead)
        return self._last

    def let_go(self) -> None:
        """Let the pack go, unless somebody writes: the next put begins another one, or goes on with it."""
        with self._together.idle() as idle:
            pack = None
            if idle:
                pack, self._pack = self._pack, None
        if pack is not None:
            pack.close()

    def _write_batch(self, batch: Sequence[_Entry]) -> None:
        try:
            with until(max(map(_ENDS, batch))):
                self._write([block for entry in batch for block in entry.blocks], batch)
        except OSError as error:
            raise unwritten(self._places.folder, error) from error
        except UnavailableError:
            self._places.look()
            raise

    def _write(self, blocks: _Blocks, batch: Sequence[_Entry]) -> None:
        every = {cid[-32:]: (cid, data) for cid, data in blocks}
        if len(every) < len(blocks):  # of the same bytes under several CIDs, one that says how to read them is kept
            every |= {cid[-32:]: (cid, data) for cid, data in blocks if is_formed(cid)}
        generation, known = self._known(every)
        new = [block for digest, block in every.items() if digest not in known] if known else list(every.values())
        pins = [cid for entry in batch for cid in entry.pins]
        unpins = [cid for entry in batch for cid in entry.unpins]
        mark, pack = Mark(self.next_mark(), tuple(pins), tuple(unpins)), self._current()
        data, records = joined(new, pack.size)
        self._full = bool(new)
        if new:
            self._reserve.check(pack.fileno(), len(data))
        self._full = False
        try:
            pack.add(data, mark)
            self._places.wrote(Written(pack.name, pack.size, records, mark), generation)
        except UnavailableError:
            if not pack.usable:
                self._places.take_back(pack)
            raise
        except BaseException:  # an interrupt: what stands there now is read from there
            self._pack = None
            pack.close()
            raise
        if known and self._places.generation != generation:  # what we took to be there may have been collected
            with until(inf):  # else a pin would be left to which nothing belongs
                self._places.flush()
                if self._index.touch(list(every)) != every.keys():  # and what is new, if others have unpinned it
                    self._write(list(every.values()), batch)

    def _known(self, every: Mapping[bytes, tuple[bytes, bytes]]) -> tuple[int, set[bytes]]:
        """Return what the store has of these, and of which generation that is.

        Of small blocks it is what was written a moment ago, as far as that is plain bytes; of large ones all.
        """
        generation, known = self._places.recent([digest for digest, (cid, _) in every.items() if not is_formed(cid)])
        if large := [digest for digest, (_, data) in every.items() if len(data) >= _WORTH]:
            known |= self._index.touch(large)
        return generation, {digest for digest in known if self._shelf.holds(*every[digest])}

    def _fitting(self, waiting: Sequence[_Entry]) -> int:
        """Return how many of these are written together: until there is enough.

        On a full disk, what only pins and unpins is not written together with what would not fit.
        """
        size = 0
        for many, entry in enumerate(waiting, 1):
            size += sum(map(len, map(_DATA, entry.blocks)))
            if size >= _BATCH or (
                self._full and many < len(waiting) and bool(waiting[many].blocks) != bool(entry.blocks)
            ):
                return many
        return len(waiting)

    def _current(self) -> Pack:
        """Return the pack to add to."""
        if self._pack is not None and self._pack.usable and self._pack.size < _FULL:
            return self._pack
        if self._pack is not None:
            self._pack.close()
            self._pack = None
        self._pack = self._left_by_others() or Pack.create(self._places.folder)
        return self._pack

    def _left_by_others(self) -> Pack | None:
        sizes, running = self._index.sizes(), self._index.runs()
        for path in packs_in(self._places.folder):
            size = sizes.get(path.stem, 0)
            if 0 < size < _FULL // 2 and path.stem not in running and (pack := Pack.adopt(path, size)) is not None:
                return pack
        return None


class Large:
    """Takes the blocks of one large put: they are written while the next ones are made. Use it in one thread.

    Nothing of it is there before `finish` returns. An interrupt breaks no `SimpleQueue`, which is not Python code.
    """

    def __init__(self, pack: Pack, places: Places, shelf: Shelf, writer: Writer, reserve: Reserve) -> None:
        self._pack, self._places, self._index = pack, places, places.index
        self._shelf, self._writer, self._reserve = shelf, writer, reserve
        self._waiting: list[tuple[bytes, bytes]] = []
        self._seen: set[bytes] = set()
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._strides: SimpleQueue[bool] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()  #: for so many pieces more
        for _ in range(_AHEAD):
            self._room.put(None)
        self._error: BaseException | None = None
        self._finished = False
        self._threads: list[threading.Thread] = []

    def put(self, cid: bytes, data: bytes) -> None:
        """Take a block.

        :raises UnavailableError: an earlier one could not be written.
        """
        key = cid if is_formed(cid) else cid[-32:]
        if key in self._seen:
            return
        if len(self._seen) < _REMEMBERED:
            self._seen.add(key)
        self._waiting.append((cid, data))
        if len(self._waiting) >= _TOGETHER or len(data) >= _STRIDE // _TOGETHER:
            self._hand_on()

    def finish(self, pins: tuple[bytes, ...]) -> None:
        """Make all of it durable, and pin these roots.

        :raises UnavailableError: it could not be written; nothing of it is there.
        """
        try:
            self._hand_on()
            self._end()
            mark = Mark(self._writer.next_mark(), pins)
            self._pack.add(b"", mark)
        except BaseException:
            self.abandon()
            raise
        self._finished = True  # what is entered others may build upon: even an interrupt takes nothing of it back
        try:
            self._places.enter(self._pack.path, self._pack.fileno(), 0, self._pack.size)
        finally:
            self._pack.close()

    def abandon(self) -> None:
        """Take all of it back, unless it is finished. Repeating it changes nothing."""
        if self._pack.abandoned or self._finished:
            return
        self._pack.abandon()
        self._error = self._error or UnavailableError("the put was abandoned")
        self._end(quietly=True)
        self._pack.close()
        with suppress(UnavailableError):
            self._index.running(self._pack.name, None)

    def _hand_on(self) -> None:
        """Let what waits be written, but for what the store has."""
        if not self._threads:  # not before: whoever was interrupted while it made this has nothing to end
            self._start()
        blocks, self._waiting = self._waiting, []
        digests = [cid[-32:] for cid, _ in blocks]
        known = self._index.known(digests)
        if known:
            known = self._index.touch(list(known))
        for cid, data in blocks:
            if self._error is not None:
                self._raise()
            if cid[-32:] not in known or not self._shelf.holds(cid, data):
                for piece in (head_of(cid, len(data)), data):
                    self._room.get()
                    self._pieces.put(piece)

    def _start(self) -> None:
        for work in (self._write, self._sync):
            thread = threading.Thread(target=work, name="pointsman-put", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _end(self, *, quietly: bool = False) -> None:
        self._pieces.put(None)
        for thread in self._threads:
            thread.join()
        if self._error is not None and not quietly:
            self._raise()

    def _raise(self) -> None:
        error = self._error
        if isinstance(error, UnavailableError):
            raise error
        if isinstance(error, OSError):
            raise unwritten(self._pack.path, error) from error
        raise UnavailableError(f"the put failed: {error!r}") from error

    def _write(self) -> None:
        """In a thread of its own: write the pieces as they come."""
        since = 0
        while (piece := self._pieces.get()) is not None:
            if self._error is None:
                try:
                    self._reserve.check(self._pack.fileno(), len(piece))
                    self._pack.append(piece)
                except BaseException as error:
                    self._error = error
                since += len(piece)
                if since >= _STRIDE:
                    self._strides.put(True)
                    since = 0
            self._room.put(None)
        self._strides.put(False)

    def _sync(self) -> None:
        """In a thread of its own: let the disk work while there is more to come."""
        while self._strides.get():
            try:
                sync_file(self._pack.fileno())
            except OSError as error:
                self._error = self._error or error
