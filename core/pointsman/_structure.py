"""What a person wrote, turned into an instance of an attrs class, with every misfit told at once.

Nothing is guessed: "5" is text and no number, unless it came out of a `${VARIABLE}`, which can
hold nothing but text. cattrs walks the types; its errors become lines that name the path, what was
found (keys masked) and what was expected.
"""

from __future__ import annotations

import re
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from difflib import get_close_matches
from enum import Enum
from functools import cache
from json import dumps
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import attrs

from ._variables import Text, leaves, plain, read
from .errors import ConfigError
from .secret import MASK, Secret, redact

if TYPE_CHECKING:
    from cattrs import Converter

#: Options whose value is masked whatever their type, and all that is below them.
_HIDDEN = re.compile(r"(key|token|secret|password|passwd|authorization|credentials?|cookies?|headers)(?=$|[.\[])", re.I)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    Secret: "a key (text)",
    NoneType: "null",
    Any: "a value",
}
_ABSENT = object()


class _MisfitError(Exception):
    """A value is not of the type."""


def build(cls: type[Any], options: Mapping[str, Any], path: str) -> Any:
    """Return `cls` built from `options`, which stand at `path` of the configuration.

    Names that every backend has (`config.COMMON`) are passed over unless `cls` has such a field.

    :raises ConfigError: with one line for each misfit: unknown, missing, of the wrong type, refused
        by the class, or a variable that is not set.
    """
    from .config import COMMON

    instance, problems = structured(cls, options, path, also=COMMON)
    if problems:
        del options  # a traceback that shows local variables would show them
        raise ConfigError(*problems) from None
    return instance


def structured(
    cls: type[Any],
    options: Mapping[str, Any],
    path: str,
    *,
    also: Iterable[str] = (),
    unset: list[str] | None = None,
) -> tuple[Any, list[str]]:
    """Return an instance of `cls` and no problems, or None and the problems.

    :param also: names that are passed over where `cls` has no such field.
    :param unset: takes the variables that are not set, which are then no problem: their options are left out.
    """
    values, missing = read(options)
    keys = [Secret(text) for place, text in leaves(values, path) if _HIDDEN.search(place) or isinstance(text, Text)]
    fields = {a.name: a for a in attrs.fields(cls) if a.init and not a.name.startswith("_")}
    types = _types(cls)
    problems = [unknown(f"{path}.{n}", {*fields, *also}) for n in options if n not in fields and n not in also]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name in fields:
            placed = _placed(value, name, types[name], options)
            arguments[name], wrong = _fitted(placed, fields[name], type_=types[name], path=f"{path}.{name}")
            problems += wrong
    required = [name for name, field in fields.items() if field.default is attrs.NOTHING]
    for name in [name for name in required if name not in options]:
        near = get_close_matches(name, [other for other in options if other not in fields], 1, 0.75)
        meant = f"; is {near[0]} meant for it?" if near else ""
        problems.append(f"{path}.{name}: missing, expected {expected(types[name])}{meant}")
    if unset is None:
        problems += [f"{path}: the variable {name} is not set" for name in missing]
    else:
        unset += missing
    instance = None
    if not problems and arguments.keys() >= {*required}:
        try:
            instance = cls(**{fields[name].alias: value for name, value in arguments.items()})
        except Exception as error:
            problems = [_refusal(error, path)]
    del keys  # until here `redact` knew them, so that no plugin's own words could show one
    return instance, [redact(line) for line in problems]


def unknown(path: str, names: Iterable[str]) -> str:
    """Return the line for a key that nobody knows, with the nearest one that is right."""
    parent, _, name = path.rpartition(".")
    by_case = {known.casefold(): known for known in sorted(names)}
    near = get_close_matches(name.casefold(), by_case, 1)
    hint = f"did you mean {by_case[near[0]]}?" if near else f"expected one of {', '.join(by_case.values())}"
    return f"{parent + '.' if parent else ''}{name}: unknown key; {hint}"


