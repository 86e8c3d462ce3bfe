"""What is here already and is to be pinned: is it whole, and how it is kept from collections until it is pinned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from time import monotonic, sleep, time_ns

from pointsman import ContentNotFoundError, UnusableAnswer

from ..dag.block import Verified
from ..dag.cid import to_text
from ..dag.reader import Seen, reachable
from ._places import Places

#: Seconds for which what is missing under a new pin is looked for: by who removes what is not found, by who tells.
PATIENCE_S, _SHORT_S = 10.0, 1.0
_PAUSE_S = 0.05


def lacking(places: Places, root: bytes, get: Verified, seen: Seen | None = None) -> str:
    """Say what is not here of all that is under a root ("" if it is whole). Blocks without links are not read.

    :param seen: the CIDs that are passed over, with all below them; those that are looked at are added.
    """
    try:
        for some in _by_thousands(reachable(get, root, seen)):
            known = places.index.known([cid[-32:] for cid in some])
            for cid in some:
                if cid[-32:] not in known and places.find(cid[-32:]) is None:
                    return f"block {to_text(cid)} is not here"
    except (ContentNotFoundError, UnusableAnswer) as error:
        return error.message
    return ""


def lacking_still(
    places: Places,
    root: bytes,
    get: Verified,
    begin: Callable[[], Seen | None] = lambda: None,
    patience: float = _SHORT_S,
) -> str:
    """Say so of a root that was pinned: others may have unpinned and collected it since, or be writing it again.

    :param begin: returns what is passed over and added to; called for each look, also for that at a pin that is gone.
    :param patience: seconds for which it is looked for again.
    """
    ends = monotonic() + patience
    while True:
        seen = begin()
        places.catch_up()
        why = lacking(places, root, get, seen) if places.pinned(root) else ""
        if not why or not _later(places, root, ends):
            return why


def _later(places: Places, root: bytes, ends: float) -> bool:
    """Say, a moment later, whether what is missing under a pin is to be looked for again: the pin is new.

    A put whose blocks were just collected by somebody else writes them again, after its pin.

    :param ends: when the patience ends, by `monotonic`.
    """
    if monotonic() > ends or any(time_ns() - pin.seq > PATIENCE_S * 1e9 for pin in places.index.said_of([root])):
        return False
    sleep(_PAUSE_S)
    return True


class Held:
    """Roots that are here and are to be pinned.

    A collection spares what is touched after it began, and what is pinned when it looks. So all of it is touched, then
    pinned; and touched again if a collection began between the two, which may have looked before the pin was there.

    :param own: the roots that are to be pinned.
    """

    def __init__(self, places: Places, get: Verified, own: Iterable[bytes]) -> None:
        self._places, self._get, self._own = places, get, {*own}
        self._roots, self._generation = list[bytes](), places.generation
        self._relied = list[bytes]()  #: roots that were pinned already, and so whole

    def hold(self, root: bytes) -> None:
        """Keep all that is under a root from being collected.

        :raises ContentNotFoundError: something of it is not here.
        :raises UnusableAnswer: something of it is damaged.
        """
        for some in _by_thousands(reachable(self._get, root)):
            _touch(self._places, some)
        self._roots.append(root)

    def holds(self, root: bytes) -> bool:
        """Do as `hold`; say whether all of it is here. What is pinned is not walked again.

        But for what is pinned anew: that hides whether others have unpinned it meanwhile.
        """
        if root not in self._own and self._places.pinned(root):
            self._relied.append(root)
            return True
        try:
            self.hold(root)
        except (ContentNotFoundError, UnusableAnswer):
            return False
        return True

    def pinned(self, unpin: Callable[[tuple[bytes, ...]], object]) -> None:
        """Say that the pins are durable. Where a collection was faster, they are taken back.

        But for those of roots that are whole: others may have pinned the same ones meanwhile, and put what was missing.

        :raises ContentNotFoundError: something was collected meanwhile.
        """
        again = [] if self._places.generation == self._generation else list(self._roots)
        again += [root for root in self._relied if not self._places.pinned(root)]  # unpinned since
        try:
            for root in again:
                self.hold(root)
        except (ContentNotFoundError, UnusableAnswer):
            unpin(tuple(one for one in self._own if lacking(self._places, one, self._get)))
            raise


def _touch(places: Places, some: Sequence[bytes]) -> None:
    digests = [cid[-32:] for cid in some]
    held = places.index.touch(digests)
    if len(held) < len({*digests}):
        places.catch_up_wholly()
        held = places.index.touch(digests)
    for cid in some:
        if cid[-32:] not in held:
            raise ContentNotFoundError(f"block {to_text(cid)} is not in this store")


def _by_thousands(found: Iterator[bytes]) -> Iterator[list[bytes]]:
    while some := list(islice(found, 1000)):
        yield some
