"""When faults are played: by the server's clock (row 31), or after a while (row 32)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ._fault import Fault
from .answers import well
from .before import status

if TYPE_CHECKING:
    from .._connection import Exchange
    from ..server import Seen


class Timetable:
    """What to play when: a step of a script, which begins with the first request that it answers.

    :param parts: seconds and the fault that is played for so long, one after another. They begin
        anew after the last, unless its seconds are `inf`.

    Not for two servers at once.
    """

    def __init__(self, *parts: tuple[float, Fault]) -> None:
        self._parts = parts
        self._round = sum(seconds for seconds, _ in parts)
        if not parts or min(seconds for seconds, _ in parts) < 0 or self._round == 0:
            raise ValueError("Timetable: expected pairs of seconds from 0 on and a fault, not all of 0 seconds")
        self._began: float | None = None

    def __call__(self, seen: Seen) -> Fault:
        """Return what is played to this request."""
        if self._began is None:
            self._began = seen.arrived_at
        into = seen.arrived_at - self._began
        into = into % self._round if self._round < inf else into
        for seconds, fault in self._parts:
            if into < seconds:
                return fault
            into -= seconds
        return self._parts[-1][1]


def flapping(
    down_s: float = 60.0, up_s: float = inf, *, down: Fault | None = None, up: Fault | None = None
) -> Timetable:
    """Row 31: fails for `down_s` seconds from its first request on, then works for `up_s`, and so on.

    :param down: what is played while it fails; 503 unless given.
    :param up: what is played while it works; a healthy answer unless given.
    """
    return Timetable((down_s, down or status(503)), (up_s, up or well()))


def later(seconds: float, fault: Fault) -> Fault:
    """Say nothing for `seconds` of real time, then play `fault`: requests that come together can fail one by one."""

    async def play(x: Exchange) -> None:
        await x.sleep(seconds)
        await fault.play(x)

    return Fault(f"later({seconds:g}, {fault.name})", play)