def found(value: Any, path: str = "", type_: Any = None) -> str:
    """Say what `value` is, in the words of JSON. A key is masked, and a variable is shown by its name."""
    if isinstance(value, Text):
        return f"the text of {value.written}"
    if value is None or isinstance(value, bool):
        return dumps(value)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if _HIDDEN.search(path) or _secret(type_):
        return MASK
    if isinstance(value, str | int | float):
        shown = dumps(redact(value), ensure_ascii=False) if isinstance(value, str) else repr(value)
        return shown if len(shown) <= 60 else f"{shown[:56]}..."
    return f"an object of {type(value).__name__}"


def expected(type_: Any) -> str:
    """Say in words what a field of `type_` takes."""
    origin, args = _origin(type_), get_args(type_)
    if origin is Literal:
        return f"one of {', '.join(dumps(choice) for choice in args)}"
    if origin in (Union, UnionType):
        return " or ".join(expected(arg) for arg in args if arg is not NoneType)
    cls = origin or type_
    if type_ in _WORDS or not isinstance(cls, type):
        return _WORDS.get(type_) or str(type_)
    if issubclass(cls, Mapping):
        return "a mapping" + (f", each value {expected(args[1])}" if len(args) == 2 and args[1] is not Any else "")
    if issubclass(cls, Sequence | AbstractSet):
        return "a list" + (f", each {expected(args[0])}" if args and args[0] is not Any else "")
    if issubclass(cls, Enum):
        return f"one of {', '.join(dumps(member.value, default=str) for member in cls)}"
    if attrs.has(cls):
        return f"a mapping with {', '.join(a.name for a in attrs.fields(cls))}"
    return f"an object of {cls.__name__}, which only a program can give"


def _types(cls: type[Any]) -> dict[str, Any]:
    """Return the types of the fields. A name that cannot be resolved, being imported late, stands for anything."""
    modules = [vars(module) for base in cls.__mro__ if (module := sys.modules.get(base.__module__))]
    return {a.name: _resolved(a.type, ChainMap(*modules)) for a in attrs.fields(cls)}


def _resolved(type_: Any, names: Mapping[str, Any]) -> Any:
    try:
        return eval(type_, {}, names) if isinstance(type_, str) else type_ or Any  # noqa: S307 - the plugin's own code
    except Exception:
        return Any


def _fitted(value: Any, field: attrs.Attribute[Any], *, type_: Any, path: str) -> tuple[Any, list[str]]:
    """Return the value as its field takes it, and what its type, its converter and its validator have against it."""
    convert, validate = field.converter, field.validator
    try:
        fitted = plain(value if convert else _converter().structure(value, type_))
    except Exception as error:
        return None, [*_told(error, value, type_, path)]
    try:
        converted = convert(fitted) if convert and not isinstance(convert, attrs.Converter) else fitted
        if validate:
            with suppress(AttributeError):  # it looks at other fields: heard when the instance is built
                validate(None, field, converted)
    except Exception as error:
        return None, [_refusal(error, path, type_)]
    return fitted, []


def _placed(value: Any, name: str, type_: Any, options: Mapping[str, Any]) -> Any:
    """Make a relative path of a file absolute: it is relative to the folder of the configuration."""
    is_path = name == "path" or name.endswith("_path") or type_ is Path or Path in get_args(type_)
    if not is_path or not isinstance(value, str) or not value or _SCHEME.match(value):
        return value
    place = Path(value).expanduser()
    folder = getattr(options, "folder", None)
    return str(folder / place if folder else place)


@cache
def _converter() -> Converter:
    import cattrs  # costs as much time as all the rest: only where there is a configuration
    from cattrs import cols

    converter = cattrs.Converter(forbid_extra_keys=True, structure_fallback_factory=lambda _: _given)
    for type_ in _WORDS:
        converter.register_structure_hook(type_, _scalar)
    converter.register_structure_hook_func(lambda type_: _origin(type_) is Literal, _choice)
    converter.register_structure_hook_func(lambda type_: _origin(type_) in (Union, UnionType), _one_of)
    converter.register_structure_hook_func(cols.is_any_set, _set)
    for fits, make, kinds in (
        (cols.is_sequence, cols.homogenous_tuple_structure_factory, (list, tuple)),
        (cols.is_mutable_sequence, cols.list_structure_factory, (list, tuple)),
        (cols.is_mapping, cols.mapping_structure_factory, Mapping),
    ):
        converter.register_structure_hook_factory(fits, _only(kinds, make))
    return converter


