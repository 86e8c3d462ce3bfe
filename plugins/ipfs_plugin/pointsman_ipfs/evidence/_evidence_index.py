"""Where evidence is found by who, what and when: one SQLite file for all processes, made from the records.

All of it is derived: the blocks of the records say the same, and each row has its block, whose hash is computed before
anything in it is believed. Of an encrypted record there is what its block shows to anybody, and its age file as it is:
no user, no type, no description, no time, no CID of what was encrypted.

What a change has entered is on the disk when it ends (WAL, synchronous=FULL). An index that is damaged, or of another
version, is put aside and made anew; where the file cannot be written, it stays as it is, and the new one is in memory.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pointsman import ConfigError, Store, UnavailableError
from pointsman.forks import Lock, Shared

from .. import _sqlite
from .._sqlite import connected, is_empty, is_read_only, make, marks_of, opened, put_aside, to_read, transaction
from ..embedded.blocks import default_path
from ._locked import SharedLock
from ._records import Envelope, as_record
from ._rows import MARKS, TABLES, Change, Row, believed, ends_of

T = TypeVar("T")

_MAGIC = b"SQLite format 3\0"
_PAGE = "SELECT place, cid, block, sealed FROM records {} AND place > :last ORDER BY place LIMIT 100"
_GROUPS = ("type", "user")
_DAMAGE = {0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class _Foreign(sqlite3.DatabaseError):
    """The file is sound, and another program's."""


class Totals(NamedTuple):
    """What records that are not encrypted come to."""

    number: int
    size: int
    types: set[str]
    users: set[str]


