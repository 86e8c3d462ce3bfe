"""The same calls through the package `ipfshttpclient`, where it has them; the others go over Pointsman's own HTTP.

It has version, block/get, block/put and the pins. A CAR it cannot send with all roots, that a body was cut it does not
hear, and nothing ends a call of it. So blocks go one by one, all are verified, and a call runs in a thread that is left
behind when its time is up.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pointsman import BackendError, BackendTimeout, ConfigError, Scope, Secret, UnavailableError, UnusableAnswer
from pointsman.http import Client

from ..dag import cid as cids
from ._address import Address
from ._import import check
from ._rpc import Rpc, flag, refusal

T = TypeVar("T")
_CODECS = {cids.RAW: "raw", cids.DAG_PB: "dag-pb", cids.DAG_CBOR: "dag-cbor"}
_LONGEST_S = 1e6  # sockets know no infinity
_NO_ANSWER = re.compile("Decod|Assertion|KeyError|TypeError|IncompleteRead|ChunkedEncoding")


class Library(Rpc):
    """Calls of one node through the package. Thread-safe.

    :param headers: sent with every request.
    :raises ConfigError: the package is not installed.
    """

    def __init__(self, client: Client, address: Address, headers: Mapping[str, str | Secret]) -> None:
        super().__init__(client)
        try:
            import ipfshttpclient
        except ImportError as error:
            what = f"found 'ipfshttpclient', which is not installed ({error})"
            raise ConfigError(f'transport: {what}: pip install "pointsman-ipfs[ipfshttpclient]"') from error
        self._package, self._address, self._headers = ipfshttpclient, address, headers

    def begin(self) -> None:
        super().begin()
        self._lock, self._opened = threading.Lock(), list[Any]()  #: the package's client of this process, once made

    def close(self) -> None:
        """Close idle connections."""
        super().close()
        with self._lock:
            opened, self._opened = self._opened, []
        for library in opened:
            library.close()

    def version(self, scope: Scope) -> str:
        """Return the node's version."""
        return str(self._ask(scope, lambda library, s: library.version(timeout=s)["Version"]))

    def block(self, cid: bytes, scope: Scope, *, search: bool = False) -> bytes:
        """Return the bytes of a block, unverified."""
        text, options = cids.to_text(cid), {"offline": flag(not search)}
        return bytes(self._ask(scope, lambda library, s: library.block.get(text, opts=options, timeout=s)))

    def pins(self, scope: Scope, name: str = "") -> Iterator[str]:
        """Give out the text of each CID that is pinned with all that is under it; with `name`, under this one."""
        if name:
            return super().pins(scope, name)
        return self._ask(scope, lambda library, s: iter(library.pin.ls(type="recursive", timeout=s)["Keys"]))

    def importing(self, scope: Scope, *, pin: bool, roots: Collection[bytes] = ()) -> OneByOne:
        """Begin to put blocks, whose roots are told at the end."""
        return OneByOne(self, scope, pin)

    def put(self, cid: bytes, data: bytes, scope: Scope) -> None:
        """Put one block, which no pin keeps yet."""
        options = {"cid-codec": _CODECS[cids.codec_of(cid)], "mhtype": "sha2-256", "pin": "false"}

        def ask(library: Any, timeout: float) -> str:
            return str(library.block.put(io.BytesIO(data), opts=options, timeout=timeout)["Key"])

        found = self._ask(scope, ask)
        if (taken := cids.canonical(found)) is None or cids.digest_of(taken) != cids.digest_of(cid):
            raise UnusableAnswer(f"{self.host}: sent block {cids.to_text(cid)}, found {found:.160} taken")

    def _pin_of(self, cid: bytes, scope: Scope) -> Mapping[str, Any]:
        text = cids.to_text(cid)
        found: Mapping[str, Any] = self._ask(
            scope, lambda library, s: library.pin.ls(text, type="recursive", timeout=s).as_json()["Keys"]
        )
        return found

    def _pin(self, cid: bytes, scope: Scope, options: Mapping[str, str]) -> list[Any]:
        text = cids.to_text(cid)
        return list(self._ask(scope, lambda library, s: library.pin.add(text, opts=options, timeout=s)["Pins"]))

    def _unpin(self, cid: bytes, scope: Scope) -> None:
        self._ask(scope, lambda library, s: library.pin.rm(cids.to_text(cid), timeout=s)["Pins"])

    def _ask(self, scope: Scope, call: Callable[[Any, float], T]) -> T:
        """Return what a call returns, or leave it behind.

        :raises BackendError: it failed, took too long, or nobody waits any more.
        """
        check(scope)
        found = self._outcome(scope, call)
        if isinstance(found, BackendError):  # raised here: what the package raises leads to the key, and to its sockets
            raise found
        return found

    def _outcome(self, scope: Scope, call: Callable[[Any, float], T]) -> T | BackendError:
        answer: Future[T] = Future()
        left = min(scope.remaining(), _LONGEST_S)
        silence = min(left, _LONGEST_S if scope.idle_timeout is None else scope.idle_timeout)

        def run() -> None:
            with suppress(InvalidStateError):  # nobody waits any more
                try:
                    answer.set_result(call(self._library(), silence))
                except BaseException as error:
                    answer.set_exception(error)

        def leave() -> None:
            answer.cancel()

        threading.Thread(target=run, name="pointsman-ipfshttpclient", daemon=True).start()
        forget = scope.on_cancel(leave)
        try:
            return answer.result(left)
        except Exception as error:
            return self._meaning(error, answer, scope)
        finally:
            forget()
            leave()

    def _library(self) -> Any:
        """Return the package's client of this process."""
        with self._lock:
            if not self._opened:
                self._opened.append(self._connected())
            return self._opened[0]

    def _connected(self) -> Any:
        headers = {
            name: value.reveal() if isinstance(value, Secret) else value for name, value in self._headers.items()
        }
        where, base = _multiaddr(self._address)
        # Not `connect`: that asks the node's version, and warns of all that came after the package. And a function as
        # `auth`, or it would look for a password in .netrc.
        library = self._package.Client(where, base, session=True, headers=headers, auth=lambda request: request)
        session = library._client._session  # which has no other name; this very version is required
        session.trust_env, session.max_redirects = not self._address.is_local, 0
        for adapter in session.adapters.values():
            adapter.poolmanager.connection_pool_kw.pop("strict", None)  # urllib3 warns of it, and will fail
        return library if library.block and library.pin else None  # both are made at first use, by one thread

    def _meaning(self, error: Exception, answer: Future[Any], scope: Scope) -> BackendError:
        if scope.cancelled:
            return UnavailableError("the call was cancelled", retry_same=False, try_next=False)
        kind = f"{type(error).__name__} {error!r:.300}"
        if not answer.done() or isinstance(error, TimeoutError) or "Timeout" in kind:
            return BackendTimeout(f"{self.host} did not answer in time")
        response = getattr(getattr(error, "original", error), "response", None)
        if response is not None:
            told = str(error) if isinstance(error, self._package.exceptions.ErrorResponse) else ""
            return refusal(response.status_code, response.headers, told.encode(), where=self.host)
        if _NO_ANSWER.search(kind):
            return UnusableAnswer(f"{self.host} sent an answer that is cut or none: is it Kubo's RPC?")
        return UnavailableError(
            f"{self.host}: no connection, or it broke: check url ({type(error).__name__})", retry_same=False
        )


class OneByOne:
    """Puts blocks one by one, and pins their roots at the end. What is left before its end pins nothing."""

    def __init__(self, library: Library, scope: Scope, pin: bool) -> None:
        self._library, self._scope, self._pin = library, scope, pin

    def put(self, cid: bytes, data: bytes) -> None:
        """Take a block. Raises as `Import.put` does."""
        self._library.put(cid, data, self._scope)

    def finish(self, roots: Sequence[bytes]) -> None:
        """Return when the node has everything. Raises as `Import.finish` does."""
        for root in roots if self._pin else ():
            self._library.pin(root, self._scope)

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing waits."""


def _multiaddr(address: Address) -> tuple[str, str]:
    """Return the address, and the path of the RPC there, as the package takes them."""
    if address.socket:
        return f"/unix{os.path.abspath(address.socket)}", "api/v0"
    parts = urlsplit(address.url)
    host = parts.hostname or ""
    kind = "ip6" if ":" in host else "ip4" if re.fullmatch(r"[\d.]+", host) else "dns"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"/{kind}/{host}/tcp/{port}/{parts.scheme}", f"{parts.path.strip('/')}/api/v0".lstrip("/")
