"""What counts as an answer, whole or streamed, and the stream that a caller reads."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import get_args

from attrs import evolve

from ._asking import Asking, Got
from ._attempts import translated
from ._backends import Backend, Providers
from ._pieces import collect, last_of
from .errors import BackendError, BackendTimeout, ContentFilterError, IncompleteAnswer, UnusableAnswer
from .scope import Clock
from .values import Chunk, Completion, FinishReason, Request

_GOOD_ENDS = ("stop", "length", "tool_calls")
#: Seconds of waiting over which the rate of a stream is reckoned.
_SPAN_S = 10.0


def judged(answer: Completion, request: Request) -> Completion:
    """Return `answer` if it is one.

    :raises ContentFilterError: the model refused.
    :raises UnusableAnswer: it is empty, ended in an error, or is not the JSON that was asked for.
    """
    try:
        return _judged(answer, request)
    except BackendError as error:
        error.usage = answer.usage  # it may have to be paid for all the same
        raise


def _judged(answer: Completion, request: Request) -> Completion:
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


def opened(registry: Providers, backend: Backend, request: Request) -> Opened:
    """Start a stream and hold it until content comes; then fallback is no longer free.

    :raises BackendError: it failed, or ended, before any content.
    """
    chunks = registry.stream(backend, request)
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
        finish = last_of(held, "finish_reason")
        raise _empty(finish) if finish else UnusableAnswer("the stream ended before any content")
    except BaseException as error:
        if isinstance(error, BackendError):
            error.usage = error.usage or last_of(held, "usage")
        close(chunks)
        raise


def close(chunks: Iterator[Chunk] | None) -> None:
    """Close a provider's iterator, if it can be closed and does not run in another thread."""
    try:
        getattr(chunks, "close", bool)()
    except Exception:  # it runs in another thread, where the cancelled scope ends it; or is a plugin's fault
        return


class _Rate:
    """Watches that content comes fast enough. Only the time that was spent waiting for the provider counts.

    :param least: characters a second, as a mean of at least `_SPAN_S` seconds; `None` watches nothing.
    """

    def __init__(self, least: float | None, clock: Clock) -> None:
        self._least = least
        self._clock = clock
        self._waited, self._chars = 0.0, 0

    def following(self, chunks: Iterator[Chunk]) -> Chunk | None:
        """Return the next chunk, or None at the end.

        :raises BackendTimeout: content comes too slowly.
        """
        if self._least is None:
            return next(chunks, None)
        began = self._clock.now()
        chunk = next(chunks, None)
        self._waited += self._clock.now() - began
        if chunk is not None and chunk.finish_reason is None:
            calls = sum(len(call.arguments) for call in chunk.tool_calls)
            self._chars += len(chunk.text) + len(chunk.thinking) + calls
            if self._waited >= _SPAN_S:
                came = f"{self._chars} characters came in {self._waited:.0f} s"
                if self._chars < self._least * self._waited:
                    raise BackendTimeout(f"{came}, less than min_rate={self._least:g} a second")
                self._waited, self._chars = 0.0, 0
        return chunk


class Stream(Iterator[Chunk]):
    """A streamed answer: iterate it once, from one thread; `close` may come from any.

    Nothing is sent before the first chunk is asked for. When the iteration has ended,
    `completion` is the whole answer. Leaving it early closes the connection at once.
    """

    def __init__(self, call: Asking[Opened], start: Callable[[], Got[Opened]], ended: Callable[..., Completion]):
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
            if self._rest is None:
                self._begin(self._start())
            chunk = self._held.popleft() if self._held else self._pull()
        except BaseException:
            self.close()
            raise
        self._seen.append(chunk)
        return chunk

    def _begin(self, answered: Got[Opened], *, restarted: bool = False) -> None:
        """Hand out this answer from here on."""
        self._answered, self._rest = answered, answered.answer.rest
        self._held.extend(answered.answer.held)
        if restarted:
            self._seen.clear()
            self._held[0] = evolve(self._held[0], restarted=True)
        self._rate = _Rate(self._call.setting("min_rate", answered.backend), self._call.shared.clock)
        if self._done:  # closed meanwhile, by another thread
            close(self._rest)
            self._call.leave()

    def _pull(self) -> Chunk:
        try:
            chunk = self._following()
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
        self._mend(error)
        return self._held.popleft()

    def _following(self) -> Chunk | None:
        """Return what the provider sends next; None when the answer is over."""
        scope = self._call.request.scope
        try:
            chunk = self._rate.following(self._rest or iter(()))
        except (Exception, SystemExit):
            if scope.cancelled or last_of(self._seen, "finish_reason") is None:
                raise
            return None  # what broke after the end had been told was not the answer
        if chunk is not None and chunk.finish_reason is not None:
            try:
                _check_end(chunk.finish_reason)
            except BackendError as error:
                error.usage = chunk.usage
                raise
        elif chunk is not None and monotonic() > scope.deadline:
            raise BackendTimeout("the time was up before the end of the answer")
        return chunk

    def _mend(self, error: BackendError) -> None:
        """Go on with another backend after this one broke, if the caller wants that and it can be.

        :raises IncompleteAnswer: with the text that had come. What a fallback did in vain does not show.
        :raises ContentFilterError: the model stopped itself.
        """
        call, scope = self._call, self._call.request.scope
        error.usage = error.usage or last_of(self._seen, "usage")
        close(self._rest)
        text = "".join(chunk.text for chunk in self._seen)
        refused = isinstance(error, ContentFilterError)
        broken = error if refused else _incomplete(text, error)
        call.broke(self._answered, broken)
        policy = call.setting("on_break", self._answered.backend)
        restart = policy == "restart"
        plain = not (call.request.tools or call.request.schema or any(chunk.tool_calls for chunk in self._seen))
        # What else came, such as usage, is of the attempt that broke.
        self._seen = [Chunk(text, thinking="".join(chunk.thinking for chunk in self._seen))]
        if not refused and not scope.cancelled and (restart or (policy == "continue" and plain and text)):
            try:
                self._begin(call.resume("" if restart else text), restarted=restart)
            except BackendError as others:
                if others is not broken:
                    broken.args = (f"{broken.message}; on_break={policy!r} was in vain: {others}",)
            else:
                call.warnings.append(f"{broken}; on_break={policy!r} went on with {self._answered.backend.id}")
                return
        broken.attempts = tuple(call.attempts)
        raise broken

    def close(self) -> None:
        """End the stream now: the connection is closed, whatever is left is not read. Repeating it changes nothing."""
        if self._done:
            return
        self._done = True
        self._call.leave()
        if self._completion is None:
            self._call.request.scope.cancel()
        close(self._rest)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _incomplete(text: str, error: BackendError) -> IncompleteAnswer:
    broken = IncompleteAnswer(f"the stream broke after {len(text)} characters: {error.message}", code=error.code)
    broken.text, broken.usage, broken.__cause__ = text, error.usage, error
    return broken
