"""What a test leaves behind: threads, child processes, sockets."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from time import monotonic, sleep


def resources() -> frozenset[str]:
    """Name the threads, children and sockets that this process has now."""
    return frozenset({*_threads(), *_children(), *_sockets()})


def leaks_since(before: frozenset[str], timeout: float = 5.0, *, but: str = "nothing") -> list[str]:
    """Return what there is now and was not `before`; waits up to `timeout` seconds for it to end.

    :param but: a kind that does not count: "socket", "thread" or "process".
    """
    end = monotonic() + timeout
    collected = False
    while (left := sorted(n for n in resources() - before if not n.startswith(but))) and monotonic() < end:
        if not collected:  # what only a reference cycle keeps is not a leak; it takes a while to look for that
            gc.collect()
            collected = True
        sleep(0.02)
    return left


def _threads() -> list[str]:
    return [f"thread {t.name} ({t.ident})" for t in threading.enumerate() if t.is_alive()]


def _children() -> list[str]:
    me = str(os.getpid())
    return [f"process {pid} {name}" for pid, name, parent in _processes() if parent == me]


def _processes() -> list[tuple[str, str, str]]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except OSError:
            continue  # it ended while we looked
        name, _, after = rest.rpartition(") ")
        found.append((pid, name, after.split(" ")[1]))
    return found


def _sockets() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue  # the listing's own descriptor
        if target.startswith("socket:"):
            found.append(target)
    return found
