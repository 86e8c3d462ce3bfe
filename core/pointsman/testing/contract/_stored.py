"""What the contract of stores uses: a store called as it is called, content, and CARs made by hand."""

from __future__ import annotations

import io
import os
import random
from base64 import b32encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from ...content import Collected, Entry, Finding, Progress, Source, Stored
from ...scope import Scope
from ._suite import Subject

#: Is no content that anybody has: the CID of a block that is never made.
UNKNOWN = "bafkreia" + "a" * 51


class Shelf(Subject):
    """A store, called through pluggy; each call may take `timeout_s`."""

    def __init__(self, store: Any, timeout_s: float = 60.0) -> None:
        super().__init__(store)
        self._hook, self._timeout_s = self._manager.hook, timeout_s

    def scope(self) -> Scope:
        """Return the limits of a call."""
        return Scope(self._timeout_s)

    def put(self, source: bytes | BinaryIO | Path, scope: Scope | None = None, **options: Any) -> Stored:
        """Keep bytes, what a file gives out, or what is at a path."""
        if isinstance(source, bytes):
            source = io.BytesIO(source)
        given = Source(path=source, **options) if isinstance(source, Path) else Source(file=source, **options)
        stored = self._hook.store(source=given, scope=scope or self.scope())
        assert isinstance(stored, Stored), f"store returned {stored!r}, expected a Stored"
        return stored

    def fetch(
        self, cid: str, offset: int = 0, length: int | None = None, scope: Scope | None = None
    ) -> Iterator[bytes]:
        """Read a file in pieces."""
        pieces = self._hook.fetch(cid=cid, offset=offset, length=length, scope=scope or self.scope())
        assert hasattr(pieces, "__next__"), f"fetch returned {pieces!r}, expected an iterator of bytes"
        return pieces  # type: ignore[no-any-return] # pluggy is untyped

    def whole(self, cid: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read a file, or a part of it, to its end."""
        pieces = list(self.fetch(cid, offset, length))
        assert all(isinstance(piece, bytes) for piece in pieces), "fetch gave something else than bytes"
        return b"".join(pieces)

    def named(self, cid: str, scope: Scope | None = None) -> str:
        """Return the CID of what a path leads to."""
        return str(self._hook.resolve(cid=cid, scope=scope or self.scope()))

    def there(self, cid: str, scope: Scope | None = None) -> bool:
        """Ask whether something is there."""
        found = self._hook.has(cid=cid, scope=scope or self.scope())
        assert found is True or found is False, f"has returned {found!r}, expected True or False"
        return found

    def entries(self, cid: str | None, scope: Scope | None = None) -> list[Entry]:
        """List a folder, or what is pinned."""
        entries = list(self._hook.entries(cid=cid, scope=scope or self.scope()))
        assert all(isinstance(entry, Entry) for entry in entries), f"entries gave {entries!r}, expected Entry values"
        return entries

    def pinned(self) -> set[str]:
        """Return the CIDs that are pinned."""
        return {entry.cid for entry in self.entries(None)}

    def extract(self, cid: str, target: Path, scope: Scope | None = None) -> None:
        """Write something to a path."""
        self._hook.extract(cid=cid, target=target, scope=scope or self.scope())

    def export(self, cid: str, scope: Scope | None = None) -> bytes:
        """Return everything under a CID as a CAR."""
        return b"".join(self._hook.export_car(cid=cid, scope=scope or self.scope()))

    def take(self, car: bytes, pin: bool = True, scope: Scope | None = None) -> list[Stored]:
        """Keep what a CAR holds."""
        return list(self._hook.import_car(source=io.BytesIO(car), pin=pin, scope=scope or self.scope()))

    def pin(self, cid: str, scope: Scope | None = None) -> None:
        """Pin something."""
        self._hook.pin(cid=cid, scope=scope or self.scope())

    def unpin(self, cid: str, scope: Scope | None = None) -> None:
        """Take a pin back."""
        self._hook.unpin(cid=cid, scope=scope or self.scope())

    def collect(self) -> Collected:
        """Remove what no pin keeps."""
        collected = self._hook.collect(scope=self.scope())
        assert isinstance(collected, Collected), f"collect returned {collected!r}, expected a Collected"
        return collected

    def verify(self, cid: str | None, scope: Scope | None = None, progress: Progress = bool) -> list[Finding]:
        """Return what is wrong."""
        return list(self._hook.verify(cid=cid, progress=progress, scope=scope or self.scope()))

    def reading(self) -> dict[str, Callable[[str, Path, Scope | None], Any]]:
        """Return each way to read what is under a CID."""
        return {
            "fetch": lambda cid, _, scope: list(self.fetch(cid, scope=scope)),
            "entries": lambda cid, _, scope: self.entries(cid, scope),
            "extract": lambda cid, target, scope: self.extract(cid, target / "extracted", scope),
            "export_car": lambda cid, _, scope: self.export(cid, scope),
        }


def noise(size: int, seed: object = None) -> bytes:
    """Return so many bytes that look random: the same for the same seed, never the same without one."""
    if seed is None:
        return os.urandom(size)
    rng = random.Random(repr(seed))
    return b"".join(rng.randbytes(min(1 << 20, size - at)) for at in range(0, size, 1 << 20))


class Endless(io.RawIOBase):
    """A stream that never ends, and never repeats."""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes."""
        return os.urandom(max(size, 1))


class Failing(io.BytesIO):
    """A stream whose disk fails after its last byte."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return what there is."""
        if piece := super().read(size):
            return piece
        raise OSError(5, "the disk is broken")


def raw_cid(data: bytes) -> bytes:
    """Return the CID of a block of plain bytes."""
    return b"\x01\x55\x12\x20" + sha256(data).digest()


def text_of(cid: bytes) -> str:
    """Return the text of a CID of version 1."""
    return "b" + b32encode(cid).decode().lower().rstrip("=")


def car_of(root: bytes, *blocks: bytes) -> bytes:
    """Return a CAR of version 1 with this root and these blocks of plain bytes, each shorter than 16 KiB."""
    header = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + root + b"\x67version\x01"
    return b"".join(map(_sized, (header, *(raw_cid(block) + block for block in blocks))))


def _sized(section: bytes) -> bytes:
    size = len(section)
    return (bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))) + section


def grow(folder: Path) -> dict[str, bytes | str | None]:
    """Fill a folder, and return what is in it by path: bytes of files, targets of symbolic links, None of folders."""
    content: dict[str, bytes | str | None] = {
        "a.txt": b"hello",
        "empty": b"",
        "Beweis \u8a3c\u62e0 %41.pdf": noise(100_000, "proof"),
        ".hidden": b"h",
        "nothing": None,
        "in": None,
        "in/deep": None,
        "in/deep/large": noise(2_500_000, "large"),
        "in/same": b"hello",
        "in/link": "../a.txt",
        "in/broken": "nowhere",
    }
    folder.mkdir()
    for name, what in content.items():
        path = folder / name
        if what is None:
            path.mkdir()
        elif isinstance(what, str):
            path.symlink_to(what)
        else:
            path.write_bytes(what)
    return content


def found_in(folder: Path) -> dict[str, bytes | str | None]:
    """Return what is in a folder, as `grow` does."""
    found: dict[str, bytes | str | None] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        found[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found
