"""What our indexes have in common, each of them one SQLite file for all processes."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import ceil, inf
from pathlib import Path
from time import monotonic, time
from typing import Any

from pointsman.forks import Lock, Shared

#: Seconds for which another process that changes the file is waited for.
BUSY_S = 60.0


class _Patience(threading.local):
    """How long a thread waits for that."""

    ends = inf  #: at the latest, by `monotonic`

    def left_ms(self) -> int:
        """Return for how many milliseconds this thread may wait now: when they have gone by, its time is up."""
        return ceil(1000 * max(0.0, min(BUSY_S, self.ends - monotonic()))) + 1


#: Of who changes the index of an embedded store.
patience = _Patience()


def until(ends: float) -> AbstractContextManager[None]:
    """Let this thread wait no longer than that, by `monotonic`."""
    return _AS_IT_IS if ends == patience.ends else Until(ends)


#: With each small put, most of which have all the time: a generator would be slower.
_AS_IT_IS = nullcontext()


class Until(AbstractContextManager[None]):
    """Lets the thread that enters it wait no longer than that."""

    def __init__(self, ends: float) -> None:
        self._ends = ends

    def __enter__(self) -> None:
        self._before, patience.ends = patience.ends, self._ends

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        patience.ends = self._before


def connected(path: str | Path) -> sqlite3.Connection:
    """Return a connection that threads may share, whose transactions are begun and ended by hand.

    :param path: absolute; or a `file:` URI, or ":memory:".
    """
    uri = str(path).startswith("file:")
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, uri=uri)


class Scratch(Shared):
    """A database of one's own, in a file without a name. Thread-safe; in a forked child it is of no use.

    No fork comes while SQLite works in it: SQLite has locks for a whole process, too, which a child would find taken,
    for ever.
    """

    def __init__(self) -> None:
        self.begin()
        super().__init__()
        with self.lock:
            self.db = connected("")

    def begin(self) -> None:
        self.lock = threading.RLock()  #: whoever uses `db` itself holds it

    def locks(self) -> Sequence[Lock]:
        return (self.lock,)

    def ask(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """Do this, and return all rows that it finds."""
        with self.lock:
            return self.db.execute(sql, values).fetchall()

    def pages(self, sql: str, last: object) -> Iterator[Any]:
        """Give out all rows of a query for those behind a value of their first column, some at a time: it has a limit.

        Between two pages nobody waits for who reads them.
        """
        while page := self.ask(sql, (last,)):
            yield from page
            last = page[-1][0]

    def close(self) -> None:
        """Let it go."""
        with self.lock:
            self.db.close()


def is_read_only(*paths: Path) -> bool:
    """Whether one of these files and folders is there, and cannot be written by us."""
    return any(os.access(path, os.F_OK) and not os.access(path, os.W_OK) for path in paths)


def reading(path: Path) -> sqlite3.Connection | None:
    """Return a connection that only reads, and writes nothing beside the file; None where that cannot be.

    What is in the log (`-wal`) belongs to the file, and SQLite reads it only with what processes share of it (`-shm`),
    whether or not any process is left: without that there is no connection.
    https://www.sqlite.org/wal.html#read_only_databases, https://www.sqlite.org/c3ref/open.html
    """
    log, shared = (Path(f"{path}{end}") for end in ("-wal", "-shm"))
    both = log.exists() and shared.exists()
    how = "mode=ro&readonly_shm=1" if both else "mode=ro&immutable=1"
    if both or not (log.exists() and log.stat().st_size):
        return connected(f"{path.as_uri()}?{how}")
    return None


def to_read(path: Path, marks: tuple[int, int]) -> sqlite3.Connection | None:
    """Return such a connection; None where that cannot be, or the file is damaged, or has not these marks."""
    with suppress(OSError, sqlite3.Error):
        if (db := reading(path)) is not None:
            with opened(db):
                if marks_of(db) != marks:
                    raise sqlite3.DatabaseError("it is of something else, or of another version")
            return db
    return None


@contextmanager
def opened(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Close a connection that turns out to be of no use: when what is done inside fails.

    :raises sqlite3.DatabaseError: also where Python cannot read SQLite's message, which quotes a damaged table's SQL.
    """
    try:
        yield db
    except BaseException as error:
        db.close()
        if isinstance(error, UnicodeDecodeError):
            raise sqlite3.DatabaseError("the SQL of its tables is damaged") from error
        raise


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
    """Rename a file that is damaged, with what SQLite has beside it.

    That goes first: whoever makes the file anew meanwhile must not take the old log for that of the new one.
    """
    for end in ("-wal", "-shm", ""):
        with suppress(OSError):
            os.replace(f"{path}{end}", f"{path}{end}.damaged-{time():.0f}")
