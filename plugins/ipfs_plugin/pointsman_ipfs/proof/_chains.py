"""Chains of receipts, gone through: is any missing, are there two where one should be, who signed them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from attrs import field, frozen

from ..dag.cid import to_text
from ..receipts._schema import problems_of
from ..receipts._signature import unsigned, verifier
from ._check import Check, Status, several


@frozen
class _Receipt:
    """What is remembered of a receipt."""

    cid: str
    chain: str
    number: int
    previous: str | None
    time: str
    key: bytes | None
    signature: Status | None  #: None where there is none
    is_hidden: bool  #: whether what was asked and answered is not in it
    after: Sequence[str]

    def __str__(self) -> str:
        return f"receipt {self.cid} (number {self.number})"


@frozen
class Audit:
    """All receipts that were read, and what they say of each other.

    :param key: the public key with which all must be signed, if any.
    """

    key: bytes | None = None
    #: CIDs of evidence, each with the receipt that cites it first.
    cited: dict[str, str] = field(factory=dict)
    #: CIDs of receipts that could not be looked at: they may be there.
    away: set[str] = field(factory=set)
    _receipts: dict[str, _Receipt] = field(factory=dict)
    _verified: Any = field(factory=verifier)

    def __contains__(self, cid: str) -> bool:
        return cid in self._receipts

    def __len__(self) -> int:
        return len(self._receipts)

    def chain_of(self, cid: str) -> str | None:
        """Return the chain to which a receipt belongs; None of one that was not taken."""
        return self._receipts[cid].chain if cid in self._receipts else None

    def before(self, cid: str) -> Sequence[str]:
        """Return the receipts that stand before one: the one that it names, or those behind which its chain begins."""
        one = self._receipts.get(cid)
        return () if one is None else [*one.after, *([] if one.previous is None else [one.previous])]

    def take(self, cid: bytes, block: bytes, said: Mapping[str, Any]) -> Iterator[Check]:
        """Take a receipt, whose bytes are those of its CID. One that has another form is told, and not taken."""
        text = to_text(cid)
        problems = list(problems_of(said))
        if problems:
            yield Check("fails", f"receipt {text}", several(problems))
            return
        key, signature = said.get("key"), said.get("signature")
        signed: Status | None = None
        if signature is not None:
            if self._verified is None:
                signed = "unchecked"
            else:
                signed = "holds" if self._verified(key, signature, unsigned(block)) else "fails"
        place = said["chain"], said["number"], said["previous"], said["time"]
        self._receipts[text] = _Receipt(text, *place, key, signed, "salt" in said, said.get("after", ()))
        for one in said.get("evidence", ()):
            self.cited.setdefault(one, text)

    def checks(self) -> Iterator[Check]:
        """Tell of each chain whether it is whole, and of its signatures; the oldest first."""
        chains = dict[str, list[_Receipt]]()
        for one in sorted(self._receipts.values(), key=attrgetter("number", "cid")):
            chains.setdefault(one.chain, []).append(one)
        for chain, receipts in sorted(chains.items(), key=lambda one: (one[1][0].time, one[0])):
            what = f"chain {chain}"
            failed = [Check(status, what, problem) for status, problem in _problems(receipts, self.away)]
            yield from failed
            if not failed:
                first, last = receipts[0], receipts[-1]
                told = "not signed" if first.key is None else "signed"
                count = f"receipts 0 to {last.number:,}, {told}"
                yield Check("holds", what, f"{count}; each names the one before it; from {first.time} to {last.time}")
            yield from self._behind(what, receipts[0])
            yield from self._signed(what, receipts)
            if hidden := [one for one in receipts if one.is_hidden]:
                text = f"of {len(hidden):,} what was asked and answered is not here, only digests of that"
                yield Check("unchecked", what, text)

    def _behind(self, what: str, first: _Receipt) -> Iterator[Check]:
        """Look at the receipts behind which a chain says that it begins."""
        for before in first.after:
            found = self._receipts.get(before)
            if found is None:
                yield Check("unchecked", what, f"it begins behind receipt {before}, which is not here")
                continue
            text = f"it begins behind receipt {before}, number {found.number} of chain {found.chain}"
            if found.time > first.time:  # that it was there before, its CID shows
                text += f"; the clock was set back, or one of the times is wrong: {found.time}, then {first.time}"
            yield Check("fails" if found.chain == first.chain else "holds", what, text)

    def _signed(self, what: str, receipts: Sequence[_Receipt]) -> Iterator[Check]:
        wrong = [one for one in receipts if one.signature == "fails"]
        for one in wrong:
            yield Check("fails", what, f"{one}: its signature is not one of the key in it")
        keys = list(dict.fromkeys(one.key for one in receipts))
        if len(keys) > 1:
            other = next(one for one in receipts if one.key != keys[0])
            yield Check("fails", what, f"{other} is signed with {_named(keys[1])}, the first with {_named(keys[0])}")
        elif self.key not in (None, keys[0]):
            yield Check("fails", what, f"it is signed with {_named(keys[0])}, expected {_named(self.key)}")
        elif any(one.signature == "unchecked" for one in receipts):
            advice = 'pip install "pointsman-ipfs[sign]"'
            yield Check("unchecked", what, f"its signatures with {_named(keys[0])}: {advice}")
        elif keys[0] is not None and not wrong:
            whose = "which was given" if self.key else "as it says itself; --key says whose that must be"
            yield Check("holds", what, f"all are signed with {_named(keys[0])}, {whose}")


def _problems(receipts: Sequence[_Receipt], away: Container[str]) -> Iterator[tuple[Status, str]]:
    """Say what is missing in a chain, and what there is twice."""
    before = dict[str, _Receipt]()  #: those of the number before
    last: _Receipt | None = None
    same = dict[str, _Receipt]()
    for one in receipts:
        if last is not None and one.number == last.number:
            yield "fails", f"there is a fork: {last} and {one}"
        else:
            before, same = same, {}
            first = last.number + 1 if last is not None else 0
            if one.number > first:
                status: Status = "unchecked" if one.previous in away else "fails"
                yield status, f"{_range(first, one.number - 1)} not here, before {one}"
                before = {}
        if before and one.previous not in before:
            yield "fails", f"{one} names {one.previous} as the one before it, found {', '.join(before)}"
        if last is not None and one.time < last.time:
            yield "fails", f"{one} has the time {one.time}, before that of number {last.number}, {last.time}"
        same[one.cid] = last = one


def _range(first: int, last: int) -> str:
    return f"receipt {first} is" if first == last else f"receipts {first} to {last} are"


def _named(key: bytes | None) -> str:
    return "no key" if key is None else f"the key {key.hex()}"
