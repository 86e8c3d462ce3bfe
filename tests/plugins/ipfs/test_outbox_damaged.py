"""The outbox is damaged: nobody has to repair it, nothing kept depends on it, and what waited is found again."""

from __future__ import annotations

import logging
import random
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman import Store, UnavailableError
from pointsman._outbox import Outbox
from pointsman_ipfs import Blocks, Kubo

Damage = Callable[[Path], object]


def torn(path: Path) -> None:
    """Write over all pages but the first."""
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at : at + 64] = random.Random(at).randbytes(64)
    path.write_bytes(data)


DAMAGES: dict[str, Damage] = {
    "no database": lambda path: path.write_bytes(b"noise" * 3000),
    "its pages": torn,
    "its end": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "its head": lambda path: path.write_bytes(bytes(100) + path.read_bytes()[100:]),
}


@pytest.fixture
def two(tmp_path: Path) -> Callable[[], Store]:
    """A function that opens two stores, the first of which has the outbox."""
    return lambda: Store({"home": Blocks(path=tmp_path / "home"), "office": Blocks(path=tmp_path / "office")})


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_outbox_is_put_aside(
    two: Callable[[], Store], tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    """All is read as before; what waited is found by comparing the stores, and health says why something waits."""
    outbox, office = tmp_path / "home" / "outbox.sqlite", tmp_path / "office"
    with two() as store:
        both = store.put(b"both").cid
        assert store.sync() == ()
        loose = store.put(b"loose", pin=False).cid
        office.rename(tmp_path / "gone")
        office.write_bytes(b"in the way")
        waited = [store.put(b"%d" % number).cid for number in range(3)]
        assert {one.cid for one in store.sync()} == set(waited)
    damage(outbox)
    with caplog.at_level(logging.WARNING, "pointsman"), two() as store:
        assert [store.get(cid) for cid in waited] == [b"0", b"1", b"2"]
        waiting = {(one.store, one.cid, one.what) for one in store.sync()}
        assert waiting == {("home", "*", "compare"), ("office", "*", "compare")}
        assert "1 in the outbox wait for it" in store.health()["office"].reason
        office.unlink()
        (tmp_path / "gone").rename(office)
        store.put(b"new")
        assert store.sync() == ()
        assert store.health()["office"].status == "healthy"
        assert {entry.cid for entry in store.ls(store="office")} == {entry.cid for entry in store.ls(store="home")}
        assert {*waited, both} < {entry.cid for entry in store.ls(store="office")}
        assert not store.has(loose, store="office")
    assert len([line for line in caplog.messages if "put_aside" in line]) == 1
    assert len(list(outbox.parent.glob("outbox.sqlite.damaged-*"))) == 1


def test_what_is_let_go_meanwhile_does_not_come_back(two: Callable[[], Store], tmp_path: Path) -> None:
    """The comparison finds it pinned in a store that could not be told yet: it is not brought to the others."""
    with two() as store:
        cid = store.put(b"let go").cid
        assert store.sync() == ()
    (tmp_path / "home" / "outbox.sqlite").write_bytes(b"noise" * 3000)
    with two() as store:
        store.unpin(cid)
        assert store.sync() == ()
        assert list(store.ls(store="home")) == list(store.ls(store="office")) == []


@pytest.mark.parametrize("damaged", [b"noise" * 3000, b""], ids=["damaged", "new"])
def test_who_opens_it_together_shares_it(start: Callable[..., Any], tmp_path: Path, damaged: bytes) -> None:
    """Neither is anybody refused, nor is a new one put aside, nor does SQLite end the process."""
    program = f"""
import logging, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pointsman._outbox import Outbox

def add(path, number, all_here):
    all_here.wait()
    outbox = Outbox(path)
    outbox.add(str(number), ["office"])
    return outbox

logging.disable()
with ThreadPoolExecutor(8) as pool:
    for number in range(15):
        path, all_here = Path({str(tmp_path)!r}, str(number), "outbox.sqlite"), threading.Barrier(8)
        path.parent.mkdir()
        path.write_bytes({damaged!r})
        opened = list(pool.map(add, [path] * 8, range(8), [all_here] * 8))
        assert {{len(one.waiting()) for one in opened}} == {{8}}
        assert len(list(path.parent.glob("*.damaged-*"))) == {bool(damaged)}
        for one in opened:
            one.close()
print("done")
"""
    said, error = start(program).communicate(timeout=60)
    assert said == "done\n", error


def test_processes_that_find_it_damaged_together_share_the_next_one(start: Callable[..., Any], tmp_path: Path) -> None:
    """One puts it aside, all go on with the new one, and what they put reaches every store.

    They do it again and again: it hangs on who comes a thousandth of a second later.
    """
    program = """
import sys
from pointsman import Store
from pointsman_ipfs import Blocks
name = sys.stdin.readline().encode()
for path in sys.stdin:
    with Store({name: Blocks(path=path.strip() + "/" + name) for name in ("home", "office")}) as store:
        store.put(name)
    print("done", flush=True)
"""
    processes = [start(program) for _ in range(6)]
    for number, one in enumerate(processes):
        one.stdin.write(f"{number}\n")
    for number in range(20):
        folder, outbox = tmp_path / str(number), tmp_path / str(number) / "home" / "outbox.sqlite"
        outbox.parent.mkdir(parents=True)
        outbox.write_bytes(b"noise" * 3000)
        for one in processes:
            one.stdin.write(f"{folder}\n")
            one.stdin.flush()
        for one in processes:
            assert one.stdout.readline() == "done\n", one.communicate()[1]
        assert len(list(outbox.parent.glob("outbox.sqlite.damaged-*"))) == 1
        with Store({name: Blocks(path=folder / name) for name in ("home", "office")}) as store:
            assert store.sync() == ()
            assert len(list(store.ls(store="home"))) == len(list(store.ls(store="office"))) == len(processes)


def test_what_is_added_to_an_outbox_that_was_put_aside_is_found(tmp_path: Path) -> None:
    """Who has it open when another process does that goes on with the new one: the old one nobody reads."""
    path = tmp_path / "outbox.sqlite"
    long, other = Outbox(path), list[Outbox]()
    long.add("before", ["office"])
    for number in range(2):
        for end in ("-wal", "-shm", ""):
            path.with_name(f"outbox.sqlite{end}").rename(tmp_path / f"outbox.sqlite{end}.damaged-{number}")
        other.append(Outbox(path))
        long.add("after", ["office"])
        assert [one.cid for one in other[-1].waiting()] == [one.cid for one in long.waiting()] == ["after"]
    for outbox in long, *other:
        outbox.close()


def test_reading_does_not_depend_on_the_outbox(two: Callable[[], Store], tmp_path: Path) -> None:
    """What is damaged in one store comes from the other one, though nothing can be noted of it: somebody keeps it."""
    with two() as store:
        cid = store.put(b"Dear Sir" * 1000).cid
        assert store.sync() == ()
        (pack,) = (tmp_path / "home" / "packs").glob("*.car")
        data = pack.read_bytes()
        pack.write_bytes(data.replace(b"Dear Sir", b"Dear Bob"))
        with sqlite3.connect(tmp_path / "home" / "outbox.sqlite") as db:
            db.execute("DROP TABLE jobs")
        db.close()
        with pytest.raises(UnavailableError, match="outbox"):
            store.put(b"more")
        assert store.get(cid) == b"Dear Sir" * 1000


def test_what_a_killed_process_was_bringing_says_so(tmp_path: Path) -> None:
    """Nobody else tries it for a minute: a person is told why, and not merely that it waits."""
    program = """
import sys, time
from pointsman import Store
from pointsman_ipfs import Blocks, Kubo
store = Store({"home": Blocks(path=sys.argv[1]), "node": Kubo(url=sys.argv[2])})
store.put(b"waits")
time.sleep(600)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen([sys.executable, "-c", program, str(tmp_path), url]) as child:
            server.settimeout(60)
            with server.accept()[0]:  # now it is being brought
                child.kill()
        with Store({"home": Blocks(path=tmp_path), "node": Kubo(url=url)}) as store:
            (left,) = store.waiting()
            assert "a process is bringing it; if it was killed" in left.reason


def test_what_is_being_brought_here_is_told_as_that(tmp_path: Path) -> None:
    """Who puts with a short timeout reads that their own node takes long, and not of another process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        node = Kubo(url=f"http://127.0.0.1:{server.getsockname()[1]}")
        with Store({"home": Blocks(path=tmp_path), "node": node}) as store:
            store.put(b"waits")
            with server.accept()[0]:
                (left,) = store.sync(timeout=0.1)
                assert left.reason == "it is being brought"
