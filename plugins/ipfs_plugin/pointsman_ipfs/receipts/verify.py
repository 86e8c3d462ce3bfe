"""Receipts, verified by anyone who has them: nothing that they say is believed, and nothing is written.

    for check in verify("chain.car"):
        print(check)                    # holds      chain 50f4...: 1,000 receipts, numbers 0 to 999, signed; ...

It says line by line what holds, what fails, and what cannot be checked, which is never told as holding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pointsman import BackendError, ContentNotFoundError, InvalidRequestError, Store

from ..dag import car, reader
from ..dag import cid as cids
from ..dag.block import Get, Verified, links_of
from ..dag.cbor import Ref, decode, links_in
from ._audit import Audit, Check
from ._scan import Damage, Found, Read
from ._schema import content_problems, is_page

__all__ = ["Check", "verify"]

#: Seconds that a store may take to give out a receipt.
_TIMEOUT_S = 60.0
#: Bytes of the largest request or answer that is a file of its own.
_MOST = 64 << 20
_LINE = re.compile(r"(-|[A-Za-z0-9]+) (-|[A-Za-z0-9]+)\n")


def verify(
    what: str | os.PathLike[str],
    *,
    store: Store | None = None,
    key: bytes | None = None,
    copy: Callable[[bytes], object] | None = None,
) -> Iterator[Check]:
    """Check a CAR file with receipts, the folder of an embedded store, or the chain that ends with one receipt.

    :param store: where a receipt is, and those before it.
    :param key: the public key, 32 bytes, with which all must be signed.
    :param copy: writes a CAR file, in pieces, with the chain of a receipt: all that others need to verify it.
    :raises InvalidRequestError: it is no file, no folder of a store, and no CID; or it cannot be read.
    """
    path = Path(what)
    try:
        if path.is_dir():
            yield from _Files(key).folder(path)
        elif path.exists():
            yield from _Files(key).file(path)
        elif store is None:
            raise InvalidRequestError(f"{path}: there is no such file or folder; a receipt is looked for in a store")
        else:
            yield from _in_store(_cid_in(str(what)), store, Audit(key), copy)
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


class _Files:
    """All that is in some files."""

    def __init__(self, key: bytes | None) -> None:
        self._audit, self._found = Audit(key), Found()
        self._receipts = list[bytes]()

    def file(self, path: Path) -> Iterator[Check]:
        """Check a CAR file."""
        yield from self._read([self._found.through_car(path)])
        yield from self._judged()

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
        yield from self._read(self._found.through_pack(pack) for pack in sorted(packs.glob("*.car")))
        yield from self._judged()
        for trail, text in said.items():
            yield self._trail(trail, text)

    def _read(self, files: Iterable[Iterator[Read]]) -> Iterator[Check]:
        for file in files:
            for one in file:
                if isinstance(one, Damage):
                    yield Check("unchecked" if one.is_live else "fails", one.where, one.text)
                    continue
                yield from self._block(*one)

    def _block(self, cid: bytes, block: bytes) -> Iterator[Check]:
        if (said := _receipt(cid, block)) is not None:
            before = len(self._audit)
            yield from self._audit.take(cid, block, said)
            if len(self._audit) > before and any(links_in(said)):
                self._receipts.append(cid)
            return
        try:
            links_of(cid, block)  # it has the form that its CID says
        except BackendError as error:
            yield Check("fails", f"block {cids.to_text(cid)}", error.message)

    def _judged(self) -> Iterator[Check]:
        if self._found:
            yield Check("holds", "blocks", f"{len(self._found):,} are those of their CIDs")
        if not len(self._audit):
            yield Check("fails", "receipts", "found none")
        yield from self._audit.checks()
        yield from self._linked()
        get = Verified(self._found.get)
        for cid in self._receipts:
            yield from _content(cid, decode(self._found.get(cid)), get)

    def _linked(self) -> Iterator[Check]:
        """Look whether all is here that roots and receipts link to, and what they cite."""
        evidence = [(cids.parse(one), f"receipt {by}") for one, by in self._audit.cited.items()]
        absent = [(one, by) for one, by in evidence if one not in self._found]
        for one, by in absent:
            yield Check("unchecked", f"evidence {cids.to_text(one)}", f"it is not here; {by} cites it")
        there = {one: by for one, by in evidence if one in self._found}
        failed = False
        seen = set[bytes]()
        for root, by in (self._found.roots | dict.fromkeys(self._receipts, "a receipt") | there).items():
            for problem in self._missing(root, seen):
                failed = True
                yield Check("fails", f"block {cids.to_text(root)}", f"{problem}; {by} names it")
        if not failed:
            yield Check("holds", "links", f"all is here that they lead to, and {len(there):,} of the cited evidence")

    def _missing(self, root: bytes, seen: set[bytes]) -> Iterator[str]:
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            if cid in seen:
                continue
            seen.add(cid)
            try:
                data = cids.inline_of(cid) if cids.inline_of(cid) is not None else self._found.get(cid)
                links = dict.fromkeys(links_of(cid, data or b""))
                new = [link for link in links if link not in seen]
                lost = [link for link in new if link not in self._found and cids.inline_of(link) is None]
            except BackendError as error:
                yield error.message
                continue
            if lost:
                first = cids.to_text(lost[0])
                yield f"{len(lost):,} blocks to which {cids.to_text(cid)} links are not here, {first} among them"
            gone = set(lost)
            waiting += [link for link in new if link not in gone]

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


def _cid_in(text: str) -> str:
    """Return the CID that was given where a file or a folder might have been."""
    try:
        return cids.to_text(cids.parse(text))
    except InvalidRequestError as error:
        found = f"{text}: there is no such file or folder, and it is no CID"
        raise InvalidRequestError(f"{found}: {error.message}") from error


def _in_store(text: str, store: Store, audit: Audit, copy: Callable[[bytes], object] | None) -> Iterator[Check]:
    """Go back from a receipt to where its chain begins, and to those behind which that begins."""
    root = cids.parse(text)
    waiting, seen = [text], set[str]()
    write = copy or (lambda data: None)
    write(car.header([root]))
    while waiting:
        text = waiting.pop()
        if text in seen:
            continue
        seen.add(text)
        cid = cids.parse(text)
        try:
            blocks = dict(_exported(store, cid))
        except ContentNotFoundError:
            if not len(audit):
                yield Check("fails", f"receipt {text}", "it is not here")
            continue
        except BackendError as error:
            yield Check("fails", f"receipt {text}", error.message)
            continue
        said = _receipt(cid, blocks[cid])
        if said is None:
            yield Check("fails", f"receipt {text}", "it is no receipt")
            continue
        yield from audit.take(cid, blocks[cid], said)
        if text in audit:
            yield from _content(cid, said, Verified(blocks.__getitem__))
            waiting += [*said.get("after", ()), *filter(None, [said["previous"]])]
        for block in blocks.items():
            write(car.record(*block))
    yield from audit.checks()
    for one, by in audit.cited.items():
        yield _evidence(store, one, by)


def _exported(store: Store, cid: bytes) -> Iterator[tuple[bytes, bytes]]:
    pieces = store.export_car(cids.to_text(cid), timeout=_TIMEOUT_S)
    return car.complete([cid], car.Reader(pieces))


def _evidence(store: Store, text: str, by: str) -> Check:
    try:
        for _ in _exported(store, cids.parse(text)):
            pass
    except ContentNotFoundError:
        return Check("unchecked", f"evidence {text}", f"it is not here; receipt {by} cites it")
    except BackendError as error:
        return Check("fails", f"evidence {text}", f"{error.message}; receipt {by} cites it")
    return Check("holds", f"evidence {text}", f"it is here, with all that it leads to; receipt {by} cites it")


def _receipt(cid: bytes, block: bytes) -> dict[str, Any] | None:
    """Return what a block says if it is a receipt, of whatever form."""
    if cids.codec_of(cid) != cids.DAG_CBOR or b"greceipt" not in block:
        return None
    try:
        said = decode(block)
    except ValueError:
        return None
    return said if said.__class__ is dict and "receipt" in said else None


def _content(cid: bytes, said: dict[str, Any], get: Get) -> Iterator[Check]:
    """Check the files to which a receipt links: of long texts, of pictures, of a request or an answer as a whole."""
    what, known = f"receipt {cids.to_text(cid)}", set(links_in(said))
    for link in known:
        try:
            kind, _ = reader.kind_and_size(get, link)
        except (BackendError, KeyError):
            continue  # that it is not here is told elsewhere
        if kind != "file":
            yield Check("fails", what, f"it links to {cids.to_text(link)}, a {kind}, expected a file")
    for name in ("request", "answer"):
        if said[name].__class__ is Ref:
            for problem in _file_problems(name, said, get):
                yield Check("fails", what, problem)


def _file_problems(name: str, said: dict[str, Any], get: Get) -> Iterator[str]:
    try:
        kind, size = reader.kind_and_size(get, bytes(said[name]))
        if kind != "file" or (size or 0) > _MOST:
            yield f"{name}: its {kind} has {size or 0:,} bytes, expected a file of at most {_MOST:,}"
            return
        content = decode(b"".join(reader.read_file(get, bytes(said[name]))))
    except (BackendError, KeyError, ValueError) as error:
        yield f"{name}: its file cannot be read: {error}"
        return
    yield from content_problems(name, content, said)
    if not set(links_in(content)) <= set(said.get("links", ())):
        yield f"{name}: its file has a link that is not among the links of the receipt"
