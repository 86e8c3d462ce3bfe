"""Blocks off one long answer, instead of one request for each."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman import BackendError

from ..dag.block import Get

#: Bytes of blocks that came before they were asked for, and of those that may be asked for again.
_AHEAD, _AGAIN = 32 << 20, 4 << 20
#: Bytes that a block costs beside its own.
_BESIDE = 256


class Ahead:
    """Gets blocks from where they come one after another; a block that does not come there is got by itself.

    Nothing is expected of the order; but only where it is the one in which they are asked for is memory not needed.

    :param stream: verified blocks. When it fails, it counts as ended.
    :param get: gets one block, verified.
    """

    def __init__(self, stream: Iterator[tuple[bytes, bytes]], get: Get) -> None:
        self._stream, self._get = stream, get
        self._waiting, self._recent = _Shelf(), _Shelf()
        self._gone: set[bytes] = set()  #: CIDs that came and were asked for

    def __call__(self, cid: bytes) -> bytes:
        """Return the bytes of a block."""
        data = self._recent.get(cid)
        if data is None:
            data = self._waiting.take(cid)
        if data is None:
            data = self._found(cid)
        if data is None:
            data = self._get(cid)
        self._gone.add(cid)
        self._recent.put(cid, data)
        self._recent.shrink(_AGAIN)
        return data

    def _found(self, wanted: bytes) -> bytes | None:
        """Read on until the block comes, as far as memory may be taken for others.

        A stream is left that has nothing but what came before, for as long as that: it need not have an end.
        """
        again = 0
        while wanted not in self._gone and self._waiting.size < _AHEAD:
            try:
                cid, data = next(self._stream)
            except (BackendError, StopIteration):
                self._stream = iter(())
                return None
            if cid == wanted:
                return data
            if cid not in self._gone and self._waiting.get(cid) is None:
                self._waiting.put(cid, data)
            elif (again := again + len(data) + _BESIDE) > _AHEAD:
                self._stream = iter(())
        return None


class _Shelf:
    """Blocks, the oldest first."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, bytes] = {}
        self.size = 0

    def get(self, cid: bytes) -> bytes | None:
        return self._blocks.get(cid)

    def take(self, cid: bytes) -> bytes | None:
        data = self._blocks.pop(cid, None)
        if data is not None:
            self.size -= len(data) + _BESIDE
        return data

    def put(self, cid: bytes, data: bytes) -> None:
        self.take(cid)
        self._blocks[cid] = data
        self.size += len(data) + _BESIDE

    def shrink(self, most: int) -> None:
        while self.size > most and len(self._blocks) > 1:
            self.take(next(iter(self._blocks)))
