"""Files, folders and whole DAGs out of blocks that nobody need trust: each is verified before it is used.

All functions take `get(cid)`, which returns the bytes of a block from wherever they are; what it raises goes
through. Not only our own blocks are read: other layouts, pieces in nodes, data beside links, blocks within CIDs.
What cannot be what it says (sizes that do not add up, a trie without end, blocks that are not their CIDs) is an
`UnusableAnswer`; no part of it costs more time or memory than its blocks have bytes, times a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, Protocol, TypeAlias

from attrs import frozen
from pointsman import ContentNotFoundError, InvalidRequestError, UnusableAnswer

from . import hamt
from .block import Get, links_of, loaded, unixfs
from .cid import DAG_PB, RAW, codec_of, inline_of, is_ours, refusal, split, to_text
from .dagpb import Data, Kind, PBLink

#: Levels of a file. Pieces of 1 byte under nodes of 2 links would not need more.
_DEEPEST = 64
#: What something is, for a person.
What: TypeAlias = Literal["file", "folder", "symlink", "other"]
_KINDS: dict[Kind, What] = {
    Kind.RAW: "file",
    Kind.FILE: "file",
    Kind.FOLDER: "folder",
    Kind.SHARD: "folder",
    Kind.SYMLINK: "symlink",
    Kind.METADATA: "other",
}


@frozen
class Entry:
    """An entry of a folder, as the folder and the first block of the entry say. Its CID may be none of ours."""

    name: str  #: of a name that is not UTF-8 as `os.fsdecode` writes it
    cid: bytes
    size: int | None  #: bytes of content, of a file only
    kind: What


def read_file(get: Get, cid: bytes, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
    """Give out a file from `offset`, `length` bytes of it (None: to the end), reading no block but those needed.

    Beyond the end there is nothing, as in a slice.

    :raises InvalidRequestError: it is no file.
    :raises UnusableAnswer: a block of it is broken, or not as large as the block above says.
    """
    if offset < 0 or (length is not None and length < 0):
        raise InvalidRequestError(f"found offset {offset} and length {length}, expected 0 or more")
    part = _part(_looked(get, cid, "file"), None)
    end = part.size if length is None else min(part.size, offset + length)
    start, waiting = 0, list[_Child]()
    while offset < end:
        if piece := part.data[max(offset - start, 0) : end - start]:
            yield piece
        waiting += reversed([child for child in part.children if child.is_within(offset, end)])
        if not waiting:
            return
        child = waiting.pop()
        start = child.start
        part = _part(_look(get, child.cid), child)


def measured(get: Get, length: Callable[[bytes], int], cid: bytes) -> int:
    """Return the bytes of a file, once all of its blocks were found, and have as many as those above them say.

    Its nodes are read. Its plain blocks are not: `length` returns how many bytes of each were verified before.

    :raises InvalidRequestError: it is no file.
    :raises UnusableAnswer: a node of it is broken, or what it says does not add up.
    """
    part, nodes = _part(_looked(get, cid, "file"), None), dict[bytes, int]()
    waiting = list(part.children)
    while waiting:
        child = waiting.pop()
        if codec_of(child.cid) == RAW and is_ours(child.cid):
            size = length(child.cid)
        elif child.cid in nodes:
            size = nodes[child.cid]
        else:
            inner = _part(_look(get, child.cid), child)
            size = nodes[child.cid] = inner.size
            waiting += inner.children
        if size != child.size:
            raise UnusableAnswer(f"block {to_text(child.cid)}: found {size} bytes of a file, expected {child.size}")
    return part.size


def size_of(get: Get, cid: bytes) -> int:
    """Return the bytes of content: of a file its length, of a folder that of all files in it, else 0.

    It is what the roots of the files say, and folders of files in one block: reading them would find a lie.
    """
    sizes: dict[bytes, int] = {}
    waiting = [cid]
    while waiting:
        block = _look(get, waiting[-1])
        inner = list(_links(get, block)) if block.kind == "folder" else []
        unknown = dict.fromkeys(link.cid for link in inner if codec_of(link.cid) != RAW and link.cid not in sizes)
        if unknown:
            waiting += unknown
            continue
        own = _part(block, None).size if block.kind == "file" else 0
        sizes[block.cid] = own + sum(sizes.get(link.cid, link.tsize) for link in inner)
        while waiting and waiting[-1] in sizes:
            waiting.pop()
    return sizes[cid]


def entries(get: Get, cid: bytes, *, look: bool = True) -> Iterator[Entry]:
    """Give out the entries of a folder: of one in one block in its order, of a sharded one as the shards have them.

    :param look: whether the first block of an entry is read where only that says what it is; else it is "other".
    :raises InvalidRequestError: it is no folder.
    """
    for link in _links(get, _looked(get, cid, "folder")):
        kind: What = "other"
        size, codec = None, codec_of(link.cid)
        if codec == RAW:
            kind, size = "file", link.tsize
        elif look and codec == DAG_PB and _is_readable(link.cid):
            kind, size = kind_and_size(get, link.cid)
        yield Entry(link.name.decode("utf-8", "surrogateescape"), link.cid, size, kind)


def kind_and_size(get: Get, cid: bytes) -> tuple[What, int | None]:
    """Return what an `Entry` says of it, reading one block."""
    block = _look(get, cid, other=True)
    return block.kind, _part(block, None).size if block.kind == "file" else None


def resolve(get: Get, path: str) -> bytes:
    """Return the CID of what `CID/a/b` names. Symbolic links are not followed.

    :raises ContentNotFoundError: it leads to nothing.
    :raises InvalidRequestError: the CID is none.
    """
    cid, names = split(path)
    for name in names:
        block, raw = _look(get, cid), name.encode("utf-8", "surrogateescape")
        if block.kind != "folder":
            raise ContentNotFoundError(
                f"{to_text(cid)}: it has no {name!r:.300}: found {block.kind!r}, expected a folder"
            )
        if block.message and block.message.kind == Kind.SHARD:
            found = hamt.find(get, cid, block.data, raw)
        else:
            found = next((link for link in block.links if link.name == raw), None)
        if found is None:
            raise ContentNotFoundError(f"{to_text(cid)}: nothing of the name {name!r:.300} is in that folder")
        cid = found.cid
        if not _is_readable(cid):
            raise refusal(cid)
    return cid


def target_of(get: Get, cid: bytes) -> bytes:
    """Return where a symbolic link points to.

    :raises InvalidRequestError: it is none.
    """
    message = _looked(get, cid, "symlink").message
    return message.data if message else b""


def walk(get: Get, cid: bytes, seen: Seen | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Give out every block under a root, and it first: depth first, each once, none that a CID holds in itself.

    :param seen: the CIDs that are passed over, with all below them; those given out are added.
    """
    for found, data in _walked(get, cid, seen):
        yield found, loaded(get, found) if data is None else data


