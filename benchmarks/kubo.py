"""What a put and a get on a Kubo node take through Pointsman, and with plain `requests` through Kubo's `add` and `cat`.

    python benchmarks/kubo.py [--quick] [--ipfs .tools/kubo/ipfs]

Two nodes of the same program, on the same disk, get the same fresh bytes in each round: one from us, one from `add`,
which is told to make the same blocks. We hash every block before it goes and after it comes; the other side trusts.
Target: a large put >= 0.7 x, a large get >= 0.5 x as fast as the trusting way.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import requests
from _measure import arguments, interleaved, table, times
from pointsman import Scope
from pointsman.content import Source
from pointsman_ipfs import Gateway, Kubo

_BINARY = Path(__file__).parents[1] / ".tools" / "kubo" / "ipfs"
_SAME = "cid-version=1&raw-leaves=true&chunker=size-1048576&max-file-links=1024&quieter=true&progress=false"


@contextmanager
def node(binary: Path) -> Iterator[tuple[str, str]]:
    """Run a node in a folder of its own; give the addresses of its API and of its gateway."""
    home = tempfile.mkdtemp(prefix="pointsman-kubo-")
    environment = {**os.environ, "IPFS_PATH": home, "IPFS_TELEMETRY": "off"}

    def run(*command: str) -> None:
        subprocess.run([binary, *command], env=environment, check=True, capture_output=True)

    try:
        run("init", "--profile=test,unixfs-v1-2025")
        run("config", "--json", "Addresses.Swarm", "[]")
        run("config", "Routing.Type", "none")
        run("config", "--json", "Provide.Enabled", "false")
        with subprocess.Popen([binary, "daemon", "--offline"], env=environment, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout is not None
            said = ""
            while "Daemon is ready" not in said and (line := daemon.stdout.readline()):
                said += line.decode()
            ports = dict(re.findall(r"(RPC API|Gateway) server listening on /ip4/127.0.0.1/tcp/(\d+)", said))
            try:
                yield f"http://127.0.0.1:{ports['RPC API']}", f"http://127.0.0.1:{ports['Gateway']}"
            finally:
                daemon.terminate()
    finally:
        shutil.rmtree(home)


class Contest:
    """The same bytes, put and got in several ways; each time is that of one MiB, or of one small file, in ms."""

    def __init__(self, ours: tuple[str, str], theirs: str, session: requests.Session, size: int) -> None:
        self.kubo, self.gateway = Kubo(url=ours[0]), Gateway(url=ours[1])
        self.theirs, self.session, self.size = theirs, session, size
        self.data, self.cids = b"", dict[str, str]()

    def fresh(self) -> None:
        """Make other bytes: a node writes nothing that it has."""
        self.data = os.urandom(self.size)

    def timed(self, work: Callable[[], object]) -> Callable[[], float]:
        """Return a function that does it once, and returns how many ms it took."""

        def run() -> float:
            started = perf_counter()
            work()
            return (perf_counter() - started) * 1e3 / max(1.0, self.size / (1 << 20))

        return run

    def put(self) -> None:
        """Put through us."""
        source = Source(file=io.BytesIO(self.data))
        self.cids["ours"] = self.kubo.store(source, Scope(600)).cid

    def add(self) -> None:
        """Put with `add`."""
        answer = self.session.post(f"{self.theirs}/api/v0/add?{_SAME}", files={"file": io.BytesIO(self.data)})
        self.cids["theirs"] = answer.json()["Hash"]

    def get(self, store: Kubo | Gateway) -> None:
        """Get through us."""
        assert sum(map(len, store.fetch(self.cids["ours"], 0, None, Scope(600)))) == self.size

    def cat(self) -> None:
        """Get with `cat`."""
        with self.session.post(f"{self.theirs}/api/v0/cat?arg={self.cids['theirs']}", stream=True) as answer:
            assert sum(map(len, answer.iter_content(1 << 20))) == self.size

    def contestants(self) -> dict[str, Callable[[], float]]:
        """Return the ways to put, and those to get what was put."""
        return {
            "put": self.timed(self.put),
            "add with requests": self.timed(self.add),
            "get": self.timed(lambda: self.get(self.kubo)),
            "get from the gateway": self.timed(lambda: self.get(self.gateway)),
            "cat with requests": self.timed(self.cat),
        }


def main() -> None:
    """Measure, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--ipfs", type=Path, default=_BINARY, help="the program")
    given = parser.parse_args()
    if not given.ipfs.exists():
        parser.error(f"{given.ipfs} is not there; build it as tests/plugins/ipfs/kubo/go.mod says")
    sizes = {"1 MiB of 256": 8 << 20 if given.quick else 256 << 20, "2 KB": 2000}
    rows = []
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(node(given.ipfs)) for _ in range(2))
        session = stack.enter_context(requests.Session())
        session.trust_env = False
        for what, size in sizes.items():
            contest = Contest(ours, theirs[0], session, size)
            found = measured(contest, rounds(size, given.quick))
            assert contest.cids["ours"] == contest.cids["theirs"]
            for name, base in (("put", "add with requests"), ("get", "cat with requests")):
                for way in (name, *(["get from the gateway"] if name == "get" else []), base):
                    took = median(found[way])
                    rows.append([f"{way}, {what}", f"{took:.2f} ms", f"{times(found, base, way):.2f} x"])
            contest.kubo.close()
            contest.gateway.close()
    table(["", "wall", "speed"], rows)


def rounds(size: int, quick: bool) -> int:
    """Return how often it is measured."""
    return 2 if quick else 9 if size > 1 << 20 else 200


def measured(contest: Contest, count: int) -> dict[str, list[float]]:
    """Measure every way in each round, with bytes that are fresh then: first the puts, in turn, then the gets."""
    ways = contest.contestants()
    puts = {name: ways[name] for name in ("put", "add with requests")}
    gets = {name: way for name, way in ways.items() if name not in puts}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(count):
        contest.fresh()
        for group in puts, gets:
            order = dict(list(group.items())[:: 1 if number % 2 else -1])
            for name, took in interleaved(order, 1).items():
                found[name] += took
    return found


if __name__ == "__main__":
    main()
