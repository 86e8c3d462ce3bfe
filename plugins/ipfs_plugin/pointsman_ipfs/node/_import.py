"""Blocks on their way into a node: as CARs in one request of `dag/import`.

The root of a stream is known when its last block is made, and a CAR begins with its roots. So the blocks go in a CAR
that has none, and after it, in the same request, comes one with what is to be pinned and nothing else, which are blocks
that stand in for the roots. Kubo pins them when it has all blocks, and keeps its collector away until then.

Source: https://docs.ipfs.tech/reference/kubo/rpc/#api-v0-dag-import, and Kubo 0.42's core/commands/dag/import.go
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from secrets import token_hex
from typing import Any, Protocol, TypeAlias

from pointsman import BackendTimeout, Scope, UnavailableError, UnusableAnswer
from pointsman.http import Client, Upload, promised_form

from ..dag import car
from ..dag import cid as cids

#: Bytes up to which blocks wait in memory, so that their roots are known before they go.
_AT_ONCE = 4 << 20
_LONGEST_LINE = 1 << 20
#: Bytes a second that a node reads at least, when it looks at everything that it is to pin, in silence.
_PINNED_PER_S = 10e6
#: The header of a CAR without roots. The specification wants one at least; Kubo takes it.
_NO_ROOTS = b"\x11\xa2eroots\x80gversion\x01"


#: A CID, and the bytes of its block.
Block: TypeAlias = tuple[bytes, bytes]
Pinning: TypeAlias = Callable[
    [Sequence[bytes], Scope, Callable[[bytes], bytes | None]], AbstractContextManager[Sequence[Block]]
]


class Importing(Protocol):
    """Puts blocks, and their roots at the end."""

    def put(self, cid: bytes, data: bytes) -> None:
        """Take a block."""

    def finish(self, roots: Sequence[bytes]) -> None:
        """Return when the node has everything, and has pinned the roots if it was told to."""

    def __enter__(self) -> Importing: ...

    def __exit__(self, *_: object) -> None: ...


class Import:
    """Puts blocks, and their roots at the end. Used in a `with` statement; what is left before its end pins nothing.

    :param pinning: gives what is to be pinned in place of some roots, whose blocks it may ask for; None: nothing is.
    :param roots: those that are known already; else it is the last block.
    """

    def __init__(self, client: Client, scope: Scope, pinning: Pinning | None, roots: Collection[bytes]) -> None:
        self._client, self._scope, self._pinning, self._roots = client, scope, pinning, roots
        self._path = f"dag/import?stats=true&pin-roots={'true' if pinning else 'false'}"
        self._known, self._last = dict[bytes, bytes](), (b"", b"")
        self._boundary = token_hex(16)
        self._waiting, self._size, self._count = list[bytes](), 0, 0
        self._upload: Upload | None = None

    def put(self, cid: bytes, data: bytes) -> None:
        """Take a block.

        :raises BackendError: the node does not take it, or nobody waits any more.
        """
        record = car.record(cid, data)
        self._count += 1
        self._size += len(record)
        self._last = cid, data
        if cid in self._roots:
            self._known[cid] = data
        if self._upload is not None:
            self._upload.send(record)
            return
        check(self._scope)
        self._waiting.append(record)
        if self._size > _AT_ONCE:
            self._upload = self._client.upload(self._path, self._scope, self._headers)
            self._upload.send(b"".join((self._part(), _NO_ROOTS, *self._waiting)))
            self._waiting.clear()

    def finish(self, roots: Sequence[bytes]) -> None:
        """Return when the node has everything, and has pinned the roots if it was told to.

        :raises BackendError: it has not.
        """
        if self._pinning is None:
            self._finish(())
            return
        known = dict((self._last, *self._known.items()))
        with self._pinning(roots, self._scope, known.get) as blocks:
            self._finish(blocks)

    def _finish(self, pinned: Sequence[Block]) -> None:
        for block in pinned:
            self.put(*block)
        roots = [cid for cid, _ in pinned]
        header = car.header(roots) if roots else _NO_ROOTS
        if self._upload is None:
            body = b"".join((self._part(), header, *self._waiting, self._end()))
            answer = self._client.open("POST", self._path, self._scope, body, self._headers)
        else:
            self._upload.send(b"\r\n" + self._part() + header + self._end())
            silence = self._scope.idle_timeout
            answer = self._upload.answer(None if silence is None else silence + self._size / _PINNED_PER_S)
        with answer, promised_form():
            self._check(json_lines(answer, self._client.host), roots)

    def __enter__(self) -> Import:
        return self

    def __exit__(self, *_: object) -> None:
        if self._upload is not None:
            self._upload.close()

    @property
    def _headers(self) -> dict[str, str]:
        return {"content-type": f"multipart/form-data; boundary={self._boundary}"}

    def _part(self) -> bytes:
        head = 'Content-Disposition: form-data; name="file"; filename="car"\r\nContent-Type: application/vnd.ipld.car'
        return f"--{self._boundary}\r\n{head}\r\n\r\n".encode()

    def _end(self) -> bytes:
        return f"\r\n--{self._boundary}--\r\n".encode()

    def _check(self, told: Iterable[Mapping[str, Any]], roots: Sequence[bytes]) -> None:
        host, pinned, count = self._client.host, set[str](), None
        for line in islice(told, len(roots) + 2):  # there may be lines without end
            if "Root" in line:
                if why := line["Root"]["PinErrorMsg"]:
                    raise UnavailableError(f"{host}: what was put was not pinned: {why}")
                pinned.add(line["Root"]["Cid"]["/"])
            if "Stats" in line:
                count = line["Stats"]["BlockCount"]
        if count != self._count:
            raise UnusableAnswer(f"{host}: sent {self._count} blocks, found {count} taken")
        if wrong := pinned ^ {cids.to_text(root) for root in roots}:
            raise UnusableAnswer(f"{host}: found these pinned, or not pinned, against what was asked: {wrong!r:.300}")


def check(scope: Scope) -> None:
    """Return if somebody still waits.

    :raises BackendError: nobody does, or the time is up.
    """
    if scope.cancelled:
        raise UnavailableError("the call was cancelled", retry_same=False, try_next=False)
    if scope.remaining() <= 0:
        raise BackendTimeout("the time was up; give a longer timeout")


def json_lines(pieces: Iterable[bytes], host: str) -> Iterator[Mapping[str, Any]]:
    """Give out the JSON objects of an answer, one a line.

    :raises UnusableAnswer: it has something else.
    """
    rest = b""
    for piece in chain(pieces, (b"\n",)):
        *lines, rest = (rest + piece).split(b"\n")
        for line in filter(bytes.strip, lines):
            yield _object(line, host)
        if len(rest) > _LONGEST_LINE:
            yield _object(rest, host)


def _object(line: bytes, host: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line) if len(line) <= _LONGEST_LINE else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    found = "an HTML page" if line.lstrip().startswith(b"<") else repr(line[:100])
    raise UnusableAnswer(f"{host}: found {found}, expected an object of JSON: is it Kubo's RPC?")