def reachable(get: Get, cid: bytes, seen: Seen | None = None) -> Iterator[bytes]:
    """Give out the CIDs of the blocks that `walk` gives out, without reading those that have no links."""
    return (found for found, _ in _walked(get, cid, seen))


def unsound(get: Get, cid: bytes, seen: Seen | None = None) -> Iterator[tuple[bytes, str]]:
    """Read everything under a root, and give out each block that is wrong or not there, with the reason.

    :param seen: the CIDs that are passed over, with all below them; those that are read are added.
    """
    seen = set[bytes]() if seen is None else seen
    waiting = [] if cid in seen else [cid]
    seen.add(cid)
    while waiting:
        cid = waiting.pop()
        try:
            links = links_of(cid, loaded(get, cid))
        except (ContentNotFoundError, UnusableAnswer) as error:
            yield cid, error.message
            continue
        new = [link for link in dict.fromkeys(links) if link not in seen]
        for link in new:
            seen.add(link)
        waiting += reversed(new)


class Seen(Protocol):
    """A set of CIDs, as far as `walk` needs one: it may be on a disk."""

    def __contains__(self, cid: bytes, /) -> bool: ...

    def add(self, cid: bytes, /) -> None:
        """Add one."""


class _Child(NamedTuple):
    """A piece of a file: its node, where in the file it begins, how long the node above says it is, and its level."""

    cid: bytes
    start: int
    size: int
    level: int

    def is_within(self, offset: int, end: int) -> bool:
        """Whether it has bytes of this range. One without any bytes is never read: there may be any number of them."""
        return self.size > 0 and self.start < end and self.start + self.size > offset


