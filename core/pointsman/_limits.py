"""How many calls of a backend may begin, cost and run: its limits, which we keep before it refuses.

`rate_limit` calls in any `rate_limit_window` seconds, `tokens_per_minute`, `max_concurrency`. Who
finds no room waits in line; only the first of the line waits for a time, and wakes the next.

The windows are a few lines of our own. The moving window of the library `limits` starts a thread
every 10 ms, goes by the wall clock, keeps an entry for each token, takes nothing back (reserved
tokens must be settled), drops locks that others wait for, and says "no" but not for how long. It
serves where it is good, in `_redis.py`, which is imported where limits are shared.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from math import inf
from typing import NamedTuple

from ._backends import Backend
from .errors import RateLimitError
from .forks import Shared as Forked
from .scope import Bell, Clock, Scope
from .secret import Secret

#: A window is kept so much longer: calls take unequally long to where the provider counts them.
_MARGIN, _LONGEST_MARGIN = 0.03, 0.25
#: When a running call ends nobody knows: seconds to tell somebody who asks.
_A_CALL = 1.0
#: Seconds after which who is first in line looks again, at the latest: tokens may be given back in another process.
_LOOK = 1.0


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

    def check(self, scope: Scope, within: float) -> None:
        """Go on only if the call may come in time, and somebody waits for it."""
        if self.sure == inf:
            text = f"reckoned at more tokens than {self.why} ever lets in: ask for fewer max_tokens, or raise the limit"
            raise RateLimitError(text, retry_same=False)
        if scope.cancelled or self.sure >= scope.left() or (self.why and self.seconds > within):
            seconds = self.seconds if self.seconds < inf else _A_CALL
            text = f"our own {self.why or 'limit'} has no room in time"
            raise RateLimitError(text, code="own_limit", retry_after=seconds)


_NONE = Wait()


class Slot:
    """A call that was let in, or waits for it. Thread-safe."""

    __slots__ = ("_limiter", "began", "id", "running", "tokens", "turn")
    began: float
    id: str  #: in Redis
    turn: Bell  #: of one who waits in line

    def __init__(self, limiter: Limiter, tokens: int) -> None:
        self._limiter = limiter
        self.running = False
        self.tokens = tokens  #: reserved; when it is over, what it did cost

    def leave(self, usage_tokens: int | None = None) -> None:
        """End the call; `usage_tokens` replaces what was reserved for it. Repeating it changes nothing."""
        self._limiter._left(self, self.tokens if usage_tokens is None else usage_tokens)


class Window:
    """A moving window. Not thread-safe: the limiter locks."""

    def __init__(self, name: str, limit: int, seconds: float) -> None:
        self.name, self.limit, self.seconds = name, limit, seconds
        self.words = f"{name} of {limit} in {seconds:g} s"
        self.span = seconds + min(_MARGIN * seconds, _LONGEST_MARGIN)
        self.of_tokens = name == "tokens_per_minute"
        self.used = 0
        self.calls: deque[Slot] = deque()
        self._since = -inf  #: what began later counts

    def cost(self, slot: Slot) -> int:
        """Return what a call costs here."""
        return slot.tokens if self.of_tokens else 1

    def wait(self, slot: Slot, now: float, line: Collection[Slot]) -> Wait:
        """Return how long a call waits that comes after all in line."""
        calls, self._since = self.calls, now - self.span
        while calls and calls[0].began <= self._since:
            gone = self.cost(calls.popleft())
            self.used -= gone
        cost = slot.tokens if self.of_tokens else 1
        if not line and self.used + cost <= self.limit:
            return _NONE
        if cost > self.limit:
            return Wait(inf, inf, self.words)
        rounds, rest = divmod(cost + sum(map(self.cost, line)) - 1, self.limit)
        over = self.used + rest + 1 - self.limit
        sure_over = over - (sum(call.tokens for call in calls if call.running) if self.of_tokens else 0)
        free = sure = self._since
        for call in calls:
            if over > 0:
                free, over = call.began, over - self.cost(call)
            if sure_over > 0 and not (self.of_tokens and call.running):
                sure, sure_over = call.began, sure_over - self.cost(call)
            if over <= 0 and sure_over <= 0:
                break
        seconds = free - self._since + rounds * self.span
        return Wait(seconds, sure - self._since, self.words) if seconds else _NONE

    def settle(self, slot: Slot, tokens: int) -> None:
        """Count what a call really cost, if it still counts."""
        if slot.began > self._since:
            self.used += tokens - slot.tokens
        slot.tokens = tokens


class Limiter(Forked):
    """The limits of one backend, for all calls of a router. Thread-safe; first come, first served.

    In a forked child no call runs yet, and none is in line; those that began before count in the windows.

    :param storage: the URL of a Redis server that shares the windows with other processes. How many calls run at once,
        and who comes first, is a matter of this process.
    :raises ConfigError: `storage` cannot be used.
    """

    def __init__(self, backend: Backend, clock: Clock, storage: Secret | None = None) -> None:
        self._clock = clock
        self._windows: list[Window] = []
        if backend.rate_limit:
            self._windows.append(Window("rate_limit", backend.rate_limit, backend.rate_limit_window))
        if backend.tokens_per_minute:
            self._windows.append(Window("tokens_per_minute", backend.tokens_per_minute, 60.0))
        self.counts_tokens = bool(backend.tokens_per_minute)
        self._most = backend.max_concurrency or inf
        self._full = Wait(inf, 0.0, f"max_concurrency of {self._most}")
        self._shared = None
        if storage is not None and self._windows:
            from ._redis import Shared

            self._shared = Shared(storage, backend.id, self._windows, clock)
        self._look_at = 0.0  #: when Redis, which had no room, is to be asked again, by our clock
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self._lock = threading.RLock()  # the collector may end a stream, and its slot, while this thread holds it
        self._line: deque[Slot] = deque()
        self._running = 0

    def wait_needed(self, tokens: int = 0) -> float:
        """Return seconds until a call of so many tokens could begin, after all in line: 0.0 now, `inf` never."""
        return self._outlook(Slot(self, tokens or 1)).seconds

    def enter(self, scope: Scope, tokens: int = 0, *, within: float = inf) -> Slot:
        """Let one call begin, or wait in line until it may.

        :param tokens: what the call is reckoned to cost; `Slot.leave` says what it did cost.
        :param within: seconds; a call that would have to wait longer is told so at once.
        :raises RateLimitError: it cannot begin in time, or nobody waits any more; `retry_after` says when it could.
        """
        slot = Slot(self, tokens or 1)
        if not self._line and self._shared is None and not self._claim(slot).seconds:
            return slot
        with self._lock:
            self._outlook(slot).check(scope, within)
            slot.turn = Bell()
            self._line.append(slot)
        forget = scope.on_cancel(slot.turn.set)
        try:
            while True:
                wait = self._claim(slot) if self._line[0] is slot and not scope.cancelled else Wait(inf)
                if not wait.seconds:
                    return slot
                wait.check(scope, within)
                if wait.seconds < inf:
                    self._clock.wait(scope, min(wait.next_look, scope.left()), slot.turn)
                else:
                    slot.turn.wait(min(scope.left(), threading.TIMEOUT_MAX))
        finally:
            forget()
            with self._lock:
                self._line.remove(slot)
                self._wake()

    def close(self) -> None:
        """Close the connections to the storage."""
        if self._shared is not None:
            self._shared.close()

    def _outlook(self, slot: Slot) -> Wait:
        """Return the wait of a call that is not in line yet, as far as it is known here."""
        with self._lock:
            now = self._clock.now()
            wait = self._room(slot, now, self._line)
            if self._running + len(self._line) >= self._most:
                wait |= self._full._replace(seconds=_A_CALL)
            return wait | Wait(max(0.0, self._look_at - now), 0.0, "rate_limit_storage")

    def _room(self, slot: Slot, now: float, line: Collection[Slot] = ()) -> Wait:
        wait = _NONE
        for window in self._windows:
            if (one := window.wait(slot, now, line)) is not _NONE:
                wait |= one
        return wait

    def _claim(self, slot: Slot) -> Wait:
        """Count the call, now; or return how long it must wait. Only who is first in line asks, or who finds none."""
        with self._lock:
            now = self._clock.now()
            wait = self._room(slot, now) if self._running < self._most else self._full
            if self._shared is None or wait.seconds:
                return wait if wait.seconds else self._take(slot, now)
        wait = self._shared.ask(slot)
        with self._lock:
            now = self._clock.now()
            self._look_at = now + wait.next_look
            return wait if wait.seconds else self._take(slot, now)

    def _take(self, slot: Slot, now: float) -> Wait:
        slot.began, slot.running = now, True
        self._running += 1
        for window in self._windows:
            cost = slot.tokens if window.of_tokens else 1
            window.calls.append(slot)
            window.used += cost
        return _NONE

    def _left(self, slot: Slot, tokens: int) -> None:
        if self._shared is not None and self.counts_tokens and slot.running:
            self._shared.ask(slot, tokens)
            self._look_at = 0.0
        with self._lock:
            if slot.running:
                slot.running = False
                self._running -= 1
                if self.counts_tokens:
                    self._windows[-1].settle(slot, tokens)
                self._wake()

    def _wake(self) -> None:
        if self._line:
            self._line[0].turn.set()
