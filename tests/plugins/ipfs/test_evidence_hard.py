"""Evidence under kills, in many processes and threads at once, and of large files: nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pyrage
import pytest
from pointsman import Store, UnavailableError
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence, Record
from pointsman_ipfs.proof import verify

#: What each process does: it submits, and prints the CID of each record that was acknowledged, with what was submitted.
WORK = """
import os, random, resource, sys, threading
from pointsman import BackendError, Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence

SIZES = (0, 10, 2048, 2048, 2048, 70_000, 5_000_000)

def submit(evidence, some, name):
    size = some.choice(SIZES)
    record = evidence.submit((name * size)[:size].encode(), About("text", name, user=name)).record
    os.write(1, f"{record.record_cid} {size} {name}\\n".encode())

def working(path, threads, count, seed):
    store = Store({"home": Blocks(path=path)})
    evidence = Evidence(store)
    def work(number):
        some = random.Random(seed * 10 + number)
        for n in range(count):
            submit(evidence, some, f"{seed}-{number}-{n}")
    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    evidence.close()
    store.close()

def until_killed(path, seed):
    working(path, 3, 1_000_000, seed)

def with_little_room(path, seed, count):
    # No file may grow beyond what is drawn anew for each: the system cuts a write that would, and refuses others.
    some, failed = random.Random(seed), 0
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with Store({"home": Blocks(path=path)}) as store, Evidence(store) as evidence:
        for n in range(count):
            files = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
            largest = max((os.path.getsize(name) for name in files if not name.endswith("reserve")), default=0)
            room = some.choice((-100_000, 0, 100, 5_000, 300_000, 8 << 20))
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(0, largest + room), hard))
            try:
                submit(evidence, some, f"{seed}-{n}")
            except BackendError:
                failed += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    sys.stderr.write(f"{failed}")
"""
#: Submits a file, and writes it again; prints by how many bytes the largest size of the process grew.
GROWN = """
from pathlib import Path

def largest():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10

def grown(path, **keys):
    with Store({"home": Blocks(path=path)}) as store, Evidence(store, **keys) as evidence, open("back", "wb") as back:
        evidence.submit(b"first", About("text"))
        before = largest()
        record = evidence.submit(Path("large"), About("video")).record
        evidence.write(record, back)
        print(largest() - before, record.size)
"""

Start = Callable[[str], "subprocess.Popen[str]"]
Forked = Callable[[Callable[[], object]], int]
Killed = Callable[[str, Path, Iterable[float]], Iterator[str]]
#: Submits three records, and is killed when the store has the last one, and the index not yet.
DYING = """
import os, signal, sys
from pathlib import Path
from pointsman import Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence

class Dying(Store):
    def import_car(self, *given, **options):
        kept = super().import_car(*given, **options)
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept

path = Path(sys.argv[1])
store = Dying({"home": Blocks(path=path / "home"), "away": Blocks(path=path / "away")})
evidence = Evidence(store, **({"recipients": sys.argv[2]} if sys.argv[2:] else {}))
for store.dies in False, False, True:
    evidence.submit(b"evidence", About("text"))
"""
#: Closes the evidence while other threads submit to it.
CLOSING = """
import sys, threading
from pathlib import Path
from time import sleep
from pointsman import Store
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence

with Store({"home": Blocks(path=Path(sys.argv[1]))}) as store, Evidence(store) as evidence:
    ended, records = threading.Event(), []
    def submit():
        while not ended.is_set():
            records.append(evidence.submit(b"evidence", About("text")).record.record_cid)
    running = [threading.Thread(target=submit) for _ in range(4)]
    for one in running:
        one.start()
    for _ in range(200):
        sleep(0.002)
        evidence.close()
    ended.set()
    for one in running:
        one.join()
    print(*records)
