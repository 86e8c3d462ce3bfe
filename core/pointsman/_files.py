"""A configuration file, read as it stands: JSON or TOML, and which keys it writes twice."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any


class _Pairs(dict[str, Any]):
    """A mapping that remembers which of its keys were written more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = sorted({name for name in names if names.count(name) > 1}) if len(self) < len(names) else []


def read(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], Path | None, str]:
    """Return what `source` holds, the folder that it lies in, and "" or what is wrong with it.

    Errors come back as text: those of the parsers hold the whole file, keys and all.
    """
    if isinstance(source, Mapping):
        return source, None, ""
    if not isinstance(source, str | PathLike):
        return {}, None, f"found a {type(source).__name__}, expected the path of a file, or a mapping"
    path = Path(source)
    try:
        text = path.read_text("utf-8-sig")
        is_toml = path.suffix.lower() == ".toml"
        raw = tomllib.loads(text) if is_toml else json.loads(text, object_pairs_hook=_Pairs, parse_constant=_no_number)
    except FileNotFoundError:
        problem = "no such file"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or type(error).__name__}"
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text (byte {error.start})"
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
    except (ValueError, RecursionError) as error:  # tomllib's error is a ValueError and names line and column
        problem = f"not {'TOML' if path.suffix.lower() == '.toml' else 'JSON'}: {error}"
    else:
        wrong = "" if isinstance(raw, dict) else f"found a {type(raw).__name__}, expected a mapping"
        return raw if not wrong else {}, path.absolute().parent, wrong and f"{source}: {wrong}"
    return {}, None, f"{source}: {problem}"


def repeated(value: Any, path: str) -> Iterator[str]:
    """Yield a problem for each key that a JSON file writes twice."""
    if isinstance(value, Mapping):
        for name in getattr(value, "repeated", ()):
            yield f"{path}{name}: written more than once; keep one of them"
        for name, item in value.items():
            yield from repeated(item, f"{path}{name}." if isinstance(item, Mapping) else f"{path}{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from repeated(item, f"{path}[{number}].")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")
