"""Streams: fallback is free until content comes, and half an answer never looks whole (FAULTS C)."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define, field
from pointsman import Backend, Chunk, Completion, Request, Router, ToolCall, Usage, hookimpl
from pointsman.errors import (
    AllBackendsFailed,
    BackendError,
    BackendTimeout,
    ConfigError,
    ContentFilterError,
    IncompleteAnswer,
    InvalidRequestError,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import Scripted

END = Chunk(finish_reason="stop", usage=Usage(3, 2))
WHOLE = [Chunk("", model="m1"), Chunk("Hel"), Chunk("lo"), END]


def routed(*providers: object, **settings: Any) -> Router:
    return Router(dict(zip("abcdefgh", providers, strict=False)), **settings)


def texts(chunks: Iterator[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks if chunk.text]


@define(eq=False)
class Endless:
    """Streams words until it is closed or cancelled, and notes how it ended."""

    pause: float = 0.0
    deaf: bool = False  #: to the scope
    word: str = "word "
    ended: threading.Event = field(factory=threading.Event)
    requests: list[Request] = field(factory=list)

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        self.requests.append(request)
        try:
            while self.deaf or not request.scope.cancelled:
                yield Chunk(self.word)
                time.sleep(self.pause)
        finally:
            self.ended.set()


def test_pieces_come_as_they_are() -> None:
    """The caller reads the provider's chunks unchanged; afterwards the whole answer is there."""
    with routed(Scripted([WHOLE])) as router, router.stream("hi") as stream:
        assert list(stream) == WHOLE
        whole = stream.completion
    assert (whole.text, whole.finish_reason, whole.usage, whole.model) == ("Hello", "stop", Usage(3, 2), "m1")
    assert (whole.backend, [a.outcome for a in whole.attempts]) == ("a", ["answered"])


def test_nothing_is_sent_before_somebody_reads() -> None:
    """A stream that is never read costs nothing, and has no completion and no backend yet."""
    a = Scripted([WHOLE])
    with routed(a) as router:
        stream = router.stream("hi")
        assert (a.calls, stream.backend) == (0, None)
        with pytest.raises(RuntimeError, match="has not ended yet"):
            _ = stream.completion
        stream.close()
        assert list(stream) == []
    assert a.calls == 0


@pytest.mark.parametrize(
    "failing",
    [
        [UnavailableError("reset", retry_same=False)],
        [Chunk(model="leak"), UnavailableError("reset", retry_same=False)],
        [Chunk("  \n"), Chunk(thinking="leak"), UnavailableError("reset", retry_same=False)],
        [],
        [Chunk("\n"), END],
        [Chunk(thinking="leak"), Chunk(finish_reason="length")],
        [Chunk("leak", finish_reason="error")],
        [Chunk("\t"), ValueError("a bug of the plugin")],
    ],
)
def test_fallback_is_free_until_content_comes(failing: list[Any]) -> None:
    """Whatever fails before the first content is not seen by the caller: the next one answers (rows 22, 23, 30)."""
    with routed(Scripted([failing]), Scripted([WHOLE])) as router:
        stream = router.stream("hi")
        assert list(stream) == WHOLE
        assert (stream.backend, stream.completion.text, stream.completion.thinking) == ("b", "Hello", "")
        assert {a.outcome for a in stream.completion.attempts if a.backend == "a"} == {"failed"}


def test_all_failing_before_content_raise_together() -> None:
    """When nobody has content, the first piece raises what `generate` would, and nothing leaks (row 30)."""
    a, b = Scripted([[Chunk(" "), UnavailableError("x", retry_same=False)]]), Scripted([[Chunk(thinking="hm"), END]])
    with routed(a, b) as router:
        stream = router.stream("hi")
        seen: list[Chunk] = []
        with pytest.raises(AllBackendsFailed) as caught:
            seen.extend(stream)
        assert seen == []
        assert [type(e) for e in caught.value.exceptions] == [UnavailableError, UnusableAnswer]
        assert list(stream) == [], "an ended stream stays ended"


def test_held_pieces_come_first_and_in_order() -> None:
    """What was held back until content came (white space, thoughts) is handed out before it."""
    pieces = [Chunk("\n"), Chunk(thinking="hm"), Chunk(" A"), END]
    with routed(Scripted([pieces])) as router:
        stream = router.stream("hi")
        assert list(stream) == pieces
        assert (stream.completion.text, stream.completion.thinking) == ("\n A", "hm")