def _only(kinds: Any, make: Callable[..., Callable[[Any, Any], Any]]) -> Callable[[Any, Converter], Any]:
    """Text and mappings can be iterated too, but nobody means them as lists, nor a list as a mapping."""

    def made(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
        structure = make(type_, converter)

        def hook(value: Any, type_: Any) -> Any:
            if not isinstance(value, kinds):
                raise _MisfitError
            return structure(value, type_)

        return hook

    return made


def _set(value: Any, type_: Any) -> Any:
    as_list: Any = GenericAlias(list, get_args(type_) or (Any,))
    items = _converter().structure(value, as_list)
    return set(items) if _origin(type_) is set or type_ is set else frozenset(items)


def _scalar(value: Any, type_: Any) -> Any:
    if type_ is Any or (type_ is NoneType and value is None):
        return value
    if type_ is Secret and isinstance(value, str | Secret):
        return Secret.of(value)
    if type_ is Path and isinstance(value, str | Path):
        return Path(value)
    if isinstance(value, Text) and type_ in (int, float, bool):
        return _read_from_text(value.strip(), type_)
    if type_ is float and type(value) is int:
        return float(value)
    if (type(value) is not type_ and not (type_ is str and isinstance(value, str))) or value != value:  # NaN is none
        raise _MisfitError
    return value


def _read_from_text(text: str, type_: Any) -> Any:
    try:
        return _TRUTH[text.lower()] if type_ is bool else _scalar(type_(text), type_)
    except (KeyError, ValueError):
        raise _MisfitError from None


def _choice(value: Any, type_: Any) -> Any:
    for choice in get_args(type_):
        if choice == value and isinstance(value, type(choice)) and isinstance(choice, bool) == isinstance(value, bool):
            return choice
    raise _MisfitError


def _one_of(value: Any, type_: Any) -> Any:
    members = [member for member in get_args(type_) if member is not NoneType]
    if value is None and len(members) < len(get_args(type_)):
        return None
    if len(members) == 1:
        return _converter().structure(value, members[0])  # and its errors keep their paths
    for member in members if not isinstance(value, Text) else sorted(members, key=lambda member: member is str):
        try:
            return _converter().structure(value, member)
        except Exception:  # noqa: S112 - another member may fit
            continue
    raise _MisfitError


def _given(value: Any, type_: Any) -> Any:
    """A type that no configuration can write: a program gives the object itself."""
    if isinstance(type_, type) and not isinstance(value, type_):
        raise _MisfitError
    return value


def _told(error: Exception, value: Any, type_: Any, path: str) -> Iterator[str]:
    """Yield a line for each misfit in an error of cattrs, which is a tree."""
    from cattrs import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

    if isinstance(error, ClassValidationError | IterableValidationError):
        noted, others = error.group_exceptions()
        for cause, note in noted:
            key = getattr(note, "name", None) or getattr(note, "index", "")
            place = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
            yield from _told(cause, _item(value, key), note.type, place)
        for cause in others:
            yield from _told(cause, value, type_, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        names = [a.name for a in attrs.fields(error.cl)]
        yield from (unknown(f"{path}.{name}", names) for name in sorted(error.extra_fields))
    elif value is _ABSENT:
        yield f"{path}: missing, expected {expected(type_)}"
    elif attrs.has(type_) and isinstance(value, Mapping):
        yield _refusal(error, path, type_)
    else:
        yield f"{path}: found {found(value, path, type_)}, expected {expected(type_)}"


def _item(value: Any, key: Any) -> Any:
    try:
        return value[key]
    except (LookupError, TypeError):
        return _ABSENT


def _refusal(error: Exception, path: str, type_: Any = None) -> str:
    """Say why a plugin refused what was written."""
    if _HIDDEN.search(path) or _secret(type_):
        return f"{path}: found {MASK}, which was refused ({type(error).__name__})"
    return redact(f"{path}: {error.args[0] if error.args else type(error).__name__}")


def _origin(type_: Any) -> Any:
    return get_origin(type_)


def _secret(type_: Any) -> bool:
    return type_ is Secret or any(_secret(arg) for arg in get_args(type_))
