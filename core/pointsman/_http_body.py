"""Bodies of any length: read as they come, sent as they are made. And what an answer means that is a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import inf
from time import monotonic

from . import errors as e
from ._http_chunks import Chunks
from ._http_transport import MAX_BODY, Exchange

#: Takes status, headers and body of an answer and, as `where`, the host; returns what they mean. `classify` is one.
Refusal = Callable[..., e.BackendError]
_ERROR_BODY_S = 5.0  # an error is worth no longer wait for its text


class Body(Iterator[bytes]):
    """The body of one answer, in pieces, as they come. One thread reads it; any thread may cancel the scope.

    It ends only where it is whole: with all the bytes that were announced, the end of its chunks, and no error in
    the trailer `X-Stream-Error`. `scope.idle_timeout` limits each wait, `scope.deadline` all of them. Close it, or
    use it in a `with` statement: that closes the connection unless the answer has been read to its end.

    :raises BackendError: while it is read: it was cut, came too late, or the server says that it failed meanwhile.
    """

    def __init__(self, exchange: Exchange, refusal: Refusal) -> None:
        self._exchange, self._refusal = exchange, refusal
        self.headers: Mapping[str, str] = exchange.answer.headers
        self._chunks = Chunks(exchange.answer) if exchange.answer.chunked and exchange.method != "HEAD" else None
        if self._chunks is not None:
            exchange.receive = self._chunks.read1

    def __next__(self) -> bytes:
        exchange = self._exchange
        exchange.step_by, exchange.late = idle(exchange), "stopped in the middle of its answer"
        if piece := exchange.read():
            return piece
        # no variable here holds what it says, which may be an echo of a key
        if self._chunks and (trailers := self._chunks.trailers).get("x-stream-error"):
            raise self._refusal(200, self.headers, trailers["x-stream-error"].encode("latin-1"), where=exchange.host)
        raise StopIteration

    def read_all(self, most: int = MAX_BODY) -> bytes:
        """Return what is left of it, whole.

        :raises UnusableAnswer: it has more than `most` bytes.
        """
        pieces, size = [], 0
        for piece in self:
            pieces.append(piece)
            size += len(piece)
            if size > most:
                self.close()
                raise e.UnusableAnswer(f"{self._exchange.host} answered with more than {most} bytes")
        return b"".join(pieces)

    def close(self) -> None:
        """End the exchange; if the answer has not been read to its end, close the connection."""
        self._exchange.close()

    __del__ = close

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Upload:
    """A request whose body is sent in pieces, each as soon as it is made. One thread sends.

    `scope.idle_timeout` limits each wait until the server takes more, and `scope.deadline` all of them. Use it in a
    `with` statement: what is left early is cut there, so that the server sees that it was not whole.
    """

    def __init__(self, exchange: Exchange, refusal: Refusal, patience_s: float) -> None:
        self._exchange, self._refusal, self._patience_s = exchange, refusal, patience_s
        self._answered = False

    def send(self, piece: bytes) -> None:
        """Send a piece.

        :raises BackendError: the server takes no more; if it has said why, then that.
        """
        if piece:
            self._push(b"%x\r\n%b\r\n" % (len(piece), piece))

    def answer(self, wait_s: float | None = None) -> Body:
        """End the body, and return that of the answer, once its headers are there.

        :param wait_s: how long they may take, in place of `scope.idle_timeout`: some work on all of it at its end. The
            limit of the first byte counts from now.
        :raises BackendError: there is none, or it is a refusal.
        """
        exchange = self._exchange
        self._push(b"0\r\n\r\n")
        now, silence = monotonic(), idle(exchange)
        exchange.step_by = min(now + self._patience_s, silence if wait_s is None else now + wait_s)
        exchange.late = "did not begin to answer in time"
        exchange.step(exchange.listen)
        body = answered(exchange, self._refusal)
        self._answered = True
        return body

    def close(self) -> None:
        """End the exchange, unless there was an answer."""
        if not self._answered:
            self._exchange.close()

    __del__ = close

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _push(self, data: bytes) -> None:
        exchange = self._exchange
        exchange.step_by, exchange.late = idle(exchange), "stopped taking what was sent"
        if exchange.step(exchange.push, data):
            return
        exchange.step(exchange.listen)
        answered(exchange, self._refusal).close()
        raise e.UnusableAnswer(f"{exchange.host} answered before it had been sent everything")


def answered(exchange: Exchange, refusal: Refusal) -> Body:
    """Return the body of an answer whose headers are there.

    :raises BackendError: its status is not 200.
    """
    if exchange.answer.status == 200:
        return Body(exchange, refusal)
    raise exchange.step(refused, exchange, refusal)


def refused(exchange: Exchange, refusal: Refusal) -> e.BackendError:
    """Return what an answer with another status than 200 means."""
    status, headers, body = exchange.answer.status, exchange.answer.headers, b""
    with suppress(e.BackendError):
        body = exchange.read_all(_ERROR_BODY_S)
    if not 300 <= status < 400:
        return refusal(status, headers, body, where=exchange.host)
    to = re.match(r"\w+://([^/?#@\s]+)", headers.get("location", ""))
    what = f"HTTP {status}: {exchange.host} redirects to {to[1] if to else 'elsewhere'}: mend {exchange.named}"
    return e.UnavailableError(what, status=status, retry_same=False)


def idle(exchange: Exchange) -> float:
    """Return when the next piece must have gone or come."""
    silence = exchange.scope.idle_timeout
    return inf if silence is None else monotonic() + silence
