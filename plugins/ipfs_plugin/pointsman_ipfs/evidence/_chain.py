"""The order of records: each after those that it follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush


def in_order(links: Mapping[bytes, tuple[str, tuple[bytes, ...]]]) -> Iterator[bytes]:
    """Yield the CIDs of records so that each comes after those that it follows; of several, the earliest first.

    :param links: of each record when it was made, and the CIDs of those that it follows, which may be missing.
    """
    after: dict[bytes, list[bytes]] = {}
    waits = dict[bytes, int]()
    for cid, (_, previous) in links.items():
        there = [before for before in dict.fromkeys(previous) if before in links]
        waits[cid] = len(there)
        for before in there:
            after.setdefault(before, []).append(cid)
    ready = [(links[cid][0], cid) for cid, count in waits.items() if not count]
    heapify(ready)
    while ready:
        _, cid = heappop(ready)
        yield cid
        for following in after.get(cid, ()):
            waits[following] -= 1
            if not waits[following]:
                heappush(ready, (links[following][0], following))
