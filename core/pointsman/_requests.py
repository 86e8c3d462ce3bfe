"""What a caller may write, turned into a `Request`.

A prompt is text, a list of messages (values or mappings in OpenAI's form), or a whole `Request`.
Whatever does not fit is a `ConfigError` that names the place, what was found and what was expected.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import evolve

from ._structure import misfits, nearest
from .errors import ConfigError
from .scope import Scope
from .values import _FIELDS, _NUMBERS, Image, Message, Request, Tool, ToolCall

Prompt: TypeAlias = "str | Sequence[Message | Mapping[str, Any]] | Request"

_OPTIONS = {name: field for name, field in _FIELDS.items() if name not in ("messages", "scope")}
#: What `None` stands for, where it does not stand for itself.
_EMPTY = dict[str, Any](stop=(), tools=(), extra={}, local_only=False, private=False, drop_unsupported=False)
#: Options that are a list of texts, or one alone.
_LISTS = {"stop", "drop_unsupported"}
_PART: Any = str | Image
_CALLED: dict[Any, str] = {str: "text", bool: "true or false", Mapping: "a mapping", _PART: "text, an Image"}
_CALLED |= {kind: f"a {kind.__name__}" for kind in (Message, Tool, ToolCall)}


_PLAIN = Request((Message("user", "?"),))


def build(prompt: Prompt, options: Mapping[str, Any]) -> Request:
    """Return the request that `prompt` and the keyword `options` describe, with a scope of its own.

    :raises ConfigError: with the place, what was found, what was expected.
    """
    if options:
        options = _converted(options)
    try:
        if isinstance(prompt, str):
            if not prompt or prompt.isspace():
                raise ConfigError("prompt: found no text, expected what is to be asked")
            if not options:  # what most calls are, made without looking at every field: it costs a third
                return _PLAIN.changed({"messages": (Message("user", prompt),), "scope": Scope(), "extra": {}})
            return Request((Message("user", prompt),), **options)
        if isinstance(prompt, Request):
            return evolve(
                prompt, messages=_each(prompt.messages, "messages", Message, _message), scope=Scope(), **options
            )
        if isinstance(prompt, Mapping | bytes) or not isinstance(prompt, Iterable):
            raise ConfigError(f"prompt: found {type(prompt).__name__}, expected text, a list of messages, or a Request")
        return Request(_each(prompt, "messages", Message, _message), **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _converted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as fields of `Request`; numbers that have a range are left to `Request` itself."""
    if unknown := [name for name in options if name not in _OPTIONS]:
        hint = "a provider's own fields go into extra={...}"
        raise ConfigError(*(f"{name}: no such option; {nearest(name, _OPTIONS)}; {hint}" for name in unknown))
    done = {name: _EMPTY.get(name) if value is None else value for name, value in options.items()}
    if "tools" in done:
        done["tools"] = _each(done["tools"], "tools", Tool, _tool)
    for name in _LISTS & done.keys():
        done[name] = (done[name],) if isinstance(done[name], str) else done[name]
    unchecked = {name: value for name, value in done.items() if name not in _NUMBERS}
    if unchecked and (problems := misfits(_OPTIONS, unchecked)):
        raise ConfigError(*problems)
    for name in _LISTS & done.keys():
        done[name] = done[name] if isinstance(done[name], bool) else tuple(done[name] or ())
    return done


def _is(kind: Any, value: Any, place: str) -> Any:
    """Return `value` if it is of this kind."""
    if isinstance(value, kind):
        return value
    raise ConfigError(f"{place}: found {type(value).__name__}, expected {_CALLED[kind]}")


def _each(values: Any, where: str, kind: Any, convert: Callable[[Mapping[str, Any], str], Any]) -> tuple[Any, ...]:
    """Return every value as `kind`, converting mappings, naming the place of what fits neither."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected a list")
    return tuple(_one(value, f"{where}[{n}]", kind, convert) for n, value in enumerate(values))


def _one(value: Any, place: str, kind: Any, convert: Callable[[Mapping[str, Any], str], Any]) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: found {type(value).__name__}, expected {_CALLED[kind]} or a mapping")
    try:
        return convert(value, place)
    except KeyError as error:
        raise ConfigError(f"{place}: the key {error} is missing") from error
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _message(value: Mapping[str, Any], place: str) -> Message:
    """OpenAI's form of a message: role, content (text, null or parts), tool_calls, tool_call_id."""
    content = value["content"] if value["role"] == "user" else value.get("content")
    if not isinstance(content, str):
        content = "" if content is None else _each(content, f"{place}.content", _PART, _part)
    calls = _each(value.get("tool_calls") or (), f"{place}.tool_calls", ToolCall, _tool_call)
    answers = value.get("tool_call_id")
    role: Any = "system" if value["role"] == "developer" else value["role"]
    failed = _is(bool, value.get("is_error", False), f"{place}.is_error")
    return Message(role, content, calls, answers and _is(str, answers, f"{place}.tool_call_id"), is_error=failed)


def _part(part: Mapping[str, Any], place: str) -> str | Image:
    if part.get("type") == "text":
        return str(_is(str, part["text"], f"{place}.text"))
    if part.get("type") != "image_url":
        raise ConfigError(f"{place}.type: found {part.get('type')!r}, expected text or image_url")
    url = part["image_url"]["url"] if isinstance(part["image_url"], Mapping) else part["image_url"]
    head, _, data = _is(str, url, f"{place}.image_url").partition(",")
    if not head.startswith("data:"):
        return Image(url=url)
    media_type, _, encoding = head.removeprefix("data:").partition(";")
    if encoding != "base64":
        raise ValueError("a data: URL of an image must be base64")
    return Image(data=b64decode(data, validate=True), media_type=media_type)


def _tool(value: Mapping[str, Any], place: str) -> Tool:
    """OpenAI's form of a tool, with or without the envelope of chat completions."""
    function = _is(Mapping, value.get("function", value), f"{place}.function")
    name = _is(str, function["name"], f"{place}.name")
    description = _is(str, function.get("description") or "", f"{place}.description")
    if function.get("parameters") is None:
        return Tool(name, description)
    return Tool(name, description, _is(Mapping, function["parameters"], f"{place}.parameters"))


def _tool_call(value: Mapping[str, Any], place: str) -> ToolCall:
    function = _is(Mapping, value.get("function", value), f"{place}.function")
    arguments = function.get("arguments", "{}")
    return ToolCall(
        _is(str, value["id"], f"{place}.id"),
        _is(str, function["name"], f"{place}.name"),
        arguments if isinstance(arguments, str) else json.dumps(arguments),
    )
