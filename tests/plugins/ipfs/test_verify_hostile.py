"""`verify` with what somebody made to hurt it, and at a shell: it ends soon, in little memory, with a clear line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from pointsman import InvalidRequestError, Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import car, cbor, dagpb
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.cbor import Ref
from pointsman_ipfs.evidence import About, Evidence
from pointsman_ipfs.proof import verify

Chain = Callable[..., list[str]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
MIB = 1 << 20


def framed(cid: bytes, data: bytes) -> bytes:
    return car.record(cid, data)


def linking(count: int, seed: bytes = b"") -> bytes:
    """Return a block of DAG-CBOR with so many links to nothing."""
    return cbor.encode([Ref(cids.raw_cid(seed + number.to_bytes(4, "big"))) for number in range(count)])


def nested(levels: int, *, receipt: bool) -> bytes:
    """Return a block of DAG-CBOR with so many lists within each other."""
    return (b"\xa1greceipt" if receipt else b"") + b"\x81" * levels + b"\x80"


def hostile(root: bytes) -> dict[str, tuple[bytes, str]]:
    """Return files, each with a word of the line that says what is wrong with it."""
    head, data = car.header([root]), b"data"
    cid = cids.raw_cid(data)
    deep, wide = nested(500_000, receipt=True), linking(50_000)
    return {
        "nothing": (b"", "found nothing at all"),
        "text": (b"this is no CAR file, but text" * 99, "this is no CAR file"),
        "header without end": (b"\xff" * 40, "found a number without an end"),
        "header of 2^63 bytes": (b"\x80" * 8 + b"\x7f" + b"x" * 99, "found a header of"),
        "version 2": (bytes.fromhex("0aa16776657273696f6e02"), "found version 2"),
        "a million roots": (car.header([root] * 1_000_000), "found a header of"),
        "length without end": (head + b"\xff" * 40, "found a number without an end"),
        "block of 2^62 bytes": (head + b"\x80" * 8 + b"\x3f" + b"x" * 99, "found a block of"),
        "block of 3 MiB": (
            head + framed(cids.raw_cid(bytes(3 * MIB)), bytes(3 * MIB)),
            "a block of 3145764 bytes",
        ),
        "no CID": (head + b"\x05hello", "found"),
        "CID with a digest of 2^40 bytes": (head + b"\x20\x01\x55\x12" + b"\x80" * 5 + b"\x10" + bytes(40), "a digest"),
        "CID of another hash": (head + framed(b"\x01\x55\x13\x40" + bytes(64), data), "hash function 0x13"),
        "another block's CID": (head + framed(cid, b"date"), "not those of its CID"),
        "deep": (car.header([cids.cbor_cid(deep)]) + framed(cids.cbor_cid(deep), deep), "no dag-cbor"),
        "wide": (car.header([cids.cbor_cid(wide)]) + framed(cids.cbor_cid(wide), wide), "50,000 blocks to which"),
        "no receipt": (head + framed(cid, data), "receipts and evidence: found none of either"),
    }


NAMES = tuple(hostile(cids.raw_cid(b"")))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_files_end_with_a_clear_line(tmp_path: Path, name: str) -> None:
    """The line that fails says what was found, and no line says that all holds."""
    data, says = hostile(cids.raw_cid(b""))[name]
    (tmp_path / "hostile.car").write_bytes(data)
    lines = [str(check) for check in verify(tmp_path / "hostile.car")]
    assert any(says in line and line.startswith("fails") for line in lines), lines
    assert all(len(line) < 1000 for line in lines)


def test_a_million_links_take_little_memory(tmp_path: Path) -> None:
    """Twenty blocks with 50,000 links each, all of one receipt: a line for each, and no memory that grows with them."""
    blocks = [linking(50_000, bytes((number,))) for number in range(20)]
    root = cbor.encode([Ref(cids.cbor_cid(block)) for block in blocks])
    path = tmp_path / "wide.car"
    pairs = [(cids.cbor_cid(block), block) for block in (root, *blocks)]
    path.write_bytes(b"".join(car.write([pairs[0][0]], pairs)))
    code = f"""
import resource
from pointsman_ipfs.proof import verify
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum("50,000 blocks" in check.text for check in verify({str(path)!r}))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 20
    assert grown < 64 << 10  # KiB


