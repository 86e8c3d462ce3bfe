"""Where a program is, and what it prints when it is asked something that it answers at once."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from pointsman import UnavailableError

from ._process import Launch, Process

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_AMISS = re.compile(r"(unknown|unexpected|unrecogni[sz]ed|invalid) (sub)?(command|argument|option|flag)|\busage:", re.I)
_MISUSED = 2  # the exit code, in most programs
_CANNOT_START = 127
_SCRIPT = re.compile(r"""["'](?:\$basedir|\$\(dirname[^"']*)?/?([^"'$]+\.m?js)["']""")
_SHOWN = 4 << 20  # characters


def find(name: str, native: str) -> str:
    """Return the absolute path of a program, or "" if it is not installed.

    What npm and pnpm put into the PATH are wrappers in JavaScript; one would start slowly, and the program below it
    outlive it. So where `name` leads to such a one, the program itself is looked up. Any other link stays as it is,
    since programs that stand for many look at the name that they are called by.

    :param name: as in the PATH, or a path; "~" is the user's home.
    :param native: glob pattern of the program itself, below a folder `node_modules`.
    """
    found = shutil.which(os.path.expanduser(name))
    if not found:
        return ""
    for script in _scripts(Path(found)):
        for folder in script.parents:
            for program in sorted(folder.glob(f"node_modules/{native}")):
                if os.access(program, os.X_OK):
                    return str(program)
    return str(Path(found).absolute())


def _scripts(path: Path) -> list[Path]:
    """Return the scripts of JavaScript that a wrapper runs, with all links followed."""
    target = path.resolve()
    if target.suffix in (".js", ".mjs"):
        return [target]
    try:
        with target.open("rb") as file:
            text = file.read(4096)
    except OSError:
        return []
    if not text.startswith(b"#!"):
        return []
    return [(path.parent / place).resolve() for place in _SCRIPT.findall(text.decode("utf-8", "replace"))]


def output(launch: Launch, patience: float, begun: Callable[[Process], object] = bool) -> str:
    """Return what a program prints.

    :param patience: seconds after which it is ended.
    :param begun: is told of the process as soon as there is one.
    :raises UnavailableError: it cannot be started, fails, or takes too long.
    """
    what = " ".join(launch.command)
    process = Process("asked")
    begun(process)
    until = monotonic() + patience
    printed = b""
    try:
        process.ready()
        process.start(launch)
        process.end_input()
        for piece in process.read(until):
            printed += piece if len(printed) < _SHOWN else b""
    finally:
        process.end_input()
        ended = process.end()
    if monotonic() > until:
        raise UnavailableError(f"{what} did not end within {patience:g} s", retry_same=False)
    if ended.status:
        said = ended.message.partition(": ")[2] or printed.decode("utf-8", "replace").strip()[:200]
        text = said if ended.status == _CANNOT_START else f"{what} ended with exit code {ended.status}: {said}"
        raise UnavailableError(text, status=ended.status, retry_same=False)
    return printed.decode("utf-8", "replace")


def version_of(launch: Launch, patience: float) -> str:
    """Return the version that a program tells.

    :raises UnavailableError: it tells none within so many seconds.
    """
    told = output(launch, patience)
    if found := _VERSION.search(told):
        return found[0]
    raise UnavailableError(f"{' '.join(launch.command)} tells no version: {told.strip():.100}", retry_same=False)


def refuses_arguments(ended: UnavailableError) -> bool:
    """Whether a program has ended because it does not know how it was called: it is of another version."""
    return ended.status == _MISUSED or (ended.status in (1, 64) and bool(_AMISS.search(ended.message)))
