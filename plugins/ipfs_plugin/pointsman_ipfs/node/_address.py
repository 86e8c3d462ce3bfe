"""Where a node's RPC is: a URL, a multiaddr or a unix socket, as a person, a variable or the node itself says it.

Source: https://github.com/multiformats/multiaddr, and Kubo's docs/environment-variables.md and its file `api`
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from attrs import frozen
from pointsman import ConfigError
from pointsman.service import is_loopback, shown_url

#: Where a node listens that nobody configured.
DEFAULT = "http://127.0.0.1:5001"
_UNIX = "http+unix://"
_FORMS = "expected http(s)://HOST:PORT, /ip4/127.0.0.1/tcp/5001, /dns/HOST/tcp/443/https, /unix/PATH or unix:///PATH"
_MULTIADDR = re.compile(
    r"/(?:ip4|ip6|dns|dns4|dns6)/(?P<host>[^/?#@]+)/tcp/(?P<port>\d{1,5})(?P<tls>/https|/tls/http|/tls)?(?:/http)?/?"
)
#: What has the form of an address, and can be shown: all else may hold a key.
_NEARLY = re.compile(r"[\w.-]+:\d{1,5}|/(?:ip4|ip6|dns|dns4|dns6)/[\w.:/-]+")


@frozen
class Address:
    """Where a node is, and who said so."""

    url: str  #: `http(s)://HOST:PORT`, perhaps with a path before `/api/v0`, or `http+unix://PATH`, quoted
    told_by: str  #: "url", a variable, a file, or "" where nobody did

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return self.url.startswith(_UNIX) or is_loopback(host_of(self.url))

    @property
    def socket(self) -> str:
        """The path of its unix socket, or ""."""
        return unquote(self.url.removeprefix(_UNIX)) if self.url.startswith(_UNIX) else ""


def address_of(url: str | None) -> Address:
    """Return the address that is written, or the one that the environment or the node's own files tell.

    :raises ConfigError: it is none; the message says who told it.
    """
    for written, told_by in _told(url):
        if written.strip():
            return Address(_url(written.strip(), told_by), told_by)
    return Address(DEFAULT, "")


def text_of(url: object) -> str:
    """Return the option `url`, which is to be text.

    :raises ConfigError: it is not.
    """
    if not isinstance(url, str):
        raise ConfigError(f"url: found {type(url).__name__}, expected text: the address")
    return url


def host_of(url: str) -> str | None:
    """Return the host that a URL names; None if that is none, such as half an address of IPv6."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _told(url: str | None) -> Sequence[tuple[str, str]]:
    if url is not None:
        return [(text_of(url).strip() or "''", "url")]
    home = Path(os.path.expanduser(os.environ.get("IPFS_PATH") or "~/.ipfs")) / "api"  # there may be no home
    try:
        running = home.read_text("utf-8", "replace")
    except OSError:
        running = ""
    return [(os.environ.get("IPFS_API", ""), "IPFS_API"), (running, str(home))]


def _url(written: str, told_by: str) -> str:
    if path := re.fullmatch(r"(?:unix://|/unix)(/.+)", written):
        return _UNIX + quote(path[1], safe="")
    url = written
    if parts := _MULTIADDR.fullmatch(written):
        host = f"[{parts['host']}]" if ":" in parts["host"] else parts["host"]
        url = f"{'https' if parts['tls'] else 'http'}://{host}:{parts['port']}"
    is_http = re.match(r"https?://[^/?#@]+(/[^?#]*)?$", url, re.IGNORECASE) and host_of(url)
    if is_http or url.startswith(_UNIX):
        return re.sub(r"/+(api(/v0)?/*)?$", "", url)
    shown = repr(written) if _NEARLY.fullmatch(written) else shown_url(written)
    raise ConfigError(f"{told_by}: found {shown}, {_FORMS}")
