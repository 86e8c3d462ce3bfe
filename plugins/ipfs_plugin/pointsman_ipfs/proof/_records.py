"""Records of evidence, gone through: are the bytes here that they name, and is any record missing between them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Protocol

from attrs import field, frozen
from pointsman import AuthenticationError, BackendError, ContentNotFoundError

from ..dag import reader
from ..dag.block import Verified
from ..dag.cbor import decode
from ..dag.cid import DAG_CBOR, codec_of, to_text
from ..evidence._age import Keys
from ..evidence._preparing import hashing
from ..evidence._records import SCHEMA, as_bytes, as_record
from ..evidence._schema import opened_problems, problems_of
from ._check import Check, Status, amount, is_away, several

#: What every version of the schema begins with.
_FAMILY = SCHEMA[: SCHEMA.rindex("v")]
#: What an age file begins with. https://age-encryption.org/v1
_AGE = b"age-encryption.org/v1\n"
#: Records that one line names, at most.
_MOST = 3


class Held(Protocol):
    """Blocks that are here, and were verified."""

    def __contains__(self, cid: bytes, /) -> bool: ...

    def get(self, cid: bytes, /) -> bytes:
        """Return the bytes of one. Raises ContentNotFoundError."""

    def length(self, cid: bytes, /) -> int:
        """Return how many bytes it has. Raises ContentNotFoundError."""


@frozen
class _Record:
    """What is remembered of a record."""

    cid: bytes
    id: str
    data: bytes
    before: tuple[bytes, ...]  #: CIDs of the records that it follows
    sealed: bytes | None
    size: int | None  #: what it says of its evidence; None if that is encrypted
    time: str | None  #: the same

    @classmethod
    def of(cls, cid: bytes, said: Mapping[str, Any]) -> _Record:
        """Return what is remembered of a record that has the right form."""
        first, sealed = said["previous"], said.get("sealed")
        before = () if first is None else (first, *said.get("merges", ()))
        named = tuple(map(as_record, before))
        links = bytes(said["data"]), named, None if sealed is None else bytes(sealed)
        return cls(cid, said["id"], *links, said.get("size"), said.get("time"))


@frozen
class Records:
    """All records that were read, and what they say of each other.

    :param keys: open those that are encrypted, if any.
    """

    keys: Keys | None = None
    _records: dict[bytes, _Record] = field(factory=dict)
    _ids: dict[str, bytes] = field(factory=dict)
    _of: dict[bytes, bytes] = field(factory=dict)  #: of evidence, the first record that was read
    _times: dict[bytes, str] = field(factory=dict)  #: of encrypted records that were opened

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._records)

    def __contains__(self, cid: bytes) -> bool:
        return cid in self._records

    def of(self, data: bytes) -> bytes | None:
        """Return a record of this evidence."""
        return self._of.get(data)

    def before(self, cid: bytes) -> tuple[bytes, ...]:
        """Return the records that one follows."""
        return self._records[cid].before

    def take(self, cid: bytes, said: Mapping[str, Any]) -> Iterator[Check]:
        """Take a record, whose bytes are those of its CID. One that has another form is told, and not taken."""
        what = f"record {to_text(cid)}"
        if said["schema"] != SCHEMA:
            yield Check("unchecked", what, f"it is of another version than {SCHEMA}: a newer program may know it")
            return
        if problems := list(problems_of(said)):
            yield Check("fails", what, several(problems))
            return
        one = _Record.of(cid, said)
        if (other := self._ids.setdefault(one.id, cid)) != cid:
            yield Check("fails", what, f"it has the id of record {to_text(other)}")
        self._records[cid] = one
        self._of.setdefault(one.data, cid)

    # -- one record --------------------------------------------------------------------------------

    def check(self, cid: bytes, held: Held, *, kept: bool) -> Check:
        """Tell whether the evidence of a record is here, all of it, as it says.

        :param kept: whether all must be here that it links to: it is pinned, say.
        """
        one, what = self._records[cid], f"record {to_text(cid)}"
        evidence = f"evidence {to_text(one.data)}"
        try:
            size = reader.measured(Verified(held.get), held.length, one.data)
            if one.sealed is not None:
                held.length(one.sealed)
        except ContentNotFoundError as error:
            why = "" if kept else "; it was taken out, or is lost"
            return Check(
                "fails" if kept else "unchecked", what, f"not all of its {evidence} is here: {error.message}{why}"
            )
        except BackendError as error:
            return Check("unchecked" if is_away(error) else "fails", what, f"its {evidence}: {error.message}")
        for link in () if one.sealed is None else (one.sealed, one.data):
            if b"".join(reader.read_file(Verified(held.get), link, 0, len(_AGE))) != _AGE:
                return Check("fails", what, f"its {evidence} is encrypted, it says, and {to_text(link)} is no age file")
        if one.size not in (None, size):
            return Check("fails", what, f"its {evidence} has {amount(size)}; it says {one.size:,}")
        lost = [before for before in one.before if as_bytes(before) not in held]
        if kept and lost:
            return Check("fails", what, f"record {to_text(lost[0])}, which it follows, is not here")
        if one.sealed is None:
            return Check("holds", what, f"{amount(size)} of {evidence}, all here; submitted, it says, {one.time}")
        if self.keys is None:
            return Check("holds", what, f"{amount(size)} of {evidence}, encrypted, all here")
        status, text = self._opened(self.keys, one, held)
        return Check(status, what, f"{amount(size)} of {evidence}, encrypted, all here; {text}")

    def sealed(self) -> Iterator[Check]:
        """Tell how many are encrypted, where nothing opens them."""
        if self.keys is None and (count := sum(one.sealed is not None for one in self._records.values())):
            text = f"what is in {count:,} of them was not looked at: --identity names the file of the key"
            yield Check("unchecked", "encrypted records", text)

    def _opened(self, keys: Keys, one: _Record, held: Held) -> tuple[Status, str]:
        """Open a record and its evidence, and tell whether both are what was encrypted."""
        what, plain = "the age file", hashing()
        assert one.sealed is not None  # noqa: S101 - it is encrypted
        try:
            said = decode(keys.decrypt(held.get(one.sealed), what))
            if problems := list(opened_problems(said)):
                return "fails", f"in it, {problems[0]}"
            if (said["id"], bytes(said["data"])) != (one.id, one.data):
                return "fails", "what is encrypted in it belongs to another record"
            keys.decrypting(_Pieces(reader.read_file(Verified(held.get), one.data)), plain.add, what)
        except AuthenticationError:
            return "unchecked", "the identity does not open it"
        except (BackendError, ValueError) as error:
            return "fails", f"it does not open: {error}"
        self._times[one.cid] = said["time"]
        found = plain.finish()
        if (found.cid, found.size) != (said["plain"], said["size"]):
            return "fails", f"it opens to {amount(found.size)} {to_text(found.cid)}, which are not those it says"
        return "holds", f"it opens to {amount(found.size)} {to_text(found.cid)}; submitted, it says, {said['time']}"

    # -- all of them -------------------------------------------------------------------------------

    def logs(self, held: Held, cited: Container[bytes] = ()) -> Iterator[Check]:
        """Tell of each log whether it goes back to its first record, and what its last one is; the oldest first.

        :param cited: records that are here for their own sake, whatever came before them.
        """
        bare = dict[bytes, _Record]()  #: of which there is no more than the block, since another one follows it
        for one in self._records.values():
            for before in one.before:
                if before not in self._records and before not in bare and as_bytes(before) in held:
                    if (said := record_in(before, held.get(as_bytes(before)))) is None or any(problems_of(said)):
                        text = f"it follows {to_text(before)}, which is no record of evidence"
                        yield Check("fails", f"record {to_text(one.cid)}", text)
                    else:
                        bare[before] = _Record.of(before, said)
        for log in _logs([*self._records.values(), *bare.values()]):
            yield self._log(log, cited)

    def _log(self, log: list[_Record], cited: Container[bytes]) -> Check:
        here = {one.cid for one in log}
        followed = {before for one in log for before in one.before}
        ends = [to_text(cid) for cid in here - followed]
        times = sorted(time for one in log if (time := one.time or self._times.get(one.cid)) is not None)
        whole = [one.cid for one in log if one.cid in self._records]
        text = amount(len(whole), "record")
        text += f", and {len(log) - len(whole):,} without their evidence" if log[len(whole) :] else ""
        text += f", from {times[0]} to {times[-1]}" if times[1:] else f", of {times[0]}" if times else ""
        text += f", but for {len(log) - len(times):,} whose times are encrypted" if len(times) < len(log) else ""
        text += f"; it has {len(ends):,} ends: {', '.join(sorted(ends)[:_MOST])}" if ends[1:] else ""
        gaps = [(one, before) for one in log for before in one.before if before not in here]
        what = f"log {min(ends)}"
        status: Status = "holds" if all(cid in cited for cid in whole) else "unchecked"
        if not gaps:
            status = "holds" if len(whole) == len(log) else status
            return Check(status, what, f"{text}; each names the one before it, back to the first")
        first, before = min(gaps, key=lambda gap: (gap[0].time or "", gap[0].cid))
        text += f"; {to_text(before)}, which record {to_text(first.cid)} follows, is not here, nor what was before"
        return Check(status, what, text)


class _Pieces:
    """Pieces of bytes, to be read like a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._rest and (piece := next(self._pieces, b"")):
            self._rest = memoryview(piece)
        piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return piece


def record_in(cid: bytes, block: bytes) -> Mapping[str, Any] | None:
    """Return what a block says if it is a record of evidence, of whatever form."""
    if codec_of(cid) != DAG_CBOR or _FAMILY.encode() not in block:
        return None
    try:
        said = decode(block)
    except ValueError:
        return None
    schema = said.get("schema") if said.__class__ is dict else None
    return said if schema.__class__ is str and schema.startswith(_FAMILY) else None


def _logs(records: Iterable[_Record]) -> list[list[_Record]]:
    """Return the records that lead to each other, the oldest log first."""
    leader = dict[bytes, bytes]()

    def find(cid: bytes) -> bytes:
        while (above := leader.setdefault(cid, cid)) != cid:
            leader[cid] = leader.setdefault(above, above)
            cid = above
        return cid

    found = list(records)
    for one in found:
        for before in one.before:
            leader[find(before)] = find(one.cid)
    logs = dict[bytes, list[_Record]]()
    for one in found:
        logs.setdefault(find(one.cid), []).append(one)
    return sorted(logs.values(), key=lambda log: min((one.time or "", one.cid) for one in log))
