"""The contract for providers that speak HTTP: the same, and all that a server double can see and do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from ... import errors
from ...scope import Scope
from ...values import Chunk, Completion, Usage
from .. import faults
from ..answers import Wire, WireError
from ..faults import Fault
from ..server import FaultServer
from ._answers import Answers
from ._failures import Failures
from ._limits import Limits
from ._secrecy import Secrecy, check_hidden, shown
from ._suite import NOT_LEFT_OUT, RAISES, Failure, Subject, Unfinished, needs

_FAULTS: dict[Failure, Callable[[], Fault]] = {
    "bad_key": faults.bad_key,
    "no_money": faults.no_quota,
    "rate_limited": faults.rate_limited,
    "unknown_model": faults.unknown_model,
    "context_too_long": faults.context_too_long,
    "refused": faults.content_filtered,
    "bad_request": faults.bad_request,
    "unavailable": lambda: faults.status(503),
    "broken_answer": faults.broken_json,
    "silent": faults.silent,
    "endless": lambda: faults.slow_for_ever(0.02),
}

#: Answers that are none: the provider raises, or hands over an answer that the router sees to be none.
_NO_ANSWER = [
    faults.html(),
    faults.plain_text(),
    faults.empty_body(),
    faults.broken_json(),
    faults.cut_json(),
    faults.wrong_length(),
    faults.bad_gzip(),
    faults.bad_gzip("cut"),
    faults.bad_utf8(),
    faults.error_under_200(),
    faults.empty_choices(),
    faults.null_content(),
    faults.whitespace(),
    faults.thinking_only(),
    faults.finish_error(),
    faults.no_finish(),
    faults.hang_up(),
    faults.reset("headers"),
    faults.reset("body"),
    faults.redirect(),
    faults.redirect(loop=True),
]

#: Streams that break off: whatever came before, they end with an error or without a finish reason.
_BROKEN = [
    faults.cut_after(3),
    faults.cut_after(3, silently=True),
    faults.reset_after(3),
    faults.broken_event_after(3),
    faults.error_event_after(3),
    faults.no_finish_stream(3),
    faults.error_first(),
    faults.lifecycle_then_error(),
    faults.empty_stream(),
]


class HTTPProviderContract(Answers, Limits, Failures, Secrecy):
    """Inherit it in your tests and write `make_provider(self, url)`; it runs against a `FaultServer`.

    `url` is the server's base URL with `/v1`. Pass `secret` (the class attribute) as the key. A
    provider of another wire format than OpenAI's gives the server `wires`, and overrides
    `base_url` if its paths begin elsewhere.
    """

    secret: str | None = "sk-contract-0123456789abcdefghij"  # noqa: S105 - a key of nobody
    wires: ClassVar[Mapping[str, Wire] | None] = None

    def make_provider(self, url: str) -> Any:
        """Return a new provider that talks to the server at `url`, with the key `self.secret`."""
        raise TypeError(f"{type(self).__name__}: write make_provider(self, url)")

    def base_url(self, server: FaultServer) -> str:
        """Return what `make_provider` gets as `url`."""
        return server.url

    def fault(self, failure: Failure) -> Fault:
        """Return how the service fails in one way. Override it where your service says it differently."""
        return _FAULTS[failure]()

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[FaultServer]:
        self._played: list[Subject] = []
        with FaultServer(wires=self.wires) as self.server:
            yield self.server
            for subject in self._played:
                subject.close()

    def build(self, failure: Failure | None = None) -> Any:
        """Return a provider whose service, the double, plays the failure on every path."""
        if failure is not None:
            self.server.play(self.fault(failure), everywhere=failure != "endless")
        return self.make_provider(self.base_url(self.server))

    def sample(self, failure: Failure | None = None) -> Any:
        """Return a provider of a service that is not there: the server starts with each test."""
        return self.make_provider("http://127.0.0.1:9/v1")

    def await_work(self, subject: Subject) -> None:
        """Return when the server has the request."""
        self.server.wait_active(self.patience_s)

    def assert_stopped(self, subject: Subject) -> None:
        """The connection of a caller who has left is closed."""
        assert self.server.asked[-1].wait_closed(self.patience_s), "the connection is still open"

    def play(self, fault: Fault) -> Subject:
        """Return a provider whose service plays one fault."""
        self.server.play(fault)
        return self._subject(self.base_url(self.server))

    def _subject(self, url: str) -> Subject:
        self._played.append(Subject(self.make_provider(url)))
        return self._played[-1]

    def test_health_costs_no_tokens(self, subject: Subject) -> None:
        """Health asks for no answer: the server sees no POST."""
        if subject.has("health"):
            self.answered(subject.health)
        assert [seen.path for seen in self.server.asked] == []

    def test_sends_its_key_in_a_header_only(self, subject: Subject) -> None:
        """The key arrives, and no URL holds it."""
        for _, ask in subject.ways():
            self.answered(ask, self.request())
        if self.secret is not None:
            assert {seen.key for seen in self.server.asked} == {self.secret}
            assert not any(self.secret in seen.path for seen in self.server.log)

    @pytest.mark.parametrize("failure", [failure for failure in RAISES if failure != "silent"])
    def test_never_retries(self, make: Callable[..., Subject], failure: Failure) -> None:
        """One call is one request, however it fails: the router owns the retries."""
        for way, ask in make(failure).ways():
            before = len(self.server.asked)
            self.run(ask, self.request())
            seen = len(self.server.asked) - before
            assert seen == 1, f"{way}: {failure}: the server saw {seen} requests for one call"

    @pytest.mark.parametrize("fault", _NO_ANSWER, ids=repr)
    def test_what_is_no_answer(self, fault: Fault) -> None:
        """Rows 6 and 14 to 20: an error, or an answer that says itself that it is none; and one request only."""
        subject = self.play(fault)
        for way, ask in subject.ways():
            before = len(self.server.log)
            ended = self.run(ask, self.request())
            if ended.error is None:
                assert _is_none(ended.value), f"{way}: {fault} passed for the answer {ended.value!r}"
            else:
                assert isinstance(ended.error, errors.BackendError | Unfinished), f"{way}: {ended.error!r}"
            assert len(self.server.log) == before + 1, f"{way}: more than one request was sent"

    @needs("stream")
    @pytest.mark.parametrize("fault", _BROKEN, ids=repr)
    def test_broken_streams(self, fault: Fault) -> None:
        """Rows 22 to 24: a stream that breaks never ends as if it were whole."""
        subject = self.play(fault)
        chunks: list[Chunk] = []

        def read() -> None:
            chunks.extend(subject.stream(self.request()))

        ended = self.run(read)
        assert ended.error is None or isinstance(ended.error, errors.BackendError), f"found {ended.error!r}"
        finish = [chunk.finish_reason for chunk in chunks if chunk.finish_reason not in (None, "error")]
        assert ended.error is not None or not finish, f"the broken stream says that it ended with {finish}"

    @pytest.mark.parametrize("how", ["cut", "end", "length"])
    def test_never_half_a_tool_call(self, how: Any) -> None:
        """Row 27: a tool call that was cut is not handed out."""
        subject = self.play(faults.cut_in_tool_call(how))
        for way, ask in subject.ways():
            ended = self.run(ask, self.request())
            calls = ended.value.tool_calls if isinstance(ended.value, Completion) else ()
            assert not calls, f"{way}: handed out {calls}"

    @needs("stream")
    def test_pieces_come_as_they_come(self) -> None:
        """A stream hands out each piece when it is there, not when the answer is whole."""
        subject = self.play(faults.stall_after(3))
        chunks = subject.stream(self.request())
        ended = self.run(lambda: next(chunk.text for chunk in chunks if chunk.text))
        assert ended.value, f"no piece came before the stream stalled: {ended.error!r}"
        chunks.close()  # type: ignore[attr-defined]  # the limits' tests show that it is there

    @pytest.mark.parametrize("how", faults.HOSTILE)
    def test_exact_text(self, how: Any) -> None:
        """Row 28: text and usage arrive to the byte, however the stream is framed."""
        subject = self.play(faults.hostile_text(how))
        expected = faults.BIG_TEXT if how == "big_event" else faults.HOSTILE_TEXT
        for way, ask in subject.ways():
            answer = self.answered(ask, self.request())
            assert answer.text == expected, f"{way}: the text differs"
            assert answer.usage == Usage(19, 8, 4, 2), f"{way}: {answer.usage}"

    def test_ends_without_the_end_mark(self) -> None:
        """Row 26: a finish reason makes the answer whole, also where the end mark is missing."""
        subject = self.play(faults.no_done())
        for way, ask in subject.ways():
            answer = self.answered(ask, self.request())
            assert answer.text == faults.STORY.text, f"{way}: {answer!r}"

    def test_length_stays_length(self) -> None:
        """Row 19: an answer that `max_tokens` ended is an answer, and says so."""
        subject = self.play(faults.length())
        for way, ask in subject.ways():
            answer = self.answered(ask, self.request())
            assert answer.finish_reason == "length", f"{way}: {answer!r}"
            assert answer.text, f"{way}: the text is lost"

    @pytest.mark.parametrize("fault", [faults.refusal(), faults.safety_stop(), faults.safety_stop("Well, ")], ids=repr)
    def test_a_refusal_is_one(self, fault: Fault) -> None:
        """Row 18: a refusal is `ContentFilterError`, or the finish reason `content_filter`."""
        subject = self.play(fault)
        for way, ask in subject.ways():
            ended = self.run(ask, self.request())
            if ended.error is None:
                assert ended.value.finish_reason == "content_filter", f"{way}: {ended.value!r}"
            else:
                assert isinstance(ended.error, errors.ContentFilterError), f"{way}: {ended.error!r}"

    @pytest.mark.parametrize(
        ("fault", "seconds"),
        [
            (faults.rate_limited(7), 7.0),
            (faults.rate_limited(60, retry_after_ms=2500), 2.5),
            (faults.rate_limited(in_seconds=30), 30.0),
            (faults.rate_limited(in_body=12), 12.0),
            (faults.rate_limited(), None),
            (faults.rate_limited("soon"), None),
            (faults.rate_limited(-5), None),
        ],
        ids=repr,
    )
    def test_passes_hints_on(self, fault: Fault, seconds: float | None) -> None:
        """Row 1: when to come again is `retry_after`, in seconds, however the service says it."""
        subject = self.play(fault)
        for way, ask in subject.ways():
            error = self.run(ask, self.request()).error
            assert isinstance(error, errors.RateLimitError), f"{way}: {error!r}"
            if seconds is None:
                assert error.retry_after is None, f"{way}: {error.retry_after!r} out of nothing"
            else:
                found = error.retry_after or 0.0
                assert seconds - 5 <= found <= seconds + 1, f"{way}: retry_after {found}, expected {seconds}"

    @pytest.mark.parametrize("part", ["headers", "body"])
    def test_a_dripping_server_is_bounded(self, part: Any) -> None:
        """Row 7: the deadline holds although a byte comes all the time."""
        subject = self.play(faults.drip(0.05, part=part))
        for way, ask in subject.ways():
            ended = self.run(ask, self.request(scope=Scope(self.short_s)))
            assert isinstance(ended.error, errors.BackendTimeout), f"{way}: {ended!r}"

    @pytest.mark.parametrize(
        "fault", [faults.pings_only(), faults.comments_only(), faults.blank_lines_only()], ids=repr
    )
    def test_pings_are_no_tokens(self, fault: Fault) -> None:
        """Row 21: neither the deadline nor the limit to the first token is reset by what is no content."""
        subject = self.play(fault)
        for way, ask in subject.ways():
            for limit in ["timeout", "first_byte_timeout"] if way == "stream" else ["timeout"]:
                scope = Scope(self.timeout_s)
                scope.begin(**{limit: self.short_s})
                ended = self.run(ask, self.request(scope=scope))
                assert isinstance(ended.error, errors.BackendTimeout), f"{way}: {ended!r}"

    @pytest.mark.parametrize("url", ["refused", "unresolvable", "no tls", "reset"])
    def test_who_cannot_be_reached_is_unavailable(self, url: str) -> None:
        """Row 6: refused, unknown host, failed TLS handshake, reset."""
        with faults.nobody_listens() as refused:
            self.server.play(faults.reset_on_connect())
            tls = self.base_url(self.server).replace("http:", "https:")
            places = {"refused": refused, "unresolvable": faults.UNRESOLVABLE_URL, "no tls": tls}
            subject = self._subject(places.get(url, self.base_url(self.server)))
            for way, ask in subject.ways():
                error = self.run(ask, self.request()).error
                assert isinstance(error, errors.UnavailableError), f"{way}: {error!r}"

    @needs("key")
    @pytest.mark.parametrize("where", ["status", "answer", "first event", "late event"])
    def test_an_echoed_key_is_masked(self, where: str) -> None:
        """Row 45: a service that echoes the key cannot make us show it: neither error, causes, locals nor pickle."""
        assert self.secret is not None, f"the provider has no key: {NOT_LEFT_OUT}"
        echo = WireError(f"Incorrect API key provided: {self.secret}.", "auth", "invalid_api_key", status=401)
        ways = {"status": faults.status(401, echo), "answer": faults.error_under_200(echo)}
        ways |= {"first event": faults.error_first(echo), "late event": faults.error_event_after(2, echo)}
        subject = self.play(ways[where])
        for way, ask in subject.ways():
            error = self.run(ask, self.request()).error
            assert isinstance(error, errors.AuthenticationError), f"{way}: {error!r}"
            check_hidden([self.secret], f"{way}: the error", *shown(error))


def _is_none(answer: Completion) -> bool:
    """Whether the router sees that this is no answer."""
    return answer.finish_reason == "error" or not (answer.text.strip() or answer.tool_calls)
