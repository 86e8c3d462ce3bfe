"""`pointsman store reindex`. Only the command line loads it."""

from __future__ import annotations

import click
from pointsman.cli.parts import as_json, config_option, json_option, note, store_of, table

from .evidence.evidence import Evidence


@click.command(short_help="Make the index of evidence anew.")
@click.option("--index", metavar="FILE", help="The index. [default: evidence.sqlite beside the content]")
@json_option
@config_option
def reindex(index: str | None, as_json_: bool, config_file: str | None) -> int:
    """Make the index of evidence anew from the records that are pinned in the stores. No key is needed.

    What the index has of records that cannot be read now is kept in it, and told: then the exit code is 1.
    """
    with store_of(config_file) as store, Evidence(store, index) as evidence:
        found = evidence.reindex()
    rows = [{"store": one.store, "cid": one.cid, "problem": one.problem} for one in found.unreadable]
    if as_json_:
        as_json({"index": str(evidence.path), "records": found.records, "unreadable": rows})
    else:
        note(f"{found.records} records in {evidence.path}")
        if rows:
            table(("store", "cid", "problem"), rows)
    return 1 if rows else 0
