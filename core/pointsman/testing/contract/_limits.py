"""Part of the contract: deadlines, cancelling, and leaving a stream early."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from ...errors import BackendError, BackendTimeout
from ...scope import Scope
from ..leaks import leaks_since, resources
from ._suite import Subject, Suite, needs


class Limits(Suite):
    """What a provider obeys while it works: `request.scope`, and the caller who leaves."""

    def await_work(self, subject: Subject) -> None:
        """Return when the service has begun to work on the request. Override it if your double can tell."""
        threading.Event().wait(0.3)

    def assert_stopped(self, subject: Subject) -> None:
        """Fail if the service still works for a caller who has left. Override it if your double can tell."""

    def test_obeys_a_deadline_that_has_passed(self, subject: Subject) -> None:
        """With no time left it says so, or answers at once; it never waits."""
        for _, ask in subject.ways():
            ended = self.run(ask, self.request(scope=Scope(0.0)))
            if ended.error is not None:
                assert isinstance(ended.error, BackendTimeout), f"found {ended.error!r}, expected BackendTimeout"

    def test_obeys_a_cancelled_call(self, subject: Subject) -> None:
        """A call that nobody waits for any more ends at once, if with an error then a `BackendError`."""
        for _, ask in subject.ways():
            scope = Scope(self.timeout_s)
            scope.cancel()
            ended = self.run(ask, self.request(scope=scope))
            assert ended.error is None or isinstance(ended.error, BackendError), f"found {ended.error!r}"

    @needs("silent")
    def test_cancelling_stops_the_work(self, make: Callable[..., Subject]) -> None:
        """Cancelling from another thread ends a call that waits for a silent service, and the service's work too."""
        for way in _ways(make("silent")):
            subject = make("silent")
            scope = Scope(self.timeout_s * 10)
            begun = self.begin(dict(subject.ways())[way], self.request(scope=scope))
            self.await_work(subject)
            scope.cancel()
            ended = self.ended(*begun)
            assert isinstance(ended.error, BackendError), f"{way}: found {ended!r}, expected a BackendError"
            self.assert_stopped(subject)

    @needs("silent")
    @pytest.mark.parametrize("limit", ["timeout", "first_byte_timeout"])
    def test_obeys_the_deadline(self, make: Callable[..., Subject], limit: str) -> None:
        """A silent service is given up when the time is up: the whole time, or that to the first byte."""
        for way in _ways(make("silent")):
            subject = make("silent")
            scope, started = Scope(self.timeout_s * 10), monotonic()
            scope.begin(**{limit: self.short_s})
            ended = self.run(dict(subject.ways())[way], self.request(scope=scope))
            assert isinstance(ended.error, BackendTimeout), f"{way}: found {ended!r}, expected BackendTimeout"
            assert monotonic() - started >= self.short_s, f"{way}: it gave up before the time was up"
            self.assert_stopped(subject)

    @needs("stream")
    def test_leaving_a_stream_stops_the_work(self, make: Callable[..., Subject]) -> None:
        """Closing the iterator after its first piece returns at once, and the next call works."""
        subject = self._streaming(make)
        chunks = subject.stream(self.request(scope=Scope(self.timeout_s * 10)))
        self._first_text(chunks)
        close = getattr(chunks, "close", None)
        assert close is not None, "the iterator of stream has no close(): the caller cannot leave"
        ended = self.run(close)
        assert ended.error is None, f"close() raised {ended.error!r}"
        self.assert_stopped(subject)

    @needs("stream")
    def test_cancelling_ends_a_stream(self, make: Callable[..., Subject]) -> None:
        """After a cancel in mid-stream the iterator ends, or raises a `BackendError`, and the work stops."""
        subject = self._streaming(make)
        scope = Scope(self.timeout_s * 10)
        chunks = subject.stream(self.request(scope=scope))
        self._first_text(chunks)
        scope.cancel()
        ended = self.run(lambda: [None for _ in chunks])
        assert ended.error is None or isinstance(ended.error, BackendError), f"found {ended.error!r}"
        self.assert_stopped(subject)

    @needs("stream")
    def test_works_on_after_leaving(self, subject: Subject) -> None:
        """A call after one that was left early gets its whole answer."""
        chunks = subject.stream(self.request())
        self._first_text(chunks)
        chunks.close()  # type: ignore[attr-defined]  # the test above shows that it is there
        for _, ask in subject.ways():
            answer = self.answered(ask, self.request())
            assert answer.text.strip() or answer.tool_calls

    def test_leaves_nothing_behind(self) -> None:
        """After `close` there is no thread and no child process of it; a pool may keep its connections."""
        before = resources()
        subject = Subject(self.build())
        for _, ask in subject.ways():
            self.answered(ask, self.request())
        subject.close()
        left = leaks_since(before, self.patience_s, but="socket")
        assert not left, f"left behind: {left}"

    def _streaming(self, make: Callable[..., Subject]) -> Subject:
        """Return a provider whose stream never ends, or, where there is none, one that is well."""
        return make("endless", None)

    def _first_text(self, chunks: Any) -> None:
        """Read up to the first piece of content."""
        ended = self.run(lambda: next(c for c in chunks if c.text or c.tool_calls), within=self.timeout_s)
        assert ended.error is None, f"the stream gave no content: {ended.error!r}"


def _ways(subject: Subject) -> list[str]:
    return [way for way, _ in subject.ways()]
