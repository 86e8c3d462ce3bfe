"""Evidence: which bytes were submitted, who described them how and when. All of it is blocks of a store.

    with Evidence(Store()) as evidence:
        filed = evidence.submit(b"...", About("document", "The notice of 3 May", user="anna"))
        (record,) = evidence.find(filed.record.cid)
        evidence.read(record)                           # the same bytes, verified now

Each submission is a record, pinned in the store, that links to the bytes and to the record before it: see `_records`.
An index beside the store finds them; it holds nothing that the records do not say, and is made from them when it is
missing or damaged. With `recipients`, evidence and records are encrypted before they reach the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Final

from attrs import field, frozen
from pointsman import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    ConfigError,
    ContentNotFoundError,
    InvalidRequestError,
    Store,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.content import Finding

from ..dag import cid as cids
from ._age import Identity, Keys, hidden
from ._evidence_index import EvidenceIndex, beside
from ._filing import Filed, Files
from ._preparing import Preparing, hashing
from ._records import About, Record, as_bytes, check_text
from ._rows import Row
from ._schema import envelope_of
from ._submitted import Submitted

__all__ = ["ANYONE", "About", "Evidence", "Filed", "Record", "Reindexed", "Statistics"]

#: How often evidence is put into the store anew, where a collection takes it before its record is there.
_TRIES = 3
#: Bytes of encrypted records that are remembered when they were opened.
_REMEMBERED = 64 << 20


class Anyone(Enum):
    """Stands for every user."""

    ANYONE = "anyone"


ANYONE: Final = Anyone.ANYONE


@frozen
class Statistics:
    """What records come to."""

    records: int
    size: int  #: bytes of evidence, of the same bytes as often as they were submitted
    evidence_types: frozenset[str]
    users: frozenset[str]
    sealed: int = 0  #: encrypted records, not counted above, that cannot be read here: nobody knows whose they are


@frozen
class Reindexed:
    """What was found when an index was made anew."""

    records: int
    #: Stores that cannot be listed; what may be a record, and cannot be read; what is pinned nowhere any more. What the
    #: index had of these is kept in it.
    unreadable: tuple[Finding, ...] = field(default=())


class Evidence:
    """The evidence in a store, and the index by which it is found. Thread-safe; processes may share both.

    :param store: keeps evidence and records. It stays open when this is closed.
    :param path: of the index, which is made when it is needed. Without, it is beside the content of the first store
        that has a path.
    :param recipients: public keys of age, or of SSH, for which evidence and records are encrypted. Without, those of
        `identity`, unless that is of SSH, which only reads then; without that, nothing is encrypted. Needs
        `pip install "pointsman-ipfs[age]"`.
    :param identity: the private key that opens what was encrypted: its text, or the path of a key file.
    :param stores: the ids of those from whose records an index is made anew; without, all.
    :raises ConfigError: a key, a store or `path` is none, or the package that encrypts is not installed.
    """

    def __init__(
        self,
        store: Store,
        path: str | Path | None = None,
        *,
        recipients: str | Iterable[str] | None = None,
        identity: Identity | Iterable[Identity] | None = None,
        stores: Iterable[str] | None = None,
    ) -> None:
        named = recipients is not None or identity is not None
        recipients, identity = hidden(recipients, public=True), hidden(identity)  # so that no traceback shows a key
        if named and not recipients and not identity:  # a list that came out empty is no wish to be read by all
            text = "give the public keys of those who may open what is stored; without encryption, leave it out"
            raise ConfigError(f"recipients: found none; {text}")
        known = {one.id for one in store.stores}
        self.store, self._stores = store, known if stores is None else {*stores}
        if unknown := self._stores - known:
            ids = ", ".join(map(repr, sorted(known)))
            raise ConfigError(f"stores: found {min(unknown, key=str)!r}, expected of {ids}")
        if not isinstance(path, str | PathLike | None):
            raise ConfigError(f"path: found {type(path).__name__}, expected the path of the index")
        self.path = (beside(store) if path is None else Path(path)).absolute()
        self._keys = Keys(recipients, identity) if recipients or identity else None
        self._preparing = Preparing(store, self._keys)
        self._index = EvidenceIndex(self.path, lambda: self._pinned({}), ours=path is None)
        self._files = Files(store, self._index, self._read)
        self._known = dict[bytes, bytes | str]()  #: what was in the age files of records; or why they cannot be opened
        self._room = _REMEMBERED

    @property
    def encrypts(self) -> bool:
        """Whether what is submitted is encrypted."""
        return self._keys is not None

    # -- submitting --------------------------------------------------------------------------------

    def submit(self, content: bytes | Path, about: About) -> Filed:
        """Keep bytes, or the file at a path, and what is said of it. It is durable when this returns.

        The same bytes may be submitted as often as you like: each time there is one more record.

        :raises InvalidRequestError: it cannot be read, was changed while it was read, or is no bytes but text; or the
            record would be too large.
        :raises ConfigError: it is to be encrypted, and nobody could open it: there are no recipients.
        :raises BackendError: it is in no store.
        """
        given, tries = Submitted.of(content), _TRIES
        while True:
            filing, opened = self._preparing.prepared(given, about)
            try:
                row, stored = self._files.file(filing)
            except (ContentNotFoundError, UnusableAnswer, AllBackendsFailed):
                tries -= 1
                if not tries or not self._preparing.is_collected(filing):
                    raise
            else:
                return Filed(row.envelope.record(opened), stored.stored_in, stored.waiting_for)

    # -- finding -----------------------------------------------------------------------------------

    def find(self, cid: str) -> tuple[Record, ...]:
        """Return the records that have this CID, or whose evidence has it, the earliest first.

        The index says which; a record that it does not know is looked for in the store by its own CID. One that it
        knows is found by that of its plain bytes, too, by which the next one links to it.

        :raises InvalidRequestError: it is no CID.
        :raises AuthenticationError: they are encrypted, and there is no key, or none that opens any.
        :raises UnusableAnswer: what is there is not as a record is.
        """
        wanted = cids.version_1(cids.parse(cid))
        rows = self._index.with_cid(wanted)
        if not rows and cids.codec_of(wanted) == cids.DAG_CBOR:
            with suppress(ContentNotFoundError):
                rows = list(self._read(wanted))
        unread = list[BackendError]()
        if (found := tuple(self._readable(rows, unread))) or not unread:
            return found
        raise unread[0]

    def records(self, user: str | Anyone | None = ANYONE, claim_type: str | None = None) -> Iterator[Record]:
        """Give out the records of a user (None: those that name no user), of a claim if one is named, in their order.

        Those that are encrypted for others are left out, and those in which nonsense was; `statistics` counts them.

        :raises AuthenticationError: there are records, and all are encrypted, and no key here opens any.
        :raises InvalidRequestError: user or claim is no text.
        """
        anyone, named = _named(user)
        check_text("claim_type", claim_type)
        for record in self._readable(self._index.every(named, claim_type, anyone=anyone), []):
            if (anyone or record.user == named) and claim_type in (None, record.claim_type):
                yield record

    def statistics(self, user: str | Anyone | None = ANYONE) -> Statistics:
        """Return what the records of a user come to. Raises as `records`."""
        anyone, named = _named(user)
        known, unread = self._index.totals(named, anyone=anyone), list[BackendError]()
        readable = self._readable(self._index.sealed(), unread)
        sealed = [one for one in readable if anyone or one.user == named]
        return Statistics(
            known.number + len(sealed),
            known.size + sum(one.size for one in sealed),
            frozenset(known.types.union(one.evidence_type for one in sealed)),
            frozenset(known.users.union(one.user for one in sealed if one.user is not None)),
            len(unread),
        )

    def ends(self) -> tuple[str, ...]:
        """Return the CIDs of the records that no other one follows: of one log it is one, that of the last record.

        Who has written them down somewhere else can show later that no record before was taken away or changed.
        """
        return tuple(cids.to_text(one.cid) for one in self._index.ends())

    # -- reading -----------------------------------------------------------------------------------

    def read(self, record: Record) -> bytes:
        """Return the evidence of a record, decrypted, and verified now. Raises as `write`."""
        pieces = list[bytes]()
        self._give(record, pieces.append)
        return b"".join(pieces)

    def write(self, record: Record, file: BinaryIO) -> int:
        """Write the evidence of a record to a file as it comes; when this returns it is known to be all, and right.

        It returns how many bytes that are: that it is as many as the record says, nobody has looked at.

        :raises ContentNotFoundError: no store has it.
        :raises AuthenticationError: it is encrypted, and there is no key, or none that opens it.
        :raises UnusableAnswer: what there is are not the bytes that were submitted.
        """
        return self._give(record, file.write)

    def confirm(self, record: Record) -> None:
        """Read the record itself from the store, and see that it says what this one says.

        :raises ContentNotFoundError: no store has it.
        :raises UnusableAnswer: it is damaged, or says something else.
        """
        if [record] != list(map(self._record, self._read(cids.parse(record.record_cid)))):
            raise UnusableAnswer(f"record {record.record_cid}: found one that says something else", retry_same=False)

    def _give(self, record: Record, take: Callable[[bytes], object]) -> int:
        seen = hashing()

        def taken(piece: bytes) -> None:
            seen.add(piece)
            take(piece)

        what = f"evidence {record.cid}"
        with self.store.open(record.cid) as content:
            if record.encrypted:
                self._key(what).decrypting(content, taken, what)
            else:
                for piece in content:
                    taken(piece)
        if cids.to_text((whole := seen.finish()).cid) != record.plain_cid:
            raise UnusableAnswer(f"{what}: found other bytes than those that were submitted", retry_same=False)
        return whole.size

    def _read(self, cid: bytes) -> Iterator[Row]:
        """Yield a record as the store has it; nothing, if this is a block of something else.

        :raises UnusableAnswer: it is damaged.
        """
        if (envelope := envelope_of(cid, self._block(cid))) is not None:
            yield Row(envelope, None if envelope.sealed is None else self._block(envelope.sealed))

    def _block(self, cid: bytes) -> bytes:
        block = self.store.get(cids.to_text(as_bytes(cid)))
        if not cids.matches(cid, block):
            raise UnusableAnswer(f"block {cids.to_text(cid)}: the store gave other bytes", retry_same=False)
        return block

    def _readable(self, rows: Iterable[Row], unread: list[BackendError]) -> Iterator[Record]:
        """Yield what those records say that can be opened.

        :param unread: takes of each other one why it cannot be.
        :raises AuthenticationError: no record of all that there are can be read; so UnusableAnswer, of nonsense.
        """
        none = True
        for row in rows:
            try:
                record = self._record(row)
            except (AuthenticationError, UnusableAnswer) as error:  # what others brought in may be sealed, and nonsense
                unread.append(error)
            else:
                none = False
                yield record
        if none and unread and not self._index.totals(None, anyone=True).number:
            raise unread[0]

    def _record(self, row: Row) -> Record:
        """Return what a record says, decrypted if need be."""
        if row.sealed is None:
            return row.envelope.record()
        cid = row.envelope.cid
        if (opened := self._known.get(cid)) is None:
            what = f"record {cids.to_text(cid)}"
            try:
                opened = self._key(what).decrypt(row.sealed, what)
            except AuthenticationError as error:
                opened = error.message
            if len(opened) <= self._room:
                self._room -= len(opened)
                self._known[cid] = opened
        if isinstance(opened, str):
            raise AuthenticationError(opened)
        return row.envelope.record(opened)

    def _key(self, what: str) -> Keys:
        if self._keys is None:
            raise AuthenticationError(f"{what} is encrypted: give identity=, the private key of one of its recipients")
        return self._keys

    # -- the index ---------------------------------------------------------------------------------

    def reindex(self) -> Reindexed:
        """Make the index from what is pinned in the stores. What it has of records that cannot be read now is kept.

        No key is needed, also where evidence is encrypted.

        :raises BackendError: no store could be listed, or asked; the index is as it was.
        """
        unreadable = dict[str, Finding]()

        def kept(row: Row) -> None:
            cid = cids.to_text(row.envelope.cid)
            problem = "it is in the index, and pinned in no store that could be listed"
            unreadable.setdefault(cid, Finding(cid, problem))

        with self._index.changing() as change:
            return Reindexed(change.replace(self._pinned(unreadable), kept), tuple(unreadable.values()))

    def _pinned(self, unreadable: dict[str, Finding]) -> Iterator[Row]:
        """Yield the records that are pinned in any store of those.

        :param unreadable: takes what may be one and cannot be read, and which store cannot be listed.
        :raises BackendError: none can be listed.
        """
        listed, seen, failed = False, set[str](), list[BackendError]()
        health = self.store.health()
        for store in self.store.stores:
            state = health[store.id]
            lists = store.writable or store.folder is not None  # a gateway does not
            if store.id not in self._stores or not store.enabled or not lists or state.status == "unconfigured":
                continue
            try:
                if not state.usable:
                    raise UnavailableError(state.reason)
                for entry in self.store.ls(store=store.id):
                    if entry.cid not in seen:
                        seen.add(entry.cid)
                        yield from self._record_of(entry.cid, unreadable)
                listed = True
            except BackendError as error:
                failed.append(error)
                unreadable[store.id] = Finding("", f"it cannot be listed: {error.message}", store.id)
        if failed and not listed:
            raise failed[0]

    def _record_of(self, text: str, unreadable: dict[str, Finding]) -> Iterator[Row]:
        """Yield what is pinned, if it is a record."""
        try:
            cid = cids.parse(text)
        except InvalidRequestError:  # of a hash function that none of ours has
            return
        if cids.codec_of(cid) == cids.DAG_CBOR:
            try:
                yield from self._read(cid)
            except (ContentNotFoundError, UnusableAnswer) as error:
                unreadable[text] = Finding(text, error.message)

    def close(self) -> None:
        """Let the index go. The store stays open."""
        self._index.close()

    def __enter__(self) -> Evidence:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _named(user: str | Anyone | None) -> tuple[bool, str | None]:
    """Return whether every user is meant, and else which."""
    if isinstance(user, Anyone):
        return True, None
    check_text("user", user)
    return False, user