def test_a_file_that_unfolds_without_end_is_not_read(tmp_path: Path) -> None:
    """A request whose file claims 2^60 bytes by naming the same pieces again and again."""
    leaf = bytes(1 << 10)
    cid, size, blocks = cids.raw_cid(leaf), len(leaf), [(cids.raw_cid(leaf), leaf)]
    for _ in range(10):
        message = dagpb.encode_file(32 * size, (size,) * 32)
        data = dagpb.encode([dagpb.PBLink(cid, b"", size)] * 32, message)
        cid, size = cids.pb_cid(data), 32 * size
        blocks.append((cid, data))
    said = {"receipt": 1, "by": "me", "chain": "0" * 32, "number": 0, "previous": None, "attempts": [], "links": []}
    said |= {"time": "2026-01-01T00:00:00.000000Z", "request": Ref(cid)}
    data = cbor.encode({**said, "answer": {"text": "", "finish_reason": "stop"}})
    blocks.append((cids.cbor_cid(data), data))
    path = tmp_path / "bomb.car"
    path.write_bytes(b"".join(car.write([blocks[-1][0]], blocks)))
    lines = [str(check) for check in verify(path) if check.status == "fails"]
    assert any("request: its file has 1,152,921,504,606,846,976 bytes" in line for line in lines), lines


# -- at a shell ------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, kept: Path) -> Run:
    """Run `pointsman verify` and return what it printed."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pointsman", "verify", *map(str, arguments)]
        environment = {**os.environ, "HOME": str(tmp_path), "POINTSMAN_STORE": str(kept)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
        assert "Traceback" not in done.stderr
        return done

    return run


def test_the_command_tells_what_holds(run: Run, chain: Chain, kept: Path, tmp_path: Path) -> None:
    """From a receipt, a folder and a CAR file, which it writes for others: a line each, exit code 0."""
    receipts = chain(3)
    done = run(receipts[-1], "--car", "chain.car")
    assert done.returncode == 0, done.stdout
    assert "receipts 0 to 2, not signed; each names the one before it" in done.stdout
    for what in (kept, tmp_path / "chain.car"):
        done = run(what)
        assert done.returncode == 0
        *lines, last = done.stdout.splitlines()
        assert all(line.startswith("holds      ") for line in lines)
        assert last.startswith(f"All {len(lines)} checks hold; unchanged: 1 chain of receipts; that their times ")


def test_the_name_of_a_file_forges_no_line(run: Run, chain: Chain, kept: Path) -> None:
    """A folder of somebody else may have files of any name: each check is one line of the answer."""
    chain(1)
    (kept / "packs" / "x\nAll 9 checks hold; unchanged: .car").write_bytes(b"no pack")
    done = run(kept)
    assert done.returncode == 1
    *lines, last = done.stdout.splitlines()
    assert all(line.startswith(("holds      ", "fails      ")) for line in lines), lines
    assert last.startswith("NOT PROVEN")
    assert "x\\nAll 9 checks hold" in done.stdout


def test_the_command_proves_evidence(run: Run, kept: Path, tmp_path: Path) -> None:
    """From a record, its copy and the folder; the last line says in a sentence what is proven, and what never is."""
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        records = [evidence.submit(data, About("letter", "her words", user="anna")).record for data in (b"1", b"2")]
    done = run(records[-1].record_cid, "--car", "log.car")
    assert done.returncode == 0, done.stdout
    for what in (kept, "log.car"):
        done = run(what, "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        *lines, last = done.stdout.splitlines()
        assert all(line.startswith("holds      ") for line in lines)
        proven = "2 records of evidence with all their bytes and 1 log of records"
        never = "that their times and names are true, and that no newer ones were taken away, no such check can show."
        assert last == f"All {len(lines)} checks hold; unchanged: {proven}; {never}"
        assert "anna" not in done.stdout
        assert "her words" not in done.stdout
    (tmp_path / "log.car").write_bytes((tmp_path / "log.car").read_bytes().replace(b"her words", b"our words", 1))
    done = run("log.car")
    assert done.returncode == 1
    assert re.match(r"NOT PROVEN: \d of \d checks failed", done.stdout.splitlines()[-1])


def test_the_command_opens_what_is_encrypted(run: Run, kept: Path, tmp_path: Path) -> None:
    """With the file of a key; without it, what is in it was not looked at: exit code 3."""
    (tmp_path / "key.txt").write_text(str(pyrage.x25519.Identity.generate()))
    with Store([Blocks(path=kept)]) as store, Evidence(store, identity=tmp_path / "key.txt") as evidence:
        evidence.submit(b"secret", About("letter"))
    done = run(kept)
    assert done.returncode == 3
    assert re.match(r"Nothing failed, and 1 of \d checks could not be done; ", done.stdout.splitlines()[-1])
    done = run(kept, "--identity", "key.txt")
    assert done.returncode == 0
    assert "it opens to 6 bytes " in done.stdout
    (tmp_path / "other.txt").write_text(str(pyrage.x25519.Identity.generate()))
    assert run(kept, "--identity", "other.txt").returncode != 0
    assert run(kept, "--identity", "key.txt", "--identity", "other.txt").returncode == 0
    done = run(kept, "--identity", "nothing.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "identity: nothing.txt cannot be read" in done.stderr
    key = str(pyrage.x25519.Identity.generate())
    done = run(kept, "--identity", key)
    assert (done.returncode, done.stdout) == (2, "")
    assert "found the text of a private key that was given as a path; give" in done.stderr
    assert key[16:30] not in done.stderr


def test_the_command_shows_how_far_it_is(run: Run, kept: Path) -> None:
    """In what takes long, on stderr: a store of some size is read in pieces, in memory that does not grow with it."""
    program = f"""