def test_a_tool_call_is_content() -> None:
    """A whole tool call without text is an answer, also in a stream (rows 17, 27)."""
    call = ToolCall("1", "now")
    with routed(Scripted([[Chunk(tool_calls=(call,)), Chunk(finish_reason="tool_calls")]])) as router:
        stream = router.stream("what time is it?")
        list(stream)
        assert (stream.completion.tool_calls, stream.completion.finish_reason) == ((call,), "tool_calls")


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ([UnavailableError("connection reset")], "connection reset"),
        ([], "without a finish reason"),
        ([Chunk(finish_reason="error")], "ended its answer with an error"),
        ([KeyError("choices")], "the plugin failed with KeyError"),
        (["text"], "hook stream returned str, expected Chunk"),
    ],
)
def test_a_break_after_content_is_told_with_the_partial_text(rest: list[Any], says: str) -> None:
    """After content has been shown there is no silent second try: the caller gets what came and the reason (row 24)."""
    b = Scripted([WHOLE])
    with routed(Scripted([[Chunk("Once "), Chunk("upon"), *rest]]), b) as router:
        stream = router.stream("hi")
        seen: list[str] = []
        with pytest.raises(IncompleteAnswer, match="broke after 9 characters") as caught:
            seen.extend(chunk.text for chunk in stream)
        assert "".join(seen) == caught.value.text == "Once upon"
        assert says in str(caught.value)
        assert [(a.outcome, a.error) for a in caught.value.attempts] == [("failed", "IncompleteAnswer")]
        with pytest.raises(RuntimeError):
            _ = stream.completion
        assert b.calls == 0
        assert router.stream("again").backend is None


def test_a_refusal_in_the_middle_is_a_refusal() -> None:
    """A filter that stops an answer is told as such, not as a broken connection (row 18)."""
    with (
        routed(Scripted([[Chunk("Once"), Chunk(finish_reason="content_filter")]])) as router,
        pytest.raises(ContentFilterError),
    ):
        list(router.stream("hi"))
    with routed(Scripted([[Chunk(finish_reason="content_filter")]]), Scripted([WHOLE])) as router:
        assert texts(router.stream("hi", on_refusal="next")) == ["Hel", "lo"]


def test_leaving_early_closes_the_provider_at_once() -> None:
    """Who leaves a stream closes the provider's generator and cancels its scope; the backend is not blamed (row 29)."""
    endless = Endless()
    with routed(endless) as router:
        with router.stream("hi") as stream:
            assert next(stream).text == "word "
        assert endless.ended.is_set()
        assert endless.requests[0].scope.cancelled
        assert list(stream) == []
        stream.close()
        assert router.order()[0].position == 1


def test_a_forgotten_stream_closes_itself() -> None:
    """A stream that is dropped half read ends its connection when nothing refers to it any more."""
    endless = Endless()
    with routed(endless) as router:
        next(router.stream("hi"))
        gc.collect()
        assert endless.ended.is_set()


def test_closing_from_another_thread_ends_the_reader() -> None:
    """`close` may come from any thread, while another one waits for the next piece."""
    endless = Endless(pause=0.01)
    with routed(endless) as router:
        stream = router.stream("hi")
        started = threading.Event()
        errors: list[BaseException] = []

        def read() -> None:
            try:
                for _ in stream:
                    started.set()
            except BackendError as error:
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert started.wait(10)
        stream.close()
        reader.join(10)
        assert not reader.is_alive()
        assert endless.ended.wait(10)
        assert [a.outcome for error in errors if isinstance(error, BackendError) for a in error.attempts] in (
            [],
            ["cancelled"],
        )


@pytest.mark.parametrize("word", ["", " "])
def test_pings_are_no_content(word: str) -> None:
    """A provider that only shows signs of life is given up at the first-token limit, and the next answers (row 21)."""
    endless = Endless(pause=0.005, deaf=True, word=word)
    with routed(endless, Scripted([WHOLE])) as router:
        stream = router.stream("hi", first_token_timeout=0.8)
        assert texts(stream) == ["Hel", "lo"]
        assert [a.error for a in stream.completion.attempts] == ["BackendTimeout", None]
    assert endless.ended.is_set()


def test_a_drip_ends_with_the_deadline() -> None:
    """A provider that goes on for ever is cut at the deadline of the call, with the text so far (row 25)."""
    endless = Endless(pause=0.005, deaf=True)
    with routed(endless) as router, pytest.raises(IncompleteAnswer) as caught:
        list(router.stream("hi", timeout=0.8))
    assert caught.value.text.startswith("word ")
    assert isinstance(caught.value.__cause__, BackendTimeout)
    assert endless.ended.is_set()


@define
class Generates:
    """Has no `stream`."""

    answer: Completion

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return self.answer


@define
class Streams:
    """Has no `generate`."""

    pieces: list[Any]

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def test_a_provider_needs_only_one_of_both_hooks() -> None:
    """Without `stream` the answer comes as one chunk; without `generate` the stream is put together."""
    whole = Completion("hi", tool_calls=(ToolCall("1", "f"),), usage=Usage(1, 1), thinking="hm", request_id="r1")
    with routed(Generates(whole)) as router:
        stream = router.stream("x")
        chunks = list(stream)
        plain = router.generate("x")
    assert len(chunks) == 1
    assert (chunks[0].text, chunks[0].tool_calls, chunks[0].finish_reason) == ("hi", whole.tool_calls, "stop")
    for answer in (stream.completion, plain):
        assert (answer.text, answer.usage, answer.thinking, answer.request_id) == ("hi", Usage(1, 1), "hm", "r1")
    with routed(Streams(WHOLE)) as router:
        answer = router.generate("x")
    assert (answer.text, answer.usage, answer.model) == ("Hello", Usage(3, 2), "m1")


