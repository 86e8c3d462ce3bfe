"""What one receipt, or one record of evidence, goes back to, in a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from attrs import frozen
from pointsman import BackendError, ContentNotFoundError, Store

from ..dag import car
from ..dag import cid as cids
from ..dag.block import Verified, verified
from ..evidence._records import as_bytes
from ._chains import Audit
from ._check import Check, is_away
from ._receipt import content_of, receipt_in
from ._records import Records, record_in

#: Bytes of the blocks of evidence that are held; a receipt is held whole.
_ROOM = 8 << 20
#: Roots of a copy, at most: where there are more, those are left out that stand farthest back.
_ROOTS = 50_000


@frozen
class Copy:
    """A CAR file that is written, in pieces, with all that something goes back to."""

    write: Callable[[bytes], object]
    cited: bool  #: whether it has the evidence that receipts cite


class Stored:
    """Goes back from a receipt or a record to where its chain begins, and to those behind which that begins.

    :param progress: is told of bytes that were read.
    """

    def __init__(
        self,
        store: Store,
        audit: Audit,
        records: Records,
        progress: Callable[[int], object],
        copy: Copy | None,
    ) -> None:
        self._store, self._audit, self._records, self._progress, self._copy = store, audit, records, progress, copy
        self._copied, self._partial = set[bytes](), set[bytes]()
        self._cited = dict[bytes, list[Check]]()

    def back_from(self, root: bytes) -> Iterator[Check]:
        """Check all of it."""
        if self._copy is not None:
            self._copy.write(car.header(list(dict.fromkeys([root, *islice(self._kept(root), _ROOTS)]))))
        waiting, seen = [("block", root)], set[bytes]()
        while waiting:
            kind, cid = waiting.pop()
            if cid not in seen:
                seen.add(cid)
                yield from self._looked_at(kind, cid, asked=cid == root)
                waiting += self._before(cid)
        yield from self._audit.checks()
        yield from self._records.sealed()
        yield from self._records.logs(_Held(self._store), self._cited.keys() - seen)
        for checks in self._cited.values():
            yield from checks

    def _kept(self, root: bytes) -> Iterator[bytes]:
        """Yield what a copy has whole, and whoever imports it keeps: each receipt and record, and what receipts cite.

        None of them links to the others, so that its pin ends there.
        """
        audit, records, waiting, seen = Audit(None), Records(None), deque([root]), set[bytes]()
        while waiting:
            cid = waiting.popleft()
            if cid in seen:
                continue
            seen.add(cid)
            with suppress(BackendError):  # what is missing is told later
                text = cids.to_text(cid)
                if self._store.has(text):
                    yield cid
                elif cid != root:
                    self._partial.add(cid)
                block = self._store.get(cids.to_text(as_bytes(cid)))
                if (record := record_in(cid, block)) is not None:
                    list(records.take(cid, record))
                    waiting += records.before(cid) if cid in records else ()
                elif (said := receipt_in(cid, block)) is not None:
                    list(audit.take(cid, block, said))
                    waiting += map(cids.parse, audit.before(text))
                    cited = said.get("evidence", ()) if self._copy and self._copy.cited and text in audit else ()
                    yield from (one for one in map(cids.parse, cited) if self._store.has(cids.to_text(one)))

    def _before(self, cid: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield what stands before a receipt or a record, each with what it is."""
        if cid in self._records:
            yield from (("record", before) for before in self._records.before(cid))
        yield from (("receipt", cids.parse(before)) for before in self._audit.before(cids.to_text(cid)))

    def _looked_at(self, kind: str, cid: bytes, *, asked: bool) -> Iterator[Check]:
        """Check a receipt or a record. That one is not here, those tell that name it."""
        held, error = self._held(cid)
        text, block = cids.to_text(cid), held.get(cid) if cid in held else b""
        if cid in held and (record := record_in(cid, block)) is not None:
            yield from self._records.take(cid, record)
            if cid in self._records:
                yield self._record(cid, held, error, asked=asked)
            return
        if error is not None:
            if asked or cid in held or not isinstance(error, ContentNotFoundError):
                yield _told(kind, text, error)
            if is_away(error):
                self._audit.away.add(text)
            return
        if (said := receipt_in(cid, block)) is None:
            yield Check("fails", f"block {text}", "it is neither a receipt nor a record of evidence: name one of these")
            return
        yield from self._audit.take(cid, block, said)
        if text in self._audit:
            yield from content_of(cid, said, Verified(held.get))
            self._look_at_cited(said, text)
        for one in held.blocks.items():
            self._write(*one)

    def _record(self, cid: bytes, held: _Held, error: BackendError | None, *, asked: bool) -> Check:
        if error is None or isinstance(error, ContentNotFoundError):
            return self._records.check(cid, held, kept=asked)
        return _told("record", cids.to_text(cid), error)

    def _look_at_cited(self, said: Mapping[str, Any], by: str) -> None:
        """Check the evidence that a receipt cites. In a copy it stands first: one that is cut lacks the receipt."""
        for text in said.get("evidence", ()):
            cid = cids.parse(text)
            if cid not in self._cited:
                self._cited[cid] = list(self._evidence(cid, text, by))

    def _evidence(self, cid: bytes, text: str, by: str) -> Iterator[Check]:
        held, error = self._held(cid, cited=True)
        if isinstance(error, ContentNotFoundError):
            yield Check("unchecked", f"evidence {text}", f"it is not here; receipt {by} cites it")
        elif error is not None:
            yield _told("evidence", text, error, f"; receipt {by} cites it")
        else:
            yield Check("holds", f"evidence {text}", f"it is here, with all that it leads to; receipt {by} cites it")
            if (record := record_in(cid, held.get(cid))) is not None:
                yield from self._records.take(cid, record)
                if cid in self._records:
                    yield self._record(cid, held, None, asked=True)

    def _held(self, cid: bytes, *, cited: bool = False) -> tuple[_Held, BackendError | None]:
        """Return what the store has under a CID, and why that is not all of it. All but a receipt is copied at once.

        :param cited: whether it is evidence that a receipt cites, half of which would be of no use in a copy.
        """
        held, text = _Held(self._store), cids.to_text(cid)
        copied = self._copy is not None and (self._copy.cited or not cited)
        try:
            if copied and cited and not self._store.has(text):
                return held, ContentNotFoundError(f"{text} is not here, or not all of it")
            for one, data in car.complete([cid], car.Reader(self._store.export_car(text))):
                self._progress(len(data))
                held.is_receipt |= one == cid and receipt_in(cid, data) is not None
                held.take(one, data)
                if copied and cid not in self._partial and not held.is_receipt:
                    self._write(one, data)
                elif copied and one == cid and not held.is_receipt:  # plain bytes: what it links to is not expected
                    self._write(as_bytes(cid), data)
        except BackendError as error:
            return held, error
        return held, None

    def _write(self, cid: bytes, data: bytes) -> None:
        if self._copy is not None and cid not in self._copied:
            self._copied.add(cid)
            self._copy.write(car.record(cid, data))


