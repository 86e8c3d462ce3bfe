"""`pointsman plugins`: what is installed, and whether it is fit for use."""

from __future__ import annotations

from contextlib import suppress

import click

from ._output import as_json, table
from ._router import json_option

_COLUMNS = ("name", "kind", "distribution", "version", "status", "cause")


@click.command()
@json_option
def plugins(as_json_: bool) -> int:
    """Show every installed plugin, and whether it is fit for use.

    Each is imported and looked at. The exit code is 1 if one is quarantined: the cause says what is
    wrong with it.
    """
    from pointsman._discovery import Catalogue
    from pointsman.errors import ConfigError

    catalogue = Catalogue()
    for info in catalogue.infos():
        with suppress(ConfigError):  # then `infos` tells the cause
            catalogue.load(info.group, info.name)
    infos = catalogue.infos()
    rows = [
        {
            "name": info.name,
            "kind": info.group.removeprefix("pointsman."),
            "distribution": info.distribution,
            "version": info.version,
            "status": "ready" if info.status == "loaded" else info.status,
            "cause": info.cause,
        }
        for info in infos
    ]
    if as_json_:
        as_json(rows)
    else:
        table(_COLUMNS, rows)
    return 1 if any(info.status == "quarantined" for info in infos) else 0
