"""Signatures with Ed25519 (RFC 8032), by `cryptography`: the keys, and what signs and checks with them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from pointsman import ConfigError, Secret

from ..dag.cbor import encode

_PEM = "-----BEGIN"
_SIZE = 32  #: bytes of a key, private or public
_NAME = encode("signature")
#: In the place of a path: PEM, or 32 bytes in base64 or hexadecimal digits.
_LIKE_KEY = re.compile(r"PRIVATE KEY|[A-Za-z0-9+/]{40}=$|[0-9A-Fa-f]{64}$")
_EXPECTED = "a private key of Ed25519 without a password: PEM, or its 32 bytes (in base64, hexadecimal, or as they are)"
_INSTALL = 'signatures need cryptography: pip install "pointsman-ipfs[sign]"'


@frozen
class Signer:
    """Signs with one key."""

    public: bytes  #: 32 bytes
    sign: Callable[[bytes], bytes]  #: returns 64 bytes


def secret_of(key: object) -> Secret | None:
    """Return a private key, in whatever form a program has it, in the one that nothing shows.

    :raises ConfigError: it is of no such type, or `cryptography`, whose key it may be, is not installed.
    """
    if isinstance(key, bytes):
        key = b64encode(key).decode() if len(key) == _SIZE else key.decode("ascii", "replace")
    elif not isinstance(key, str | Secret | None):
        if not isinstance(key, _library()[0].Ed25519PrivateKey):
            raise ConfigError(f"key: found {type(key).__name__}, expected {_EXPECTED}")
        key = b64encode(key.private_bytes_raw()).decode()
    return Secret.of(key)


def signer_of(key: Secret | None, path: Path | None) -> Signer | None:
    """Return what signs with a private key, as `secret_of` returns it; or a file with such text. None without one.

    :raises ConfigError: it is none, or `cryptography` is not installed.
    """
    if key is not None and path is not None:
        raise ConfigError("key: found it beside key_path; give one of them")
    if path is not None:
        try:
            key = Secret(path.read_text("ascii"))
        except (OSError, ValueError) as error:
            if _LIKE_KEY.search(str(path)):
                text = "found what may be the key itself, expected the path of its file; a key is given as `key`"
                raise ConfigError(f"key_path: {text}") from None
            text = f"{path} cannot be read: {getattr(error, 'strerror', 'it is no text')}"
            raise ConfigError(f"key_path: {text}") from None
    if key is None:
        return None
    private = _private(key, "key" if path is None else f"key_path: {path}")
    return Signer(private.public_key().public_bytes_raw(), private.sign)


def _private(key: Secret, where: str) -> Any:
    ed25519, load_pem = _library()
    try:
        if key.reveal().startswith(_PEM):
            found = load_pem.load_pem_private_key(key.reveal().encode(), None)
        else:
            found = ed25519.Ed25519PrivateKey.from_private_bytes(_bytes_in(key.reveal()))
    except (ValueError, TypeError):  # not from it: the library may repeat what it was given
        found = None
    if not isinstance(found, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"{where}: found something else, expected {_EXPECTED}")
    return found


def _bytes_in(written: str) -> bytes:
    """Return the bytes of a key that is written in hexadecimal digits or base64; else raise ValueError."""
    return bytes.fromhex(written) if len(written) == 2 * _SIZE else b64decode(written, validate=True)


def public_key(written: str) -> bytes:
    """Return a public key that a person wrote: 64 hexadecimal digits, base64, or the path of a PEM file.

    :raises ConfigError: it is none.
    """
    try:
        found = _bytes_in(written)
    except ValueError:
        found = b""
    if len(found) == _SIZE:
        return found
    ed25519, load_pem = _library()
    try:
        key = load_pem.load_pem_public_key(Path(written).read_bytes())
    except (OSError, ValueError):
        key = None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return bytes(key.public_bytes_raw())
    expected = "a public key of Ed25519: 64 hexadecimal digits, base64, or the path of a PEM file"
    raise ConfigError(f"key: found {written!r:.80}, expected {expected}")


def verifier() -> Callable[[bytes, bytes, bytes], bool] | None:
    """Return what says whether a public key has signed: `(key, signature, data)`; None without `cryptography`."""
    try:
        ed25519, _ = _library()
    except ConfigError:
        return None
    from cryptography.exceptions import InvalidSignature

    def verified(key: bytes, signature: bytes, data: bytes) -> bool:
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True

    return verified


def signed(data: bytes, signature: bytes) -> bytes:
    """Return a record with its signature, whose name comes last in DAG-CBOR: all others are shorter."""
    return bytes((data[0] + 1,)) + data[1:] + _NAME + encode(signature)


def unsigned(data: bytes) -> bytes:
    """Return what was signed of a record that has a signature."""
    return bytes((data[0] - 1,)) + data[1 : -len(_NAME) - len(encode(bytes(64)))]


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigError(_INSTALL) from error
    return ed25519, serialization
