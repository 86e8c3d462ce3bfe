"""What a process has open of one embedded store."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pointsman import UnavailableError

from .. import _sqlite
from ._disk import sync_folder
from ._places import Places
from ._reserve import Reserve
from ._shelf import Shelf
from ._writer import Writer

T = TypeVar("T")


class Opened:
    """What a process has open of one store.

    :param writing: whether a store is made where none is; else that is an empty one, and nothing is made.
    :raises UnavailableError: it cannot be opened.
    """

    def __init__(self, root: Path, *, writing: bool) -> None:
        self.pid, self._root = os.getpid(), root
        packs = root / "packs"
        try:
            #: Whether no store was there, and none was made
            self.absent = not writing and _is_absent(root)
            #: Whether nothing in the folder may be changed
            self.read_only = self.absent or is_read_only(root)
            if not self.absent and not packs.is_dir():
                packs.mkdir(mode=0o700, parents=True, exist_ok=True)
                for folder in (root, root.parent):
                    sync_folder(folder)
            self._reserve = Reserve(root)
            self.places = Places(root, read_only=True) if self.read_only else self.with_room(lambda: Places(root))
        except OSError as error:
            where = "" if error.filename in (None, str(root)) else f" ({error.filename})"
            text = f"{root} cannot be used as a store: {error.strerror or error}{where}; choose another path"
            raise UnavailableError(text, retry_same=False) from error
        self.shelf = Shelf(self.places, None if self.read_only else root / "quarantine")
        self._look_elsewhere()
        self.writer = Writer(self.places, self.shelf, self._reserve)

    def _look_elsewhere(self) -> None:
        """See whether what was in packs that are gone stands in another one, too: of two places, the index has one.

        Nothing but that is read anew there. Who is interrupted does so when the store is opened the next time.
        """
        index = self.places.index
        with suppress(UnavailableError):  # on a full disk
            self.shelf.look_elsewhere(dict.fromkeys(index.damaged() if self.places.gone else ()))
            for pack in self.places.gone:
                index.running(pack, None)

    def usable(self, *, writing: bool) -> bool:
        """Whether it is of this process, and its index is sound; to write, whether a store is there at all.

        Where it only reads, that is a copy: others have moved blocks since, if they have collected. And perhaps the
        folder can now be written, or a store is there.
        """
        if self.pid != os.getpid() or self.places.index.broken or (writing and self.absent):
            return False
        if self.places.removed and self.places.folder.is_dir():  # it came back, or is another one
            return False
        if not self.read_only:
            return True
        as_was = _is_absent if self.absent else is_read_only
        return self.places.began == self.places.generation and as_was(self._root)

    def with_room(self, work: Callable[[], T]) -> T:
        """Do what makes room on a full disk, or shows what there is: it may take some room that we keep for that."""
        try:
            return work()
        except UnavailableError:
            self._reserve.give()
            return work()
        finally:
            self._reserve.refill()

    def close(self) -> None:
        self.writer.let_go()
        self.places.close()
        self.shelf.close()


def _is_absent(root: Path) -> bool:
    """Whether no store is there, and one could be: there is nothing at all, or a folder."""
    return not (root / "packs").exists() and (root.is_dir() or not os.path.lexists(root))


def is_read_only(root: Path) -> bool:
    """Whether a store is there that cannot be written."""
    return os.path.isdir(root / "packs") and _sqlite.is_read_only(root, root / "packs")
