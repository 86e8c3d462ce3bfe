"""The journal of a batch: every finished item in an SQLite file, committed before anybody hears of it.

What is stored is JSON: answers whole, errors as the class of `errors.py` that they are. A prompt is
stored as its digest only, and no key is, unless a model wrote it into its answer: errors mask them. The file is
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
from pathlib import Path
from typing import Any, TypeAlias

from attrs import fields

from . import errors
from .errors import AllBackendsFailed, BackendError, ConfigError
from .values import Attempt, Completion, Request, State, ToolCall, Usage

Result: TypeAlias = Completion | BackendError

#: "PtsB" in ASCII, in the file's header; and the version of the table and of the values, whose defaults are left out.
_APPLICATION, _VERSION = 0x50747342, 1
_TABLE = "CREATE TABLE items(position INTEGER PRIMARY KEY, digest BLOB, answered INTEGER, result TEXT)"
#: How a request is served; the other fields are what is asked.
_HOW = {"scope", "timeout", "first_token_timeout", "idle_timeout", "min_rate", "max_retries"}
_HOW |= {"on_refusal", "on_break", "on_limit", "local_only", "private"}
_ADVICE = {
    "BUSY": "another batch is using it: wait for its end, or name another file",
    "NOTADB": "name another file",
    "CORRUPT": "it is damaged: save what `sqlite3 FILE .recover` finds, and name another file",
}
_FACT: Any = str | int | float | tuple | Usage | None  # attributes of an error that are kept
_VALUES: dict[str, Any] = {cls.__name__: cls for cls in (Attempt, Completion, ToolCall, Usage)}
_VALUES["State"] = lambda vendor, data: State(vendor, json.loads(data))


class Journal:
    """One file, for one batch at a time: another process, or another batch, is refused. Thread-safe.

    The lock is the operating system's, on the open file: it ends with the process that holds it.

    :param path: of the file; `None` for a temporary one, which nobody else sees and which ends with this object.
    :raises ConfigError: the file is in use, is no journal, is damaged, or cannot be written.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = "" if path is None else str(Path(path).absolute())
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, bytes, bool, str]] = deque()
        self._broken: ConfigError | None = None
        try:
            self._db = sqlite3.connect(self._path, timeout=1, check_same_thread=False)
            try:
                self._last = self._opened()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise self._told(error) from error

    def _opened(self) -> int:
        """Lock the file, make it a journal if it is empty, and return the highest position in it."""
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("BEGIN EXCLUSIVE")  # all or nothing, wherever the process is killed
        marks = [self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if marks == [0, 0] and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._db.execute(f"PRAGMA application_id={_APPLICATION}")
            self._db.execute(f"PRAGMA user_version={_VERSION}")
            self._db.execute(_TABLE)
        elif marks != [_APPLICATION, _VERSION]:
            what = "of another version of pointsman" if marks[0] == _APPLICATION else "no journal of a batch"
            raise ConfigError(f"journal {self._path}: the file is {what}; name another file")
        self._db.commit()
        self._db.execute(f"PRAGMA journal_mode={'WAL' if self._path else 'OFF'}")  # now that it is known to be ours
        self._db.execute("PRAGMA synchronous=FULL")
        last: int | None = self._db.execute("SELECT max(position) FROM items").fetchone()[0]
        return -1 if last is None else last

    def _told(self, error: Exception) -> ConfigError:
        kind = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT").split("_")[1]
        return ConfigError(f"journal {self._path}: {error}; {_ADVICE.get(kind, 'mend that, and call again')}")

    def find(self, position: int, digest: bytes, *, retry_failed: bool = False) -> Result | None:
        """Return what is recorded for this prompt at this place; `None` if it is to be asked.

        :raises ConfigError: the answer to another prompt stands there.
        """
        if self._path and position > self._last:
            return None
        try:
            with self._lock:
                row = self._db.execute("SELECT * FROM items WHERE position=?", (position,)).fetchone()
            if row is None or (retry_failed and not row[2]):
                return None
            if row[1] == digest:
                return decoded(row[3])
        except (sqlite3.Error, AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._told(error) from error
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
            if self._broken:
                raise self._broken
            try:
                with self._db:
                    while self._waiting:  # else the thread before us has written ours too
                        self._db.execute("INSERT OR REPLACE INTO items VALUES (?,?,?,?)", self._waiting.popleft())
            except sqlite3.Error as error:
                self._broken = self._told(error)
                raise self._broken from error

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
    return json.loads(text, object_hook=_revived)  # type: ignore[no-any-return] # what `_plain` wrote


def _plain(value: Any) -> Any:
    """Return a value for JSON; those that come back have their class in `is`."""
    if isinstance(value, BackendError):
        ours = next(cls.__name__ for cls in type(value).__mro__ if cls.__module__ == errors.__name__)
        args = [value.message, value.exceptions] if isinstance(value, AllBackendsFailed) else [value.message]
        return {"is": ours, "args": args, **{name: one for name, one in vars(value).items() if isinstance(one, _FACT)}}
    if isinstance(value, State):
        return {"is": "State", "vendor": value.vendor, "data": json.dumps(value.data)}
    if hasattr(type(value), "__attrs_attrs__"):
        told = {name: one for name, default in _defaults(value.__class__) if (one := getattr(value, name)) != default}
        return {"is": type(value).__name__, **told}
    if isinstance(value, Mapping):
        return dict(value)
    return value.hex() if isinstance(value, bytes) else repr(value)  # in a request: for its digest only


def _revived(values: dict[str, Any]) -> Any:
    name, facts = values.pop("is"), {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
    if name in _VALUES:
        return _VALUES[name](**facts)
    error = getattr(errors, name)(*facts.pop("args"))
    vars(error).update(facts)
    return error


@cache
def _defaults(cls: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((attribute.name, attribute.default) for attribute in fields(cls))
