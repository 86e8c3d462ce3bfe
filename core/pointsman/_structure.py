"""One walk over what a person wrote: variables, types, paths and keys at once, and every misfit told.

Nothing is guessed: "5" is text and no number, unless it came out of a `${VARIABLE}`, which can hold
nothing but text. What a misfit is called in words is here too: its path, what was found (keys
masked), what was expected, and the nearest name that is right.
"""

from __future__ import annotations

import re
import sys
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from enum import EnumType
from json import dumps
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from ._variables import Misfit, Text, Unset, Written, expand
from .secret import MASK, Secret, redact

#: Options whose value is masked whatever their type, and all that is below them.
_HIDDEN = re.compile(r"(key|token|secret|password|passwd|authorization|credentials?|cookies?|headers)(?=$|[.\[])", re.I)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_OF_TEXT: dict[Any, Any] = {str: str, Path: Path, Secret: Secret.of}
_LISTS: tuple[Any, ...] = (tuple, list, frozenset, set)
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", object: "a value"}
_WORDS |= {Path: "a path", Secret: "a key (text)", Written: "a mapping with id and type"}


@attrs.define(repr=False)
class Walk:
    """Takes what was written, and keeps a line for each misfit and the variables that are not set.

    A validator may raise `Misfit` with the rest of such a line: which values of the type do fit.
    """

    folder: Path | None = None  #: where relative paths start
    problems: list[str] = attrs.field(factory=list)
    unset: list[tuple[str, str]] = attrs.field(factory=list)  #: each with the path that needs it
    _keys: list[Secret] = attrs.field(factory=list)  # while they live `redact` knows them

    def told(self, *, unset: bool = True) -> list[str]:
        """Return each problem once, without any key; what is not set is one too if `unset`."""
        needed = [f"{path}: the variable {name} is not set" for path, name in self.unset if unset]
        return list(dict.fromkeys(map(redact, [*self.problems, *needed])))

    def tell(self, path: str, problem: str) -> None:
        """Remember what is wrong at `path`."""
        self.problems.append(f"{path}: {problem}")

    def filled(self, cls: type[Any], written: Mapping[str, Any], path: str, also: Collection[str] = ()) -> Any:
        """Return `cls` with the options in `written`, or None after telling why not, or which variable is not set."""
        before = self._count()
        options = self.options(cls, written, path, also)
        if self._count() == before:
            try:
                return cls(**options)
            except (Exception, SystemExit) as error:
                self.tell(path, _refusal(error, path))
        return None

    def options(
        self, cls: type[Any], written: Mapping[str, Any], path: str, also: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return what is written for the fields of `cls`; what needs a variable that is not set is left out.

        :param also: names that are passed over where `cls` has no such field.
        """
        fields = {a.name: a for a in attrs.fields(cls) if a.init and not a.name.startswith("_")}
        options: dict[str, Any] = {}
        for name, value in written.items():
            place, unset = f"{path}.{name}".lstrip("."), len(self.unset)
            if name in fields:
                option = self._option(value, fields[name], _type(fields[name], cls), place)
                if len(self.unset) == unset:
                    options[fields[name].alias] = option
                continue
            if name not in also:
                self.tell(place, f"unknown key; {nearest(name, {*fields, *also})}")
            self.fitted(value, Any, place)
        for name in [name for name, a in fields.items() if a.default is attrs.NOTHING and name not in written]:
            near = get_close_matches(name, map(str, written.keys() - fields.keys()), 1, 0.75)
            meant = f"; is {near[0]} meant for it?" if near else ""
            self.tell(f"{path}.{name}", f"missing, expected {_expected(_type(fields[name], cls))}{meant}")
        return options

    def fitted(self, written: Any, type_: Any, path: str) -> Any:
        """Return what was written as `type_` takes it, or None after telling why not."""
        try:
            if isinstance(written, Misfit):
                raise written
            value = expand(written) if isinstance(written, str) else written
            if isinstance(value, str) and (isinstance(value, Text) or _HIDDEN.search(path)):
                self._keys.append(Secret(value))
            return self._as(value, type_, path)
        except Unset as unset:
            self.unset += [(path, name) for name in unset.args]
        except Misfit as misfit:
            self.tell(path, str(misfit))
        except Exception:  # what a type has against a value, in whatever words
            self.tell(path, _misfit(written, type_, path))
        return None

    def _count(self) -> int:
        return len(self.problems) + len(self.unset)

    def _option(self, written: Any, field: attrs.Attribute[Any], type_: Any, path: str) -> Any:
        """Return the value as its field takes it; tell what type, converter and validator have against it."""
        before, convert = self._count(), field.converter
        value = self.fitted(written, Any if convert else type_, path)
        if self._count() > before:
            return value
        try:
            if isinstance(value, Path) or (isinstance(value, str) and re.search(r"(^|_)path$", field.name)):
                value = self._placed(value)
            converted = convert(value) if convert and not isinstance(convert, attrs.Converter) else value
            if field.validator:
                with suppress(AttributeError):  # it looks at other fields: heard when the instance is built
                    field.validator(None, field, converted)
        except Misfit as limits:
            self.tell(path, f"{_misfit(written, type_, path)} {limits}")
        except Exception as error:
            own_words = not isinstance(error, TypeError | AttributeError) or not _hidden(path, type_)
            self.tell(path, _refusal(error, path, type_) if own_words else _misfit(written, type_, path))
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
        if choices := _choices(cls, args):
            return next(meant for choice, meant in choices if repr(choice) == repr(value) or meant is value)
        if cls is object:  # anything: as JSON would have it
            cls = str if isinstance(value, str) else type(value)
        if cls is Written and isinstance(value, Mapping):
            return Written(value, self.folder)
        if attrs.has(cls) and isinstance(value, Mapping):
            return self.filled(cls, value, path)
        if issubclass(cls, Mapping) and isinstance(value, Mapping):
            return {name: self.fitted(item, _item(args), f"{path}.{name}") for name, item in value.items()}
        if (kind := _list_of(cls)) and isinstance(value, list | tuple):
            return kind(self.fitted(item, _item(args), f"{path}[{place}]") for place, item in enumerate(value))
        return _scalar(value, cls)


def nearest(name: object, names: Iterable[str]) -> str:
    """Say which of the names is the nearest one, or which there are."""
    by_case = {known.casefold(): known for known in sorted(names)}
    near = get_close_matches(str(name).casefold(), by_case, 1)
    return f"did you mean {by_case[near[0]]}?" if near else f"expected one of {', '.join(by_case.values()) or 'none'}"


def found(value: Any, *, hidden: bool = False) -> str:
    """Say what `value` is, in the words of JSON. What is `hidden` is masked, and a variable is shown by its name."""
    if isinstance(value, Mapping):
        return "a mapping"
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


def _misfit(written: Any, type_: Any, path: str) -> str:
    return f"found {found(written, hidden=_hidden(path, type_))}, expected {_expected(type_)}"


def _expected(type_: Any) -> str:
    cls, args = _parts(type_)
    if cls is Union:
        return " or ".join(_expected(member) for member in args if member is not NoneType)
    if choices := _choices(cls, args):
        return f"one of {', '.join(dumps(choice, default=str) for choice, _ in choices)}"
    item = "" if _item(args) is Any else _expected(_item(args))
    if cls in _WORDS:
        return _WORDS[cls]
    if attrs.has(cls) or issubclass(cls, Mapping):
        return "a mapping" + (item and f", each value {item}")
    if _list_of(cls):
        return "a list" + (item and f", each {item}")
    return f"an object of {cls.__name__}, which only a program can give"


def _refusal(error: BaseException, path: str, type_: Any = None) -> str:
    """Say why a plugin refused what was written."""
    if _hidden(path, type_):
        return f"found {MASK}, which was refused ({type(error).__name__})"
    return str(error.args[0] if error.args else type(error).__name__)


def _hidden(path: str, type_: Any) -> bool:
    return bool(_HIDDEN.search(path)) or type_ is Secret or any(_hidden("", arg) for arg in get_args(type_))


def _type(field: attrs.Attribute[Any], cls: type[Any]) -> Any:
    """Return the type of a field. A name that cannot be resolved, being imported late, stands for anything."""
    if not isinstance(field.type, str):
        return field.type or Any
    try:
        names = ChainMap(*(vars(sys.modules[base.__module__]) for base in cls.__mro__))
        return eval(field.type, {}, names)  # noqa: S307 - the plugin's own code
    except Exception:
        return Any


def _parts(type_: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the class and the arguments of a type: `object` for what no class stands for."""
    cls, args = get_origin(type_) or type_, get_args(type_)
    if cls in (Union, UnionType):
        return Union, args
    return (cls if cls is Literal or (isinstance(cls, type) and cls is not Any) else object), args


def _item(args: tuple[Any, ...]) -> Any:
    return [Any, *(arg for arg in args if arg is not ...)][-1]


def _list_of(cls: Any) -> Any:
    return next((kind for kind in _LISTS if issubclass(kind, cls)), None)


def _choices(cls: Any, args: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Return what may be written for a `Literal` or an enumeration, each with what it stands for."""
    pairs = [(member.value, member) for member in list[Any](cls)] if isinstance(cls, EnumType) else []
    return [(choice, choice) for choice in args] if cls is Literal else pairs


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
