"""A store that only reads: a trustless gateway. It is not trusted: every block is verified here.

Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import ClassVar

from attrs import Factory, field, frozen
from pointsman import (
    AuthenticationError,
    BackendError,
    BackendTimeout,
    ConfigError,
    ContentNotFoundError,
    Health,
    RateLimitError,
    Scope,
    Secret,
    UnavailableError,
    UnusableAnswer,
    hookimpl,
)
from pointsman.http import Client, classify
from pointsman.service import HEALTH_S, as_secret, is_loopback, masked, shown_url

from ..dag import car, reader
from ..dag import cid as cids
from ..dag.block import Verified, verified
from ..dag.dagpb import MOST_BYTES
from ._address import host_of, text_of
from ._ahead import Ahead
from ._reading import Reading

_RAW, _CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car"
_AS_CAR = {"accept": f"{_CAR}; version=1; order=dfs; dups=n"}
_AS_BLOCK = {"accept": _RAW}
#: Names an empty block in itself: the specification wants every gateway to have it.
_EMPTY = "bafkqaaa"
#: Requests at once, of those that ask only whether something is there.
_AT_ONCE = 8
_MEANS: Mapping[int, type[BackendError]] = {
    401: AuthenticationError,
    403: UnusableAnswer,  # of the key, or of this content alone, where it gives out what its owner has pinned
    404: ContentNotFoundError,
    410: ContentNotFoundError,
    429: RateLimitError,
    451: ContentNotFoundError,
    504: BackendTimeout,  # it looked in the network, and nobody had it in time
}
#: Answers that say: not in this form.
_NOT_SO = (400, 406, 415, 501)


def refusal(status: int, headers: Mapping[str, str], body: bytes, *, where: str) -> BackendError:
    """Return what an answer with another status than 200 means, or an error that is told after a body."""
    text = body[:2048].decode("utf-8", "replace").strip()
    text = "an HTML page" if text.startswith("<") else text or "without an explanation"
    after = classify(status, headers, b"").retry_after
    told = f"HTTP {status} from {where}: {text:.500}"
    again = False if status in (*_NOT_SO, 403) else None
    return _MEANS.get(status, UnavailableError)(told, status=status, retry_after=after, retry_same=again)


def _checked(url: str) -> str:
    bare = text_of(url).strip()
    if not bare.lower().startswith(("http://", "https://")) or not host_of(bare):
        raise ConfigError(f"url: found {shown_url(url)}, expected the http(s)://HOST of a gateway")
    address, mark, query = bare.partition("?")
    return address.rstrip("/").removesuffix("/ipfs") + mark + query


@frozen(kw_only=True)
class Gateway(Reading):
    """Reads content through a trustless gateway, from the gateway's own blocks or from wherever it finds them."""

    #: Its address, without `/ipfs/`. It must answer under that path: one that redirects to `CID.ipfs.HOST` will not do.
    #: A query in it, which may be a key, is sent with every request.
    url: str = field(converter=_checked, repr=shown_url)
    #: Sent as `Authorization: Bearer`.
    token: Secret | None = field(default=None, converter=as_secret)
    #: Sent with every request.
    headers: Mapping[str, str | Secret] = field(factory=dict, converter=masked)
    _client: Client = field(
        init=False, eq=False, repr=False, default=Factory(lambda self: self._connected(), takes_self=True)
    )
    _has_no_car: list[bool] = field(init=False, eq=False, repr=False, factory=list)

    read_only: ClassVar[str] = "a gateway only gives out; name another store to keep things in"

    @property
    def local(self) -> bool:
        """Whether the gateway is on this machine."""
        return is_loopback(host_of(self.url))

    @hookimpl
    def has(self, cid: str, scope: Scope) -> bool:
        """Say whether the gateway has, or finds, everything under `cid`; of blocks without links, it sends none."""
        get = self.blocks(scope)

        def is_there(block: bytes) -> bool:
            if cids.codec_of(block) == cids.RAW:
                self._client.open("HEAD", _path(block, "raw"), scope, headers=_AS_BLOCK).close()
            return True

        try:
            found = reader.reachable(get, reader.resolve(get, cid))
            with ThreadPoolExecutor(_AT_ONCE, "pointsman-gateway") as pool, _let_go(scope):
                while some := list(islice(found, 8 * _AT_ONCE)):
                    list(pool.map(is_there, some))
        except ContentNotFoundError:
            return False
        return True

    @hookimpl
    def health(self) -> Health:
        """Say whether it is a trustless gateway that answers: by a block that each of them has."""
        try:
            body = self._client.open("GET", f"ipfs/{_EMPTY}?format=raw", Scope(HEALTH_S), headers=_AS_BLOCK)
            with body:
                kind, data = _kind(body.headers), body.read_all(MOST_BYTES)
        except BackendError as error:
            if error.status in (401, 403):
                return Health.unconfigured(f"{error.message} (check token)", refused=True)
            known = error.status is not None and 300 <= error.status < 500 and error.status != 429
            return Health.unconfigured(error.message) if known else Health.unavailable(error.message)
        if kind != _RAW or data:
            what = f"found {kind!r:.60} where the empty block was asked for"
            return Health.unconfigured(f"{self._client.host}: {what}: it is no trustless gateway; check url")
        return Health.ok()

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def blocks(self, scope: Scope) -> Verified:
        """Return what reads blocks, a request for each."""
        return Verified(lambda cid: self._block(cid, scope))

    def all_under(self, root: bytes, scope: Scope) -> Verified:
        """Return what reads everything under a root: off one CAR, if the gateway has it."""
        get = self.blocks(scope)
        if cids.codec_of(root) == cids.RAW or cids.inline_of(root) is not None or self._has_no_car:
            return get
        return Verified(Ahead(self._streamed(root, scope), get))

    def _block(self, cid: bytes, scope: Scope) -> bytes:
        with self._client.open("GET", _path(cid, "raw"), scope, headers=_AS_BLOCK) as body:
            kind, data = _kind(body.headers), body.read_all(MOST_BYTES)
        if kind != _RAW and not cids.matches(cid, data):
            what = f"found {kind!r:.60} where a block was asked for"
            raise UnusableAnswer(f"{self._client.host}: {what}: it is no trustless gateway; check url")
        return verified(cid, data)

    def _streamed(self, root: bytes, scope: Scope) -> Iterator[tuple[bytes, bytes]]:
        """Give out the blocks of the CAR, as they come. It may lack some, and have others."""
        try:
            body = self._client.open("GET", _path(root, "car"), scope, headers=_AS_CAR)
        except BackendError as error:
            if error.status in _NOT_SO:
                self._has_no_car.append(True)
            raise
        with body:
            if _kind(body.headers) != _CAR:
                self._has_no_car.append(True)
                return
            yield from car.Reader(body)

    def _connected(self) -> Client:
        auth = ("Authorization", "Bearer ", self.token)
        proxied = not self.local
        return Client(self.url, headers=self.headers, auth=auth, refusal=refusal, named="url", proxied=proxied)


@contextmanager
def _let_go(scope: Scope) -> Iterator[None]:
    """Cancel a call at an interrupt, whose threads would be waited for else."""
    try:
        yield
    except KeyboardInterrupt:
        scope.cancel()
        raise


def _path(cid: bytes, form: str) -> str:
    return f"ipfs/{cids.to_text(cid)}?format={form}"


def _kind(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
