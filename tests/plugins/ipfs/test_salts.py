"""Salts of receipts without content."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from pointsman_ipfs.receipts._salts import Salts


def test_no_salt_comes_twice() -> None:
    """Not in eight threads, however many are asked of the system at once."""
    salts = Salts()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: salts.next(), range(4000)))
    assert len(set(found)) == 4000
    assert {len(one) for one in found} == {16}


def test_a_forked_child_has_others() -> None:
    """What the parent had still to give out, it gives out alone."""
    salts = Salts()
    salts.next()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, b"".join(salts.next() for _ in range(255)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert len(theirs) == 255 * 16
    assert not {salts.next() for _ in range(255)} & {theirs[at : at + 16] for at in range(0, len(theirs), 16)}
