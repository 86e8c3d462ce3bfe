"""Encryption in the age format: what is made here opens with the program `age`, and the other way round.

The package `pyrage` does it, in pieces: no file is ever whole in memory. Keys are kept as `Secret`; no message, repr
or traceback shows one.

Source: https://age-encryption.org/v1
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeAlias

from pointsman import AuthenticationError, ConfigError, Secret, UnusableAnswer

#: The private key itself ("AGE-SECRET-KEY-1...", or an SSH key), the text of a key file, or the path of one. A key of
#: `pyrage.x25519`, which has no types, is one, too.
Identity: TypeAlias = "str | Secret | Path"

#: Pieces, of 64 KiB, that may wait to be read.
_AHEAD = 16
_KEY, _SSH = "AGE-SECRET-KEY-1", "-----BEGIN"
_WITHIN = re.compile(rf"{_KEY}\w{{8}}|{_SSH}", re.IGNORECASE)
#: Stands for a path that has a private key in it, in place of being the path of one: nothing shows it.
_NO_PATH = object()


class Keys:
    """Who can open what is encrypted here, and what opens it. Both come through `hidden`.

    :param recipients: public keys: "age1..." or "ssh-ed25519 ..." or "ssh-rsa ...". Without, those of `identity`, which
        an SSH key does not tell: then nothing can be encrypted.
    :param identities: private keys, or paths of them. Without, nothing can be opened.
    :raises ConfigError: one is none, or the package that encrypts is not installed.
    """

    def __init__(self, recipients: Sequence[object], identities: Sequence[object]) -> None:
        secrets = list(map(_read, identities))
        self._age = _library()
        named = [f"identity: {one}: " if isinstance(one, Path) else "identity: " for one in identities]
        self._identities = [one for place in zip(secrets, named, strict=True) for one in self._opened(*place)]
        self._recipients = [self._recipient(place, one) for place, one in enumerate(recipients)]
        if not self._recipients:
            self._recipients = [one.to_public() for one in self._identities if hasattr(one, "to_public")]

    def encrypt(self, data: bytes) -> bytes:
        """Return a small age file. Raises as `encrypting`."""
        return bytes(self._age.encrypt(data, self._readers()))

    def encrypting(self, read: Callable[[int], bytes]) -> Generator[bytes, None, None]:
        """Give out the age file of what `read` returns, in pieces. What `read` raises comes out.

        :raises ConfigError: nobody could open it: there are no recipients, and only SSH keys, which do not tell theirs.
        """
        recipients = self._readers()
        source, pieces, failure = _Source(read), Queue[bytes | None](_AHEAD), list[BaseException]()
        out = _Out(pieces.put)

        def work() -> None:
            try:
                self._age.encrypt_io(source, out, recipients)
            except BaseException as error:
                failure.append(source.error or error)
            finally:
                pieces.put(None)

        thread = threading.Thread(target=work, name="pointsman-age", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            thread.join()
            if failure:
                raise failure[0]
        finally:
            out.closed = True
            while thread.is_alive():  # it may wait for room
                with suppress(Empty):
                    pieces.get(timeout=0.01)

    def decrypt(self, sealed: bytes, what: str) -> bytes:
        """Return what is in a small age file. Raises as `decrypting`."""
        pieces = list[bytes]()
        self.decrypting(io.BytesIO(sealed), pieces.append, what)
        return b"".join(pieces)

    def decrypting(self, file: Any, write: Callable[[bytes], object], what: str) -> None:
        """Hand what is in an age file to `write`, in pieces; only when this returns are they known to be all.

        What reading the file or `write` raises comes out.

        :param what: how a message calls it.
        :raises AuthenticationError: there is no private key, or none that opens it.
        :raises UnusableAnswer: it is no age file, or not as it was made.
        """
        if not self._identities:
            raise AuthenticationError(f"{what} is encrypted: give identity=, the private key of one of its recipients")
        source, out = _Source(file.read), _Out(write)
        try:
            self._age.decrypt_io(source, out, self._identities)
        except Exception as error:
            if known := source.error or out.error:
                raise known from None
            if "No matching keys" in str(error):
                text = f"{what} is encrypted for others: no identity that was given opens it; give that of a recipient"
                raise AuthenticationError(text) from None
            raise UnusableAnswer(f"{what}: no age file, or not as it was made: {error}", retry_same=False) from None

    def _readers(self) -> list[Any]:
        if not self._recipients:
            raise ConfigError("recipients: found none; give the public keys of those who may open what is stored")
        return self._recipients

    def _opened(self, secret: Secret, named: str) -> list[Any]:
        """Return the private keys in a text. A frame that holds one is left before anything is raised."""
        found = _identities_in(self._age, secret)
        if isinstance(found, str):
            raise ConfigError(f"{named}{found}")
        return found

    def _recipient(self, place: int, text: object) -> Any:
        if isinstance(text, str):
            kind = self._age.ssh if text.strip().startswith("ssh-") else self._age.x25519
            try:
                return kind.Recipient.from_str(text.strip())
            except Exception:
                text = f"{text:.80}"
        else:
            text = "a private key" if isinstance(text, Secret) or text is _NO_PATH else type(text).__name__
        raise ConfigError(f"recipients[{place}]: found {text}, expected a public key: age1... or ssh-ed25519 ...")


class _Source(io.RawIOBase):
    """What the library reads. It turns every error into one of its own, so ours is remembered."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read, self.error = read, None

    error: BaseException | None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._read(size)
        except BaseException as error:
            self.error = error
            raise


