"""What is to be kept, as blocks: a file, a folder, or a stream of bytes that is read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from pointsman import BackendError, InvalidRequestError
from pointsman.content import Kind, Source

from . import cid as cids
from .block import Put, unixfs
from .reader import kind_and_size
from .tree import add_tree
from .unixfs import Link, add_file, profile_of


def added(source: Source, profile: str, put: Put) -> tuple[Link, Kind]:
    """Put the blocks of a source, its root last, and return that and what it is.

    `source.progress` is told the bytes of content in each block.

    :param profile: what counts if the source names none.
    :raises InvalidRequestError: it cannot be read, or names no profile of ours.
    """
    made = profile_of(source.profile or profile)
    if (source.path is None) == (source.file is None):
        raise InvalidRequestError("a source: found both a path and a file, or neither; expected one of them")
    last = b""

    def keep(cid: bytes, data: bytes) -> None:
        nonlocal last
        put(cid, data)
        last = data
        if size := _content(cid, data):
            source.progress(size)

    if source.path is not None:
        link = add_tree(source.path, made, keep, hidden=source.hidden)
    else:
        link = add_file(reading(source.file), made, keep)  # type: ignore[arg-type] # it is one of them
    return link, kind_and_size(lambda _: last, link.cid)[0]


def _content(cid: bytes, data: bytes) -> int:
    """Return how many bytes of a file are in a block."""
    if cids.codec_of(cid) == cids.RAW:
        return len(data)
    node, message = unixfs(cid, data)
    return 0 if node.links or message.filesize is None else len(message.data)


def reading(file: BinaryIO) -> Callable[[int], bytes]:
    """Return the `read` of a file that somebody gave us.

    :raises InvalidRequestError: when it is called: it cannot be read, or gives out no bytes.
    """

    def read(size: int) -> bytes:
        try:
            piece = file.read(size)
        except BackendError:
            raise
        except Exception as error:  # whatever is behind it
            raise InvalidRequestError(f"the source cannot be read: {error!r:.300}") from error
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise InvalidRequestError(f"the source gave {type(piece).__name__}, expected bytes: open it in binary mode")
        return bytes(piece)

    return read
