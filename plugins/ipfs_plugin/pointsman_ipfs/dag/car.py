"""CARs of version 1: blocks one after another in a file or a stream, after a header that names the roots.

    pieces = write([root], walk(get, root))             # pieces of bytes, as they come
    reader = Reader(open("evidence.car", "rb"))
    for cid, data in complete(reader.roots, reader):    # verified; an error at the end if a block is missing
        ...

A CAR that was cut between two blocks looks whole: only `complete` tells.

Source: https://ipld.io/specs/transport/car/carv1/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import BinaryIO

from pointsman import InvalidRequestError, UnusableAnswer

from . import _varint, cbor
from .block import links_of, verified
from .cid import MOST, inline_of, is_ours, refusal, take, to_text
from .dagpb import MOST_BYTES

#: Bytes of the longest header that is read, without those that say how long it is.
MOST_HEADER = 4 << 20
_READ = 1 << 20
#: Bytes of a block, with its CID, up to which it is taken whole: of a larger one no byte is copied twice.
_SMALL = 1 << 16
#: Bytes of the longest CID that can be taken: three numbers before the digest.
_LONGEST_CID = 1 + 3 * 10 + MOST
#: Bytes of the longest number.
_LONGEST_NUMBER = 10
#: What a CAR of version 2 begins with.
_VERSION_2 = bytes.fromhex("0aa16776657273696f6e02")


def header(roots: Sequence[bytes]) -> bytes:
    """Return the header of a CAR with these roots, one at least.

    It is the dag-cbor of a constant form, written by hand: the library would take longer than a block.
    """
    if not roots:
        raise InvalidRequestError("a CAR: found no root, expected one at least")
    links = b"".join(b"\xd8\x2a" + _cbor_head(0x40, len(cid) + 1) + b"\0" + cid for cid in roots)
    body = b"\xa2\x65roots" + _cbor_head(0x80, len(roots)) + links + b"\x67version\x01"
    return _varint.written(len(body)) + body


def record(cid: bytes, data: bytes) -> bytes:
    """Return a block as it stands in a CAR."""
    return b"".join((_varint.written(len(cid) + len(data)), cid, data))


def write(roots: Sequence[bytes], blocks: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Give out a CAR in pieces: the header, once the first block is there, then each block as it comes."""
    head = header(roots)
    for cid, data in blocks:
        yield head + record(cid, data)
        head = b""
    if head:
        yield head


class Reader(Iterator[tuple[bytes, bytes]]):
    """Reads a CAR: its roots at once, then, when iterated over, each block, once its hash has been verified.

    :param source: the bytes in pieces of any size, or a binary file. What that raises goes through.
    :raises UnusableAnswer: it is no CAR of version 1, or cut, or has a block that is not its CID's, or one too large.
    """

    def __init__(self, source: Iterable[bytes] | BinaryIO) -> None:
        read = getattr(source, "read", None)
        self._source = _Source(iter(lambda: read(_READ), b"") if read else iter(source))
        #: An identity CID among them stands for a root that was not known when the CAR was begun.
        self.roots: Sequence[bytes] = _roots(self._source)
        #: Bytes before the last block, and up to its end. After an error: whether that end is known, to read on from.
        self.begin, self.end, self.framed = 0, self._source.count, True
        self.cid: bytes | None = None  #: of the last block, also of one that is wrong; None where none can be read

    @property
    def is_cut(self) -> bool:
        """Whether it was found to end in the middle of something."""
        return self._source.is_cut

    def __next__(self) -> tuple[bytes, bytes]:
        self.begin, self.framed, self.cid = self._source.count, False, None
        length = self._source.length(MOST_BYTES + _LONGEST_CID, "block")
        if length is None:
            self.framed = True
            raise StopIteration
        front = self._source.take(length if length <= _SMALL else _LONGEST_CID)
        cid, end = take(front)
        if length - end > MOST_BYTES:
            raise UnusableAnswer(f"block {to_text(cid)}: found {length - end} bytes, expected at most {MOST_BYTES}")
        data = front[end:] if length == len(front) else self._source.take(length - len(front), front[end:])
        self.end, self.framed, self.cid = self._source.count, True, cid
        return cid, verified(cid, data)


def opened(source: Iterable[bytes] | BinaryIO) -> tuple[list[bytes], Iterator[tuple[bytes, bytes]]]:
    """Open a CAR that somebody hands in, and return its roots, each once, and its blocks.

    In the place of a root that holds its own block (an identity CID) stands what that links to: only this can be kept.

    :raises InvalidRequestError: in place of the `UnusableAnswer` of `Reader`: it says nothing against a store.
    """
    try:
        blocks = Reader(source)
        roots = list(dict.fromkeys(kept for root in blocks.roots for kept in _kept(root)))
    except UnusableAnswer as error:
        raise InvalidRequestError(error.message) from error
    return roots, _given(blocks)


def _kept(root: bytes) -> Iterator[bytes]:
    if (inline := inline_of(root)) is not None:
        for link in links_of(root, inline):
            yield from _kept(link)
    elif is_ours(root):
        yield root
    else:
        raise refusal(root)


def _given(blocks: Reader) -> Iterator[tuple[bytes, bytes]]:
    try:
        yield from blocks
    except UnusableAnswer as error:
        raise InvalidRequestError(error.message) from error


