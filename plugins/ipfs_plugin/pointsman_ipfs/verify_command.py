"""`pointsman verify`: what holds of receipts, and what does not."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
from pointsman import InvalidRequestError
from pointsman.cli.parts import answer, as_json, config_option, json_option, store_of, written

from .receipts._signature import public_key
from .receipts.verify import verify as checks_of

_CODES = """\b
Exit codes:
  0    all of it holds
  1    something fails
  2    the usage or the configuration is wrong
  3    nothing fails, and not all could be checked
  130  interrupted"""


@click.command(epilog=_CODES)
@click.argument("what", metavar="RECEIPT|FOLDER|CAR")
@click.option("--key", metavar="PUBLICKEY", help="All must be signed with it: hexadecimal, base64, or a PEM file.")
@click.option("--car", "copy", metavar="FILE", help="Write the chain of RECEIPT to a CAR file, for others to verify.")
@json_option
@config_option
def verify(what: str, key: str | None, copy: str | None, as_json_: bool, config_file: str | None) -> int:
    """Check receipts of answers, offline, and say line by line what holds, what fails, and what cannot be checked.

    WHAT is the CID of a receipt: then its chain is checked back to its beginning, from the configuration's store. Or
    a CAR file with receipts, or the folder of an embedded store: then all that is in it.
    """
    if copy is not None and Path(what).exists():
        raise click.UsageError("--car is for the chain of a receipt")
    checks = []
    with ExitStack() as opened:
        store = None if Path(what).exists() else opened.enter_context(store_of(config_file))
        write = None if copy is None else opened.enter_context(written(copy))
        try:
            for check in checks_of(what, store=store, key=None if key is None else public_key(key), copy=write):
                checks.append(check)
                if not as_json_:
                    answer(f"{check}\n")
        except InvalidRequestError as error:
            if checks:
                raise
            raise click.UsageError(error.message) from error
    if as_json_:
        as_json([{"status": one.status, "what": one.what, "text": one.text} for one in checks])
    found = {one.status for one in checks}
    return 1 if "fails" in found else 3 if "unchecked" in found else 0
