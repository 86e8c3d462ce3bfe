"""The calls of a node that a store needs, over HTTP, and what its refusals mean.

A call is `POST /api/v0/NAME?arg=...`; its answer is JSON, or lines of it, or bytes. A failure before the first byte
is status 500 with `{"Message": ...}`, one after it the trailer `X-Stream-Error`.

Source: https://docs.ipfs.tech/reference/kubo/rpc/, and Kubo 0.42's core/commands and go-ipfs-cmds/http
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeAlias
from urllib.parse import urlencode

from pointsman import (
    AuthenticationError,
    BackendError,
    BackendTimeout,
    ContentNotFoundError,
    RateLimitError,
    Scope,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.forks import Shared
from pointsman.http import Body, Client, classify, promised_form

from ..dag import cid as cids
from ..dag.block import links_of, verified
from ..dag.cbor import Ref, encode
from ..dag.dagpb import MOST_BYTES
from ._import import Block, Import, Importing, check, json_lines

#: What Kubo's sentences mean; the first that fits counts.
_SIGNS: Mapping[str, type[BackendError]] = {
    "not found locally|could not find|block not found|merkledag: not found": ContentNotFoundError,
    "context deadline exceeded": BackendTimeout,
    "mismatch in content integrity|unexpected EOF|protobuf: ": UnusableAnswer,
    "": UnavailableError,
}
#: What another server answers, or one that wants to be asked elsewhere.
NO_RPC = {*range(300, 400), 400, 404, 405, 406, 410, 411, 413, 501}
_NOT_PINNED = "not pinned"
_Option: TypeAlias = str | list[str]


def refusal(status: int, headers: Mapping[str, str], body: bytes, *, where: str) -> BackendError:
    """Return what an answer with another status than 200 means, or, with 200, an error after its first byte."""
    text = _text(body)
    told = f"HTTP {status} from {where}: {text}" if status != 200 else f"{where}: {text}"
    if status in (401, 403):
        advice = "check token, or username and password, and AllowedPaths of the node's API.Authorizations"
        return AuthenticationError(f"{told} ({advice})", status=status)
    if status == 429:
        after = classify(status, headers, b"").retry_after
        return RateLimitError(told, status=status, retry_after=after)
    if status in NO_RPC:
        advice = "no RPC of Kubo is there, or one too old; check url"
        return UnavailableError(f"{told} ({advice})", status=status, retry_same=False)
    kind = next(kind for sign, kind in _SIGNS.items() if re.search(sign, text))
    return kind(told, status=status)


def _text(body: bytes) -> str:
    try:
        text = str(json.loads(body)["Message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        text = body[:2048].decode("utf-8", "replace").strip()
        text = "an HTML page" if text.startswith("<") else text
    return f"{text or 'without an explanation':.500}"


class Rpc(Shared):
    """Calls of one node. Thread-safe. What goes wrong is raised as the `BackendError` that says what follows."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.host = client.host
        self.begin()
        super().__init__()

    def begin(self) -> None:
        self._free, self._busy = threading.Condition(), set[bytes]()  #: roots that threads of this process pin

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def version(self, scope: Scope) -> str:
        """Return the node's version.

        :raises UnusableAnswer: what answers is no node.
        """
        return str(self._field(self._one("version", scope), "Version"))

    def is_full(self, scope: Scope) -> bool:
        """Whether it keeps as much as it was told to keep at most."""
        stat = self._one("repo/stat", scope, **{"size-only": "true"})
        with promised_form():
            return bool(self._field(stat, "RepoSize") >= self._field(stat, "StorageMax"))

    def block(self, cid: bytes, scope: Scope, *, search: bool = False) -> bytes:
        """Return the bytes of a block, unverified."""
        with self._open("block/get", scope, cid, offline=flag(not search)) as body:
            data = body.read_all(MOST_BYTES)
            if "x-stream-output" not in body.headers and not cids.matches(cid, data):  # which Kubo's bytes have
                what = f"{len(data)} bytes that are no block"
                raise UnusableAnswer(f"{self.host}: found {what} {cids.to_text(cid)}: is it Kubo's RPC?")
            return data

    def check_whole(self, cid: bytes, scope: Scope) -> None:
        """Return if everything under a CID is there: the node looks, and sends nothing of it.

        :raises ContentNotFoundError: something is not.
        """
        found = self._last("dag/stat", scope, cid, progress="true", offline="true")
        self._field(found, "UniqueBlocks")

    def pin(self, cid: bytes, scope: Scope, *, search: bool = False, name: str = "") -> None:
        """Pin all that is under a CID, unless that is done."""

        def block(root: bytes) -> bytes:
            return verified(root, self.block(root, scope, search=search))

        options = {"offline": flag(not search), **({"name": name} if name else {})}
        with self.pinning((cid,), scope, block) as blocks:
            for stand_in, data in blocks:
                self.put(stand_in, data, scope)
                pinned = self._pin(stand_in, scope, options)
                if pinned != [cids.to_text(stand_in)]:
                    raise UnusableAnswer(f"{self.host}: asked to pin {cids.to_text(cid)}, found {pinned!r:.200} pinned")

    @contextmanager
    def pinning(
        self, roots: Sequence[bytes], scope: Scope, known: Callable[[bytes], bytes | None]
    ) -> Iterator[Sequence[Block]]:
        """Give a block for each root that is not pinned yet: that must be pinned, and its pin becomes that of the root.

        What is pinned must not be pinned again: Kubo (0.42, boxo's pinning/pinner/dspinner/pin.go) takes the pin away,
        looks at everything under it, and pins it then. If that fails, or the caller has gone, it stays unpinned, though
        it was another one who had pinned it. To move a pin (`pin/update`) takes none away but that which is moved.

        :param known: returns the bytes of a root, or None. Without, the node looks at everything twice.
        """
        mine, blocks = set(roots), dict[bytes, Block]()
        with self._free:
            while mine & self._busy:
                check(scope)
                self._free.wait(0.1)
            self._busy |= mine
        try:
            blocks |= {root: _stand_in(root, known(root)) for root in roots if not self.is_pinned(root, scope)}
            yield list(blocks.values())
            for root, (stand_in, _) in blocks.items():
                self._move_pin(stand_in, root, scope)
        except (ContentNotFoundError, UnavailableError, UnusableAnswer):
            self._remove_damaged(blocks.values(), scope)
            raise
        finally:
            with self._free:
                self._busy -= mine
                self._free.notify_all()

    def is_pinned(self, cid: bytes, scope: Scope) -> bool:
        """Whether a CID is pinned with all that is under it, and not only by what is above it."""
        try:
            with promised_form():
                return cids.to_text(cid) in self._pin_of(cid, scope)
        except UnavailableError as error:
            if _NOT_PINNED in error.message:
                return False
            raise

    def unpin(self, cid: bytes, scope: Scope) -> None:
        """Take a pin back, if there is one, and that of who was interrupted while it pinned the same."""
        with suppress(ContentNotFoundError, UnusableAnswer):
            self._take_back(_stand_in(cid, verified(cid, self.block(cid, scope)))[0], scope)
        self._take_back(cid, scope)

    def _remove_damaged(self, blocks: Iterable[Block], scope: Scope) -> None:
        """Let blocks that stand in for roots be written anew if they are damaged: no store could bring them back."""
        with suppress(BackendError):  # the node has gone
            for cid, data in blocks:
                with suppress(ContentNotFoundError):
                    if self.block(cid, scope) != data:
                        self.remove(cid, scope)

    def _take_back(self, cid: bytes, scope: Scope) -> None:
        try:
            self._unpin(cid, scope)
        except UnavailableError as error:
            if _NOT_PINNED not in error.message:
                raise

    def pins(self, scope: Scope, name: str = "") -> Iterator[str]:
        """Give out the text of each CID that is pinned with all that is under it; with `name`, under this one."""
        named = {"names": "true", "name": name} if name else {}
        for line in self._lines("pin/ls", scope, type="recursive", stream="true", **named):
            if not name or line.get("Name") == name:
                yield str(self._field(line, "Cid"))

    def name_of_pin(self, cid: bytes, scope: Scope) -> str:
        """Return the name under which a CID is pinned, or ""."""
        found = self._one("pin/ls", scope, cid, type="recursive", names="true", offline="true")
        with promised_form():
            return str(self._field(found, "Keys")[cids.to_text(cid)]["Name"])

    def blocks(self, scope: Scope) -> Iterator[str]:
        """Give out the text of a CID for each block that is there: of codec raw, whatever it is linked by."""
        for line in self._lines("refs/local", scope):
            if line.get("Err"):
                raise refusal(200, {}, str(line["Err"]).encode(), where=self.host)
            yield str(self._field(line, "Ref"))

    def remove(self, cid: bytes, scope: Scope) -> str:
        """Remove a block, if there is one; return why the node does not do it, or ""."""
        return str(self._one("block/rm", scope, cid, force="true").get("Error") or "")

    def importing(self, scope: Scope, *, pin: bool, roots: Collection[bytes] = ()) -> Importing:
        """Begin to put blocks, whose roots are told at the end; those that are known already help to pin them."""
        return Import(self._client, scope, self.pinning if pin else None, roots)

    def put(self, cid: bytes, data: bytes, scope: Scope) -> None:
        """Put one block, which no pin keeps yet."""
        with self.importing(scope, pin=False) as blocks:
            blocks.put(cid, data)
            blocks.finish(())

    def _pin_of(self, cid: bytes, scope: Scope) -> Mapping[str, Any]:
        keys: Mapping[str, Any] = self._field(self._one("pin/ls", scope, cid, type="recursive", offline="true"), "Keys")
        return keys

    def _pin(self, cid: bytes, scope: Scope, options: Mapping[str, str]) -> Any:
        told = self._last("pin/add", scope, cid, recursive="true", progress="true", **options)
        return self._field(told, "Pins")

    def _move_pin(self, of: bytes, to: bytes, scope: Scope) -> None:
        try:
            arg = [cids.to_text(of), cids.to_text(to)]
            self._field(self._one("pin/update", scope, arg=arg, unpin="true", offline="true"), "Pins")
        except UnavailableError:
            if not self.is_pinned(to, scope):
                raise
            self._take_back(of, scope)  # another one has done it

    def _unpin(self, cid: bytes, scope: Scope) -> None:
        self._field(self._one("pin/rm", scope, cid, recursive="true", offline="true"), "Pins")

    def _open(self, name: str, scope: Scope, cid: bytes | None = None, /, **options: _Option) -> Body:
        arguments = options if cid is None else {"arg": cids.to_text(cid), **options}
        return self._client.open("POST", f"{name}?{urlencode(arguments, True)}" if arguments else name, scope)

    def _one(self, name: str, scope: Scope, cid: bytes | None = None, /, **options: _Option) -> Mapping[str, Any]:
        found = list(islice(self._lines(name, scope, cid, **options), 2))  # there may be lines without end
        if len(found) != 1:
            what = "more than one value" if found else "nothing"
            raise UnusableAnswer(f"{self.host}: {name} answered {what}, expected one value: is it Kubo's RPC?")
        return found[0]

    def _last(self, name: str, scope: Scope, cid: bytes, /, **options: str) -> Mapping[str, Any]:
        """Return the last line of an answer; those before it show that the node works, so that nobody gives it up."""
        last: Mapping[str, Any] = {}
        for line in self._lines(name, scope, cid, **options):
            last = line
        return last

    def _lines(
        self, name: str, scope: Scope, cid: bytes | None = None, /, **options: _Option
    ) -> Iterator[Mapping[str, Any]]:
        with self._open(name, scope, cid, **options) as body:
            line = None
            for line in json_lines(body, self.host):
                yield line
            if line is None and "x-chunked-output" not in body.headers:  # which every list of Kubo's has
                raise UnusableAnswer(f"{self.host}: found an empty answer to {name}: is it Kubo's RPC?")

    def _field(self, answer: Mapping[str, Any], name: str) -> Any:
        if answer.get(name) is None:
            raise UnusableAnswer(f"{self.host}: found an answer without {name!r}: {answer!r:.200}: is it Kubo's RPC?")
        return answer[name]


def _stand_in(root: bytes, data: bytes | None) -> Block:
    """Return a block that links to a root, and to what the root links to, so that all of that need not be read again.

    It is the same for everyone: whoever comes after one that was interrupted finds its pin, and moves that.
    """
    links = [] if data is None else links_of(root, data)
    block = encode({"pointsman": "to be pinned", "links": [Ref(one) for one in dict.fromkeys((root, *links))]})
    return cids.cbor_cid(block), block


def flag(value: bool) -> str:
    """Return how an option is written that is true or false."""
    return "true" if value else "false"
