"""Many prompts at once: order, options, bad items, laziness, memory, and what ends a batch."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import frozen
from pointsman import (
    AllBackendsFailed,
    Backend,
    BackendError,
    BackendTimeout,
    Completion,
    ConfigError,
    InvalidRequestError,
    Message,
    RateLimitError,
    Request,
    Router,
    UnavailableError,
    hookimpl,
)
from pointsman.testing import Clock, Scripted, Silent

pytestmark = pytest.mark.usefixtures("no_leaks")


@frozen
class Echo:
    """Answers with the prompt, in no time."""

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion(request.prompt)


def texts(results: Any) -> list[str | None]:
    """The text of each answer; None for an error."""
    return [getattr(result, "text", None) for result in results]


# -- what comes back ----------------------------------------------------------------------------------


def test_results_are_in_order_whatever_finishes_first() -> None:
    """The first prompt is answered last, and still its answer is the first of the list."""
    last = threading.Event()

    def answer(request: Request) -> str:
        if request.prompt == "0":
            assert last.wait(30)
        elif request.prompt == "9":
            last.set()
        return request.prompt

    with Router([Scripted(answer)]) as router:
        results = router.batch((str(n) for n in range(10)), max_workers=2)
    assert isinstance(results, list)
    assert texts(results) == [str(n) for n in range(10)]


def test_a_failed_item_is_its_own_error_and_stops_no_other() -> None:
    """Each result is a completion or the typed error of that item, with its attempts."""

    def answer(request: Request) -> str:
        if request.prompt == "bad":
            raise RateLimitError("too many", retry_after=3600)
        return request.prompt

    spare = Scripted(UnavailableError("down", retry_same=False))
    with Router({"main": Scripted(answer), "spare": spare}) as router:
        good, bad = router.batch(["a", "bad"], max_workers=1)
    assert isinstance(good, Completion)
    assert good.text == "a"
    assert isinstance(bad, AllBackendsFailed)
    assert [type(one) for one in bad.exceptions] == [RateLimitError, UnavailableError]
    assert [attempt.backend for attempt in bad.attempts] == ["main", "spare"]


def test_errors_hold_no_frames() -> None:
    """An error that is kept as a result keeps nothing else alive: no traceback, no cause."""
    with Router({"main": Scripted(ValueError("x")), "spare": Scripted(UnavailableError("y"))}) as router:
        (error,) = router.batch(["a"], max_retries=0)
    assert isinstance(error, AllBackendsFailed)
    for one in (error, *error.exceptions):
        assert (one.__traceback__, one.__cause__, one.__context__) == (None, None, None)


def test_an_item_is_whatever_generate_takes_or_a_mapping() -> None:
    """Text, messages, a request, and mappings with options of their own, whose id is the caller's matter."""
    provider = Scripted()
    items: list[Any] = [
        "text",
        [{"role": "user", "content": "messages"}],
        Request((Message("user", "request"),), max_tokens=5),
        {"id": 7, "prompt": "mapping", "temperature": 0.0},
        {"messages": [Message("user", "mapped messages")], "max_tokens": 6},
    ]
    with Router([provider]) as router:
        results = router.batch(items, max_workers=1, max_tokens=9, temperature=1.0)
    assert all(isinstance(result, Completion) for result in results)
    asked = [(one.prompt, one.max_tokens, one.temperature) for one in provider.requests]
    assert asked == [
        ("text", 9, 1.0),
        ("messages", 9, 1.0),
        ("request", 5, 1.0),
        ("mapping", 9, 0.0),
        ("mapped messages", 6, 1.0),
    ]


