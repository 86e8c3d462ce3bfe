"""One walk over options: variables, types, ranges, paths and keys at once, and every misfit told.

The fields of a class say what may be written: their types, and which values of a type (`_settings.Only`).
Nothing is guessed: "5" is text and no number, unless it came out of a `${VARIABLE}`, which can
hold nothing but text. A misfit is told with its path, what was found (keys masked), what was
expected, and the nearest name that is right.
"""

from __future__ import annotations

import re
import sys
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from json import dumps
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

import attrs

from ._written import Misfit, Text, Written, expand
from .secret import MASK, Secret, redact

#: Options whose value is masked whatever their type, and all that is below them.
_HIDDEN = re.compile(r"(key|token|secret|password|passwd|authorization|credentials?|cookies?|headers)(?=$|[.\[])", re.I)
_PATH = re.compile(r"(^|_)path$")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_OF_TEXT: dict[Any, Any] = {str: str, Path: Path, Secret: Secret.of}
_LISTS: tuple[Any, ...] = (tuple, list, frozenset, set)
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", object: "a value"}
_WORDS |= {Path: "a path", Secret: "a key (text)", Written: "a mapping"}

Fields: TypeAlias = "Mapping[str, attrs.Attribute[Any]]"


@cache
def fields_of(cls: Any) -> Fields:
    """Return the options of an attrs class. A type that only type checkers import stands for anything."""
    modules = [sys.modules.get(base.__module__) for base in cls.__mro__]
    names = ChainMap(*(vars(module) for module in modules if module))

    def resolved(type_: Any) -> Any:
        try:
            return eval(type_, {}, names) if isinstance(type_, str) else type_  # noqa: S307 - the plugin's own code
        except Exception:
            return Any

    options = [a for a in attrs.fields(cls) if a.init and not a.name.startswith("_")]
    return {a.name: a.evolve(type=resolved(a.type)) for a in options}


def misfits(fields: Fields, values: Mapping[str, Any], path: str = "") -> list[str]:
    """Return a line for each of a program's values that a configuration could not have either."""
    walk = Walk(literal=True)
    walk.options(fields, values, path)
    return walk.told()


class Problem(NamedTuple):
    """What is wrong at a place."""

    path: str
    text: str
    variables: tuple[str, ...] = ()  #: which are not set, if that is all


