"""The entry points that installed distributions declare. It imports no plugin, and nothing of weight."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: The group of commands that plugins add to the command line. An entry point named "a.b" adds `b` to the group `a`.
COMMANDS = "pointsman.commands"


def entries_of(groups: Container[str]) -> Iterator[tuple[EntryPoint, str, str]]:
    """Yield every entry point of some groups, each with the name and the version of its distribution.

    Not `importlib.metadata.entry_points()`: one distribution with broken metadata would end it.
    """
    from importlib.metadata import distributions  # costs as much as all of click

    seen = set()
    for distribution in distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group in groups]
            if not entries:
                continue
            facts: Any = distribution.metadata
            name, version = facts.get("Name", "unknown"), facts.get("Version", "?")
        except Exception as error:
            from . import _log

            _log.failed("reading the metadata of a distribution", error, path=getattr(distribution, "_path", None))
            continue
        if name not in seen:  # the same distribution may be seen twice on the path: the first one is imported
            seen.add(name)
            yield from ((entry, name, version) for entry in entries)
