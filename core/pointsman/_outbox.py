"""What other stores have still to get: a queue in an SQLite file, which survives restarts and which processes share.

A put is acknowledged when one store has it and its other copies stand here, durably (WAL, synchronous=FULL for that;
what several threads add at once shares a commit). A job that fails is tried again, later each time; it is given up by
nobody but a person, with `unpin`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from attrs import define, frozen

from .errors import ConfigError, UnavailableError

#: "put": bring it there, pinned; "mend": bring back what was damaged there, pinned or not; "unpin": let it go.
What: TypeAlias = Literal["put", "mend", "unpin"]

#: "PtsO" in ASCII, in the file's header; and the version of the tables.
_APPLICATION, _VERSION = 0x5074734F, 1
_TABLES = """
CREATE TABLE jobs(store TEXT, cid TEXT, what TEXT, since REAL, tries INTEGER DEFAULT 0, due REAL DEFAULT 0,
    tried REAL DEFAULT 0, lease REAL DEFAULT 0, owner TEXT DEFAULT '', reason TEXT DEFAULT '', PRIMARY KEY(store, cid)
) WITHOUT ROWID;
CREATE INDEX jobs_due ON jobs(store, due);
CREATE TABLE seen(store TEXT PRIMARY KEY) WITHOUT ROWID;
"""
#: A new wish takes the place of an older one, and is tried at once.
_ADD = """INSERT INTO jobs(store, cid, what, since) VALUES(?, ?, ?, ?) ON CONFLICT(store, cid)
    DO UPDATE SET what=excluded.what, since=excluded.since, tries=0, due=0, owner='', lease=0"""
_TAKE = """UPDATE jobs SET lease=:now + :lease, owner=:me WHERE (store, cid) =
    (SELECT store, cid FROM jobs WHERE store=:store AND lease<=:now AND (due<=:now OR tried<:before)
    ORDER BY due LIMIT 1) RETURNING *"""
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
#: Seconds for which a job belongs to who has taken it, unless that one renews it; the first and the longest wait.
LEASE_S = 60.0
_FIRST_S, _LONGEST_S = 1.0, 300.0


@frozen
class Waiting:
    """A copy that a store has still to get, or to let go."""

    store: str
    cid: str
    what: What
    since: float  #: seconds since 1970
    tries: int = 0
    due: float = 0.0  #: when it is tried next, in seconds since 1970
    reason: str = ""  #: why the last try failed


@define(eq=False)
class _Wishes:
    """What one thread adds."""

    rows: list[tuple[str, str, What, float]]
    written: bool = False


class Outbox:
    """The queue. Thread-safe; processes may share the file.

    :raises ConfigError: the file is none of ours, or damaged.
    :raises UnavailableError: it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._me = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._lock = threading.Lock()
        self._adding: deque[_Wishes] = deque()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                self._begin()
            except BaseException:
                self._db.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise self._told(error) from error

    def _begin(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("BEGIN IMMEDIATE")
        marks = [self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if marks == [0, 0] and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in filter(str.strip, _TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id={_APPLICATION}")
            self._db.execute(f"PRAGMA user_version={_VERSION}")
        elif marks != [_APPLICATION, _VERSION]:
            raise ConfigError(f"outbox {self.path}: the file is no outbox of this version; name another file")
        self._db.execute("COMMIT")

    def add(self, cid: str, stores: Iterable[str], what: What = "put") -> None:
        """Note what these stores have still to do. Durable when it returns."""
        mine = _Wishes([(store, cid, what, time()) for store in stores])
        self._adding.append(mine)
        while not mine.written:  # else the thread before us has written ours too
            batch = list[_Wishes]()
            try:
                with self._changing(durable=True) as db:
                    while self._adding:
                        batch.append(self._adding.popleft())
                        db.executemany(_ADD, batch[-1].rows)
            except BaseException:
                self._adding.extend(one for one in batch if one is not mine)  # their threads try it themselves
                raise
            for one in batch:
                one.written = True

    def drop(self, cid: str) -> None:
        """Forget what was to be done with this content."""
        with self._changing(durable=True) as db:
            db.execute("DELETE FROM jobs WHERE cid=?", (cid,))

    def take(self, store: str, *, tried_before: float = 0.0) -> Waiting | None:
        """Return a job of this store that is due, or was last tried before this time; keep others from it a while."""
        with self._changing() as db:
            given = {"now": time(), "lease": LEASE_S, "me": self._me, "store": store, "before": tried_before}
            row = db.execute(_TAKE, given).fetchone()
        return None if row is None else _waiting(row)

    def renew(self, job: Waiting) -> bool:
        """Keep others from a job for a while longer; say whether it is still there and ours."""
        sql = "UPDATE jobs SET lease=? WHERE store=? AND cid=? AND owner=? RETURNING 1"
        with self._changing() as db:
            return db.execute(sql, (time() + LEASE_S, job.store, job.cid, self._me)).fetchone() is not None

    def done(self, job: Waiting) -> None:
        """Take a job off the queue, unless it was wished for anew meanwhile."""
        with self._changing() as db:
            db.execute("DELETE FROM jobs WHERE store=? AND cid=? AND owner=?", (job.store, job.cid, self._me))

    def failed(self, job: Waiting, reason: str, after: float | None = None) -> None:
        """Let a job be tried again: after so many seconds, else the longer the more often it has failed."""
        wait = min(_FIRST_S * 2.0 ** min(job.tries, 20), _LONGEST_S) if after is None else after
        sql = """UPDATE jobs SET tries=tries+1, tried=?, due=?, lease=0, owner='', reason=?
            WHERE store=? AND cid=? AND owner=?"""
        now = time()
        with self._changing() as db:
            db.execute(sql, (now, now + wait, reason[:1000], job.store, job.cid, self._me))

    def let_go(self) -> None:
        """Let others have what this object has taken."""
        with self._changing() as db:
            db.execute("UPDATE jobs SET lease=0, owner='' WHERE owner=?", (self._me,))

    def waiting(self, cid: str | None = None) -> list[Waiting]:
        """Return what waits: all, or what is to be done with this content; the oldest first."""
        with self._changing() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE cid=:cid OR :cid IS NULL ORDER BY since", {"cid": cid}
            ).fetchall()
        return [_waiting(row) for row in rows]

    def counts(self) -> dict[str, tuple[int, float, str]]:
        """Return of each store that has something to do: how many jobs, since when, and why one of them failed."""
        with self._changing() as db:
            rows = db.execute("SELECT store, count(*), min(since), max(reason) FROM jobs GROUP BY store").fetchall()
        return {store: (count, since, reason) for store, count, since, reason in rows}

    def next_due(self, store: str) -> float | None:
        """Return in how many seconds something of this store is due; None if nothing waits."""
        with self._changing() as db:
            (due,) = db.execute("SELECT min(max(due, lease)) FROM jobs WHERE store=?", (store,)).fetchone()
        return None if due is None else max(0.0, due - time())

    def see(self, store: str) -> None:
        """Note that this store has answered once."""
        with self._changing() as db:
            db.execute("INSERT OR IGNORE INTO seen VALUES(?)", (store,))

    def seen(self) -> set[str]:
        """Return the stores that have answered once."""
        with self._changing() as db:
            return {store for (store,) in db.execute("SELECT store FROM seen")}

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _changing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One change, whole or not at all. What a power cut may take back is done again, which changes nothing."""
        with self._lock:
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._told(error) from error

    def _told(self, error: Exception) -> Exception:
        text = f"the outbox {self.path} cannot be used: {error}"
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return ConfigError(f"{text}; save what `sqlite3 FILE .recover` finds, and name another file")
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE:
            text = f"{text}; name another file (outbox=)"
        return UnavailableError(text, retry_same=False)


def _waiting(row: Any) -> Waiting:
    store, cid, what, since, tries, due, _, _, _, reason = row
    return Waiting(store, cid, what, since, tries, due, reason)
