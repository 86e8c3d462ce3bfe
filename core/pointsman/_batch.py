"""Many prompts, some at once: the engine of `Router.batch`.

One thread, the caller's, reads the prompts, hands them out and reports what came back, so that neither
`prompts` nor `on_result` need be thread-safe. What a worker has finished it makes durable itself, before
the caller's thread hears of it: an interrupt of that thread cannot come between.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define

from ._attempts import translated
from ._journal import Journal, Result, digest
from ._requests import Prompt
from .errors import BackendError, ConfigError, InvalidRequestError, UnavailableError
from .secret import MASK, redact
from .values import Completion, Message, Options, Request

if TYPE_CHECKING:
    from .router import Router

#: What may be asked: a prompt; a mapping of `prompt` or `messages`, options, and an `id` that is the caller's own; or
#: the error of an item that the caller could not read, which keeps its place.
Item: TypeAlias = "Prompt | Mapping[str, Any] | BackendError"

#: Results up to here are a list in memory; those after them are kept in a temporary file.
_IN_MEMORY = 10_000
#: Seconds that calls which are cancelled have to end.
_GRACE = 2.0
#: Seconds after which the thread that waits looks whether there was a signal.
_LOOK = 0.5
_BLANK = Request((Message("user"),))


class BatchOptions(Options, total=False):
    """What `Router.batch` takes as keywords: the options of all its items, and these."""

    on_result: Callable[[int, Result], object] | None
    journal: str | Path | None
    retry_failed: bool
    executor: Executor | None


class Batch:
    """One run over many prompts. `Router.batch` says what the arguments mean.

    :raises ConfigError: an argument or an option is wrong.
    """

    def __init__(self, router: Router, max_workers: int, settings: Mapping[str, Any]) -> None:
        if not isinstance(max_workers, int) or max_workers < 1:
            raise ConfigError(f"max_workers: found {max_workers!r}, expected a whole number from 1 upwards")
        options = {"timeout": 30.0, **settings}
        self.resumed = 0  #: results that stood in the journal already
        self.instead: BackendError | None = None  #: what items get from now on that would have to be asked
        self._router, self._most, self._options = router, max_workers, options
        own = ("on_result", "journal", "retry_failed", "executor")
        self._on_result, self._path, self._retry_failed, self._executor = (options.pop(name, None) for name in own)
        self._running: dict[int, _Call] = {}  # by position; for the thread of `run`
        self._finished: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._results = Results()
        self._journal: Journal | None = None
        self._failure: Exception | None = None
        self._threads = ThreadPoolExecutor(max_workers, "pointsman-batch")  # starts none before it needs one
        self._work = Work(router)
        router.order("?", **options)  # what would be wrong with every item is told at once
        processes = sys.modules.get("concurrent.futures.process")  # who has made one has loaded it
        if processes is not None and isinstance(self._executor, processes.ProcessPoolExecutor):
            pickle.dumps(self._work)  # so is this: a pool to which it is given in vain may never end

    def run(self, prompts: Iterable[Item]) -> Sequence[Result]:
        """Ask all, and return the results in order. To be called once."""
        if isinstance(prompts, str | bytes | Mapping | Request) or not isinstance(prompts, Iterable):
            raise ConfigError(f"prompts: found {type(prompts).__name__}, expected an iterable of prompts")
        with ExitStack() as stack:
            if self._path is not None:
                self._journal = Journal(self._path)
                stack.callback(self._journal.close)
            stack.callback(lambda: self._threads.shutdown(wait=not self._running, cancel_futures=True))
            stack.callback(self._cancel)
            self._work_off(prompts)
        return self._results if len(self._results) > _IN_MEMORY else list(self._results)

    def stop(self) -> None:
        """Let `run` end soon, by raising `CancelledError`. For other threads."""
        self._finished.put((-1, CancelledError()))

    def _work_off(self, prompts: Iterable[Item]) -> None:
        # Some wait in line, so that no thread of ours does; an executor of the caller's has a line of its own.
        most = self._most * (2 if self._executor is None else 1)
        items, more = self._read(prompts), True
        while more or self._running:
            if not more or len(self._running) >= most or not self._finished.empty():
                self._take()
            elif more := (found := next(items, None)) is not None:
                self._begin(*found)
        if self._failure is not None:
            raise self._failure

    def _read(self, prompts: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        try:
            yield from enumerate(prompts)
        except Exception as error:  # the caller's own: what came before is finished first
            self._failure = error

    def _begin(self, position: int, item: Item) -> None:
        """Ask an item, unless there is nothing to ask."""
        known: Result | None = None
        try:
            request = self._request(item)
            mark = digest(request)
        except (BackendError, ConfigError, RecursionError, TypeError, ValueError) as error:
            known = error if isinstance(error, BackendError) else InvalidRequestError(f"prompts[{position}]: {error}")
        else:
            if self._journal is not None:
                known = self._journal.find(position, mark, retry_failed=self._retry_failed)
                self.resumed += known is not None
            known = known or self.instead
            if known is None:
                self._running[position] = _Call(request, position, mark)
                self._hand_out(self._running[position])
                return
        self._report(position, known)

    def _request(self, item: Any) -> Request:
        """Return the request for an item. Its own options go before those of the batch, but nothing allows to leave."""
        if isinstance(item, BackendError):
            raise item
        options = dict(self._options)
        if isinstance(item, Request):
            options = {name: one for name, one in options.items() if getattr(item, name) == getattr(_BLANK, name)}
        elif isinstance(item, Mapping):
            options |= {name: one for name, one in item.items() if name != "id"}
            options |= {name: True for name in ("local_only", "private") if self._options.get(name)}
            asked = [options.pop(name) for name in ("prompt", "messages") if name in item]
            if len(asked) != 1:
                raise ConfigError("expected either prompt or messages, and the options of the item")
            item = asked[0]
        return self._router._request(item, options)

    def _hand_out(self, call: _Call) -> None:
        if self._executor is None:  # the thread does all of it: an interrupt of this one, here, loses no answer
            self._threads.submit(self._done, call, partial(self._work, call.request))
            return
        call.future = self._executor.submit(self._work, call.request)
        call.future.add_done_callback(lambda future: self._done(call, future.result))

    def _done(self, call: _Call, outcome: Callable[[], Result]) -> None:
        """Make a result durable, then hand it over. Called where the work ends."""
        result: Any
        try:
            try:
                result = outcome()
            except (BrokenExecutor, CancelledError, ConfigError):
                raise  # of all items, and not of this one
            except Exception as error:
                result = BackendError(f"the executor failed with {type(error).__name__}: {error}")
            if self._journal is not None and (isinstance(result, Completion) or not call.request.scope.cancelled):
                self._journal.record(call.position, call.mark, result)
        except BaseException as raised:
            result = raised
        call.over = True
        self._finished.put((call.position, result))

    def _take(self) -> None:
        """Wait for a result, and report it. Not for long: a signal that comes just before a wait does not end it."""
        try:
            position, result = self._finished.get(timeout=_LOOK)
        except Empty:
            return
        self._report(position, result)

    def _report(self, position: int, result: Any) -> None:
        self._running.pop(position, None)
        if not isinstance(result, Completion | BackendError):
            raise result
        self._results.keep(position, result)
        if self._on_result is not None:
            self._on_result(position, result)

    def _cancel(self) -> None:
        """End what still runs, and wait a short time for it: what was answered nevertheless is in the journal then."""
        calls, until = list(self._running.values()), monotonic() + _GRACE
        for call in calls:
            if call.future is not None:
                call.future.cancel()
        for call in reversed(calls):  # one whose future is not noted yet must know it before a worker is free for it
            call.request.scope.cancel()
        while self.stuck and monotonic() < until:
            with suppress(Empty):
                self._finished.get(timeout=_LOOK / 10)

    @property
    def stuck(self) -> bool:
        """Whether calls are running: after an interrupt, those that did not obey."""
        return not all(call.over for call in self._running.values())


@define(eq=False)
class _Call:
    """An item that is being asked."""

    request: Request
    position: int
    mark: bytes  #: its digest
    future: Future[Result] | None = None
    over: bool = False  #: all is done, and durable


class Work:
    """What a worker does. In another process it makes the router anew, from the same configuration."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def __call__(self, request: Request) -> Result:
        """Return the answer, or the error, without the frames that it came through: they hold memory."""
        router, scope = self._router, request.scope
        if scope.cancelled:
            return UnavailableError("the batch was ended before this was asked")
        while True:
            try:
                return router._generate(router._started(request))
            except Exception as raised:
                error = InvalidRequestError(str(raised)) if isinstance(raised, ConfigError) else translated(raised)
            errors: list[BackendError] = [error, *getattr(error, "exceptions", ())]
            ours = [one.retry_after for one in errors if one.code == "own_limit" and one.retry_after is not None]
            scope.restart(None, None)  # an item's time does not run while a limit of ours holds it back
            if not ours or scope.cancelled or not router._shared.clock.wait(scope, min(ours)):
                break
        for one in errors:
            one.__cause__ = one.__context__ = one.__traceback__ = None
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        source = self._router._source
        if source is None:
            raise ConfigError(
                "executor: no other process has the objects this router is made of; use Router.from_config"
            )
        text = json.dumps(dict(source) if isinstance(source, Mapping) else Path(source).absolute(), default=str)
        if redact(text) != text or MASK in text:
            del text  # no traceback shows it
            raise ConfigError("executor: the configuration holds a key, which is sent nowhere; write ${NAME} instead")
        return _work, (text,)


