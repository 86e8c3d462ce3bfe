"""The index of evidence, compared with the records: it proves nothing, and people are answered from it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from pointsman import UnusableAnswer

from .._locked_files import locks
from .._sqlite import Scratch, marks_of, opened, reading
from ..dag.cid import cbor_cid, raw_cid, to_text
from ..evidence._evidence_index import _is_damage
from ..evidence._filing import begun_in
from ..evidence._locked import read
from ..evidence._records import Envelope
from ..evidence._rows import MARKS, Row
from ._check import Check, Status, amount
from ._records import Records

#: Seconds for which a program that submits evidence is waited for, and between two looks.
_PATIENCE_S, _PAUSE_S = 10.0, 0.005
_COLUMNS = "place", "cid", "data", "user", "claim", "type", "size", "block", "sealed"
_PAGE = f"SELECT {', '.join(_COLUMNS)} FROM records WHERE place > ? ORDER BY place LIMIT 100"  # noqa: S608 - ours
_KILLED = "whoever submitted that was killed before it was entered; whoever submits next enters it"
_ADVICE = "`pointsman store reindex` makes it anew from the records"


def index_checks(path: Path, records: Records, kept: Collection[bytes]) -> Iterator[Check]:
    """Tell whether an index says what these records say; nothing, if there is none. Nothing is written.

    :param kept: those that it must have, since they are pinned.
    """
    what = f"file {path}"
    if not path.is_file():
        return
    try:
        with closing(Scratch()) as db, opened(db.db):
            if (taken := _copied(path.absolute(), db)) is None:
                text = "what was entered last is in its log, which only a program that may write can read"
                yield Check("unchecked", what, f"it could not be looked at: {text}")
                return
            if db.ask("PRAGMA application_id") != [MARKS[:1]]:  # it was not copied
                yield Check("unchecked", what, f"it is no index of this version; {_ADVICE}")
                return
            quiet, begun = taken
            for status, text in _compared(db, records, kept, begun, quiet=quiet):
                yield Check(status, what, text)
    except sqlite3.Error as error:
        if _is_damage(error):
            yield Check("fails", what, f"it is damaged ({error}); {_ADVICE}")
        else:
            yield Check("unchecked", what, f"it could not be looked at: {error}")


def _compared(
    db: Scratch, records: Records, kept: Collection[bytes], begun: Collection[bytes], *, quiet: bool
) -> Iterator[tuple[Status, str]]:
    ((sound,),) = db.ask("PRAGMA integrity_check(1)")
    if sound != "ok":
        raise sqlite3.DatabaseError(" ".join(sound.split()))
    there, followed, early, wrong = set[bytes](), set[bytes](), list[tuple[bytes, bytes]](), False
    for row in db.pages(_PAGE, -(1 << 63)):
        if problem := _problem_of(row):
            wrong = True
            yield "fails", f"{problem}; {_ADVICE}"
            continue
        cid, before = row[1], Envelope.read(row[1], row[7]).previous
        there.add(cid)
        followed |= {one[-32:] for one in before}
        early += [(cid, one) for one in before if one not in there]
    ends = {cid for cid in there if cid[-32:] not in followed}
    told = list[tuple[bool, str]]()
    if late := [cid for cid, before in early if before in there]:
        told.append((True, f"record {to_text(late[0])} stands in it before one that it follows"))
    if not wrong and (_all(db, "cid FROM ends"), _all(db, "digest FROM follows")) != (ends, followed):
        told.append((True, "it names other records as the last ones than its records do"))
    unended = [cid for cid in kept if cid not in there and cid in begun]
    if not wrong and (lost := [cid for cid in kept if cid not in there and cid not in begun]):
        fails = quiet and any(cid[-32:] in followed for cid in lost)  # else they may have come with an import
        told.append((fails, f"it lacks {amount(len(lost), 'record')} of this folder, {to_text(lost[0])} for one"))
    for fails, text in told:
        yield "fails" if fails else "unchecked", f"{text}; {_ADVICE}"
    if elsewhere := [cid for cid in there if cid not in records]:
        text = f"it has {amount(len(elsewhere), 'record')} from elsewhere, {to_text(min(elsewhere))} for one"
        yield "unchecked", f"{text}: another store has them, or they were taken out, or submitted meanwhile"
    if not wrong and not told:
        more = f"; {amount(len(unended), 'record')} more, {to_text(unended[0])} for one: {_KILLED}" if unended else ""
        yield "holds", f"of {amount(len(there), 'record')} it says what they say themselves{more}"


def _problem_of(row: tuple[Any, ...]) -> str:
    """Return what in a row is not as its record has it, "" if it is right. What it says is not told: it is private."""
    place, cid, block, sealed = row[0], row[1], row[7], row[8]
    if not isinstance(cid, bytes) or not isinstance(block, bytes) or cbor_cid(block) != cid:
        return f"what it has in place {place} is not the record that it names"
    try:
        envelope = Envelope.read(cid, block)
    except UnusableAnswer as error:
        return error.message
    if not isinstance(sealed, bytes | None) or (None if sealed is None else raw_cid(sealed)) != envelope.sealed:
        return f"of record {to_text(cid)} it has another age file than that names"
    expected = Row(envelope, sealed).columns(place)
    other = [name for name, is_, be in zip(_COLUMNS, row, expected, strict=True) if (is_, type(is_)) != (be, type(be))]
    return f"of record {to_text(cid)} it says another {' and another '.join(other)} than that says" if other else ""


def _all(db: Scratch, which: str) -> set[bytes]:
    return {one for (one,) in db.ask(f"SELECT {which}")}


def _copied(index: Path, db: Scratch) -> tuple[bool, Collection[bytes]] | None:
    """Copy an index, if it is one of ours, and return what `_nobody_submits` gives out.

    It is not open for longer: as long as a connection of this process only reads, SQLite lets no other one write that
    is opened meanwhile (they share one `-shm`).

    :returns: None where it cannot be read.
    """
    with db.lock, _nobody_submits(index) as taken:  # who waits for a fork holds up nobody whom that waits for
        if (file := reading(index)) is None:
            return None
        with closing(file):
            if marks_of(file) == MARKS:
                file.backup(db.db)
                db.db.text_factory = lambda raw: raw.decode(errors="replace")  # an error would show what it has
        return taken


@contextmanager
def _nobody_submits(index: Path) -> Iterator[tuple[bool, Collection[bytes]]]:
    """Keep others from submitting, who first write a record and then enter it.

    Gives out whether that was possible, and the CIDs of the records that a process had not entered when it was killed.
    """
    try:
        file = os.open(f"{index}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # nobody has ever submitted, or may look
        yield True, ()
        return
    try:
        until = monotonic() + _PATIENCE_S
        while not (free := locks(file, fcntl.LOCK_SH)) and monotonic() < until:
            sleep(_PAUSE_S)
        yield free, begun_in(read(file))
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
        os.close(file)
