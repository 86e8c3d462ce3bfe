"""Folders in many blocks: a trie over the hashes of the names, as Kubo builds it.

A shard is a dag-pb node with up to `fanout` slots. The hash of a name says its slot in the root, the next bits its
slot in the shard below, and so on. A slot is empty, or a link: to an entry, named by the number of the slot in
hexadecimal and the name; or to a shard of those whose hashes agree so far, named by the number alone. The bits of
the shard's data say which slots are taken. The same entries make the same trie, in whatever order they come.

Source: https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen
from pointsman import InvalidRequestError, UnusableAnswer

from . import dagpb
from .block import Get, Put, loaded, unixfs
from .cid import DAG_PB, codec_of, pb_cid, to_text
from .dagpb import Data, Kind, PBLink

#: The name of the hash function in multiformats' table: murmur3-x64-64.
_MURMUR3 = 0x22
_HASH_BITS = 64
_WIDEST = 1024
_MASK = (1 << 64) - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


def murmur3(data: bytes) -> int:
    """Return the first 64 bits of MurmurHash3 x64 128, seed 0.

    Source: https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp (public domain)
    """
    h1 = h2 = 0
    whole = len(data) & ~15
    for at in range(0, whole, 16):
        h1 ^= _mixed_1(int.from_bytes(data[at : at + 8], "little"))
        h1 = ((_rotated(h1, 27) + h2) * 5 + 0x52DCE729) & _MASK
        h2 ^= _mixed_2(int.from_bytes(data[at + 8 : at + 16], "little"))
        h2 = ((_rotated(h2, 31) + h1) * 5 + 0x38495AB5) & _MASK
    h2 ^= _mixed_2(int.from_bytes(data[whole + 8 :], "little"))
    h1 ^= _mixed_1(int.from_bytes(data[whole : whole + 8], "little"))
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    return (_finished(h1) + _finished(h2)) & _MASK


def build(entries: Iterable[PBLink], fanout: int, version: int, put: Put) -> PBLink:
    """Build the trie of these entries, whose names differ, and return a link to its root, without a name.

    :raises InvalidRequestError: so many hashes agree that the trie would have no end.
    """
    hashed = sorted((murmur3(entry.name), entry) for entry in entries)
    return _Builder(fanout, version, put).shard(hashed, _HASH_BITS)


@frozen
class _Builder:
    fanout: int
    version: int
    put: Put

    def shard(self, hashed: Sequence[tuple[int, PBLink]], bits: int) -> PBLink:
        """Put the shard of entries that agree in all but the last `bits` bits of their hashes."""
        rest = bits - (self.fanout.bit_length() - 1)
        if rest < 0:
            names = b", ".join(entry.name for _, entry in hashed[:2]).decode("utf-8", "replace")
            raise InvalidRequestError(f"a folder with these names cannot be stored, their hashes agree: {names:.300}")
        links, field, begin = [], 0, 0
        while begin < len(hashed):
            slot, end = hashed[begin][0] >> rest & self.fanout - 1, begin + 1
            while end < len(hashed) and hashed[end][0] >> rest & self.fanout - 1 == slot:
                end += 1
            inner = hashed[begin][1] if end == begin + 1 else self.shard(hashed[begin:end], rest)
            links.append(inner._replace(name=_prefix(slot, self.fanout) + inner.name))
            field |= 1 << slot
            begin = end
        bitfield = field.to_bytes((field.bit_length() + 7) // 8, "big")
        block = dagpb.encode(links, dagpb.encode_shard(bitfield, _MURMUR3, self.fanout))
        cid = pb_cid(block, self.version)
        self.put(cid, block)
        return PBLink(cid, b"", len(block) + sum(link.tsize for link in links))


def entries(get: Get, cid: bytes, data: bytes) -> Iterator[PBLink]:
    """Give out all entries of the folder whose root is this block, in the order of their hashes.

    :raises UnusableAnswer: a shard is none, or an entry stands where its hash does not belong.
    """
    root = _Shard.read(cid, data, None)
    open_ = [(root, iter(root.slots))]
    while open_:
        shard, slots = open_[-1]
        for slot, link in slots:
            if not link.name:
                below = shard.below(get, slot, link)
                open_.append((below, iter(below.slots)))
                break
            shard.check(slot, link)
            yield link
        else:
            open_.pop()


def find(get: Get, cid: bytes, data: bytes, name: bytes) -> PBLink | None:
    """Return the entry of this name in the folder whose root is this block, reading no shard but those on the way."""
    shard, hashed = _Shard.read(cid, data, None), murmur3(name)
    while True:
        slot = hashed >> shard.rest & shard.fanout - 1
        link = next((link for place, link in shard.slots if place == slot), None)
        if link is None or link.name:
            return link if link and link.name == name else None
        shard = shard.below(get, slot, link)


@frozen
class _Shard:
    """A shard that was read: its taken slots in order, links without the number in their names."""

    cid: bytes
    fanout: int
    rest: int  #: bits of a hash that are left below this shard
    path: int  #: the bits of the hashes before this shard
    slots: Sequence[tuple[int, PBLink]]

    @classmethod
    def read(cls, cid: bytes, data: bytes, above: tuple[_Shard, int] | None) -> _Shard:
        """Read a shard; `above` is the shard, and the slot of it, that the link to this one stands in."""
        read, message = unixfs(cid, data)
        where = f"block {to_text(cid)}"
        fanout = message.fanout or 0
        bits = fanout.bit_length() - 1
        if message.kind != Kind.SHARD or message.hash_type != _MURMUR3:
            raise UnusableAnswer(f"{where}: found no shard of a folder by murmur3")
        if not 8 <= fanout <= _WIDEST or fanout != 1 << bits or (above and above[0].fanout != fanout):
            raise UnusableAnswer(f"{where}: found a shard of {fanout} slots")
        rest, path = _HASH_BITS - bits, 0
        if above:
            rest, path = above[0].rest - bits, above[0].path << bits | above[1]
        if rest < 0 or (above and not read.links):
            raise UnusableAnswer(f"{where}: found a shard deeper than a hash, or empty")
        return cls(cid, fanout, rest, path, list(_slots(message, fanout, read.links, where)))

    def below(self, get: Get, slot: int, link: PBLink) -> _Shard:
        """Read the shard in one of the slots."""
        if codec_of(link.cid) != DAG_PB:
            raise UnusableAnswer(f"block {to_text(self.cid)}: slot {slot} has neither an entry nor a shard")
        return self.read(link.cid, loaded(get, link.cid), (self, slot))

    def check(self, slot: int, link: PBLink) -> None:
        """Refuse an entry in the wrong place: without that, one shard in all slots would be folders without end."""
        bits = self.fanout.bit_length() - 1
        if murmur3(link.name) >> self.rest != self.path << bits | slot:
            raise UnusableAnswer(f"block {to_text(self.cid)}: slot {slot} has an entry whose hash belongs elsewhere")


def _slots(message: Data, fanout: int, links: Sequence[PBLink], where: str) -> Iterator[tuple[int, PBLink]]:
    field = int.from_bytes(message.data, "big")
    taken = [slot for slot in range(fanout) if field >> slot & 1]
    if len(message.data) > fanout // 8 or len(taken) != len(links):
        raise UnusableAnswer(f"{where}: found {len(links)} links in {len(taken)} slots of a shard")
    for slot, link in zip(taken, links, strict=True):
        prefix = _prefix(slot, fanout)
        if not link.name.startswith(prefix):
            raise UnusableAnswer(f"{where}: found {link.name[:8]!r} in slot {slot} of a shard")
        yield slot, link._replace(name=link.name[len(prefix) :])


def _prefix(slot: int, fanout: int) -> bytes:
    return b"%0*X" % (len(f"{fanout - 1:X}"), slot)


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _mixed_1(k: int) -> int:
    return _rotated(k * _C1 & _MASK, 31) * _C2 & _MASK


def _mixed_2(k: int) -> int:
    return _rotated(k * _C2 & _MASK, 33) * _C1 & _MASK


def _finished(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