def complete(
    roots: Iterable[bytes], blocks: Iterable[tuple[bytes, bytes]], known: Callable[[bytes], bool] = lambda cid: False
) -> Iterator[tuple[bytes, bytes]]:
    """Give out the same blocks, and raise at the end if a root, or anything that a block links to, was not there.

    What it remembers is CIDs, no data.

    :param known: whether a block that was not there, and all under it, is somewhere else.

    :raises UnusableAnswer: some were not there; the message names the first of them, and how many.
    """
    linked: dict[bytes, None] = {}  # no set: the first of them are named
    there: set[bytes] = set()
    for root in roots:
        _expect(root, linked, there)
    for cid, data in blocks:
        there.add(cid)
        linked.pop(cid, None)
        for link in links_of(cid, data):
            _expect(link, linked, there)
        yield cid, data
    linked = {cid: None for cid in linked if not known(cid)}
    if linked:
        names = ", ".join(to_text(cid) for cid in islice(linked, 3))
        found = f"{len(linked)} blocks are not there that others link to, among them {names}"
        raise UnusableAnswer(f"a CAR: {found}: get all of it, or import it without a pin")


def _expect(cid: bytes, linked: dict[bytes, None], there: set[bytes]) -> None:
    waiting = [cid]
    while waiting:
        cid = waiting.pop()
        if cid in there or cid in linked:
            continue
        if (inline := inline_of(cid)) is not None:
            there.add(cid)
            waiting += links_of(cid, inline)
        else:
            linked[cid] = None


class _Source:
    """The bytes of a CAR, taken off the front of what is there."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._piece, self._at = pieces, b"", 0
        self.count = 0  #: bytes that were taken
        self.is_cut = False

    def length(self, most: int, what: str) -> int | None:
        """Return how long the next section is; `None` at the end."""
        where = self.count
        if len(self._piece) - self._at >= _LONGEST_NUMBER:
            length, end = _varint.read(self._piece, self._at)
            size = end - self._at
            self.count += size
            self._at = end
        else:
            number = self._number()
            if number is None:
                return None
            length, size = _varint.read(number, 0)
        if size > _varint.size(length):  # a CAR has one form, and Kubo takes no other
            raise UnusableAnswer(f"a CAR, byte {where}: found the length of a {what} in {size} bytes, expected fewer")
        if not 0 < length <= most:
            raise UnusableAnswer(f"a CAR, byte {where}: found a {what} of {length} bytes, expected 1 to {most}")
        return length

    def take(self, count: int, before: bytes = b"") -> bytes:
        """Return the next bytes, so many, after those that were taken before: copied once, for blocks are large."""
        end = self._at + count
        if not before and end <= len(self._piece):
            data, self._at = self._piece[self._at : end], end
            self.count += count
            return data
        parts: list[bytes | memoryview] = [before]
        left = count
        while left and self._more():
            part = memoryview(self._piece)[self._at : self._at + left]
            parts.append(part)
            self._at += len(part)
            left -= len(part)
        if left:
            self.is_cut = True
            raise UnusableAnswer(f"a CAR: it ends {left} bytes too early: it was cut")
        self.count += count
        return b"".join(parts)

    def _number(self) -> bytes | None:
        number = bytearray()
        while self._more():
            number.append(self._piece[self._at])
            self._at += 1
            self.count += 1
            if number[-1] < 0x80 or len(number) >= _LONGEST_NUMBER:
                return bytes(number)
        if number:
            self.is_cut = True
            raise UnusableAnswer("a CAR: it ends in the length of a block: it was cut")
        return None

    def _more(self) -> bool:
        """Whether there are bytes left."""
        while self._at == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece, self._at = piece, 0
        return True


def _roots(source: _Source) -> Sequence[bytes]:
    length = source.length(MOST_HEADER, "header")
    if length is None:
        raise UnusableAnswer("a CAR: found nothing at all")
    first = source.take(1)
    if first[0] >> 5 != 5:  # how a map begins in CBOR
        raise UnusableAnswer("this is no CAR file: it does not begin as one")
    head = first + source.take(length - 1)
    if head == _VERSION_2[1:]:
        how = "`ipfs dag import FILE` and `ipfs dag export ROOT` make one of it"
        raise UnusableAnswer(f"a CAR: found version 2, expected version 1: {how}")
    try:
        value = cbor.read(head)
    except ValueError as error:
        raise UnusableAnswer(f"a CAR: its header is {error}") from error
    is_one = isinstance(value, dict) and value.keys() == {"roots", "version"} and value["version"] == 1
    roots = value["roots"] if is_one else None
    cids = [bytes(root) for root in roots if isinstance(root, cbor.Ref)] if isinstance(roots, list) else []
    if not isinstance(roots, list) or len(cids) < len(roots):
        raise UnusableAnswer(f"a CAR: found the header {value!r:.200}, expected version 1 and roots only")
    for cid in cids:
        if not is_ours(cid) and inline_of(cid) is None:
            raise refusal(cid)
    return cids


def _cbor_head(major: int, length: int) -> bytes:
    """Return how CBOR begins something of this length."""
    if length < 24:
        return bytes((major | length,))
    size = 1 if length < 1 << 8 else 2 if length < 1 << 16 else 4
    return bytes((major | 23 + (size.bit_length()),)) + length.to_bytes(size, "big")
