"""Faults of streams (section C), through `Router` with the real `openai` provider."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pointsman import Backend, Chunk, Request, Router, Usage, errors, hookimpl
from pointsman.testing import Fault, Scripted, faults

Staged = Callable[..., Any]
both_ways = pytest.mark.parametrize("way", ["plain", "streamed"])
both_apis = pytest.mark.parametrize("api", ["chat", "responses"])


class TestRow21:
    """The first token is late."""

    FAULTS = (faults.late_first_token(30), faults.pings_only(), faults.comments_only(), faults.blank_lines_only())

    @both_apis
    @pytest.mark.parametrize("fault", FAULTS, ids=repr)
    def test_limit(self, stage: Staged, api: str, fault: Fault) -> None:
        """The limit counts from the request, and what is no content does not reset it."""
        on = stage(fault, timeout=60.0, limits={"first_token_timeout": 0.7}, api=api)
        got = on.ask("streamed")
        on.check_fallback(got, 1, "BackendTimeout")
        assert 0.6 < got.seconds < 10
        assert on.primary.asked[0].wait_closed()
        on.check_next_call("streamed")

    @both_ways
    @pytest.mark.parametrize("fault", FAULTS, ids=repr)
    def test_alone(self, stage: Staged, way: str, fault: Fault) -> None:
        """Without a spare the deadline holds."""
        on = stage(fault, timeout=1.0, alone=True)
        got = on.ask(way)
        assert isinstance(got.error, errors.BackendTimeout)
        assert 0.9 < got.seconds < 6

    @both_apis
    def test_late_but_in_time(self, stage: Staged, api: str) -> None:
        """Who is late but in time is heard."""
        on = stage(faults.late_first_token(0.5), first_token_timeout=5.0, api=api)
        assert on.ask("streamed").text == faults.STORY.text


class TestRow22:
    """An error before any content."""

    @both_apis
    @both_ways
    @pytest.mark.parametrize("fault", [faults.error_first(), faults.lifecycle_then_error()], ids=repr)
    def test_next(self, stage: Staged, way: str, api: str, fault: Fault) -> None:
        """The next backend answers, and nothing of the first has reached the caller."""
        on = stage(fault, api=api)
        got = on.ask(way)
        on.check_fallback(got, 2, "UnavailableError")
        assert {chunk.model for chunk in got.chunks} <= {"model-of-spare", None}
        on.check_next_call(way)

    @pytest.mark.parametrize("error", [errors.UnavailableError("down"), OSError("down"), StopAsyncIteration()])
    def test_raised_on_first_iteration(self, error: Exception) -> None:
        """What a provider's iterator raises first, of whatever class, leads to the next."""
        spare = Scripted("well")
        with Router({"first": Scripted([error]), "spare": spare}, max_retries=0) as router:
            assert "".join(chunk.text for chunk in router.stream("?")) == "well"
        assert spare.calls == 1


@both_apis
@pytest.mark.parametrize("how", ["nothing", "done", "finish"])
def test_row_23(stage: Staged, api: str, how: Any) -> None:
    """A clean end with no content: next backend."""
    on = stage(faults.empty_stream(how), api=api)
    on.check_fallback(on.ask("streamed"), 2, "UnusableAnswer")
    on.check_next_call("streamed")


class TestRow24:
    """A stream that breaks after its first content."""

    BREAKS = (
        faults.cut_after(3),
        faults.cut_after(3, silently=True),
        faults.reset_after(3),
        faults.stall_after(3),
        faults.pings_after(3),
        faults.broken_event_after(3),
        faults.error_event_after(3),
        faults.no_finish_stream(3),
        faults.no_finish_stream(3, done=True),
    )

    @both_apis
    @pytest.mark.parametrize("fault", BREAKS, ids=repr)
    def test_raise(self, stage: Staged, api: str, fault: Fault) -> None:
        """By default: a typed error with the partial text; nobody else is asked, and the next call works."""
        waits = "stall" in fault.name or "pings" in fault.name
        on = stage(fault, idle_timeout=1.5 if waits else 8.0, api=api)
        got = on.ask("streamed")
        assert isinstance(got.error, errors.IncompleteAnswer), got
        assert got.error.text == got.text == "one two three "
        assert got.attempts == [("primary", "failed", "IncompleteAnswer")]
        assert (got.error.backend, got.error.model) == ("primary", "model-of-primary")
        assert (len(on.primary.asked), len(on.spare.asked)) == (1, 0)
        assert got.seconds < on.timeout
        on.check_next_call("streamed")

    @both_apis
    @pytest.mark.parametrize("fault", BREAKS, ids=repr)
    def test_plain(self, stage: Staged, api: str, fault: Fault) -> None:
        """The same on a plain request has shown nothing: the spare answers."""
        on = stage(fault, limits={"timeout": 1.0} if "stall" in fault.name or "pings" in fault.name else {}, api=api)
        got = on.ask("plain")
        assert got.text == "Here speaks the spare."
        on.check_next_call("plain")

    def test_after_a_retry(self, stage: Staged) -> None:
        """Attempts before the one that broke are told with it."""
        on = stage([faults.status(503), faults.cut_after(3)])
        got = on.ask("streamed")
        assert got.attempts == [("primary", "failed", "UnavailableError"), ("primary", "failed", "IncompleteAnswer")]


