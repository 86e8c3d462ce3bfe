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
    """Text that came out of variables. It shows as it was written, and a number may be read from it."""

    __slots__ = ("written",)
    written: str

    def __repr__(self) -> str:
        return repr(self.written)


def read(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the options whose variables are all set, and the names of those that are unset or empty."""
    missing: dict[str, list[str]] = {name: [] for name in options}
    values = {name: expand(option, missing[name]) for name, option in options.items()}
    unset = [variable for names in missing.values() for variable in names]
    return {name: value for name, value in values.items() if not missing[name]}, list(dict.fromkeys(unset))


def expand(value: Any, missing: list[str]) -> Any:
    """Return `value` with its variables read, as `Text` where there were any; those not set go to `missing`."""
    if isinstance(value, Mapping):
        return {name: expand(item, missing) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [expand(item, missing) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    text = Text(_VARIABLE.sub(lambda match: _looked_up(match, missing), value))
    text.written = value
    return text if any(match[1] for match in _VARIABLE.finditer(value)) else str(text)


def _looked_up(match: re.Match[str], missing: list[str]) -> str:
    name, default, _ = match.groups()
    value = (os.environ.get(name) or default) if name else "${"
    if value is None:
        missing.append(name)
    return value or ""


def misspelt(value: Any, path: str) -> Iterator[str]:
    """Yield a problem for each `${` that begins no variable."""
    for place, text in leaves(value, path):
        if any(match[3] for match in _VARIABLE.finditer(text)):
            yield (
                f"{place}: found a ${{ that begins no variable; "
                "write ${NAME} or ${NAME:-default}, and $${ where you mean the two characters"
            )


def leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text in `value` with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")


def plain(value: Any) -> Any:
    """Return `value` with ordinary text in place of every `Text`."""
    if isinstance(value, Text):
        return str(value)
    if value.__class__ is dict:
        return {name: plain(item) for name, item in value.items()}
    if value.__class__ in (list, tuple, set, frozenset):
        return value.__class__(plain(item) for item in value)
    return value