@pytest.mark.parametrize("pieces", [[Chunk("half")], [], [Chunk("half"), UnavailableError("x", retry_same=False)]])
def test_a_collected_stream_is_never_half_an_answer(pieces: list[Any]) -> None:
    """Asked whole, a stream that breaks has shown nothing to anybody: the next one answers."""
    with routed(Streams(pieces), Generates(Completion("whole"))) as router:
        assert router.generate("x").text == "whole"


def test_a_break_does_not_disturb_the_next_call() -> None:
    """After a broken stream the same backend is asked again as if nothing had been."""
    with routed(Scripted([[Chunk("half")], WHOLE])) as router:
        with pytest.raises(IncompleteAnswer):
            list(router.stream("x"))
        assert texts(router.stream("x")) == ["Hel", "lo"]


def test_the_callers_mistakes_are_told_before_the_first_piece() -> None:
    """A wrong option is raised by `stream` itself, a request that the backend finds wrong on the first piece."""
    with routed(Scripted(InvalidRequestError("bad"))) as router:
        with pytest.raises(ConfigError):
            router.stream("x", max_tokens=0)
        with pytest.raises(InvalidRequestError):
            next(router.stream("x"))


# -- async: the same, with a thread that reads -------------------------------------------------------


def run(work: Callable[[], Any]) -> Any:
    """Run a coroutine function to its end, within half a minute."""

    async def limited() -> Any:
        return await asyncio.wait_for(work(), 30)

    return asyncio.run(limited())


def test_async_calls_answer_as_the_plain_ones() -> None:
    """`agenerate` and `astream` give what `generate` and `stream` give, many at once on one loop."""
    with routed(Scripted(lambda request: f"re: {request.prompt}")) as router:

        async def work() -> None:
            answers = await asyncio.gather(*(router.agenerate(str(n)) for n in range(100)))
            assert [answer.text for answer in answers] == [f"re: {n}" for n in range(100)]
            pieces = [chunk.text async for chunk in router.astream("x")]
            assert "".join(pieces) == "re: x"
            with pytest.raises(ConfigError):
                await router.agenerate("x", nonsense=1)  # type: ignore[call-arg] # which is the point

        run(work)


@define(eq=False)
class Waiting:
    """Waits until nobody waits for it any more."""

    asked: threading.Event = field(factory=threading.Event)
    ended: threading.Event = field(factory=threading.Event)

    @hookimpl
    def generate(self, request: Request) -> Completion:
        woken = threading.Event()
        request.scope.on_cancel(woken.set)
        self.asked.set()
        woken.wait(20)
        self.ended.set()
        raise UnavailableError("cancelled")


def test_cancelling_a_task_ends_the_work() -> None:
    """A cancelled task cancels the scope at once: the provider stops, and no other backend is asked (row 29)."""
    waiting, b = Waiting(), Scripted()
    with routed(waiting, b) as router:

        async def work() -> None:
            task = asyncio.create_task(router.agenerate("x"))
            await asyncio.to_thread(waiting.asked.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(waiting.ended.wait, 10)

        run(work)
        assert b.calls == 0
        assert router.order()[0].position == 1, "a cancelled call does not count against the backend"


@pytest.mark.parametrize("how", ["aclose", "cancel"])
def test_leaving_an_async_stream_closes_the_provider(how: str) -> None:
    """`aclose`, or the end of the task that reads, closes the provider's generator at once."""
    endless = Endless(pause=0.002)
    with routed(endless) as router:

        async def read(started: asyncio.Event) -> None:
            async for _ in router.astream("x"):
                started.set()

        async def work() -> None:
            if how == "aclose":
                stream = router.astream("x")
                assert (await anext(stream)).text == "word "
                await stream.aclose()  # type: ignore[attr-defined] # an async generator has it
            else:
                started = asyncio.Event()
                task = asyncio.create_task(read(started))
                await started.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await asyncio.to_thread(endless.ended.wait, 10)

        run(work)
    assert endless.requests[0].scope.cancelled


@pytest.mark.parametrize(
    ("router", "backend", "call"), [("raise", "restart", {}), ("raise", "raise", {"on_break": "restart"})]
)
def test_what_follows_a_break_is_said_by_the_call_then_the_backend_then_the_router(
    router: Any, backend: Any, call: Any
) -> None:
    """`on_break` may be set at three places; the nearest one to the call holds."""
    broken = Backend(Scripted([[Chunk("half"), UnavailableError("down")]]), id="a", on_break=backend)
    with Router([broken, Backend(Scripted("whole"), id="b")], on_break=router) as both:
        stream = both.stream("hi", **call)
        assert texts(stream) == ["half", "whole"]
        assert stream.completion is not None
        assert (stream.completion.text, stream.completion.backend) == ("whole", "b")
