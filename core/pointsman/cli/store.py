"""`pointsman store`: content under its identifier, put and got, listed, verified, and brought to other stores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import click

from pointsman.errors import BackendError

from ._added import UNCHECKED, Extensible
from ._bytes import Bytes, counted_down, size_of, standard_input, write_bytes, written
from ._output import answer, as_json, in_a_line, note, table
from ._router import config_option, json_option, store_of

if TYPE_CHECKING:
    from pointsman import Store
    from pointsman.content import Stored
    from pointsman.store import Waiting

    Rows: TypeAlias = Sequence[dict[str, Any]]

#: Seconds for which nothing may move of what is brought to other stores before a command ends.
_PATIENCE = 10.0

store_option = click.option("--store", "store_id", metavar="ID", help="Only this store.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
timeout_option = click.option("--timeout", type=float, metavar="SECONDS", help="For all of it. [default: no limit]")


@click.group(cls=Extensible)
def store() -> None:
    """Keep content under its identifier (CID), and get it back.

    The stores are those of the configuration's STORES; without them, the embedded one, and an IPFS node on this machine
    if one answers.
    """


@store.command(short_help="Keep files and folders; print their CIDs.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--profile", metavar="NAME", help="How content becomes blocks: unixfs-v1-2025, cid-v1 or cid-v0.")
@click.option("--no-pin", is_flag=True, help="Let the next gc take it.")
@click.option("--no-hidden", is_flag=True, help="Leave out a folder's hidden files.")
@store_option
@timeout_option
@quiet_option
@json_option
@config_option
def put(paths: tuple[str, ...], store_id: str | None, config_file: str | None, as_json_: bool, **how: Any) -> int:
    """Keep each PATH, a file or a folder (- is the standard input), and print its CID.

    It is durable in one store when its CID is printed. Other stores get it before the command ends. What cannot be
    brought waits in the outbox: `pointsman store sync`.
    """
    with (
        _told(as_json_) as (tell, rows),
        _bringing(config_file, timeout=how["timeout"], rows=rows, quiet=how["quiet"]) as kept,
    ):
        for path in paths:
            given: Any = standard_input() if path == "-" else path
            with Bytes(size_of(path), quiet=how["quiet"]) as seen:
                stored = kept.put(
                    given,
                    pin=not how["no_pin"],
                    profile=how["profile"],
                    hidden=not how["no_hidden"],
                    store=store_id,
                    timeout=how["timeout"],
                    progress=seen.add,
                )
            tell(path, stored, {"path": path, "kind": stored.kind})
    return 0


@store.command(short_help="Write content to the standard output, a file or a folder.")
@click.argument("cid")
@click.option("-o", "--output", metavar="PATH", help="A path where nothing is; - is the standard output. [default: -]")
@click.option("--offset", type=click.IntRange(0), default=0, metavar="BYTES", help="Begin there.")
@click.option("--length", type=click.IntRange(0), metavar="BYTES", help="Stop after so many.")
@store_option
@timeout_option
@quiet_option
@config_option
def get(cid: str, output: str | None, config_file: str | None, **how: Any) -> int:
    """Write what is under CID, verified: a file, or with CID/a/b one in a folder. A folder needs --output."""
    if output not in (None, "-") and (how["offset"] or how["length"] is not None):
        raise click.UsageError("--offset and --length are for the standard output")
    with _bringing(config_file, only_mended=True, timeout=how["timeout"], quiet=how["quiet"]) as kept:
        if output in (None, "-"):
            with (
                kept.open(cid, how["offset"], how["length"], store=how["store_id"], timeout=how["timeout"]) as content,
                Bytes(None, quiet=how["quiet"] or sys.stdout.isatty()) as seen,
            ):
                for piece in content:
                    write_bytes(piece)
                    seen.add(len(piece))
        else:
            kept.extract(cid, str(output), store=how["store_id"], timeout=how["timeout"])
    return 0


@store.command(short_help="List a folder, or what is pinned.")
@click.argument("cid", required=False)
@store_option
@timeout_option
@json_option
@config_option
def ls(cid: str | None, as_json_: bool, config_file: str | None, **how: Any) -> int:
    """List the folder under CID; without it, what is pinned."""
    with store_of(config_file) as kept:
        _say_where_none_is(kept, how["store_id"])
        rows = [
            {"cid": one.cid, "size": one.size, "kind": one.kind, "name": one.name if as_json_ else in_a_line(one.name)}
            for one in kept.ls(cid, store=how["store_id"], timeout=how["timeout"])
        ]
    _show(rows, ("cid", "kind", "size", "name"), as_json_, "nothing is pinned" if cid is None else "it is empty")
    return 0


@store.command(short_help="Read everything again; name what is damaged.", epilog=UNCHECKED)
@click.argument("cid", required=False)
@click.option("--repair", is_flag=True, help="Bring back what is damaged from another store.")
@store_option
@quiet_option
@json_option
@config_option
def verify(cid: str | None, store_id: str | None, as_json_: bool, config_file: str | None, **how: Any) -> int:
    """Read all that is kept, or what is under CID, in every store, and name what is damaged or missing.

    The exit code is 1 if anything is, and was not mended; else 3 if a store could not be looked at ("unchecked").
    """
    with _bringing(config_file, only_mended=True, quiet=how["quiet"]) as kept, Bytes(None, quiet=how["quiet"]) as seen:
        _say_where_none_is(kept, store_id)
        found = [
            {
                "store": one.store,
                "cid": one.cid,
                "problem": one.problem,
                "status": "mended" if one.mended else "unchecked" if one.unchecked else "damaged",
            }
            for one in kept.verify(cid, repair=how["repair"], store=store_id, progress=seen.add)
        ]
    _show(found, ("store", "cid", "status", "problem"), as_json_, "everything is as its CID says")
    statuses = {one["status"] for one in found}
    return 1 if "damaged" in statuses else 3 if "unchecked" in statuses else 0


@store.command(short_help="Write content as a CAR file.")
@click.argument("cid")
@click.option(
    "-o",
    "--output",
    default="-",
    metavar="FILE",
    help="A path where nothing is; - is the standard output. [default: -]",
)
@store_option
@timeout_option
@quiet_option
@config_option
def export(cid: str, output: str, config_file: str | None, **how: Any) -> int:
    """Write all that is under CID as a CAR file of version 1, which every IPFS program reads."""
    quiet = how["quiet"] or (output == "-" and sys.stdout.isatty())
    with store_of(config_file) as kept, Bytes(None, quiet=quiet) as seen, written(output) as write:
        for piece in kept.export_car(cid, store=how["store_id"], timeout=how["timeout"]):
            write(piece)
            seen.add(len(piece))
    return 0


@store.command("import", short_help="Keep what a CAR file holds.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--no-pin", is_flag=True, help="Let the next gc take it; it need not be whole.")
@store_option
@timeout_option
@quiet_option
@json_option
@config_option
def import_(files: tuple[str, ...], config_file: str | None, as_json_: bool, **how: Any) -> int:
    """Keep what each CAR FILE holds (- is the standard input), verified, and print its roots."""
    with (
        _told(as_json_) as (tell, rows),
        _bringing(config_file, timeout=how["timeout"], rows=rows, quiet=how["quiet"]) as kept,
    ):
        for file in files:
            with Bytes(size_of(file), quiet=how["quiet"]) as seen, _read(file) as source:
                try:
                    roots = kept.import_car(
                        seen.through(source), pin=not how["no_pin"], store=how["store_id"], timeout=how["timeout"]
                    )
                except BackendError as error:
                    error.add_note(f"in {in_a_line(file)}")
                    raise
            if not roots:
                note(f"{in_a_line(file)}: it names no root, so that nothing of it is pinned")
            for root in roots:
                tell(file, root, {"file": file})
    return 0


@store.command(short_help="Bring to other stores what waits for them.")
@timeout_option
@quiet_option
@json_option
@config_option
def sync(timeout: float | None, quiet: bool, as_json_: bool, config_file: str | None) -> int:
    """Bring to every store what waits for it in the outbox, now. The exit code is 1 if anything waits on."""
    with store_of(config_file) as kept, counted_down(lambda: len(kept.waiting()), quiet=quiet):
        rows = [
            {"store": one.store, "cid": one.cid, "what": one.what, "tries": one.tries, "reason": one.reason}
            for one in kept.sync(timeout=timeout)
        ]
    _show(rows, ("store", "cid", "what", "tries", "reason"), as_json_, "nothing waits")
    return 1 if rows else 0


@store.command(short_help="Show how each store is, or has a CID.")
@click.argument("cid", required=False)
@json_option
@config_option
def status(cid: str | None, as_json_: bool, config_file: str | None) -> int:
    """Show how each store has what is under CID; without it, how each store is, and what waits for it.

    The exit code is 1 if the content is in no store, or a store is not well.
    """
    with store_of(config_file) as kept:
        if cid is not None:
            copies = kept.status(cid)
            rows = [{"store": one.store, "status": one.state, "reason": one.reason} for one in copies]
            well = any(one.state == "kept" for one in copies)
        else:
            health = kept.health()
            rows = [
                {"store": one.id, "type": one.type, "status": health[one.id].status, "reason": health[one.id].reason}
                for one in kept.stores
            ]
            well = any(row["status"] == "healthy" for row in rows) and all(
                row["status"] in ("healthy", "unconfigured") for row in rows
            )
    _show(rows, ("store", "type", "status", "reason"), as_json_, "no store is configured")
    return 0 if well else 1


@store.command(short_help="Remove what no pin keeps.")
@json_option
@config_option
def gc(as_json_: bool, config_file: str | None) -> int:
    """Remove what no pin keeps from the embedded stores. Other programs may put meanwhile."""
    with store_of(config_file) as kept:
        rows = [{"store": name, "blocks": one.blocks, "bytes": one.bytes} for name, one in kept.gc().items()]
    _show(rows, ("store", "blocks", "bytes"), as_json_, "no store of ours")
    return 0


@store.command(short_help="Keep content until it is unpinned.")
@click.argument("cids", nargs=-1, required=True, metavar="CID...")
@config_option
def pin(cids: tuple[str, ...], config_file: str | None) -> int:
    """Keep what is under each CID until it is unpinned, in every store."""
    with _bringing(config_file) as kept:
        for cid in cids:
            kept.pin(cid)
    return 0


@store.command(short_help="Let gc take content.")
@click.argument("cids", nargs=-1, required=True, metavar="CID...")
@config_option
def unpin(cids: tuple[str, ...], config_file: str | None) -> int:
    """Let `gc` take what is under each CID, in every store."""
    with _bringing(config_file) as kept:
        for cid in cids:
            kept.unpin(cid)
    return 0


@contextmanager
def _bringing(
    config_file: str | None,
    *,
    only_mended: bool = False,
    timeout: float | None = None,
    rows: Rows = (),
    quiet: bool = False,
) -> Iterator[Store]:
    """Give the store of the configuration, and bring to other stores what waits for them before it is closed.

    What is done with it may fail: then what was kept before that is brought, and nothing that waited already.

    :param only_mended: only if something damaged was found that another store gets back.
    :param timeout: seconds for all of it.
    :param rows: of what was kept: they then say where it is.
    :param quiet: show no progress.
    """
    began = time()

    def is_new(one: Waiting) -> bool:
        return one.since >= began and (not only_mended or one.what == "mend")

    def bring(counts: Callable[[Waiting], bool]) -> None:
        waiting: Sequence[Waiting] = kept.waiting()
        if any(map(counts, waiting)):
            waiting = _brought(
                kept, None if timeout is None else max(0.001, began + timeout - time()), waiting, quiet=quiet
            )
        late = {(one.store, one.cid) for one in waiting}
        for row in rows:
            there = [store for store in row["waiting_for"] if (store, row["cid"]) not in late]
            row["stored_in"] += there
            row["waiting_for"] = [store for store in row["waiting_for"] if store not in there]

    with store_of(config_file) as kept:
        try:
            yield kept
        except (BackendError, click.ClickException):
            with suppress(BackendError):
                bring(is_new)
            raise
        bring(lambda one: not only_mended or is_new(one))


def _brought(kept: Store, timeout: float | None, waiting: Sequence[Waiting], *, quiet: bool) -> Sequence[Waiting]:
    """Bring what waits, and return what waits on, once it is told."""
    why = dict[str, list[str]]()
    try:
        with counted_down(lambda: len(kept.waiting()), quiet=quiet):
            waiting = kept.sync(timeout=timeout, patience=_PATIENCE)
    except BackendError as error:  # of the outbox: what was put is kept
        note(in_a_line(f"the outbox cannot be used now: {error}"))
        return waiting
    for one in waiting:
        why.setdefault(one.store, []).append(one.reason)
    told = [
        f"{len(reasons)} for {store}: {max(reasons) or f'nothing moved for {_PATIENCE:.0f} s'}"
        for store, reasons in why.items()
    ]
    if told:
        note(in_a_line(f"in the outbox wait {'; '.join(told)}; `pointsman store sync` brings it"))
    return waiting


def _say_where_none_is(kept: Store, store_id: str | None) -> None:
    for one in kept.stores:
        if one.enabled and store_id in (None, one.id) and one.folder is not None:
            try:
                one.folder.stat()
            except FileNotFoundError:
                note(in_a_line(f"{one.id}: there is no store at {one.folder} yet; the first put makes it"))
            except OSError:  # the store itself tells why it cannot be looked at
                pass


def _show(rows: list[dict[str, Any]], columns: Iterable[str], as_json_: bool, empty: str) -> None:
    if as_json_:
        as_json(rows)
    elif rows:
        table([name for name in columns if name in rows[0]], rows)
    else:
        note(empty)


@contextmanager
def _told(as_json_: bool) -> Iterator[tuple[Callable[[str, Stored, dict[str, Any]], None], Rows]]:
    """Give what tells what was kept of a name, and its rows: JSON tells them at the end, even if that is an error."""
    rows = list[dict[str, Any]]()

    def tell(name: str, kept: Stored, more: dict[str, Any]) -> None:
        where = {"stored_in": [*kept.stored_in], "waiting_for": [*kept.waiting_for]}
        rows.append({"cid": kept.cid, "size": kept.size, **more, **where})
        if not as_json_:
            answer(f"{kept.cid}  {in_a_line(name)}\n")

    try:
        yield tell, rows
    finally:
        if as_json_:
            as_json(rows)


@contextmanager
def _read(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield standard_input()
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115 - in `with` below
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from error
    with opened:
        yield opened
