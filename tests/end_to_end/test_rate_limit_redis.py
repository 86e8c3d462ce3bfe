"""Limits that processes share, with a real Redis server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from attrs import define
from pointsman import Backend, PointsmanError, RateLimitError, Router
from pointsman._limits import Limiter
from pointsman.scope import Clock, Scope
from pointsman.secret import Secret
from pointsman.testing import Clock as HandClock
from pointsman.testing import Scripted

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("no_leaks")]

PASSWORD = "hunter2/and:more"
QUOTED = "hunter2%2Fand%3Amore"

#: One of several processes: makes calls from 8 threads, through a router, and prints when the provider saw each.
WORKER = """
import json, sys, threading
from time import monotonic
from attrs import define, field
from pointsman import Backend, Completion, Router, hookimpl

@define(eq=False)
class Provider:
    seen: list = field(factory=list)

    @hookimpl
    def generate(self, request):
        self.seen.append(monotonic())
        return Completion(text="Yes.")

provider, calls = Provider(), iter(range(60))
backend = Backend(provider, id="shared", rate_limit=50, rate_limit_window=1)

def work():
    for _ in calls:
        router.generate("?")

with Router([backend], rate_limit_storage=sys.argv[1], timeout=120) as router:
    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(json.dumps(provider.seen))
"""


@define(eq=False)
class Server:
    """A redis-server of the test's own."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, with its password."""
        return f"redis://:{QUOTED}@127.0.0.1:{self.port}/3"

    def start(self, *options: str) -> Server:
        """Start it, and wait until it listens."""
        command = ["redis-server", *options, "--port", str(self.port), "--bind", "127.0.0.1"]
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        end = monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close() or self
            except OSError:
                assert self.process.poll() is None, (self.folder / f"{self.port}.log").read_text()
                assert monotonic() < end
                sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """A function that starts a server, with options of the command line."""
    with ExitStack() as stack:

        def start(*options: str) -> Server:
            with socket.socket() as one:
                one.bind(("127.0.0.1", 0))
                server = Server(one.getsockname()[1], tmp_path)
            stack.callback(server.stop)
            return server.start(*options)

        yield start


@pytest.fixture
def redis(serve: Callable[..., Server]) -> Server:
    """A server that wants a password and keeps nothing on the disk."""
    return serve("--save", "", "--requirepass", PASSWORD)


@pytest.fixture
def client(redis: Server) -> Iterator[Any]:
    """A client of it that is none of ours."""
    from redis import Redis

    with Redis.from_url(redis.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def process(redis: Server) -> Iterator[Callable[..., Limiter]]:
    """A function that returns a limiter as another process has it: they share nothing but the server."""
    made: list[Limiter] = []

    def make(clock: Clock | None = None, url: str = redis.url, **limits: Any) -> Limiter:
        made.append(Limiter(Backend(Scripted(), id="b", **limits), clock or Clock(), Secret(url)))
        return made[-1]

    yield make
    for limiter in made:
        limiter.close()


def fullest(times: list[float], seconds: float) -> int:
    """Return how many calls the fullest window of so many seconds holds."""
    times = sorted(times)
    return max(sum(time - seconds < other <= time for other in times) for time in times)


def test_four_processes(redis: Server) -> None:
    """Four processes together let in no more than 50 in any second, as the providers see it, and use 95 %.

    A machine that stalls shows calls later than they were let in: one of three rounds must be undisturbed.
    """
    assert any(fullest(seen, 1.0) <= 50 and max(seen) - min(seen) <= 240 / 50 / 0.95 for seen in rounds(redis.url))


def rounds(url: str) -> Iterator[list[float]]:
    """Let four processes call, three times; give the times at which their providers saw the calls."""
    command = [sys.executable, "-W", "error", "-c", WORKER, url]
    for _ in range(3):
        with ExitStack() as stack:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            workers = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(4)]
            assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
            for worker in workers:
                worker.stdin.write("go\n")
                worker.stdin.flush()
            seen = [time for worker in workers for time in json.loads(worker.communicate(timeout=120)[0])]
        assert len(seen) == 240
        yield seen


