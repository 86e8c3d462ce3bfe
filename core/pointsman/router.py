"""The face of the package: sends each request to the right backend and gets a whole answer back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Unpack

from . import _log
from ._answers import Stream, judged, opened
from ._asking import Asking, Got
from ._attempts import Shared
from ._backends import Backend, Providers, backends_of, limiters
from ._breaker import Breaker
from ._discovery import ORDERS, Catalogue, PluginInfo, cause, name_of, plugin_of, wrappers_of
from ._eligible import ModelGate, Place
from ._health import Monitor
from ._order import Priority
from ._requests import Prompt, build
from ._settings import policy_of
from .errors import AllBackendsFailed, AuthenticationError, BackendError, ConfigError
from .forks import ForkLock
from .scope import Clock
from .secret import Secret
from .values import Chunk, Completion, Health, ModelInfo, Options, Request

if TYPE_CHECKING:
    from ._batch import BatchOptions, Item
    from ._journal import Result
    from .store import Store
T = TypeVar("T")

#: Threads that serve `agenerate` and `astream` of one router; more calls at once wait for one.
_THREADS = 64

__all__ = ["Router", "Stream"]


class _Threads(ForkLock):
    """Those of a router, once they are made, and what is held meanwhile; a forked child has none of its parent's."""

    def begin(self) -> None:
        super().begin()
        self.pool: ThreadPoolExecutor | None = None


