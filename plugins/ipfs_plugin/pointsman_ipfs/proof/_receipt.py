"""One receipt: what is recognised as one, and the files to which it links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pointsman import BackendError

from ..dag import cid as cids
from ..dag import reader
from ..dag.block import Get
from ..dag.cbor import Ref, decode, links_in
from ..receipts._schema import content_problems
from ._check import Check

#: Bytes of the largest request or answer that is a file of its own.
_MOST = 64 << 20


def receipt_in(cid: bytes, block: bytes) -> dict[str, Any] | None:
    """Return what a block says if it is a receipt, of whatever form."""
    if cids.codec_of(cid) != cids.DAG_CBOR or b"greceipt" not in block:
        return None
    try:
        said = decode(block)
    except ValueError:
        return None
    return said if said.__class__ is dict and "receipt" in said else None


def content_of(cid: bytes, said: dict[str, Any], get: Get) -> Iterator[Check]:
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
