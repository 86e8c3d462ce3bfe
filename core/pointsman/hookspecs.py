"""What a plugin may implement: the whole contract.

A plugin is an attrs class whose fields are the options that a user may write. It is found through
an entry point, built once for each configured backend, and its methods marked with `@hookimpl`
are called as said below. All hooks are called from many threads at once.

Beside its hooks, the router reads these attributes of a provider, each of them optional:

- `model`: the model that this backend asks by default (usually a field).
- `capabilities`: a set of "tools", "schema", "images", "continuation" (it goes on with a last message of the
  assistant, from its last character). A request that needs one goes only there.
- `unsupported(request)`: a method that returns the names of the options of `request` which its model does not take, so
  set or together; `request.model` is the one that will be asked.
- `vendor`: whose `State` it can read; its type by default.
- `local`: True if nothing leaves this machine. `local_only` requests go only there.
- `context_window`: tokens that fit the model, or None if unknown.
- `missing`: what a person must add (a key, a file), or "": as far as can be known without connecting.

And of a store:

- `read_only`: why nothing can be kept there now (a gateway, a disk that cannot be written), and what to do; or "". Such
  a store is asked for reading only.
- `local`: True if it is on this machine: such stores come first.
- `path`: a `Path`, the folder of this machine in which it, and no other store, keeps content. The outbox, the index of
  evidence and what receipts note are kept there too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pluggy import HookimplMarker, HookspecMarker

from .content import Collected, Entry, Finding, Progress, Source, Stored
from .scope import Scope
from .values import Chunk, Completion, Health, ModelInfo, Request

if TYPE_CHECKING:
    from ._backends import Backend

hookspec = HookspecMarker("pointsman")
#: Marks a method as the implementation of a hook: `@hookimpl`, or `@hookimpl(wrapper=True)` in a middleware.
hookimpl = HookimplMarker("pointsman")


@hookspec(firstresult=True)
def generate(request: Request) -> Completion:
    """Answer the request, whole.

    Called for each attempt. Send what `request` sets and leave out what is None. Return within
    `request.scope.remaining()` seconds and stop when `request.scope` is cancelled. Raise a
    `BackendError` for everything that goes wrong. Never retry, never sleep, never fall back: the
    router does.
    """


@hookspec(firstresult=True)
def stream(request: Request) -> Iterator[Chunk]:
    """Answer the request in pieces, each as soon as it is there.

    The last chunk has `finish_reason`. Errors are raised while iterating. When the iterator is
    closed or `request.scope` cancelled, stop the work and release what it holds at once. A
    provider without this hook is asked with `generate`, and its answer is sent as one chunk;
    one without `generate` has its stream collected.
    """


@hookspec(firstresult=True)
def health() -> Health:
    """Say whether the backend is installed, configured and reachable.

    Called in the background and by `Router.health()`, never in the path of a call. Costs no
    tokens, returns within seconds, does not raise: what is wrong goes into the reason, with what a
    person can do about it. Of a key or a login that the service refuses it says so (`Health.refused`).
    """


@hookspec(firstresult=True)
def list_models() -> Sequence[ModelInfo]:
    """Return the models that the backend offers, where its service tells. Costs no tokens; raises a `BackendError`."""


@hookspec
def close() -> None:
    """Release processes, connections and threads. Called once, when the router closes.

    What it raises is logged; the `BackendError` of a middleware is passed on too, once all others are closed: it says
    what is lost.
    """


@hookspec(firstresult=True)
def order(request: Request, backends: Sequence[Backend]) -> Sequence[Backend]:
    """Return the fallback order for this request: the first is asked first.

    `backends` are those that can serve it, in the order of the configuration. Called for each
    request; return some or all of them, and change nothing.
    """


@hookspec
def answered(request: Request, completion: Completion) -> None:
    """Observe an answer after the fact: receipts, metrics. What it raises is logged, not passed on."""


@hookspec(firstresult=True)
def receipt(request: Request, completion: Completion) -> str:
    """Record an answer, and return the identifier of the record: `Completion.receipt` is that.

    Called for each answer, in the thread of the caller, who waits: write it down later, and be done with that when
    `close` returns. What it raises is logged, and told in `Completion.warnings`.
    """


# -- stores ------------------------------------------------------------------------------------------
#
# They keep content under its content identifier (CID). A `cid` may be followed by names, `CID/a/b`: what a folder has
# there. Each hook stops when its `scope` is cancelled, and raises a `BackendError` for what goes wrong:
# `ContentNotFoundError` where it does not have the content, or the names lead to nothing, `InvalidRequestError` for a
# CID that is none, `UnusableAnswer` where it has other bytes than the CID stands for. A store without a hook is not
# asked for that.


@hookspec(firstresult=True)
def store(source: Source, scope: Scope) -> Stored:
    """Keep a file, a folder or a stream of bytes, whole or not at all; durable when it returns.

    Read it in pieces: never the whole in memory.
    """


@hookspec(firstresult=True)
def fetch(cid: str, offset: int, length: int | None, scope: Scope) -> Iterator[bytes]:
    """Give back the bytes kept under `cid`, from `offset`, `length` of them (None: to the end).

    Every piece has been verified against the CID before it is handed out.
    """


@hookspec(firstresult=True)
def resolve(cid: str, scope: Scope) -> str:
    """Return the CID of what a path leads to, written as `store` writes it: one thing has one such name."""


@hookspec(firstresult=True)
def has(cid: str, scope: Scope) -> bool:
    """Say whether everything under `cid` is there, without reading it."""


@hookspec(firstresult=True)
def entries(cid: str | None, scope: Scope) -> Iterator[Entry]:
    """List a folder; None: what is pinned."""


@hookspec(firstresult=True)
def extract(cid: str, target: Path, scope: Scope) -> None:
    """Write a file or a folder to `target`, where nothing is: whole and verified, or not at all."""


@hookspec(firstresult=True)
def export_car(cid: str, scope: Scope) -> Iterator[bytes]:
    """Give out everything under `cid` as a CAR file of version 1, verified."""


@hookspec(firstresult=True)
def import_car(source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
    """Keep what a CAR file holds, verified, and return its roots; pinned, if `pin`, each is whole. Durable then."""


@hookspec(firstresult=True)
def mend(source: BinaryIO, scope: Scope) -> Sequence[Stored]:
    """Replace what is damaged of what a CAR file holds, pinned or not, and return its roots.

    Only for a store in which `import_car` does not do so.
    """


@hookspec(firstresult=True)
def pin(cid: str, scope: Scope) -> None:
    """Keep everything under `cid` until it is unpinned."""


@hookspec(firstresult=True)
def unpin(cid: str, scope: Scope) -> None:
    """Let `collect` take what is under `cid`, unless another pin keeps it. What is not pinned stays as it is."""


@hookspec(firstresult=True)
def collect(scope: Scope) -> Collected:
    """Remove what no pin keeps. What a running put adds is kept."""


@hookspec(firstresult=True)
def verify(cid: str | None, progress: Progress, scope: Scope) -> Iterator[Finding]:
    """Read everything that is kept, or what is under `cid`, and give out what is wrong with it.

    :param progress: is told, each time, how many bytes were read.
    """
