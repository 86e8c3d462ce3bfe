"""The file of the index: how it is opened, changed, and put aside when it is damaged."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import Any

from pointsman import UnavailableError

from .._forks import PAUSE_S, Shared

#: "PtsI" in ASCII, in the file's header; and the version of the tables.
_APPLICATION, _VERSION = 0x50747349, 1
_TABLES = """
CREATE TABLE packs(id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, since INTEGER);
CREATE TABLE blocks(digest BLOB PRIMARY KEY, pack INTEGER, offset INTEGER, length INTEGER, seq INTEGER) WITHOUT ROWID;
CREATE TABLE pins(cid BLOB PRIMARY KEY, seq INTEGER, kept INTEGER) WITHOUT ROWID;
CREATE TABLE gone(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE damaged(digest BLOB PRIMARY KEY, cid BLOB, found REAL) WITHOUT ROWID;
CREATE TABLE counter(seq INTEGER);
INSERT INTO counter VALUES(1);
"""
_BUSY_S = 60.0


class Database(Shared):
    """Two connections to the file: one reads, one changes. Thread-safe; in a forked child it opens its own.

    :raises UnavailableError: it cannot be opened or written.
    """

    level = 1

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._pid = 0
        #: Whether it was found damaged, and put aside: whoever opens the store again makes it anew.
        self.broken = False
        self.begin()
        self._open()

    def begin(self) -> None:
        self._reading, self._writing = threading.Lock(), threading.Lock()

    def pause(self) -> bool:
        return self._writing.acquire(timeout=PAUSE_S)  # SQLite in a child would take a change for one of its own

    def resume(self) -> None:
        self._writing.release()

    def _open(self) -> None:
        """Open both connections; an index that is broken is put aside, and a new one begun."""
        self._pid = os.getpid()
        try:
            self._write = self._connected()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise _told(self._path, error) from error
            _put_aside(self._path)
            self._write = self._connected()
        try:
            self._read = self._connected()
        except BaseException:
            self._write.close()
            raise
        self._file = os.stat(self._path).st_ino

    def _told(self, error: sqlite3.Error) -> UnavailableError:
        """Return what says that something failed. An index that is damaged is put aside, unless somebody else has."""
        if type(error) is not sqlite3.DatabaseError and "decode" not in str(error):  # a text that is none
            return _told(self._path, error)
        self.broken = True
        with suppress(OSError):
            if os.stat(self._path).st_ino == self._file:
                _put_aside(self._path)
        return UnavailableError(f"the index {self._path} was damaged ({error}), and is made anew; try again")

    def check(self) -> None:
        """See whether the file is sound. Raises UnavailableError."""
        with self._asking() as db:
            if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                "wal_autocheckpoint=4000",
                "journal_size_limit=4194304",
            ):
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
                raise self._told(error) from error

    @contextmanager
    def changing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """One change, whole or not at all: what it is made with, and its number. No other process changes anything."""
        with self._writing:
            self._here()
            try:
                if self._write.in_transaction:  # an interrupt came before its end
                    self._write.execute("ROLLBACK")
                try:
                    self._write.execute("BEGIN IMMEDIATE")
                    (seq,) = self._write.execute("UPDATE counter SET seq=seq+1 RETURNING seq").fetchone()
                    yield self._write, seq
                    self._write.execute("COMMIT")
                except BaseException:
                    if self._write.in_transaction:  # SQLite itself may have ended it, on a full disk say
                        self._write.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._told(error) from error

    def _here(self) -> None:
        """See that the connections are of this process."""
        if self._pid != os.getpid():  # SQLite's connections do not survive a fork; the parent's are left as they are
            self._open()

    def close(self) -> None:
        """Close the connections."""
        with self._reading, self._writing:
            if self._pid == os.getpid():
                self._read.close()
                self._write.close()


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


def _put_aside(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        with suppress(OSError):
            os.replace(f"{path}{end}", f"{path}{end}.damaged-{time():.0f}")


def _told(path: Path, error: sqlite3.Error) -> UnavailableError:
    return UnavailableError(f"the index {path} cannot be used: {error}", retry_same=False)
