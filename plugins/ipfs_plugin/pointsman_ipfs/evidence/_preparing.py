"""What is submitted, made ready to be filed: its blocks, encrypted if need be, and what its record says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from io import BytesIO
from uuid import uuid4

from pointsman import BackendError, InvalidRequestError, Store

from ..dag import cid as cids
from ..dag.cbor import Ref
from ..dag.unixfs import UNIXFS_V1_2025, FileBuilder, add_file
from ._age import Keys
from ._filing import Filing
from ._records import About, check, said_of, sealed_of
from ._submitted import Submitted


class Preparing:
    """Prepares evidence for one store. Thread-safe.

    :param keys: encrypt it; None leaves it as it is.
    """

    def __init__(self, store: Store, keys: Keys | None) -> None:
        self._store, self._keys = store, keys

    def prepared(self, given: Submitted, about: About) -> tuple[Filing, bytes | None]:
        """Return what is to be filed, and what was encrypted of it.

        What is small goes into the store with its record; the rest before it, unpinned.
        """
        if not isinstance(about, About):
            raise InvalidRequestError(f"about: found {type(about).__name__}, expected an About: About('document', ...)")
        id, time, keys, whole = uuid4().hex, datetime.now(UTC), self._keys, given.small is not None
        media_type = about.media_type or given.media_type()
        check(said_of(about, 0, media_type, time))
        plain, blocks = hashing(), list[tuple[bytes, bytes]]()
        if given.small is None:
            data, size = self._put(given, plain)
        else:
            if keys is not None:
                plain.add(given.small)
            content = given.small if keys is None else keys.encrypt(given.small)
            link = add_file(BytesIO(content).read, UNIXFS_V1_2025, lambda cid, block: blocks.append((cid, block)))
            data, size = link.cid, link.size
        if keys is None:
            return Filing(id, data, said_of(about, size, media_type, time), blocks, whole=whole), None
        was = plain.finish()
        opened = sealed_of(id, data, was.cid, said_of(about, was.size, media_type, time))
        sealed = keys.encrypt(opened)
        blocks.append((cids.raw_cid(sealed), sealed))
        return Filing(id, data, {"sealed": Ref(cids.raw_cid(sealed))}, blocks, sealed, whole=whole), opened

    def is_collected(self, filing: Filing) -> bool:
        """Whether evidence that was put is gone again, since nothing kept it before its record was there."""
        try:
            return not filing.whole and not self._store.has(cids.to_text(filing.data))
        except BackendError:
            return False

    def _put(self, given: Submitted, plain: FileBuilder) -> tuple[bytes, int]:
        """Put what is large into the store, encrypted if need be, and return its CID and size there."""
        with given.open() as file:
            if self._keys is None:
                stored = self._store.put(file, pin=False, profile=UNIXFS_V1_2025.name)
            else:
                with closing(self._keys.encrypting(_through(file.read, plain.add))) as pieces:
                    stored = self._store.put(pieces, pin=False, profile=UNIXFS_V1_2025.name)
        return cids.parse(stored.cid), stored.size


def hashing() -> FileBuilder:
    """Return what gives the CID of bytes that are handed in, and keeps none of them."""
    return FileBuilder(UNIXFS_V1_2025, lambda cid, data: None)


def _through(read: Callable[[int], bytes], take: Callable[[bytes], object]) -> Callable[[int], bytes]:
    """Return a `read` that hands on what it returns."""

    def reading(size: int) -> bytes:
        piece = read(size)
        take(piece)
        return piece

    return reading
