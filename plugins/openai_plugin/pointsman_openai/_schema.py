"""Which JSON Schemas OpenAI's strict mode takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Keywords of strict mode (OpenAI's guide to structured outputs). A schema with others is sent as a wish.
_WORDS = (
    "type properties required additionalProperties items enum const anyOf description title $defs $ref minimum maximum "
    "exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems pattern format"
)
_KEYWORDS = frozenset(_WORDS.split())


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether `schema` can be asked for in strict mode, which wants every property required and no others."""
    return schema.get("type") == "object" and "anyOf" not in schema and _fits(schema)


def _fits(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or not schema.keys() <= _KEYWORDS:
        return False
    properties = schema.get("properties") or {}
    closed = schema.get("additionalProperties") is False and set(schema.get("required", ())) == set(properties)
    if not closed and ("properties" in schema or schema.get("type") == "object"):
        return False
    inner = [*properties.values(), *schema.get("anyOf", ()), *(schema.get("$defs") or {}).values()]
    if "items" in schema:
        inner.append(schema["items"])
    return all(map(_fits, inner))
