"""Output schemas: bounded before the engine sees them, validated afterwards.

The engine turns a schema into a grammar. A deep one overflows its stack, a long enumeration takes it
many seconds, and it does not enforce everything (bounds of numbers, patterns without anchors).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pointsman import InvalidRequestError, UnusableAnswer

_MOST_BYTES = 64 << 10
_DEEPEST = 48
_MOST_VALUES = 1_000  #: of all enumerations together
_MOST_PROPERTIES = 400


def bounded(schema: Mapping[str, Any], *, what: str = "schema") -> dict[str, Any]:
    """Return `schema` as plain JSON values.

    :raises InvalidRequestError: it is no JSON Schema, refers to something outside of itself, or is
        larger than the engine can take. Another backend may still take the last two.
    """
    try:
        text = json.dumps(schema, allow_nan=False, default=_plain)
        plain = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{what}: not made of JSON values: {error}", parameter=what) from error
    if not isinstance(plain, dict):
        raise InvalidRequestError(f"{what}: found {type(plain).__name__}, expected a mapping", parameter=what)
    if len(text) > _MOST_BYTES:
        raise _too_large(what, f"{len(text)} bytes", f"{_MOST_BYTES}")
    counts = {"enum": 0, "properties": 0}
    _measure(plain, what, counts)
    _validator(plain, what)
    return plain


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _measure(schema: dict[str, Any], what: str, counts: dict[str, int]) -> None:
    nodes: list[tuple[Any, int]] = [(schema, 1)]
    while nodes:
        node, depth = nodes.pop()
        if depth > _DEEPEST:
            raise _too_large(what, "deeper nesting", f"{_DEEPEST} levels")
        if isinstance(node, dict):
            _count(node, what, counts)
        nodes += [
            (child, depth + 1)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]


def _count(node: dict[str, Any], what: str, counts: dict[str, int]) -> None:
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#/"):
        raise InvalidRequestError(
            f"{what}: the reference {reference!r} is not taken here, only ones like '#/$defs/name'",
            parameter=what,
            try_next=True,
        )
    for key, most in (("enum", _MOST_VALUES), ("properties", _MOST_PROPERTIES)):
        value = node.get(key)
        counts[key] += len(value) if isinstance(value, (list, dict)) else 0
        if counts[key] > most:
            raise _too_large(what, f"more under {key!r}", f"{most} in all")


def _too_large(what: str, found: str, most: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{what}: found {found}, a local model takes at most {most}. Ask for less, or another backend.",
        parameter=what,
        try_next=True,
    )


def _validator(schema: dict[str, Any], what: str) -> Any:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        reason = error.message if isinstance(error, SchemaError) else "it refers to itself without end"
        raise InvalidRequestError(f"{what}: not a JSON Schema: {reason}", parameter=what) from error
    return kind(schema, registry=Registry())  # an empty registry never reaches the network


def check(text: str, schema: dict[str, Any], *, what: str = "the answer") -> None:
    """Check that `text` is JSON that fulfils `schema`.

    :raises UnusableAnswer: it does not.
    """
    try:
        value = json.loads(text)
        error = next(iter(_validator(schema, "schema").iter_errors(value)), None)
    except (ValueError, RecursionError) as problem:
        raise UnusableAnswer(f"{what} is no JSON: {problem}") from problem
    except Exception as problem:
        raise InvalidRequestError(f"schema: cannot be applied: {problem}", parameter="schema") from problem
    if error is not None:
        raise UnusableAnswer(f"{what} does not fulfil the schema at {error.json_path}: {error.message[:200]}")
