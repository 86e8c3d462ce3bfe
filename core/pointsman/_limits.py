"""How many calls of a backend may begin, cost and run: its limits, which we keep before it refuses.

`rate_limit` calls in any `rate_limit_window` seconds, `tokens_per_minute`, `max_concurrency`. Who
finds no room waits in line; only the first of the line waits for a time, and wakes the next.

In one process the windows are a few lines of our own. The moving window of the library `limits`
starts a thread every 10 ms, goes by the wall clock, keeps an entry for each token, takes nothing
back (reserved tokens must be settled), drops locks that others wait for, and says "no" but not for
how long. In Redis it stamps each entry with its client's own clock. So `_limits.lua` counts there,
by the server's clock, in one round trip. What `limits` does well is to reach a server by its URL,
plain, with TLS, by a socket or through a sentinel: it is imported for that, and only then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from importlib.resources import files
from math import inf
from secrets import token_hex
from typing import Any, NamedTuple

from . import _log
from ._backends import Backend
from .errors import ConfigError, RateLimitError
from .scope import Clock, Scope
from .secret import Secret

#: A window is kept so much longer: calls take unequally long to where the provider counts them.
_MARGIN, _LONGEST_MARGIN = 0.03, 0.25
#: When a running call ends nobody knows: seconds to tell somebody who asks.
_A_CALL = 1.0
#: Seconds: until a reply of Redis is given up; until it is asked again after that; and until the first of the line
#: looks again, at the latest, for tokens that were given back in another process.
_REPLY, _PAUSE, _LOOK = 0.5, 5.0, 1.0
_SCHEMES = ("redis://", "rediss://", "redis+unix://", "redis+sentinel://")


class Wait(NamedTuple):
    """How long a call must wait, `inf` if nobody knows; `sure` is what nothing can shorten; `why` is the limit."""

    seconds: float = 0.0
    sure: float = 0.0
    why: str = ""

    def __or__(self, other: Wait) -> Wait:
        longer = max(self, other)
        return Wait(longer.seconds, max(self.sure, other.sure), longer.why)

    @property
    def next_look(self) -> float:
        """Seconds after which to look again."""
        return max(self.sure, min(self.seconds, _LOOK))


_NONE = Wait()


class Slot:
    """A call that was let in. Thread-safe."""

    __slots__ = ("_limiter", "entry", "id", "tokens")

    def __init__(self, limiter: Limiter, tokens: int) -> None:
        self._limiter = limiter
        self.tokens = tokens
        self.entry: list[float] = []  #: of its tokens, in the window of this process
        self.id = ""  #: in Redis

    def leave(self, usage_tokens: int | None = None) -> None:
        """End the call; `usage_tokens` replaces what was reserved for it. Repeating it changes nothing."""
        self._limiter._left(self, self.tokens if usage_tokens is None else usage_tokens)


class _Window:
    """A moving window of this process. Not thread-safe: the limiter locks."""

    __slots__ = ("_entries", "_used", "limit", "of_tokens", "seconds", "span", "words")

    def __init__(self, words: str, limit: int, seconds: float, *, of_tokens: bool = False) -> None:
        self.words, self.limit, self.seconds, self.of_tokens = words, limit, seconds, of_tokens
        self.span = seconds + min(_MARGIN * seconds, _LONGEST_MARGIN)
        self._used = 0.0
        self._entries: deque[list[float]] = deque()  # [when it counts no more, what it costs, whether that is settled]

    def wait(self, tokens: int, now: float, line: Collection[tuple[object, int]]) -> Wait:
        """Return how long a call waits that comes after all in line."""
        entries = self._entries
        while entries and entries[0][0] <= now:
            gone = entries.popleft()
            self._used -= gone[1]
            gone[0] = -inf
        cost = tokens if self.of_tokens else 1
        if line:
            tokens += sum(n for _, n in line)
        needed = tokens if self.of_tokens else 1 + len(line)
        if self._used + needed <= self.limit:
            return _NONE
        if cost > self.limit:
            return Wait(inf, inf, self.words)
        rounds, rest = divmod(needed - 1, self.limit)
        over = self._used + rest + 1 - self.limit
        sure_over = over - sum(taken for _, taken, settled in entries if not settled)
        end = sure_end = now
        for stops, taken, settled in entries:
            if over > 0:
                end, over = stops, over - taken
            if sure_over > 0 and settled:
                sure_end, sure_over = stops, sure_over - taken
        return Wait(end - now + rounds * self.span, sure_end - now, self.words)

    def add(self, tokens: int, now: float) -> list[float]:
        """Count a call, and return its entry for `settle`."""
        entry = [now + self.span, tokens if self.of_tokens else 1, not self.of_tokens]
        self._entries.append(entry)
        self._used += entry[1]
        return entry

    def settle(self, entry: list[float], tokens: int) -> None:
        """Count what a call really cost."""
        if entry[0] > -inf:
            self._used += tokens - entry[1]
        entry[1:] = tokens, True


class _Shared:
    """The windows of one backend in a Redis server. Thread-safe.

    While the server cannot be asked, each process keeps the limits by itself: no call fails because a
    counter did. A warning says so, once; the server is asked again every few seconds.

    :raises ConfigError: a library is missing, or the URL is none of a Redis server.
    """

    def __init__(self, url: Secret, backend: str, windows: Collection[_Window], clock: Clock) -> None:
        client = _client(url)
        if client is None:  # not raised where it was found: what was raised there may hold the password
            expected = "redis://[:password@]host:port/db (special characters written as %2F), or rediss:// for TLS"
            raise ConfigError(f"rate_limit_storage: found no URL of a Redis server, expected {expected}")
        self.close = client.close
        self._script = client.register_script(files(__package__).joinpath("_limits.lua").read_text("utf-8"))
        self._backend, self._windows, self._clock = backend, windows, clock
        self._down, self._ask_at = False, 0.0

    def ask(self, call: str, tokens: int, *, settle: bool = False) -> Wait:
        """Count a call, or replace what was reserved for it; say how long it must wait instead, if it must."""
        if self._down and self._clock.now() < self._ask_at:
            return _NONE
        windows = [window for window in self._windows if window.of_tokens or not settle]
        keys: list[str] = []
        args: list[str | int] = [call, "settle" if settle else "count"]
        for window in windows:
            key = f"pointsman:{{{self._backend}}}:{'tokens' if window.of_tokens else 'calls'}:{window.seconds:g}"
            keys += [f"{key}:stops", f"{key}:costs"]
            cost = 1 if not window.of_tokens else tokens if settle else -tokens
            args += [window.limit, int(window.span * 1e6), cost]
        try:
            wait, sure, which = self._script(keys, args)
        except Exception as error:
            if not self._down:
                text = "rate_limit_storage cannot be used: until it can, each process keeps the limits by itself"
                _log.warning(text, backend=self._backend, error=type(error).__name__, reason=str(error))
            self._down, self._ask_at = True, self._clock.now() + _PAUSE
            return _NONE
        if self._down:
            self._down = False
            _log.write(_log.INFO, "rate_limit_storage is used again", backend=self._backend)
        return Wait(wait / 1e6, sure / 1e6, windows[which - 1].words) if wait else _NONE


def _client(url: Secret) -> Any:
    """Return a client of the server, not connected yet; None if the URL is none of such a server."""
    try:
        from limits.storage import storage_from_string
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Lost
        from redis.retry import Retry
    except ImportError:
        missing = 'rate_limit_storage needs libraries that are not installed: pip install "pointsman[redis]"'
        raise ConfigError(missing) from None
    # Sent again, once: an idle connection may have been cut, and to count twice what was counted changes nothing.
    retry = Retry(NoBackoff(), 1, (Lost,))
    options: dict[str, Any] = {"socket_timeout": _REPLY, "socket_connect_timeout": _REPLY, "retry": retry}
    if "+sentinel" in url.reveal():
        options["sentinel_kwargs"] = dict(options)
    try:
        storage: Any = storage_from_string(url.reveal(), **options) if url.reveal().startswith(_SCHEMES) else None
        return storage and storage.get_connection()
    except Exception:
        return None


class Limiter:
    """The limits of one backend, for all calls of a router. Thread-safe; first come, first served.

    :param storage: the URL of a Redis server that shares the windows with other processes. How many calls run at once,
        and who comes first, is a matter of this process.
    :raises ConfigError: `storage` cannot be used.
    """

    def __init__(self, backend: Backend, clock: Clock, storage: Secret | None = None) -> None:
        self._clock = clock
        self._windows: list[_Window] = []
        if rate := backend.rate_limit:
            seconds = backend.rate_limit_window
            self._windows.append(_Window(f"rate_limit of {rate} in {seconds:g} s", rate, seconds))
        if tokens := backend.tokens_per_minute:
            self._windows.append(_Window(f"tokens_per_minute of {tokens}", tokens, 60.0, of_tokens=True))
        self._most = backend.max_concurrency or inf
        self._full = Wait(inf, 0.0, f"max_concurrency of {self._most}")
        shared = storage is not None and self._windows
        self._shared = _Shared(storage, backend.id, self._windows, clock) if storage and shared else None
        self._look_at = 0.0  #: when Redis, which had no room, is to be asked again, by our clock
        self._lock = threading.RLock()  # the collector may end a stream, and its slot, while this thread holds it
        self._line: deque[tuple[threading.Event, int]] = deque()  # who waits, and the tokens that each needs
        self._running: set[Slot] = set()

    def wait_needed(self, tokens: int = 0) -> float:
        """Return seconds until a call of so many tokens could begin, after all in line: 0.0 now, `inf` never."""
        return self._outlook(max(tokens, 1)).seconds

    def enter(self, scope: Scope, tokens: int = 0, *, within: float = inf) -> Slot:
        """Let one call begin, or wait in line until it may.

        :param tokens: what the call is reckoned to cost; `Slot.leave` says what it did cost.
        :param within: seconds; a call that would have to wait longer is told so at once.
        :raises RateLimitError: it cannot begin in time, or nobody waits any more; `retry_after` says when it could.
        """
        slot = Slot(self, max(tokens, 1))
        with self._lock:
            if not self._line and self._shared is None and not self._claim(slot).seconds:
                return slot
            _check(self._outlook(slot.tokens), scope, within)
            turn = threading.Event()
            place = (turn, slot.tokens)
            self._line.append(place)
        forget = scope.on_cancel(turn.set)
        try:
            while True:
                turn.clear()
                wait = self._claim(slot) if self._line[0] is place and not scope.cancelled else Wait(inf)
                if not wait.seconds:
                    return slot
                _check(wait, scope, within)
                if wait.seconds < inf:
                    self._clock.wait(scope, min(wait.next_look, scope.left()), turn)
                else:
                    turn.wait(min(scope.left(), threading.TIMEOUT_MAX))
        finally:
            forget()
            with self._lock:
                self._line.remove(place)
                self._wake()

    def close(self) -> None:
        """Close the connections to the storage."""
        if self._shared is not None:
            self._shared.close()

    def _outlook(self, tokens: int) -> Wait:
        """Return the wait of a call that is not in line yet, as far as it is known here."""
        with self._lock:
            now = self._clock.now()
            wait = self._room(tokens, now, self._line)
            if len(self._running) + len(self._line) >= self._most:
                wait |= self._full._replace(seconds=_A_CALL)
        return wait | Wait(self._look_at - now, 0.0, "rate_limit_storage") if self._look_at > now else wait

    def _room(self, tokens: int, now: float, line: Collection[tuple[object, int]] = ()) -> Wait:
        wait = _NONE
        for window in self._windows:
            if (one := window.wait(tokens, now, line)) is not _NONE:
                wait |= one
        return wait

    def _claim(self, slot: Slot) -> Wait:
        """Count the call, now; or return how long it must wait. Only the first of the line asks."""
        with self._lock:
            now = self._clock.now()
            wait = self._room(slot.tokens, now) if len(self._running) < self._most else self._full
            if wait.seconds:
                return wait
            if self._shared is None:
                return self._take(slot, now)
        slot.id = token_hex(12)
        wait = self._shared.ask(slot.id, slot.tokens)
        with self._lock:
            self._look_at = now + wait.next_look
            return wait if wait.seconds else self._take(slot, now)

    def _take(self, slot: Slot, now: float) -> Wait:
        self._running.add(slot)
        for window in self._windows:
            entry = window.add(slot.tokens, now)
            if window.of_tokens:
                slot.entry = entry
        return _NONE

    def _left(self, slot: Slot, tokens: int) -> None:
        with self._lock:
            if slot not in self._running:
                return
            self._running.discard(slot)
            if slot.entry:
                self._windows[-1].settle(slot.entry, tokens)
        if slot.entry and self._shared is not None:
            self._shared.ask(slot.id, tokens, settle=True)
            self._look_at = 0.0
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._line:
                self._line[0][0].set()


def _check(wait: Wait, scope: Scope, within: float) -> None:
    """Go on only if the call may come in time, and somebody waits for it."""
    if wait.sure == inf:
        text = f"it is reckoned at more tokens than {wait.why} lets in at all: ask for fewer max_tokens, or raise it"
        raise RateLimitError(text, retry_same=False)
    late = wait.sure >= scope.left() or (wait.why and wait.seconds > within)
    if late or scope.cancelled:
        seconds = wait.seconds if wait.seconds < inf else _A_CALL
        raise RateLimitError(f"our own {wait.why or 'limit'} has no room in time", retry_after=seconds)
