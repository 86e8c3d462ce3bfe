"""Receipts under kills, forks and full disks; and keys, which are never in them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pointsman import Backend, Completion, ConfigError, Message, Request, Router, Secret, Store, UnavailableError
from pointsman.testing import Scripted
from pointsman_ipfs import Blocks, Receipts
from pointsman_ipfs.proof import verify

Chain = Callable[..., list[str]]

#: What each process does first.
BEGIN = """
import os, resource, signal, sys, threading
from time import sleep
from attrs import frozen
from pointsman import Completion, Request, Router, hookimpl
from pointsman_ipfs import Receipts

@frozen
class Says:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("You said: " + request.prompt)

def told(text):
    os.write(1, f"{text}\\n".encode())
"""
UNTIL_KILLED = """
receipts = Receipts(delay=0.001)
router = Router([Says()], middleware=[receipts])
while True:
    newest = [router.generate("x" * 300).receipt for _ in range(20)][-1]
    while receipts.waiting:
        sleep(0.001)
    told(newest)
"""
AT_EXIT = """
router = Router([Says()], middleware=[Receipts(delay=3600)])
told(router.generate("hi").receipt)
"""
FORKED = """
router = Router([Says()], middleware=[Receipts(delay=3600)])
first = router.generate("of the parent").receipt
if not (child := os.fork()):
    assert router.health()["Receipts"].status == "healthy"
    told("child " + router.generate("of the child").receipt)
    sys.exit()
os.waitpid(child, 0)
told("parent " + router.generate("again").receipt)
router.close()
"""
LEFT_ALIVE = """
router = Router([Says()], middleware=[Receipts()])
told(router.generate("hi").receipt)
if not os.fork():
    told(os.getpid())
    os.close(1)
    signal.pause()
router.close()
os._exit(0)
"""
FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
receipts = Receipts(delay=0.001, close_timeout=0.1)
router = Router([Says()], middleware=[receipts])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
router.generate("before")
while receipts.waiting:
    sleep(0.001)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
answers = [router.generate("while it is full " * 9) for _ in range(50)]
assert all(answer.receipt and not answer.warnings for answer in answers)
while router.health()["Receipts"].status == "healthy":
    sleep(0.001)
told(router.health()["Receipts"].reason)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
while router.health()["Receipts"].status != "healthy":
    sleep(0.001)
router.close()
"""


def run(code: str, kept: Path) -> subprocess.Popen[str]:
    """Run a program in a process of its own, with the store in a folder."""
    command = [sys.executable, "-c", BEGIN + code, str(kept)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "POINTSMAN_STORE": str(kept)}
    )


def output(code: str, kept: Path) -> list[str]:
    """Return the lines that a program prints, once it has ended well."""
    with run(code, kept) as process:
        text = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return text.splitlines()


def failing(kept: Path) -> list[str]:
    """Return what does not hold of a store's folder."""
    return [str(check) for check in verify(kept) if not check.holds]


