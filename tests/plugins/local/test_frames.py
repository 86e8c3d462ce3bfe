"""The framed messages between parent and child."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pointsman_local._frames import MAGIC, BrokenStream, frames, pack

MESSAGES: list[dict[str, Any]] = [{"id": 1, "text": "é\u2028😀\x00"}, {}, {"op": "ask", "body": {"x": ["y" * 100_000]}}]


def test_frames_survive_any_cut() -> None:
    """However the bytes are cut on their way, the messages come whole and in order."""
    rng = random.Random(6)
    data = b"printed by something else\n" + MAGIC + b"".join(pack(message) for message in MESSAGES)
    for longest in (1, 7, 1 << 20):
        rest = data if longest > 1 else data[: 200 + len(MAGIC)]
        pieces = []
        while rest:
            size = rng.randint(1, longest)
            pieces.append(rest[:size])
            rest = rest[size:]
        source = iter([*pieces, b""])
        found = list(frames(lambda source=source: next(source), magic=MAGIC))  # type: ignore[misc] # binds the loop's
        assert found == (MESSAGES if longest > 1 else MESSAGES[:2])


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02no", b"\x00\x00\x00\x03\xff\xff\xff"])
def test_what_is_no_protocol(data: bytes) -> None:
    """A length or a text that cannot be is a broken stream, not a wait for gigabytes."""
    source = iter([data, b""])
    with pytest.raises(BrokenStream):
        list(frames(lambda: next(source)))


def test_a_stream_without_its_beginning() -> None:
    """Something that prints for ever instead of our child is not read for ever."""
    assert list(frames(lambda: b"x" * 65_536, magic=MAGIC)) == []
    assert list(frames(lambda: b"", magic=MAGIC)) == []