@cache
def _work(source: str) -> Work:
    from .router import Router

    return Work(Router.from_config(json.loads(source)))


class Results(Sequence[Result]):
    """The results of a batch, in order. All but the first are in a temporary file, which ends with this object."""

    def __init__(self) -> None:
        self._count = 0
        self._near: dict[int, Result] = {}
        self._far: Journal | None = None

    def keep(self, position: int, result: Result) -> None:
        """Remember a result. They may come in any order."""
        self._count += 1
        if position < _IN_MEMORY:
            self._near[position] = result
        else:
            self._far = self._far or Journal(None)
            self._far.record(position, b"", result)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        place = range(self._count)[index]
        if isinstance(place, range):
            return [self[one] for one in place]
        return self._near[place] if self._far is None or place < _IN_MEMORY else self._far.find(place, b"")

    def __del__(self) -> None:
        if self._far is not None:
            self._far.close()


async def arun(
    router: Router, prompts: Iterable[Item], max_workers: int, settings: Mapping[str, Any]
) -> Sequence[Result]:
    """Do as `run`, in a thread; cancelling it returns when all has ended."""
    import asyncio

    batch = Batch(router, max_workers, settings)
    running = asyncio.ensure_future(router._in_thread(lambda: batch.run(prompts)))
    try:
        return await asyncio.shield(running)
    finally:
        batch.stop()
        await asyncio.wait([running])
