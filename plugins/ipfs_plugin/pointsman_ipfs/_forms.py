"""What a record looks like, field by field: a table of its fields, held against what was read.

No message shows text that is more than the digits of a time: whatever the field is for, it may be private.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from attrs import frozen

from .dag.cbor import Ref
from .dag.cid import canonical, is_ours, to_text

#: A mapping of fields ("name?" may be missing), a list with what all of its items are, or what takes a value.
Form: TypeAlias = "Mapping[str, Any] | list[Any] | Of | Such"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_HARMLESS = re.compile(r"[\dTZ:.+-]{1,40}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{32}")
_KINDS = {
    str: "text",
    Ref: "a link",
    dict: "a map",
    list: "a list",
    bytes: "bytes",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "nothing",
}


@frozen(init=False)
class Of:
    """Takes what is of one of these types."""

    kinds: tuple[type, ...]

    def __init__(self, *kinds: type) -> None:
        self.__attrs_init__(kinds)

    def __call__(self, value: Any) -> bool:
        return value.__class__ in self.kinds

    def __str__(self) -> str:
        return " or ".join(dict.fromkeys(_KINDS[kind] for kind in self.kinds))


@frozen
class Such:
    """Takes what fits; `words` say what that is."""

    words: str
    fits: Callable[[Any], bool]

    def __call__(self, value: Any) -> bool:
        return self.fits(value)

    def __str__(self) -> str:
        return self.words


def such(words: str) -> Callable[[Callable[[Any], bool]], Such]:
    """Return what says in these words what a function takes."""
    return lambda fits: Such(words, fits)


def number_of(version: int) -> Such:
    """Return what takes the number of a version."""
    return Such(f"{version}", lambda value: value.__class__ is int and value == version)


def sized(size: int) -> Such:
    """Return what takes so many bytes."""
    return Such(f"{size} bytes", lambda value: value.__class__ is bytes and len(value) == size)


@such("a CID in base32 or, of version 0, in base58")
def is_cid(value: Any) -> bool:
    """Whether it is the text of a CID, in our spelling."""
    return value.__class__ is str and canonical(value) is not None


@such("a whole number from 0")
def is_count(value: Any) -> bool:
    """Whether it is an integer from 0."""
    return value.__class__ is int and value >= 0


@such("32 hexadecimal digits")
def is_hex(value: Any) -> bool:
    """Whether it is 32 hexadecimal digits."""
    return value.__class__ is str and _HEX.fullmatch(value) is not None


@such("a time such as 2026-01-31T23:59:59.000000Z")
def is_time(value: Any) -> bool:
    """Whether it is a time in UTC with microseconds, as text."""
    if value.__class__ is not str or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def misfits(value: Any, form: Form, place: str = "") -> Iterator[str]:
    """Say what in a value is not of this form, each with its place."""
    if isinstance(form, list):
        if value.__class__ is not list:
            yield f"{place}: found {_kind_of(value)}, expected a list"
            return
        for number, one in enumerate(value):
            yield from misfits(one, form[0], f"{place}[{number}]")
    elif isinstance(form, Mapping):
        yield from _misfits_of_map(value, form, place)
    elif not form(value):
        found = _kind_of(value) if isinstance(form, Of) else _told(value)
        yield f"{place}: found {found}, expected {form}"


def _misfits_of_map(value: Any, form: Mapping[str, Any], place: str) -> Iterator[str]:
    if value.__class__ is not dict:
        yield f"{place}: found {_kind_of(value)}, expected a map"
        return
    before, left = f"{place}." if place else "", dict(value)
    for written, inner in form.items():
        name = written.removesuffix("?")
        if name in left:
            yield from misfits(left.pop(name), inner, f"{before}{name}")
        elif name == written:
            yield f"{before}{name}: it is missing"
    for name in left:
        yield f"{before}{name:.40}: this version has no such field"


def _told(value: Any) -> str:
    if value.__class__ is str and not _HARMLESS.fullmatch(value):
        return f"text of {len(value):,} characters"
    if value.__class__ is bytes:
        return f"{len(value):,} bytes"
    if value.__class__ is Ref and is_ours(value):  # another one may hold a text
        return f"a link to {to_text(value)}"
    return f"{value!r:.60}" if value.__class__ in (str, int, float, bool) else _kind_of(value)


def _kind_of(value: Any) -> str:
    kind: type = value.__class__
    return _KINDS.get(kind, kind.__name__)
