"""What a receipt says of a request and its answer. docs/receipts.md has the schema.

Nothing in it is a key. What the caller wrote is searched for keys, with what it was answered; a header of `extra` is
masked by its name. Only where one is found, or something that DAG-CBOR has no place for, all of it is gone through.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from math import isfinite
from operator import attrgetter
from typing import Any

import attrs
from attrs import define, field
from pointsman import Attempt, Completion, Image, Message, Request, Tool, ToolCall, Usage
from pointsman.secret import MASK, redact

from ..dag import cid as cids
from ..dag.cbor import Encoded, Ref, decode, encode, is_integer, links_in
from ..dag.unixfs import UNIXFS_V1_2025, add_file
from ._salts import Salts

_salts = Salts()
#: The version of the schema.
VERSION = 1
#: Characters of a text from which it is a file of its own: one that comes again is kept once.
LONG = 4096
#: Characters of a held secret that is taken for a key: "none" is written where a server wants none.
_SHORTEST = 8
#: Levels of what a caller wrote in JSON's types, and CIDs that are listed, at most.
_DEEPEST, _CITED = 64, 1000

_CONTENT = ("tool_choice", "schema")  #: fields that say what was asked, and not how
_OPTIONS = tuple(
    name
    for name in attrs.fields_dict(Request)
    if name not in (*_CONTENT, "messages", "system", "model", "stop", "tools", "extra", "scope")
)
_options = attrgetter(*_OPTIONS)
_UNSET = _options(Request((Message("user", "?"),)))

_CID = re.compile(r"(?<![A-Za-z0-9])(?:baf[a-z2-7]{56}|Qm[1-9A-HJ-NP-Za-km-z]{44})(?![A-Za-z0-9])", re.ASCII)
_HIDDEN = re.compile(
    r"(?:key|token|secret|password|passwd|authorization|auth|credentials?|cookies?|headers?)$", re.IGNORECASE
)
_LOGIN = re.compile(r"//[^/?#]*@")
_FILES = ("request", "answer")  #: parts that may be files


@define
class Written:
    """The part of a receipt that does not depend on those before it."""

    parts: dict[str, Any]
    blocks: Sequence[tuple[bytes, bytes]] = ()  #: which it links to, and those below them
    linked: bool = False  #: whether it links to any


class _KeyFoundError(ValueError):
    """It cannot be written as it is."""


def written(request: Request, completion: Completion, *, content: bool, careful: bool = False) -> Written:
    """Return what a receipt says of an answer: with what was asked and answered, or only with digests of that.

    :param careful: whether all of it is gone through; else what has no place in a receipt is an error.
    :raises ValueError: there is a key in it, or what DAG-CBOR has no place for.
    :raises TypeError: there is something of another type than JSON's.
    """
    sheet = _CarefulSheet() if careful else _Sheet()
    said = _facts(completion, sheet, content)
    if content:
        asked, answer = _asked(request, sheet), _answer(completion, sheet)
        texts = sheet.texts
    else:
        salt = said["salt"] = _salts.next()
        (request_bytes, asked_texts), (answer_bytes, answer_texts) = (
            _hidden(_asked, request),
            _hidden(_answer, completion),
        )
        asked, answer = {"digest": digest(salt, request_bytes)}, {"digest": digest(salt, answer_bytes)}
        texts = asked_texts + answer_texts
    _add_how(asked, answer, request, completion, sheet)
    said |= {"request": asked, "answer": answer}
    if cited := _cited(texts):
        said["evidence"] = cited
    said = sheet.whole(said)
    if sheet.altered:
        said["altered"] = sorted(sheet.altered)
    return Written(said, sheet.blocks, bool(sheet.links))


def request_content(request: Request) -> bytes:
    """Return what was asked, as its digest in a receipt without content stands for it."""
    return _hidden(_asked, request)[0]


def answer_content(completion: Completion) -> bytes:
    """Return what was answered, as its digest in a receipt without content stands for it."""
    return _hidden(_answer, completion)[0]


def digest(salt: bytes, content: bytes) -> bytes:
    """Return what stands for something that was asked or answered, in a receipt without content."""
    return sha256(salt + content).digest()


def _hidden(say: Callable[[Any, _Sheet], dict[str, Any]], what: Request | Completion) -> tuple[bytes, list[str]]:
    """Return what is not to be in a receipt as it would be written there, but with all keys; and the texts in it."""
    sheet = _Sheet(inline=True)
    try:
        return encode(say(what, sheet)), sheet.texts
    except (TypeError, ValueError, RecursionError):
        sheet = _CarefulSheet(inline=True, masks=False)
        return encode(say(what, sheet)), sheet.texts


@define
class _Sheet:
    """Collects what does not stand in the receipt itself, and the texts in which a key may be, or something cited."""

    inline: bool = False  #: whether nothing becomes a file: there is to be a digest of it
    blocks: list[tuple[bytes, bytes]] = field(factory=list)
    links: list[bytes] = field(factory=list)
    texts: list[str] = field(factory=list)
    words: list[str] = field(factory=list)  #: short, and searched by themselves: that is faster
    others: list[bytes] = field(factory=list)
    altered: set[str] = field(factory=set)

    def text(self, text: str) -> Any:
        """Return a text as it is written, or the link to it."""
        self.texts.append(text)
        return self.file(text.encode()) if len(text) > LONG and not self.inline else text

    def word(self, text: str) -> str:
        """Return a name as it is written."""
        self.words.append(text)
        return text

    def plain(self, value: Any) -> Any:
        """Return something of JSON's types as it is written."""
        written = encode(value)
        self.others.append(written)
        return Encoded(written)

    def file(self, data: bytes) -> Ref:
        """Return the link to a file with these bytes."""
        keep = (lambda cid, block: None) if self.inline else lambda cid, block: self.blocks.append((cid, block))
        cid = add_file(BytesIO(data).read, UNIXFS_V1_2025, keep).cid
        self.links.append(cid)
        return Ref(cid)

    def whole(self, said: dict[str, Any]) -> dict[str, Any]:
        """Return all that is said as it is written, once there is no key in it."""
        text = "\n".join(self.texts)
        if self.others:
            text += b"\n".join(self.others).decode("utf-8", "replace")
        for searched in (text, "\n".join(self.words)):
            if redact(searched, shortest=_SHORTEST) != searched:
                raise _KeyFoundError
        return said


