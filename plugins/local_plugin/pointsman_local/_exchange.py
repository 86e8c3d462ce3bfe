"""One request in flight between a caller's thread and the child."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from pointsman import BackendError, BackendTimeout, InvalidRequestError, Scope, UnavailableError

if TYPE_CHECKING:
    from ._child import Child

#: What lies in the mailbox beside the child's messages.
READY, CANCELLED = "ready", "cancelled"


class Exchange:
    """Sends one request and waits for what comes back, within the limits of its scope.

    A context manager: leaving it before the end cancels the request, which frees its slot. Used by one
    thread; the child's thread and whoever cancels only put messages into its mailbox.
    """

    def __init__(self, child: Child, scope: Scope) -> None:
        self._child = child
        self._scope = scope
        self._content_at: float | None = None  # when the last content came
        self.mailbox: SimpleQueue[Any] = SimpleQueue()
        self.sent = False  #: whether the child has the request
        self.number = child.enter(self)
        self._forget = scope.on_cancel(self._cancel)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        self._child.leave(self)

    def wait_ready(self) -> None:
        """Return when the model is loaded.

        :raises BackendError: it cannot be loaded, or not within the scope.
        """
        while not self._child.ready:
            self._receive("its model was not loaded")

    def ask(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send the request and yield what comes: `text`, `reasoning` and at last `end` (see `_frames`).

        :raises BackendError: it is refused, the child died or hangs, or the scope has ended.
        """
        self._child.send(_payload({"op": "ask", "id": self.number, "body": body}), self._scope)
        self.sent = True
        while True:
            message = self._receive("no answer came")
            if isinstance(message, dict) and "busy" not in message:
                yield message
                if "end" in message or "error" in message:
                    return
                self._content_at = monotonic()  # only now: while the caller did something else, nobody waited

    def _cancel(self) -> None:
        self.mailbox.put(CANCELLED)
        self._child.cancel(self)

    def _receive(self, late: str) -> Any:
        while True:
            try:
                message = self.mailbox.get(timeout=self._wait(late) if self.mailbox.empty() else None)
            except Empty:
                continue
            if message is CANCELLED:
                raise UnavailableError("cancelled by the caller", retry_same=False, try_next=False)
            if isinstance(message, BackendError):
                raise message
            return message

    def _wait(self, late: str) -> float | None:
        """Return the seconds after which to look at the limits again; None if there is no limit.

        :raises BackendError: one has passed.
        """
        scope = self._scope
        limits = [(scope.deadline, f"{late} within the time given")]
        if self._content_at is None:
            limits.append((scope.first_byte_by, f"{late} within the time given for the first token"))
        elif scope.idle_timeout is not None:
            limits.append((self._content_at + scope.idle_timeout, f"nothing came for {scope.idle_timeout:g} s"))
        until, why = min(limits)
        now = monotonic()
        if now >= until:
            raise BackendTimeout(why)
        until = min(until, self._child.check_alive())
        return None if until == inf else max(0.0, until - now)


def _payload(message: dict[str, Any]) -> bytes:
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.start]
        raise InvalidRequestError(
            f"the request has a lone surrogate ({error.object[error.start]!a}) after {around!a}: it is no valid text"
        ) from None
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from None
