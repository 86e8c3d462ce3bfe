"""The provider: options of a user, hooks of the router."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from attrs import Factory, field, frozen, validators
from pointsman import (
    BackendError,
    Chunk,
    Completion,
    Health,
    InvalidModelError,
    ModelInfo,
    ModelNotFoundError,
    Request,
    collect,
    hookimpl,
)

from ._answer import chunks
from ._ask import Ask, Asker
from ._exchange import Exchange
from ._gguf import Header, read_header, shows_tools
from ._keeper import Keeper
from ._launch import EngineName, Launch
from ._model_file import DEFAULT, NOT_FETCHED, chosen, stem

_positive = validators.and_(validators.instance_of(int), validators.ge(1))
_seconds = validators.gt(0.0)
_DEMONSTRATION_TOKENS = 256


@frozen
class Local:
    """Answers with a GGUF model in this machine's memory, in a child process that starts with the first call.

    Thread-safe: up to `n_parallel` requests are worked on together, more wait their turn. Only with
    `n_parallel=1` does the same seed (or temperature 0) always give the same answer: in a batch, sums are
    rounded in another order.
    """

    #: A path, `package:DISTRIBUTION/FILE.gguf` (a file that an installed package ships) or
    #: `hf://OWNER/REPOSITORY/FILE.gguf`. Without: POINTSMAN_MODEL, else the small demonstration model.
    model_path: str | None = None
    #: What the model is called; its file's name if not given.
    model: str = field(default=Factory(lambda self: stem(chosen(self.model_path)), takes_self=True))
    #: "auto": xllamacpp, and llama-cpp-python where that is missing or does not run on this processor.
    engine: Literal["auto", "xllamacpp", "llama-cpp-python"] = field(
        default="auto", validator=validators.in_(("auto", "xllamacpp", "llama-cpp-python"))
    )
    #: Tokens of one request and its answer; never more than the model was trained for.
    n_ctx: int = field(default=4096, validator=_positive)
    #: Threads that compute. Without: one less than there are processors.
    n_threads: int | None = field(default=None, validator=validators.optional(_positive))
    #: Layers of the model that a GPU computes; -1: all.
    n_gpu_layers: int = field(default=0, validator=validators.instance_of(int))
    #: Requests that are worked on together (llama-cpp-python: always one). Memory for `n_ctx` tokens each.
    n_parallel: int = field(default=4, validator=validators.and_(_positive, validators.le(256)))
    #: A Jinja template in place of the file's own.
    chat_template: str | None = None
    #: For requests without one. A seed switches the reuse of computed prompts off: what is reused is rounded otherwise.
    seed: int | None = None
    #: Seconds that loading may take.
    load_timeout: float = field(default=300.0, validator=_seconds)
    #: Seconds without any sign of life from the engine, while it works, after which it is ended.
    hang_timeout: float = field(default=120.0, validator=_seconds)
    #: Address space that the child may take. Without: what model and context can need.
    memory_limit_mib: int | None = field(default=None, validator=validators.optional(_positive))

    _launch: Launch = field(init=False, repr=False, eq=False)
    _keeper: Keeper = field(init=False, repr=False, eq=False)

    #: Nothing leaves this machine.
    local: ClassVar[bool] = True

    @_launch.default
    def _make_launch(self) -> Launch:
        return Launch(
            model=chosen(self.model_path),
            engine=self.engine,
            n_ctx=self.n_ctx,
            n_threads=self.n_threads,
            n_gpu_layers=self.n_gpu_layers,
            n_parallel=self.n_parallel,
            chat_template=self.chat_template,
            memory_limit_mib=self.memory_limit_mib,
            load_timeout=self.load_timeout,
            hang_timeout=self.hang_timeout,
        )

    @_keeper.default
    def _make_keeper(self) -> Keeper:
        return Keeper(self._launch)

    @property
    def demonstration(self) -> bool:
        """Whether the small demonstration model is in use.

        It answers greedily, and in no more than 256 tokens, unless a request says otherwise: a model so
        small does not always find an end.
        """
        return self._launch.model == DEFAULT

    @property
    def capabilities(self) -> frozenset[str]:
        """Output schemas always; tools where the model's chat template knows them.

        xllamacpp (2026.10) goes on with a last message of the assistant; llama-cpp-python (0.3.36) begins anew.
        """
        engine = next(iter(self._launch.installed()), None)
        able = {"schema"}
        if self._calls_tools(self._peek(), engine):
            able.add("tools")
        if engine == "xllamacpp":
            able.add("continuation")
        return frozenset(able)

    @property
    def context_window(self) -> int:
        """Tokens of one request and its answer."""
        return self._launch.context(self._peek())

    @property
    def missing(self) -> str:
        """What a person must do before a model can be loaded: "" if nothing."""
        found = self.health()
        return "" if found.usable else found.reason

    def unsupported(self, request: Request) -> frozenset[str]:
        """Return the options that no model of this kind takes: none thinks as it is told to."""
        return frozenset({"reasoning_effort"})

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Answer the request, whole."""
        return collect(self.stream(request))

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer the request in pieces."""
        if request.model not in (None, self.model):
            raise ModelNotFoundError(f"this backend has the model {self.model!r}, not {request.model!r}")
        child = self._keeper.child()
        with Exchange(child, request.scope) as exchange:
            exchange.wait_ready()
            ask = self._ask(request, child.header, child.engine)
            if ask.warnings:
                yield Chunk(warnings=ask.warnings)
            yield from chunks(exchange.ask(ask.body), ask, self.model)

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return the one model that there is."""
        return [ModelInfo(self.model, self.context_window)]

    @hookimpl
    def health(self) -> Health:
        """Say whether there are an engine and a model that looks whole. Loads nothing and fetches nothing."""
        try:
            self._launch.engines()
            read_header(self._launch.file(fetch=False))
        except InvalidModelError as error:
            return Health.unavailable(error.message)
        except BackendError as error:
            return Health.degraded(error.message) if error.code == NOT_FETCHED else Health.unconfigured(error.message)
        return Health.ok()

    @hookimpl
    def close(self) -> None:
        """End the child process. A later call starts a new one."""
        self._keeper.close()

    def _ask(self, request: Request, header: Header, engine: EngineName | None) -> Ask:
        asker = Asker(
            header=header,
            limit=self._launch.context(header),
            chat_template=self.chat_template,
            seed=self.seed,
            temperature=0.0 if self.demonstration else None,
            max_tokens=_DEMONSTRATION_TOKENS if self.demonstration else None,
            calls_tools=self._calls_tools(header, engine),
        )
        return asker.ask(request)

    def _calls_tools(self, header: Header, engine: EngineName | None) -> bool:
        knows = header.tool_template if self.chat_template is None else shows_tools(self.chat_template)
        return knows and engine == "xllamacpp"

    def _peek(self) -> Header:
        """Return the header if the file is there to be read."""
        try:
            return read_header(self._launch.file(fetch=False))
        except BackendError:
            return Header()