@both_ways
def test_row_25(stage: Staged, way: str) -> None:
    """One token a second for ever: a stream ends at the deadline, with what had come; a whole answer is the spare's."""
    limits = {} if way == "streamed" else {"timeout": 0.7}
    on = stage(faults.slow_for_ever(0.05), timeout=1.5 if way == "streamed" else 10.0, limits=limits)
    got = on.ask(way)
    if way == "streamed":
        assert 1.4 < got.seconds < 8
        assert isinstance(got.error, errors.IncompleteAnswer)
        assert got.error.text.startswith("on on on ")
    else:
        assert got.text == "Here speaks the spare."
        assert got.attempts == [("primary", "failed", "BackendTimeout"), ("spare", "answered", None)]
    assert on.primary.asked[0].wait_closed()


@both_apis
@both_ways
def test_row_26(stage: Staged, way: str, api: str) -> None:
    """A finish reason and no `[DONE]` is a whole answer."""
    on = stage(faults.no_done(), api=api)
    got = on.ask(way)
    assert got.text == faults.STORY.text
    assert got.attempts == [("primary", "answered", None)]
    on.check_next_call(way)


class TestRow27:
    """Cut inside a tool call."""

    @both_apis
    @both_ways
    @pytest.mark.parametrize("how", ["cut", "end", "length"])
    def test_never_half(self, stage: Staged, way: str, api: str, how: Any) -> None:
        """No half call is handed out, on no way: the spare answers."""
        on = stage(faults.cut_in_tool_call(how), api=api)
        got = on.ask(way, tools=[{"name": "pay"}], tool_choice="none")
        assert not [call for chunk in got.chunks for call in chunk.tool_calls]
        assert got.completion
        assert not got.completion.tool_calls
        assert got.text == "Here speaks the spare."
        on.check_next_call(way)

    @both_apis
    @both_ways
    def test_whole_ones_are_handed_out(self, stage: Staged, way: str, api: str) -> None:
        """A call that came in pieces is one call."""
        on = stage(faults.well(tool_calls=faults.CALL.tool_calls), api=api)
        got = on.ask(way, tools=[{"name": "pay"}])
        assert got.completion
        assert got.completion.tool_calls == faults.CALL.tool_calls


@both_apis
@pytest.mark.parametrize("how", faults.HOSTILE)
def test_row_28(stage: Staged, api: str, how: Any) -> None:
    """Exact text and usage, however the stream is framed."""
    on = stage(faults.hostile_text(how), api=api)
    got = on.ask("streamed")
    assert got.text == (faults.BIG_TEXT if how == "big_event" else faults.HOSTILE_TEXT)
    assert got.completion
    assert got.completion.usage == Usage(19, 8, 4, 2)
    assert got.attempts == [("primary", "answered", None)]