def test_no_item_allows_to_leave_the_machine() -> None:
    """`local_only` and `private` of the batch hold for an item that says otherwise."""
    here = Scripted()
    with Router([here]) as router:
        router.batch(["a", {"prompt": "b", "private": False}, Request((Message("user", "c"),))], private=True)
    assert [request.private for request in here.requests] == [True, True, True]
    away = Scripted(local=False)
    with Router([away]) as router:
        results = router.batch(["a", {"prompt": "b", "local_only": False}], local_only=True)
    assert [isinstance(result, BackendError) for result in results] == [True, True]
    assert away.calls == 0


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (None, "found NoneType"),
        (7, "found int"),
        ([], "at least one message"),
        ({"id": 1}, "expected either prompt or messages"),
        ({"prompt": "a", "messages": []}, "expected either prompt or messages"),
        ({"prompt": "a", "max_tokns": 1}, "did you mean max_tokens"),
        ({"prompt": "a", "temperature": 9}, "temperature"),
        ({"prompt": "a", "backend": "nobody"}, "nobody"),
        ([{"role": "king", "content": "x"}], "king"),
    ],
)
def test_a_bad_item_is_told_with_its_place(item: Any, says: str) -> None:
    """It becomes an InvalidRequestError in its place; all others are answered."""
    with Router([Echo()]) as router:
        first, bad, last = router.batch(["a", item, "b"])
    assert texts([first, last]) == ["a", "b"]
    assert isinstance(bad, InvalidRequestError)
    assert says in str(bad)


@pytest.mark.parametrize(
    ("prompts", "settings", "says"),
    [
        ("text", {}, "prompts: found str"),
        ({"prompt": "a"}, {}, "prompts: found dict"),
        (7, {}, "prompts: found int"),
        (["a"], {"max_workers": 0}, "max_workers: found 0"),
        (["a"], {"max_workers": "4"}, "max_workers: found '4'"),
        (["a"], {"tempreature": 1}, "did you mean temperature"),
        (["a"], {"backend": "nobody"}, "nobody"),
        (["a"], {"timeout": -1}, "timeout"),
    ],
)
def test_what_is_wrong_with_all_is_raised_at_once(prompts: Any, settings: dict[str, Any], says: str) -> None:
    """A mistake of the call itself is a ConfigError, and nothing is asked."""
    provider = Scripted()
    with Router([provider]) as router, pytest.raises(ConfigError, match=says):
        router.batch(prompts, **settings)
    assert provider.calls == 0


def test_a_closed_router_says_so() -> None:
    """Not every item, but the call."""
    router = Router([Echo()])
    router.close()
    with pytest.raises(ConfigError, match="closed"):
        router.batch(["a"])


def test_nothing_is_asked_for_no_prompts() -> None:
    """An empty batch is an empty list."""
    with Router([Echo()]) as router:
        assert router.batch([]) == []


# -- how many, how long -------------------------------------------------------------------------------


def test_no_more_than_max_workers_are_asked_at_once() -> None:
    """Exactly so many, where there is enough to do."""
    lock, running, most, meet = threading.Lock(), 0, 0, threading.Barrier(3, timeout=30)

    def answer(request: Request) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meet.wait()  # three at once, or this breaks
        with lock:
            running -= 1
        meet.wait()
        return "x"

    with Router([Scripted(answer)]) as router:
        results = router.batch(["p"] * 9, max_workers=3)
    assert texts(results) == ["x"] * 9
    assert most == 3


def test_the_timeout_is_that_of_each_item() -> None:
    """An item that is silent times out by itself; its time begins when it is asked, not when it stands in line."""
    with Router([Silent()], max_retries=0) as router:
        results = router.batch(["a", {"prompt": "b", "timeout": 0.05}, "c"], max_workers=1, timeout=0.1)
    assert [type(result) for result in results] == [BackendTimeout] * 3


def test_an_item_waits_out_a_limit_of_ours() -> None:
    """Two a minute, and a timeout of five seconds: seven items are all answered, since their time runs when asked."""
    backend = Backend(Scripted("ok"), rate_limit=2, rate_limit_window=60.0)
    with Router([backend], clock=Clock()) as router:
        results = router.batch(["p"] * 7, max_workers=3, timeout=5)
    assert texts(results) == ["ok"] * 7


# -- laziness and memory ------------------------------------------------------------------------------


