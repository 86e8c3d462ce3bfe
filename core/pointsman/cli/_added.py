"""Commands that plugins add. They are listed without an import, and loaded when one is called."""

from __future__ import annotations

from typing import Any

import click

from pointsman._entries import COMMANDS, entries_of
from pointsman.errors import ConfigError

#: The commands that other distributions of this project add, as their entry points name them.
_OTHERS = {"verify": "pointsman-ipfs", "store.reindex": "pointsman-ipfs"}

#: The exit codes, as every --help tells them; and that of what could not be checked, where a command has it.
CODES = """\b
Exit codes:
  0    done
  1    a backend or a store failed, or is unwell
  2    the usage or the configuration is wrong
  130  interrupted
  141  whoever read the output left before it was whole"""
UNCHECKED = CODES.replace("  130", "  3    nothing is wrong, and not all could be looked at\n  130")


class Extensible(click.Group):
    """A group of commands to which plugins add others. It lists ours by how often they are wanted, theirs behind."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of ours in the order in which they were added, and those of the others."""
        return list(dict.fromkeys([*self.commands, *sorted(self._added(ctx))]))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one of ours, or what stands for one that a plugin adds."""
        return super().get_command(ctx, cmd_name) or self._added(ctx).get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is to run.

        :raises ConfigError: the plugin that adds it is unfit, or not installed.
        """
        path = ".".join((*ctx.command_path.split()[1:], args[0]))
        if path in _OTHERS and self.get_command(ctx, args[0]) is None:
            raise ConfigError(f"the command {path.replace('.', ' ')!r} is not installed: pip install {_OTHERS[path]}")
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, _Added) else command, rest

    def _added(self, ctx: click.Context) -> dict[str, click.Command]:
        path = ctx.command_path.split()[1:]  # the program's own name is no part of it
        found: dict[str, click.Command] = {}
        for entry, distribution, _ in entries_of((COMMANDS,)):
            *groups, name = entry.name.split(".")
            if groups == path:
                found.setdefault(name, _Added(entry.name, f"Added by {distribution}."))
        return found


class _Added(click.Command):
    """Stands for a command of a plugin that is not loaded."""

    def __init__(self, name: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)

    def load(self) -> click.Command:
        from pointsman._discovery import Catalogue

        command: click.Command = Catalogue().load(COMMANDS, str(self.name))
        command.epilog = command.epilog or CODES
        return command


def check_command(name: str, command: Any) -> None:
    """See whether what a plugin gives can be the command of this name.

    :raises ConfigError: it is no command, its name is one of ours, or the group that it names is not there.
    """
    from ._app import app

    if not isinstance(command, click.Command):
        raise ConfigError(f"the entry point gives a {type(command).__name__}, expected a click.Command")
    *groups, last = name.split(".")
    group: Any = app
    for part in groups:
        group = group.commands.get(part)
        if not isinstance(group, Extensible):
            raise ConfigError(f"{name!r} names a group of commands that is not there: {part!r}")
    if last in group.commands:
        raise ConfigError(f"the command {name!r} is Pointsman's own; give it another name")
