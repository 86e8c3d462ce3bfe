"""What is told of each thing that was looked at, and of all of them in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import define, field, frozen
from pointsman import AllBackendsFailed, BackendError, ContentNotFoundError, InvalidRequestError, UnusableAnswer

Status = Literal["holds", "fails", "unchecked"]


@frozen
class Check:
    """One thing that was looked at."""

    status: Status  #: "unchecked": it could not be
    what: str  #: a chain, a receipt, a record, a file, ...
    text: str  #: what was found

    @property
    def holds(self) -> bool:
        """Whether it was checked, and is as it should be."""
        return self.status == "holds"

    def __str__(self) -> str:
        return f"{self.status:<9}  {self.what}: {self.text}"


#: What a line may be about, and how one and several of these are called.
_NOUNS = {
    "record": ("record of evidence with all its bytes", "records of evidence with all their bytes"),
    "log": ("log of records", "logs of records"),
    "chain": ("chain of receipts", "chains of receipts"),
    "evidence": ("piece of evidence that receipts cite", "pieces of evidence that receipts cite"),
}
_NEVER = "that their times and names are true, and that no newer ones were taken away, no such check can show"


@define
class Tally:
    """What all lines together say."""

    lines: int = 0
    fails: int = 0
    unchecked: int = 0
    _what: str = ""  #: the last thing that a line was about: all that is told of it stands together
    _sound: bool = True  #: whether nothing of it fails
    _counted: bool = False
    _holding: dict[str, int] = field(factory=lambda: dict.fromkeys(_NOUNS, 0))

    def add(self, check: Check) -> None:
        """Count a line."""
        self.lines += 1
        self.fails += check.status == "fails"
        self.unchecked += check.status == "unchecked"
        if check.what != self._what:
            self._what, self._sound, self._counted = check.what, True, False
        self._sound &= check.status != "fails"
        kind, counts = check.what.partition(" ")[0], self._sound and (self._counted or check.holds)
        if kind in self._holding:
            self._holding[kind] += counts - self._counted
            self._counted = counts

    def __str__(self) -> str:
        """Say in one sentence what was proven, and what was not."""
        if self.fails:
            first = f"NOT PROVEN: {self.fails:,} of {self.lines:,} checks failed"
            first += f", and {self.unchecked:,} could not be done" if self.unchecked else ""
        elif self.unchecked:
            first = f"Nothing failed, and {self.unchecked:,} of {self.lines:,} checks could not be done"
        else:
            first = f"All {self.lines:,} checks hold"
        counts = [f"{count:,} {_NOUNS[kind][count > 1]}" for kind, count in self._holding.items() if count]
        proven = " and ".join(filter(None, [", ".join(counts[:-1]), *counts[-1:]]))
        return f"{first}; unchanged: {proven}; {_NEVER}." if proven else f"{first}; nothing is proven."


def is_away(error: BackendError) -> bool:
    """Whether an error says that something could not be looked at, rather than what was found."""
    errors = error.exceptions if isinstance(error, AllBackendsFailed) else (error,)
    found = UnusableAnswer, InvalidRequestError
    return not any(isinstance(one, found) for one in errors) and not isinstance(error, ContentNotFoundError)


def amount(count: int, what: str = "byte") -> str:
    """Return a number of things."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def several(problems: Sequence[str]) -> str:
    """Return problems as one text: the first of them."""
    return "; ".join(problems[:5]) + ("; ..." if problems[5:] else "")
