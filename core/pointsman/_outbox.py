"""What other stores have still to get: a queue in an SQLite file, which survives restarts and which processes share.

A put is acknowledged when one store has it and its other copies stand here, durably (WAL, synchronous=FULL for that;
what several threads add at once shares a commit). A job that fails is tried again, later each time; it is given up by
nobody but a person, with `unpin`. A file that is damaged is put aside, and what waited in it is found by comparing the
stores: nobody has to repair anything.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path
from time import time
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from attrs import define, frozen

from . import _log
from .errors import LONG, ConfigError, UnavailableError
from .forks import Lock, Shared
from .scope import Scope

#: "put": bring it there, pinned; "mend": bring back what was damaged there, pinned or not; "unpin": let it go; "pin":
#: keep it after all; "compare": find what others have pinned, and it has not.
What: TypeAlias = Literal["put", "mend", "unpin", "pin", "compare"]

#: "PtsO" in ASCII, in the file's header; and the version of the tables.
_APPLICATION, _VERSION = 0x5074734F, 1
_TABLES = f"""
PRAGMA application_id={_APPLICATION}; PRAGMA user_version={_VERSION};
CREATE TABLE jobs(store TEXT, cid TEXT, what TEXT, since REAL, tries INTEGER DEFAULT 0, due REAL DEFAULT 0,
    tried REAL DEFAULT 0, lease REAL DEFAULT 0, owner TEXT DEFAULT '', reason TEXT DEFAULT '', PRIMARY KEY(store, cid)
) WITHOUT ROWID;
CREATE INDEX jobs_due ON jobs(store, due); CREATE TABLE seen(store TEXT PRIMARY KEY) WITHOUT ROWID;
"""
#: A new wish takes the place of an older one, and is tried at once, or when whoever is at that one has ended it:
#: what is on its way to a store may come there last. That something is damaged takes the place of no wish.
_ADD = """INSERT INTO jobs(store, cid, what, since) VALUES(?, ?, ?, ?) ON CONFLICT(store, cid)
    DO UPDATE SET what=excluded.what, since=excluded.since, tries=0, due=0 WHERE excluded.what<>'mend' OR what='mend'"""
#: What was tried more than that in the future is due, or is to be due later than anything is: the clock was set back
#: since, and who had it may be gone.
_TAKE = """UPDATE jobs SET lease=:now + :lease, owner=:me, tried=:now WHERE (store, cid) =
    (SELECT store, cid FROM jobs WHERE store=:store
        AND due<=iif((SELECT max(due) FROM jobs WHERE store=:store) > :now + :long, 9e999, :until)
        AND (lease<=:now AND (due<=:now OR tried<:before) OR tried>:now + :lease)
    ORDER BY due LIMIT 1) RETURNING store, cid, what, since, tries, due, reason"""
#: Of those that are due first; few of them others have taken.
_NEXT = """SELECT min(iif(tried>?, 0, max(due, lease)))
    FROM (SELECT due, lease, tried FROM jobs WHERE store=? ORDER BY due LIMIT 100)"""
#: Who is about to let it go does so, and then it is pinned.
_KEEP = "UPDATE jobs SET what='pin', tries=0, due=0 WHERE store=? AND cid=? AND what='unpin'"
#: What all stores have to do with some content, however much else waits: each is looked up by the key of the table.
_OF = """cid=:cid AND store IN (WITH RECURSIVE one(store) AS (SELECT min(store) FROM jobs UNION ALL
    SELECT (SELECT min(store) FROM jobs WHERE store>one.store) FROM one WHERE store NOT NULL) SELECT store FROM one)"""
_SHOW = """SELECT store, cid, what, since, tries, due, iif(reason='' AND lease>strftime('%s', 'now')+0, iif(owner=:me,
    'it is being brought', 'a process is bringing it; if it was killed, another one does within a minute'), reason)
    FROM jobs WHERE {} ORDER BY since"""
_COMPARE = "INSERT INTO jobs(store, cid, what, since, reason) VALUES(?, '*', 'compare', ?, 'the outbox was damaged')"
#: Seconds for which a job belongs to who has taken it, unless that one renews it; the first and the longest wait.
LEASE_S = 60.0
_FIRST_S, _LONGEST_S = 1.0, 300.0
#: Seconds for which others who use the file are waited for.
_BUSY_S = 60.0


@frozen
class Waiting:
    """A copy that a store has still to get, or to let go."""

    store: str
    cid: str  #: "*" where all that is pinned is compared
    what: What
    since: float  #: seconds since 1970
    tries: int = 0
    due: float = 0.0  #: when it is tried next, in seconds since 1970
    reason: str = ""  #: why the last try failed


@define(eq=False)
class _Wishes:
    """What one thread adds."""

    rows: list[tuple[str, str, What, float]]
    kept: tuple[str, str]  #: a store that has some content, and is not to let it go any more
    written: bool = False


class Outbox(Shared):
    """The queue. Thread-safe; processes may share the file.

    Before a fork the connection is closed, and opened when it is needed. What a child inherits, SQLite would take for
    its own: it would count on locks of its parent, and lose what is added there when that closes the file.
    https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_

    :param stores: those that have to be compared with the others, if what waited is lost.
    :param within: seconds for which others who use the file are waited for, at most.
    :raises ConfigError: the file is none of ours.
    :raises UnavailableError: it cannot be opened or written.
    """

    level = 1  # whoever files evidence holds its index, and waits for this

    def __init__(self, path: Path, stores: Iterable[str] = (), within: float = _BUSY_S) -> None:
        self.path, self._stores, self._connected = path, list(stores), False
        self.begin()
        super().__init__()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock:
                self._connect(min(within, _BUSY_S))
        except (OSError, sqlite3.Error) as error:
            raise self._told(error) from error

    # -- across a fork -----------------------------------------------------------------------------

    def begin(self) -> None:
        self._me = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._lock = threading.RLock()
        self._adding: deque[_Wishes] = deque()

    def locks(self) -> Sequence[Lock]:
        return (self._lock,)

    def before_fork(self) -> None:
        if self._connected:
            self._db.close()
            self._connected = False

    # -- the file ----------------------------------------------------------------------------------

    def _connect(self, within: float) -> None:
        """Open the file while nobody else does: else two might put aside one after the other, and the second a new one.

        Nor does SQLite wait for who makes the file at the same time.
        """
        left = Scope(within).left
        with closing(sqlite3.connect(f"{self.path}-lock", timeout=within, isolation_level=None)) as alone:
            alone.execute("BEGIN EXCLUSIVE")
            try:
                self._open(left())
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:  # what is below it is no damage
                    raise
                self._put_aside(error)
                self._open(left())

    def _open(self, within: float) -> None:
        self._db = sqlite3.connect(self.path, timeout=within, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("BEGIN IMMEDIATE")
            marks = [self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
            if marks == [0, 0] and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._make()
            elif marks != [_APPLICATION, _VERSION]:
                raise ConfigError(f"outbox {self.path}: the file is no outbox of this version; name another file")
            elif (wrong := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(wrong)
            self._db.execute("COMMIT")
            self._connected, self._inode = True, self.path.stat().st_ino
        except BaseException:
            self._db.close()
            raise

    def _is_elsewhere(self) -> bool:
        """Whether another process has put the file aside: what was added there nobody would find."""
        with suppress(OSError):
            return os.stat(self.path).st_ino != self._inode
        return True

    def _make(self) -> None:
        for statement in filter(str.strip, _TABLES.split(";")):
            self._db.execute(statement)
        if any(one.name.startswith(f"{self.path.name}.damaged-") for one in self.path.parent.iterdir()):
            self._db.executemany(_COMPARE, [(store, time()) for store in self._stores])
            self._db.execute("INSERT INTO seen SELECT store FROM jobs")

    def _put_aside(self, error: Exception) -> None:
        """Rename the file, its log first: that would be taken for the log of the next one."""
        aside = f".damaged-{time():.0f}"
        for end in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{end}", f"{self.path}{end}{aside}")
        _log.failed("outbox", error, put_aside=f"{self.path}{aside}")

    def add(self, cid: str, stores: Iterable[str], what: What = "put", kept: str = "", within: float = _BUSY_S) -> None:
        """Note what these stores have still to do. Durable when it returns.

        :param kept: the store that has just pinned it: an older wish that it lets it go counts no more.
        :param within: seconds for which others who use the file are waited for, at most.
        """
        cid = _text(cid)
        mine = _Wishes([(store, cid, what, time()) for store in stores], (kept, cid))
        self._adding.append(mine)
        while not mine.written:  # else the thread before us has written ours too
            batch = list[_Wishes]()
            try:
                with self._changing(durable=True, within=within) as db:
                    while self._adding:
                        batch.append(self._adding.popleft())
                        db.executemany(_ADD, batch[-1].rows)
                        db.execute(_KEEP, batch[-1].kept)
            except BaseException:
                self._adding.extend(one for one in batch if one is not mine)  # their threads try it themselves
                with suppress(ValueError):  # nobody else is to write what we say is not written
                    self._adding.remove(mine)
                raise
            for one in batch:
                one.written = True

    def drop(self, cid: str, store: str | None = None, within: float = _BUSY_S, *, puts_only: bool = False) -> bool:
        """Forget what was to be done with this content. Where that is being done, it is let go after that.

        It says whether stores are being compared, which may find meanwhile that it is to be brought.

        :param store: forget what this one was to do, and no other.
        """
        mine = f"WHERE {_OF} AND store=ifnull(:store, store) AND (what='put' OR NOT :puts)"
        given = {"cid": _text(cid), "store": store, "puts": puts_only, "now": time()}
        with self._changing(durable=True, within=within) as db:
            db.execute(f"DELETE FROM jobs {mine} AND lease<=:now", given)  # noqa: S608 - ours
            db.execute(f"UPDATE jobs SET what='unpin', tries=0, due=0 {mine}", given)  # noqa: S608 - ours
            return db.execute(f"SELECT 1 FROM jobs WHERE {_OF}", {"cid": "*"}).fetchone() is not None  # noqa: S608 - ours

    def take(self, store: str, *, tried_before: float = 0.0) -> Waiting | None:
        """Return a job of this store that is due, or was last tried before this time; keep others from it a while."""
        given = {"store": store, "me": self._me, "now": (now := time()), "lease": LEASE_S, "long": LONG}
        given |= {"before": tried_before, "until": inf if tried_before else now}
        return next((Waiting(*row) for row in self._run(_TAKE, given)), None)

    def renew(self, job: Waiting) -> bool:
        """Keep others from a job for a while longer; say whether it is still there and ours."""
        sql = "UPDATE jobs SET lease=? WHERE store=? AND cid=? AND owner=? AND what=? RETURNING 1"
        return bool(self._run(sql, (time() + LEASE_S, job.store, job.cid, self._me, job.what)))

    def done(self, job: Waiting) -> None:
        """Take a job off the queue, unless it was wished for anew, or something else was, meanwhile."""
        mine, given = "WHERE store=? AND cid=? AND owner=?", (job.store, job.cid, self._me)
        with self._changing() as db:
            db.execute(f"DELETE FROM jobs {mine} AND what=? AND since=?", (*given, job.what, job.since))  # noqa: S608 - ours
            db.execute(f"UPDATE jobs SET lease=0, owner='' {mine}", given)  # noqa: S608 - ours

    def failed(self, job: Waiting, reason: str, after: float | None = None) -> None:
        """Let a job be tried again after so many seconds, an hour at most; else the longer the more often it failed."""
        wait = _FIRST_S * 2.0 ** min(job.tries, 20)
        wait = min(wait, _LONGEST_S) if after is None else min(max(_FIRST_S, after), LONG)
        sql = """UPDATE jobs SET tries=tries+1, due=?, lease=0, owner='', reason=?
            WHERE store=? AND cid=? AND owner=?"""
        self._run(sql, (time() + wait, _text(reason[:1000]), job.store, job.cid, self._me))

    def let_go(self, store: str | None = None) -> None:
        """Let others have what this object has taken: all, or for this store. It counts as if it was not tried."""
        self._run("UPDATE jobs SET lease=0, owner='' WHERE owner=? AND store=ifnull(?, store)", (self._me, store))

    def waiting(self, cid: str | None = None) -> list[Waiting]:
        """Return what waits: all, or what is to be done with this content; the oldest first."""
        given = {"cid": cid and _text(cid), "me": self._me}
        return [Waiting(*row) for row in self._run(_SHOW.format(_OF if cid else "1"), given)]

    def counts(self) -> dict[str, tuple[int, float, str]]:
        """Return of each store that has something to do: how many jobs, since when, and why one of them failed."""
        rows = self._run("SELECT store, count(*), min(since), max(reason) FROM jobs GROUP BY store")
        return {store: (count, since, reason) for store, count, since, reason in rows}

    def next_due(self, store: str) -> float | None:
        """Return in how many seconds something of this store is due; None if nothing waits."""
        ((due,),) = self._run(_NEXT, (time() + LEASE_S, store))
        return None if due is None else max(0.0, due - time())

    def seen(self, stores: Iterable[str]) -> set[str]:
        """Note that these stores have answered once, and return all that ever have."""
        with self._changing() as db:
            db.executemany("INSERT OR IGNORE INTO seen VALUES(?)", [(store,) for store in stores])
            return {store for (store,) in db.execute("SELECT store FROM seen")}

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._db.close()

    def _run(self, sql: str, given: Any = ()) -> list[Any]:
        with self._changing() as db:
            return db.execute(sql, given).fetchall()

    @contextmanager
    def _changing(self, *, durable: bool = False, within: float = _BUSY_S) -> Iterator[sqlite3.Connection]:
        """One change, whole or not at all. What a power cut may take back is done again, which changes nothing."""
        left = Scope(min(within, _BUSY_S)).left
        if not self._lock.acquire(timeout=left()):
            raise self._told(TimeoutError("others are using it"))
        try:
            if not self._connected or self._is_elsewhere():  # since a fork; or put aside by another one
                self.before_fork()
                self._connect(left())
            self._db.execute(f"PRAGMA busy_timeout={left() * 1000:.0f}")
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except (OSError, sqlite3.Error) as error:
            raise self._told(error) from error
        finally:
            self._lock.release()

    def _told(self, error: Exception) -> UnavailableError:
        what = f"the outbox {self.path} cannot be used: {error}; mend that, or name another file (outbox=)"
        what = "the store was closed meanwhile" if isinstance(error, sqlite3.ProgrammingError) else what
        return UnavailableError(what, retry_same=False)


def _text(given: str) -> str:
    """Return what the file can hold: the name of a file, in a path or what somebody asks for, need not be a text."""
    return str(given).encode("utf-8", "replace").decode()