@define
class _CarefulSheet(_Sheet):
    """Masks every key, and writes in another way what DAG-CBOR has no place for."""

    masks: bool = True

    def text(self, text: str) -> Any:
        return _Sheet.text(self, self._clean(text))

    def word(self, text: str) -> str:
        return self._clean(text)

    def plain(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, str):
            return self._clean(value)
        if value is None or isinstance(value, bool | Ref | bytes):
            return value
        if isinstance(value, int | float) and _fits(value):
            return int(value) if isinstance(value, int) else float(value)
        if depth < _DEEPEST and isinstance(value, Mapping):
            return {self._clean(str(name)): self.plain(one, depth + 1) for name, one in value.items()}
        if depth < _DEEPEST and isinstance(value, Sequence | set | frozenset):
            return [self.plain(one, depth + 1) for one in value]
        self.altered.add("values")
        return str(value) if isinstance(value, int | float) else f"<{type(value).__name__}>"

    def whole(self, said: dict[str, Any]) -> dict[str, Any]:
        return {name: self.plain(value) for name, value in said.items()}

    def _clean(self, text: Any) -> str:
        """Return a text, or what stands in the place of one, as it is written."""
        clean = str(text).encode("utf-8", "backslashreplace").decode()
        if clean != text:
            self.altered.add("values")
        masked = redact(clean, shortest=_SHORTEST) if self.masks else clean
        if masked != clean:
            self.altered.add("keys")
        return masked


def _fits(number: float) -> bool:
    return is_integer(number) if isinstance(number, int) else isfinite(number)


def smaller(written: Written) -> Written:
    """Return the same with request and answer as files: a block has its limits."""
    sheet = _Sheet(blocks=list(written.blocks))
    within = [link for name in _FILES for link in links_in(decode(encode(written.parts[name])))]
    files = {name: sheet.file(encode(written.parts[name])) for name in _FILES}
    parts = written.parts | files | {"links": [Ref(link) for link in within]}  # nobody sees links within a file
    return Written(parts, sheet.blocks, True)


def _add_how(
    asked: dict[str, Any], answer: dict[str, Any], request: Request, completion: Completion, sheet: _Sheet
) -> None:
    """Add what is told without content too."""
    if request.model is not None:
        asked["model"] = sheet.word(request.model)
    values = _options(request)
    if values != _UNSET:
        pairs = zip(_OPTIONS, values, _UNSET, strict=True)
        asked["options"] = sheet.plain({name: value for name, value, unset in pairs if value != unset})
    answer["finish_reason"] = sheet.word(completion.finish_reason)
    if completion.raw_finish_reason is not None:
        answer["raw_finish_reason"] = sheet.word(completion.raw_finish_reason)
    if completion.request_id is not None:
        answer["request_id"] = sheet.word(completion.request_id)


def _asked(request: Request, sheet: _Sheet) -> dict[str, Any]:
    asked: dict[str, Any] = {"messages": [_turn(message, sheet) for message in request.messages]}
    if request.system is not None:
        asked["system"] = sheet.text(request.system)
    if request.stop:
        asked["stop"] = sheet.plain(request.stop)
    if request.tools:
        asked["tools"] = [_tool(tool, sheet) for tool in request.tools]
    for name in _CONTENT:
        if (value := getattr(request, name)) is not None:
            asked[name] = sheet.plain(value)
    if request.extra:
        asked["extra"] = sheet.plain(_without_headers(request.extra, sheet))
    return asked


