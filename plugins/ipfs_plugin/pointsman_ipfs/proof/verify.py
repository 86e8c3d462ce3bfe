"""Receipts and records of evidence, verified by anyone who has them: nothing that they say is believed.

    for check in verify("chain.car"):
        print(check)                    # holds      chain 50f4...: receipts 0 to 999, signed; each names ...

It says line by line what holds, what fails, and what cannot be checked, which is never told as holding. Nothing is
written, and no byte of a document, a question or an answer is in what it says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pointsman import ConfigError, InvalidRequestError, Store

from ..dag import cid as cids
from ..evidence._age import Identity, Keys, hidden
from ._chains import Audit
from ._check import Check
from ._files import Files
from ._records import Records
from ._stored import Copy, Stored

__all__ = ["Check", "verify"]

#: Bytes of a public key (RFC 8032).
_KEY = 32


def verify(  # noqa: PLR0913 - one question, all else optional and by name
    what: str | os.PathLike[str],
    *,
    store: Store | None = None,
    key: bytes | None = None,
    identity: Identity | Iterable[Identity] | None = None,
    copy: Callable[[bytes], object] | None = None,
    cited: bool = True,
    progress: Callable[[int], object] = lambda size: None,
) -> Iterator[Check]:
    """Check a CAR file, the folder of an embedded store, or what one receipt or record of evidence goes back to.

    :param store: where that receipt or record is, and those before it.
    :param key: the public key, 32 bytes, with which all receipts must be signed.
    :param identity: a private key that opens what is encrypted, its text or the path of a key file; or several.
    :param copy: writes a CAR file, in pieces, with all that it goes back to: what others need.
    :param cited: whether that file has the evidence that receipts cite, too.
    :param progress: is told of bytes that were read.
    :raises InvalidRequestError: it is no file, no folder of a store, and no CID; or it cannot be read.
    :raises ConfigError: the identity or the key is none, or the package that opens what is encrypted is not installed.
    """
    path, opening, identity = Path(what), hidden(identity), None  # so that no traceback shows a key
    if key is not None and (not isinstance(key, bytes) or len(key) != _KEY):
        found = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise ConfigError(f"key: found {found}, expected a public key of Ed25519: {_KEY} bytes")
    audit, records = Audit(key), Records(Keys((), opening) if opening else None)
    try:
        if path.exists():
            if not path.is_dir() and not path.is_file():  # a pipe may keep us waiting, and can be read but once
                raise InvalidRequestError(f"{path}: found a pipe or a device, expected a CAR file or a folder")
            with Files(audit, records, progress) as files:
                yield from files.folder(path) if path.is_dir() else files.file(path)
        elif store is None:
            raise InvalidRequestError(f"{path}: there is no such file or folder; a CID is looked for in a store")
        else:
            writing = None if copy is None else Copy(copy, cited)
            yield from Stored(store, audit, records, progress, writing).back_from(_cid_in(str(what)))
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


def _cid_in(text: str) -> bytes:
    """Return the CID that was given where a file or a folder might have been."""
    try:
        return cids.parse(text)
    except InvalidRequestError as error:
        found = f"{text}: there is no such file or folder, and it is no CID"
        raise InvalidRequestError(f"{found}: {error.message}") from error
