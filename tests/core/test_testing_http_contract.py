"""The contract for HTTP providers: a small good one passes it against the fault server, bad ones fail.

The `Bad` and `Good` classes are not collected here: two tests run them and look at what fails.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import pytest
from attrs import define, evolve, field
from pointsman import Chunk, Completion, Health, Request, Scope, Secret, ToolCall, Usage, errors, hookimpl
from pointsman.errors import BackendError
from pointsman.http import Client
from pointsman.testing import HTTPProviderContract

pytest_plugins = ["pytester"]


@define(eq=False)
class Chat:
    """The least that speaks chat completions lawfully: text, refusals, and tool calls."""

    url: str
    api_key: Secret | None = field(default=None, converter=Secret.of)  # type: ignore[misc]  # a method, to mypy
    model: str = "tiny"

    def client(self) -> Client:
        return Client(self.url, auth=("Authorization", "Bearer ", self.api_key))

    def body(self, request: Request, **more: Any) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        return {"model": request.model or self.model, "messages": messages, **more}

    @hookimpl
    def generate(self, request: Request) -> Completion:
        data = self.client().post_json("chat/completions", self.body(request), request.scope).data
        choice = (data["choices"] or [{}])[0]
        message = choice.get("message") or {}
        calls = tuple(ToolCall(c["id"], **c["function"]) for c in message.get("tool_calls") or ())
        finish = self.finish(choice.get("finish_reason"), message)
        if finish == "length":
            calls = ()
        return Completion(message.get("content") or "", finish, calls, self.usage(data), data["model"])

    def finish(self, word: Any, message: dict[str, Any]) -> Any:
        return "content_filter" if message.get("refusal") else word or "error"

    def usage(self, data: dict[str, Any]) -> Usage | None:
        found = data.get("usage")
        if not found:
            return None
        cached = found["prompt_tokens_details"]["cached_tokens"]
        reasoning = found["completion_tokens_details"]["reasoning_tokens"]
        return Usage(found["prompt_tokens"], found["completion_tokens"], cached, reasoning)

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        body = self.body(request, stream=True, stream_options={"include_usage": True})
        end, usage, refused = None, None, False
        with self.client().post_events("chat/completions", body, request.scope) as events:
            for event in events:
                data = event.json()
                usage = self.usage(data) or usage
                for choice in data.get("choices", ()):
                    delta = choice["delta"]
                    refused = refused or bool(delta.get("refusal"))
                    if delta.get("content"):
                        events.content_seen()
                        yield Chunk(delta["content"])
                    end = choice["finish_reason"] or end
                    if end:
                        events.ending()
        if end:
            yield Chunk(finish_reason="content_filter" if refused else end, usage=usage, model=data["model"])

    @hookimpl
    def health(self) -> Health:
        try:
            self.client().get_json("models", Scope(0.5))
        except BackendError as error:
            return Health.unavailable(str(error))
        return Health.ok()


class Subject(HTTPProviderContract):
    patience_s = 5.0
    breaks: ClassVar[str] = ""
    kind: ClassVar[Callable[..., Any]] = Chat

    def make_provider(self, url: str) -> Any:
        return type(self).__dict__.get("made", Chat)(url, self.secret)


class GoodChat(Subject):
    """Passes everything."""


class BadRetries(Subject):
    breaks = "test_never_retries[unavailable] test_what_is_no_answer[<fault html()>]"

    class made(Chat):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            try:
                return super().generate(request)
            except BackendError:
                return super().generate(request)


class BadFollowsRedirects(Subject):
    breaks = "test_what_is_no_answer[<fault redirect()>]"

    class made(Chat):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            try:
                return super().generate(request)
            except BackendError:
                return Chat(self.url.replace("/v1", "/elsewhere")).generate(request)


class BadKeyInURL(Subject):
    breaks = "test_sends_its_key_in_a_header_only"

    class made(Chat):
        def client(self) -> Client:
            assert self.api_key
            return Client(f"{self.url}?key={self.api_key.reveal()}", auth=("Authorization", "Bearer ", self.api_key))


class BadHealth(Subject):
    """Asks the model how it is."""

    breaks = "test_health_costs_no_tokens"

    class made(Chat):
        @hookimpl
        def health(self) -> Health:
            self.client().post_json("chat/completions", self.body(HTTPProviderContract().request()), Scope(2.0))
            return Health.ok()


class BadDeaf(Subject):
    """Does not pass the caller's scope on."""

    breaks = (
        "test_cancelling_stops_the_work test_obeys_the_deadline[timeout] test_cancelling_ends_a_stream "
        "test_a_dripping_server_is_bounded[body] test_pings_are_no_tokens[<fault pings_only()>]"
    )
    patience_s = 1.0

    class made(Chat):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            return super().generate(evolve(request, scope=Scope(6.0)))

        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            return super().stream(evolve(request, scope=Scope(6.0)))


