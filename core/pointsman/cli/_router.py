"""Where the configuration is, and the router or the store that it describes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pointsman import Router, Store

_PLACES = ("pointsman.json", "pointsman.toml")

config_option = click.option(
    "--config", "config_file", metavar="FILE", help="Configuration, JSON or TOML. [default: see pointsman --help]"
)
json_option = click.option("--json", "as_json_", is_flag=True, help="Print JSON, for programs.")


def find_config(given: str | None) -> Path | None:
    """Return the file to use: as given, by POINTSMAN_CONFIG, or one in this folder; None where there is none."""
    if given:
        return Path(given)
    named = os.environ.get("POINTSMAN_CONFIG")
    if named and not Path(named).exists():
        from pointsman.errors import ConfigError

        raise ConfigError(f"POINTSMAN_CONFIG names {named}: no such file")
    if named:
        return Path(named)
    return next((Path(name) for name in _PLACES if Path(name).is_file()), None)


def router_of(config_file: str | None) -> Router:
    """Return the router of the configuration, or of all that is installed.

    :raises ConfigError: with every problem, each with its path; the file is its note.
    """
    from pointsman import Router
    from pointsman.errors import ConfigError

    path = find_config(config_file)
    if path is None:
        return Router()
    try:
        return Router.from_config(path)
    except ConfigError as error:
        error.add_note(str(path))
        raise


def store_of(config_file: str | None) -> Store:
    """Return the store of the configuration, or of all that is installed.

    :raises ConfigError: with every problem, each with its path; the file is its note.
    """
    from pointsman import Store
    from pointsman.errors import ConfigError

    path = find_config(config_file)
    try:
        return Store() if path is None else Store.from_config(path)
    except ConfigError as error:
        if path is not None:
            error.add_note(str(path))
        raise
