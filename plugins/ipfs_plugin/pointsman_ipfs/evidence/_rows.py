"""The rows of the index of evidence: the tables, what is believed of them, and how records are entered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pointsman import UnusableAnswer

from ..dag import cid as cids
from ._chain import in_order
from ._records import Envelope

#: "PtsE" in ASCII, in the file's header; and the version of the tables.
MARKS = 0x50747345, 1
TABLES = """
CREATE TABLE records(place INTEGER PRIMARY KEY, cid BLOB UNIQUE, data BLOB, user TEXT, claim TEXT, type TEXT,
    size INTEGER, block BLOB, sealed BLOB);
CREATE INDEX records_data ON records(data);
CREATE INDEX records_user ON records(user);
CREATE INDEX records_sealed ON records(place) WHERE sealed IS NOT NULL;
CREATE TABLE follows(digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE ends(cid BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_ADD = "INSERT OR IGNORE INTO {} VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ENDS = "SELECT cid, block FROM ends CROSS JOIN records USING(cid) ORDER BY place DESC LIMIT ?"  # the few first


class Row(NamedTuple):
    """A record, and what it is found by: of one that is encrypted, nothing."""

    envelope: Envelope
    sealed: bytes | None = None  #: its age file

    def columns(self, place: int | None) -> tuple[Any, ...]:
        """Return what is entered."""
        one, said = self.envelope, {} if self.sealed is not None else self.envelope.said
        found_by = (said.get(name) for name in ("user", "claim_type", "evidence_type", "size"))
        return (place, one.cid, one.data, *found_by, one.block, self.sealed)


class Change:
    """What can be done within one change."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def ends(self, most: int) -> list[Envelope]:
        """Return so many of the records that no other one follows, the newest first."""
        return ends_of(self._db, most)

    def has(self, cid: bytes) -> bool:
        """Whether there is a record with this CID."""
        return self._db.execute("SELECT 1 FROM records WHERE cid=?", (cid,)).fetchone() is not None

    def add(self, rows: Iterable[Row]) -> None:
        """Enter records behind all others."""
        for row in rows:
            self._db.execute(_ADD.format("records"), row.columns(None))
            self._follow(row.envelope.cid, row.envelope.previous)

    def replace(self, rows: Iterable[Row], kept: Callable[[Row], object] = lambda row: None) -> int:
        """Enter these records and what else is there, all of it anew in the order of the chain; return how many.

        :param kept: is told of each that is there, and not among `rows`.
        """
        db, links = self._db, dict[bytes, tuple[str, tuple[bytes, ...]]]()
        db.execute("CREATE TEMP TABLE fresh AS SELECT * FROM records LIMIT 0")
        db.execute("CREATE UNIQUE INDEX temp.fresh_cid ON fresh(cid)")

        def enter(row: Row) -> None:
            links[row.envelope.cid] = str(row.envelope.said.get("time", "")), row.envelope.previous
            db.execute(_ADD.format("fresh"), row.columns(None))

        try:
            for row in rows:
                enter(row)
            for row in self._others():
                kept(row)
                enter(row)
            for table in ("records", "follows", "ends"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 - one of ours
            for place, cid in enumerate(in_order(links), 1):
                columns = "?, cid, data, user, claim, type, size, block, sealed"
                db.execute(f"INSERT INTO records SELECT {columns} FROM fresh WHERE cid=?", (place, cid))  # noqa: S608
                self._follow(cid, links[cid][1])
        finally:
            db.execute("DROP TABLE IF EXISTS temp.fresh")
        return len(links)

    def _others(self) -> Iterator[Row]:
        """Yield the records that are not among the fresh ones, if they are as they were entered."""
        found = "SELECT cid, block, sealed FROM records WHERE cid NOT IN (SELECT cid FROM temp.fresh) ORDER BY place"
        for row in self._db.execute(found).fetchall():
            with suppress(sqlite3.DatabaseError):
                yield believed(*row)

    def _follow(self, cid: bytes, previous: Iterable[bytes]) -> None:
        for before in previous:
            self._db.execute("INSERT OR IGNORE INTO follows VALUES(?)", (before[-32:],))
            self._db.execute("DELETE FROM ends WHERE cid=?", (before,))
        if self._db.execute("SELECT 1 FROM follows WHERE digest=?", (cid[-32:],)).fetchone() is None:
            self._db.execute("INSERT OR IGNORE INTO ends VALUES(?)", (cid,))


def ends_of(db: sqlite3.Connection, most: int) -> list[Envelope]:
    return [believed(cid, block, None).envelope for cid, block in db.execute(_ENDS, (most,)).fetchall()]


def believed(cid: bytes, block: bytes, sealed: bytes | None) -> Row:
    """Return a row whose bytes are those of their CIDs.

    :raises sqlite3.DatabaseError: they are not: the file is damaged.
    """
    if cids.cbor_cid(block) != cid:
        raise sqlite3.DatabaseError("a record in it has another hash")
    try:
        envelope = Envelope.read(cid, block)
    except UnusableAnswer as error:
        raise sqlite3.DatabaseError("what should be a record in it is none") from error
    if sealed is not None and cids.raw_cid(sealed) != envelope.sealed:
        raise sqlite3.DatabaseError("an encrypted record in it has another hash")
    return Row(envelope, sealed)
