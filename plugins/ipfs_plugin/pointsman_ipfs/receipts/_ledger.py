"""Receipts on their way: each gets its place in the chain at once, and a thread has them kept, many with one commit.

A commit is a CAR with the receipts and a page that links to them. The page is pinned: a pin for each receipt would be
one for each call. When there are many pages, one that links to all of them takes their place.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from time import monotonic, time_ns
from typing import Any
from uuid import uuid4

from attrs import define, frozen
from pointsman import BackendError, ConfigError, Scope, Store, UnavailableError, __version__

from ..dag import car
from ..dag.block import kept, made
from ..dag.cbor import Ref, encode
from ..dag.cid import cbor_cid, parse, to_text
from ..dag.dagpb import MOST_BYTES
from ._receipt import VERSION, Written, smaller
from ._signature import Signer, signed
from ._trail import Left, Trail, left_in

_log = logging.getLogger("pointsman.receipts")

#: Bytes, and receipts, of one commit, after which the next one begins; and bytes that may wait for the disk.
_COMMIT, _MANY, _WAITING = 2 << 20, 4096, 32 << 20
#: Pages, after which one page takes their place.
_PAGES = 256
#: Seconds after which a commit that failed is tried again, at first and at most; that a caller waits while the disk is
#: slow; that telling a store to unpin a page may take.
_FIRST_S, _LONGEST_S, _PATIENCE_S, _UNPIN_S = 0.1, 5.0, 10.0, 2.0


@define(eq=False)
class _Receipt:
    """A receipt that is to be kept."""

    cid: bytes
    blocks: Sequence[tuple[bytes, bytes]]  #: it first
    size: int  #: bytes of them


@frozen
class Keeping:
    """Where and how receipts are kept."""

    store: Callable[[], Store]
    only: str | None  #: the id of the one that is to keep them, of several
    folder: Path | None  #: of the trails; None leaves none
    signer: Signer | None
    delay: float  #: seconds for which a receipt waits for others
    patience: float  #: seconds that `close` goes on trying while nothing can be kept


class Ledger:
    """One chain of receipts. Thread-safe; of the process that made it."""

    def __init__(self, how: Keeping) -> None:
        self.pid = os.getpid()
        self._how, self._signer = how, how.signer
        self._lock = threading.Lock()  # over what follows, down to `_failing`
        self._changed = threading.Condition(self._lock)
        self._chain, self._number = uuid4().hex, 0
        self._constant = {"receipt": VERSION, "by": f"pointsman {__version__}", "chain": self._chain}
        self._newest: str | None = None
        self._time, self._second, self._date = "", 0, ""
        self._queue: deque[_Receipt] = deque()
        self._size = 0  #: bytes of the queue, and of the commit that runs
        self._idle = False
        self._closing = False
        self._progress = 0.0  #: when something was kept last, or `close` began
        self._failing = ""
        self._pages, self._durable = list[str](), ""
        self._left: list[Left] = [] if how.folder is None else left_in(how.folder)
        self._trail = None if how.folder is None else Trail(how.folder, self._chain)
        self._thread = threading.Thread(target=self._run, name="pointsman-receipts", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    # -- in the thread of a caller -----------------------------------------------------------------

    def add(self, written: Written, scope: Scope) -> str:
        """Give what was written its place in the chain, and return its CID. It is kept soon.

        :raises UnavailableError: too much waits for the disk; or `close` was called.
        """
        with self._lock:
            if self._closing:
                raise UnavailableError("whoever keeps receipts is closed", retry_same=False)
            if self._size > _WAITING:
                self._wait_for_room(scope)
            if (now := self._now()) > self._time:
                self._time = now
            data = self._encoded(written.parts)
            if len(data) > MOST_BYTES:
                written = smaller(written)
                data = self._encoded(written.parts)
            cid = cbor_cid(data)
            if not written.linked:
                made(cid, ())
            self._newest, self._number = to_text(cid), self._number + 1
            blocks, size = ((cid, data), *written.blocks), len(data)
            if written.blocks:
                size += sum(len(block) for _, block in written.blocks)
            self._queue.append(_Receipt(cid, blocks, size))
            self._size += size
            if self._idle or (self._size >= _COMMIT > self._size - size):
                self._idle = False
                self._changed.notify_all()
            return self._newest

    def _now(self) -> str:
        """Return the time in UTC, as text: what only changes from second to second is kept."""
        second, rest = divmod(time_ns() // 1000, 1_000_000)
        if second != self._second:
            self._second, self._date = second, datetime.fromtimestamp(second, UTC).isoformat()[:19]
        return f"{self._date}.{rest:06}Z"

    def _encoded(self, parts: dict[str, Any]) -> bytes:
        record: dict[str, Any] = {
            **self._constant,
            "number": self._number,
            "previous": self._newest,
            "time": self._time,
            **parts,
        }
        if not self._number and (after := [left.newest for left in self._left if left.newest]):
            record["after"] = after
        if self._signer is not None:
            record["key"] = self._signer.public
        data = encode(record)
        if self._signer is not None:
            data = signed(data, self._signer.sign(data))
        return data

    def _wait_for_room(self, scope: Scope) -> None:
        """Let a caller who is too fast wait, unless that is of no use."""
        if not self._failing:
            self._changed.wait_for(lambda: self._size <= _WAITING or self._failing, min(_PATIENCE_S, scope.left()))
        if self._size > _WAITING:
            raise UnavailableError(f"too many receipts wait to be kept: {self._failing or 'the disk is slow'}")

    @property
    def waiting(self) -> tuple[int, str]:
        """How many receipts wait to be kept (more while a commit runs), and why the last commit failed."""
        with self._lock:
            return len(self._queue), self._failing

    def close(self) -> None:
        """Wait until all receipts are durable.

        :raises UnavailableError: some are not, since nothing could be kept for so long; it says where they are instead.
        """
        if self.pid != os.getpid():  # a forked child: they are those of its parent
            return
        with self._lock:
            self._closing, self._progress = True, monotonic()
            self._changed.notify_all()
        while self._thread.is_alive() and monotonic() < self._progress + self._how.patience + _LONGEST_S:
            self._thread.join(0.1)
        atexit.unregister(self._at_exit)
        for left in self._left:
            left.release()
        if self._trail is not None:
            self._trail.close()
        with self._lock:
            unkept = list(self._queue)
        if unkept:
            kept(one.cid for one in unkept)
            raise UnavailableError(f"{len(unkept)} receipts could not be kept: {self._failing}; {_rescued(unkept)}")

    def _at_exit(self) -> None:
        """Nobody has closed the router."""
        try:
            self.close()
        except UnavailableError as error:
            _log.warning("%s", error)

    # -- in the thread of its own ------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._gathered():
            if not self._keep(batch):
                return

    def _gathered(self) -> list[_Receipt]:
        """Wait for receipts, and a moment for others to come; return those of the next commit, none at the end."""
        with self._lock:
            self._idle = True
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._idle = False
            self._changed.wait_for(lambda: self._size >= _COMMIT or self._closing, self._how.delay)
            batch, size = list[_Receipt](), 0
            for one in self._queue:
                batch.append(one)
                size += one.size
                if size >= _COMMIT or len(batch) >= _MANY:
                    break
            return batch

    def _keep(self, batch: Sequence[_Receipt]) -> bool:
        """Make receipts durable, whatever it takes; say whether that was done before `close` lost its patience."""
        page, data = _page([one.cid for one in batch])
        made(page, tuple(one.cid for one in batch))
        wait = _FIRST_S
        while (failed := self._try(page, data, batch)) is not None:
            with self._lock:
                if self._failing != failed:
                    _log.warning("receipts cannot be kept, and wait: %s", failed)
                self._failing = failed
                self._changed.notify_all()
                if self._changed.wait_for(self._is_given_up, wait):
                    return False
            wait = min(2 * wait, _LONGEST_S)
        kept([page, *(one.cid for one in batch)])
        self._noted(to_text(batch[-1].cid), to_text(page))
        with self._lock:
            for one in batch:
                self._queue.popleft()
                self._size -= one.size
            self._progress, self._failing = monotonic(), ""
            self._changed.notify_all()
        if len(self._pages) >= _PAGES:
            self._merge()
        return True

    def _is_given_up(self) -> bool:
        return self._closing and monotonic() > self._progress + self._how.patience

    def _try(self, page: bytes, data: bytes, batch: Iterable[_Receipt]) -> str | None:
        """Let a commit be kept; return why it could not be."""
        blocks = dict(block for one in batch for block in one.blocks)
        try:
            self._import(page, [(page, data), *blocks.items()])
        except Exception as error:  # whatever it is, the receipts are still here
            return str(error) or type(error).__name__
        return None

    def _import(self, root: bytes, blocks: Iterable[tuple[bytes, bytes]]) -> None:
        self._how.store().import_car(b"".join(car.write([root], blocks)), store=self._how.only)

    def _noted(self, newest: str, page: str) -> None:
        """Note how far the chain is; with the first receipt, that it goes on where others left off."""
        before = [old for left in self._left for old in left.pages]
        self._pages = list(dict.fromkeys([*self._pages, *before, page]))
        self._durable = newest
        if self._trail is None:
            return
        try:
            self._trail.add([*(("", old) for old in before), (newest, page)])
            for left in self._left:
                left.away()
            self._left = []
        except OSError as error:
            _log.warning("where the receipts are cannot be noted: %s", error)

    def _merge(self) -> None:
        """Let one page take the place of all. What fails here costs no receipt: their pages stay pinned."""
        pages, self._pages = self._pages, []
        try:
            root, data = _page([parse(page) for page in pages])
            self._import(root, [(root, data)])
            if self._trail is not None:
                self._trail.begin_anew(self._durable)
            for page in pages:
                self._how.store().unpin(page, timeout=_UNPIN_S)
        except (BackendError, ConfigError, OSError) as error:
            _log.warning("the pages of receipts stay as they are: %s", error)


def _page(links: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return the CID and the bytes of a page."""
    data = encode({"page": VERSION, "of": [Ref(cid) for cid in links]})
    return cbor_cid(data), data


def _rescued(unkept: Sequence[_Receipt]) -> str:
    """Write receipts that no store takes to a CAR file, and say where that is."""
    page, data = _page([one.cid for one in unkept])
    blocks = dict(block for one in unkept for block in one.blocks)
    try:
        path = Path(mkdtemp(prefix="pointsman-receipts-")) / "unkept.car"
        with path.open("xb") as file:
            file.writelines(car.write([page], [(page, data), *blocks.items()]))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"nor could they be written to a file: {error}; they are lost, from {to_text(unkept[0].cid)} on"
    return f"they are in {path}: `pointsman store import` brings them, once there is room"
