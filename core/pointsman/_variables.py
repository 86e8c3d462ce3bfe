"""Options as a person wrote them, and the `${VARIABLES}` in them.

A configuration is kept as it was written and its variables are read only when a plugin is built,
so that a key from the environment is in no value that could be shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

#: `$${` is a literal `${`; `${NAME}` and `${NAME:-default}` are variables; another `${` is a mistake.
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_]\w*)(?::-([^{}]*))?\}|(\$\{)")


class Written(Mapping[str, Any]):
    """Options as they were written; paths in them are relative to `folder`. Shows names only, is never pickled."""

    __slots__ = ("_values", "folder")

    def __init__(self, values: Mapping[str, Any], folder: Path | None = None) -> None:
        self._values = dict(values)
        self.folder = folder

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<options {', '.join(map(str, self._values)) or 'none'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a configuration may hold keys and is never pickled: load it where it is needed")


class Text(str):
    """Text that came out of variables: a number may be read from it."""

    __slots__ = ()


class Misfit(Exception):
    """Why something written cannot be taken."""


class Unset(Exception):
    """Variables that are not set, or empty, and have no default; `args` are their names."""


def expand(text: str) -> str:
    """Return `text` with its variables read, as `Text` where there were any.

    :raises Unset: with all that are not set.
    :raises Misfit: a `${` begins no variable.
    """
    missing: list[str] = []

    def look_up(match: re.Match[str]) -> str:
        name, default, wrong = match.groups()
        if wrong:
            advice = "write ${NAME} or ${NAME:-default}, and $${ where you mean the two characters"
            raise Misfit(f"found a ${{ that begins no variable; {advice}")
        value = (os.environ.get(name) or default) if name else "${"
        if value is None:
            missing.append(name)
        return value or ""

    value = _VARIABLE.sub(look_up, text)
    if missing:
        raise Unset(*missing)
    return Text(value) if "${" in text else text
