"""What a call takes it gives back, however it ends: places within limits, connections, threads that wait."""

import asyncio
import gc
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any

import pytest
from attrs import define
from pointsman import Backend, BackendError, Chunk, Completion, ConfigError, Request, Router, Stream, hookimpl
from pointsman.http import Client
from pointsman.scope import Scope
from pointsman.testing import Scripted

END = Chunk(finish_reason="stop")


def limited(provider: object, *others: object, **settings: Any) -> Router:
    rest = [Backend(other, id=name, priority=200) for name, other in zip("bc", others, strict=False)]
    return Router([Backend(provider, id="a", max_concurrency=1), *rest], **settings)


def free(router: Router) -> bool:
    return router._shared.limiters["a"].wait_needed() == 0.0


@define(eq=False)
class Bad:
    """A provider whose stream raises when it is closed."""

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        try:
            yield Chunk("Hel")
            yield END
        finally:
            raise RuntimeError("cannot close")


def test_a_stream_that_cannot_be_closed_gives_its_place_back() -> None:
    """What a plugin raises when it is closed is nobody's answer, and costs no place."""
    with limited(Bad()) as router:
        with router.stream("hi") as stream:
            assert next(stream).text == "Hel"
        assert free(router)


def test_a_stream_closed_before_it_was_let_in_gives_its_place_back() -> None:
    """Another thread may close a stream at any time, also while its first chunk is awaited."""

    @define(eq=False)
    class Order:
        stream: Stream | None = None

        @hookimpl
        def order(self, request: Request, backends: Sequence[Backend]) -> Sequence[Backend]:
            assert self.stream is not None
            closer = threading.Thread(target=self.stream.close)
            closer.start()
            closer.join(10)
            return backends

    order = Order()
    with limited(Scripted("hello there"), Scripted("b"), order=order) as router:
        order.stream = router.stream("hi")
        with suppress(BackendError):
            list(order.stream)
        assert free(router)


@define(eq=False)
class Forgetful(Scripted):
    """A double whose table of models is broken."""

    broken: bool = False

    def unsupported(self, request: Request) -> Sequence[str]:
        if self.broken:
            raise KeyError(request.model)
        return ()


def test_a_broken_table_of_models_costs_neither_the_answer_nor_a_place() -> None:
    """The fault of a plugin is its backend's alone."""
    a = Forgetful("a")
    with limited(a, Scripted("b")) as router:
        a.broken = True
        assert router.generate("hi", temperature=0.5).backend == "a"
        assert free(router)


def test_ctrl_c_ends_the_connection() -> None:
    """Whoever keeps the traceback, as a notebook does, keeps no connection on which a model goes on talking."""

    @define(eq=False)
    class Provider:
        client: Client

        @hookimpl
        def generate(self, request: Request) -> Completion:
            return Completion(self.client.post_json("chat", {}, request.scope).data)

    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        server.settimeout(10)
        router = stack.enter_context(limited(Provider(Client(f"http://127.0.0.1:{server.getsockname()[1]}"))))

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt) as kept:
                router.generate("hi", timeout=10)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        sock, _ = server.accept()
        with sock:
            sock.settimeout(3)
            while sock.recv(4096):
                pass
        assert kept.value is not None
        assert free(router)


def test_a_collected_stream_wakes_a_waiter_in_its_own_thread() -> None:
    """The collector may run while a thread goes to sleep, and end there the stream whose place it waits for."""
    done = threading.Event()
    with limited(Scripted([[Chunk("Hel"), Chunk("lo"), END]])) as router:

        def hold() -> None:
            stream = router.stream("hi")
            next(stream)
            circle: list[Any] = [stream]
            circle.append(circle)

        def collect(frame: FrameType, event: str, _: object) -> Any:
            called = [one.f_code.co_name for one in (frame, frame.f_back) if one is not None]
            if event == "call" and called == ["wait", "wait"]:  # `Condition.wait`, called by `Event.wait`
                gc.collect()

        def wait() -> None:
            sys.settrace(collect)
            try:
                with suppress(BackendError):
                    router.generate("hi", timeout=5)
            finally:
                sys.settrace(None)
            done.set()

        gc.disable()
        try:
            hold()
            assert not free(router)
            threading.Thread(target=wait, daemon=True).start()
            assert done.wait(15)
        finally:
            gc.enable()


def test_a_log_may_ask_the_router() -> None:
    """No lock is held while a line is written: a handler that itself asks, from wherever, gets its answer."""
    import logging

    found: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "circuit" in record.getMessage():
                asker = threading.Thread(target=router.order, daemon=True)
                asker.start()
                asker.join(2)
                found.append(not asker.is_alive())

    handler = Handler()
    logging.getLogger("pointsman").addHandler(handler)
    try:
        from pointsman import UnavailableError

        with Router({"a": Scripted([UnavailableError("down", retry_same=False)]), "b": Scripted("b")}) as router:
            router.generate("hi")
    finally:
        logging.getLogger("pointsman").removeHandler(handler)
    assert found == [True]


def test_an_answer_announced_by_hints_is_not_the_next_ones() -> None:
    """An informational answer (103, RFC 8297) is passed over; what follows it belongs to its own request."""

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            for number in (1, 2):
                while b"\r\n\r\n" not in sock.recv(1 << 16):
                    pass
                sock.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
                time.sleep(0.2)
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = Client(f"http://127.0.0.1:{server.getsockname()[1]}")
        answers = []
        for _ in range(2):
            try:
                answers.append(client.get_json("x", Scope(5)).data)
            except BackendError as error:
                answers.append(error)
        client.close()
        thread.join(10)
    assert answers == [1, 2]


async def _read_on() -> list[str]:
    texts = []
    router = Router([Scripted([[Chunk("Hel"), Chunk("lo"), END]])])
    async for chunk in router.astream("hi"):
        texts.append(chunk.text)
        router.close()
    return texts


def test_a_closed_router_says_so_to_who_reads_on() -> None:
    """A stream of coroutines that is read after `close` ends with an error of ours, not with one of a pool."""
    with pytest.raises(ConfigError, match="this router is closed"):
        asyncio.run(_read_on())
