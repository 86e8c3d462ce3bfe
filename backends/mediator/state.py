"""Who uses a mediator, and what stands in its index of evidence, as the complaint generator's programs ask for it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC
from typing import TYPE_CHECKING, Any

from pointsman import InvalidRequestError

if TYPE_CHECKING:
    from pointsman_ipfs.evidence import Evidence, Record

#: Whose evidence it is where nobody is named.
ANONYMOUS = "anonymous"


class State:
    """What a mediator knows of the person who uses it. A program may keep more in it.

    `username` is whose evidence it is wherever a call names nobody; `hashed_username` where that is not set.
    """

    def __init__(self) -> None:
        self.username: str | None = None
        self.hashed_username: str | None = None

    def __repr__(self) -> str:
        return f"State(username={self.username!r})"


def user_of(state: object) -> str:
    """Return whose evidence it is where nobody is named."""
    return getattr(state, "username", None) or getattr(state, "hashed_username", None) or ANONYMOUS


class EvidenceState:
    """What the records of evidence say. It reads no evidence and verifies none: `Mediator` does. Thread-safe.

    Records that are encrypted, and that no key here opens, are in no list, and are counted as `sealed`. It is an
    `AuthenticationError` where there are only such records, or one is asked for by its CID.
    """

    def __init__(self, evidence: Callable[[], Evidence], user: Callable[[], str]) -> None:
        self._evidence, self._user = evidence, user

    def get_user_evidence(self, user_id: str | None = None, claim_type: str | None = None) -> list[dict[str, Any]]:
        """Return what the records of a user say, of a claim if one is named, the newest first.

        :param user_id: if None, the one that `Mediator.state` names.
        """
        found = self._evidence().records(self._user() if user_id is None else user_id, claim_type)
        return [described(one) for one in found][::-1]

    def get_evidence_by_cid(self, cid: str) -> dict[str, Any] | None:
        """Return what the record with this CID says, or the newest record whose evidence has it; None if there is none.

        :raises InvalidRequestError: it is no CID.
        """
        found = self.find(cid)
        return described(found[-1]) if found else None

    def find(self, cid: str) -> tuple[Record, ...]:
        """Return the records that have this CID, or whose evidence has it, the earliest first.

        :raises InvalidRequestError: it is no CID; white space around one is not minded.
        """
        try:
            return self._evidence().find(cid.strip() if isinstance(cid, str) else cid)
        except InvalidRequestError as error:
            advice = "copy it whole, as it was shown when the evidence was submitted"
            raise InvalidRequestError(f"{error.message}; {advice}") from error

    def get_evidence_statistics(self, user_id: str | None = None) -> dict[str, Any]:
        """Return what all records come to, or those of a user: `total_count`, `total_size` (bytes of evidence),
        `type_count`, `user_count`; and `sealed`: encrypted records, whoever's, that cannot be opened here."""
        from pointsman_ipfs.evidence import ANYONE

        found = self._evidence().statistics(ANYONE if user_id is None else user_id)
        return {
            "available": True,
            "total_count": found.records,
            "total_size": found.size,
            "type_count": len(found.evidence_types),
            "user_count": len(found.users),
            "sealed": found.sealed,
        }


def described(record: Record) -> dict[str, Any]:
    """Return what a record says, in the complaint generator's words. Whoever gets it may change it."""
    return {
        "id": record.id,
        "record_id": record.id,
        "record_cid": record.record_cid,
        "cid": record.cid,
        "type": record.evidence_type,
        "evidence_type": record.evidence_type,
        "size": record.size,
        "media_type": record.media_type,
        "user_id": record.user,
        "username": record.user,
        "description": record.description,
        "claim_type": record.claim_type,
        "timestamp": record.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "metadata": deepcopy(dict(record.metadata)),
        "encrypted": record.encrypted,
    }