class _Held:
    """What a store gave out. What has much content is not in memory: its blocks are asked for again, as plain bytes."""

    def __init__(self, store: Store) -> None:
        self.blocks = dict[bytes, bytes]()
        self.is_receipt = False
        self._store, self._lengths, self._room = store, dict[bytes, int](), _ROOM

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._lengths

    def take(self, cid: bytes, data: bytes) -> None:
        """Take a block, which was verified."""
        self._lengths[cid] = len(data)
        if self.is_receipt or len(data) <= self._room:
            self.blocks[cid] = data
            self._room -= len(data)

    def get(self, cid: bytes) -> bytes:
        """Return the bytes of a block. Raises ContentNotFoundError, and as the store does."""
        self.length(cid)
        found = self.blocks.get(cid)
        return verified(cid, self._store.get(cids.to_text(as_bytes(cid)))) if found is None else found

    def length(self, cid: bytes) -> int:
        """Return how many bytes a block has. Raises ContentNotFoundError."""
        if cid not in self._lengths:
            raise ContentNotFoundError(f"block {cids.to_text(cid)} is not here")
        return self._lengths[cid]


def _told(kind: str, text: str, error: BackendError, more: str = "") -> Check:
    if is_away(error):
        return Check("unchecked", f"{kind} {text}", f"it could not be looked at: {error.message}{more}")
    why = f"it is not here: {error.message}" if isinstance(error, ContentNotFoundError) else error.message
    return Check("fails", f"{kind} {text}", f"{why}{more}")
