"""Blocks in memory, files with known content, and a real Kubo on loopback."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from base64 import b32encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.util import find_spec
from linecache import getline
from pathlib import Path
from select import select
from time import sleep
from types import CodeType, FrameType
from typing import Any

import pytest
from attrs import evolve, frozen
from pointsman import Chunk, Completion, Request, Router, Store, UnavailableError, Usage, hookimpl
from pointsman_ipfs import Blocks as KeptBlocks
from pointsman_ipfs import Receipts
from pointsman_ipfs.dag import car
from pointsman_ipfs.dag.block import verified
from pointsman_ipfs.dag.unixfs import Profile
from pointsman_ipfs.evidence import Evidence

_KUBO = Path(__file__).parents[3] / ".tools" / "kubo" / "ipfs"
#: Nothing leaves the machine, and nothing waits for a network.
_SETTINGS = (("--json", "Addresses.Swarm", "[]"), ("Routing.Type", "none"), ("--json", "Provide.Enabled", "false"))
#: Starts, for each line that it is told, a child that works until it is killed: starting Python takes too long.
_NURSERY = """
import os, signal, sys
for line in sys.stdin:
    path, number = line.split()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        until_killed(path, int(number))
        signal.pause()
    os.write(2, f"{child}\\n".encode())
    os.waitpid(child, 0)
    os.write(2, b"gone\\n")
"""


class Blocks(dict[bytes, bytes]):
    """Blocks by their CIDs: `put` and `get` of the functions under test. It counts what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def put(self, cid: bytes, data: bytes) -> None:
        assert verified(cid, data) is data
        self[cid] = data

    def fetch(self, cid: bytes) -> bytes:
        self.asked.append(cid)
        return self[cid]


@frozen
class Kubo:
    """A node: its command line, and the addresses of its API and its gateway if it runs as a daemon."""

    binary: Path
    home: Path
    api: str = ""
    gateway: str = ""
    daemon: Any = None

    @property
    def socket(self) -> Path:
        """The unix socket of its API: paths of those are short."""
        return Path("/tmp", f"pointsman-{os.getpid()}-{self.home.name}.sock")

    def block_file(self, cid: bytes) -> Path:
        """Return where a block is on the disk: by its multihash in base32, in a folder of two letters of that."""
        name = b32encode(cid[-34:]).decode().rstrip("=")
        return self.home / "blocks" / name[-3:-1] / f"{name}.data"

    def run(self, *arguments: str | Path, stdin: bytes = b"") -> bytes:
        """Run a command and return what it prints."""
        command = [str(self.binary), *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, env=self.environment(), check=False)
        assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    def add(self, profile: Profile, *options: str | Path) -> dict[str, str]:
        """Add paths as a profile says, and return the CIDs by the names that Kubo prints."""
        raw = str(profile.raw_leaves).lower()
        flags = f"--cid-version={profile.version}", f"--raw-leaves={raw}", f"--chunker=size-{profile.chunk}"
        widths = f"--max-file-links={profile.width}", f"--max-hamt-fanout={profile.fanout}"
        lines = self.run("add", "--recursive", *flags, *widths, *options).splitlines()
        return {os.fsdecode(name): cid.decode() for _, cid, name in (line.split(b" ", 2) for line in lines)}

    def environment(self) -> dict[str, str]:
        return {**os.environ, "IPFS_PATH": str(self.home), "IPFS_TELEMETRY": "off"}


def kubo_binary() -> Path:
    """Return the program that `go build` made of the module in kubo/."""
    if not _KUBO.exists():
        pytest.fail(f'{_KUBO} is not there: build it as tests/plugins/ipfs/kubo/go.mod says, or leave out "kubo"')
    return _KUBO


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture(scope="session")
def noise() -> Callable[[int, int], bytes]:
    """A function that returns so many bytes that look random, the same for the same seed."""
    return lambda size, seed: random.Random(seed).randbytes(size)


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Callable[[Profile], Kubo]:
    """A function that returns the node which estimates sizes of folders as a profile does: no request can say it."""
    return lambda profile: request.getfixturevalue("kubo" if profile.by_block else "classic_kubo")


@pytest.fixture(scope="session")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """A daemon that imports as `unixfs-v1-2025` says, and listens on a unix socket, too."""
    with _folder(tmp_path_factory, "kubo") as home:
        node = _initialised(home, "test,unixfs-v1-2025")
        listens = ["/ip4/127.0.0.1/tcp/0", f"/unix{node.socket}"]
        node.run("config", "--json", "Addresses.API", json.dumps(listens))
        with _running(node) as started:
            yield started


@pytest.fixture(scope="module")
def own_kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """A daemon of the tests of one file: nobody else has pinned anything there."""
    with _folder(tmp_path_factory, "own") as home, _running(_initialised(home, "test,unixfs-v1-2025")) as started:
        yield started


@pytest.fixture
def spare_kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """A node of the test's own, which it may start with `running`, configure and damage."""
    with _folder(tmp_path_factory, "spare") as home:
        yield _initialised(home, "test,unixfs-v1-2025")