def test_tokens_are_shared(process: Callable[..., Limiter]) -> None:
    """What one process reserves is taken for all, and what it gives back is free for all."""
    one, other = process(tokens_per_minute=1000), process(tokens_per_minute=1000)
    slot = one.enter(Scope(), 800)
    with pytest.raises(RateLimitError, match="tokens_per_minute of 1000") as caught:
        other.enter(Scope(), 300, within=0)
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    slot.leave(100)
    other.enter(Scope(), 900, within=1).leave()
    with pytest.raises(RateLimitError):
        one.enter(Scope(), 1, within=0)


def test_one_in_line_notices_what_another_process_gives_back(process: Callable[..., Limiter]) -> None:
    """Who waits for tokens looks again before the time, and goes on when there are some."""
    one, other = process(tokens_per_minute=1000), process(tokens_per_minute=1000)
    slot = one.enter(Scope(), 1000)
    threading.Timer(0.2, slot.leave, [10]).start()
    begun = monotonic()
    other.enter(Scope(50), 900)
    assert monotonic() - begun < 50


def test_too_late_is_told_at_once(process: Callable[..., Limiter]) -> None:
    """What others have taken for good, and for longer than the deadline, is told without a wait."""
    one, clock = process(rate_limit=1, tokens_per_minute=1000), HandClock()
    other = process(clock, rate_limit=1, tokens_per_minute=1000)
    one.enter(Scope(), 1000).leave(1000)
    with pytest.raises(RateLimitError, match=r"our own (rate_limit|tokens_per_minute)") as caught:
        other.enter(Scope(30), 1)
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    assert clock.waits == ()
    assert other.wait_needed(1) > 0


def test_a_call_that_waits_counts_nowhere(process: Callable[..., Limiter], client: Any) -> None:
    """A call that one limit keeps out is not counted by the other; the keys of the server vanish by themselves."""
    one = process(rate_limit=10, tokens_per_minute=100)
    other = process(rate_limit=10, tokens_per_minute=100)
    one.enter(Scope(), 100)
    for _ in range(3):
        with pytest.raises(RateLimitError):
            other.enter(Scope(), 50, within=0)
    keys = sorted(client.scan_iter())
    assert [client.type(key) for key in keys] == ["hash", "zset"] * 2
    assert [client.zcard(key) for key in keys if key.endswith("stops")] == [1, 1]
    assert all(0 < client.ttl(key) < 70 for key in keys)


def test_keys_name_the_backend_and_no_secret(process: Callable[..., Limiter], client: Any) -> None:
    """An operator finds the keys of a backend by its id; nothing secret is in the server."""
    process(rate_limit=1).enter(Scope())
    keys = sorted(client.scan_iter())
    assert keys == ["pointsman:{b}:rate_limit:60:costs", "pointsman:{b}:rate_limit:60:stops"]
    stored = [*keys, *client.zrange(keys[1], 0, -1), *client.hgetall(keys[0])]
    assert not [text for text in stored if "hunter" in text]


def test_first_come_first_served(process: Callable[..., Limiter]) -> None:
    """Within a process the line is served in order."""
    of, order, threads = process(rate_limit=2, rate_limit_window=0.2), [], []

    def enter(number: int) -> None:
        of.enter(Scope())
        order.append(number)

    for number in range(8):
        threads.append(threading.Thread(target=enter, args=(number,)))
        threads[-1].start()
        end = monotonic() + 30
        while number not in order and len(of._line) + len(order) <= number:
            assert monotonic() < end
            sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == sorted(order)


def test_the_server_goes_and_comes_back(
    redis: Server, process: Callable[..., Limiter], caplog: pytest.LogCaptureFixture
) -> None:
    """Without the server each process keeps the limits by itself; with it again, they share them again."""
    caplog.set_level("INFO", "pointsman")
    clock = HandClock()
    one, other = process(clock, rate_limit=2, rate_limit_window=20), process(clock, rate_limit=2, rate_limit_window=20)
    one.enter(Scope(), within=0)
    redis.stop()
    for of in (one, other):
        of.enter(Scope(), within=0)
    with pytest.raises(RateLimitError):
        one.enter(Scope(), within=0)  # its own two
    other.enter(Scope(), within=0)  # its own second
    assert len([line for line in caplog.messages if "cannot be used" in line]) == 2  # one for each process
    redis.start("--save", "", "--requirepass", PASSWORD)
    clock.advance(25)
    one.enter(Scope(), within=0)
    other.enter(Scope(), within=0)
    with pytest.raises(RateLimitError):
        other.enter(Scope(), within=0)
    assert len([line for line in caplog.messages if "is used again" in line]) == 2
    assert "hunter" not in caplog.text


