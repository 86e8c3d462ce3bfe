"""Where a program is, what it prints, and what of our environment it may know."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pointsman import Health, UnavailableError

_VERSION = re.compile(r"\d+\.\d+\.\d+")
#: Ways to the network that only the machine's owner knows.
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PRINTS_S = 20.0


def find(name: str, native: str) -> str:
    """Return the absolute path of a program, or "" if it is not installed.

    What npm puts into the PATH is a wrapper in JavaScript; it would start slowly, and the program below
    it outlive it. So where `name` leads to such a one, the program itself is looked up.

    :param name: as in the PATH, or a path.
    :param native: glob pattern of the program itself, below a folder `node_modules`.
    """
    found = shutil.which(name)
    if not found:
        return ""
    path = Path(found).resolve()
    if path.suffix in (".js", ".mjs"):
        for folder in path.parents:
            for program in sorted(folder.glob(f"node_modules/{native}")):
                if os.access(program, os.X_OK):
                    return str(program)
    return str(path)


def output(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what a program prints.

    :param environment: the whole of it; without it, one with nothing of the user's.
    :raises UnavailableError: it does not run, or fails, or takes too long.
    """
    what = " ".join((program, *arguments))
    try:
        told = subprocess.run(  # noqa: S603 - the program that the user configured
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PRINTS_S,
            env=dict(environment or surroundings(Path(os.devnull))),
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what} does not run: {error}", retry_same=False) from error
    if told.returncode:
        words = (told.stderr or told.stdout).decode("utf-8", "replace").strip()
        raise UnavailableError(f"{what} ended with exit code {told.returncode}: {words:.200}", retry_same=False)
    return told.stdout.decode("utf-8", "replace")


def version_of(program: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the version that a program tells.

    :raises UnavailableError: it tells none.
    """
    told = output(program, "--version", environment=environment)
    if found := _VERSION.search(told):
        return found[0]
    raise UnavailableError(f"{program} --version tells no version: {told.strip():.100}", retry_same=False)


def health_of(program: str, missing: str, environment: Mapping[str, str] | None = None) -> Health:
    """Return how a program is: whether a person must do something first (`missing`), and whether it runs at all."""
    if missing:
        return Health.unconfigured(missing)
    try:
        version_of(program, environment)
    except UnavailableError as error:
        return Health.unavailable(error.message)
    return Health.ok()


def surroundings(home: Path) -> dict[str, str]:
    """Return the environment of every program: its own home, the way to the network, and nothing of the user's."""
    names = [*_NETWORK, *(name.lower() for name in _NETWORK)]
    network = {name: os.environ[name] for name in names if name in os.environ}
    return {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home / "tmp"), "LANG": "C.UTF-8", **network}