def test_what_was_durable_survives_a_kill(kept: Path, chain: Chain, block_of: Callable[[str], bytes]) -> None:
    """Killed at any instant, every receipt that was durable verifies, and the next router goes on behind it."""
    some = random.Random(6)
    for _ in range(6):
        with run(UNTIL_KILLED, kept) as process:
            assert process.stdout
            durable = [process.stdout.readline().strip() for _ in range(3)]
            sleep(some.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            durable += process.stdout.read().split()
        durable = [one for one in durable if len(one) == 59]
        (following,) = chain(1)  # the store is opened, and what was never acknowledged is taken away
        with Store([Blocks(path=kept)]) as store:
            assert all(store.has(one) for one in durable)
            checks = list(verify(following, store=store))
        assert all(check.holds for check in checks)
        behind = re.search(r"begins behind receipt \w+, number (\d+)", "\n".join(map(str, checks)))
        assert behind
    assert failing(kept) == []


def test_who_does_not_close_keeps_them_too(kept: Path) -> None:
    """A program that just ends waits for the disk first."""
    (receipt,) = output(AT_EXIT, kept)
    with Store([Blocks(path=kept)]) as store:
        assert store.has(receipt)
    assert failing(kept) == []


def test_a_forked_child_has_a_chain_of_its_own(kept: Path, block_of: Callable[[str], bytes]) -> None:
    """Both chains verify: neither process writes into that of the other, nor what the other has still to keep."""
    lines = dict(line.split() for line in output(FORKED, kept))
    assert set(lines) == {"child", "parent"}
    assert failing(kept) == []
    checks = "\n".join(map(str, verify(kept)))
    assert "receipts 0 to 1," in checks
    assert "receipts 0 to 0," in checks


def test_a_child_that_lives_on_keeps_nothing_locked(kept: Path, chain: Chain) -> None:
    """When the parent is gone, the next router takes up its chain, although a child of it still runs."""
    with run(LEFT_ALIVE, kept) as process:
        assert process.stdout
        left = process.stdout.readline().strip()
        process.wait(60)
        child = int(process.stdout.readline())
        try:
            with Store([Blocks(path=kept)]) as store:
                checks = "\n".join(map(str, verify(chain(1)[0], store=store)))
        finally:
            os.kill(child, signal.SIGKILL)
    assert f"it begins behind receipt {left}, number 0" in checks


def test_a_forked_child_keeps_what_is_no_file_of_receipts(chain: Chain, forked: Callable[..., int]) -> None:
    """What one router left and the next one took up is closed by then: the child closes nothing that got its number."""
    for _ in range(2):
        chain(1)
    files = [file for _ in range(20) for file in os.pipe()]
    child = forked(lambda: list(map(os.fstat, files)))
    for file in files:
        os.close(file)
    assert os.waitpid(child, 0)[1] == 0


def test_a_full_disk_lets_receipts_wait(kept: Path) -> None:
    """Calls are answered with their receipts, health says that they wait and why; once there is room, they are kept."""
    (reason,) = output(FULL, kept)
    assert re.match(r"\d+ receipts wait to be kept: .*cannot be written: File too large", reason)
    assert failing(kept) == []
    assert "receipts 0 to 50," in "\n".join(map(str, verify(kept)))


def test_what_cannot_be_kept_is_in_a_file(
    kept: Path, tmp_path: Path, says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` raises, and says where the receipts are: that file, imported, makes the chain whole."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "file" / "kept"))
    router = Router([says], receipts={"close_timeout": 0.1})
    receipts = [router.generate("hi").receipt for _ in range(3)]
    with pytest.raises(UnavailableError, match=r"3 receipts could not be kept: .* they are in ") as caught:
        router.close()
    found = re.search(r"they are in (\S+):", str(caught.value))
    assert found
    unkept = Path(found[1])
    assert unkept.is_relative_to(tmp_path)
    assert all(check.holds for check in verify(unkept))
    with Store([Blocks(path=kept)]) as store:
        store.import_car(unkept)
        assert all(store.has(str(one)) for one in receipts)
    assert all(check.holds for check in verify(kept))


# -- keys ----------------------------------------------------------------------------------------------

HELD, LOOKS_LIKE, HEADER = "correct-höhse-battery", "sk-proj-0123456789abcdefghijkl", "Zm9vOmJhcmJheg"


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("long", ["", "y" * 5000])
def test_keys_are_in_no_block(kept: Path, content: bool, long: str) -> None:
    """A key in a prompt, an answer, a header, metadata, an attempt's reason or a tool's result is not on the disk."""
    secret = Secret(HELD)
    extra = {
        "extra_headers": {"x-api-key": HEADER, "Authorization": f"Basic {HEADER}"},
        "metadata": {"note": HELD, "api_key": HEADER, "inner": [{"token": HEADER}]},
        "cookies": HEADER,
    }
    messages = (
        Message("user", f"My key is {HELD}, the other one {LOOKS_LIKE} {long}"),
        Message("assistant", f"So it is {HELD}"),
        Message("user", f"{long} {LOOKS_LIKE}"),
    )
    backends = [
        Backend(Scripted(UnavailableError(f"refused {LOOKS_LIKE}")), id="first", max_retries=0),
        Backend(Scripted(Completion(f"{HELD} and {LOOKS_LIKE}{long}", warnings=(HELD,), request_id=HELD)), id="second"),
    ]
    with Router(backends, receipts={"content": content, "key": key_in_base64()}) as router:
        answer = router.generate(Request(messages, system=HELD, extra=extra, stop=(HELD,)))
        assert answer.receipt
        assert not [warning for warning in answer.warnings if "receipt" in warning]
    found = b"\n".join(path.read_bytes() for path in kept.rglob("*") if path.is_file())
    raw = key_in_base64()
    for key in (secret.reveal(), LOOKS_LIKE, HEADER, raw):
        assert key.encode() not in found
        assert b64encode(key.encode()) not in found
    assert bytes(range(32)) not in found
    assert all(check.status != "fails" for check in verify(kept))


def test_a_key_that_was_masked_is_told(kept: Path, says: Any, block_of: Callable[[str], bytes]) -> None:
    """The receipt says that it is not word for word what was asked."""
    with Router([says], receipts=True) as router:
        masked, plain = router.generate(f"use {LOOKS_LIKE}").receipt, router.generate("use nothing").receipt
    assert b"galtered\x81dkeys" in block_of(str(masked))
    assert b"altered" not in block_of(str(plain))


# -- signatures ----------------------------------------------------------------------------------------


def key_in_base64() -> str:
    return b64encode(bytes(range(32))).decode()


def private() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def public() -> bytes:
    return private().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


@pytest.mark.parametrize(
    "form", ["base64", "pem", "file", "file of base64", "hexadecimal", "bytes", "pem bytes", "object"]
)
def test_receipts_are_signed(kept: Path, tmp_path: Path, chain: Chain, form: str) -> None:
    """With a key of Ed25519, in whatever form it is written, each receipt has a signature that anyone can check."""
    pem = private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    (tmp_path / "key").write_text(pem if form == "file" else key_in_base64() + "\n")
    forms: dict[str, dict[str, Any]] = {
        "base64": {"key": key_in_base64()},
        "pem": {"key": pem},
        "file": {"key_path": tmp_path / "key"},
        "file of base64": {"key_path": tmp_path / "key"},
        "hexadecimal": {"key": bytes(range(32)).hex()},
        "bytes": {"key": bytes(range(32))},
        "pem bytes": {"key": pem.encode()},
        "object": {"key": private()},
    }
    chain(3, **forms[form])
    checks = list(verify(kept, key=public()))
    assert all(check.holds for check in checks)
    assert f"all are signed with the key {public().hex()}, which was given" in "\n".join(map(str, checks))


@pytest.mark.parametrize("key", [5, X25519PrivateKey.generate(), private().public_key(), b"\xff" * 31, "ab" * 31])
def test_what_is_no_key_to_sign_with_is_told(key: Any) -> None:
    """In a program and in a mapping: with what was expected, and without what was given."""
    says = "key: found .*, expected a private key of Ed25519 without a password: PEM, "
    with pytest.raises(ConfigError, match=says):
        Receipts(key=key)
    with pytest.raises(ConfigError, match=r"receipts\.key: found .*expected|key: found something else"):
        Router([], receipts={"key": key})


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    """A path in its place, say: at once, and not with the first answer."""
    with pytest.raises(ConfigError, match=r"^store: found str, expected a pointsman\.Store"):
        Receipts(store=str(tmp_path))  # type: ignore[arg-type]


def test_the_private_key_is_shown_nowhere(tmp_path: Path) -> None:
    """Neither the options nor an error about them show it."""
    assert key_in_base64() not in repr(Receipts(key=key_in_base64()))
    config = {"ROUTER": {"receipts": {"key": key_in_base64()[:-2] + "?"}}, "BACKENDS": []}
    with pytest.raises(Exception, match="expected a private key of Ed25519") as caught:
        Router.from_config(json.loads(json.dumps(config)))
    assert key_in_base64()[:-2] not in str(caught.value)
    pem = private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for key in key_in_base64(), pem, bytes(range(32)).hex():
        with pytest.raises(ConfigError, match=r"^key_path: found what may be the key itself, .* is given as `key`$"):
            Receipts(key_path=key)
