"""What a caller may write, turned into a `Request`.

A prompt is text, a list of messages (values or mappings in OpenAI's form), or a whole `Request`.
Whatever does not fit is a `ConfigError` that names the place, what was found and what was expected.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias, TypeVar, get_args

from attrs import evolve, fields

from .errors import ConfigError
from .scope import Scope
from .values import Effort, Image, Message, Request, Tool, ToolCall

Prompt: TypeAlias = "str | Sequence[Message | Mapping[str, Any]] | Request"

_OPTIONS = frozenset(f.name for f in fields(Request)) - {"messages", "scope"}
_T = TypeVar("_T")


def build(prompt: Prompt, options: Mapping[str, Any]) -> Request:
    """Return the request that `prompt` and the keyword `options` describe, with a scope of its own.

    :raises ConfigError: with the place, what was found, what was expected.
    """
    if options:
        options = _converted(options)
    try:
        if prompt.__class__ is str:
            if not prompt or prompt.isspace():
                raise ConfigError("prompt: found no text, expected what is to be asked")
            return Request((Message("user", prompt),), **options)
        if isinstance(prompt, Request):
            tuple(_each(prompt.messages, "messages", None, Message))
            return evolve(prompt, scope=Scope(), **options)
        return Request(_messages(prompt), **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _messages(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", str(prompt)),)
    if isinstance(prompt, Mapping | bytes) or not isinstance(prompt, Iterable):
        raise ConfigError(f"prompt: found {type(prompt).__name__}, expected text, a list of messages, or a Request")
    return tuple(_each(prompt, "messages", _message, Message))


def _converted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as fields of `Request`; numbers are left to `Request` itself."""
    if not options.keys() <= _OPTIONS:
        raise ConfigError(*(_unknown(name) for name in options if name not in _OPTIONS))
    done = dict(options)
    for name, value in options.items():
        if (convert := _CONVERTERS.get(name)) is not None:
            done[name] = convert(value, name)
    return done


def _unknown(name: str) -> str:
    near = get_close_matches(name, _OPTIONS, 1)
    hint = f"did you mean {near[0]}?" if near else "a provider's own fields go into extra={...}"
    return f"{name}: no such option; {hint}"


def _is(kind: Any, value: Any, place: str) -> Any:
    """Return `value` if it is of this kind."""
    if isinstance(value, kind) and (kind is not int or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{place}: found {type(value).__name__}, expected {_CALLED[kind]}")


_PART: Any = str | Image
_CALLED: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    bool: "True or False",
    Mapping: "a mapping",
    _PART: "text, an Image",
}


def _optional(kind: Any) -> Callable[[Any, str], Any]:
    return lambda value, place: None if value is None else _is(kind, value, place)


def _stop(value: Any, place: str) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(_each(value or (), place, None, str))


def _one_of(*choices: str) -> Callable[[Any, str], Any]:
    def chosen(value: Any, place: str) -> Any:
        if value is None or value in choices:
            return value
        raise ConfigError(f"{place}: found {value!r}, expected {' or '.join(map(repr, choices))}")

    return chosen


#: option -> what makes a field of `Request` of it, or raises.
_CONVERTERS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("system", "model", "tool_choice", "backend"), _optional(str)),
    "seed": _optional(int),
    "schema": _optional(Mapping),
    "extra": lambda value, place: _is(Mapping, {} if value is None else value, place),
    "local_only": lambda value, place: _is(bool, value, place),
    "on_refusal": _one_of("raise", "next"),
    "drop_unsupported": lambda value, place: _is(bool, value, place),
    "reasoning_effort": _one_of(*get_args(Effort)),
    "on_break": _one_of("raise", "restart", "continue"),
    "on_limit": _one_of("next", "wait"),
    "stop": _stop,
    "tools": lambda value, place: tuple(_each(value or (), place, _tool, Tool)),
}


def _each(
    values: Any, where: str, convert: Callable[[Mapping[str, Any], str], _T] | None, kind: type[_T]
) -> Iterable[_T]:
    """Yield every value as `kind`, converting mappings, naming the place of what fits neither."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected a list")
    for index, value in enumerate(values):
        place = f"{where}[{index}]"
        if isinstance(value, kind):
            yield value
        elif convert is not None and isinstance(value, Mapping):
            try:
                yield convert(value, place)
            except KeyError as error:
                raise ConfigError(f"{place}: the key {error} is missing") from error
            except ValueError as error:
                raise ConfigError(f"{place}: {error}") from error
        else:
            wanted = _CALLED.get(kind) or f"a {kind.__name__}"
            hint = " or a mapping" if convert is not None else ""
            raise ConfigError(f"{place}: found {type(value).__name__}, expected {wanted}{hint}")


def _message(value: Mapping[str, Any], place: str) -> Message:
    """OpenAI's form of a message: role, content (text, null or parts), tool_calls, tool_call_id."""
    content = value["content"] if value["role"] == "user" else value.get("content")
    if content is None:
        content = ""
    elif not isinstance(content, str):
        content = tuple(_each(content, f"{place}.content", _part, _PART))
    calls = _each(value.get("tool_calls") or (), f"{place}.tool_calls", _tool_call, ToolCall)
    role: Any = "system" if value["role"] == "developer" else value["role"]
    return Message(role, content, tuple(calls), _optional(str)(value.get("tool_call_id"), f"{place}.tool_call_id"))


def _part(part: Mapping[str, Any], place: str) -> str | Image:
    if part.get("type") == "text":
        return str(_is(str, part["text"], f"{place}.text"))
    if part.get("type") != "image_url":
        raise ConfigError(f"{place}.type: found {part.get('type')!r}, expected text or image_url")
    url = part["image_url"]["url"] if isinstance(part["image_url"], Mapping) else part["image_url"]
    return _image(_is(str, url, f"{place}.image_url"), place)


def _image(url: str, place: str) -> Image:
    if not url.startswith("data:"):
        return Image(url=url)
    head, _, data = url[5:].partition(",")
    media_type, _, encoding = head.partition(";")
    if encoding != "base64":
        raise ConfigError(f"{place}: a data: URL of an image must be base64")
    try:
        return Image(data=b64decode(data, validate=True), media_type=media_type)
    except binascii.Error as error:
        raise ConfigError(f"{place}: the data: URL is not valid base64: {error}") from error


def _tool(value: Mapping[str, Any], place: str) -> Tool:
    """OpenAI's form of a tool, with or without the envelope of chat completions."""
    function = _is(Mapping, value.get("function", value), f"{place}.function")
    name = _is(str, function["name"], f"{place}.name")
    description = _is(str, function.get("description") or "", f"{place}.description")
    parameters = function.get("parameters")
    known = {} if parameters is None else {"parameters": _is(Mapping, parameters, f"{place}.parameters")}
    return Tool(name, description, **known)


def _tool_call(value: Mapping[str, Any], place: str) -> ToolCall:
    function = _is(Mapping, value.get("function", value), f"{place}.function")
    arguments = function.get("arguments", "{}")
    return ToolCall(
        _is(str, value["id"], f"{place}.id"),
        _is(str, function["name"], f"{place}.name"),
        arguments if isinstance(arguments, str) else json.dumps(arguments),
    )
