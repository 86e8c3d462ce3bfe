"""Where the blocks stand that were read from files: in a database that is gone with the process, not in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pointsman import ContentNotFoundError

from .._sqlite import Scratch
from ..dag.cid import RAW, codec_of, digest_of, inline_of, to_text, version_1

#: SQLite keeps it in memory up to this size (KiB), and the rest in a file without a name.
_TABLES = """
PRAGMA cache_size=-32768; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;
CREATE TABLE blocks(digest BLOB, kind BLOB, file INTEGER, offset INTEGER, length INTEGER,
    PRIMARY KEY(digest, kind, file)) WITHOUT ROWID;
CREATE TABLE roots(cid BLOB PRIMARY KEY, seq INTEGER, pinned INTEGER, file INTEGER) WITHOUT ROWID;
"""
_ROOTS = "SELECT cid, file FROM roots WHERE pinned AND cid > ? ORDER BY cid LIMIT 1000"
#: Files that stay open, at most: what a collection takes away meanwhile can still be read.
_OPEN = 200
_SAY = """INSERT INTO roots VALUES(?, ?, ?, ?) ON CONFLICT(cid) DO UPDATE SET seq=excluded.seq, pinned=excluded.pinned,
    file=excluded.file WHERE excluded.seq >= seq"""


class Found:
    """Where blocks stand that were right, and what is a root. Not thread-safe.

    A store keeps the same bytes once: who asks for plain bytes (codec raw) gets any block that has their hash, and CIDs
    of version 0 and 1 name the same.
    """

    def __init__(self) -> None:
        self._db = Scratch()
        with self._db.lock:
            self._db.db.executescript(_TABLES)
        self._files, self._opened = list[Path](), dict[Path, int]()
        self._numbers = dict[Path, int]()  #: of the files whose blocks are here

    def __contains__(self, cid: bytes) -> bool:
        return self._place(cid) is not None

    def __len__(self) -> int:
        return int(self._db.ask("SELECT count(*) FROM (SELECT DISTINCT digest, kind FROM blocks)")[0][0])

    def close(self) -> None:
        """Let the database go, and the files."""
        self._db.close()
        for file in self._opened.values():
            os.close(file)
        self._opened.clear()

    def begin(self, path: Path, file: int) -> None:
        """Begin another file, or one anew, which is open."""
        self.forget(path)
        self._numbers[path] = len(self._files)
        self._files.append(path)
        if len(self._opened) < _OPEN:
            self._opened[path] = os.dup(file)

    def forget(self, path: Path) -> None:
        """Forget the blocks of a file that is gone. Others may have the same ones."""
        if path in self._opened:
            os.close(self._opened.pop(path))
        if (number := self._numbers.pop(path, None)) is not None:
            self._db.ask("DELETE FROM blocks WHERE file=?", (number,))

    def add(self, cid: bytes, offset: int, length: int) -> None:
        """Take a block of that file, which was verified."""
        if inline_of(cid) is None:  # else its digest is none, and nobody asks for it
            place = cid[-32:], version_1(cid)[:-32], len(self._files) - 1, offset, length
            self._db.ask("INSERT OR REPLACE INTO blocks VALUES(?, ?, ?, ?, ?)", place)

    def say(self, cid: bytes, seq: int, *, pinned: bool) -> None:
        """Take what that file says of a root. Of all that is said, the largest number holds."""
        self._db.ask(_SAY, (cid, seq, pinned, len(self._files) - 1))

    def get(self, cid: bytes) -> bytes:
        """Return the bytes of a block.

        :raises ContentNotFoundError: it is in none of the files.
        """
        number, offset, length = self._here(cid)
        path = self._files[number]
        if (file := self._opened.get(path)) is not None:
            return os.pread(file, length, offset)
        with path.open("rb", buffering=0) as opened:
            return os.pread(opened.fileno(), length, offset)

    def file_of(self, cid: bytes) -> Path:
        """Return the file that has a block. Raises as `get`."""
        return self._files[self._here(cid)[0]]

    def length(self, cid: bytes) -> int:
        """Return how many bytes a block has. Raises as `get`."""
        return self._here(cid)[2]

    def is_root(self, cid: bytes) -> bool:
        """Whether it is a root of a CAR file, or pinned."""
        return bool(self._db.ask("SELECT 1 FROM roots WHERE cid=? AND pinned", (cid,)))

    def roots(self) -> Iterator[tuple[bytes, Path]]:
        """Yield the roots, each with the file that says so."""
        for cid, file in self._db.pages(_ROOTS, b""):
            yield cid, self._files[file]

    def _here(self, cid: bytes) -> tuple[int, int, int]:
        if (place := self._place(cid)) is None:
            raise ContentNotFoundError(f"block {to_text(cid)} is not here")
        return place

    def _place(self, cid: bytes) -> tuple[int, int, int] | None:
        find, named = "SELECT file, offset, length FROM blocks WHERE digest=?", [digest_of(cid)]
        if codec_of(cid) != RAW:
            find, named = f"{find} AND kind=?", [*named, version_1(cid)[:-32]]
        return next(iter(self._db.ask(f"{find} LIMIT 1", named)), None)
