"""`pointsman config check`: every problem of a configuration, with its path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from ._output import as_json, note, table
from ._router import config_option, find_config, json_option, router_of

if TYPE_CHECKING:
    from pointsman import Backend, PluginInfo


@click.group()
def config() -> None:
    """Look at a configuration."""


@config.command(short_help="Check a configuration; show every mistake at once.")
@click.argument("file", required=False)
@config_option
@json_option
def check(file: str | None, config_file: str | None, as_json_: bool) -> int:
    """Check FILE: keys, types, ids, plugins and their options, all at once.

    Connects to nothing and shows no key; `pointsman health` also asks each backend. FILE is found
    as by every other command. The exit code is 2 if there is anything to mend, 1 if a plugin is
    unfit.
    """
    from pointsman._stores import check_folders
    from pointsman.config import load
    from pointsman.errors import ConfigError

    path = find_config(file or config_file)
    if path is None:
        raise click.UsageError("no configuration: give FILE, or set POINTSMAN_CONFIG, or write pointsman.toml here")
    try:
        with router_of(str(path)) as router:
            backends, plugins = router.backends, router.plugins()
            found = [_status(backend, plugins) for backend in backends]
        check_folders(stores := load(path).stores)
    except ConfigError as error:
        if not getattr(error, "__notes__", ()):
            error.add_note(str(path))
        if as_json_:
            as_json({"file": str(path), "problems": list(error.problems)})
        raise
    rows = [
        {
            "backend": backend.id,
            "type": backend.type,
            "model": backend.model,
            "priority": backend.priority,
            "status": status,
            "reason": reason,
        }
        for backend, (status, reason) in zip(backends, found, strict=True)
    ]
    if as_json_:
        as_json({"file": str(path), "problems": [], "backends": rows})
    else:
        if rows or not stores:
            table(("backend", "type", "model", "priority", "status", "reason"), rows)
        enabled = [row["status"] for row in rows if row["status"] != "disabled"]
        note(f"{path}: nothing to mend; {enabled.count('ready')} of {len(enabled)} enabled backends can be asked")
        if stores:
            note(f"`pointsman store status` says how its stores are: {', '.join(one.id for one in stores)}")
    return 1 if any(row["status"] == "unfit" for row in rows) else 0


def _status(backend: Backend, plugins: Iterable[PluginInfo]) -> tuple[str, str]:
    """Return what a backend is, and why: what a person must add (a variable, a key, a model's file), say."""
    if not backend.enabled:
        return "disabled", ""
    same = [info for info in plugins if (info.group, info.name) == ("pointsman.providers", backend.type)]
    if same and all(info.status == "quarantined" for info in same):  # one of two may be fit
        return "unfit", same[0].cause
    try:
        missing = backend.missing or str(getattr(backend.provider, "missing", ""))
    except Exception as error:
        missing = f"missing raised {type(error).__name__}: the plugin is at fault"
    return ("unconfigured", missing) if missing else ("ready", "")
