"""Our own limits of a backend: windows, tokens, concurrency, and the line before them."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from time import monotonic, sleep
from typing import Any

import pytest
from pointsman import Backend, BackendError, Completion, ConfigError, RateLimitError, Router, Usage
from pointsman._limits import Limiter, Slot
from pointsman.scope import Clock, Scope
from pointsman.secret import Secret
from pointsman.testing import Clock as HandClock
from pointsman.testing import Scripted

pytestmark = pytest.mark.usefixtures("no_leaks")


def limiter(clock: Clock | None = None, **limits: Any) -> Limiter:
    """Return the limiter of a backend with these limits."""
    return Limiter(Backend(Scripted(), id="b", **limits), clock or Clock())


def fullest(times: Sequence[float], seconds: float) -> int:
    """Return how many calls the fullest window of so many seconds holds."""
    times, first, most = sorted(times), 0, 0
    for last, time in enumerate(times):
        while times[first] <= time - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def waiting(of: Limiter, number: int) -> None:
    """Wait until so many stand in line."""
    end = monotonic() + 30
    while len(of._line) != number:
        assert monotonic() < end
        sleep(0.001)


def ask(router: Router, way: str, **options: Any) -> str:
    """Ask for a whole answer, or read a stream to its end; return the text."""
    if way == "plain":
        return router.generate("?", **options).text
    with router.stream("?", **options) as stream:
        return "".join(chunk.text for chunk in stream)


@contextmanager
def callers(number: int) -> Iterator[Callable[..., Future[Any]]]:
    """A function that calls another one in a thread of its own."""
    with ThreadPoolExecutor(number) as threads:
        yield threads.submit


class TestWindow:
    """`rate_limit` in any `rate_limit_window`."""

    def test_never_more_in_any_window(self) -> None:
        """However calls come, no window of the length holds more than the limit, and none waits without need."""
        dice = random.Random(36)
        for _ in range(20):
            clock, seconds, limit = HandClock(), dice.uniform(0.5, 100), dice.randint(1, 20)
            of, began = limiter(clock, rate_limit=limit, rate_limit_window=seconds), []
            for _ in range(200):
                clock.advance(dice.expovariate(limit / seconds))
                of.enter(Scope()).leave()
                began.append(clock.now())
            assert fullest(began, seconds) <= limit
            assert not clock.waits or fullest(began, seconds * 1.04) >= limit

    def test_threads(self) -> None:
        """Under 32 threads no second holds more than 50 calls where the provider sees them, and 95 % are used.

        A machine that stalls shows calls later than they were let in: one of three rounds must be undisturbed.
        """
        rounds = (self.seen_by_threads() for _ in range(3))
        assert any(fullest(seen, 1.0) <= 50 and max(seen) - min(seen) <= 200 / 50 / 0.95 for seen in rounds)

    def seen_by_threads(self) -> list[float]:
        """Call 200 times from 32 threads, and return when each call was let in."""
        of, seen, calls = limiter(rate_limit=50, rate_limit_window=1.0), list[float](), iter(range(200))

        def work() -> None:
            for _ in calls:
                slot = of.enter(Scope())
                seen.append(monotonic())
                slot.leave()

        with callers(32) as call:
            for done in [call(work) for _ in range(32)]:
                done.result()
        assert len(seen) == 200
        return seen

    def test_tells_the_wait(self) -> None:
        """The wait of one who asks counts those who have been let in, and those in line."""
        clock = HandClock()
        of = limiter(clock, rate_limit=2, rate_limit_window=10)
        assert of.wait_needed() == 0
        of.enter(Scope())
        clock.advance(4)
        of.enter(Scope())
        assert of.wait_needed() == pytest.approx(6.25, abs=0.2)
        of._line.append(Slot(of, 1))
        assert of.wait_needed() == pytest.approx(10.25, abs=0.2)
        of._line.append(Slot(of, 1))
        assert of.wait_needed() == pytest.approx(16.5, abs=0.2)

    def test_too_late_is_told_at_once(self) -> None:
        """One who cannot be let in in time is told so without a wait, with the limit and when it could be."""
        clock = HandClock()
        of = limiter(clock, rate_limit=1)
        of.enter(Scope())
        with pytest.raises(RateLimitError, match=r"our own rate_limit of 1 in 60 s") as caught:
            of.enter(Scope(30))
        assert caught.value.retry_after == pytest.approx(60, abs=1)
        assert clock.waits == ()

    def test_waits_within_the_deadline(self) -> None:
        """One who can be let in in time is, and the time is taken from its deadline."""
        clock, scope = HandClock(), Scope(100)
        of = limiter(clock, rate_limit=1)
        of.enter(Scope())
        of.enter(scope)
        assert sum(clock.waits) == pytest.approx(60, abs=1)
        assert scope.left() == pytest.approx(40, abs=5)

    def test_within(self) -> None:
        """One who wants to wait no longer than so is told at once, and its place is free for the next."""
        clock = HandClock()
        of = limiter(clock, rate_limit=1)
        of.enter(Scope(), within=0)
        for within in (0, 50):
            with pytest.raises(RateLimitError):
                of.enter(Scope(), within=within)
        of.enter(Scope(), within=61)
        assert len(clock.waits) > 0


class TestLine:
    """Who finds no room waits in line."""

    def test_first_come_first_served(self) -> None:
        """They are let in in the order in which they came."""
        of, order = limiter(max_concurrency=1), []
        held = of.enter(Scope())

        def enter(number: int) -> None:
            slot = of.enter(Scope())
            order.append(number)
            slot.leave()

        with callers(10) as call:
            for number in range(10):
                call(enter, number)
                waiting(of, number + 1)
            held.leave()
        assert order == list(range(10))

    def test_only_the_first_waits_for_a_time(self) -> None:
        """However many are in line, one of them at a time is woken by a clock."""

        class Watched(Clock):
            at_once = most = 0
            lock = threading.Lock()

            def wait(self, scope: Scope, seconds: float, woken: threading.Event | None = None) -> bool:
                with self.lock:
                    self.at_once += 1
                    self.most = max(self.most, self.at_once)
                try:
                    return super().wait(scope, seconds, woken)
                finally:
                    with self.lock:
                        self.at_once -= 1

        clock = Watched()
        of = limiter(clock, rate_limit=4, rate_limit_window=0.1)
        with callers(16) as call:
            for done in [call(of.enter, Scope()) for _ in range(16)]:
                done.result().leave()
        assert clock.most == 1

    def test_a_cancelled_one_leaves_at_once(self) -> None:
        """Who is cancelled in line is gone, first or not, and the others are served."""
        of, first, second = limiter(max_concurrency=1), Scope(), Scope()
        held = of.enter(Scope())
        with callers(3) as call:
            gone = []
            for number, scope in enumerate((first, second), 1):
                gone.append(call(of.enter, scope))
                waiting(of, number)
            stays = call(of.enter, Scope())
            waiting(of, 3)
            for scope, future in zip((second, first), reversed(gone), strict=True):
                scope.cancel()
                assert isinstance(future.exception(30), RateLimitError)
            held.leave()
            stays.result(30).leave()

    def test_an_expired_one_leaves_at_once(self) -> None:
        """Who has no time left in line is gone, and told which limit it was."""
        of = limiter(max_concurrency=1)
        of.enter(Scope())
        with pytest.raises(RateLimitError, match="max_concurrency of 1"):
            of.enter(Scope(0.05))
        waiting(of, 0)

    def test_no_threads(self) -> None:
        """A limiter starts no thread, and the library is not imported for it."""
        code = """if True:
            import sys, threading
            from pointsman import Backend, Router
            from pointsman.testing import Scripted
            limits = {"rate_limit": 1, "tokens_per_minute": 1000, "max_concurrency": 1}
            with Router([Backend(Scripted("Yes."), **limits)]) as router:
                router.generate("?")
            assert threading.active_count() == 1, threading.enumerate()
            assert not {"limits", "redis"} & sys.modules.keys()
        """
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestTokens:
    """`tokens_per_minute`: reserved, then settled."""

    def test_settles(self) -> None:
        """What a call did not need is free at once; what it needed more is not."""
        of = limiter(HandClock(), tokens_per_minute=1000)
        slot = of.enter(Scope(), 800)
        assert of.wait_needed(500) > 0
        slot.leave(100)
        assert of.wait_needed(900) == 0
        of.enter(Scope(), 100).leave(950)
        assert of.wait_needed(1) > 0

    def test_unknown_usage_stays_reserved(self) -> None:
        """Where nobody knows what it cost, it counts as reckoned; repeating `leave` changes nothing."""
        of = limiter(HandClock(), tokens_per_minute=1000)
        slot = of.enter(Scope(), 800)
        slot.leave()
        slot.leave(1)
        assert of.wait_needed(201) > 0
        assert of.wait_needed(200) == 0

    def test_counts_no_more_after_a_minute(self) -> None:
        """A call counts for a minute; what it settles later changes nothing."""
        clock = HandClock()
        of = limiter(clock, tokens_per_minute=1000)
        slot = of.enter(Scope(), 1000)
        clock.advance(61)
        assert of.wait_needed(1000) == 0
        slot.leave(10)
        of.enter(Scope(), 1000).leave(1000)
        assert of.wait_needed(1) > 0

    def test_what_is_given_back_wakes_the_line(self) -> None:
        """One who waits for tokens goes on as soon as they are given back."""
        of = limiter(tokens_per_minute=1000)
        slot = of.enter(Scope(), 1000)
        begun = monotonic()
        with callers(1) as call:
            second = call(of.enter, Scope(30), 900)  # in time only because the first may cost less than reckoned
            waiting(of, 1)
            slot.leave(50)
            second.result(30)
        assert monotonic() - begun < 30

    def test_what_is_settled_is_sure(self) -> None:
        """One who would come too late even if all that is reserved were given back is told at once."""
        clock = HandClock()
        of = limiter(clock, tokens_per_minute=1000)
        of.enter(Scope(), 500).leave(500)
        of.enter(Scope(), 500)
        with pytest.raises(RateLimitError, match="tokens_per_minute of 1000"):
            of.enter(Scope(30), 501)
        assert clock.waits == ()

    def test_more_than_the_whole(self) -> None:
        """A request larger than the whole budget is refused at once, in words that say what to do."""
        of = limiter(tokens_per_minute=1000)
        assert of.wait_needed(1001) == inf
        with pytest.raises(RateLimitError, match=r"tokens_per_minute of 1000.*fewer max_tokens") as caught:
            of.enter(Scope(), 1001)
        assert not caught.value.retry_same

    def test_both_limits_hold(self) -> None:
        """With several limits the one that is reached delays, and none is counted for a call that waits."""
        clock = HandClock()
        of = limiter(clock, rate_limit=10, rate_limit_window=1, tokens_per_minute=100)
        of.enter(Scope(), 60).leave(60)
        for _ in range(20):
            with pytest.raises(RateLimitError):
                of.enter(Scope(), 60, within=0)
        assert of.wait_needed(40) == 0


class TestConcurrency:
    """`max_concurrency`."""

    def test_never_more_at_once(self) -> None:
        """Never more run at once, and each place is given on."""
        of, lock, running, most = limiter(max_concurrency=3), threading.Lock(), 0, 0

        def work() -> None:
            nonlocal running, most
            for _ in range(50):
                slot = of.enter(Scope())
                with lock:
                    running += 1
                    most = max(most, running)
                sleep(0)
                with lock:
                    running -= 1
                slot.leave()

        with callers(12) as call:
            for done in [call(work) for _ in range(12)]:
                done.result()
        assert most == 3
        assert of.wait_needed() == 0

    def test_tells_that_it_is_full(self) -> None:
        """One who asks is told of a wait, and a slot that is left twice is one."""
        of = limiter(max_concurrency=2)
        one, _ = of.enter(Scope()), of.enter(Scope())
        assert of.wait_needed() > 0
        one.leave()
        one.leave()
        of.enter(Scope())
        assert of.wait_needed() > 0


@pytest.mark.parametrize("way", ["plain", "streamed"])
class TestRouter:
    """The limits of backends, as a caller of the router meets them: row 36."""

    def test_next(self, way: str) -> None:
        """By default a backend that has no room is passed over while another one may serve."""
        clock = HandClock()
        small, large = Backend(Scripted("small"), id="small", rate_limit=2), Backend(Scripted("large"), id="large")
        with Router([small, large], clock=clock) as router:
            assert [ask(router, way) for _ in range(4)] == ["small", "small", "large", "large"]
            clock.advance(61)
            assert ask(router, way) == "small"
        assert clock.waits == ()

    def test_next_for_many_at_once(self, way: str) -> None:
        """However many come at the same time, none waits while another backend may serve."""
        clock, together = HandClock(), threading.Barrier(16)
        backends = [Backend(Scripted(id), id=id, **limits) for id, limits in (("a", {"rate_limit": 1}), ("b", {}))]

        def asked() -> str:
            together.wait()
            return ask(router, way)

        with Router(backends, clock=clock) as router, callers(16) as call:
            answers = [done.result() for done in [call(asked) for _ in range(16)]]
        assert sorted(answers) == ["a"] + ["b"] * 15
        assert clock.waits == ()

    def test_wait(self, way: str) -> None:
        """With `on_limit="wait"`, and where there is no other one, the call waits, within its deadline."""
        for options, backends in (({"on_limit": "wait"}, 2), ({}, 1)):
            clock = HandClock()
            all_of_them = [Backend(Scripted(id), id=id, rate_limit=1) for id in ("a", "b")]
            with Router(all_of_them[:backends], clock=clock, timeout=100, **options) as router:  # type: ignore[arg-type]
                assert [ask(router, way) for _ in range(2)] == ["a", "a"]
                assert sum(clock.waits) == pytest.approx(60, abs=1)

    def test_too_late(self, way: str) -> None:
        """A call that can nowhere begin in time fails at once, says when it could, and speaks against no backend."""
        clock = HandClock()
        with Router([Backend(Scripted(), rate_limit=1)], clock=clock) as router:
            ask(router, way)
            with pytest.raises(RateLimitError, match="our own rate_limit") as caught:
                ask(router, way, timeout=10)
            assert caught.value.retry_after == pytest.approx(60, abs=1)
            assert clock.waits == ()
            clock.advance(61)
            assert ask(router, way)

    def test_settles_with_the_real_usage(self, way: str) -> None:
        """What an answer really used is what counts."""
        clock = HandClock()
        answer = Completion(text="Yes.", usage=Usage(10, 40))
        with Router([Backend(Scripted(answer), tokens_per_minute=1000)], clock=clock) as router:
            for _ in range(10):
                ask(router, way, max_tokens=400)
        assert clock.waits == ()

    def test_from_a_configuration(self, way: str) -> None:
        """A configuration sets limits."""
        entry = {"id": "e", "type": "echo", "rate_limit": 1, "rate_limit_window": 5}
        with Router.from_config({"BACKENDS": [entry]}) as router:
            ask(router, way)
            with pytest.raises(RateLimitError, match="rate_limit of 1 in 5 s"):
                ask(router, way, timeout=1)

    def test_a_failed_attempt_gives_its_place_back(self, way: str) -> None:
        """Whatever becomes of a call, the next one finds room."""
        faulty = Scripted([ValueError("no"), "half an answer", "Yes."])
        with Router([Backend(faulty, max_concurrency=1)], max_retries=0, timeout=30) as router:
            with pytest.raises(BackendError, match="no"):
                ask(router, way)
            with router.stream("?") as stream:
                next(stream)
            assert ask(router, way) == "Yes."


class TestStorage:
    """`rate_limit_storage`, where there is none."""

    def test_the_library_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the libraries a storage is refused, with the line that installs them."""
        monkeypatch.setitem(sys.modules, "limits.storage", None)
        with pytest.raises(ConfigError, match=r'pip install "pointsman\[redis\]"'):
            Limiter(Backend(Scripted(), rate_limit=1), Clock(), Secret("redis://127.0.0.1"))

    @pytest.mark.parametrize(
        "url",
        ["memory://", "hunter2", "http://:hunter2@127.0.0.1", "redis://:hunter2/3@host", "redis://:hunter2@host:port"],
    )
    def test_a_wrong_url(self, url: str) -> None:
        """A URL of no Redis server is refused, and what it holds is shown nowhere."""
        with pytest.raises(ConfigError, match="rate_limit_storage: found no URL of a Redis server") as caught:
            Limiter(Backend(Scripted(), rate_limit=1), Clock(), Secret(url))
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        ours = [line for line in shown.splitlines() if "hunter2" in line and "url = '" not in line]
        assert ours == []

    def test_no_server(self, caplog: pytest.LogCaptureFixture, free_port: int) -> None:
        """While no server can be reached each process keeps the limits by itself, and one warning says so."""
        clock, url = HandClock(), f"redis://:hunter2@127.0.0.1:{free_port}/0"
        of = Limiter(Backend(Scripted(), id="b", rate_limit=2), clock, Secret(url))
        for _ in range(2):
            of.enter(Scope(), within=0)
        with pytest.raises(RateLimitError):
            of.enter(Scope(), within=0)
        clock.advance(61)
        of.enter(Scope(), within=0)
        of.close()
        (line,) = caplog.messages
        assert "each process keeps the limits by itself" in line
        assert "backend='b'" in line
        assert "hunter2" not in caplog.text


@pytest.fixture
def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
