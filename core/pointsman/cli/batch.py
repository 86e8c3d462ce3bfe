"""`pointsman batch`: many prompts from a file, each answer on a line of another file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._output import in_a_line, note
from ._progress import Progress, Tally, duration
from ._router import config_option, router_of
from ._rows import Output, Rows, message

if TYPE_CHECKING:
    from pointsman import BackendError, Completion, Router

#: How many failures the summary tells one by one; all of them are in the output.
_TOLD = 10


@click.command(short_help="Answer many prompts from a file.")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", "target", metavar="OUT", default="-", help="Where the answers go. [default: -]")
@click.option("--resume", is_flag=True, help="Go on with a run that has ended; ask nothing again.")
@click.option("--retry-failed", is_flag=True, help="With --resume: ask again what failed.")
@click.option("--journal", metavar="FILE", help="What --resume goes by. [default: OUT.journal]")
@click.option("--workers", type=click.IntRange(1), default=4, metavar="N", help="Asked at once. [default: 4]")
@click.option("--max-cost", type=click.FloatRange(0), metavar="USD", help="Ask no more once the answers cost this.")
@click.option("--timeout", type=float, default=30.0, metavar="SECONDS", help="Longest time for each. [default: 30]")
@click.option("--backend", metavar="ID", help="Ask this backend only.")
@click.option("--system", metavar="TEXT", help="Instructions that stand before each prompt.")
@click.option("--schema", "schema_file", metavar="FILE", help="JSON Schema that each answer must fulfil.")
@click.option("--max-tokens", type=int, metavar="N", help="Longest answer, in tokens.")
@click.option("--temperature", type=float, metavar="X", help="From 0 (steady) to 2 (wild).")
@click.option("--model", metavar="NAME", help="Model for the first backend of the order.")
@click.option("--local-only", is_flag=True, help="Send nothing off this machine.")
@click.option("--json", "as_json_", is_flag=True, help="Print the summary as JSON, for programs.")
@config_option
def batch(  # noqa: PLR0913 - the options of the command, by name
    source: str,
    target: str,
    resume: bool,
    retry_failed: bool,
    journal: str | None,
    workers: int,
    max_cost: float | None,
    schema_file: str | None,
    as_json_: bool,
    config_file: str | None,
    **options: Any,
) -> int:
    """Answer every prompt of IN, and write a line of JSON for each to OUT, in the order of IN.

    A line of IN is a JSON object of "prompt" or "messages", "id" if you like, and options of its own
    as `Router.generate` takes them; any other line is a prompt as it stands. Empty lines are passed
    over. - stands for standard input and output.

    A line of OUT has "line" (its number in IN), "id", and the answer as `generate --json` prints it,
    or "error". A bad line of IN becomes an error, and stops no other.

    Every result is in the journal before it is told. However a run ends, the same command with
    --resume goes on: it asks nothing again that has a result, and writes OUT anew. Ctrl-C ends a run
    in order, a second one at once. The exit code is 0 only if every prompt was answered.
    """
    from .generate import read_schema

    path = _journal(Path(source), Path(target), journal, resume=resume)
    if retry_failed and not resume:
        raise click.UsageError("--retry-failed goes with --resume")
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    if schema_file:
        options["schema"] = read_schema(schema_file)
    with ExitStack() as stack:
        lines, total = _lines(source, stack)
        output = Output(target)
        stack.callback(output.close)
        router = stack.enter_context(router_of(config_file))
        run = _Run(router, workers, {**options, "journal": path, "retry_failed": retry_failed}, max_cost)
        interrupted = run.through(Rows(lines), Tally(total), output, quiet=as_json_)
        code = 130 if interrupted else 0 if run.tally.answered == run.rows.count else 1
        run.told(target, as_json=as_json_, resumable=path is not None, interrupted=interrupted)
    if interrupted and run.stuck:
        os._exit(code)  # else the end of the process would wait for calls that obey nobody
    return code


def _journal(source: Path, target: Path, named: str | None, *, resume: bool) -> Path | None:
    """Return where the journal is, after checking that nothing is lost which was there before."""
    regular = str(target) != "-" and (target.is_file() or not target.exists())
    path = Path(named) if named else target.with_name(target.name + ".journal") if regular else None
    if regular and str(source) != "-" and source.resolve() == target.resolve():
        raise click.UsageError(f"{target}: found the same file for IN and OUT, expected two")
    if resume and path is None:
        raise click.UsageError("--resume needs a file: -o OUT, or --journal FILE")
    if resume:
        if regular and target.exists() and target.stat().st_size and not (path and path.exists()):
            raise click.UsageError(f"{target} exists, but not {path}, by which it could be resumed; name another OUT")
        return path
    for there in (path, target if regular else None):
        if there is not None and there.exists() and there.stat().st_size:
            raise click.UsageError(f"{there} exists: --resume goes on with that run; delete it, or name another OUT")
    return path


def _lines(source: str, stack: ExitStack) -> tuple[Iterable[bytes], int | None]:
    """Return the lines of the input, and how many prompts there are, if that can be known."""
    if source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError("no prompts: pipe them in, or name a file")
        return sys.stdin.buffer, None
    try:
        file = stack.enter_context(Path(source).open("rb"))  # noqa: SIM115 - the stack closes it
        if not file.seekable():
            return file, None
        total = sum(1 for line in file if line.strip())
        file.seek(0)
    except OSError as error:
        raise click.UsageError(f"{source}: {error.strerror or error}") from None
    return file, total


class _Run:
    """One run of the command."""

    rows: Rows
    tally: Tally

    def __init__(self, router: Router, workers: int, settings: dict[str, Any], max_cost: float | None) -> None:
        from pointsman._batch import Batch

        self._batch = Batch(router, workers, {**settings, "on_result": self._take})
        self._max_cost = max_cost
        self._failures: list[str] = []
        self._warned = False

    @property
    def stuck(self) -> bool:
        """Whether calls are left that did not end when they were cancelled."""
        return self._batch.stuck

    def through(self, rows: Rows, tally: Tally, output: Output, *, quiet: bool) -> bool:
        """Ask all, write what comes; say whether a person has interrupted it."""
        self.rows, self.tally, self._output = rows, tally, output
        live = not (output.to_stdout and sys.stdout.isatty())
        self._progress = Progress(tally, live=live, quiet=quiet)
        try:
            with self._progress:
                self._batch.run(rows)
        except KeyboardInterrupt:
            return True
        finally:
            tally.resumed = self._batch.resumed
            output.write(all_of_it=True)
        return False

    def _take(self, position: int, result: Completion | BackendError) -> None:
        from pointsman import BackendError

        place, tally = self.rows.places.pop(position), self.tally
        tally.count(result)
        tally.resumed = self._batch.resumed
        if isinstance(result, BackendError) and len(self._failures) < _TOLD:
            named = f" (id {json.dumps(place.facts['id'])})" if place.facts else ""
            text = message(position, result)
            self._failures.append(f"  line {place.line}{named}: {type(result).__name__}: {in_a_line(text[:300])}")
        if self._max_cost is not None:
            self._keep_to(self._max_cost)
        self._output.put(position, place, result)
        self._progress.show()

    def _keep_to(self, max_cost: float) -> None:
        from pointsman import QuotaError

        if self.tally.unknown_costs and not self._warned:
            self._warned = True
            note("an answer told no cost (set the prices of its backend): --max-cost counts known costs only")
        if self.tally.cost >= max_cost:
            self._batch.instead = QuotaError(f"not asked: --max-cost {max_cost:g} is used up")

    def told(self, target: str, *, as_json: bool, resumable: bool, interrupted: bool) -> None:
        """Tell on stderr what came of it, and what to do about it."""
        tally = self.tally
        if as_json:
            click.echo(json.dumps({**tally.values(), "interrupted": interrupted}), err=True)
            return
        of = f"of {max(tally.total or 0, self.rows.count):,} " if tally.total is not None or not interrupted else ""
        note(f"{tally.answered:,} {of}answered in {duration(tally.seconds)} ({tally.rate:.1f}/s)")
        if tally.resumed:
            note(f"{tally.resumed:,} of them stood in the journal")
        if tally.failed:
            note(f"{tally.failed:,} failed:")
            for line in self._failures:
                note(line)
            if tally.failed > len(self._failures):
                note(f"  ... and {tally.failed - len(self._failures):,} more, each with its reason in its line")
        costs = [tally.dollars or "$0"] if tally.answered > tally.unknown_costs else []
        costs += [f"{tally.unknown_costs:,} of unknown cost"] if tally.unknown_costs else []
        note(f"{tally.input_tokens:,} tokens in, {tally.output_tokens:,} out; {', '.join(costs) or 'no cost'}")
        if target != "-":
            note(f"answers: {target}")
        if interrupted:
            note("interrupted" + "; the same command with --resume goes on" * resumable)
        elif tally.failed and resumable:
            note("the same command with --resume --retry-failed asks again what failed")
