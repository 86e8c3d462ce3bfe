"""Whose an address is, and what may be shown of it and of headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from pointsman import Secret

_KEY = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)


def is_key(name: str) -> bool:
    """Whether the value of a header of this name is a key."""
    return bool(_KEY.search(name))


def secret(value: str | Secret | None) -> Secret | None:
    """Wrap a key."""
    return Secret.of(value)


def masked(headers: Mapping[str, str | Secret]) -> dict[str, str | Secret]:
    """Wrap the values that are keys by their name."""
    return {
        name: Secret(value) if isinstance(value, str) and is_key(name) else value for name, value in headers.items()
    }


def is_within(host: str | None, domain: str) -> bool:
    """Whether `host` is `domain` or lies in it."""
    return host is not None and (host == domain or host.endswith(f".{domain}"))


def is_loopback(host: str | None) -> bool:
    """Whether `host` is this machine."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def without_keys(url: str) -> str:
    """Return the URL without its user name and query, which may hold a key; what is no URL may be one."""
    if "://" not in str(url):
        return "***"
    return re.sub(r"//[^/?#]*@|[?#].*", lambda part: "//***@" if part[0].startswith("/") else "?***", str(url))


def api_root(url: str) -> str:
    """Return what the paths of the API are appended to, from whatever a person pasted."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    for end in ("/chat/completions", "/responses", "/models"):
        path = path.removesuffix(end)
    return urlunsplit(parts._replace(path=path or "/v1"))