class Router:
    """Chooses between backends, falls back, and records what it did. Thread-safe.

    :param backends: `Backend` values, bare provider instances (in the order of preference), or a
        mapping of ids to either. Without it, every installed provider that says it is configured,
        and last of all a small model that an installed package ships.
    :param order: the name of an installed `pointsman.orders` plugin, or an instance of one.
    :param timeout: seconds that a whole call may take, with all its attempts.
    :param first_token_timeout: seconds to the first content of a stream, for each attempt.
    :param idle_timeout: seconds between two pieces of content of a stream.
    :param min_rate: characters a second that a stream must bring, as a mean of ten seconds; `None` lets it trickle.
    :param max_retries: further attempts at the same backend, where trying again may help. In all, no call makes
        more than (1 + max_retries) attempts for each backend.
    :param on_refusal: "next" asks another backend when a model refuses; "raise" does not.
    :param on_break: what follows when a stream breaks after its first content: "raise" an `IncompleteAnswer`,
        "restart" with a new answer of the next backend (its first chunk is marked `restarted`), or "continue" with
        the rest of the answer from a backend that can (plain text only; where none can, it raises).
    :param on_limit: where a limit of ours would delay a backend, "next" asks another one that may serve now;
        "wait" waits.
    :param rate_limit_storage: where rates are counted: in this process, or in a `redis://` server that many share.
    :param health_ttl: seconds for which a finding about health is good.
    :param middleware: names of installed `pointsman.middleware` plugins, or instances; the first is the outermost.
    :param receipts: True records every answer, with its request and all that led to it, in a chain that can be verified
        later (`pip install pointsman-ipfs`); a mapping has the options of that.
    :param verbose: show every attempt on stderr.
    :param log_content: let prompts and answers into the log.
    :param clock: what it waits by; `pointsman.testing.Clock` lets a test advance it.
    :raises ConfigError: with every problem that was found.
    """

    def __init__(  # noqa: PLR0913 - the settings of DESIGN section 5, by name
        self,
        backends: Iterable[object] | Mapping[str, object] | None = None,
        *,
        order: str | object = "priority",
        timeout: float | None = 120.0,
        first_token_timeout: float | None = 60.0,
        idle_timeout: float | None = 60.0,
        min_rate: float | None = None,
        max_retries: int = 1,
        on_refusal: Literal["raise", "next"] = "raise",
        on_break: Literal["raise", "restart", "continue"] = "raise",
        on_limit: Literal["next", "wait"] = "next",
        rate_limit_storage: str | Secret | None = None,
        health_ttl: float = 60.0,
        middleware: Iterable[str | object] = (),
        receipts: bool | Mapping[str, Any] = False,
        verbose: bool = False,
        log_content: bool = False,
        clock: Clock | None = None,
        _catalogue: Catalogue | None = None,
        _store: Store | None = None,
    ) -> None:
        self._catalogue = _catalogue or Catalogue()
        if isinstance(rate_limit_storage, str):
            rate_limit_storage = Secret.of(rate_limit_storage)  # no frame of ours shows a password that is in it
        policy = policy_of(locals())
        made = self._installed() if backends is None else backends_of(backends)
        wrappers = wrappers_of(self._catalogue, middleware, "Router")
        if receipts is not False:
            from .config import receipts_of

            wrappers += receipts_of(self._catalogue, receipts, _store)
        self._order_name, self._log_content = name_of(order), log_content
        orderer, clock = plugin_of(self._catalogue, ORDERS, order), clock or Clock()
        self._registry = Providers(made, wrappers, orderer, self._catalogue)
        self._breaker = Breaker(clock)
        self._monitor = Monitor(self._registry, health_ttl, clock)
        if backends is None:
            self._monitor.check(made)  # "configured" is theirs to say
        self._ranked = type(orderer) is Priority  # the same for every request: so it is made once
        ranked = orderer.order(build("?", {}), made) if self._ranked else made
        self._gate = ModelGate(ranked, self._monitor, self._breaker)
        limits = limiters(made, clock, rate_limit_storage)
        self._shared = Shared(policy, self._breaker, clock, limits, self._gate.left_out, verbose)
        self._threads, self._closed = _Threads(), False
        self._source: str | Path | Mapping[str, Any] | None = None
        self._store: Store | None = None
        _log.to_stderr(_log.INFO if verbose or any(backend.verbose for backend in made) else None)

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any]) -> Router:
        """Return the router that a JSON or TOML file, or a mapping of the same form, describes.

        :raises ConfigError: with every problem, each with its path.
        """
        from .config import load, sealed  # costs as much as all the rest, and many programs need none

        source, catalogue = sealed(source), Catalogue()  # no traceback shows the keys in a source that is sealed
        settings = load(source, catalogue=catalogue)
        store = None
        if settings.router.get("receipts", False) is not False and settings.stores:
            from .store import Store

            store = Store(settings.stores, _catalogue=catalogue)
        made = cls(settings.backends, _catalogue=catalogue, _store=store, **settings.router)
        made._source, made._store = source, store
        return made

    @property
    def backends(self) -> tuple[Backend, ...]:
        """All backends, in the order of the configuration."""
        return self._registry.backends

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """Return a whole answer to `prompt`: text, a list of messages, or a `Request`.

        :raises InvalidRequestError: the request is wrong for every backend.
        :raises BackendError: the only backend that could be asked did not answer.
        :raises AllBackendsFailed: several were tried in vain.
        :raises ConfigError: an option is unknown or out of range.
        """
        return self._generate(self._request(prompt, options))

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Stream:
        """Return the answer in pieces: an iterator of `Chunk`, and a context manager.

        Raises what `generate` does, on the first piece; and `IncompleteAnswer` with the partial text
        where the answer breaks after content has been handed out.
        """
        return self._stream(self._request(prompt, options))

    async def agenerate(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """Do as `generate`, in a thread. Cancelling it closes the connection at once."""
        request = self._request(prompt, options)
        try:
            return await self._in_thread(lambda: self._generate(request))
        finally:
            request.scope.cancel()  # changes nothing when the answer is there

    async def astream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncIterator[Chunk]:
        """Do as `stream`, with a thread that reads. Cancelling or leaving it closes the connection at once."""
        stream = self.stream(prompt, **options)
        try:
            while (chunk := await self._in_thread(lambda: next(stream, None))) is not None:
                yield chunk
        finally:
            stream.close()

    def batch(
        self, prompts: Iterable[Item], max_workers: int = 4, **settings: Unpack[BatchOptions]
    ) -> Sequence[Result]:
        """Ask many prompts, some at once, and return the results in order: each a `Completion` or a `BackendError`.

        A prompt is what `generate` takes, or a mapping of `prompt` or `messages` and options of its own. They are
        read as they are needed; ten thousand results are kept in memory, all others in a temporary file.

        :param max_workers: how many are asked at once, or handed to `executor`.
        :param settings: options for all, as `generate` takes them; `timeout` is that of each item, 30 seconds by
            default. And: `on_result(position, result)` is called in this thread for each result as it comes, and ends
            the batch if it raises. `journal` is a file that keeps every result before it is reported: the same call
            again asks only what is not in it, and with `retry_failed` what failed. `executor` runs the items.
        :raises ConfigError: an argument is wrong, or the journal is in use, damaged, or of another batch.
        """
        from ._batch import Batch

        return Batch(self, max_workers, settings).run(prompts)

    async def abatch(
        self, prompts: Iterable[Item], max_workers: int = 4, **settings: Unpack[BatchOptions]
    ) -> Sequence[Result]:
        """Do as `batch`, in a thread, where `prompts` is read and `on_result` called. Cancelling it ends all calls."""
        from ._batch import arun

        return await arun(self, prompts, max_workers, settings)

    def health(self) -> dict[str, Health]:
        """Return how each backend is, asking those that were not asked lately, side by side, within seconds.

        A middleware that has a method `health` is told of by its name: `receipts`, say; an instance by its class.
        """
        found = self._monitor.check(self._registry.backends)
        for backend in self._registry.backends:
            pause = self._breaker.pause(backend.id, backend.model)
            if pause is not None and (was := found[backend.id]).usable:
                found[backend.id] = Health("degraded" if pause.soft else "unavailable", str(pause))
            elif pause is not None:
                found[backend.id] = Health(was.status, f"{was.reason}; {pause.state}", was.refused)
        return self._registry.others() | found

    def order(self, prompt: Prompt = "?", **options: Unpack[Options]) -> tuple[Place, ...]:
        """Tell what would happen to this request: for each backend its place, or why it is left out."""
        request = self._request(prompt, options)
        able, reserve = self._fallback_order(request)
        order, why = able or reserve, self._gate.why_not
        places = [Place(b, n, why(b, request) or f"priority {b.priority:g}") for n, b in enumerate(order, 1)]
        for backend in self._registry.backends:
            if backend not in order:
                reason = why(backend, request) or "left out by the order plugin"
                places.append(Place(backend, None, reason + "; asked if all others fail" * (backend in reserve)))
        return tuple(places)

    def models(self, backend: str | None = None) -> dict[str, Sequence[ModelInfo] | BackendError]:
        """Return what each backend offers, or only the one named; an error in the place of one that cannot tell."""
        self._gate.check_named(build("?", {"backend": backend}))
        wanted = [one for one in self.backends if backend in (None, one.id)]
        with ThreadPoolExecutor(len(wanted) or 1, thread_name_prefix="pointsman-models") as threads:
            return dict(zip([one.id for one in wanted], threads.map(self._registry.list_models, wanted), strict=True))

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Return every installed plugin: loaded, available, or quarantined with the cause."""
        return self._catalogue.infos()

    def close(self) -> None:
        """Release all processes, connections and threads. Repeating it changes nothing.

        :raises BackendError: receipts could not be kept; it says where they are. All is released nevertheless.
        """
        with self._threads.held:
            if self._closed:
                return
            self._closed = True
        try:
            self._registry.close()
        finally:
            if self._store is not None:
                self._store.close()
            for limiter in self._shared.limiters.values():
                limiter.close()
            if self._threads.pool is not None:
                self._threads.pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- one call ------------------------------------------------------------------------------

    def _request(self, prompt: Prompt, options: Mapping[str, Any]) -> Request:
        if self._closed:
            raise ConfigError("this router is closed; make another one")
        return self._started(build(prompt, options))

    def _started(self, request: Request) -> Request:
        policy = self._shared.policy
        request.scope.restart(
            policy.timeout if request.timeout is None else request.timeout,
            policy.idle_timeout if request.idle_timeout is None else request.idle_timeout,
        )
        return request

    def _generate(self, request: Request) -> Completion:
        call = self._call(request, self._ask, streamed=False)
        try:
            answered = call.run(*self._candidates(request))
            return self._finished(call, answered.answer, answered)
        finally:
            call.leave()

    def _ask(self, backend: Backend, request: Request) -> Completion:
        return judged(self._registry.generate(backend, request), request)

    def _stream(self, request: Request) -> Stream:
        call = self._call(request, partial(opened, self._registry), streamed=True)
        return Stream(call, lambda: call.run(*self._candidates(request)), partial(self._finished, call))

    def _call(self, request: Request, ask: Callable[[Backend, Request], T], *, streamed: bool) -> Asking[T]:
        substitute = request.backend is None and len(self._registry.backends) > 1
        return Asking(request, self._shared, ask, streamed=streamed, substitute=substitute)

    def _candidates(self, request: Request) -> tuple[Sequence[Backend], Sequence[Backend]]:
        """Return the fallback order, and the reserve.

        :raises BackendError: nobody can serve this request; it says why, and when to try again.
        """
        able, reserve = self._fallback_order(request)
        if not able and not reserve:
            self._nobody(request)
        return able, reserve

    def _fallback_order(self, request: Request) -> tuple[Sequence[Backend], Sequence[Backend]]:
        if request.backend is not None:
            self._gate.check_named(request)
        able, reserve = self._gate.sorted_out(request)
        if self._ranked or len(able) < 2:
            return able, reserve
        try:
            return self._registry.order(request, able), reserve
        except Exception as error:  # the fault of an order plugin must not cost the caller the answer
            self._catalogue.quarantine(ORDERS, self._order_name, f"order raised {cause(error)}")
            _log.failed("order", error, plugin=self._order_name)
            return sorted(able, key=lambda backend: backend.priority), reserve

    def _nobody(self, request: Request) -> NoReturn:
        """Raise what the caller gets when no backend can be asked at all."""
        errors = [self._hindrance(b, request) for b in self._registry.backends if request.backend in (None, b.id)]
        if not errors:
            raise ConfigError("no backend is configured; write a configuration, or install a provider and set its key")
        if len(errors) == 1:
            raise errors[0]
        soonest = min((error.retry_after for error in errors if error.retry_after is not None), default=None)
        reasons = "; ".join(str(error) for error in errors)
        raise AllBackendsFailed(f"no backend can take this request: {reasons}", errors, retry_after=soonest)

    def _hindrance(self, backend: Backend, request: Request) -> BackendError:
        """Return why a backend cannot be asked, as the error that its cool-down remembers, if that is the reason."""
        why = self._gate.why_not(backend, request) or "left out by the order plugin"
        kind = AuthenticationError if backend.missing.startswith("set ") else BackendError  # a variable: a key
        error = self._gate.refusal(backend, request) or self._gate.remembered(backend, request) or kind(why)
        error.backend = backend.id
        return error

    def _finished(self, call: Asking[Any], whole: Completion, answered: Got[Any]) -> Completion:
        """Return the answer with all that the router knows of it."""
        backend = answered.backend
        model = whole.model or answered.request.model
        call.record(answered, model, "answered")
        call.leave(whole.usage)
        if not self._breaker.silent:
            self._breaker.succeeded(backend.id, answered.request.model)
        self._monitor.well(backend)
        completion = Completion(  # written out: `evolve` costs twice as much, on every call
            whole.text,
            whole.finish_reason,
            whole.tool_calls,
            whole.usage,
            model,
            whole.thinking,
            whole.raw_finish_reason,
            whole.request_id,
            backend.cost(whole.usage) if whole.cost is None else whole.cost,
            backend.id,
            tuple(call.attempts),
            (*whole.warnings, *call.warnings),
            whole.state,
        )
        if self._log_content:
            _log.content(call.request, completion)
        completion = self._registry.receipted(answered.request, completion)
        self._registry.answered(answered.request, completion)
        return completion

    # -- the rest ------------------------------------------------------------------------------

    def _installed(self) -> list[Backend]:
        from .config import installed

        return installed(self._catalogue)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        import asyncio

        with self._threads.held:
            if self._closed:
                raise ConfigError("this router is closed; make another one")
            if (pool := self._threads.pool) is None:
                pool = self._threads.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="pointsman")
        return await asyncio.get_running_loop().run_in_executor(pool, work)
