"""A store on a Kubo node: the node keeps the blocks, and this side makes and verifies them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, Literal

from attrs import Factory, field, frozen, validators
from pointsman import (
    AuthenticationError,
    BackendError,
    ConfigError,
    ContentNotFoundError,
    Health,
    InvalidRequestError,
    Scope,
    Secret,
    UnusableAnswer,
    hookimpl,
)
from pointsman.content import Entry, Finding, Progress, Source, Stored
from pointsman.http import Client
from pointsman.service import HEALTH_S, as_secret, masked

from ..dag import car, reader
from ..dag import cid as cids
from ..dag.block import Verified, counted, verified
from ..dag.source import added, reading
from ..dag.unixfs import PROFILES
from ._address import Address, address_of
from ._mending import Mending, forget, interrupted
from ._reading import Reading
from ._rpc import NO_RPC, Rpc, refusal

_READ = 1 << 20
#: What is said of a damaged block beside all that is pinned.
_UNKEPT = "; no pin keeps it: `ipfs repo gc` removes it, unless it is of a file under `ipfs files ls`"
#: What is said of content that was pinned before a mending.
_UNPINNED = "it is not pinned: it is being mended, or that was interrupted; repair it, or pin it again"


@frozen(kw_only=True)
class Kubo(Reading):
    """Keeps content on a Kubo node, pinned there.

    CIDs are made here, as `profile` says, and do not depend on how the node is configured. Every block that the node
    gives out is verified: a node checks none that it reads from its own disk. What was put survives the end of the
    node's process; whether it survives a loss of power is the node's matter (`sync` in its `Datastore.Spec`).
    """

    #: Where its RPC is: a URL, a multiaddr or a unix socket. Without: IPFS_API, the file `api` of a node that runs
    #: here (in IPFS_PATH, else ~/.ipfs), or http://127.0.0.1:5001.
    url: str | None = None
    #: Sent as `Authorization: Bearer`.
    token: Secret | None = field(default=None, converter=as_secret)
    username: str | None = None
    password: Secret | None = field(default=None, converter=as_secret)
    #: Sent with every request, to a proxy before the node, say.
    headers: Mapping[str, str | Secret] = field(factory=dict, converter=masked)
    #: How content becomes blocks: another profile gives it other CIDs.
    profile: str = field(default="unixfs-v1-2025", validator=validators.in_(tuple(PROFILES)))
    #: Whether the node may look in the network for what it does not have, as long as the call may take.
    search: bool = False
    #: What speaks with the node: Pointsman's own HTTP, or the package `ipfshttpclient` where that has a call for it.
    transport: Literal["http", "ipfshttpclient"] = field(
        default="http", validator=validators.in_(("http", "ipfshttpclient"))
    )
    _address: Address = field(
        init=False, eq=False, repr=False, default=Factory(lambda self: address_of(self.url), takes_self=True)
    )
    _rpc: Rpc = field(
        init=False, eq=False, repr=False, default=Factory(lambda self: self._connected(), takes_self=True)
    )

    @property
    def local(self) -> bool:
        """Whether the node is on this machine."""
        return self._address.is_local

    @hookimpl
    def store(self, source: Source, scope: Scope) -> Stored:
        """Keep a file, a folder or a stream of bytes."""
        with self._rpc.importing(scope, pin=source.pin) as blocks:
            link, kind = added(source, self.profile, blocks.put)
            blocks.finish([link.cid])
        return Stored(cids.to_text(link.cid), link.size, kind)

    @hookimpl
    def has(self, cid: str, scope: Scope) -> bool:
        """Say whether everything under `cid` is on the node: it looks for itself, and sends nothing of it."""
        try:
            self._rpc.check_whole(self._resolved(cid, scope), scope)
        except ContentNotFoundError:
            return False
        return True

    @hookimpl
    def import_car(self, source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
        """Keep what a CAR file holds. What it does not hold of its roots, when they are pinned, must be there."""
        roots, blocks = _opened(source)
        known = self._knows(scope) if pin else lambda _: True
        with self._rpc.importing(scope, pin=pin, roots=set(roots)) as target:
            for cid, data in car.complete(roots, blocks, known):
                if cids.is_ours(cid):
                    target.put(cid, data)
            target.finish(roots)
        return [self._stored(root, scope) for root in roots]

    @hookimpl
    def mend(self, source: BinaryIO, scope: Scope) -> Sequence[Stored]:
        """Replace what is damaged or missing of what a CAR file holds. What was pinned is pinned afterwards."""
        roots, blocks = _opened(source)
        mending = Mending(self._rpc, scope, roots)
        for cid, data in blocks:
            if cids.is_ours(cid):
                mending.put(cid, data)
        mending.finish()
        return [self._stored(root, scope) for root in roots]

    @hookimpl
    def pin(self, cid: str, scope: Scope) -> None:
        """Keep everything under `cid` until it is unpinned; with `search`, the node gets what it lacks."""
        self._rpc.pin(self._resolved(cid, scope), scope, search=self.search)

    @hookimpl
    def unpin(self, cid: str, scope: Scope) -> None:
        """Let the node's own collection take what is under `cid`."""
        root = self._resolved(cid, scope)
        forget(self._rpc, root, scope)
        self._rpc.unpin(root, scope)

    @hookimpl
    def verify(self, cid: str | None, progress: Progress, scope: Scope) -> Iterator[Finding]:
        """Read everything that is pinned and all other blocks, or what is under `cid`, and tell what is wrong."""
        get, seen, unkept = counted(_surely(self._own(scope)), progress), set[bytes](), _UNKEPT
        only = None if cid is None else reader.resolve(get, cid)
        for root in interrupted(self._rpc, get, scope):
            if only in (None, root):
                unkept = ""
                yield Finding(cids.to_text(root), _UNPINNED)
        if only is not None:
            yield from _findings(reader.unsound(get, only))
            return
        for text in self._rpc.pins(scope):
            try:
                root = cids.parse(text)
            except InvalidRequestError as error:  # of another hash function: nobody here can verify it
                unkept = ""
                yield Finding(text, error.message, unchecked=True)
                continue
            for finding in _findings(reader.unsound(get, root, seen)):
                unkept = ""  # what is under that may not have been seen
                yield finding
        digests = {cids.digest_of(known) for known in seen}
        for text in self._rpc.blocks(scope):
            try:
                block = cids.parse(text)
            except InvalidRequestError:
                continue
            if cids.digest_of(block) not in digests:
                yield from _findings((found, problem + unkept) for found, problem in reader.unsound(get, block))

    @hookimpl
    def health(self) -> Health:
        """Say whether it is a Kubo node that answers, whether it lets us in, and whether it has room."""
        scope, where = Scope(HEALTH_S), f"{self._rpc.host} ({self._address.told_by or 'the default'})"
        try:
            self._rpc.version(scope)
            if self._rpc.is_full(scope):
                return Health.degraded(f"{where} is full: raise Datastore.StorageMax, or collect what is not pinned")
        except AuthenticationError as error:
            return Health.unconfigured(error.message, refused=True)
        except UnusableAnswer as error:
            return Health.unconfigured(f"{error.message}; the address is the one of {where}")
        except BackendError as error:
            if not self._address.told_by:
                start = "start a node (ipfs daemon), or set url, IPFS_API or IPFS_PATH"
                return Health.unconfigured(
                    f"no node answers at {self._address.url}, where one would be by default: {start}"
                )
            if error.status in NO_RPC:
                return Health.unconfigured(error.message)
            return Health.unavailable(error.message)
        return Health.ok()

    @hookimpl
    def close(self) -> None:
        """Close idle connections."""
        self._rpc.close()

    def blocks(self, scope: Scope) -> Verified:
        """Return what reads blocks of the node, or, with `search`, of the network through it."""
        return self._getting(scope, self.search)

    def pinned(self, scope: Scope) -> Iterator[Entry]:
        """Give out what is pinned; of a file in one block without its size, which only the block would tell."""
        get = self._own(scope)
        for text in self._rpc.pins(scope):
            yield _pinned(get, text)

    def _own(self, scope: Scope) -> Verified:
        """Return what reads blocks that the node itself has."""
        return self._getting(scope, False)

    def _getting(self, scope: Scope, search: bool) -> Verified:
        rpc = self._rpc
        return Verified(lambda cid: verified(cid, rpc.block(cid, scope, search=search)))

    def _resolved(self, cid: str, scope: Scope) -> bytes:
        return reader.resolve(self._own(scope), cid)

    def _knows(self, scope: Scope) -> Callable[[bytes], bool]:
        def known(cid: bytes) -> bool:
            try:
                self._rpc.check_whole(cid, scope)
            except ContentNotFoundError:
                return False
            return True

        return known

    def _stored(self, root: bytes, scope: Scope) -> Stored:
        """Return what is known of a root; one that is not whole has no size."""
        get = self._own(scope)
        try:
            kind, _ = reader.kind_and_size(get, root)
            return Stored(cids.to_text(root), reader.size_of(get, root), kind)
        except (ContentNotFoundError, UnusableAnswer):
            return Stored(cids.to_text(root), 0, "other")

    def _connected(self) -> Rpc:
        """Return what speaks with the node.

        :raises ConfigError: an option is wrong, or its package is not installed.
        """
        auth, named = self._login(), self._address.told_by or "url"
        base, proxied = f"{self._address.url}/api/v0", not self._address.is_local
        client = Client(base, headers=self.headers, auth=auth, refusal=refusal, named=named, proxied=proxied)
        if self.transport == "http":
            return Rpc(client)
        from ._ipfshttpclient import Library

        name, scheme, key = auth
        login = {name: Secret(scheme + key.reveal())} if key else {}
        return Library(client, self._address, {**self.headers, **login})

    def _login(self) -> tuple[str, str, Secret | None]:
        if self.token and (self.username or self.password):
            raise ConfigError("token: found one beside a username or password; the node takes one of them")
        if self.token:
            return "authorization", "Bearer ", self.token
        if not self.username and not self.password:
            return "authorization", "", None
        if not self.username or not self.password:
            raise ConfigError("username: expected both it and password, or neither")
        both = b64encode(f"{self.username}:{self.password.reveal()}".encode()).decode()
        return "authorization", "Basic ", Secret(both)