"""


@contextmanager
def opened(path: Path) -> Iterator[Evidence]:
    with Store({"home": Blocks(path=path)}) as store, Evidence(store) as evidence:
        yield evidence


def acknowledged(text: str) -> dict[str, tuple[int, str]]:
    lines = (line.split() for line in text.splitlines())
    return {cid: (int(size), name) for cid, size, name in lines}


def check(evidence: Evidence, there: dict[str, tuple[int, str]]) -> dict[str, Record]:
    """What was acknowledged is in the index, says what was said, and its evidence is there, whole. Return all."""
    found = {one.record_cid: one for one in evidence.records()}
    assert there.keys() <= found.keys()
    for cid, (size, name) in there.items():
        assert (found[cid].size, found[cid].user, found[cid].description) == (size, name, name)
        assert evidence.read(found[cid]) == (name * size)[:size].encode()
        evidence.confirm(found[cid])
    return found


def followed(evidence: Evidence, found: dict[str, Record]) -> set[str]:
    """The records that the ends of the log lead to."""
    seen, waiting = set[str](), list(evidence.ends())
    while waiting:
        cid = waiting.pop()
        if cid not in seen:
            seen.add(cid)
            waiting += found[cid].previous
    return seen


def test_it_may_be_closed_while_others_submit(tmp_path: Path) -> None:
    """What they submit is there; SQLite, which dies when it is closed within a change, is not."""
    done = subprocess.run([sys.executable, "-c", CLOSING, tmp_path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    with opened(tmp_path) as evidence:
        assert {one.record_cid for one in evidence.records()} == set(done.stdout.split())


class Brief(Store):
    """Waits a moment for the outbox, and not a minute."""

    def import_car(self, *given: Any, **options: Any) -> Any:
        return super().import_car(*given, **{"timeout": 0.1, **options})

    def pin(self, cid: str, *, timeout: float | None = 0.1) -> None:
        super().pin(cid, timeout=timeout)


def test_what_was_kept_and_not_acknowledged_joins_the_log(tmp_path: Path) -> None:
    """While the outbox cannot be written, on a full disk say, each record is in a store: no branch of the log hides."""
    stores = {"home": Blocks(path=tmp_path / "home"), "away": Blocks(path=tmp_path / "away")}
    with Brief(stores) as store, Evidence(store) as evidence:
        evidence.submit(b"before", About("text"))
        with closing(sqlite3.connect(tmp_path / "home" / "outbox.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(3):
                with pytest.raises(UnavailableError, match=r"the outbox .* cannot be used: "):
                    evidence.submit(b"%d" % number, About("text"))
        last = evidence.submit(b"after", About("text")).record
        found = {one.record_cid: one for one in evidence.records()}
        assert evidence.ends() == (last.record_cid,)
        assert len(found) == len(followed(evidence, found)) == 5
    assert all(check.holds for check in verify(tmp_path / "home"))


def test_kills_take_nothing_that_was_acknowledged(tmp_path: Path, killed: Killed) -> None:
    """At random instants of three threads: each is in the index and in the chain, before and after `reindex`."""
    some, path, there = random.Random(7), tmp_path / "store", dict[str, tuple[int, str]]()
    seconds = [some.uniform(0.03, 0.2) for _ in range(40)]
    for n, said in enumerate(killed(WORK, path, seconds)):
        there |= acknowledged(said)
        if n == 20:  # what was begun and not acknowledged joins the log, if it is in the store
            with opened(path) as evidence:
                evidence.reindex()
    with opened(path) as evidence:
        found = check(evidence, there)
        assert followed(evidence, found) == found.keys()
        assert all(check.holds for check in verify(path))
        assert evidence.reindex().unreadable == ()
        found = check(evidence, there)
        assert followed(evidence, found) == found.keys()
        assert list(evidence.store.verify()) == []
        last = evidence.submit(b"more", About("text")).record
        assert evidence.ends() == (last.record_cid,)
    assert len(there) >= 20


@pytest.mark.parametrize("key", [None, pyrage.x25519.Identity.generate()])
def test_what_the_index_lacks_after_a_kill_is_entered_with_the_next_record(tmp_path: Path, key: Any) -> None:
    """Nobody repairs anything by hand: `verify` holds before and after, the log has one end, and all stores get it."""
    keys = [] if key is None else [str(key.to_public())]
    done = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), *keys], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL

    def told(words: str) -> list[str]:
        checks = list(verify(tmp_path / "home", identity=key and str(key)))
        assert all(check.holds for check in checks), checks
        return [check.text for check in checks if words in check.text]

    assert len(told("of 2 records it says what they say themselves; 1 record more")) == 1
    both = {name: Blocks(path=tmp_path / name) for name in ("home", "away")}
    with Store(both) as store, Evidence(store, identity=key and str(key)) as evidence:
        assert len(list(evidence.records())) == 2
        last = evidence.submit(b"evidence", About("text")).record
        records = list(evidence.records())
        assert [one.previous for one in records] == [(), *((one.record_cid,) for one in records[:-1])]
        assert (len(records), evidence.ends()) == (4, (last.record_cid,))
        store.sync()
        assert [copy.state for copy in store.status(records[2].record_cid)] == ["kept", "kept"]
    assert len(told("of 4 records it says what they say themselves")) == 1


class Refusing(Store):
    """Of which no store takes anything."""

    def import_car(self, *given: Any, **options: Any) -> NoReturn:
        raise UnavailableError("there is no room")


def test_what_the_index_lacks_after_a_kill_waits_for_a_record_that_is_kept(tmp_path: Path) -> None:
    """It was forgotten when the next record found no room, or when a store before the one that has it was away."""
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], timeout=60, check=False)
    index, outbox = tmp_path / "home" / "evidence.sqlite", tmp_path / "outbox.sqlite"
    broken = tmp_path / "broken"
    broken.touch()
    stores = {"broken": Blocks(path=broken), "home": Blocks(path=tmp_path / "home")}
    with Refusing(stores, outbox=outbox) as store, Evidence(store, index) as evidence:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="there is no room"):
                evidence.submit(b"evidence", About("text"))
    with Store(stores, outbox=outbox) as store, Evidence(store, index) as evidence:
        last = evidence.submit(b"evidence", About("text")).record
        assert (len(list(evidence.records())), evidence.ends()) == (4, (last.record_cid,))


def test_what_was_taken_out_is_not_entered_again(tmp_path: Path) -> None:
    """Though it was submitted last, and the index was made anew since."""
    with opened(tmp_path) as evidence:
        last = evidence.submit(b"secret", About("text")).record
        evidence.store.unpin(last.record_cid)
    for path in tmp_path.glob("evidence.sqlite*"):
        if path.suffix != ".lock":
            path.unlink()
    with opened(tmp_path) as evidence:
        after = evidence.submit(b"other", About("text")).record
        assert list(evidence.records()) == [after]


@pytest.mark.parametrize("seed", range(2))
def test_writes_that_fail_take_nothing_that_was_acknowledged(tmp_path: Path, start: Start, seed: int) -> None:
    """For evidence, record or index there may be no room: it is there, or it was not acknowledged."""
    path = tmp_path / "store"
    child = start(f"{WORK}with_little_room({str(path)!r}, {seed}, 120)")
    said, failed = child.communicate(timeout=300)
    assert child.returncode == 0, failed
    there = acknowledged(said)
    assert int(failed) > 10
    assert len(there) > 10
    with opened(path) as evidence:
        check(evidence, there)
        assert evidence.reindex().unreadable == ()
        found = check(evidence, there)
        assert followed(evidence, found) == found.keys()


def test_processes_and_threads_submit_at_once(tmp_path: Path, start: Start) -> None:
    """Nothing is lost, nobody hangs; the records are one chain, each with one before it, and the index says so too."""
    path = tmp_path / "store"
    working = [start(f"{WORK}working({str(path)!r}, 4, 20, {n})") for n in range(5)]
    there = dict[str, tuple[int, str]]()
    for one in working:
        said, errors = one.communicate(timeout=300)
        assert (one.returncode, errors) == (0, "")
        there |= acknowledged(said)
    assert len(there) == 400
    with opened(path) as evidence:
        found = check(evidence, there)
        records = list(found.values())
        assert [one.previous for one in records] == [(), *[(one.record_cid,) for one in records[:-1]]]
        assert evidence.ends() == (records[-1].record_cid,)
        evidence.reindex()
        assert list(evidence.records()) == records


def test_threads_of_one_process_wait_for_the_disk_together(tmp_path: Path) -> None:
    """And two `Evidence` of one process are as good as two processes."""
    with opened(tmp_path / "store") as one, Evidence(one.store) as other:

        def work(evidence: Evidence, number: int) -> None:
            for n in range(20):
                evidence.submit(f"{number} {n}".encode(), About("text"))

        threads = [threading.Thread(target=work, args=((one, other)[n % 2], n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        records = list(one.records())
        assert len(records) == len({record.cid for record in records}) == 160
        assert list(other.records()) == records
        assert len(followed(one, {record.record_cid: record for record in records})) == 160


def test_a_forked_child_submits_on_its_own(tmp_path: Path, forked: Forked) -> None:
    """With connections of its own, to the log of its parent."""

    def work() -> None:
        assert evidence.submit(b"of the child", About("text")).record.previous

    with opened(tmp_path / "store") as evidence:
        first = evidence.submit(b"before", About("text")).record
        assert os.waitpid(forked(work), 0)[1] == 0
        after = evidence.submit(b"after", About("text")).record
        found = list(evidence.records())
        assert [one.record_cid for one in found][::2] == [first.record_cid, after.record_cid]
        assert evidence.read(found[1]) == b"of the child"
        assert after.previous == (found[1].record_cid,)


def test_what_a_child_submits_stays_when_its_parent_ends(tmp_path: Path, forked: Forked) -> None:
    """The parent closes the index before the child, which goes on with it; both have submitted."""
    (reader, writer), (told, tell) = os.pipe(), os.pipe()

    def work() -> None:
        os.close(writer)
        evidence.submit(b"of the child", About("text"))
        os.write(tell, b".")
        os.read(reader, 1)  # until its parent has closed it
        evidence.submit(b"of the child, later", About("text"))
        assert len(list(evidence.records())) == 3

    with opened(tmp_path / "store") as evidence:
        evidence.submit(b"before", About("text"))
        child = forked(work)
        os.close(tell)
        os.read(told, 1)
    for end in (writer, reader, told):
        os.close(end)
    assert os.waitpid(child, 0)[1] == 0
    with opened(tmp_path / "store") as evidence:
        assert [evidence.read(one) for one in evidence.records()] == [
            b"before",
            b"of the child",
            b"of the child, later",
        ]


def test_what_one_submits_stays_when_another_one_opens_the_index_beside_it(tmp_path: Path) -> None:
    """The system lets go of what SQLite has locked for a process when that closes any file of it: nothing does."""
    code = """
