"""What stores keep and tell of it: plain frozen values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from attrs import field, frozen

Kind = Literal["file", "folder", "symlink", "other"]
Progress: TypeAlias = Callable[[int], object]  #: is told each time: bytes read


@frozen
class Source:
    """What is to be kept: a file or a folder at `path`, or what `file` gives out when it is read."""

    path: Path | None = None
    file: BinaryIO | None = None
    pin: bool = True
    profile: str | None = None  #: how it becomes blocks; the store's own if None
    hidden: bool = True  #: whether a folder's hidden files, those whose names begin with a dot, are kept too
    progress: Progress = field(default=lambda size: None, repr=False)


@frozen
class Stored:
    """Something that is kept."""

    cid: str
    size: int  #: bytes of content: of a file its length, of a folder that of all files in it
    kind: Kind = "file"
    stored_in: tuple[str, ...] = ()  #: ids of the stores that have it, durably
    waiting_for: tuple[str, ...] = ()  #: ids of the stores that get it from the outbox


@frozen
class Entry:
    """Something in a folder, or something that is pinned (it has no name)."""

    name: str
    cid: str
    size: int | None = None  #: bytes of content, if that is known without reading it
    kind: Kind = "other"


@frozen
class Finding:
    """Something that is not as it should be."""

    cid: str
    problem: str
    store: str = ""  #: id of the store where that is
    mended: bool = False  #: whether it was brought back from another store
    unchecked: bool = False  #: whether it could not be looked at, and nothing is known of it


@frozen
class Collected:
    """What was removed."""

    blocks: int
    bytes: int


@frozen
class Copy:
    """How one store has some content."""

    store: str
    state: Literal["kept", "waiting", "absent", "unknown"]
    reason: str = ""  #: why it waits, or why nobody knows