def usual_node(timeout: float = 1.0) -> Kubo | None:
    """Return a store on the node of this machine: where `Kubo()` looks, if Kubo answers there and lets us in.

    Where nothing listens, that is known at once.

    :param timeout: seconds that it may take to answer; None is returned after that.
    :raises ConfigError: IPFS_API, or the node's file `api`, holds no address.
    """
    node = Kubo()
    try:
        node._rpc.version(Scope(timeout))
    except BackendError:
        node.close()
        return None
    return node


def _opened(source: BinaryIO) -> tuple[list[bytes], Iterator[tuple[bytes, bytes]]]:
    read = reading(source)
    return car.opened(iter(lambda: read(_READ), b""))


def _surely(get: Verified) -> Verified:
    """Return what reads a block again before it is called damaged: it may have been cut, or altered, on its way."""

    def read(cid: bytes) -> bytes:
        try:
            return get(cid)
        except UnusableAnswer:
            return get(cid)

    return Verified(read)


def _findings(found: Iterator[tuple[bytes, str]]) -> Iterator[Finding]:
    """Tell of blocks. Those of another hash function nobody here can verify."""
    return (Finding(cids.to_text(cid), problem, unchecked=not cids.is_ours(cid)) for cid, problem in found)


def _pinned(get: Verified, text: str) -> Entry:
    try:
        root = cids.parse(text)
        if cids.codec_of(root) == cids.RAW:
            return Entry("", text, None, "file")
        kind, size = reader.kind_and_size(get, root)
    except (ContentNotFoundError, InvalidRequestError, UnusableAnswer):  # it is pinned all the same
        return Entry("", text)
    return Entry("", text, size, kind)