import sys
from mediator import Mediator
with Mediator(path=sys.argv[1]) as mediator:
    mediator.submit_evidence(b"elsewhere", "text")
"""
    with opened(tmp_path / "store") as evidence, Evidence(evidence.store) as beside:
        for data in b"first", b"second", b"third":
            evidence.submit(data, About("text"))
            assert list(beside.records())[-1].size == len(data)
            subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], timeout=60, check=True)
    with opened(tmp_path / "store") as evidence:
        read = [evidence.read(one) for one in evidence.records()]
        assert read == [b"first", b"elsewhere", b"second", b"elsewhere", b"third", b"elsewhere"]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # it is what is tested here
def test_a_child_of_a_process_whose_threads_submit_can_submit(tmp_path: Path, forked: Forked) -> None:
    """It has none of these threads, and waits for nothing that they were doing when it was forked."""

    def work(number: int) -> None:
        for n in range(60):
            evidence.submit(b"%d-%d" % (number, n), About("text"))

    with opened(tmp_path / "store") as evidence:
        evidence.submit(b"before", About("text"))
        running = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in running:
            thread.start()
        children = [forked(partial(evidence.submit, b"child %d" % n, About("text"))) for n in range(10)]
        for thread in running:
            thread.join()
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
        assert len(list(evidence.records())) == 1 + 8 * 60 + 10
        assert len(evidence.ends()) == 1


def test_a_child_that_lives_on_keeps_nothing_locked(tmp_path: Path, forked: Forked) -> None:
    """Although it was forked in the middle of a change: what its parent holds, its parent lets go."""
    reader, writer = os.pipe()

    def live_on() -> None:
        os.close(writer)
        os.read(reader, 1)  # until its parent closes the other end

    with opened(tmp_path / "store") as evidence:
        evidence.submit(b"before", About("text"))
        with evidence._index.changing():
            child = forked(live_on)
        with opened(tmp_path / "store") as another:
            assert another.submit(b"after", About("text")).record.previous
    os.close(writer)
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("encrypted", [False, True])
def test_memory_stays_flat(tmp_path: Path, start: Start, encrypted: bool) -> None:
    """A file of 200 MiB, in clear or encrypted, is never whole in memory, nor a third of it; it is the same again."""
    size = 200 << 20
    keys = "identity=str(__import__('pyrage').x25519.Identity.generate())" if encrypted else ""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(random.Random(1).randbytes(1 << 20))
    said, errors = start(f"{WORK}{GROWN}grown('store', {keys})").communicate(timeout=300)
    assert errors == ""
    grown, seen = map(int, said.split())
    assert seen == size
    assert grown <= 60 << 20
    assert subprocess.run(["cmp", "large", "back"], cwd=tmp_path, check=False).returncode == 0
