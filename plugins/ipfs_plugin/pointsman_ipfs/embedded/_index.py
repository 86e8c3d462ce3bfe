"""Where each block stands, what is pinned, which packs there are: one SQLite file for all processes.

All of it is derived: the packs say the same, and whoever opens the store makes up for what the index lacks. So its
commits need not wait for the disk (WAL, synchronous=NORMAL): a power cut may take the last of them back, and never
breaks it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from time import time
from typing import Any, NamedTuple

from .._sqlite import Scratch, transaction
from ..dag.cid import codec_of
from ._database import Database
from ._packs import Mark, Record, is_formed, stands

_ENTER_PACK = """INSERT INTO packs(name, size) VALUES(?, ?) ON CONFLICT(name)
    DO UPDATE SET size=max(size, excluded.size), since=CASE WHEN excluded.size THEN NULL ELSE since END RETURNING id"""
_ENTER_BLOCK = "INSERT INTO blocks VALUES(?, ?, ?, ?, ?) ON CONFLICT(digest) DO UPDATE SET seq=excluded.seq"
_PREFER_BLOCK = "UPDATE blocks SET pack=?, offset=? WHERE digest=?"
_ENTER_PIN = """INSERT INTO pins VALUES(?, ?, ?)
    ON CONFLICT(cid) DO UPDATE SET seq=excluded.seq, kept=excluded.kept WHERE excluded.seq > seq"""
_PLACE = "SELECT name, offset, length FROM blocks JOIN packs ON pack=packs.id WHERE digest=?"
_MENDED = "DELETE FROM damaged WHERE digest IN (SELECT digest FROM blocks)"
_MANY = 500  #: variables of one statement


class Place(NamedTuple):
    """Where a block stands."""

    pack: str
    offset: int
    length: int


class Written(NamedTuple):
    """What was added to a pack at once."""

    pack: str
    size: int  #: how far the pack counts now; 0 if there is more to come
    records: Sequence[Record]
    mark: Mark
    at: int | None = None  #: where the mark stands, if its writer may still take it back


class Pin(NamedTuple):
    """What was said last of a root."""

    cid: bytes
    seq: int  #: of the mark that says so
    kept: bool


class Index(Database):
    """The index of one store. Thread-safe; in a forked child it opens its own connections.

    :raises UnavailableError: it cannot be opened or written.
    """

    def next_seq(self) -> int:
        """Return a number that no change has had."""
        with self.changing() as (_, seq):
            return seq

    def collecting(self) -> int:
        """Return a number for a collection that begins: it takes nothing that was put, or put again, since.

        A long put that runs now holds on to all that was there when it began, also if it ends meanwhile.
        """
        with self.changing() as (db, seq):
            (since,) = db.execute("SELECT min(since) FROM packs").fetchone()
            return min(seq, since or seq)

    # -- blocks ------------------------------------------------------------------------------------

    def place(self, digest: bytes) -> Place | None:
        """Return where a block stands, None if it is not there."""
        with self._asking() as db:
            row = db.execute(_PLACE, (digest,)).fetchone()
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
        """Keep blocks that are there from a collection that has begun, or will before this put ends; return which."""
        found: set[bytes] = set()
        with self.changing() as (db, seq):
            for start in range(0, len(digests), _MANY):
                some = digests[start : start + _MANY]
                marks = ",".join("?" * len(some))
                sql = f"UPDATE blocks SET seq=? WHERE digest IN ({marks}) RETURNING digest"  # noqa: S608 - question marks
                found.update(digest for (digest,) in db.execute(sql, (seq, *some)))
        return found

    def entered(self, written: Sequence[Written]) -> set[str]:
        """Enter what was added to packs: the blocks, how far each pack counts, the pins.

        :return: the packs of which something was left out, since their writers have taken it back.
        """
        less = set[str]()
        with self.changing() as (db, seq):
            for pack, group in groupby(written, lambda one: one.pack):
                if db.execute("SELECT 1 FROM gone WHERE name=?", (pack,)).fetchone():
                    continue  # all that it held was entered before, or moved
                some, path = list(group), self._path.parent / "packs" / f"{pack}.car"
                while some and (at := some[-1].at) is not None and not stands(path, at, some[-1].size, some[-1].mark):
                    some.pop()
                    less.add(pack)
                if not some:
                    continue
                known = db.execute("SELECT size FROM packs WHERE name=?", (pack,)).fetchone() or (0,)
                (id_,) = db.execute(_ENTER_PACK, (pack, max(one.size for one in some))).fetchone()
                # what others have entered may have been collected since, or moved: it is not entered twice
                every = [(cid[-32:], id_, at, length, seq) for one in some for cid, at, length in one.records]
                db.executemany(_ENTER_BLOCK, [row for row in every if row[2] >= known[0]])
                new = [one for one in some if not one.size or one.size > known[0]]
                own = [(id_, at, cid[-32:]) for one in new for cid, at, _ in one.records if is_formed(cid)]
                db.executemany(_PREFER_BLOCK, own)
                pins = [(cid, one.mark.seq, kept) for one in some for cid, kept in one.mark.said()]
                db.executemany(_ENTER_PIN, pins)
            db.execute(_MENDED)
        return less

    def found(self, record: Record, pack: str) -> None:
        """Enter a block that stands in a pack of which all is entered."""
        with self.changing() as (db, seq):
            sql = "INSERT OR IGNORE INTO blocks SELECT ?, id, ?, ?, ? FROM packs WHERE name=?"
            db.execute(sql, (record.cid[-32:], record.offset, record.length, seq, pack))
            db.execute(_MENDED)

    @contextmanager
    def counting(self, pack: str, size: int) -> Iterator[bool]:
        """Say whether anything of a pack behind this size is entered, and let nobody enter anything meanwhile."""
        with self.changing() as (db, _):
            sql = """SELECT size > ? OR EXISTS(SELECT 1 FROM blocks WHERE pack=packs.id AND offset >= ?)
                FROM packs WHERE name=?"""
            yield any(row[0] for row in db.execute(sql, (size, size, pack)))

    def moved(self, old: str, places: Mapping[bytes, Place], written: Sequence[Written]) -> None:
        """Enter that blocks of a pack stand in another one, to which this was written, and strike the old one out."""
        with self.changing() as (db, _):
            for one in written:
                db.execute(_ENTER_PACK, (one.pack, one.size)).fetchone()
                db.executemany(_ENTER_PIN, [(cid, one.mark.seq, kept) for cid, kept in one.mark.said()])
            sql = """UPDATE blocks SET pack=(SELECT id FROM packs WHERE name=?), offset=?
                WHERE digest=? AND pack=(SELECT id FROM packs WHERE name=?)"""
            db.executemany(sql, [(place.pack, place.offset, digest, old) for digest, place in places.items()])
            _strike_out(db, old)
            db.execute("INSERT OR IGNORE INTO gone VALUES(?)", (old,))

    def standing(self, pack: str, *, beyond: int) -> list[tuple[bytes, Place]]:
        """Return the blocks of a pack, by SHA-256, and where each stands; nothing, if there are no more than that."""
        sql = "FROM blocks JOIN packs ON pack=packs.id WHERE name=?"
        with self._asking() as db:
            if db.execute(f"SELECT count(*) {sql}", (pack,)).fetchone()[0] <= beyond:
                return []
            rows = db.execute(f"SELECT digest, offset, length {sql}", (pack,))
            return [(digest, Place(pack, offset, length)) for digest, offset, length in rows]

    def totals(self) -> tuple[int, int]:
        """Return how many blocks there are, and their bytes."""
        with self._asking() as db:
            blocks, size = db.execute("SELECT count(*), coalesce(sum(length), 0) FROM blocks").fetchone()
        return blocks, size

    # -- pins --------------------------------------------------------------------------------------

    def pins(self) -> Iterator[bytes]:
        """Yield the roots that are pinned, by their bytes, a thousand at a time: nobody waits for the end."""
        last = b""
        while True:
            with self._asking() as db:
                sql = "SELECT cid FROM pins WHERE cid > ? AND kept ORDER BY cid LIMIT 1000"
                rows = db.execute(sql, (last,)).fetchall()
            for (cid,) in rows:
                yield cid
            if not rows:
                return
            last = rows[-1][0]

    def said_of(self, cids: Iterable[bytes]) -> list[Pin]:
        """Return what was said last of each of these roots."""
        with self._asking() as db:
            rows = (db.execute("SELECT cid, seq, kept FROM pins WHERE cid=?", (cid,)).fetchone() for cid in cids)
            return [Pin(row[0], row[1], bool(row[2])) for row in rows if row is not None]

    def last_mark(self) -> int:
        """Return the largest number of a mark that says anything of a root."""
        with self._asking() as db:
            return int(db.execute("SELECT coalesce(max(seq), 0) FROM pins").fetchone()[0])

    # -- damage ------------------------------------------------------------------------------------

    def lost(self, cid: bytes, place: Place) -> bool:
        """Strike out a block whose bytes at this place are wrong; say whether it was thought to be there."""
        digest = cid[-32:]
        with self.changing() as (db, _):
            was: bool = db.execute(_PLACE, (digest,)).fetchone() == place
            if was:
                db.execute("DELETE FROM blocks WHERE digest=?", (digest,))
                db.execute("INSERT OR REPLACE INTO damaged VALUES(?, ?, ?)", (digest, cid, time()))
        return was

    def damaged(self) -> list[bytes]:
        """Return the CIDs of the blocks that were struck out and are not there again."""
        with self._asking() as db:
            return [cid for (cid,) in db.execute("SELECT cid FROM damaged")]

    # -- packs -------------------------------------------------------------------------------------

    def sizes(self) -> dict[str, int]:
        """Return the packs that are known, and how many bytes of each count."""
        with self._asking() as db:
            return dict(db.execute("SELECT name, size FROM packs"))

    def runs(self) -> set[str]:
        """Return the packs that long puts are writing, or were when their process died."""
        with self._asking() as db:
            return {name for (name,) in db.execute("SELECT name FROM packs WHERE since IS NOT NULL")}

    def filled(self) -> dict[str, int]:
        """Return how many bytes of each pack are blocks that are known."""
        with self._asking() as db:
            sql = "SELECT name, sum(length) FROM packs LEFT JOIN blocks ON pack=packs.id GROUP BY name"
            return {name: size or 0 for name, size in db.execute(sql)}

    def running(self, pack: str, since: int | None) -> None:
        """Say that a long put is writing this pack, since which number; None: it has ended."""
        with self.changing() as (db, _):
            sql = """INSERT INTO packs(name, size, since) VALUES(?, 0, ?)
                ON CONFLICT(name) DO UPDATE SET since=excluded.since"""
            db.execute(sql, (pack, since))
            db.execute("DELETE FROM packs WHERE name=? AND since IS NULL AND size=0", (pack,))

    def lost_pack(self, pack: str) -> None:
        """Strike out what a pack held that is gone; the pack itself stays here, until others were looked through."""
        with self.changing() as (db, _):
            sql = """SELECT digest, CAST(x'01551220' || digest AS BLOB), ? FROM blocks
                WHERE pack=(SELECT id FROM packs WHERE name=?)"""
            db.execute(f"INSERT OR REPLACE INTO damaged {sql}", (time(), pack))
            db.execute("DELETE FROM blocks WHERE pack=(SELECT id FROM packs WHERE name=?)", (pack,))
            db.execute("UPDATE packs SET size=0, since=NULL WHERE name=?", (pack,))

    def back(self, pack: str) -> None:
        """Let a pack that was moved into another one be entered again: it was brought back, or never taken away."""
        with self.changing() as (db, _):
            db.execute("DELETE FROM gone WHERE name=?", (pack,))

    def sweep(self) -> Sweep:
        """Return what a collection needs."""
        return Sweep(self)

    def clear(self, live: Iterable[tuple[bytes]], before: int) -> tuple[int, int]:
        """Strike out all blocks that nobody has put, or put again, since this number, but for these digests.

        :return: how many, and their bytes.
        """
        with self.alone() as db:
            db.execute("CREATE TEMP TABLE IF NOT EXISTS live(digest BLOB PRIMARY KEY) WITHOUT ROWID")
            try:
                with transaction(db, "DEFERRED"):  # no other process waits for that
                    db.execute("DELETE FROM live")  # of one that was interrupted
                    db.executemany("INSERT OR IGNORE INTO live VALUES(?)", live)
                with self.changing():
                    dead = "FROM blocks WHERE seq < ? AND digest NOT IN (SELECT digest FROM live)"
                    sql = f"SELECT count(*), coalesce(sum(length), 0) {dead}"
                    blocks, size = db.execute(sql, (before,)).fetchone()
                    db.execute(f"DELETE {dead}", (before,))
                    db.execute("DELETE FROM damaged")  # what was pinned is whole, so they are of no use to anybody
            finally:
                db.execute("DROP TABLE IF EXISTS live")
        return blocks, size


class Sweep(Scratch):
    """The blocks that are to stay, as a set of CIDs that takes no memory; and the removal of all others. Thread-safe.

    A block that somebody links to as plain bytes may be linked to as what it is, too: only then are its links followed.
    So a CID is there when its digest is there with its codec.

    A forked child must not inherit another connection to the index (see `Database`): it has a file of its own.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        super().__init__()
        self.ask("CREATE TABLE live(digest BLOB, codec INTEGER, PRIMARY KEY(digest, codec)) WITHOUT ROWID")

    def __contains__(self, cid: bytes) -> bool:
        return bool(self.ask("SELECT 1 FROM live WHERE digest=? AND codec=?", (cid[-32:], codec_of(cid))))

    def add(self, cid: bytes) -> None:
        """Let a block stay."""
        self.ask("INSERT OR IGNORE INTO live VALUES(?, ?)", (cid[-32:], codec_of(cid)))

    def away(self, before: int) -> tuple[int, int]:
        """Strike out all others that nobody has put, or put again, since this number; return how many, and bytes."""
        with self.lock:
            return self._index.clear(self._digests(), before)

    def ask(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """Do this, and return all rows that it finds. Raises UnavailableError."""
        try:
            return super().ask(sql, values)
        except sqlite3.Error as error:
            raise self._index.told(error) from error

    def _digests(self) -> Iterator[tuple[bytes]]:
        yield from self.db.execute("SELECT digest FROM live")


def _strike_out(db: sqlite3.Connection, pack: str) -> None:
    db.execute("DELETE FROM blocks WHERE pack=(SELECT id FROM packs WHERE name=?)", (pack,))
    db.execute("DELETE FROM packs WHERE name=?", (pack,))
