"""Where each block stands, what is pinned, which packs there are: one SQLite file for all processes.

All of it is derived: the packs say the same, and whoever opens the store makes up for what the index lacks. So its
commits need not wait for the disk (WAL, synchronous=NORMAL): a power cut may take the last of them back, and never
breaks it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import Any, NamedTuple

from pointsman import UnavailableError

from ._packs import Mark, Record

#: "PtsI" in ASCII, in the file's header; and the version of the tables.
_APPLICATION, _VERSION = 0x50747349, 1
_TABLES = """
CREATE TABLE packs(id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, since INTEGER);
CREATE TABLE blocks(digest BLOB PRIMARY KEY, pack INTEGER, offset INTEGER, length INTEGER, seq INTEGER, pin BLOB)
    WITHOUT ROWID;
CREATE TABLE damaged(digest BLOB, pack TEXT, offset INTEGER, length INTEGER, pin BLOB, found REAL);
CREATE TABLE counter(seq INTEGER);
INSERT INTO counter VALUES(1);
"""
_ENTER_PACK = (
    "INSERT INTO packs(name, size) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET size=max(size, ?2) RETURNING id"
)
_ENTER_BLOCK = """INSERT INTO blocks VALUES(?, ?, ?, ?, ?, ?)
    ON CONFLICT(digest) DO UPDATE SET seq=excluded.seq, pin=coalesce(excluded.pin, pin)"""
#: What was damaged and is there again is pinned as it was.
_MENDED = """UPDATE blocks
    SET pin=(SELECT pin FROM damaged WHERE damaged.digest=blocks.digest AND damaged.pin IS NOT NULL)
    WHERE pin IS NULL AND digest IN (SELECT digest FROM damaged WHERE pin IS NOT NULL)"""
_LOST = """INSERT INTO damaged SELECT digest, name, offset, length, pin, ?2 FROM blocks JOIN packs ON pack=packs.id
    WHERE name=?1"""
_BUSY_S = 60.0
_MANY = 500  #: variables of one statement


class Place(NamedTuple):
    """Where a block stands."""

    pack: str
    offset: int
    length: int


class Written(NamedTuple):
    """What was added to a pack at once."""

    pack: str
    size: int  #: how far the pack counts now
    records: Sequence[Record]
    mark: Mark


class Index:
    """The index of one store. Thread-safe; in a forked child it opens its own connections.

    :raises UnavailableError: it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._pid = 0
        self._open()

    def _open(self) -> None:
        """Open both connections; an index that is broken is put aside, and a new one begun."""
        self._pid = os.getpid()
        try:
            self._write = self._connected()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise _told(self._path, error) from error
            for end in ("", "-wal", "-shm"):
                with suppress(OSError):
                    os.replace(f"{self._path}{end}", f"{self._path}{end}.damaged-{time():.0f}")
            self._write = self._connected()
        self._read = self._connected()
        self._any_damage = bool(self._read.execute("SELECT count(*) FROM damaged").fetchone()[0])

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=4000"):
                db.execute(f"PRAGMA {pragma}")
            marks = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
            if marks != [_APPLICATION, _VERSION]:
                _begin_new(db, marks)
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _asking(self) -> Iterator[sqlite3.Connection]:
        with self._reading:
            self._here()
            try:
                yield self._read
            except sqlite3.Error as error:
                raise _told(self._path, error) from error

    @contextmanager
    def changing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """One change, whole or not at all: what it is made with, and its number. No other process changes anything."""
        with self._writing:
            self._here()
            try:
                self._write.execute("BEGIN IMMEDIATE")
                try:
                    (seq,) = self._write.execute("UPDATE counter SET seq=seq+1 RETURNING seq").fetchone()
                    yield self._write, seq
                    self._write.execute("COMMIT")
                except BaseException:
                    self._write.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise _told(self._path, error) from error

    def _here(self) -> None:
        """See that the connections are of this process."""
        if self._pid != os.getpid():  # SQLite's connections do not survive a fork; the parent's are left as they are
            self._open()

    def next_seq(self) -> int:
        """Return a number that no change has had."""
        with self.changing() as (_, seq):
            return seq

    # -- blocks ------------------------------------------------------------------------------------

    def place(self, digest: bytes) -> Place | None:
        """Return where a block stands, None if it is not there."""
        with self._asking() as db:
            row = db.execute(
                "SELECT name, offset, length FROM blocks JOIN packs ON pack=packs.id WHERE digest=?", (digest,)
            ).fetchone()
        return None if row is None else Place(*row)

    def known(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return those of the digests whose blocks are there."""
        found: set[bytes] = set()
        with self._asking() as db:
            for start in range(0, len(digests), _MANY):
                some = digests[start : start + _MANY]
                marks = ",".join("?" * len(some))
                rows = db.execute(f"SELECT digest FROM blocks WHERE digest IN ({marks})", some)  # noqa: S608 - question marks
                found.update(digest for (digest,) in rows)
        return found

    def touch(self, digests: Sequence[bytes]) -> set[bytes]:
        """Keep blocks that are there from being collected while a put that began before this runs; return which."""
        with self.changing() as (db, seq):
            return _touch(db, seq, digests)

    def entered(self, written: Sequence[Written]) -> None:
        """Enter what was added to packs: the blocks, how far each pack counts, the pins."""
        with self.changing() as (db, seq):
            for one in written:
                roots = {cid[-32:]: cid for cid in one.mark.pins}
                (id_,) = db.execute(_ENTER_PACK, (one.pack, one.size)).fetchone()
                rows = [
                    (digest := record.cid[-32:], id_, record.offset, record.length, seq, roots.pop(digest, None))
                    for record in one.records
                ]
                db.executemany(_ENTER_BLOCK, rows)
                if roots or one.mark.unpins or one.mark.whole:
                    _pin(db, seq, one.mark)
            if self._any_damage:
                db.execute(_MENDED)

    def pins(self) -> Iterator[bytes]:
        """Yield the binary CIDs of what is pinned."""
        for digest_and_pin in self._in_order("digest, pin", "pin IS NOT NULL"):
            yield digest_and_pin[1]

    def pin_of(self, digest: bytes) -> bytes | None:
        """Return the CID under which a block is pinned, None if it is not."""
        with self._asking() as db:
            row = db.execute("SELECT pin FROM blocks WHERE digest=?", (digest,)).fetchone()
        return None if row is None else row[0]

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all blocks, in their order."""
        for row in self._in_order("digest", "1"):
            yield row[0]

    def _in_order(self, columns: str, which: str) -> Iterator[tuple[Any, ...]]:
        """Yield rows by their digest, a thousand at a time: nobody waits for the end."""
        last = b""
        asked = f"SELECT {columns} FROM blocks WHERE digest > ? AND {which} ORDER BY digest LIMIT 1000"  # noqa: S608 - ours
        while True:
            with self._asking() as db:
                rows = db.execute(asked, (last,)).fetchall()
            yield from rows
            if not rows:
                return
            last = rows[-1][0]

    def totals(self) -> tuple[int, int, int]:
        """Return how many blocks there are, their bytes, and how many damaged ones were put aside."""
        with self._asking() as db:
            blocks, size = db.execute("SELECT count(*), coalesce(sum(length), 0) FROM blocks").fetchone()
            (damaged,) = db.execute("SELECT count(DISTINCT digest) FROM damaged").fetchone()
        return blocks, size, damaged

    # -- damage ------------------------------------------------------------------------------------

    def lost(self, digest: bytes, place: Place) -> None:
        """Strike out a block whose bytes at this place are wrong; a pin of it is remembered until it is mended."""
        with self.changing() as (db, _):
            row = db.execute(
                "SELECT pin FROM blocks JOIN packs ON pack=packs.id WHERE digest=? AND name=? AND offset=?",
                (digest, place.pack, place.offset),
            ).fetchone()
            if row is not None:
                db.execute("DELETE FROM blocks WHERE digest=?", (digest,))
                db.execute("INSERT INTO damaged VALUES(?, ?, ?, ?, ?, ?)", (digest, *place, row[0], time()))
                self._any_damage = True

    def damaged(self) -> list[bytes]:
        """Return the digests of the blocks that were struck out and are not there again."""
        with self._asking() as db:
            rows = db.execute("SELECT DISTINCT digest FROM damaged WHERE digest NOT IN (SELECT digest FROM blocks)")
            return [digest for (digest,) in rows]

    # -- packs -------------------------------------------------------------------------------------

    def sizes(self) -> dict[str, int]:
        """Return the packs that are known, and how many bytes of each count."""
        with self._asking() as db:
            return dict(db.execute("SELECT name, size FROM packs"))

    def running(self, pack: str, since: int | None) -> None:
        """Say that a long put is writing this pack, since which number; None: it has ended."""
        with self.changing() as (db, _):
            db.execute(
                "INSERT INTO packs(name, size, since) VALUES(?1, 0, ?2) ON CONFLICT(name) DO UPDATE SET since=?2",
                (pack, since),
            )
            db.execute("DELETE FROM packs WHERE name=? AND since IS NULL AND size=0", (pack,))

    def lost_pack(self, pack: str) -> None:
        """Strike out a pack that is gone, with all that it held: what was pinned of it is remembered."""
        with self.changing() as (db, _):
            db.execute(_LOST, (pack, time()))
            db.execute("DELETE FROM blocks WHERE pack IN (SELECT id FROM packs WHERE name=?)", (pack,))
            db.execute("DELETE FROM packs WHERE name=?", (pack,))
            self._any_damage = True

    def close(self) -> None:
        """Close the connections."""
        with self._reading, self._writing:
            if self._pid == os.getpid():
                self._read.close()
                self._write.close()


def _touch(db: sqlite3.Connection, seq: int, digests: Sequence[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for start in range(0, len(digests), _MANY):
        some = digests[start : start + _MANY]
        marks = ",".join("?" * len(some))
        rows = db.execute(f"UPDATE blocks SET seq=? WHERE digest IN ({marks}) RETURNING digest", (seq, *some))  # noqa: S608 - question marks
        found.update(digest for (digest,) in rows)
    return found


def _pin(db: sqlite3.Connection, seq: int, mark: Mark) -> None:
    if mark.whole:
        db.execute("UPDATE blocks SET pin=NULL WHERE pin IS NOT NULL")
    if mark.pins:
        db.executemany("UPDATE blocks SET pin=?, seq=? WHERE digest=?", ((cid, seq, cid[-32:]) for cid in mark.pins))
    for table in ("blocks", "damaged") if mark.unpins else ():
        sql = f"UPDATE {table} SET pin=NULL WHERE digest=?"  # noqa: S608 - ours
        db.executemany(sql, [(cid[-32:],) for cid in mark.unpins])


def _begin_new(db: sqlite3.Connection, marks: list[Any]) -> None:
    """Make the tables, unless somebody else has meanwhile."""
    db.execute("BEGIN EXCLUSIVE")
    try:
        marks = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if marks == [0, 0] and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={_APPLICATION}")
            db.execute(f"PRAGMA user_version={_VERSION}")
        elif marks != [_APPLICATION, _VERSION]:
            raise sqlite3.DatabaseError("it is not the index of this version")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _told(path: Path, error: sqlite3.Error) -> UnavailableError:
    return UnavailableError(f"the index {path} cannot be used: {error}", retry_same=False)
