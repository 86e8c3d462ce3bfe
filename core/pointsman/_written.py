"""What a person wrote: a file or a mapping, and the `${VARIABLES}` in it.

It is kept as it was written. Variables are read only where an option is looked at, so that a key
from the environment is in no value that could be shown.
"""

from __future__ import annotations

import os
import re
from collections import UserDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

#: `$${` is a literal `${`; `${NAME}` and `${NAME:-default}` are variables; another `${` is a mistake.
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_]\w*)(?::-([^{}]*))?\}|(\$\{)")


class Misfit(Exception):
    """Why something written cannot be taken; a second argument names the variables that are not set, if that is all."""


class Text(str):
    """Text that came out of variables: a number may be read from it."""

    __slots__ = ()


class Written(UserDict[str, Any]):
    """Options as they were written; relative paths start at `folder`. Shows names only, and is never pickled."""

    def __init__(self, options: Mapping[str, Any], folder: Path | None = None) -> None:
        super().__init__(options)
        self.folder = folder

    def __repr__(self) -> str:
        return f"<options {', '.join(map(str, self)) or 'none'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a configuration may hold keys and is never pickled: load it where it is needed")


def read(source: str | Path | Mapping[str, Any]) -> Written:
    """Return what a mapping, or a JSON or TOML file, holds.

    :raises Misfit: the file cannot be read or parsed, which is told with line and column. Its
        traceback may hold the file, keys and all: tell the text only.
    """
    import json  # these two are needed for files only
    import tomllib

    if isinstance(source, Mapping):
        return Written(source)
    if not isinstance(source, str | Path):
        raise Misfit(f"found {type(source).__name__}, expected the path of a file or a mapping")
    path = Path(source)
    form = "TOML" if path.suffix.lower() == ".toml" else "JSON"
    try:
        text = path.read_text("utf-8-sig")
        whole = tomllib.loads(text) if form == "TOML" else json.loads(text, object_pairs_hook=_marked)
    except OSError as error:
        raise Misfit(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Misfit(f"not {form}: {error}") from None
    if not isinstance(whole, dict):
        raise Misfit(f"found a {type(whole).__name__}, expected a mapping")
    return Written(whole, path.absolute().parent)


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the mapping, where a key that is written twice has a misfit for its value. TOML forbids that by itself."""
    whole: dict[str, Any] = {}
    for name, value in pairs:
        whole[name] = Misfit("written more than once; keep one of them") if name in whole else value
    return whole


def expand(text: str) -> str:
    """Return `text` with its variables read, as `Text` where there were any.

    :raises Misfit: a `${` begins no variable, or variables are not set, or empty, and have no default.
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
        raise Misfit(f"the variable {' and '.join(missing)} is not set", tuple(missing))
    return Text(value) if "${" in text else text
