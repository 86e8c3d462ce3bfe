"""How records get into the store: each follows the one before it, and those of many threads wait for the disk once.

Before records go into the store, their CIDs are noted in the file of the index's lock. Where a process is killed before
they are in the index, whoever submits next finds the note, and enters those that the store has. A change takes it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import define, field, frozen
from pointsman import BackendError, Store, Stored, UnusableAnswer

from .._together import Together
from ..dag import car
from ..dag.cid import cbor_cid, to_text
from ._evidence_index import EvidenceIndex
from ._records import Envelope, Record, as_bytes, block_of
from ._rows import Change, Row

#: Of what is filed together: records, and bytes of their evidence.
_MOST, _MOST_BYTES = 256, 16 << 20
#: Records that one follows at most, where branches are to be joined.
_ENDS = 100
#: A CID as those of records are.
_EMPTY = cbor_cid(b"")


@frozen
class Filed:
    """A record that is durable, with its evidence."""

    record: Record
    stored_in: tuple[str, ...]  #: ids of the stores that have both
    waiting_for: tuple[str, ...] = ()  #: ids of the stores that get them from the outbox


@define(eq=False)
class Filing:
    """One record on its way."""

    id: str
    data: bytes  #: the CID of the evidence
    said: Mapping[str, Any] = field(repr=False)  #: what is in its block beside links
    blocks: Sequence[tuple[bytes, bytes]] = field(repr=False)  #: what goes into the store with it
    sealed: bytes | None = field(default=None, repr=False)  #: its age file
    whole: bool = True  #: whether all that it links to is among the blocks, or follows from the index
    stored: Stored | None = field(default=None, init=False)
    row: Row | None = field(default=None, init=False)

    @property
    def size(self) -> int:
        """Bytes of its blocks."""
        return sum(len(data) for _, data in self.blocks)


class Files:
    """Files records into a store and an index. Thread-safe.

    :param read: returns the record with this CID as the store has it, if it is one.
    """

    def __init__(self, store: Store, index: EvidenceIndex, read: Callable[[bytes], Iterable[Row]]) -> None:
        self._store, self._index, self._read = store, index, read
        self._together = Together(self._write, _fitting)

    def file(self, filing: Filing) -> tuple[Row, Stored]:
        """Make a record durable, in the store and in the index.

        :raises BackendError: it is in no store, or not in the index.
        """
        self._together.add(filing)
        assert filing.row is not None  # noqa: S101 - it is done
        assert filing.stored is not None  # noqa: S101 - the same
        return filing.row, filing.stored

    def _write(self, batch: Sequence[Filing]) -> None:
        with self._index.changing() as change:
            begun = self._enter_begun(change)
            envelopes, blocks = _chained(change, batch)
            roots = [one.cid for one in envelopes]
            self._index.writing.note(b"".join((*begun, *roots)))
            stored = self._kept(roots, blocks)
            rows = [Row(one, filing.sealed) for one, filing in zip(envelopes, batch, strict=True)]
            change.add(rows)
        for filing, row in zip(batch, rows, strict=True):
            filing.row, filing.stored = row, stored[to_text(row.envelope.cid)]

    def _enter_begun(self, change: Change) -> list[bytes]:
        """Enter records that are in the store, and not here, since the process that filed them was killed; return them.

        They are there for good when the change has ended: until then they are begun.
        """
        begun, entered = begun_in(self._index.writing.noted()), list[bytes]()
        if begun and not change.has(begun[-1]):
            for cid in filter(self._has, begun):  # nobody was told of another one that it is kept
                entered.append(cid)
                with suppress(BackendError):
                    self._store.pin(to_text(cid))
                    change.add(self._read(cid))
        return entered

    def _has(self, cid: bytes) -> bool:
        """Whether a store here has all of a record. One that is away hides no other."""
        for one in self._store.stores:
            with suppress(BackendError):
                if one.folder is not None and self._store.has(to_text(cid), store=one.id):
                    return True
        return False

    def _kept(self, roots: Sequence[bytes], blocks: Sequence[tuple[bytes, bytes]]) -> Mapping[str, Stored]:
        """Pin these roots, with all that they link to, and return what is kept by its CID."""
        stored = {one.cid: one for one in self._store.import_car(b"".join(car.write(roots, blocks)))}
        if missing := [cid for cid in map(to_text, roots) if cid not in stored]:
            raise UnusableAnswer(f"the store has not said that it keeps {missing[0]}, which it was given")
        return stored


def begun_in(note: bytes) -> list[bytes]:
    """Return the CIDs of the records that were to be filed when the note was left."""
    size = len(_EMPTY)
    begun = [note[at : at + size] for at in range(0, len(note), size)]
    return [one for one in begun if len(one) == size and one[:4] == _EMPTY[:4]]


def _fitting(waiting: Sequence[Filing]) -> int:
    """Return how many of these are filed together.

    What links to evidence in the store stands alone: it may be refused.
    """
    many, size = 0, 0
    for filing in waiting[:_MOST]:
        size += filing.size
        if many and (size > _MOST_BYTES or not filing.whole):
            break
        many += 1
        if not filing.whole:
            break
    return many


def _chained(change: Change, batch: Sequence[Filing]) -> tuple[list[Envelope], list[tuple[bytes, bytes]]]:
    """Return the records, each after the one before it, and all blocks that go into the store.

    What a record follows goes with it, as plain bytes, so that it is whole in any store.
    """
    ends, envelopes, blocks = change.ends(_ENDS), list[Envelope](), list[tuple[bytes, bytes]]()
    for filing in batch:
        block = block_of(filing.id, filing.data, filing.said, [one.cid for one in ends])
        blocks += [(as_bytes(one.cid), one.block) for one in ends]
        cid = cbor_cid(block)
        blocks += [(cid, block), *filing.blocks]
        envelopes.append(Envelope.read(cid, block))
        ends = envelopes[-1:]
    return envelopes, blocks
