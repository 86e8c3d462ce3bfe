"""Blocks of a node that are damaged, replaced by sound ones.

A node writes no block that it believes to have, and removes none that a pin keeps. So a pin that keeps a damaged block
is taken away for a moment. Which one stands meanwhile in a block that is pinned itself: whatever happens, the next
mending on the node sets it again.

Source: boxo 0.40's blockstore/twoqueue_cache.go, and Kubo 0.42's blocks/blockstoreutil/remove.go
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

from pointsman import ContentNotFoundError, InvalidRequestError, Scope, UnavailableError, UnusableAnswer

from ..dag import cid as cids
from ..dag import reader
from ..dag.block import Verified, links_of, verified
from ..dag.cbor import decode, encode
from ._import import Block
from ._rpc import Rpc

#: The name of such a pin.
_NOTE = "pointsman: to be pinned again"


class Mending:
    """Replaces blocks of one node. For one thread.

    :param roots: of the content that is mended, all of which is going to be put.
    """

    def __init__(self, rpc: Rpc, scope: Scope, roots: Iterable[bytes]) -> None:
        self._rpc, self._scope, self._roots = rpc, scope, list(roots)
        self._coming = set(self._roots)  #: blocks that are put, or will be
        self._notes = set[bytes]()
        self._get = Verified(lambda cid: verified(cid, rpc.block(cid, scope)))

    def put(self, cid: bytes, data: bytes) -> None:
        """See to it that the node has a block as it is here.

        :raises UnavailableError: it cannot be replaced; the message says what keeps it.
        """
        self._coming.update((cid, *links_of(cid, data)))
        if self._is_sound(cid):
            return
        while (keeper := self._kept_by(cid)) is not None:
            self._let_go(keeper)
        self._rpc.put(cid, data, self._scope)
        if not self._is_sound(cid):
            raise UnusableAnswer(f"{self._rpc.host}: block {cids.to_text(cid)} stays damaged: is the disk sound?")

    def finish(self) -> None:
        """Pin again what was pinned, now and by whoever was interrupted before."""
        for note in _notes(self._rpc, self._scope):
            try:
                root, name = _noted(self._get(note))
                self._rpc.pin(root, self._scope, name=name)
            except (ContentNotFoundError, UnavailableError, UnusableAnswer):
                if note in self._notes:
                    raise
                continue  # not all of it is there again
            self._rpc.unpin(note, self._scope)

    def _is_sound(self, cid: bytes) -> bool:
        try:
            self._get(cid)
        except (ContentNotFoundError, UnusableAnswer):
            return False
        return True

    def _kept_by(self, cid: bytes) -> bytes | None:
        """Remove a block, or return the root whose pin keeps it."""
        why = self._rpc.remove(cid, self._scope)
        if not why:
            return None
        if why == "pinned: recursive":
            return cid
        keeper = _ours(why.removeprefix("pinned via "))
        if keeper is not None and self._comes_back(keeper):
            return keeper
        if why.startswith("pin check failed"):  # something that is pinned cannot be parsed
            pinned = (root for text in self._rpc.pins(self._scope) if (root := _ours(text)) is not None)
            for root in chain(self._roots, pinned):
                if self._is_damaged_here(root) and self._rpc.is_pinned(root, self._scope):
                    return root
        raise UnavailableError(f"{self._rpc.host}: damaged block {cids.to_text(cid)} cannot be replaced: {why}")

    def _comes_back(self, root: bytes) -> bool:
        """Whether something can be pinned again, once all that is coming is there."""
        try:
            self._rpc.check_whole(root, self._scope)
        except (ContentNotFoundError, UnavailableError, UnusableAnswer):
            return self._is_damaged_here(root)
        return True

    def _is_damaged_here(self, root: bytes) -> bool:
        """Whether something is damaged, and nothing of it but what is coming."""
        damaged = {cid for cid, _ in reader.unsound(self._get, root)}
        return bool(damaged) and damaged <= self._coming

    def _let_go(self, root: bytes) -> None:
        """Take a pin away, once it is noted that it is to come back."""
        note, data = _note_of(root, self._rpc.name_of_pin(root, self._scope))
        self._rpc.put(note, data, self._scope)
        self._rpc.pin(note, self._scope, name=_NOTE)
        self._notes.add(note)
        self._rpc.unpin(root, self._scope)


def forget(rpc: Rpc, root: bytes, scope: Scope) -> None:
    """Let no mending that was interrupted be the reason why a root of ours is pinned again: it is being unpinned."""
    rpc.unpin(_note_of(root, "")[0], scope)


def interrupted(rpc: Rpc, get: Verified, scope: Scope) -> Iterator[bytes]:
    """Give out each root whose pin was taken away by a mending that has not set it again."""
    for note in _notes(rpc, scope):
        with suppress(ContentNotFoundError, UnusableAnswer):
            root, _ = _noted(get(note))
            if not rpc.is_pinned(root, scope):
                yield root


def _notes(rpc: Rpc, scope: Scope) -> list[bytes]:
    return [cids.parse(text) for text in rpc.pins(scope, _NOTE)]


def _noted(data: bytes) -> tuple[bytes, str]:
    noted = decode(data)
    if "cid" not in noted:  # it stands in for a note whose writer was interrupted
        raise UnusableAnswer("it is no note of a pin")
    return cids.parse(noted["cid"]), noted["name"]


def _note_of(root: bytes, name: str) -> Block:
    data = encode({"cid": cids.to_text(root), "name": name})
    return cids.cbor_cid(data), data


def _ours(text: str) -> bytes | None:
    """Return a CID; None for one of another hash function, and for what is none."""
    try:
        return cids.parse(text)
    except InvalidRequestError:
        return None
