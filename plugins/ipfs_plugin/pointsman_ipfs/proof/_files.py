"""All that is in a CAR file, or in the folder of an embedded store."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from itertools import chain
from math import inf
from pathlib import Path

from pointsman import BackendError, InvalidRequestError

from ..dag import cid as cids
from ..dag.block import Verified, links_of
from ..dag.cbor import decode, links_in
from ..receipts._schema import is_page
from ._chains import Audit
from ._check import Check
from ._found import Found
from ._index import index_checks
from ._receipt import content_of, receipt_in
from ._records import Records, record_in
from ._scan import Damage, Read, Scan

#: How often packs are read again that others have changed meanwhile.
_ROUNDS = 5
_LINE = re.compile(r"(-|[A-Za-z0-9]+) (-|[A-Za-z0-9]+)\n")


class Files:
    """All that is in some files, each of whose bytes is read once.

    :param progress: is told of bytes that were read.
    """

    def __init__(self, audit: Audit, records: Records, progress: Callable[[int], object]) -> None:
        self._audit, self._records, self._found = audit, records, Found()
        self._scan = Scan(self._found, progress)
        self._receipts = dict[bytes, None]()  #: those that link to anything

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._found.close()

    def file(self, path: Path) -> Iterator[Check]:
        """Check a CAR file."""
        for one in self._read(self._scan.through_car(path)):
            yield one if isinstance(one, Check) else _failed(one)
        yield from self._judged({*map(cids.parse, self._audit.cited)})

    def folder(self, path: Path) -> Iterator[Check]:
        """Check the folder of an embedded store."""
        packs = path / "packs"
        if not packs.is_dir():
            raise InvalidRequestError(f"{path}: found no folder packs there, expected the folder of an embedded store")
        trails = path / "receipts"  # read before what they name, which is there before it is named
        said = dict[Path, str]()
        for trail in sorted(trails.glob("*")):
            with suppress(FileNotFoundError):  # another router has taken it up
                said |= {} if trail.suffix else {trail: trail.read_text("ascii", "replace")}
        yield from self._packs(packs)
        yield from self._judged({one for one in map(cids.parse, self._audit.cited) if not self._found.is_root(one)})
        for trail, text in said.items():
            yield self._trail(trail, text)
        kept = [record for record in self._records if self._found.is_root(record)]
        yield from index_checks(path / "evidence.sqlite", self._records, kept)

    def _packs(self, folder: Path) -> Iterator[Check]:
        """Read all packs, and anew those that others have changed meanwhile: what one has may link to another one.

        Where they go on and on, the last round takes only blocks of what is new: others may link to them.
        """
        states, told = dict[Path, tuple[int, ...]](), dict[Path, list[Check | Damage]]()
        for number in range(_ROUNDS):
            now = dict(_states(folder))
            for gone in told.keys() - now.keys():  # a collection has moved what was in it to another one
                self._found.forget(gone)
                del told[gone]
            changed = [pack for pack in now if states.get(pack) != now[pack]]
            states = now
            if not changed:
                break
            for pack in changed:
                until = self._scan.counted.get(pack, 0) if number == _ROUNDS - 1 else inf
                with suppress(FileNotFoundError):
                    told[pack] = []
                    told[pack] += self._read(self._scan.through_pack(pack, until))
        for one in chain(*told.values()):
            yield one if isinstance(one, Check) else self._mended(one) or _failed(one)

    def _read(self, file: Iterator[Read]) -> Iterator[Check | Damage]:
        for one in file:
            if isinstance(one, Damage):
                yield one
            else:
                yield from self._block(*one)

    def _mended(self, one: Damage) -> Check | None:
        """Tell of a damaged block in a store that was kept again, and is whole in another place of it."""
        if one.cid is None or one.cid not in self._found:
            return None
        return Check("holds", one.where, f"{one.text}; that was mended: it is whole in {self._found.file_of(one.cid)}")

    def _block(self, cid: bytes, block: bytes) -> Iterator[Check]:
        if (said := receipt_in(cid, block)) is not None:
            yield from self._audit.take(cid, block, said)
            if cids.to_text(cid) in self._audit and any(links_in(said)):
                self._receipts[cid] = None
        elif (record := record_in(cid, block)) is not None:
            yield from self._records.take(cid, record)
        else:
            try:
                links_of(cid, block)  # it has the form that its CID says
            except BackendError as error:
                yield Check("fails", f"block {cids.to_text(cid)}", error.message)

    def _judged(self, cited: Container[bytes]) -> Iterator[Check]:
        """Judge what was read.

        :param cited: records that are here since receipts cite them, whatever came before them.
        """
        if self._found:
            yield Check("holds", "blocks", f"{len(self._found):,} are those of their CIDs")
        if not len(self._audit) and not len(self._records):
            yield Check("fails", "receipts and evidence", "found none of either")
        yield from self._audit.checks()
        for record in self._records:
            yield self._records.check(record, self._found, kept=self._found.is_root(record))
        yield from self._records.sealed()
        yield from self._records.logs(self._found, cited)
        yield from self._linked()
        get = Verified(self._found.get)
        for cid in self._receipts:
            yield from content_of(cid, decode(self._found.get(cid)), get)

    def _linked(self) -> Iterator[Check]:
        """Look whether all is here that roots and receipts link to, and what they cite."""
        seen, count, failed = set[bytes](), 0, False
        for root, by in chain(self._found.roots(), ((one, "a receipt") for one in self._receipts)):
            if root in self._records:  # it was looked at
                continue
            count += 1
            for problem in self._missing(root, seen):
                failed = True
                yield Check("fails", f"block {cids.to_text(root)}", f"{problem}; {by} names it")
        if count and not failed:
            yield Check("holds", "links", "all is here to which roots and receipts lead")
        for text, by in self._audit.cited.items():
            yield self._cited(text, by)

    def _cited(self, text: str, by: str) -> Check:
        """Look whether evidence is here that a receipt cites."""
        what, cid = f"evidence {text}", cids.parse(text)
        if cid not in self._found:
            return Check("unchecked", what, f"it is not here; receipt {by} cites it")
        if problem := next(self._missing(cid, set()), None):
            return Check("fails", what, f"{problem}; receipt {by} cites it")
        record = self._records.of(cid)
        told = "" if record is None else f"; record {cids.to_text(record)} is of it"
        return Check("holds", what, f"it is here, with all that it leads to; receipt {by} cites it{told}")

    def _missing(self, root: bytes, seen: set[bytes]) -> Iterator[str]:
        """Say what under a root is not here. What was seen before is not looked at again."""
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            if cid in seen:
                continue
            seen.add(cid)
            try:
                inline = cids.inline_of(cid)
                links = dict.fromkeys(links_of(cid, self._found.get(cid) if inline is None else inline))
                new = [link for link in links if link not in seen]
                lost = [link for link in new if link not in self._found and cids.inline_of(link) is None]
                gone = set(lost)
                waiting += [link for link in new if link not in gone and cids.codec_of(link) != cids.RAW]
            except BackendError as error:
                yield error.message
                continue
            if lost:
                first = cids.to_text(lost[0])
                yield f"{len(lost):,} blocks to which {cids.to_text(cid)} links are not here, {first} among them"

    def _trail(self, path: Path, text: str) -> Check:
        """Look at what a file says of how far a chain has come."""
        if not text:
            return Check("unchecked", f"file {path}", "it is empty: it has just begun, or what was in it is lost")
        lines = list(_LINE.finditer(text))
        if sum(len(line[0]) for line in lines) < len(text):
            return Check("fails", f"file {path}", "it has a line that is none of its kind")
        for line in lines:
            receipt, page = line.groups()
            if receipt != "-" and self._audit.chain_of(receipt) != path.name:
                return Check("fails", f"file {path}", f"it names {receipt}, which is no receipt of its chain here")
            if page != "-" and not self._is_page(page):
                return Check("fails", f"file {path}", f"it names {page}, which is no page of receipts here")
        return Check("holds", f"file {path}", "all that it names is here")

    def _is_page(self, text: str) -> bool:
        cid = cids.canonical(text)
        return cid is not None and cid in self._found and is_page(decode(self._found.get(cid)))


def _failed(one: Damage) -> Check:
    return Check("unchecked" if one.never_counted else "fails", one.where, one.text)


def _states(folder: Path) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Yield the packs, each with what is another when it was changed."""
    for pack in sorted(folder.glob("*.car")):
        with suppress(FileNotFoundError):
            found = pack.stat()
            yield pack, (found.st_ino, found.st_size, found.st_mtime_ns)
