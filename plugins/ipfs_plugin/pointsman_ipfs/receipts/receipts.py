"""Receipts: a signed, chained record of every answer of a router. `pointsman_ipfs.proof` verifies it.

router = Router(receipts=True)                  # or {"key_path": "receipts.pem", "content": False}
answer = router.generate("Name three rivers.")
answer.receipt                                  # the CID of its record
router.close()                                  # now it is durable
all(check.holds for check in pointsman_ipfs.proof.verify(default_path()))
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen, validators
from attrs.converters import optional
from pointsman import Completion, ConfigError, Health, Request, Secret, Store, hookimpl

from ..embedded.blocks import Blocks
from ._ledger import Keeping, Ledger
from ._receipt import answer_content, digest, request_content, written
from ._signature import Signer, secret_of, signer_of

__all__ = ["Receipts", "matches"]

#: Held while a chain is begun, or ended; a forked child has one of its own.
_opening = threading.Lock()


def _forked() -> None:
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def _check(named: str | None, store: Store | None) -> None:
    if not isinstance(store, Store | None):
        raise ConfigError(f"store: found {type(store).__name__}, expected a pointsman.Store: Store([Blocks(path=...)])")
    known = ["blocks"] if store is None else [one.id for one in store.stores]
    if named is not None and named not in known:
        raise ConfigError(f"store_id: found {named!r}, expected one of {', '.join(map(repr, known))}")


@frozen(kw_only=True)
class Receipts:
    """Keeps a record of every answer: what was asked, who answered, and all that led to it. Each names the last.

    A receipt is durable soon, and when `close` returns. Threads may share it, and routers: each process has its chain.
    A call that fails has none, nor has a stream that is left, or breaks, before its end: they are no answers.
    """

    #: Where they are kept: by default in the embedded store alone, since whatever is on a node of IPFS may be found by
    #: others. A store that is given is not closed.
    store: Store | None = field(default=None, repr=False, eq=False)
    #: The id of the one store that keeps them, where there are several.
    store_id: str | None = None
    #: Whether what was asked and answered is in them; else, and for a request that is `private`, a digest of it.
    content: bool = True
    #: What signs them: a private key of Ed25519: that of `cryptography`, PEM, or its 32 bytes (in base64, hexadecimal,
    #: or as they are); or a file with such a text.
    key: Secret | None = field(default=None, converter=secret_of, repr=False)
    key_path: Path | None = field(default=None, converter=optional(Path))
    #: Seconds for which a receipt waits for others to become durable with it.
    delay: float = field(default=0.25, validator=[validators.ge(0), validators.le(3600)])
    #: Seconds that `close` goes on trying while nothing can be kept.
    close_timeout: float = field(default=10.0, validator=[validators.ge(0), validators.le(3600)])
    #: The folder where each router notes its newest receipt. Without: beside the content of the first store that has a
    #: path.
    trail_path: Path | None = field(default=None, converter=optional(Path))
    _signer: Signer | None = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda self: signer_of(self.key, self.key_path), takes_self=True),
    )
    _used: list[_Open] = field(init=False, repr=False, eq=False, factory=list)

    def __attrs_post_init__(self) -> None:
        _check(self.store_id, self.store)

    @hookimpl
    def receipt(self, request: Request, completion: Completion) -> str:
        """Record an answer, and return the CID of the record.

        :raises UnavailableError: the disk has been too slow, or full, for long.
        """
        ledger, content = self._opened().ledger, self.content and not request.private
        try:
            return ledger.add(written(request, completion, content=content), request.scope)
        except (TypeError, ValueError, RecursionError):
            careful = written(request, completion, content=content, careful=True)
            return ledger.add(careful, request.scope)

    def health(self) -> Health:
        """Say whether receipts can be kept, and how many wait for that."""
        waiting, failing = self._waiting()
        return Health.degraded(f"{waiting} receipts wait to be kept: {failing}") if failing else Health.ok()

    @property
    def waiting(self) -> int:
        """How many receipts are not durable yet."""
        return self._waiting()[0]

    @hookimpl
    def close(self) -> None:
        """Wait until every receipt is durable.

        :raises UnavailableError: some are not; it says how many, and where they are.
        """
        with _opening:
            used, self._used[:] = list(self._used), []
        for opened in used:
            opened.close()

    def _waiting(self) -> tuple[int, str]:
        return next((one.ledger.waiting for one in reversed(self._used) if one.ledger.pid == os.getpid()), (0, ""))

    def _opened(self) -> _Open:
        """Return the chain of this process."""
        last = self._used[-1:]  # `close` may come at any time
        if last and last[0].ledger.pid == os.getpid():
            return last[0]
        with _opening:
            used = self._used
            if not used or used[-1].ledger.pid != os.getpid():
                used.append(_Open(self))
            return used[-1]


def matches(
    receipt: Mapping[str, Any], *, request: Request | None = None, completion: Completion | None = None
) -> bool:
    """Whether this was asked, and answered, by what a receipt without content says of it.

    :param receipt: what its block says, read with any library for DAG-CBOR.
    """
    said, salt = dict[str, Any](), receipt.get("salt", b"")
    if request is not None:
        said["request"] = request_content(request)
    if completion is not None:
        said["answer"] = answer_content(completion)
    return all(receipt[name].get("digest") == digest(salt, content) for name, content in said.items())


class _Open:
    """What a process has open: a chain, and a store of its own where none was given."""

    def __init__(self, options: Receipts) -> None:
        self._kept_in = Blocks() if options.store is None else options.store  # some users can have no default
        self._own: Store | None = None
        folder = options.trail_path or self._beside()
        how = options.store_id, folder, options._signer, options.delay, options.close_timeout
        self.ledger = Ledger(Keeping(self._store, *how))

    def _store(self) -> Store:
        """Return the store; ours is made in the thread that needs it."""
        if isinstance(self._kept_in, Store):
            return self._kept_in
        if self._own is None:
            self._own = Store([self._kept_in])
        return self._own

    def _beside(self) -> Path | None:
        """Return where routers leave their trails if nobody says."""
        given = self._kept_in
        folders = [one.folder for one in given.stores] if isinstance(given, Store) else [given.path]
        return next((folder / "receipts" for folder in folders if folder is not None), None)

    def close(self) -> None:
        try:
            self.ledger.close()
        finally:
            if self._own is not None:
                self._own.close()
