"""What our indexes have in common, each of them one SQLite file for all processes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time

#: Seconds for which another process that changes the file is waited for.
BUSY_S = 60.0


def connected(path: Path) -> sqlite3.Connection:
    """Return a connection that threads may share, whose transactions are begun and ended by hand."""
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Change all that is changed inside, or nothing."""
    try:
        db.execute(f"BEGIN {kind}")
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself may have ended it, on a full disk say
            db.execute("ROLLBACK")
        raise


def marks_of(db: sqlite3.Connection) -> tuple[int, int]:
    """Return what the file says it is: the number of an application, and the version of its tables."""
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    return application, version


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether nobody has made anything of the file."""
    return marks_of(db) == (0, 0) and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def make(db: sqlite3.Connection, tables: str, marks: tuple[int, int]) -> None:
    """Make the tables, and let the file say what it is, within the transaction that runs."""
    for statement in filter(str.strip, tables.split(";")):
        db.execute(statement)
    for name, number in zip(("application_id", "user_version"), marks, strict=True):
        db.execute(f"PRAGMA {name}={number}")


def put_aside(path: Path) -> None:
    """Rename a file that is damaged, with what SQLite has beside it."""
    for end in ("", "-wal", "-shm"):
        with suppress(OSError):
            os.replace(f"{path}{end}", f"{path}{end}.damaged-{time():.0f}")