@pytest.fixture
def running() -> Callable[[Kubo], AbstractContextManager[Kubo]]:
    """Run the daemon of a node, and end it: `with running(spare_kubo) as node`."""
    return _running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An embedded store, in the folder `home`."""
    with Store({"home": KeptBlocks(path=tmp_path / "home")}) as store:
        yield store


@pytest.fixture
def evidence(store: Store) -> Iterator[Evidence]:
    """The evidence in that store."""
    with Evidence(store) as evidence:
        yield evidence


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A function that starts a process with a program in Python; none outlives the test."""
    started = list[subprocess.Popen[str]]()

    def start(program: str) -> subprocess.Popen[str]:
        pipe, command = subprocess.PIPE, [sys.executable, "-c", program]
        started.append(subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def killed(start: Callable[[str], subprocess.Popen[str]]) -> Callable[[str, Path, Iterable[float]], Iterator[str]]:
    """A function that runs `until_killed(path, number)` of a program, kills it after so many seconds, again and again,
    and gives out what each has printed: `killed(program, path, seconds)`. Every other one has first printed something:
    a slow machine would kill all of them before."""

    def killed(program: str, path: Path, seconds: Iterable[float]) -> Iterator[str]:
        nursery = start(program + _NURSERY)
        assert nursery.stdin
        assert nursery.stdout
        assert nursery.stderr
        os.set_blocking(nursery.stdout.fileno(), False)
        for number, wait in enumerate(seconds):
            nursery.stdin.write(f"{path} {number}\n")
            nursery.stdin.flush()
            child = int(nursery.stderr.readline())
            if number % 2:
                select([nursery.stdout], [], [], 60)
            sleep(wait)
            os.kill(child, signal.SIGKILL)
            assert nursery.stderr.readline() == "gone\n"
            said = b""
            with suppress(BlockingIOError):
                while more := os.read(nursery.stdout.fileno(), 1 << 16):
                    said += more
            yield said.decode()

    return killed


@pytest.fixture
def needs_package() -> Callable[[], None]:
    """A function that leaves a test out where `ipfshttpclient` is not installed; where everything must be, it fails."""

    def needs() -> None:
        if find_spec("ipfshttpclient") is None:
            told = 'ipfshttpclient is not installed: pip install "pointsman-ipfs[ipfshttpclient]"'
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(told)

    return needs


@contextmanager
def _running(node: Kubo) -> Iterator[Kubo]:
    command = [str(node.binary), "daemon", "--offline"]
    daemon = subprocess.Popen(command, env=node.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    watch = threading.Timer(60, daemon.kill)
    watch.start()
    try:
        assert daemon.stdout
        said = ""
        for line in daemon.stdout:
            said += line.decode()
            if "Daemon is ready" in said:
                break
        else:
            pytest.fail(f"Kubo did not start: {said}")
        watch.cancel()
        ports = re.findall(r"(RPC API|Gateway) server listening on /ip4/127.0.0.1/tcp/(\d+)", said)
        where = {what: f"http://127.0.0.1:{port}" for what, port in ports}
        yield evolve(node, api=where.get("RPC API", ""), gateway=where["Gateway"], daemon=daemon)
    finally:
        watch.cancel()
        daemon.terminate()
        daemon.communicate()
        node.socket.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def classic_kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """A node that nobody configured, which estimates the sizes of folders as Kubo always did; no daemon."""
    with _folder(tmp_path_factory, "classic") as home:
        yield _initialised(home, "test")


class _folder:
    """A folder that is there within a `with` statement, and not after it."""

    def __init__(self, factory: pytest.TempPathFactory, name: str) -> None:
        self._path = factory.mktemp(name)

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path)


def _initialised(home: Path, profile: str) -> Kubo:
    node = Kubo(kubo_binary(), home)
    node.run("init", f"--profile={profile}")
    for setting in _SETTINGS:
        node.run("config", *setting)
    return node


@frozen
class Says:
    """A provider that repeats what it was asked."""

    model: str = "says-1"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion(f"You said: {request.prompt}", usage=Usage(3, 5), request_id="req-1", cost=0.25)

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        yield Chunk("You ")
        if request.prompt == "break":
            raise UnavailableError("it broke")
        yield Chunk(f"said: {request.prompt}", finish_reason="stop", usage=Usage(3, 5))


@pytest.fixture
def says() -> Says:
    return Says()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the embedded store that is used if nobody says."""
    monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def chain(kept: Path) -> Callable[..., list[str]]:
    """A function that lets a router answer so many times, and returns the CIDs of the receipts, which are durable."""

    def chain(count: int = 3, **options: Any) -> list[str]:
        with Router([Says()], middleware=[Receipts(**options)]) as router:
            receipts = [router.generate(f"question {number}").receipt for number in range(count)]
        assert None not in receipts
        return [str(one) for one in receipts]

    return chain


@pytest.fixture
def block_of(kept: Path) -> Callable[[str], bytes]:
    """A function that returns the bytes of a block of that store."""

    def block(cid: str) -> bytes:
        with Store([KeptBlocks(path=kept)]) as store:
            return next(data for _, data in car.Reader(store.export_car(cid)))

    return block


class _Interrupt:
    """Raises KeyboardInterrupt in this thread before the line of this code that comes after so many others."""

    def __init__(self, after: int, counts: Callable[[CodeType], bool]) -> None:
        self.left, self.counts = after, counts

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not self.counts(frame.f_code):
            return None
        # no signal comes at the line of a `try`, nor at that of a `with`, which comes once more when that ends
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith(
            ("with ", "try")
        ):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def _interrupted(work: Callable[[], object], after: int, counts: Callable[[CodeType], bool]) -> bool:
    """Do something, interrupted before the line of this code that comes after so many; say whether it came to that."""
    before = sys.gettrace()
    sys.settrace(_Interrupt(after, counts))
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.fixture
def interrupted() -> Callable[..., bool]:
    """A function that does something, and is interrupted: `(work, after, counts)`; it says whether that came to be."""
    return _interrupted


def _forked(work: Callable[[], object]) -> int:
    """Do something in a child, and return its process. It ends with 0, and otherwise if that fails, or takes 30 s."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)  # rather than wait for ever
            work()
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.fixture
def forked() -> Callable[[Callable[[], object]], int]:
    """A function that does something in a child, and returns its process."""
    return _forked
