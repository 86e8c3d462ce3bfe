"""`pointsman config check`: every problem of a configuration, with its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ._output import as_json, note, table
from ._router import config_option, find_config, json_option, router_of

if TYPE_CHECKING:
    from pointsman import Backend


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
    from pointsman.errors import ConfigError

    path = find_config(file or config_file)
    if path is None:
        raise click.UsageError("no configuration: give FILE, or set POINTSMAN_CONFIG, or write pointsman.toml here")
    try:
        with router_of(str(path)) as router:
            backends, plugins = router.backends, router.plugins()
            missing = [_missing(backend) if backend.enabled else "" for backend in backends]
    except ConfigError as error:
        if as_json_:
            as_json({"file": str(path), "problems": list(error.problems)})
        raise
    unfit = {info.name for info in plugins if info.status == "quarantined" and info.group == "pointsman.providers"}
    rows = [
        {
            "backend": backend.id,
            "type": backend.type,
            "model": backend.model,
            "priority": backend.priority,
            "status": _status(backend, unfit, why),
            "reason": why,
        }
        for backend, why in zip(backends, missing, strict=True)
    ]
    if as_json_:
        as_json({"file": str(path), "problems": [], "backends": rows})
    else:
        table(("backend", "type", "model", "priority", "status", "reason"), rows)
        enabled = [row["status"] for row in rows if row["status"] != "disabled"]
        note(f"{path}: nothing to mend; {enabled.count('ready')} of {len(enabled)} enabled backends can be asked")
    return 1 if any(row["status"] == "unfit" for row in rows) else 0


def _missing(backend: Backend) -> str:
    """Return what a person must add before this backend can be asked: a variable, a key, a model's file."""
    try:
        return backend.missing or str(getattr(backend.provider, "missing", ""))
    except Exception as error:
        return f"missing raised {type(error).__name__}: the plugin is at fault"


def _status(backend: Backend, unfit: set[str], missing: str) -> str:
    if not backend.enabled:
        return "disabled"
    if backend.type in unfit:
        return "unfit"
    return "unconfigured" if missing else "ready"
