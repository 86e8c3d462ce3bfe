"""A configuration file, read as it stands: JSON or TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._variables import Misfit


def read(source: str | Path) -> tuple[dict[str, Any], Path]:
    """Return what the file holds, and the folder that it lies in.

    :raises Misfit: it cannot be read or parsed, which is told with line and column. Its traceback may
        hold the file, keys and all: tell the text only.
    """
    import json
    import tomllib

    path = Path(source)
    form = "TOML" if path.suffix.lower() == ".toml" else "JSON"
    try:
        text = path.read_text("utf-8-sig")
        whole = tomllib.loads(text) if form == "TOML" else json.loads(text, object_pairs_hook=_marked)
    except FileNotFoundError:
        raise Misfit("no such file") from None
    except OSError as error:
        raise Misfit(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Misfit(f"not {form}: {error}") from None
    if not isinstance(whole, dict):
        raise Misfit(f"found a {type(whole).__name__}, expected a mapping")
    return whole, path.absolute().parent


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the mapping, where a key that is written twice has a misfit for its value. TOML forbids that by itself."""
    whole: dict[str, Any] = {}
    for name, value in pairs:
        whole[name] = Misfit("written more than once; keep one of them") if name in whole else value
    return whole
