"""One block: is it what its CID says, and what does it link to."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import frozen
from pointsman import UnusableAnswer
from pointsman.content import Progress

from . import cbor
from . import cid as cids
from .dagpb import MOST_BYTES, Data, PBNode, decode, decode_data

#: Returns the bytes of a block, unverified unless it is a `Verified`; what it raises goes through. It is never asked
#: for an identity CID.
Get = Callable[[bytes], bytes]
#: Is handed a block that was made: its CID and its bytes.
Put = Callable[[bytes, bytes], object]

#: What blocks link to that were made here and are about to be kept: nobody need read them again to know it.
_made: dict[bytes, tuple[bytes, ...]] = {}


@frozen
class Verified:
    """A `get` that has verified what it returns: nobody need do it again."""

    get: Get

    def __call__(self, cid: bytes) -> bytes:
        return self.get(cid)


def counted(get: Verified, progress: Progress) -> Verified:
    """Return what reads the same blocks, and tells of each how many bytes it has."""

    def read(cid: bytes) -> bytes:
        data = get(cid)
        progress(len(data))
        return data

    return Verified(read)


def verified(cid: bytes, data: bytes) -> bytes:
    """Return the bytes of a block if they are the ones that its CID stands for.

    :raises UnusableAnswer: they are not, or nobody can tell, since the CID is none of ours.
    """
    if cids.is_ours(cid) or cids.inline_of(cid) is not None:
        if cids.matches(cid, data):
            return data
        raise UnusableAnswer(f"block {cids.to_text(cid)}: found {len(data)} bytes that are not those of its CID")
    raise cids.refusal(cid)


def loaded(get: Get, cid: bytes) -> bytes:
    """Return the verified bytes of a block. Raises as `verified` and `get` do."""
    inline = cids.inline_of(cid)
    if inline is not None:
        return inline
    if not cids.is_ours(cid):
        raise cids.refusal(cid)
    return get(cid) if isinstance(get, Verified) else verified(cid, get(cid))


def node(cid: bytes, data: bytes) -> PBNode:
    """Read a dag-pb block. An error names its CID.

    :raises UnusableAnswer: the block is no dag-pb node.
    """
    try:
        return decode(data)
    except UnusableAnswer as error:
        raise UnusableAnswer(f"block {cids.to_text(cid)}: {error.message}") from error


def unixfs(cid: bytes, data: bytes) -> tuple[PBNode, Data]:
    """Read a dag-pb block and the UnixFS message in it. An error names the block's CID.

    :raises UnusableAnswer: the block is no node of UnixFS.
    """
    read = node(cid, data)
    try:
        return read, decode_data(read.data or b"")
    except UnusableAnswer as error:
        raise UnusableAnswer(f"block {cids.to_text(cid)}: {error.message}") from error


def made(cid: bytes, links: tuple[bytes, ...]) -> None:
    """Say what a block links to that was made here, until it is `kept`."""
    _made[cid] = links


def kept(some: Iterable[bytes]) -> None:
    """Forget what these blocks link to."""
    for cid in some:
        _made.pop(cid, None)


def links_of(cid: bytes, data: bytes) -> list[bytes]:
    """Return the CIDs that a block links to, in its order, as often as it does. The bytes are taken as verified.

    :raises UnusableAnswer: the block is not of the form that its CID says.
    """
    if (known := _made.get(cid)) is not None:
        return list(known)
    codec = cids.codec_of(cid)
    if codec == cids.RAW:
        return []
    if codec == cids.DAG_PB:
        return [link.cid for link in node(cid, data).links]
    if codec == cids.DAG_CBOR:
        return _cbor_links(cid, data)
    raise cids.refusal(cid)


def _cbor_links(cid: bytes, data: bytes) -> list[bytes]:
    if len(data) > MOST_BYTES:
        raise UnusableAnswer(f"block {cids.to_text(cid)}: found {len(data)} bytes, expected at most {MOST_BYTES}")
    try:
        links = cbor.links_in(cbor.read(data))
        for link in links:
            cids.codec_of(link)  # it is a CID, or an error
    except ValueError as error:
        raise UnusableAnswer(f"block {cids.to_text(cid)}: {error}") from error
    return links