def test_small_accidents_go_unnoticed(
    process: Callable[..., Limiter], client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that was cut while idle and a server that forgot the script change nothing."""
    of = process(rate_limit=3)
    for accident in (lambda: None, client.script_flush, lambda: client.client_kill_filter(_type="normal", skipme=True)):
        accident()
        of.enter(Scope(), within=0)
    with pytest.raises(RateLimitError):
        of.enter(Scope(), within=0)
    assert caplog.messages == []


def test_a_server_that_hangs(redis: Server, process: Callable[..., Limiter], caplog: pytest.LogCaptureFixture) -> None:
    """A server that does not answer costs one caller half a second or so; then it is left alone for a while."""
    of = process(rate_limit=100)
    of.enter(Scope())
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    begun = monotonic()
    for _ in range(50):
        of.enter(Scope())
    assert monotonic() - begun < 20
    assert len(caplog.messages) == 1
    redis.process.send_signal(signal.SIGCONT)


def test_the_clock_of_the_server_is_put_back(process: Callable[..., Limiter], client: Any) -> None:
    """A call from the future counts for one window at most."""
    of = process(rate_limit=1, rate_limit_window=20)
    of.enter(Scope())
    (stops,) = client.scan_iter("*:stops")
    client.zincrby(stops, 3600e6, client.zrange(stops, 0, 0)[0])
    with pytest.raises(RateLimitError) as caught:
        process(rate_limit=1, rate_limit_window=20).enter(Scope(10))
    assert caught.value.retry_after == pytest.approx(20, abs=1)


def test_a_wrong_password(redis: Server, process: Callable[..., Limiter], caplog: pytest.LogCaptureFixture) -> None:
    """A password that the server refuses is told by the warning, without the password."""
    of = process(url=f"redis://:hunter3@127.0.0.1:{redis.port}", rate_limit=1)
    of.enter(Scope())
    (line,) = caplog.messages
    assert "AuthenticationError" in line
    assert "hunter" not in line


def test_the_next_backend_serves_where_other_processes_took_all(redis: Server) -> None:
    """A backend whose shared limit others have used up is passed over while another one may serve."""

    def router() -> Router:
        clocks.append(HandClock())
        backends = [Backend(Scripted("small"), id="small", rate_limit=2), Backend(Scripted("large"), id="large")]
        return Router(backends, rate_limit_storage=redis.url, clock=clocks[-1])

    clocks: list[HandClock] = []
    with router() as one, router() as other:
        assert [one.generate("?").text for _ in range(3)] == ["small", "small", "large"]
        assert [other.generate("?").text for _ in range(3)] == ["large"] * 3
    assert [clock.waits for clock in clocks] == [(), ()]


def test_a_router_shows_no_password(redis: Server) -> None:
    """Neither a router nor an error that it raises shows the password of the storage."""
    backends, shown = [Backend(Scripted(), rate_limit=1)], []
    with Router(backends, rate_limit_storage=redis.url) as router:
        router.generate("?")
        shown += [repr(vars(router)), repr(router)]
        for wrong in (
            lambda: router.generate("?", timeout=1),
            lambda: Router(backends, rate_limit_storage=f"no {redis.url}"),
        ):
            with pytest.raises(PointsmanError) as caught:
                wrong()
            trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            shown += [repr(frame.locals) for frame in trace.stack if "/tests/" not in frame.filename]
    assert not [text for text in shown if "hunter" in text]


def test_through_a_sentinel(serve: Callable[..., Server], tmp_path: Path) -> None:
    """A server may be found through a sentinel."""
    server = serve("--save", "")
    settings = tmp_path / "sentinel.conf"
    settings.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
    sentinel = serve(str(settings), "--sentinel")
    url = Secret(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
    limiters = [Limiter(Backend(Scripted(), id="b", rate_limit=1), Clock(), url) for _ in range(2)]
    limiters[0].enter(Scope())
    with pytest.raises(RateLimitError):
        limiters[1].enter(Scope(), within=0)
    for limiter in limiters:
        limiter.close()
