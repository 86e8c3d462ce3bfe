"""The windows of a backend in a Redis server, which counts for many processes and machines.

The moving window of the library `limits` stamps each entry with its client's own clock, keeps one
for each token and takes none back. So `_redis.lua` counts, by the server's clock, in one round trip.
What `limits` does well is to reach a server by its URL: plain, with TLS, by a socket, through a sentinel.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from secrets import token_hex
from time import monotonic
from typing import Any

from . import _log
from ._limits import Slot, Wait, Window
from .errors import ConfigError
from .scope import Clock
from .secret import Secret

#: Seconds until a reply is given up, and until the server is asked again after that.
_REPLY, _PAUSE = 0.5, 5.0
_SCHEMES = ("redis://", "rediss://", "redis+unix://", "redis+sentinel://")


class Shared:
    """The windows of one backend in a server. Thread-safe.

    While the server cannot be asked, each process keeps the limits by itself: no call fails because a
    counter did. A warning says so, once; the server is asked again every few seconds.

    :raises ConfigError: a library is missing, or the URL is none of a Redis server.
    """

    def __init__(self, url: Secret, backend: str, windows: Collection[Window], clock: Clock) -> None:
        self._clients = _clients(url)
        if not self._clients:  # not raised where it was found: what was raised there may hold the password
            expected = "redis://[:password@]host:port/db (special characters written as %2F), or rediss:// for TLS"
            raise ConfigError(f"rate_limit_storage: found no URL of a Redis server, expected {expected}")
        self._script = self._clients[0].register_script(files(__package__).joinpath("_redis.lua").read_text("utf-8"))
        self._backend, self._clock = backend, clock
        self._windows = [(w, f"pointsman:{{{backend}}}:{w.name}:{w.seconds:g}") for w in windows]
        self._late = min(w.span - w.seconds for w in windows) / 2  #: seconds: what a window's margin can bear
        self._down, self._ask_at = False, 0.0

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def ask(self, slot: Slot, used: int | None = None) -> Wait:
        """Count a call, or what it really `used`; return how long it must wait instead, if it must."""
        if self._down and self._clock.now() < self._ask_at:
            return Wait()
        settle = used is not None
        if not settle:
            slot.id = token_hex(12)
        windows = [(w, key) for w, key in self._windows if w.of_tokens or not settle]
        keys = [f"{key}:{part}" for _, key in windows for part in ("stops", "costs")]
        args: list[str | int] = [slot.id, "settle" if settle else "count"]
        for w, _ in windows:
            args += w.limit, int(w.span * 1e6), 1 if not w.of_tokens else -slot.tokens if used is None else used
        try:
            began = monotonic()
            wait, sure, which = self._script(keys, args)
            if monotonic() - began > self._late and not wait and not settle:
                self._script(keys, args)  # it counts from now: the call has not been made yet
        except Exception as error:
            if not self._down:
                text = "rate_limit_storage cannot be used: until it can, each process keeps the limits by itself"
                _log.warning(text, backend=self._backend, error=type(error).__name__, reason=str(error))
            self._down, self._ask_at = True, self._clock.now() + _PAUSE
            return Wait()
        if self._down:
            self._down = False
            _log.write(_log.INFO, "rate_limit_storage is used again", backend=self._backend)
        return Wait(wait / 1e6, sure / 1e6, windows[which - 1][0].words) if wait else Wait()


def _clients(url: Secret) -> list[Any]:
    """Return a client of the server, not connected yet, and those of its sentinels; none if the URL is wrong."""
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
        sentinels = storage.sentinel.sentinels if "sentinel_kwargs" in options else ()
        return [storage.get_connection(), *sentinels]
    except Exception:
        return []
