"""The file of the index: how it is opened, changed, and put aside when it is damaged."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from weakref import finalize

from pointsman import UnavailableError
from pointsman.forks import Lock, Shared

from .._sqlite import connected, is_empty, make, marks_of, opened, patience, put_aside, to_read, transaction

#: "PtsI" in ASCII, in the file's header; and the version of the tables.
_MARKS = 0x50747349, 1
_TABLES = """
CREATE TABLE packs(id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, since INTEGER);
CREATE TABLE blocks(digest BLOB PRIMARY KEY, pack INTEGER, offset INTEGER, length INTEGER, seq INTEGER) WITHOUT ROWID;
CREATE TABLE pins(cid BLOB PRIMARY KEY, seq INTEGER, kept INTEGER) WITHOUT ROWID;
CREATE TABLE gone(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE damaged(digest BLOB PRIMARY KEY, cid BLOB, found REAL) WITHOUT ROWID;
CREATE TABLE counter(seq INTEGER);
INSERT INTO counter VALUES(1);
"""


class Database(Shared):
    """Two connections to the file: one reads, one changes. Thread-safe; in a forked child it opens its own.

    Before a fork both are closed, and opened when they are needed. What a child inherits, SQLite would take for its
    own: it would count on locks of its parent, and lose what it writes when that closes the file.
    https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_

    :param read_only: whether the file cannot be written: then one connection to a copy in memory is both, which begins
        as the file is, and empty if that is damaged, or not there.
    :raises UnavailableError: it cannot be opened or written.
    """

    level = 1

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path, self._read_only = path, read_only
        self._pid = self._file = 0  #: the process whose connections these are, and the inode
        #: Whether it was found damaged, and put aside: whoever opens the store again makes it anew.
        self.broken = False
        self.begin()
        super().__init__()
        if not read_only:
            self._here()
            return
        with self._opening:
            self._read, self._pid = _in_memory(path), os.getpid()
        self._write = self._read
        finalize(self, self._read.close)
        self._write.execute("UPDATE packs SET since=NULL")  # what long puts of others write is read here, too
        self._write.execute("DELETE FROM gone")  # and what is there again

    def begin(self) -> None:
        self._reading = threading.RLock()
        self._writing = self._reading if self._read_only else threading.RLock()
        self._opening = threading.RLock()  # taken after these

    def locks(self) -> Sequence[Lock]:
        return self._reading, self._writing, self._opening

    def before_fork(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it is closed for good
            if self._pid == os.getpid() and not self._read_only and not self._write.in_transaction:
                self.close()
                self._pid = 0

    def _open(self) -> None:
        """Open both connections; an index that is broken is put aside, and a new one begun."""
        try:
            self._write = self._connected()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            if self._file:
                raise self.told(sqlite3.DatabaseError(str(error))) from error
            put_aside(self._path)
            self._write = self._connected()
        with opened(self._write):
            self._read = self._connected()
        self._pid, self._file = os.getpid(), os.stat(self._path).st_ino

    def told(self, error: sqlite3.Error) -> UnavailableError:
        """Return what says that something failed. An index that is damaged is put aside, unless somebody else has."""
        is_damage = type(error) is sqlite3.DatabaseError or "decode" in str(error)  # a text that is none
        if self._read_only or not is_damage:
            return _told(self._path, error)
        self.broken = True
        with suppress(OSError):
            if os.stat(self._path).st_ino == self._file:
                put_aside(self._path)
        return UnavailableError(f"the index {self._path} was damaged ({error}), and is made anew; try again")

    def check(self) -> None:
        """See whether the file is sound. Raises UnavailableError."""
        with self._asking() as db:
            if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)

    def _connected(self) -> sqlite3.Connection:
        with opened(connected(self._path)) as db:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "wal_autocheckpoint=4000",
                "journal_size_limit=4194304",
            ):
                db.execute(f"PRAGMA {pragma}")
            if marks_of(db) != _MARKS:
                _begin_new(db)
        return db

    @contextmanager
    def _asking(self) -> Iterator[sqlite3.Connection]:
        with self._reading:
            self._here()
            try:
                yield self._read
            except sqlite3.Error as error:
                raise self.told(error) from error

    @contextmanager
    def changing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """One change, whole or not at all: what it is made with, and its number. No other process changes anything."""
        with self.alone() as db, transaction(db):
            (seq,) = db.execute("UPDATE counter SET seq=seq+1 RETURNING seq").fetchone()
            yield db, seq

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """Keep the connection that changes from other threads of this process, and from a fork."""
        with self._writing:
            self._here()
            try:
                if self._write.in_transaction:  # an interrupt came before its end
                    self._write.execute("ROLLBACK")
                self._write.execute(f"PRAGMA busy_timeout={patience.left_ms()}")
                yield self._write
            except sqlite3.Error as error:
                raise self.told(error) from error

    @property
    def is_there(self) -> bool:
        """Whether the file is the one that was opened: else it was removed, and perhaps made anew, by others."""
        try:
            return self._read_only or self._pid != os.getpid() or os.stat(self._path).st_ino == self._file
        except FileNotFoundError:
            return False

    def _here(self) -> None:
        """See that the connections are of this process."""
        if self._pid != os.getpid() and not self._read_only:
            with self._opening:
                if self._pid != os.getpid():
                    try:
                        self._open()
                    except (sqlite3.Error, OSError) as error:  # of the second connection, too: no file may be left
                        raise _told(self._path, error) from error

    def close(self) -> None:
        """Close the connections."""
        with self._reading, self._writing:
            if self._pid == os.getpid():
                self._read.close()
                self._write.close()


def _in_memory(path: Path) -> sqlite3.Connection:
    """Return a copy of an index; an empty one, where there is none that is sound."""
    db, file = connected(":memory:"), to_read(path, _MARKS)
    if file is not None:
        with closing(file), suppress(sqlite3.Error, UnicodeDecodeError):
            file.backup(db)
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                return db
        db.close()
        db = connected(":memory:")
    _begin_new(db)
    return db


def _begin_new(db: sqlite3.Connection) -> None:
    """Make the tables, unless somebody else has meanwhile."""
    with transaction(db, "EXCLUSIVE"):
        if is_empty(db):
            make(db, _TABLES, _MARKS)
        elif marks_of(db) != _MARKS:
            raise sqlite3.DatabaseError("it is not the index of this version")


def _told(path: Path, error: Exception) -> UnavailableError:
    closed = isinstance(error, sqlite3.ProgrammingError)
    text = "the store was closed meanwhile" if closed else f"the index {path} cannot be used: {error}"
    return UnavailableError(text, retry_same=False)