class EvidenceIndex(Shared):
    """The index of one log. Thread-safe; in a forked child it opens its own connections.

    :param fill: yields all records that there are, where a new index is begun.
    :param ours: whether nobody but us has a file at this path: then it is put aside whatever is in it.
    All of it raises `ConfigError` where the file is somebody else's, and `UnavailableError` where it cannot be opened,
    or written.
    """

    def __init__(self, path: Path, fill: Callable[[], Iterable[Row]], *, ours: bool) -> None:
        self.path = path
        self._fill, self._ours = fill, ours
        self._file: tuple[int, ...] | None = None  #: the process and the inode whose connections these are
        self._reads_only = False  #: whether these cannot change anything
        self.begin()
        super().__init__()

    # -- across a fork -----------------------------------------------------------------------------

    def begin(self) -> None:
        self.writing = SharedLock(
            self.path.with_name(f"{self.path.name}.lock"), _sqlite.BUSY_S, f"the index {self.path}"
        )
        self._reading = threading.RLock()  # taken after the other one, if both are

    def locks(self) -> Sequence[Lock]:
        return self.writing, self._reading

    def before_fork(self) -> None:
        """SQLite in a child would take what it inherits for its own, locks and all: see `Database`."""
        if self._file is not None and not self._reads_only and not self._write.in_transaction:
            self._close()

    # -- what is found -----------------------------------------------------------------------------

    def with_cid(self, cid: bytes) -> list[Row]:
        """Return the records that have this CID, with any codec, or whose evidence has it, in their order."""
        return [row for _, row in self._rows("WHERE (cid=:record OR data=:cid)", cid=cid, record=as_record(cid))]

    def every(self, user: str | None, claim: str | None, *, anyone: bool) -> Iterator[Row]:
        """Yield the records of a user and of a claim (None: of any), and all that are encrypted, in their order."""
        which = "WHERE sealed IS NULL" + " AND user IS :user" * (not anyone) + " AND claim=:claim" * (claim is not None)
        clear = self._rows(which, user=user, claim=claim)
        return (row for _, row in merge(clear, self._sealed(), key=itemgetter(0)))

    def sealed(self) -> Iterator[Row]:
        """Yield all records that are encrypted, in their order."""
        return (row for _, row in self._sealed())

    def totals(self, user: str | None, *, anyone: bool) -> Totals:
        """Return what the records of a user that are not encrypted come to."""
        named = {"user": user, "anyone": anyone}
        of = "FROM records WHERE sealed IS NULL AND (:anyone OR user IS :user)"

        def ask(db: sqlite3.Connection) -> Totals:
            count, size = db.execute(f"SELECT count(*), coalesce(sum(size), 0) {of}", named).fetchone()
            types, users = ({one for (one,) in db.execute(f"SELECT DISTINCT {name} {of}", named)} for name in _GROUPS)
            return Totals(count, size, types, users - {None})

        return self._ask(ask)

    def ends(self) -> list[Envelope]:
        """Return the records that no other one follows, the newest first."""
        return self._ask(lambda db: ends_of(db, -1))

    def _sealed(self) -> Iterator[tuple[int, Row]]:
        return self._rows("INDEXED BY records_sealed WHERE sealed IS NOT NULL")

    def _rows(self, which: str, **named: Any) -> Iterator[tuple[int, Row]]:
        """Yield rows and their places, a hundred at a time: nobody waits for the end."""
        sql, last = _PAGE.format(which), 0
        while True:
            page = self._ask(partial(_page, sql, {**named, "last": last}))
            for found in page:
                yield found
                last = found[0]
            if len(page) < 100:
                return

    def _ask(self, ask: Callable[[sqlite3.Connection], T], *, again: bool = True) -> T:
        """Ask; where the file turns out to be damaged, ask the new one."""
        self._here()
        try:
            with self._reading:
                if self._file is not None:  # else it was closed, for a fork, just then
                    return ask(self._read)
        except sqlite3.Error as error:
            if not again or not _is_damage(error):
                raise self._told(error) from error
            again = False
            self._anew()
        return self._ask(ask, again=again)

    # -- what is entered ---------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """One change, whole or not at all, which ends with it. No other thread or process changes anything.

        :raises UnavailableError: it could not be entered; somebody else has been at it for a minute.
        """
        if self._is_read_only():
            text = f"the index {self.path} cannot be written, and is only read; make it writable, or name another one"
            raise UnavailableError(text, retry_same=False)
        with self.writing.held():
            self._here()
            try:
                with transaction(self._write) as db:
                    yield Change(db)
                self.writing.note(b"")  # all that was begun is here
            except sqlite3.Error as error:
                if _is_damage(error):
                    self._anew()
                    text = f"the index {self.path} was damaged, and has been made anew; submit it again"
                    raise UnavailableError(text, retry_same=False) from error
                raise self._told(error) from error

    def close(self) -> None:
        """Close the connections, when the change has ended that another thread makes; or leave them, after a minute."""
        if self.writing.acquire(timeout=_sqlite.BUSY_S):
            try:
                with self._reading:
                    self._close()
            finally:
                self.writing.release()

    # -- the file ----------------------------------------------------------------------------------

    def _here(self) -> None:
        """See that the connections are of this process, and of the file that is there now."""
        if self._file != self._now():
            read_only = self._is_read_only()
            with nullcontext() if read_only else self.writing.held(), self._reading:
                if self._file == self._now():  # another thread was faster
                    return
                self._close()
                if read_only:
                    self._open_to_read(to_read(self.path, MARKS))
                    return
                try:
                    self._open()
                except sqlite3.Error as error:
                    # What is foreign is not read: to close it would let go of what this process has locked in it.
                    ours = self._ours or (not isinstance(error, _Foreign) and _is_ours(self.path))
                    if not _is_damage(error) or not ours:
                        if _is_damage(error):
                            self.writing.forget()
                        raise self._told(error) from error
                    put_aside(self.path)
                    self._open()

    def _anew(self) -> None:
        """Put the file aside, unless somebody else was faster, and begin another one."""
        if self._reads_only:
            with self._reading:
                self._close()
                self._open_to_read(None)
            return
        with self.writing.held():
            if self._file == self._now():
                put_aside(self.path)
        self._here()

    def _close(self) -> None:
        if self._file is not None and self._file[0] == os.getpid():  # SQLite's connections do not survive a fork
            self._read.close()
            self._write.close()
        self._file, self._reads_only = None, False

    def _is_read_only(self) -> bool:
        return is_read_only(self.path.parent, self.path)

    def _now(self) -> tuple[int, ...]:
        """Return what `_file` is if the connections are right; those that only read are to the file as it was."""
        if self._reads_only and self._is_read_only():
            return os.getpid(), *_state(self.path), *_state(Path(f"{self.path}-shm"))
        return os.getpid(), _state(self.path)[0]

    def _open_to_read(self, db: sqlite3.Connection | None) -> None:
        """Take a connection to a file that cannot be written; where there is none, read all records into memory."""
        self._reads_only = True
        now = self._now()
        if db is None:
            if _state(self.path)[0] and not (self._ours or _is_ours(self.path)):
                raise self._told(sqlite3.DatabaseError())
            with opened(connected(":memory:")) as db:
                self._begin(db)
        self._read, self._write, self._file = db, db, now

    def _open(self) -> None:
        try:
            # Only where there is none: closing a file lets go of what SQLite has locked in it, for all of this process.
            # https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            if not self.path.stat().st_size:
                for end in "-wal", "-shm":  # of a file that was deleted: SQLite would take them for this one's
                    Path(f"{self.path}{end}").unlink(missing_ok=True)
        except OSError as error:
            raise UnavailableError(f"the index {self.path} cannot be used: {error.strerror}") from error
        with opened(connected(self.path)) as self._write:
            self._begin(self._write)
            self._read = connected(self.path)
        self._file = self._now()

    def _begin(self, db: sqlite3.Connection) -> None:
        """Make the tables in a file that is empty, and fill them."""
        new = is_empty(db)
        if not new and (marks := marks_of(db)) != MARKS:
            kind = _Foreign if marks[0] != MARKS[0] else sqlite3.DatabaseError
            raise kind("it is of something else, or of another version")
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=4194304"):
            db.execute(f"PRAGMA {pragma}")
        if new:
            with transaction(db):
                make(db, TABLES, MARKS)
                Change(db).replace(self._fill())

    def _told(self, error: sqlite3.Error) -> Exception:
        if _is_damage(error):
            text = f"{self.path}: the file is no index of evidence, or damaged; name another one"
            return ConfigError(f"{text}. If it was one, delete it: all that was in it is made from the records again")
        text = f"the index {self.path} cannot be used: {error}"
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            text = f"{text}: for {_sqlite.BUSY_S:.0f} s another program has held it; end that, and try again"
        return UnavailableError(text, retry_same=False)


def beside(store: Store) -> Path:
    """Return where the index is if nobody says: beside the content of the first store that has a path."""
    for one in store.stores:
        if one.folder is not None:
            return one.folder / "evidence.sqlite"
    return default_path().with_name("evidence.sqlite")


def _page(sql: str, named: dict[str, Any], db: sqlite3.Connection) -> list[tuple[int, Row]]:
    rows = db.execute(sql, named).fetchall()
    return [(place, believed(cid, block, sealed)) for place, cid, block, sealed in rows]


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is not what we made, rather than its disk full, say. What has no code is none of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGE and not isinstance(error, sqlite3.ProgrammingError)


def _is_ours(path: Path) -> bool:
    """Whether the header, as far as it can be read, says that it is an index of evidence."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(100)
        return head.startswith(_MAGIC) and head[68:72] == MARKS[0].to_bytes(4, "big")
    return False


def _state(path: Path) -> tuple[int, int]:
    """Return the inode of a file, 0 if there is none, and when it was written."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
