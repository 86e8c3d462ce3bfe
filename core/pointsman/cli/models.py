"""`pointsman models`: what each backend offers, with context and price where its service tells."""

from __future__ import annotations

import click

from ._output import as_json, complain, table
from ._router import config_option, json_option, router_of


@click.command()
@click.option("--backend", metavar="ID", help="Only this backend.")
@json_option
@config_option
def models(backend: str | None, as_json_: bool, config_file: str | None) -> int:
    """List the models that each backend offers.

    Costs no tokens. Context is in tokens, prices in US dollars for a million tokens.
    """
    rows, failed = [], 0
    with router_of(config_file) as router:
        for name, found in router.models(backend).items():
            if isinstance(found, Exception):
                failed += 1
                complain(f"{name}: {found}")
                continue
            for one in found:
                prices = one.prices or {}
                row = {"backend": name, "model": one.id, "context": one.context_window}
                rows.append(
                    {**row, "input": prices.get("input"), "output": prices.get("output"), "retires": one.retires}
                )
    if as_json_:
        as_json(rows)
    elif rows:
        table(("backend", "model", "context", "input", "output", "retires"), rows)
    return 1 if failed and not rows else 0