@attrs.define(repr=False)
class Walk:
    """Takes what was written, and keeps what is wrong with it."""

    folder: Path | None = None  #: where relative paths start
    literal: bool = False  #: a program wrote it: `${` is text
    problems: list[Problem] = attrs.field(factory=list)
    _keys: list[Secret] = attrs.field(factory=list)  # while they live `redact` knows them

    def told(self) -> list[str]:
        """Return a line for each problem, once, without any key."""
        return list(dict.fromkeys(redact(f"{path}: {text}") for path, text, _ in self.problems))

    def tell(self, path: str, text: str, variables: tuple[str, ...] = ()) -> None:
        """Remember what is wrong at `path`."""
        self.problems.append(Problem(path, text, variables))

    def refused(self, error: BaseException, path: str, type_: Any = Any) -> None:
        """Tell why a class refused what was written."""
        kind = type(error).__name__
        hidden = f"found {MASK}, which was refused ({kind}); expected {_expected(type_)}"
        said = str(error.args[0] if error.args else kind).removeprefix(f"{path.rpartition('.')[2]}: ")
        self.tell(path, hidden if _hidden(path, type_) else said)

    def options(
        self, fields: Fields, written: Mapping[str, Any], path: str, also: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return what is written for `fields`, as arguments, without what does not fit at all.

        :param also: names that are passed over where there is no such field.
        """
        options: dict[str, Any] = {}
        for name, value in written.items():
            place, told = f"{path}.{name}".lstrip("."), len(self.problems)
            if name in fields:
                option = self._option(value, fields[name], place)
                if option is not None or len(self.problems) == told:
                    options[str(fields[name].alias)] = option
                continue
            if name not in also:
                self.tell(place, f"unknown key; {nearest(name, {*fields, *also})}")
            self.fitted(value, Any, place)
        for name in [name for name, a in fields.items() if a.default is attrs.NOTHING and name not in written]:
            near = get_close_matches(name, map(str, written.keys() - fields.keys()), 1, 0.75)
            meant = f"; is {near[0]} meant for it?" if near else ""
            self.tell(f"{path}.{name}", f"missing, expected {_expected(fields[name].type)}{meant}")
        return options

    def fitted(self, written: Any, type_: Any, path: str) -> Any:
        """Return what was written as `type_` takes it, or None after telling why not."""
        try:
            if self.literal and type_ is Any:
                return written
            if isinstance(written, Misfit):
                raise written
            value = expand(written) if isinstance(written, str) and not self.literal else written
            if isinstance(value, str) and (isinstance(value, Text) or _HIDDEN.search(path)):
                self._keys.append(Secret(value))
            return self._as(value, type_, path)
        except Misfit as misfit:
            self.tell(path, *misfit.args)
        except Exception:  # what a type has against a value, in whatever words
            self.tell(path, f"found {found(written, hidden=_hidden(path, type_))}, expected {_expected(type_)}")
        return None

    def _option(self, written: Any, field: attrs.Attribute[Any], path: str) -> Any:
        """Return the value as its field takes it; tell what type, converter and validator have against it."""
        told, convert = len(self.problems), field.converter
        value = self.fitted(written, Any if convert else field.type, path)
        if len(self.problems) > told:
            return value
        try:
            if isinstance(value, Path) or (isinstance(value, str) and _PATH.search(field.name)):
                value = self._placed(value)
            converted = convert(value) if convert and not isinstance(convert, attrs.Converter) else value
            if field.validator:
                with suppress(AttributeError):  # it looks at other fields: heard when the instance is built
                    field.validator(None, field, converted)
        except Exception as error:
            self.refused(error, path, field.type)
        return value

    def _placed(self, path: Any) -> Any:
        """Return a relative path of a file as absolute: it is relative to the folder of the configuration."""
        if not str(path) or _SCHEME.match(str(path)):
            return path
        place = Path(path).expanduser()
        return type(path)(self.folder / place if self.folder else place)

    def _as(self, value: Any, type_: Any, path: str) -> Any:
        cls, args = _parts(type_)
        if cls is Union:  # the first that takes it; text where nothing else does
            for member in sorted(args, key=lambda member: member is str):
                with suppress(Exception):
                    return self._as(value, member, path)
        if cls is Annotated and args[1].fits(taken := self._as(value, args[0], path)):
            return taken
        if cls is Literal:
            return next(choice for choice in args if repr(choice) == repr(value))
        if cls is object:  # anything: as JSON would have it
            cls = str if isinstance(value, str) else type(value)
        if cls is Written and isinstance(value, Mapping):
            return Written(value, self.folder)
        if issubclass(cls, Mapping) and isinstance(value, Mapping):
            return {name: self.fitted(item, _item(args), f"{path}.{name}") for name, item in value.items()}
        if (kind := _list_of(cls)) and isinstance(value, list | tuple):
            return kind(self.fitted(item, _item(args), f"{path}[{place}]") for place, item in enumerate(value))
        return _scalar(value, cls)


def nearest(name: object, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Say which of the names is the nearest one, if any is as near as `cutoff`, or which there are."""
    by_case = {known.casefold(): known for known in sorted(names)}
    near = get_close_matches(str(name).casefold(), by_case, 1, cutoff)
    return f"did you mean {by_case[near[0]]}?" if near else f"expected one of {', '.join(by_case.values()) or 'none'}"


def found(value: Any, *, hidden: bool = False) -> str:
    """Say what `value` is, in the words of JSON. What is `hidden` is masked, and a variable is shown by its name."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if hidden and value is not None:
        return MASK
    if isinstance(value, str) and "${" in value:
        return f"the text of {value}"
    if not isinstance(value, str | int | float | NoneType):
        return f"an object of {type(value).__name__}"
    shown = redact(dumps(value, ensure_ascii=False))
    return shown if len(shown) <= 60 else f"{len(shown)} characters"  # a part of a key would not be masked


def _expected(type_: Any) -> str:
    cls, args = _parts(type_)
    if cls is Union:
        return " or ".join(_expected(member) for member in args if member is not NoneType)
    if cls is Annotated:
        return f"{_expected(args[0])} {args[1].words}"
    if cls is Literal:
        return f"one of {', '.join(map(dumps, args))}"
    if cls in _WORDS:
        return _WORDS[cls]
    item = "" if _item(args) is Any else _expected(_item(args))
    if issubclass(cls, Mapping):
        return "a mapping" + (item and f", each value {item}")
    if _list_of(cls):
        return "a list" + (item and f", each {item}")
    return f"an object of {cls.__name__}, which only a program can give"


def _hidden(path: str, type_: Any) -> bool:
    return bool(_HIDDEN.search(path)) or type_ is Secret or any(_hidden("", arg) for arg in get_args(type_))


def _parts(type_: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the class and the arguments of a type: `object` for what no class stands for."""
    cls, args = get_origin(type_) or type_, get_args(type_)
    if cls in (Union, Literal, Annotated) or (isinstance(cls, type) and cls not in (Any, UnionType)):
        return cls, args
    return (Union if cls is UnionType else object), args


def _item(args: tuple[Any, ...]) -> Any:
    return [Any, *(arg for arg in args if arg is not ...)][-1]


def _list_of(cls: Any) -> Any:
    return next((kind for kind in _LISTS if issubclass(kind, cls)), None)


def _scalar(value: Any, cls: Any) -> Any:
    if isinstance(value, Text) and cls in (int, float, bool):
        value = _TRUTH[value.strip().lower()] if cls is bool else cls(value)
    elif isinstance(value, str):
        return _OF_TEXT[cls](value)
    if cls is float and type(value) is int:
        value = float(value)
    if not isinstance(value, cls) or isinstance(value, bool) != (cls is bool) or (cls is float and not isfinite(value)):
        raise TypeError
    return value