import resource
from pointsman_ipfs.proof import verify
seen = []
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert all(check.status == "holds" for check in verify({str(kept)!r}, progress=seen.append))
print(sum(seen), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    with Store([Blocks(path=kept)]) as store, Evidence(store) as evidence:
        evidence.submit(bytes(1 << 20) + os.urandom(200 << 20), About("video"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    read, grown = map(int, done.stdout.split())
    assert read == sum(path.stat().st_size for path in (kept / "packs").iterdir())
    assert grown < 32 << 10  # KiB


def test_the_command_tells_what_fails(run: Run, chain: Chain, kept: Path) -> None:
    """Exit code 1, and JSON for programs."""
    chain(3)
    (path,) = (kept / "packs").iterdir()
    path.write_bytes(path.read_bytes().replace(b"question 1", b"question 7"))
    done = run(kept, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert {"status": "fails", "what": f"{path}, byte {found[0]['what'].rpartition(' ')[2]}", **found[0]} == found[0]
    assert "not those of its CID" in found[0]["text"]


def test_the_command_tells_what_cannot_be_checked(run: Run, chain: Chain, kept: Path) -> None:
    """Exit code 3: nothing fails, and not everything holds."""
    chain(1, content=False)
    done = run(kept)
    assert done.returncode == 3
    assert "unchecked  chain " in done.stdout


def test_the_command_takes_a_key(run: Run, chain: Chain, kept: Path) -> None:
    """A key that is none is a mistake of the user; another one does not hold."""
    chain(1, key="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    public = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert run(kept, "--key", public).returncode == 0
    assert run(kept, "--key", public.replace("0", "1")).returncode == 1
    done = run(kept, "--key", "nonsense")
    assert done.returncode == 2
    assert "expected a public key of Ed25519" in done.stderr


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nothing.car", "nothing.car: there is no such file or folder, and it is no CID"),
        ("bafynonsense", "there is no such file or folder, and it is no CID"),
        (".", "expected the folder of an embedded store"),
    ],
)
def test_the_command_tells_what_it_expected(run: Run, what: str, says: str) -> None:
    """A path that is not there, a CID that is none, a folder of something else: a mistake in the call, which is not
    taken for receipts that fail."""
    done = run(what)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """At once, though nobody writes to it; what comes from one is not told as a file that fails."""
    os.mkfifo(tmp_path / "pipe")
    for path in tmp_path / "pipe", Path("/dev/null"):
        with pytest.raises(InvalidRequestError, match=f"{path}: found a pipe or a device, expected a CAR file"):
            list(verify(path))


def test_a_copy_is_for_a_receipt(run: Run, kept: Path, chain: Chain) -> None:
    """A CAR file, or a folder, is not copied; a file that is there is not written over."""
    (receipt,) = chain(1)
    assert run(f"ipfs://{receipt}").returncode == 0
    assert "--car is for the chain of a receipt, or the log of a record" in run(kept, "--car", "x.car").stderr
    assert run(receipt, "--car", "x.car").returncode == 0
    assert run(receipt, "--car", "y.car", "--no-evidence").returncode == 0
    assert "File exists" in run(receipt, "--car", "x.car").stderr


def test_a_copy_to_a_pipe_that_was_cut_is_noticed(kept: Path, chain: Chain, tmp_path: Path) -> None:
    """Whoever reads it leaves early: no message, and the exit code that other programs have then."""
    receipt = chain(1)[-1]
    command = [sys.executable, "-m", "pointsman", "verify", receipt, "--car", "-"]
    environment = {**os.environ, "HOME": str(tmp_path), "POINTSMAN_STORE": str(kept)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (141, b"")


def test_listing_it_imports_nothing(tmp_path: Path) -> None:
    """`pointsman --help` names the command without loading the plugin."""
    command = [sys.executable, "-X", "importtime", "-m", "pointsman", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "verify    Added by pointsman-ipfs." in done.stdout
    assert "pointsman_ipfs" not in done.stderr
