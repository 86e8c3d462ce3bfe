"""What a store that gives out blocks, one by one, can do with them: the hooks that only read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from pointsman import Scope, hookimpl
from pointsman.content import Entry

from ..dag import car, reader, tree
from ..dag import cid as cids
from ..dag.block import Verified


@frozen(kw_only=True)
class Reading(ABC):
    """The base of a store on another program: what comes from there is verified here, block by block."""

    @abstractmethod
    def blocks(self, scope: Scope) -> Verified:
        """Return what reads blocks, one by one."""

    def all_under(self, root: bytes, scope: Scope) -> Verified:
        """Return what reads everything under a root, in the order of its links."""
        return self.blocks(scope)

    @hookimpl
    def resolve(self, cid: str, scope: Scope) -> str:
        """Return the CID of what a path leads to."""
        return cids.to_text(reader.resolve(self.blocks(scope), cid))

    @hookimpl
    def fetch(self, cid: str, offset: int, length: int | None, scope: Scope) -> Iterator[bytes]:
        """Give back a file, or a part of it, for which no other blocks are read."""
        get = self.blocks(scope)
        root = reader.resolve(get, cid)
        if offset == 0 and length is None:
            get = self.all_under(root, scope)
        return reader.read_file(get, root, offset, length)

    @hookimpl
    def entries(self, cid: str | None, scope: Scope) -> Iterator[Entry]:
        """List a folder, or what is pinned."""
        if cid is None:
            return self.pinned(scope)
        get = self.blocks(scope)
        found = reader.entries(get, reader.resolve(get, cid))
        return (Entry(entry.name, cids.to_text(entry.cid), entry.size, entry.kind) for entry in found)

    def pinned(self, scope: Scope) -> Iterator[Entry]:
        """Give out what is pinned."""
        return iter(())

    @hookimpl
    def extract(self, cid: str, target: Path, scope: Scope) -> None:
        """Write a file or a folder to a path where nothing is."""
        root = reader.resolve(self.blocks(scope), cid)
        tree.extract(self.all_under(root, scope), root, target)

    @hookimpl
    def export_car(self, cid: str, scope: Scope) -> Iterator[bytes]:
        """Give out everything under `cid` as a CAR file: the same bytes from every store."""
        root = reader.resolve(self.blocks(scope), cid)
        return car.write([root], reader.walk(self.all_under(root, scope), root))