class _Part(NamedTuple):
    size: int
    data: bytes
    children: Sequence[_Child]


@frozen
class _Block:
    cid: bytes
    data: bytes
    kind: What
    links: Sequence[PBLink] = ()
    message: Data | None = None  #: of a UnixFS node; a raw block has none


def _is_readable(cid: bytes) -> bool:
    return is_ours(cid) or inline_of(cid) is not None


def _look(get: Get, cid: bytes, *, other: bool = False) -> _Block:
    """Read one block. With `other`, a dag-pb block that is no UnixFS node is another thing, else an error."""
    data, codec = loaded(get, cid), codec_of(cid)
    if codec != DAG_PB:
        return _Block(cid, data, "file" if codec == RAW else "other")
    try:
        node, message = unixfs(cid, data)
    except UnusableAnswer:
        if other:
            return _Block(cid, data, "other")
        raise
    return _Block(cid, data, _KINDS[message.kind], node.links, message)


def _looked(get: Get, cid: bytes, kind: What) -> _Block:
    """Read one block, which is to be of this kind."""
    block = _look(get, cid)
    if block.kind != kind:
        text = f"{to_text(cid)}: found a block of kind {block.kind!r}, expected {kind!r}"
        if (block.kind, kind) == ("folder", "file"):
            text += "; name a file in it (CID/NAME), or write all of it to a path (extract, get --output)"
        elif block.kind == "other":
            text += "; it is a record, say: export it as a CAR file, or see it with `ipfs dag get`"
        raise InvalidRequestError(text)
    return block


def _part(block: _Block, child: _Child | None) -> _Part:
    """Read a node of a file: the root, or the one that stands for this child."""
    if block.kind != "file":
        raise _wrong(block, f"found a {block.kind}, expected a piece of a file")
    if (message := block.message) is None:
        part = _Part(len(block.data), block.data, ())
    else:
        size = len(message.data) + sum(message.blocksizes)
        links, told = len(message.blocksizes), message.filesize
        if links != len(block.links) or told not in (None, size) or size >> 63:
            raise _wrong(block, "found sizes of a file that do not add up")
        if links > size + 1:  # a byte would cost the work of any number of them
            raise _wrong(block, f"found a piece of a file with {links} links for {size} bytes")
        part = _Part(size, message.data, _children(block.links, message, child))
    if child and part.size != child.size:
        raise _wrong(block, f"found {part.size} bytes of a file where {child.size} are announced")
    if child and child.level > _DEEPEST:
        raise _wrong(block, f"found a file of more than {_DEEPEST} levels")
    return part


def _wrong(block: _Block, what: str) -> UnusableAnswer:
    return UnusableAnswer(f"block {to_text(block.cid)}: {what}")


def _children(links: Sequence[PBLink], message: Data, above: _Child | None) -> list[_Child]:
    start, level = (above.start, above.level) if above else (0, 0)
    starts = accumulate(message.blocksizes, initial=start + len(message.data))
    return [
        _Child(link.cid, begin, size, level + 1)
        for link, begin, size in zip(links, starts, message.blocksizes, strict=False)
    ]


def _links(get: Get, folder: _Block) -> Iterator[PBLink]:
    """Give out the links of a folder, of whatever form, whose names all differ."""
    if folder.message and folder.message.kind == Kind.SHARD:
        yield from hamt.entries(get, folder.cid, folder.data)
        return
    if len({link.name for link in folder.links}) < len(folder.links):
        raise _wrong(folder, "found a folder with two entries of one name")
    yield from folder.links


def _walked(get: Get, cid: bytes, seen: Seen | None) -> Iterator[tuple[bytes, bytes | None]]:
    seen = set[bytes]() if seen is None else seen
    waiting = [cid]
    while waiting:
        cid = waiting.pop()
        if cid in seen:
            continue
        seen.add(cid)
        if codec_of(cid) == RAW and is_ours(cid):
            yield cid, None
            continue
        data = loaded(get, cid)
        if inline_of(cid) is None:
            yield cid, data
        waiting += [link for link in reversed(dict.fromkeys(links_of(cid, data))) if link not in seen]
