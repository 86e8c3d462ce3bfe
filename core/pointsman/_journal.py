"""The journal of a batch: every finished item in an SQLite file, committed before anybody hears of it.

What is stored is JSON: answers whole, errors as the class of `errors.py` that they are. A prompt is
stored as its digest only, and keys not at all: they are in no answer, and errors mask them. The file is
in WAL mode with synchronous=FULL: a commit has been written through when it returns, so that neither
`kill -9` nor a power cut takes it back. (NORMAL would save the sync, and lose the last commits to a power cut.)
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from os import PathLike, fspath
from typing import Any, TypeAlias

from attrs import fields

from . import errors
from .errors import AllBackendsFailed, BackendError, ConfigError
from .values import Attempt, Completion, Request, ToolCall, Usage

Result: TypeAlias = Completion | BackendError

#: "PtsB" in ASCII, in the file's header; and the version of the table below.
_APPLICATION, _VERSION = 0x50747342, 1
_TABLE = "CREATE TABLE items(position INTEGER PRIMARY KEY, digest BLOB, answered INTEGER, result TEXT) STRICT"
#: How a request is served; the other fields are what is asked.
_HOW = {"scope", "timeout", "first_token_timeout", "idle_timeout", "min_rate", "max_retries"}
_HOW |= {"on_refusal", "on_break", "on_limit", "local_only"}
_NESTED = {"usage": Usage, "tool_calls": ToolCall, "attempts": Attempt}


class Journal:
    """One file, for one batch at a time: another process, or another batch, is refused. Thread-safe.

    The lock is the operating system's, on the open file: it ends with the process that holds it.

    :raises ConfigError: the file is in use, is no journal, is damaged, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = fspath(path)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, bytes, bool, str]] = deque()
        self._broken: ConfigError | None = None
        try:
            self._db = sqlite3.connect(self._path, timeout=1, isolation_level=None, check_same_thread=False)
            try:
                self._last = self._opened()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise self._told(error) from error

    def _opened(self) -> int:
        """Lock the file, make it a journal if it is empty, and return the highest position in it."""
        for name, value in ("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "FULL"):
            self._db.execute(f"PRAGMA {name}={value}")
        self._db.execute("BEGIN EXCLUSIVE")  # all or nothing, wherever the process is killed
        marks = [self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if marks == [0, 0] and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._db.execute(f"PRAGMA application_id={_APPLICATION}")
            self._db.execute(f"PRAGMA user_version={_VERSION}")
            self._db.execute(_TABLE)
        elif marks != [_APPLICATION, _VERSION]:
            what = "of another version of pointsman" if marks[0] == _APPLICATION else "no journal of a batch"
            raise ConfigError(f"journal {self._path}: the file is {what}; name another file")
        self._db.execute("COMMIT")
        last: int | None = self._db.execute("SELECT max(position) FROM items").fetchone()[0]
        return -1 if last is None else last

    def _told(self, error: sqlite3.Error) -> ConfigError:
        known = {
            "SQLITE_BUSY": "another batch is using it; wait for its end, or name another file",
            "SQLITE_NOTADB": "the file is no journal of a batch; name another file",
            "SQLITE_CORRUPT": "the file is damaged; copy what `sqlite3 FILE .recover` finds, or name another file",
        }
        advice = known.get(error.sqlite_errorname or "", "mend that and call again; what it holds is not lost")
        return ConfigError(f"journal {self._path}: {error}: {advice}")

    def find(self, position: int, digest: bytes, *, retry_failed: bool) -> Result | None:
        """Return what is recorded for this prompt at this place; `None` if it is to be asked.

        :raises ConfigError: the answer to another prompt stands there.
        """
        if position > self._last:
            return None
        try:
            with self._lock:
                row = self._db.execute("SELECT * FROM items WHERE position=?", (position,)).fetchone()
            if row is None or (retry_failed and not row[2]):
                return None
            if row[1] == digest:
                return decoded(row[3])
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._told(sqlite3.DatabaseError(f"prompts[{position}]: {error}")) from error
        if row[2]:
            raise ConfigError(
                f"journal {self._path}: prompts[{position}]: found the answer to another prompt or other options, "
                "expected the batch that began it; name another file for another batch"
            )
        return None  # what failed was mended: it is another prompt now

    def record(self, position: int, digest: bytes, result: Result) -> None:
        """Make a result durable; those of several threads at once share a commit.

        :raises ConfigError: it cannot be written: the disk is full, say. Nothing can from then on.
        """
        self._waiting.append((position, digest, isinstance(result, Completion), encoded(result)))
        with self._lock:
            try:
                if self._waiting and not self._broken:  # else the thread before us has written it
                    self._db.execute("BEGIN")
                    while self._waiting:
                        self._db.execute("INSERT OR REPLACE INTO items VALUES (?,?,?,?)", self._waiting.popleft())
                    self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._broken = self._told(error)
            if self._broken:
                raise self._broken

    def close(self) -> None:
        """Let the next one have the file."""
        with self._lock, suppress(sqlite3.Error):
            self._broken = self._broken or ConfigError(f"journal {self._path}: the batch is over")
            self._db.close()


def digest(request: Request) -> bytes:
    """Return 16 bytes that differ when something else is asked; how long it may take, say, does not count."""
    asked = {name: value for name, value in vars(request).items() if name not in _HOW}
    return blake2b(json.dumps(asked, sort_keys=True, default=_plain).encode(), digest_size=16).digest()


def encoded(result: Result) -> str:
    """Return a result as JSON."""
    return json.dumps(result, default=_plain)


def decoded(text: str) -> Result:
    """Return what was encoded: an answer is equal to the one that was, an error has its class, text and facts."""
    values = json.loads(text)
    return _error(values) if "error" in values else _made(Completion, values)


def _plain(value: Any) -> Any:
    if isinstance(value, BackendError):
        ours = next(cls.__name__ for cls in type(value).__mro__ if cls.__module__ == errors.__name__)
        facts = {name: one for name, one in vars(value).items() if one is None or name == "attempts" or _simple(one)}
        return {"error": ours, "message": value.message, "errors": getattr(value, "exceptions", ()), **facts}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(type(value), "__attrs_attrs__"):
        return {name: one for name in _names(type(value)) if (one := getattr(value, name)) is not None and one != ()}
    return repr(value)  # in `extra`, which is never read back


def _simple(value: Any) -> bool:
    return isinstance(value, str | int | float)


@cache
def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(attribute.name for attribute in fields(cls))


def _made(cls: type[Any], values: Mapping[str, Any]) -> Any:
    return cls(**{name: _value(name, value) for name, value in values.items() if name in _names(cls)})


def _value(name: str, value: Any) -> Any:
    kind = _NESTED.get(name)
    if isinstance(value, list):
        return tuple(_made(kind, one) if kind else one for one in value)
    return _made(kind, value) if kind and value else value


def _error(values: dict[str, Any]) -> BackendError:
    cls, message, parts = getattr(errors, values.pop("error")), values.pop("message"), values.pop("errors")
    error = cls(message, [_error(part) for part in parts]) if cls is AllBackendsFailed else cls(message)
    for name, value in values.items():
        setattr(error, name, _value(name, value))
    return error  # type: ignore[no-any-return] # a class of errors.py, as `_plain` wrote it
