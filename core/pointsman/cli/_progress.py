"""How far a batch is: a line that changes on a terminal, plain lines now and then elsewhere, a summary at the end."""

from __future__ import annotations

import sys
from math import inf
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._output import note

if TYPE_CHECKING:
    from pointsman import BackendError, Completion

#: Seconds between two looks of a person at a terminal, and between two lines of a log.
_OFTEN, _SELDOM = 0.2, 10.0


class Tally:
    """What has come of a batch so far."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.answered = self.failed = self.resumed = 0
        self.input_tokens = self.output_tokens = 0
        self.cost = 0.0
        self.unknown_costs = 0
        self._begun = monotonic()

    @property
    def done(self) -> int:
        """How many have a result."""
        return self.answered + self.failed

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return monotonic() - self._begun

    @property
    def rate(self) -> float:
        """Results a second, without those that stood in the journal."""
        return (self.done - self.resumed) / max(self.seconds, 1e-6)

    def count(self, result: Completion | BackendError) -> None:
        """Add a result."""
        from pointsman import Completion

        if not isinstance(result, Completion):
            self.failed += 1
            return
        self.answered += 1
        if result.usage is not None:
            self.input_tokens += result.usage.input_tokens
            self.output_tokens += result.usage.output_tokens
        if result.cost is None:
            self.unknown_costs += 1
        else:
            self.cost += result.cost

    def __str__(self) -> str:
        of = f"/{self.total:,}" if self.total is not None else ""
        parts = [f"{self.done:,}{of}", f"{self.rate:.1f}/s", f"{self.failed:,} failed"]
        parts += [f"{self.input_tokens + self.output_tokens:,} tokens", self.dollars]
        if self.total is not None and self.done > self.resumed:
            parts.append(f"{duration((self.total - self.done) / self.rate)} left")
        return "  ".join(part for part in parts if part)

    @property
    def dollars(self) -> str:
        """What it cost, as far as that is known; "" where nothing is."""
        return f"${self.cost:.4f}" if self.cost else ""

    def values(self) -> dict[str, Any]:
        """Return all of it, for a program."""
        told = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return told | {"seconds": self.seconds}


def duration(seconds: float) -> str:
    """Return a time as people write it: 0:07, 12:34, 1:23:45."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows a tally on stderr while it changes: a context manager.

    :param live: whether a bar may be drawn, if stderr is a terminal.
    :param quiet: show nothing.
    """

    def __init__(self, tally: Tally, *, live: bool, quiet: bool) -> None:
        self._tally = tally
        self._bar: Any = None
        live = live and not quiet and sys.stderr.isatty()
        self._pause = _OFTEN if live else _SELDOM
        self._next = inf if quiet else monotonic() + self._pause
        if live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = BarColumn(), TextColumn("{task.description}", markup=False)
            console = Console(stderr=True, highlight=False)
            self._bar = Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
            self._task = self._bar.add_task(str(tally), total=tally.total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self) -> None:
        """Show the tally, if it is time to."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + self._pause
        if self._bar is not None:
            self._bar.update(self._task, description=str(self._tally), completed=self._tally.done)
        else:
            note(str(self._tally))
