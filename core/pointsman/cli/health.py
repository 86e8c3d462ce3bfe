"""`pointsman health`: how each backend is, and what to do about those that are not well."""

from __future__ import annotations

import click

from ._output import as_json, table
from ._router import config_option, find_config, json_option, router_of


@click.command()
@json_option
@config_option
def health(as_json_: bool, config_file: str | None) -> int:
    """Show how each backend is.

    Costs no tokens. With a configuration, the exit code is 1 if any enabled backend is not usable;
    without one, if none is.
    """
    with router_of(config_file) as router:
        found = router.health()
        rows = [
            {
                "backend": backend.id,
                "type": backend.type,
                "model": backend.model,
                "status": found[backend.id].status if backend.enabled else "disabled",
                "reason": found[backend.id].reason if backend.enabled else "",
            }
            for backend in router.backends
        ]
        usable = [found[backend.id].usable for backend in router.backends if backend.enabled]
    if as_json_:
        as_json(rows)
    else:
        table(("backend", "type", "model", "status", "reason"), rows)
    good = all(usable) if find_config(config_file) else any(usable)
    return 0 if usable and good else 1
