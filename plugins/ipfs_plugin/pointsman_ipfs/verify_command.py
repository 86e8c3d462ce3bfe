"""`pointsman verify`: what holds of receipts and evidence, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from pointsman import InvalidRequestError
from pointsman.cli.parts import (
    Bytes,
    answer,
    as_json,
    config_option,
    in_a_line,
    json_option,
    size_of,
    store_of,
    written,
)

from .proof._check import Check, Tally
from .proof.verify import verify as checks_of
from .receipts._signature import public_key

_CODES = """\b
Exit codes:
  0    all of it holds
  1    something fails
  2    the usage or the configuration is wrong
  3    nothing fails, and not all could be checked
  130  interrupted
  141  whoever read the output left before it was whole"""


@click.command(epilog=_CODES)
@click.argument("what", metavar="CID|FOLDER|CAR")
@click.option(
    "--key", metavar="PUBLICKEY", help="All receipts must be signed with it: hexadecimal, base64, a PEM file."
)
@click.option(
    "--identity",
    metavar="FILE",
    multiple=True,
    help="A private key that opens encrypted evidence; may be repeated.",
)
@click.option("--car", "copy", metavar="FILE", help="Write what CID goes back to, and cited evidence, to a CAR file.")
@click.option("--no-evidence", is_flag=True, help="Leave evidence that receipts cite out of that file.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@json_option
@config_option
def verify(what: str, config_file: str | None, as_json_: bool, quiet: bool, **how: Any) -> int:
    """Check receipts of answers and records of evidence, offline: line by line what holds, what fails, and what could
    not be checked; then in one sentence what is proven.

    A CID is that of a receipt or a record: then all is checked that it goes back to, from the configuration's store.
    A CAR is a file, a FOLDER that of an embedded store: then all that is in it. No content is shown.
    """
    tally, rows = Tally(), list[dict[str, str]]()
    with Bytes(_size(what), quiet=quiet) as seen:
        for check in _checks(what, config_file, seen, how):
            tally.add(check)
            if as_json_:
                rows.append({"status": check.status, "what": check.what, "text": check.text})
            else:
                seen.hide()
                answer(f"{in_a_line(str(check))}\n")
    if as_json_:
        as_json(rows)
    else:
        answer(f"{tally}\n")
    return 1 if tally.fails else 3 if tally.unchecked else 0


def _checks(what: str, config_file: str | None, seen: Bytes, how: dict[str, Any]) -> Iterator[Check]:
    is_here, told = Path(what).exists(), False
    if how["copy"] is not None and is_here:
        raise click.UsageError("--car is for the chain of a receipt, or the log of a record, that a CID names")
    with ExitStack() as opened:
        store = None if is_here else opened.enter_context(store_of(config_file))
        key = None if how["key"] is None else public_key(how["key"])
        identity = [Path(one) for one in how["identity"]]
        copy = None if how["copy"] is None else _Copy(opened.enter_context(written(how["copy"])))
        kept: dict[str, Any] = {"store": store, "copy": copy, "cited": not how["no_evidence"]}
        try:
            for check in checks_of(what, key=key, identity=identity, progress=seen.add, **kept):
                told = True
                yield check
        except InvalidRequestError as error:
            if copy is not None and copy.failed is not None:
                raise copy.failed from None
            if told:
                raise
            raise click.UsageError(error.message) from error


class _Copy:
    """Writes a CAR file, and remembers what failed there: that says nothing of what is read."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.failed: OSError | None = None

    def __call__(self, data: bytes) -> None:
        try:
            self._write(data)
        except OSError as error:
            self.failed = error
            raise


def _size(what: str) -> int | None:
    path = Path(what)
    return None if not path.exists() else size_of(str(path / "packs" if path.is_dir() else path))
