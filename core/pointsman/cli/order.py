"""`pointsman order`: who would be asked, in which order, and why the others would not."""

from __future__ import annotations

from typing import Any

import click

from ._output import as_json, table
from ._router import config_option, json_option, router_of


@click.command(short_help="Show who would be asked, in which order, and why.")
@click.argument("prompt", nargs=-1)
@click.option("--backend", metavar="ID", help="As if this backend only were asked.")
@click.option("--model", metavar="NAME", help="As if this model were asked.")
@click.option("--local-only", is_flag=True, help="As if nothing might leave this machine.")
@json_option
@config_option
def order(prompt: tuple[str, ...], as_json_: bool, config_file: str | None, **options: Any) -> int:
    """Show which backends would be asked for PROMPT, in which order, and why the others would not.

    Asks each backend for its health first, and sends no prompt anywhere. The exit code is 1 if no
    backend could be asked.
    """
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    with router_of(config_file) as router:
        router.health()
        places = router.order(" ".join(prompt) or "?", **options)
    rows = [
        {
            "place": place.position,
            "backend": place.backend.id,
            "type": place.backend.type,
            "model": place.backend.model,
            "why": place.reason,
        }
        for place in places
    ]
    if as_json_:
        as_json(rows)
    else:
        shown = [row | {"place": row["place"] or "-"} for row in rows]
        table(("place", "backend", "type", "model", "why"), shown)
    return 0 if any(place.position for place in places) else 1
