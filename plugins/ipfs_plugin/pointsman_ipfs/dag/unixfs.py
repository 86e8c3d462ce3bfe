"""Files, folders and symbolic links as blocks: the same blocks, and so the same CIDs, as Kubo makes.

    with open("evidence.pdf", "rb") as file:
        link = add_file(file.read, UNIXFS_V1_2025, put)     # put(cid, data) is called for each block, children first

Nothing is kept: a file goes through in pieces, whatever its length, and only the links of unfinished parents stay
in memory. Every block is put, also one that was put before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import field, frozen, validators
from pointsman import InvalidRequestError

from . import dagpb, hamt
from .block import Put
from .cid import pb_cid, raw_cid
from .dagpb import PBLink


@frozen
class Profile:
    """How content becomes blocks: the same content in another profile has another CID."""

    name: str
    version: int = field(validator=validators.in_((0, 1)))  #: of the CIDs of nodes
    raw_leaves: bool  #: whether pieces of files are blocks of plain bytes, or wrapped in nodes
    chunk: int = field(validator=[validators.ge(1), validators.le(2_000_000)])  #: bytes of a piece of a file
    width: int = field(validator=[validators.ge(2), validators.le(16_384)])  #: links of a node of a file, at most
    by_block: (
        bool  #: whether `threshold` is compared with the size of the folder's block, or with that of names and CIDs
    )
    threshold: int = 262_144  #: bytes; a larger folder is sharded
    fanout: int = field(default=256, validator=validators.in_([1 << bits for bits in range(3, 11)]))  #: slots


#: Of IPIP-499: Kubo's profile of the same name. The default.
UNIXFS_V1_2025 = Profile("unixfs-v1-2025", 1, True, 1_048_576, 1024, True)
#: What `ipfs add` makes on a node that nobody configured, and made since 2015.
CID_V0 = Profile("cid-v0", 0, False, 262_144, 174, False)
#: What `ipfs add --cid-version=1` makes on such a node.
CID_V1 = Profile("cid-v1", 1, True, 262_144, 174, False)
PROFILES = {profile.name: profile for profile in (UNIXFS_V1_2025, CID_V0, CID_V1)}


def profile_of(name: str) -> Profile:
    """Return the profile of this name.

    :raises InvalidRequestError: there is none.
    """
    if name not in PROFILES:
        raise InvalidRequestError(f"profile: found {name!r:.100}, expected {' or '.join(PROFILES)}")
    return PROFILES[name]


@frozen
class Link:
    """Something that was added."""

    cid: bytes
    size: int  #: bytes of content: of a file its length, of a folder that of all files in it, of a symbolic link 0
    tsize: int  #: bytes of all blocks, of each as often as it occurs


def add_file(read: Callable[[int], bytes], profile: Profile, put: Put, first: bytes | None = None) -> Link:
    """Put a file, piece by piece as it comes, and return its root.

    :param read: returns up to so many bytes, none at the end: the `read` of a binary file.
    :param first: the first `piece_of` it, if that has been read.
    """
    piece = piece_of(read, profile) if first is None else first
    if len(piece) < profile.chunk:  # all of it, mostly
        return _leaf(piece, profile, put)
    parents = _Parents(profile, put)
    while piece:
        parents.add(_leaf(piece, profile, put))
        piece = piece_of(read, profile)
    return parents.root() or _leaf(b"", profile, put)


class FileBuilder:
    """Puts a file whose bytes are handed in as they come, of whatever length: the same blocks as `add_file`."""

    def __init__(self, profile: Profile, put: Put) -> None:
        self._profile, self._put = profile, put
        self._parents = _Parents(profile, put)
        self._waiting = bytearray()

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._waiting += data
        size = self._profile.chunk
        while len(self._waiting) >= size:
            self._parents.add(_leaf(bytes(self._waiting[:size]), self._profile, self._put))
            del self._waiting[:size]

    def finish(self) -> Link:
        """Put what is left, and return the root."""
        if self._waiting:
            self._parents.add(_leaf(bytes(self._waiting), self._profile, self._put))
        return self._parents.root() or _leaf(b"", self._profile, self._put)


def add_folder(entries: Iterable[tuple[bytes, Link]], profile: Profile, put: Put) -> Link:
    """Put a folder with these entries, in one block or, where Kubo does it, sharded; return its root.

    :raises InvalidRequestError: a name is none for a file, or occurs twice.
    """
    links, size = list[PBLink](), 0
    for name, link in sorted(entries, key=lambda entry: entry[0]):
        if not is_name(name):
            raise InvalidRequestError(f"{name!r:.300}: found a name that no entry of a folder can have")
        if links and links[-1].name == name:
            raise InvalidRequestError(f"{name!r:.300}: found twice in one folder")
        links.append(PBLink(link.cid, name, link.tsize))
        size += link.size
    if _estimate(links, profile) > profile.threshold:
        root = hamt.build(links, profile.fanout, profile.version, put)
        return Link(root.cid, size, root.tsize)
    return _node(links, size, dagpb.FOLDER, profile, put)


def is_name(name: bytes) -> bool:
    """Whether an entry of a folder can have this name."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


