"""The `pointsman` command. click, rich and all else are imported when they are needed, and not before."""

from __future__ import annotations

import atexit
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default) and return its exit code."""
    if arguments is None:  # when all is done, it is too late for Ctrl-C
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        from ._app import run

        return run(arguments)
    except KeyboardInterrupt:  # before the command began, or once more while the first one is told
        return 130
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write(f"pointsman: the command line needs {error.name}, which is not installed;\n")
        sys.stderr.write('  pip install "pointsman[cli]"\n')
        return 2