def _turn(message: Message, sheet: _Sheet) -> dict[str, Any]:
    content = message.content
    if isinstance(content, str):
        said: Any = sheet.text(content)
    else:
        said = [sheet.text(part) if isinstance(part, str) else _image(part, sheet) for part in content]
    turn: dict[str, Any] = {"role": message.role, "content": said}
    if message.tool_calls:
        turn["tool_calls"] = _calls(message.tool_calls, sheet)
    if message.tool_call_id is not None:
        turn["tool_call_id"] = sheet.text(message.tool_call_id)
    if message.is_error:
        turn["is_error"] = True
    return turn


def _image(image: Image, sheet: _Sheet) -> dict[str, Any]:
    """A picture is a file of its own; one that only a URL leads to is that, without what may open a door."""
    if image.data is not None:
        return {"image": sheet.file(image.data), "media_type": image.media_type}
    if (inline := image.inline) is not None:
        try:
            return {"image": sheet.file(b64decode(inline[1])), "media_type": inline[0]}
        except (Base64Error, ValueError):
            return {"image": sheet.text(image.url or "")}
    address, mark, _ = (image.url or "").partition("?")
    return {"image": sheet.text(_LOGIN.sub("//", address) + (f"?{MASK}" if mark else ""))}


def _tool(tool: Tool, sheet: _Sheet) -> dict[str, Any]:
    return {
        "name": sheet.text(tool.name),
        "description": sheet.text(tool.description),
        "parameters": sheet.plain(tool.parameters),
    }


def _calls(calls: Sequence[ToolCall], sheet: _Sheet) -> list[dict[str, Any]]:
    return [
        {"id": sheet.text(call.id), "name": sheet.text(call.name), "arguments": sheet.text(call.arguments)}
        for call in calls
    ]


def _without_headers(value: Any, sheet: _Sheet, depth: int = 0) -> Any:
    """Return fields of a provider's own without those whose names say that they let somebody in."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        kept = {}
        for name, one in value.items():
            hidden = isinstance(name, str) and _HIDDEN.search(name) is not None
            kept[name] = MASK if hidden else _without_headers(one, sheet, depth + 1)
            if hidden:
                sheet.altered.add("keys")
        return kept
    if isinstance(value, list | tuple) and depth < _DEEPEST:
        return [_without_headers(one, sheet, depth + 1) for one in value]
    return value


def _answer(completion: Completion, sheet: _Sheet) -> dict[str, Any]:
    answer: dict[str, Any] = {"text": sheet.text(completion.text)}
    if completion.thinking:
        answer["thinking"] = sheet.text(completion.thinking)
    if completion.tool_calls:
        answer["tool_calls"] = _calls(completion.tool_calls, sheet)
    return answer


def _facts(completion: Completion, sheet: _Sheet, content: bool) -> dict[str, Any]:
    """Return who answered, after which attempts, and what it took. What a provider said may repeat what was asked."""
    facts: dict[str, Any] = {"attempts": [_attempt(one, sheet, content) for one in completion.attempts]}
    if completion.backend is not None:
        facts["backend"] = completion.backend
    if completion.model is not None:
        facts["model"] = sheet.word(completion.model)
    _add_cost(facts, completion, sheet)
    if completion.warnings and content:
        facts["warnings"] = [sheet.text(warning) for warning in completion.warnings]
    return facts


def _attempt(attempt: Attempt, sheet: _Sheet, content: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"backend": attempt.backend, "outcome": attempt.outcome, "seconds": attempt.duration_s}
    if attempt.model is not None:
        made["model"] = sheet.word(attempt.model)
    if attempt.error is not None:
        made["error"] = attempt.error
        if attempt.reason is not None and content:
            made["reason"] = sheet.text(attempt.reason)
    _add_cost(made, attempt, sheet)
    return made


def _add_cost(said: dict[str, Any], of: Completion | Attempt, sheet: _Sheet) -> None:
    """Add what it took, but for what a provider calls a number and is none."""
    if (usage := of.usage) is not None:
        counts: dict[str, Any] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        for name in ("cached_tokens", "reasoning_tokens", "cache_written_tokens"):
            if count := getattr(usage, name):
                counts[name] = count
        if all(count.__class__ is int and count >= 0 and is_integer(count) for count in counts.values()):
            said["usage"] = counts
            _add_price(counts, usage, sheet)
        else:
            sheet.altered.add("values")
    _add_price(said, of, sheet)


def _add_price(said: dict[str, Any], of: Completion | Attempt | Usage, sheet: _Sheet) -> None:
    if (cost := of.cost) is not None:
        if cost.__class__ in (int, float) and _fits(cost):
            said["cost"] = cost
        else:
            sheet.altered.add("values")


def _cited(texts: Sequence[str]) -> list[str]:
    """Return the CIDs that stand in texts, each once, in their order."""
    found: dict[str, None] = {}
    for text in texts:
        if "baf" in text or ("Q" in text and "Qm" in text):  # one letter is found ten times as fast as two
            for match in _CID.finditer(text):
                if len(found) < _CITED and cids.canonical(match[0]) is not None:
                    found[match[0]] = None
    return list(found)