def add_symlink(target: bytes, profile: Profile, put: Put) -> Link:
    """Put a symbolic link to this path, which may not exist, and return it."""
    return _node([], 0, dagpb.encode_symlink(target), profile, put)


class _Parents:
    """The nodes above the pieces: each is put as soon as it is full, so that all pieces have the same depth."""

    def __init__(self, profile: Profile, put: Put) -> None:
        self._profile, self._put = profile, put
        self._levels: list[list[Link]] = []

    def add(self, link: Link, depth: int = 0) -> None:
        if depth == len(self._levels):
            self._levels.append([])
        self._levels[depth].append(link)
        if len(self._levels[depth]) == self._profile.width:
            self._close(depth)

    def root(self) -> Link | None:
        """Put what is not full, and return the top; `None` if nothing was added."""
        for depth, level in enumerate(self._levels):  # which grows while this goes on
            if depth == len(self._levels) - 1 and len(level) == 1:
                return level[0]
            if level:
                self._close(depth)
        return None

    def _close(self, depth: int) -> None:
        children = self._levels[depth]
        self._levels[depth] = []
        size = sum(child.size for child in children)
        message = dagpb.encode_file(size, [child.size for child in children])
        links = [PBLink(child.cid, b"", child.tsize) for child in children]
        self.add(_node(links, size, message, self._profile, self._put), depth + 1)


def piece_of(read: Callable[[int], bytes], profile: Profile) -> bytes:
    """Return the bytes of the next block of a file: fewer than `chunk` are its end. A pipe gives fewer at a time."""
    size = profile.chunk
    piece = read(size)
    if len(piece) == size or not piece:
        return piece
    pieces, length = [piece], len(piece)
    while length < size and (piece := read(size - length)):
        pieces.append(piece)
        length += len(piece)
    return b"".join(pieces)


def leaf_of(piece: bytes, profile: Profile) -> tuple[bytes, bytes]:
    """Return the CID and the block of a piece of a file: of all of it, if that is no more than one."""
    if profile.raw_leaves:
        return raw_cid(piece), piece
    return _block_of([], dagpb.encode_file(len(piece), data=piece), profile)


def _leaf(piece: bytes, profile: Profile, put: Put) -> Link:
    cid, block = leaf_of(piece, profile)
    put(cid, block)
    return Link(cid, len(piece), len(block))


def _block_of(links: list[PBLink], message: bytes, profile: Profile) -> tuple[bytes, bytes]:
    block = dagpb.encode(links, message)
    return pb_cid(block, profile.version), block


def _node(links: list[PBLink], size: int, message: bytes, profile: Profile, put: Put) -> Link:
    cid, block = _block_of(links, message, profile)
    put(cid, block)
    return Link(cid, size, len(block) + sum(link.tsize for link in links))


def _estimate(links: list[PBLink], profile: Profile) -> int:
    """Return what Kubo compares with the threshold: the size of the one block, or an old guess at it."""
    if profile.by_block:
        return len(dagpb.encode([], dagpb.FOLDER)) + sum(map(dagpb.link_size, links))
    return sum(len(link.name) + len(link.cid) for link in links)
