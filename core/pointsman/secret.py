"""Keys that nothing shows.

A `Secret` holds a key. Only `reveal()` gives it out; its repr, its text and its format are masked,
and it refuses to be pickled. `redact` takes every key that the process holds, and everything that
looks like one, out of a text: each `BackendError` passes its message through it.
"""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import unquote
from weakref import WeakValueDictionary

MASK = "***"

#: By identity: of two equal secrets each must go on masking when the other is gone.
_held: WeakValueDictionary[int, Secret] = WeakValueDictionary()

#: What keys look like, so that one which we do not hold (a provider's echo, a foreign key) is masked too. Its one group
#: is what stays: the name of a key that has no looks of its own.
_KEY_LIKE = re.compile(
    r"""-----BEGIN\ [A-Z0-9\ ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z0-9\ ]*PRIVATE\ KEY-----|\Z)
      | \b(?:(?:sk|pk|rk|hf|gsk|xai|gh[oprsu]|github_pat|glpat|nvapi|xox[abeprs])[-_]|AIza|AQ\.)[A-Za-z0-9*._-]{12,}
      | \b(?:(?:npm_|r8_|pplx-)[A-Za-z0-9]{32,}|pypi-AgE[A-Za-z0-9_-]{32,})
      | (?<=bearer\ )[^\s"',;]{4,}
      | (?<=[?&]key=)[^\s&"']+ | (?<=[?&]api_key=)[^\s&"']+
      | (?<=://)[^\s/?#@:]+:[^\s/?#@]+(?=@)
      | \bAGE-SECRET-KEY-1[A-Z0-9]{20,} | (secret_?access_?key\W{1,6})[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])
      | \b(?-i:A[KS]IA[A-Z2-7]{16})\b | (?<![\w-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
#: What an address may have percent-encoded of a key.
_SIGN = re.compile(r"[^A-Za-z0-9]")
#: What none of these is without, but for some words: a text that has nothing of it is not looked at closer, which would
#: take ten times as long, in the path of a call.
_AFTER_PREFIX = re.compile(r"[-_](?:(?<=(?:[spr]k|hf|ai|h[oprsu]|at|x[abeprs]|pm|r8|lx)[-_])|(?<=vapi.|pypi.|cess.))")

#: Names of keys in the query of a URL; and values there that are none.
_NAMED = re.compile("auth|code|cred|key|pass|pwd|secret|sig|token", re.IGNORECASE)
_PLAIN = re.compile(r"(?:(?:[a-z]{1,16}|(?=[a-z]*[0-9])[a-z0-9]{1,8})(?:[-._/]|\Z))+")


class Secret:
    """A key. White space around it is stripped: a line break in a header would send it nowhere."""

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value.strip()
        _held[id(self)] = self

    @classmethod
    def of(cls, value: str | Secret | None) -> Secret | None:
        """Return `value` as a secret; empty text is no key. Fits as an attrs converter."""
        if value is None or isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            raise TypeError(f"a key must be text, found {type(value).__name__}")
        return cls(value) if value.strip() else None

    def reveal(self) -> str:
        """Return the key itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled: let the other process read it from its own configuration")


def redact(text: str, *, shortest: int = 4) -> str:
    """Return `text` without any key: those that this process holds, and all that looks like one.

    :param shortest: characters of what is held from which it is taken for a key, and not for a word.
    """
    for held in _held.valuerefs():  # a list at once: `values()` would break when another thread makes a secret
        value = secret.reveal() if (secret := held()) else ""
        if len(value) < shortest:
            continue
        text = text.replace(value, MASK)
        if "%" in text and _SIGN.search(value):
            text = re.sub(_SIGN.sub(_or_encoded, value), MASK, text)
    plain = text.casefold()
    if (
        ("z" in plain and "aiza" in plain)  # one letter is found ten times as fast as a word
        or ("q" in plain and "aq." in plain)
        or ("I" in text and ("AKIA" in text or "ASIA" in text))
        or ("k" in plain and ("key=" in plain or "accesskey" in plain))
        or "bearer " in plain
        or ("@" in plain and "://" in plain)
        or ("j" in plain and "eyj" in plain)
        or ("-" in plain and ("age-secret-key-1" in plain or "private key-----" in plain))
        or (("-" in plain or "_" in plain) and _AFTER_PREFIX.search(plain))
    ):
        return _KEY_LIKE.sub(rf"\1{MASK}", text)
    return text


def words_of(error: BaseException) -> str:
    """Return what an error says, without any key; "?" where it fails at that."""
    try:
        return redact(str(error))
    except Exception:
        return "?"


def shown_url(url: str) -> str:
    """Return the repr of the URL without its user name and query, which may hold a key; what is no URL may be one."""
    if "://" not in str(url):
        return repr(MASK)
    # A password may have a ? or # in it: what stands behind the first colon is no port then, and an @ comes later.
    return repr(re.sub(r"(?s)(?<=//)(?:[^?#]*(?=@)|[^/?#]*:(?!\d+[/?#]).*@.*)|(?<=[?#]).+", MASK, str(url)))


def keys_in(query: str) -> list[Secret]:
    """Return the values in the query of a URL that may be keys, as they are meant: they are masked while they are held.

    What is made of short words or versions, such as `api-version=2024-10-21`, is none, unless its name tells it, and it
    has eight characters.
    """
    pairs = (pair.partition("=") if "=" in pair else ("", "", pair) for pair in query.split("&"))
    meant = ((name, unquote(value)) for name, _, value in pairs if value)
    return [Secret(text) for name, text in meant if not _PLAIN.fullmatch(text) or (text[7:] and _NAMED.search(name))]


def _or_encoded(sign: re.Match[str]) -> str:
    encoded = "".join(f"%{byte:02x}" for byte in sign[0].encode("utf-8", "surrogatepass"))
    return f"(?:{re.escape(sign[0])}|(?i:{encoded}))"