class BadPings(Subject):
    """Takes every event for content."""

    breaks = "test_pings_are_no_tokens[<fault pings_only()>]"
    patience_s = 1.5

    class made(Chat):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            body = self.body(request, stream=True)
            with self.client().post_events("chat/completions", body, request.scope) as events:
                for _ in events:
                    events.content_seen()
                    yield Chunk()


class BadClosing(Subject):
    """Reads on when the caller has left."""

    breaks = "test_leaving_a_stream_stops_the_work"
    patience_s = 1.0

    class made(Chat):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            chunks = super().stream(request)
            ends = monotonic() + 6.0
            try:
                yield from chunks
            except GeneratorExit:
                chunks = super().stream(evolve(request, scope=Scope(ends - monotonic())))
                for _ in chunks:
                    pass


class BadBuffer(Subject):
    """Hands out nothing before it has all."""

    breaks = "test_pieces_come_as_they_come"
    patience_s = 1.0

    class made(Chat):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            yield from list(super().stream(evolve(request, scope=Scope(6.0))))


class BadEnd(Subject):
    """Takes the end of the connection for the end of the answer."""

    breaks = (
        "test_broken_streams[<fault cut_after(3, silently=True)>] test_broken_streams[<fault no_finish_stream(3)>] "
        "test_what_is_no_answer[<fault no_finish()>] test_broken_streams[<fault empty_stream()>]"
    )

    class made(Chat):
        def finish(self, word: Any, message: dict[str, Any]) -> Any:
            return word or "stop"

        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            last = None
            for chunk in super().stream(request):
                last = chunk
                yield chunk
            if last is None or last.finish_reason is None:
                yield Chunk(finish_reason="stop")


class BadRefusal(Subject):
    """Does not look at refusals."""

    breaks = "test_a_refusal_is_one[<fault refusal()>]"

    class made(Chat):
        def finish(self, word: Any, message: dict[str, Any]) -> Any:
            return word or "error"


class BadToolCall(Subject):
    breaks = "test_never_half_a_tool_call[length]"

    class made(Chat):
        def finish(self, word: Any, message: dict[str, Any]) -> Any:
            return "tool_calls" if message.get("tool_calls") else word


class BadHint(Subject):
    """Loses the hint."""

    breaks = "test_passes_hints_on[<fault rate_limited(7)>-7.0]"

    class made(Chat):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            try:
                return super().generate(request)
            except errors.RateLimitError:
                raise errors.RateLimitError("too many requests") from None


class BadText(Subject):
    """Splits where `str.splitlines` does."""

    breaks = "test_exact_text[separators]"

    class made(Chat):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            for chunk in super().stream(request):
                yield evolve(chunk, text="".join(chunk.text.splitlines()))


class BadUnreachable(Subject):
    """Lets a foreign exception out."""

    breaks = "test_who_cannot_be_reached_is_unavailable[refused]"

    class made(Chat):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            try:
                return super().generate(request)
            except errors.UnavailableError:
                raise ConnectionError("it is down") from None


class BadEcho(Subject):
    """Shows the service's message as it is."""

    breaks = "test_an_echoed_key_is_masked[status]"

    class made(Chat):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            try:
                return super().generate(request)
            except errors.AuthenticationError as error:
                assert self.api_key
                error.code = self.api_key.reveal()
                raise


def outcomes(pytester: pytest.Pytester, *wanted: str) -> Any:
    """Run classes of this file that are not collected, and return what passed, was skipped (nothing), and failed."""
    here = Path(__file__)
    options = ["-p", "no:cacheprovider", "-o", "python_classes=Bad* Good*", "--import-mode=importlib"]
    return pytester.inline_run(*options, *(f"{here}::{name}" for name in wanted)).listoutcomes()


def test_fails_for_what_is_bad(pytester: pytest.Pytester) -> None:
    """For every bad provider the test that names the broken rule fails."""
    bad = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Subject) and kind.breaks]
    wanted = [f"{kind.__name__}::test_{test}" for kind in bad for test in f" {kind.breaks}".split(" test_")[1:]]
    passed, skipped, failed = outcomes(pytester, *wanted)
    assert not skipped
    assert len(failed) == len(wanted), [report.nodeid for report in passed]


def test_passes_for_what_is_good(pytester: pytest.Pytester) -> None:
    """The provider that the bad ones are made of passes all that it declares itself capable of."""
    passed, skipped, failed = outcomes(pytester, "GoodChat")
    assert not skipped
    assert len(passed) > 100
    assert not failed, [report.nodeid for report in failed]
