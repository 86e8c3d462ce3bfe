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
from typing import Any, TypeAlias, TypeVar

from attrs import evolve, fields

from .errors import ConfigError
from .scope import Scope
from .values import Image, Message, Request, Tool, ToolCall

Prompt: TypeAlias = "str | Sequence[Message | Mapping[str, Any]] | Request"

_OPTIONS = frozenset(f.name for f in fields(Request)) - {"messages", "scope"}
_T = TypeVar("_T")


def build(prompt: Prompt, options: Mapping[str, Any]) -> Request:
    """Return the request that `prompt` and the keyword `options` describe, with a scope of its own.

    :raises ConfigError: with the place, what was found, what was expected.
    """
    if options and not options.keys() <= _CHEAP:
        options = _converted(options)
    try:
        if prompt.__class__ is str:
            return Request((Message("user", prompt),), **options)
        if isinstance(prompt, Request):
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
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ConfigError(*(_unknown(name) for name in unknown))
    done = dict(options)
    stop = done.get("stop")
    if isinstance(stop, str):
        done["stop"] = (stop,)
    elif stop is not None:
        done["stop"] = tuple(_each(stop, "stop", _text, str))
    else:
        done.pop("stop", None)
    if "tools" in done:
        done["tools"] = tuple(_each(done["tools"] or (), "tools", _tool, Tool))
    for name in ("extra", "schema"):
        if done.get(name) is not None and not isinstance(done[name], Mapping):
            raise ConfigError(f"{name}: found {type(done[name]).__name__}, expected a mapping")
    if done.get("extra", ...) is None:
        del done["extra"]
    return done


#: Options that need no conversion: `Request` itself checks their values.
_CHEAP = _OPTIONS - {"stop", "tools", "extra", "schema"}


def _unknown(name: str) -> str:
    near = get_close_matches(name, _OPTIONS, 1)
    hint = f"did you mean {near[0]}?" if near else "a provider's own fields go into extra={...}"
    return f"{name}: no such option; {hint}"


def _each(values: Any, where: str, convert: Callable[[Mapping[str, Any], str], _T], kind: type[_T]) -> Iterable[_T]:
    """Yield every value as `kind`, converting mappings, naming the place of what fits neither."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected a list")
    for index, value in enumerate(values):
        place = f"{where}[{index}]"
        if isinstance(value, kind):
            yield value
        elif isinstance(value, Mapping):
            try:
                yield convert(value, place)
            except (KeyError, TypeError, ValueError) as error:
                what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
                raise ConfigError(f"{place}: {what}") from error
        else:
            raise ConfigError(f"{place}: found {type(value).__name__}, expected a {kind.__name__} or a mapping")


def _text(value: Mapping[str, Any], place: str) -> str:
    raise ConfigError(f"{place}: found a mapping, expected text")


def _message(value: Mapping[str, Any], place: str) -> Message:
    """OpenAI's form of a message: role, content (text, null or parts), tool_calls, tool_call_id."""
    content = value.get("content")
    if content is None:
        content = ""
    elif not isinstance(content, str):
        content = tuple(_part(part, f"{place}.content[{n}]") for n, part in enumerate(content))
    calls = _each(value.get("tool_calls") or (), f"{place}.tool_calls", _tool_call, ToolCall)
    role: Any = "system" if value["role"] == "developer" else value["role"]
    return Message(role, content, tuple(calls), value.get("tool_call_id"))


def _part(part: Any, place: str) -> str | Image:
    if isinstance(part, str | Image):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind == "text":
        return str(part["text"])
    if kind != "image_url":
        raise ConfigError(f"{place}: found {kind!r}, expected text, an Image, or a part of type text or image_url")
    url = part["image_url"]["url"] if isinstance(part["image_url"], Mapping) else part["image_url"]
    return _image(url, place)


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


def _tool(value: Mapping[str, Any], _place: str) -> Tool:
    """OpenAI's form of a tool, with or without the envelope of chat completions."""
    function = value.get("function", value)
    parameters = function.get("parameters")
    known = {} if parameters is None else {"parameters": parameters}
    return Tool(function["name"], function.get("description") or "", **known)


def _tool_call(value: Mapping[str, Any], _place: str) -> ToolCall:
    function = value.get("function", value)
    arguments = function.get("arguments", "{}")
    return ToolCall(value["id"], function["name"], arguments if isinstance(arguments, str) else json.dumps(arguments))
