"""For authors of providers: JSON Schemas as a service takes them that knows a part of the language only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

_NAMED, _CHOICES = {"properties", "$defs", "definitions"}, {"anyOf", "oneOf", "allOf"}
_UNSAID = {"$schema", "additionalProperties"}


def expressible(schema: Any) -> bool:
    """Whether it can be said to a service that closes every object: none may have names that it does not tell."""
    if not isinstance(schema, Mapping):
        return not isinstance(schema, list | tuple) or all(map(expressible, schema))
    open_ended = not schema.get("properties") and schema.get("additionalProperties") is not False
    return not (_is_object(schema) and open_ended) and all(map(expressible, schema.values()))


def within(schema: Any, known: Collection[str], *, closed: bool = False) -> Any:
    """Return the schema in these keywords: what they cannot say is told in the descriptions, where a model reads it.

    :param known: keywords; a format alone as "format=date", a number alone as "minItems=1".
    :param closed: every object is told to have no other names.
    """
    if not isinstance(schema, Mapping):
        return schema
    kept, rest, inner = dict[str, Any](), dict[str, Any](), partial(within, known=known, closed=closed)
    for name, value in schema.items():
        if name in _NAMED and isinstance(value, Mapping):
            kept[name] = {key: inner(one) for key, one in value.items()}
        elif name in _CHOICES and isinstance(value, list | tuple):
            kept[name if name in known else "anyOf"] = [inner(one) for one in value]
        elif name == "items" or name in known or f"{name}={value}" in known:
            kept[name] = inner(value)
        elif name == "const" and "enum" in known:
            kept["enum"] = [value]
        elif name not in _UNSAID:
            rest[name] = value
    if closed and _is_object(schema):
        kept |= {"properties": kept.get("properties", {}), "additionalProperties": False}
    if rest:
        told = "{" + ", ".join(f"{name}: {value}" for name, value in rest.items()) + "}"
        kept["description"] = "\n\n".join(filter(None, (kept.get("description"), told)))
    return kept


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return "object" in kind if isinstance(kind, str | list | tuple) else "properties" in schema
