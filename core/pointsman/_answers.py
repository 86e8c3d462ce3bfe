"""What counts as an answer, whole or streamed, and the stream that a caller reads."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from types import TracebackType
from typing import get_args

from ._attempts import Answered, Call, translated
from ._backends import Backend, Registry, collect, last_of
from .errors import BackendError, BackendTimeout, ContentFilterError, IncompleteAnswer, UnusableAnswer
from .values import Chunk, Completion, FinishReason, Request

_GOOD_ENDS = ("stop", "length", "tool_calls")


def judged(answer: Completion, request: Request) -> Completion:
    """Return `answer` if it is one.

    :raises ContentFilterError: the model refused.
    :raises UnusableAnswer: it is empty, ended in an error, or is not the JSON that was asked for.
    """
    _check_end(answer.finish_reason)
    if not isinstance(answer.text, str):
        raise BackendError(f"the text of the answer is of type {type(answer.text).__name__}: the plugin is at fault")
    if not answer.tool_calls:
        if not answer.text or answer.text.isspace():
            raise _empty(answer.finish_reason)
        if request.schema is not None and answer.finish_reason == "stop":
            _check_json(answer.text)
    return answer


def _check_end(finish: FinishReason | None) -> None:
    if finish in _GOOD_ENDS:
        return
    if finish == "content_filter":
        raise ContentFilterError("the model refused to answer, or its filter stopped it")
    if finish == "error" or finish is None:
        raise UnusableAnswer("the provider ended its answer with an error")
    raise UnusableAnswer(f"finish_reason: found {finish!r}, expected one of {', '.join(get_args(FinishReason))}")


def _empty(finish: FinishReason | None) -> UnusableAnswer:
    hint = "; max_tokens was used up before any text: give more" if finish == "length" else ""
    return UnusableAnswer(f"the answer is empty: no text and no tool call{hint}")


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise UnusableAnswer(f"asked for JSON by a schema, but the answer is none: {error}") from None


class Opened:
    """A stream whose first content has come: nothing of it has been shown yet."""

    def __init__(self, held: list[Chunk], rest: Iterator[Chunk]) -> None:
        self.held = held
        self.rest = rest


def opened(registry: Registry, backend: Backend, request: Request) -> Opened:
    """Start a stream and hold it until content comes; then fallback is no longer free.

    :raises BackendError: it failed, or ended, before any content.
    """
    chunks = iter(registry.stream(backend, request))
    held: list[Chunk] = []
    try:
        for chunk in chunks:
            held.append(chunk)
            if chunk.finish_reason is not None:
                _check_end(chunk.finish_reason)
            if chunk.tool_calls or (chunk.text and not chunk.text.isspace()):
                return Opened(held, chunks)
            if monotonic() > request.scope.first_byte_by:
                raise BackendTimeout("signs of life, but no content within the limit for the first token")
    except BaseException:
        close(chunks)
        raise
    finish = next((chunk.finish_reason for chunk in held if chunk.finish_reason), None)
    raise _empty(finish) if finish else UnusableAnswer("the stream ended before any content")


def close(chunks: Iterator[Chunk]) -> None:
    """Close a provider's iterator, if it can be closed and does not run in another thread."""
    try:
        getattr(chunks, "close", _nothing)()
    except ValueError:
        return  # it runs in another thread, where the cancelled scope ends it


def _nothing() -> None:
    """There is nothing to close."""


class Stream(Iterator[Chunk]):
    """A streamed answer: iterate it once, from one thread; `close` may come from any.

    Nothing is sent before the first chunk is asked for. When the iteration has ended,
    `completion` is the whole answer. Leaving it early closes the connection at once.
    """

    def __init__(self, call: Call[Opened], start: Callable[[], Answered[Opened]], ended: Callable[..., Completion]):
        self._call = call
        self._start = start
        self._ended = ended
        self._held: deque[Chunk] = deque()
        self._rest: Iterator[Chunk] | None = None
        self._seen: list[Chunk] = []
        self._done = False
        self._completion: Completion | None = None

    @property
    def backend(self) -> str | None:
        """The id of the backend that answers; `None` before the first chunk."""
        return self._answered.backend.id if self._rest is not None else None

    @property
    def completion(self) -> Completion:
        """The whole answer, once the iteration has ended.

        :raises RuntimeError: it has not.
        """
        if self._completion is None:
            raise RuntimeError("the stream has not ended yet: iterate it to its end first")
        return self._completion

    def __next__(self) -> Chunk:
        if self._done:
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def _next(self) -> Chunk:
        if self._rest is None:
            self._answered = self._start()
            self._held.extend(self._answered.answer.held)
            self._rest = self._answered.answer.rest
            if self._done:  # closed meanwhile, by another thread
                close(self._rest)
        chunk = self._held.popleft() if self._held else self._pull(self._rest)
        self._seen.append(chunk)
        return chunk

    def _pull(self, rest: Iterator[Chunk]) -> Chunk:
        try:
            chunk = self._following(rest)
            if chunk is None:
                # The provider has sent all: it is a whole answer only if it said how it ended, and is what was asked.
                whole = judged(collect(self._seen), self._call.request)
                self._completion = self._ended(whole, self._answered)
        except (Exception, SystemExit) as raised:
            error = translated(raised)
        else:
            if chunk is None:
                raise StopIteration
            return chunk
        raise self._broken(error)

    def _following(self, rest: Iterator[Chunk]) -> Chunk | None:
        """Return what the provider sends next; None when the answer is over."""
        scope = self._call.request.scope
        try:
            chunk = next(rest, None)
        except (Exception, SystemExit):
            if scope.cancelled or last_of(self._seen, "finish_reason") is None:
                raise
            return None  # what broke after the end had been told was not the answer
        if chunk is not None and chunk.finish_reason is not None:
            _check_end(chunk.finish_reason)
        elif chunk is not None and monotonic() > scope.deadline:
            raise BackendTimeout("the time was up before the end of the answer")
        return chunk

    def _broken(self, error: BackendError) -> BackendError:
        """Return what the caller gets when a stream breaks after its first content."""
        if not isinstance(error, ContentFilterError):
            text = "".join(chunk.text for chunk in self._seen)
            broken = IncompleteAnswer(
                f"the stream broke after {len(text)} characters: {error.message}", code=error.code
            )
            broken.text = text
            broken.__cause__ = error
            error = broken
        self._call.failed(self._answered, error)
        error.attempts = tuple(self._call.attempts)
        return error

    def close(self) -> None:
        """End the stream now: the connection is closed, whatever is left is not read. Repeating it changes nothing."""
        if self._done:
            return
        self._done = True
        if self._completion is None:
            self._call.request.scope.cancel()
        if self._rest is not None:
            close(self._rest)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
