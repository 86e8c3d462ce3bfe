"""What the engine printed before it failed: the only place where llama.cpp says why."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from typing import IO

#: How llama.cpp begins its lines: time, level.
_STAMP = re.compile(r"^\d+\.\d+\.\d+\.\d+ [A-Z] ")
#: Lines that only repeat that it failed, advise users of its command line, or describe processor and file.
_NOISE = re.compile(
    r"failed to (load|initialize)|exiting due to|please consider|for example:|fit params|chat template parsing"
    r"|^-+$|^CPU : |^Model metadata|^Available chat|^Using |^Guessed "
)
_LONGEST = 300


class LastWords:
    """Reads a pipe to its end in a thread of its own, and keeps a few lines."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: deque[str] = deque(maxlen=30)
        self._thread = threading.Thread(target=self._listen, name="pointsman-local-stderr", daemon=True)
        self._thread.start()

    def first(self) -> str:
        """Return the lines in which it began to fail: why a file cannot be loaded."""
        return self._said(slice(0, 3))

    def last(self) -> str:
        """Return the last lines: why the process died."""
        return self._said(slice(-2, None))

    def join(self) -> None:
        """Wait for the end of the pipe; not for ever, since another process may hold it."""
        self._thread.join(timeout=5)

    def _said(self, part: slice) -> str:
        lines = (_STAMP.sub("", line).strip() for line in list(self._lines))
        return "; ".join(list(dict.fromkeys(line for line in lines if line and not _NOISE.search(line)))[part])

    def _listen(self) -> None:
        rest = b""
        with contextlib.suppress(OSError, ValueError):  # closed under us in a forked process
            while some := self._pipe.read(1 << 14):
                *lines, rest = (rest + some).split(b"\n")
                rest = rest[:_LONGEST]
                self._lines += [line[:_LONGEST].decode("utf-8", "replace") for line in lines]
        self._lines.append(rest[:_LONGEST].decode("utf-8", "replace"))