def test_prompts_are_read_as_they_are_needed() -> None:
    """The generator is never more than twice the workers ahead of what is finished."""
    read = done = ahead = 0

    def prompts() -> Iterator[str]:
        nonlocal read, ahead
        for _ in range(200):
            read += 1
            ahead = max(ahead, read - done)
            yield "p"

    def count(position: int, result: Completion | BackendError) -> None:
        nonlocal done
        done += 1

    with Router([Echo()]) as router:
        router.batch(prompts(), max_workers=3, on_result=count)
    assert (read, done) == (200, 200)
    assert ahead <= 7


def test_prompts_and_on_result_run_in_the_thread_of_the_caller() -> None:
    """Neither need be thread-safe: a generator may hold what belongs to one thread."""
    threads = set()

    def prompts() -> Iterator[str]:
        for n in range(20):
            threads.add(threading.get_ident())
            yield str(n)

    with Router([Echo()]) as router:
        router.batch(prompts(), on_result=lambda position, result: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


def test_a_very_long_batch_is_a_sequence_on_disk() -> None:
    """Results past the first ten thousand are in a temporary file: in order, as often as wanted, slices too."""
    with Router([Echo()]) as router:
        results = router.batch(str(n) if n % 1000 else {"prompt": "a", "top_k": -1} for n in range(10_500))
    assert len(results) == 10_500
    assert [result.text for result in results[9_998:10_000]] == ["9998", "9999"]  # type: ignore[union-attr]
    assert isinstance(results[10_000], InvalidRequestError)
    assert texts(results[10_001:10_003]) == ["10001", "10002"]
    assert texts([results[-1]]) == ["10499"]
    assert texts(results) == texts(results) == [str(n) if n % 1000 else None for n in range(10_500)]
    with pytest.raises(IndexError):
        results[10_500]
    del results
    gc.collect()


# -- reporting ----------------------------------------------------------------------------------------


def test_on_result_is_told_every_item_once() -> None:
    """With its position, as it finishes, the bad ones too."""
    told: dict[int, Completion | BackendError] = {}
    with Router([Echo()]) as router:
        results = router.batch(["a", None, "c"], on_result=told.__setitem__)  # type: ignore[list-item]
    assert [told[n] for n in range(3)] == results


def test_an_on_result_that_raises_ends_the_batch() -> None:
    """What it raises comes out; nothing more is asked; running calls are cancelled, and waited for."""
    provider = Silent()

    def refuse(position: int, result: Completion | BackendError) -> None:
        assert provider.asked.wait(30)
        raise LookupError("enough")

    quick = Scripted("x")
    items = [{"prompt": "b", "backend": "silent"}, {"prompt": "a", "backend": "quick"}]
    with Router({"quick": quick, "silent": provider}) as router, pytest.raises(LookupError, match="enough"):
        router.batch([*items, *items * 100], max_workers=2, on_result=refuse)
    assert quick.calls + len(provider.requests) <= 6
    assert provider.requests[0].scope.cancelled


def test_an_error_of_the_generator_comes_after_what_it_gave() -> None:
    """All prompts before it are answered and reported, and then it is raised."""

    def prompts() -> Iterator[str]:
        yield from "abc"
        raise LookupError("no more")

    told: list[int] = []
    with Router([Echo()]) as router, pytest.raises(LookupError, match="no more"):
        router.batch(prompts(), on_result=lambda position, result: told.append(position))
    assert sorted(told) == [0, 1, 2]


# -- async --------------------------------------------------------------------------------------------


def test_abatch_does_the_same() -> None:
    """The same results, while the loop goes on."""

    async def main() -> None:
        with Router([Echo()]) as router:
            assert texts(await router.abatch(["a", "b"], max_workers=2, max_tokens=3)) == ["a", "b"]
            with pytest.raises(ConfigError, match="max_workers"):
                await router.abatch(["a"], 0)

    asyncio.run(main())


def test_cancelling_abatch_ends_the_running_calls() -> None:
    """When the cancelled task has ended, so have its calls, and nothing more is asked."""
    provider = Silent()

    async def main() -> None:
        task = asyncio.create_task(router.abatch(["a"] * 50, max_workers=2))
        await asyncio.to_thread(provider.asked.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(provider.requests) <= 4
        assert all(request.scope.cancelled for request in provider.requests)

    with Router([provider]) as router:
        asyncio.run(main())