class _Out:
    """What the library writes to."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take, self.closed = take, False
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.closed:
            raise BrokenPipeError("nobody reads any more")
        try:
            self._take(bytes(data))
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""


def _library() -> Any:
    try:
        import pyrage
    except ImportError as error:
        what = "recipients: encryption needs a package that is not installed: pip install 'pointsman-ipfs[age]'"
        raise ConfigError(what) from error
    return pyrage


def hidden(given: object, *, public: bool = False) -> tuple[Any, ...]:
    """Return keys in a form that no repr and no traceback shows: the first thing that a constructor does.

    It raises nothing: the frames of an error would have them.

    :param public: whether they should be public keys; only what is none is hidden then.
    """
    if given is None:
        return ()
    several = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else (given,)
    texts = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in several]
    texts = [str(one) if type(one).__module__ == "pyrage.x25519" else one for one in texts]  # which writes it out
    texts = [_NO_PATH if isinstance(one, Path) and _WITHIN.search(str(one)) else one for one in texts]
    return tuple(Secret(one) if isinstance(one, str) and not (public and _is_public(one)) else one for one in texts)


def _is_public(text: str) -> bool:
    return not text.strip().upper().startswith((_KEY, _SSH))


def _read(one: object) -> Secret:
    if isinstance(one, Secret):
        return one
    if one is _NO_PATH:
        advice = "give the key's text as text, or the path of a file with it; to a command, such a file"
        raise ConfigError(f"identity: found the text of a private key that was given as a path; {advice}")
    if not isinstance(one, Path):
        raise ConfigError(f"identity: found {type(one).__name__}, expected a private key, or the path of one")
    try:
        return Secret(Path(os.path.expanduser(one)).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"identity: {one} cannot be read: {why}") from None


def _identities_in(age: Any, secret: Secret) -> list[Any] | str:
    """Return the private keys in a text, or what is wrong with it. Nothing that holds it is in any traceback."""
    try:
        if secret.reveal().startswith(_SSH):
            return [age.ssh.Identity.from_buffer(f"{secret.reveal()}\n".encode())]
        lines = [line.strip() for line in secret.reveal().splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if keys and all(key.upper().startswith(_KEY) for key in keys):
            return [age.x25519.Identity.from_str(key) for key in keys]
    except Exception:
        return "found a private key that is damaged, or protected by a passphrase"
    expected = f"expected {_KEY}..., an SSH key, the text of a key file, or its pathlib.Path"
    return f"found a text that is no private key: {expected}"
