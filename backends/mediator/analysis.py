"""What there is of evidence, what is missing of it, and what a model says about that."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from pointsman import BackendError, Completion, ConfigError

#: Kinds of evidence that the complaint generator knows. Any other one may be submitted too.
KINDS = ("document", "image", "video", "audio", "email", "text", "financial", "medical")
#: What one question may hold: pieces of evidence, and characters that describe each.
_PIECES, _LETTERS = 20, 200
#: Tokens that a recommendation may have, unless somebody says.
TOKENS = 800
#: What looks like a CID, whole or not.
_CID = re.compile(r"\b(?:[Bb]af|Qm)\w{16,}")
_MARK = re.compile(r"\[(\d{1,4})\]")
#: Of records that are encrypted for others.
_SEALED = "Not looked at, since no key here opens them (identity=): encrypted records, of this user or of others: {}."

_Piece: TypeAlias = Mapping[str, Any]
Ask: TypeAlias = Callable[..., Completion]


def analyzed(
    evidence: Sequence[dict[str, Any]], user: str, claim_type: str | None, sealed: int, ask: Ask
) -> dict[str, Any]:
    """Return what there is of evidence of a user, the newest first, for a claim or for all.

    :param sealed: how many other records there are that nobody can open here.
    :param ask: returns the answer to the question for a recommendation.
    """
    of = f"of the user {user!r}" + (f" for the claim {claim_type!r}" if claim_type is not None else "")
    found: dict[str, Any] = {
        "claim_type": claim_type,
        "total_evidence": len(evidence),
        "evidence_by_type": dict(Counter(one["type"] for one in evidence).most_common()),
        "has_evidence": bool(evidence),
        "evidence_items": evidence,
        "sealed": sealed,
        "gaps": [*_gaps(evidence, claim_type, of), *([_SEALED.format(sealed)] if sealed else [])],
        "recommendation_error": None,
        "recommended_by": None,
        "receipt": None,
        "unknown_citations": [],
    }
    if not evidence:
        return {**found, "recommendation": f"There is no evidence {of} yet. Submit what shows what happened, and when."}
    try:
        return {**found, **_recommended(evidence, claim_type, ask)}
    except (BackendError, ConfigError) as error:
        return {
            **found,
            "recommendation": f"There is no recommendation, since no backend gave one: {error}",
            "recommendation_error": str(error),
        }


def _gaps(evidence: Sequence[_Piece], claim_type: str | None, of: str) -> list[str]:
    """Return what is missing, a sentence for each."""
    if not evidence:
        return [f"There is no evidence {of}."]
    gaps, kinds = list[str](), {one["type"] for one in evidence}
    if absent := [kind for kind in KINDS if kind not in kinds]:
        gaps.append(f"There is nothing of these kinds: {', '.join(absent)}.")
    if nameless := [one["cid"] for one in evidence if not (one["description"] or "").strip()]:
        gaps.append(f"Nobody has described: {_some(nameless)}.")
    if claim_type is None and (loose := [one["cid"] for one in evidence if not one["claim_type"]]):
        gaps.append(f"No claim is named for: {_some(loose)}.")
    return gaps


def _some(cids: Sequence[str]) -> str:
    """Return the first of these, each once, and how many there are beside them."""
    cids = list(dict.fromkeys(cids))
    more = f", and {len(cids) - _PIECES} more" if len(cids) > _PIECES else ""
    return ", ".join(cids[:_PIECES]) + more


def _recommended(evidence: Sequence[_Piece], claim_type: str | None, ask: Ask) -> dict[str, Any]:
    """Ask for a recommendation, and say which evidence it cites.

    :raises BackendError: no backend answered.
    :raises ConfigError: there is none.
    """
    shown = evidence[:_PIECES]
    answer = ask(_question(shown, len(evidence) - len(shown), claim_type))
    text = answer.text.strip() + (" ... (the answer was cut here)" if answer.finish_reason == "length" else "")
    known = {one["cid"] for one in shown}
    written = list(dict.fromkeys(_CID.findall(text)))
    cited = known.intersection(written)
    cited |= {shown[int(mark) - 1]["cid"] for mark in _MARK.findall(text) if 0 < int(mark) <= len(shown)}
    listed = "\n".join(
        f"[{number}] {one['cid']}, {_told(one)}"
        for number, one in enumerate(shown, 1)
        if not cited or one["cid"] in cited
    )
    return {
        "recommendation": f"{text}\n\nEvidence:\n{listed}",
        "recommended_by": answer.backend,
        "receipt": answer.receipt,
        "unknown_citations": [one for one in written if one not in known],
    }


def _question(shown: Sequence[_Piece], more: int, claim_type: str | None) -> str:
    """Return what a model is asked. The CIDs stand apart: a small model loses its thread in them."""
    cids = ", ".join(f"[{number}] {one['cid']}" for number, one in enumerate(shown, 1))
    pieces = "\n".join(f"[{number}] {_told(one)}" for number, one in enumerate(shown, 1))
    claim = f"the claim: {claim_type}" if claim_type is not None else "a legal complaint"
    return (
        f"Identifiers: {cids}\n\nThis evidence was submitted for {claim}\n\n{pieces}\n"
        + (f"(and {more} older pieces)\n" if more else "")
        + "\nIn a few sentences: how strong is this evidence, what is missing, and what should be gathered next? Name "
        "each piece that you rely on by its number in brackets, as in [1]. Rely on nothing that is not listed."
    )


def _told(one: _Piece) -> str:
    """Return how a piece of evidence is told to a model and to a person."""
    described = " ".join((one["description"] or "without a description").split())
    claim = f" for {one['claim_type']}" if one["claim_type"] else ""
    cut = described if len(described) <= _LETTERS else f"{described[:_LETTERS]}..."
    return f"{one['type']}, submitted {one['timestamp'][:10]}{claim}: {cut}"
