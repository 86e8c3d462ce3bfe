"""Where blocks are: what this process has just written, what the index says, and what the index does not know yet.

An acknowledged put is in its pack, durable, with its mark. The index follows within moments, since nobody should wait
for it: a thread of ours enters what we have written, and whoever misses something looks first whether a pack has grown.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic

from pointsman import UnavailableError

from .._locked_files import locked, locked_files
from .._sqlite import patience, until
from ._disk import sync_file, unwritten
from ._index import Index, Place, Written
from ._packs import Mark, Pack, Record, counted, cut, if_there, packs_in, scanned

#: What was written is entered together: when nothing more came for so many seconds, at the latest after so many times
#: that.
_PAUSE_S, _PAUSES = 0.1, 20
#: Seconds for which others that change the index are waited for then, and after which it is tried again.
_AGAIN_S = 1.0
#: Blocks that are remembered beyond those that wait: of small things that are put again and again.
_REMEMBERED = 1 << 14
#: Rows of the index that are entered in one go.
_ROWS = 20_000


class Places:
    """The places of the blocks of one store. Thread-safe; after a fork the child makes its own.

    :param read_only: whether the folder cannot be written: nothing in it is changed then, and all is found in memory.
    :raises UnavailableError: the store cannot be opened.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.folder = root / "packs"
        self.read_only = read_only
        self._began_there = self.folder.is_dir()
        self.removed = False  #: whether the folder was seen to be gone, or to be another one
        self._collected = str(root / "collected")  #: a file, whose time is the generation
        self.began = self.generation  #: which it was when this was opened
        self.gone: Sequence[str] = ()  #: packs that were gone then
        self.index = Index(root / "index.sqlite", read_only=read_only)
        self._lock = threading.Lock()  # over what follows
        self._recent: dict[bytes, Place] = {}  #: of what we have written: puts build upon it
        self._theirs: dict[bytes, Place] = {}  #: of what others may take back, or collect, until the index has it
        self._waiting: list[Written] = []
        self._read: dict[str, int] = {}  #: how far packs were read or written here, whether or not the index knows
        self._entering = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted, self._ending = threading.Event(), threading.Event()
        if not read_only:
            with suppress(FileExistsError):
                Path(self._collected).touch(mode=0o600, exist_ok=False)
        self._seen = self.generation
        try:
            self.recover()
        except BaseException:
            self.index.close()
            raise

    # -- what is where -----------------------------------------------------------------------------

    def find(self, digest: bytes) -> Place | None:
        """Return where a block stands, None if it is nowhere."""
        self._renew()
        place = self._known(digest)
        if place is None and self.catch_up():
            place = self._known(digest)
        return place

    def _known(self, digest: bytes) -> Place | None:
        return self._recent.get(digest) or self._theirs.get(digest) or self.index.place(digest)

    def pins(self) -> Iterator[bytes]:
        """Yield the roots that are pinned."""
        self.catch_up()
        with self._lock:  # empty, unless the disk is full
            waiting = {cid for one in self._waiting for cid, _ in one.mark.said()}
        yield from (cid for cid in self.index.pins() if cid not in waiting)
        yield from self.pinned_of(waiting)  # others may have said more of these since

    def pinned(self, cid: bytes) -> bool:
        """Whether a root is known to be pinned, and so whole."""
        return cid in self.pinned_of((cid,))

    def pinned_of(self, roots: Collection[bytes]) -> set[bytes]:
        """Return those of these roots that are known to be pinned."""
        wanted = {*roots}
        with self._lock:
            said = [(one.mark.seq, *pin) for one in self._waiting for pin in one.mark.said() if pin[0] in wanted]
        said += [(pin.seq, pin.cid, pin.kept) for pin in self.index.said_of(wanted)]  # others may have said it since
        last = {root: kept for _, root, kept in sorted(said)}
        return {root for root, kept in last.items() if kept}

    def recent(self, digests: Iterable[bytes]) -> tuple[int, set[bytes]]:
        """Return the generation, and those of the digests whose blocks this process wrote a moment ago."""
        generation, recent = self._renew(), self._recent
        return generation, {digest for digest in digests if digest in recent}

    def _renew(self) -> int:
        """Forget what may have been collected since; return the generation."""
        if (generation := self.generation) != self._seen:
            with self._lock:
                self._seen = generation
                self._distrust()
        return generation

    def _distrust(self) -> None:
        """Let no put build upon what was written: others may have entered it first, and collected it. The lock is held.

        What waits is read where it is until the index has it.
        """
        waiting = {record.cid[-32:] for one in self._waiting for record in one.records}
        self._theirs |= {digest: place for digest, place in self._recent.items() if digest in waiting}
        self._recent = {}

    def forget(self, digest: bytes) -> None:
        """Let the index say where a block is: what this process remembers is not so any more."""
        with suppress(UnavailableError):
            self.flush()
        with self._lock:
            self._recent.pop(digest, None)
            self._theirs.pop(digest, None)

    def lost(self, cid: bytes, place: Place) -> bool:
        """Strike out a block whose bytes at this place are wrong; say whether the index had it there."""
        self.forget(cid[-32:])
        with suppress(UnavailableError):  # on a full disk it is found wrong again
            return self.index.lost(cid, place)
        return False

    def look(self) -> None:
        """See whether the folder is still there. Raises UnavailableError, and notes it: it may come back."""
        if self._began_there and (not (there := self.folder.is_dir()) or not self.index.is_there):
            self.removed = True
            what = (
                "its index was made anew by another program" if there else "it was removed, or its disk; bring it back"
            )
            raise UnavailableError(f"the store {self.folder.parent} is not what was opened: {what}", retry_same=there)

    @property
    def generation(self) -> int:
        """Changes when a collection begins: what was there before may then be gone."""
        try:
            return os.stat(self._collected).st_mtime_ns
        except FileNotFoundError:  # on a medium that was made of the packs alone
            return 0

    def new_generation(self) -> None:
        """Begin a collection. Raises UnavailableError."""
        old = self.generation
        try:
            while self.generation == old:
                os.utime(self._collected)
        except OSError as error:
            raise unwritten(Path(self._collected), error) from error

    # -- what is new -------------------------------------------------------------------------------

    def wrote(self, written: Written, generation: int) -> None:
        """Note what this process has written, durably. It is found from now on, and entered into the index soon.

        :param generation: which it was before. If another began since, others may have entered and collected it.
        """
        with self._lock:
            self._remember(written, self._recent if generation == self._seen else self._theirs)
            if self._thread is None and not self._ending.is_set():
                thread = threading.Thread(target=self._enter_soon, name="pointsman-blocks", daemon=True)
                with suppress(RuntimeError):  # there is no room for one now: the next put tries it again
                    thread.start()
                    self._thread = thread
        if not self._wanted.is_set():
            self._wanted.set()

    def _remember(self, written: Written, where: dict[bytes, Place]) -> None:
        for cid, offset, length in written.records:
            where[cid[-32:]] = Place(written.pack, offset, length)
        if where is not self._recent:  # the index says soon which of two places is better
            for cid, *_ in written.records:
                self._recent.pop(cid[-32:], None)
        self._waiting.append(written)
        self._read[written.pack] = max(written.size, self._read.get(written.pack, 0))

    def take_back(self, pack: Pack) -> None:
        """Cut a pack of ours, of which the disk did not get the end, unless others have entered that.

        Then they have brought it to the disk, and build upon it. Where the index cannot say it, that stays, too:
        it is entered when the disk gets it, though nobody was told that it is kept. Perhaps a backup was put in its
        place: no put builds upon what is remembered of it.
        """
        with self._lock:
            self._distrust()
        with suppress(UnavailableError), self.index.counting(pack.name, pack.size) as counts:
            if not counts:
                pack.cut(pack.size)

    def flush(self) -> None:
        """Enter what waits into the index.

        :raises UnavailableError: that failed; it waits on.
        """
        with self._entering:
            waiting = list(self._waiting)
            less = self._enter(waiting)
            with self._lock:
                del self._waiting[: len(waiting)]  # not before: even an interrupt lets nothing go
                if not self._waiting:
                    self._theirs.clear()
                for pack in less:  # others may go on there with something else
                    self._read.pop(pack, None)
                for digest in list(islice(self._recent, max(0, len(self._recent) - _REMEMBERED))):
                    del self._recent[digest]

    def _enter(self, waiting: Sequence[Written]) -> set[str]:
        less = set[str]()
        while waiting:
            many, rows = 0, 0
            while many < len(waiting) and rows < _ROWS:
                rows += len(waiting[many].records)
                many += 1
            less |= self.index.entered(waiting[:many])
            waiting = waiting[many:]
        return less

    def _enter_soon(self) -> None:
        """In a thread of its own: enter what was written, until the store is closed."""
        while not self._ending.is_set():
            self._wanted.wait()
            for _ in range(_PAUSES):
                before = len(self._waiting)
                if self._ending.wait(_PAUSE_S) or len(self._waiting) == before:
                    break
            self._wanted.clear()
            try:
                with until(monotonic() + _AGAIN_S):  # other threads of ours may not wait as long
                    self.flush()
            except (UnavailableError, MemoryError):  # a full disk: it waits on, and whoever needs it is told
                self._wanted.set()
                self._ending.wait(_AGAIN_S)

    # -- what others have written ------------------------------------------------------------------

    def catch_up_wholly(self) -> None:
        """Enter what any pack has beyond what the index knows.

        :raises UnavailableError: the index cannot be written.
        """
        self.catch_up()
        self.flush()

    def catch_up_with(self, path: Path) -> None:
        """Enter what a pack, which this process has locked, has beyond what the index knows.

        :raises UnavailableError: the index cannot be written.
        """
        self._read_on(path, self.index.sizes().get(path.stem, 0), live=False)
        self.flush()

    def catch_up(self) -> bool:
        """Enter what any pack has beyond what the index knows, or remember it; say whether there was anything.

        Others that change the index are waited for no longer than a moment: what is remembered is found, too.
        """
        with until(min(patience.ends, monotonic() + _AGAIN_S)):
            return self._caught_up()

    def _caught_up(self) -> bool:
        grown = bool(self._waiting)
        with suppress(UnavailableError):  # a full disk: what waits is remembered
            self.flush()
        sizes, running = self.index.sizes(), self.index.runs()
        for path in packs_in(self.folder):
            known = sizes.get(path.stem, 0)
            with if_there(path):
                if path.stem in running:  # a long put enters its own when it ends, unless that failed, or it was killed
                    grown = self._recover(path, known, True) or grown
                elif path.stat().st_size > known:
                    grown = self._read_on(path, known) or grown
        return grown

    def recover(self) -> None:
        """Bring packs whose writers are gone to their last mark, and the index to where the packs are.

        An index may be older than they are: a power cut takes its last commits back, and a backup has one of its own
        time. So what was in packs that are gone is struck out first: it is found where a collection has moved it.
        """
        sizes, running = self.index.sizes(), self.index.runs()
        self.gone = [name for name in sizes if not (self.folder / f"{name}.car").exists()]
        for name in self.gone:
            with suppress(UnavailableError):  # on a full disk, what was there is missed when it is asked for
                self.index.lost_pack(name)
        for path in packs_in(self.folder):
            known = sizes.get(path.stem, 0)
            with if_there(path):
                if path.stat().st_size != known:
                    self._recover(path, known, path.stem in running)

    def _recover(self, path: Path, known: int, running: bool) -> bool:
        """Enter what a pack has behind `known`, and say whether that was anything; cut it if its writer is gone."""
        file = None if self.read_only else locked(path)
        if file is None:  # its writer lives, or nobody has to care
            return not running and self._read_on(path, known)
        try:  # nobody else writes it, or moves what it holds, before it is let go
            if not known:
                with suppress(UnavailableError):
                    self.index.back(path.stem)
            grown = self._read_on(path, known, live=False)
            if running:
                with suppress(UnavailableError):
                    self.index.running(path.stem, None)
            cut(path, file, max(known, self._read.get(path.stem, 0)))
        finally:
            locked_files.close(file)
        return grown

    def _read_on(self, path: Path, known: int, *, live: bool = True) -> bool:
        """Enter what a pack has behind `known`, up to its last mark; its writer may live."""
        known = max(known, self._read.get(path.stem, 0))
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = counted(path, file, known, os.fstat(file).st_size)
            if end > known:
                try:  # its writer may still wait for the disk, and puts build upon what is entered
                    sync_file(file)
                except OSError:
                    if live and not self.read_only:  # the writer takes it back: nobody is told that it is kept
                        return False
                if live and path.stem in self.index.runs():  # a long put, which has begun since that was asked
                    return False
                self.enter(path, file, known, end, live=live)
            return end > known
        finally:
            os.close(file)

    def enter(self, path: Path, file: int, start: int, end: int, *, live: bool = False) -> None:
        """Enter what a pack holds from `start` to the mark that ends at `end`, or remember it.

        In its turn: how far the index knows a pack says that it knows all before that.

        :param live: whether another one may write it, and take back what it could not bring to the disk.
        """
        for written in self._written(path, file, start, end, live=live):
            with self._lock:
                for one in written:
                    self._remember(one, self._theirs)
            with suppress(UnavailableError):
                self.flush()

    @staticmethod
    def _written(path: Path, file: int, start: int, end: int, *, live: bool) -> Iterator[Sequence[Written]]:
        """Yield what a pack holds from `start` to the mark that ends at `end`, so much as is entered in one go."""
        some, rows, written = list[Record](), 0, list[Written]()
        at = start
        for one in scanned(path, file, start, end):
            if isinstance(one, Record):
                some.append(one)
                at = one.offset + one.length
                rows += 1
                if rows < _ROWS:
                    continue
            place, mark = (0, Mark(0)) if isinstance(one, Record) else one
            written.append(Written(path.stem, place, some, mark, at if live and place else None))
            at = place or at
            some, rows = [], rows + 1
            if rows >= _ROWS:
                yield written
                rows, written = 0, []
        yield written

    def close(self) -> None:
        """Enter what waits, and end the thread."""
        self._ending.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(UnavailableError):
            self.flush()
        self.index.close()