class TestRow29:
    """The caller leaves: the connection is closed at once, and nobody is blamed."""

    def left(self, on: Any) -> None:
        """Check what a caller who has left leaves behind."""
        assert on.primary.asked[0].wait_closed()
        assert on.primary.asked[0].cancelled
        assert len(on.primary.asked) == 1
        assert not on.spare.asked
        assert not on.cooling()

    @both_apis
    @pytest.mark.parametrize("fault", [faults.silent(), faults.late_first_token(60), faults.comments_only()], ids=repr)
    def test_closed_before_the_first_token(self, stage: Staged, api: str, fault: Fault) -> None:
        """`close` from another thread ends a stream that still waits."""
        on = stage(fault, timeout=60.0, api=api)
        stream = on.router.stream("?")
        raised: list[BaseException] = []

        def read() -> None:
            try:
                list(stream)
            except errors.BackendError as error:
                raised.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        on.primary.wait_active()
        stream.close()
        thread.join(10)
        assert not thread.is_alive()
        self.left(on)
        assert [[attempt.outcome for attempt in error.attempts] for error in raised] == [["cancelled"]]  # type: ignore[attr-defined]  # BackendErrors
        on.check_next_call("streamed")

    @both_apis
    def test_closed_after_the_first_token(self, stage: Staged, api: str) -> None:
        """Leaving the `with` block is enough."""
        on = stage(faults.slow_for_ever(0.05), timeout=60.0, api=api)
        with on.router.stream("?") as stream:
            assert next(stream).text
        self.left(on)
        on.check_next_call("streamed")

    def test_forgotten(self, stage: Staged) -> None:
        """A stream that nobody holds any more is closed too."""
        on = stage(faults.slow_for_ever(0.05), timeout=60.0)
        for _ in on.router.stream("?"):
            break
        self.left(on)

    @both_ways
    @pytest.mark.parametrize("fault", [faults.silent(), faults.drip(0.1), faults.drip(0.1, part="body")], ids=repr)
    def test_cancelled_task(self, stage: Staged, way: str, fault: Fault) -> None:
        """Cancelling the task of `agenerate` or `astream` closes the connection, whatever the server does."""
        on = stage(fault, timeout=60.0)
        self.cancel(on, way)
        self.left(on)
        on.check_next_call(way)

    def test_cancelled_while_waiting_to_retry(self, stage: Staged) -> None:
        """A caller who leaves during the wait before a retry is not asked for again."""
        on = stage(faults.rate_limited(20), timeout=60.0, alone=True)
        self.cancel(on, "plain", at_work=False)
        assert len(on.primary.asked) == 1

    def cancel(self, on: Any, way: str, *, at_work: bool = True) -> None:
        """Ask in a task and cancel it when the server has the request."""

        async def ask() -> None:
            if way == "plain":
                await on.router.agenerate("?")
            else:
                async for _ in on.router.astream("?"):
                    pass

        async def main() -> None:
            task = asyncio.create_task(ask())
            await asyncio.to_thread(on.primary.wait_active if at_work else lambda: on.primary.wait_for(1))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())


class TestRow30:
    """The fallback fails too, before its first token."""

    @both_apis
    @pytest.mark.parametrize(
        "second",
        [faults.lifecycle_then_error(), faults.thinking_only(), faults.empty_stream("finish"), faults.hang_up()],
        ids=repr,
    )
    def test_nothing_leaks(self, stage: Staged, fault_server: Callable[..., Any], api: str, second: Fault) -> None:
        """The third answers alone: no text, model, reasoning or usage of the others is in what the caller sees."""
        on = stage(faults.status(503), api=api, max_retries=0)
        on.spare.play(second)
        third = Scripted("Third.", model="third-model")
        backends = [*on.router.backends, Backend(third, id="third", priority=30)]
        with Router(backends, max_retries=0, timeout=10.0) as router:
            on.router.close()
            on.router = router
            got = on.ask("streamed")
        assert got.text == "Third."
        assert got.completion
        assert [backend for backend, _, _ in got.attempts] == ["primary", "spare", "third"]
        assert (got.completion.model, got.completion.thinking, got.completion.usage) == ("third-model", "", None)
        assert {chunk.model for chunk in got.chunks} == {"third-model"}
        assert not any(chunk.thinking for chunk in got.chunks)

    @both_apis
    def test_all_fail(self, stage: Staged, api: str) -> None:
        """Where all fail before a token, the caller gets no chunk, and one error with each."""
        on = stage(faults.error_first(), api=api, max_retries=0)
        on.spare.play(faults.empty_stream())
        got = on.ask("streamed")
        assert got.chunks == ()
        assert isinstance(got.error, errors.AllBackendsFailed)
        assert [type(error) for error in got.error.exceptions] == [errors.UnavailableError, errors.UnusableAnswer]


def test_breaks_of_a_provider_that_is_no_http() -> None:
    """Row 24 holds for every provider: what it raises after content is an incomplete answer, not a fallback."""

    class Breaking(Scripted):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            yield Chunk("half ")
            raise OSError("gone")

    spare = Scripted("well")
    with Router({"first": Breaking(), "spare": spare}) as router, pytest.raises(errors.IncompleteAnswer) as caught:
        list(router.stream("?"))
    assert caught.value.text == "half "
    assert spare.calls == 0
