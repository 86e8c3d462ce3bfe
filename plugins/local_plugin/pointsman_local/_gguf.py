"""Reads what we need to know from the header of a GGUF file, without trusting it.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3).
Nothing is mapped into memory: a file that shrinks under a mapping kills its reader. Every count
is checked against the bytes that are left in the file before it is believed.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen
from pointsman import InvalidModelError, ModelNotFoundError

_MAGIC = b"GGUF"
#: value type -> how `struct` reads it. 8 is a string, 9 an array.
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MOST_KEYS = 65_536
_MOST_STRINGS = 4_000_000
_LONGEST_STRING = 16 << 20
#: Types of tokens (`llama_token_type` in llama.h): what stands for "unknown", and what controls.
_UNKNOWN, _CONTROL, _USER_DEFINED, _NORMAL = 2, 3, 4, 1
#: What looks like a control token whatever its type says: llama.cpp itself treats some of them so.
_MARKER = re.compile(r"<\|[^<>|\s]{1,64}\|>|<｜[^<>｜\s]{1,64}｜>|\[/?[A-Z_]{2,32}\]|<(?:start|end)_of_turn>")
_TOOLS = re.compile(r"\{[{%][^{}]*\btools\b")

_WANTED = frozenset(
    {"general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}
)
_WANTED_ENDS = (".context_length", ".block_count", ".embedding_length")
_TEMPLATE = "tokenizer.chat_template"


@frozen
class Header:
    """What the header of a model says."""

    architecture: str = ""
    context_length: int = 0  #: tokens that it was trained for; 0 if unknown
    block_count: int = 0
    embedding_length: int = 0
    chat_template: str | None = None
    tool_template: bool = False  #: whether its template (or a second one for tools) shows tools to the model
    control: frozenset[str] = frozenset()  #: texts that become control tokens
    longest_token: int = 0  #: bytes


class _Broken(Exception):
    """The header is not what it should be."""


class _Reader:
    """Takes values off the front of a file, never more than there are."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.left = size

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _Broken(f"it ends too early: {count} bytes are announced where {self.left} are left")
        data = self._file.read(count)
        if len(data) < count:
            raise _Broken("it became shorter while it was read")
        self.left -= count
        return data

    def skip(self, count: int) -> None:
        if count > self.left:
            raise _Broken(f"it ends too early: {count} bytes are announced where {self.left} are left")
        self._file.seek(count, os.SEEK_CUR)
        self.left -= count

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> bytes:
        length = self.number("<Q")
        if length > _LONGEST_STRING:
            raise _Broken(f"a text of {length} bytes, expected at most {_LONGEST_STRING}")
        return self.take(length)

    def value(self, kind: int, *, wanted: bool) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(wanted=wanted)
        if kind not in _SCALARS:
            raise _Broken(f"a value of the unknown type {kind}")
        return self.number(_SCALARS[kind])

    def _array(self, *, wanted: bool) -> Any:
        kind, count = self.number("<I"), self.number("<Q")
        if kind == _STRING:
            if count > min(_MOST_STRINGS, self.left // 8):
                raise _Broken(f"an array of {count} texts")
            strings = (self.string() for _ in range(count))
            return list(strings) if wanted else [None for _ in strings]
        if kind not in _SCALARS:
            raise _Broken(f"an array of the unknown type {kind}")
        width = struct.calcsize(_SCALARS[kind])
        if count * width > self.left:
            raise _Broken(f"an array of {count} values where {self.left} bytes are left")
        if not wanted:
            self.skip(count * width)
            return None
        return struct.unpack(f"<{count}{_SCALARS[kind][1]}", self.take(count * width))


def read_header(path: Path) -> Header:
    """Return what the header of the file at `path` says. Cached for as long as the file stays the same.

    :raises ModelNotFoundError: there is no such file.
    :raises InvalidModelError: it is not a GGUF file, or a broken one.
    """
    size, changed = identity(path)
    return _read(path, size, changed)


def identity(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of the last change (ns): what tells one version of a file from the next.

    :raises ModelNotFoundError: there is no such file.
    :raises InvalidModelError: it is something else than a file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ModelNotFoundError(f"{path}: no model file there ({why}). Set model_path to a GGUF file.") from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidModelError(f"{path}: not a file. Set model_path to a GGUF file.")
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _read(path: Path, size: int, _changed: int) -> Header:
    try:
        with path.open("rb", buffering=1 << 20) as file:
            return _header(_Reader(file, size))
    except _Broken as error:
        raise InvalidModelError(f"{path}: not a whole GGUF model: {error}. Fetch the file again.") from error
    except OSError as error:
        raise InvalidModelError(f"{path}: cannot be read: {error}") from error


def _header(reader: _Reader) -> Header:
    if reader.left < 24 or reader.take(4) != _MAGIC:
        raise _Broken("it does not begin with 'GGUF'")
    version = reader.number("<I")
    if version not in (2, 3):
        raise _Broken(f"version {version}, expected 2 or 3")
    reader.skip(8)  # number of tensors
    count = reader.number("<Q")
    if count > _MOST_KEYS:
        raise _Broken(f"{count} keys, expected at most {_MOST_KEYS}")
    values: dict[str, Any] = {}
    for _ in range(count):
        key = reader.string()[:256].decode("utf-8", "replace")
        wanted = key in _WANTED or key.endswith(_WANTED_ENDS) or key.startswith(_TEMPLATE)
        value = reader.value(reader.number("<I"), wanted=wanted)
        if wanted:
            values[key] = value
    return _digest(values)


def _digest(values: dict[str, Any]) -> Header:
    architecture = _text(values.get("general.architecture"))
    if _text(values.get("tokenizer.ggml.model")) in ("", "none"):
        raise _Broken("it has no tokenizer")
    template = _text(values.get(_TEMPLATE)) or None
    tokens = values.get("tokenizer.ggml.tokens")
    types = values.get("tokenizer.ggml.token_type")
    tokens = tokens if isinstance(tokens, list) else []
    types = types if isinstance(types, tuple) else ()
    return Header(
        architecture=architecture,
        context_length=_count(values, f"{architecture}.context_length"),
        block_count=_count(values, f"{architecture}.block_count"),
        embedding_length=_count(values, f"{architecture}.embedding_length"),
        chat_template=template,
        tool_template=shows_tools(template) or f"{_TEMPLATE}.tool_use" in values,
        control=_control(tokens, types) | markers_in(template),
        longest_token=max(map(len, tokens), default=0),
    )


def shows_tools(template: str | None) -> bool:
    """Whether a chat template uses the variable `tools`: without, a model never learns which it may call."""
    return bool(template and _TOOLS.search(template))


def markers_in(template: str | None) -> frozenset[str]:
    """Return the texts of a chat template that look like control tokens."""
    return frozenset(_MARKER.findall(template or ""))


def _control(tokens: list[bytes], types: tuple[int, ...]) -> frozenset[str]:
    found = set()
    for token, kind in zip(tokens, types, strict=False):
        if kind in (_UNKNOWN, _CONTROL):
            found.add(token.decode("utf-8", "replace"))
        elif kind in (_USER_DEFINED, _NORMAL) and token[:1] in b"<[" and len(token) > 3:
            text = token.decode("utf-8", "replace")
            if _MARKER.fullmatch(text):
                found.add(text)
    found.discard("")
    return frozenset(found)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _count(values: dict[str, Any], key: str) -> int:
    """Return a number that the engine believes without looking, so that we look. 0 if it is not there."""
    value = values.get(key, 0)
    if key in values and not (isinstance(value, int) and 0 < value < 1 << 31):
        raise _Broken(f"{key} is {value!r:.40}")
    return int(value)
