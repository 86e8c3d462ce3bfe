"""A store that cannot be written: on a medium that is read only, and in a folder whose modes say so."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from pointsman import ContentNotFoundError, Router, Store
from pointsman_ipfs import Blocks, Receipts
from pointsman_ipfs.dag.cid import raw_cid, to_text
from pointsman_ipfs.evidence import About, Evidence

#: Root may read and write whatever the modes say, until it has let go of these rights (CAP_DAC_OVERRIDE and
#: CAP_DAC_READ_SEARCH, of capabilities(7)).
_AS_ANYBODY = """
import ctypes, os, sys
if os.geteuid() == 0 and any(ctypes.CDLL(None).prctl(24, one, 0, 0, 0) for one in (1, 2)):
    sys.exit("root cannot let go of its rights here")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
_MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
#: What each program begins with: it knows the folder, and what was put there.
_BEGIN = """
import io, json, os, sys
from pathlib import Path
from pointsman import *
from pointsman.content import Source
from pointsman_ipfs import Blocks
from pointsman_ipfs.evidence import About, Evidence

folder, known = Path(sys.argv[1]), json.loads(sys.argv[2])
try:
    (folder / "x").touch()
except OSError:
    pass
else:
    sys.exit("it can be written")
"""
_READ = """
from mediator import Mediator

def all_of_it(store):
    assert store.get(known["letter"]) == b"Dear Sir"
    assert store.get(known["large"]) == Path(known["file"]).read_bytes()
    with store.open(known["large"], 1_500_000, 10) as content:
        assert content.read() == Path(known["file"]).read_bytes()[1_500_000:1_500_010]
    assert {one.cid for one in store.ls()} == {*known["pinned"]}
    assert [(one.name, one.kind) for one in store.ls(known["tree"])] == [("a", "file"), ("b", "file")]
    assert store.get(known["tree"] + "/b") == b"of b"
    assert store.has(known["large"])
    assert not store.has(known["unknown"])
    assert [copy.state for copy in store.status(known["tree"])] == ["kept"]
    store.extract(known["tree"], "out")
    assert Path("out/a").read_bytes() == b"of a"
    Path("letter.car").write_bytes(b"".join(store.export_car(known["tree"])))
    assert list(store.verify()) == list(store.verify(known["large"])) == []
    assert store.health()["home"].usable
    assert store.sync() == ()

with Store({"home": Blocks(path=folder)}) as store:
    all_of_it(store)
    with Evidence(store) as evidence:
        assert [one.record_cid for one in evidence.records("anna")] == known["records"]
        assert list(evidence.ends()) == known["records"][-1:]
    with Mediator(store=store) as mediator:
        assert mediator.retrieve_evidence(known["records"][0]) == b"the deposit"
        found = mediator.get_evidence_by_cid(known["evidence"])
        assert (found["verified"], found["data"], found["description"]) == (True, b"the deposit", "a receipt")
        assert len(mediator.get_user_evidence("anna")) == 2
        assert mediator.evidence_state.get_evidence_statistics()["total_count"] == 2
    if (child := os.fork()) == 0:
        code = 1
        try:
            code = store.get(known["letter"]) != b"Dear Sir"
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
with Store({"there": Blocks(path="there")}) as there:
    assert [root.cid for root in there.import_car("letter.car")] == [known["tree"]]
"""
_REFUSED = """
from pointsman import Scope
blocks = Blocks(path=folder)
car = b"".join(blocks.export_car(known["letter"], Scope()))
text = f"{folder} cannot be written, and is only read; make it writable, or name another store to keep things in"
health = blocks.health()
assert (health.status, health.reason) == ("degraded", text)

def refused(ask, *arguments, before=""):
    try:
        ask(*arguments)
    except UnavailableError as error:
        assert (str(error), error.retry_same, error.try_next) == (before + text, False, True), error
        assert len(error.attempts) == 0
    else:
        sys.exit(f"{ask} was not refused")

refused(blocks.store, Source(file=io.BytesIO(b"x")), Scope())
refused(blocks.import_car, io.BytesIO(car), True, Scope())
refused(blocks.pin, known["letter"], Scope())
refused(blocks.unpin, known["letter"], Scope())
refused(blocks.collect, Scope())
blocks.close()

with Store({"home": Blocks(path=folder)}) as store, Evidence(store) as evidence:
    for ask, *arguments in (
        (store.put, b"x"), (store.import_car, car), (store.pin, known["letter"]), (store.unpin, known["letter"]),
        (store.gc,),
    ):
        refused(ask, *arguments, before="home: ")
    text = f"the index {folder / 'evidence.sqlite'} cannot be written, and is only read"
    text += "; make it writable, or name another one"
    refused(evidence.submit, b"x", About("note"))
    refused(evidence.reindex)

with Store({"home": Blocks(path=folder), "new": Blocks(path="new")}) as store:
    stored = store.put(b"x")
    assert (stored.stored_in, stored.waiting_for) == (("new",), ())
    assert store.get(stored.cid) == b"x"
    assert store.get(known["letter"]) == b"Dear Sir"
    assert [one.writable for one in store.stores] == [False, True]
    store.unpin(stored.cid)
    assert list(store.gc()) == ["new"]
    with Evidence(store, "new/evidence.sqlite") as evidence:
        assert [one.record_cid for one in evidence.records("anna")] == known["records"]
        assert evidence.submit(b"more", About("note", user="anna")).record.previous == (known["records"][-1],)

with Store({"home": Blocks(path=folder), "new": Blocks(path="new"), "office": Blocks(path="office")}) as store:
    stored = store.put(b"y")
    assert (stored.stored_in, stored.waiting_for) == (("new",), ("office",))
    assert store.sync() == ()
    assert [one.state for one in store.status(stored.cid)] == ["absent", "kept", "kept"]
"""
_DAMAGED = """
with Store({"home": Blocks(path=folder)}) as store:
    for _ in range(2):
        try:
            store.get(known["large"])
        except UnusableAnswer as error:
            assert str(error).endswith("was damaged on this disk")
        else:
            sys.exit("it was read")
        assert {one.cid for one in store.verify()} == {known["leaf"], known["large"]}
    assert store.get(known["letter"]) == b"Dear Sir"
    assert not store.has(known["large"])
"""
_BESIDE = """
store = Store({"home": Blocks(path=folder)})
evidence = Evidence(store)
assert store.get(known["letter"]) == b"Dear Sir"
assert len(list(evidence.records("anna"))) == 2
for line in sys.stdin:
    what, cid = line.split()
    if what == "evidence":
        said = [one.record_cid for one in evidence.records("anna")][-1] == cid
    elif what == "pinned":
        said = cid in {one.cid for one in store.ls()}
    elif what == "put":
        said = store.put(b"by the child").stored_in == ("home",)
    else:
        said = bool(store.get(cid))
    print(said, flush=True)
"""


@define
class Medium:
    """A folder with a store, that can be written by nobody who is started with `run`.

    :param how: "mounted" read only; or what the "modes" of all in it, or of the "folder" alone, forbid.
    """

    folder: Path
    how: str
    known: dict[str, Any] = field(factory=dict)
    _before: dict[str, tuple[int, int, bytes]] = field(factory=dict)

    def seal(self) -> None:
        """Let it be read only from now on."""
        for path in self.folder.rglob("*") if self.how == "modes" else ():
            path.chmod(0o555 if path.is_dir() else 0o444)
        if self.how != "mounted":
            self.folder.chmod(0o555)
        self._before = self._all()

    def unseal(self) -> None:
        """Let everybody write again."""
        for path in (self.folder, *self.folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def command(self, *arguments: str) -> list[str]:
        """Return what starts Python with these arguments, where the folder cannot be written."""
        if self.how == "mounted":
            return ["unshare", "-m", "sh", "-c", _MOUNT, str(self.folder), sys.executable, *arguments]
        return [sys.executable, "-c", _AS_ANYBODY, *arguments]

    def program(self, text: str) -> list[str]:
        """Return what runs a program there."""
        return self.command("-c", _BEGIN + text, str(self.folder), json.dumps(self.known))

    def run(self, command: list[str], code: int = 0) -> str:
        """Run it beside the folder; see that it ends so, and that nothing is changed. Return what it has printed."""
        done = subprocess.run(command, cwd=self.folder.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr or done.stdout
        assert self._all() == self._before
        return done.stdout

    def _all(self) -> dict[str, tuple[int, int, bytes]]:
        """Return the names in the folder, with modes, times and bytes."""
        found = {}
        for path in (self.folder, *self.folder.rglob("*")):
            said, data = path.stat(), b"" if path.is_dir() else path.read_bytes()
            found[str(path)] = said.st_mode, said.st_mtime_ns, data
        return found


def _overwritten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + random.Random(7).randbytes(path.stat().st_size - 100))


def _of_another_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
        db.execute("PRAGMA journal_mode=DELETE")


def _without(ends: str) -> Callable[[Path], None]:
    return lambda path: Path(f"{path}{ends}").unlink()


def _of_a_backup(path: Path) -> None:
    """Its packs were moved into another one since, as the index says."""
    if path.name == "index.sqlite":
        with closing(sqlite3.connect(path)) as db:
            db.executescript("INSERT INTO gone SELECT name FROM packs; DELETE FROM packs; DELETE FROM blocks;")


#: How a medium was made: of a store that was closed, or open; and what has become of its indexes.
MADE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "closed": ("closed", bool),
    "open": ("open", bool),
    "without what processes share": ("open", _without("-shm")),
    "of the packs alone": ("closed", _without("")),
    "with indexes that are damaged": ("closed", _overwritten),
    "with packs of a backup": ("closed", _of_a_backup),
    "with indexes of another version": ("closed", _of_another_version),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder with two copies of a store, `closed` and `open`, and what is in them. Something waits in the outbox."""
    root = tmp_path_factory.mktemp("made")
    large = random.Random(8).randbytes(3 << 20)
    (root / "large").write_bytes(large)
    (root / "tree").mkdir()
    for name in "ab":
        (root / "tree" / name).write_text(f"of {name}")
    home = {"home": Blocks(path=root / "closed")}
    with Store(home) as store, Evidence(store) as evidence:
        cids = {name: store.put(root / name).cid for name in ("tree", "large")}
        records = [evidence.submit(b"the deposit", About("document", "a receipt", user="anna")).record]
    with Store({**home, "office": Blocks(path=root / "large" / "none")}) as store, Evidence(store) as evidence:
        # What came so far is in the indexes; what comes now is in their logs.
        records.append(evidence.submit(b"a photo", About("photo", user="anna")).record)
        cids["letter"] = store.put(b"Dear Sir").cid
        store.unpin(store.put(b"let go").cid)
        shutil.copytree(root / "closed", root / "open")
    for copy in "closed", "open":
        (root / copy / "packs" / f"{0:032x}.new").touch()  # of a process that was killed
    pinned = [*cids.values(), *(one.record_cid for one in records)]
    known = {
        **cids,
        "pinned": pinned,
        "records": [one.record_cid for one in records],
        "evidence": records[0].cid,
        "unknown": to_text(raw_cid(b"unknown")),
        "leaf": to_text(raw_cid(large[1 << 20 : 2 << 20])),
        "file": str(root / "large"),
    }
    yield root, known
    shutil.rmtree(root)


@pytest.fixture(params=["mounted", "modes", "folder"])
def medium(
    request: pytest.FixtureRequest, tmp_path: Path, made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Medium]:
    """The store that was closed, as a medium. Where no store can be written, the outbox is in the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    medium = Medium(tmp_path / "a medium? #1%", request.param, made[1])
    if (
        medium.how == "mounted"
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("nothing can be mounted here: that the modes of a folder forbid to write is all that is tested")
    shutil.copytree(made[0] / "closed", medium.folder)
    yield medium
    medium.unseal()


@pytest.mark.parametrize("how", MADE)
def test_all_is_read(medium: Medium, how: str, made: tuple[Path, dict[str, Any]]) -> None:
    """However the medium was made, by every call that reads: and nothing on it is changed."""
    copy, spoil = MADE[how]
    shutil.rmtree(medium.folder)
    shutil.copytree(made[0] / copy, medium.folder)
    for name in "index.sqlite", "evidence.sqlite":
        spoil(medium.folder / name)
    if how == "of the packs alone":
        for path in set(medium.folder.iterdir()) - {medium.folder / "packs"}:
            path.unlink()
    medium.seal()
    medium.run(medium.program(_READ))


def test_what_the_index_lacks_is_found(medium: Medium, made: tuple[Path, dict[str, Any]]) -> None:
    """Where the packs have grown since the index was written: all that counts of them is read."""
    shutil.copyfile(made[0] / "open" / "index.sqlite", medium.folder / "index.sqlite")
    with closing(sqlite3.connect(medium.folder / "index.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM pins").fetchone() == (3,)
    medium.seal()
    medium.run(medium.program(_READ))


def test_a_put_that_was_not_entered_is_found(medium: Medium) -> None:
    """Where a process was killed when a long put was durable, and the index still says that it runs."""
    with closing(sqlite3.connect(medium.folder / "index.sqlite")) as db:
        db.executescript("UPDATE packs SET size=0, since=1; DELETE FROM blocks; DELETE FROM pins")
    medium.seal()
    medium.run(medium.program(_READ))


def test_whatever_writes_is_refused(medium: Medium) -> None:
    """At once, with the folder and what to do; another store takes it, and nothing waits for the one that cannot."""
    medium.seal()
    medium.run(medium.program(_REFUSED))


def test_damage_is_told_and_stays(medium: Medium) -> None:
    """What is wrong is refused, and found by `verify`, each time: nothing is put aside."""
    there = Path(medium.known["file"]).read_bytes()[1 << 20 :][:50]
    (path,) = (path for path in (medium.folder / "packs").iterdir() if there in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(there, bytes(50)))
    medium.seal()
    medium.run(medium.program(_DAMAGED))


def test_the_commands_read_it(medium: Medium, says: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """`store get`, `ls`, `verify`, `export`, and `pointsman verify` of the folder, with receipts in it."""
    with Store([Blocks(path=medium.folder)]) as store, Router([says], middleware=[Receipts(store=store)]) as router:
        receipt = router.generate("question").receipt
    monkeypatch.setenv("POINTSMAN_STORE", str(medium.folder))
    medium.seal()

    def said(*arguments: str, code: int = 0) -> str:
        return medium.run(medium.command("-m", "pointsman", *arguments), code)

    assert said("store", "get", medium.known["letter"]) == "Dear Sir"
    assert medium.known["tree"] in said("store", "ls")
    assert said("store", "verify", "--json") == "[]\n"
    said("store", "export", medium.known["letter"], "-o", "letter.car")
    assert b"Dear Sir" in (medium.folder.parent / "letter.car").read_bytes()
    assert "fails" not in said("verify", str(medium.folder))
    assert "fails" not in said("verify", str(receipt))
    said("store", "put", medium.known["file"], code=1)


def test_what_others_write_meanwhile_is_found(medium: Medium) -> None:
    """By whoever may only read: content, pins, evidence; and what stands elsewhere since a collection."""
    if medium.how != "mounted" and os.geteuid():
        pytest.skip("who made these modes is not root, and can write no more than those who only read")
    with Store({"home": Blocks(path=medium.folder)}) as store:
        loose = store.put(random.Random(9).randbytes((4 << 20) - 10_000), pin=False)
    medium.seal()
    child = subprocess.Popen(
        medium.program(_BESIDE), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=medium.folder.parent
    )

    def says(what: str, cid: str) -> bool:
        assert child.stdin
        assert child.stdout
        child.stdin.write(f"{what} {cid}\n")
        child.stdin.flush()
        return child.stdout.readline() == "True\n"

    try:
        assert says("get", loose.cid)
        with Store({"home": Blocks(path=medium.folder)}) as store, Evidence(store) as evidence:
            for n in range(3):
                new = store.put(f"new {n}".encode()).cid
                assert says("get", new)
                assert says("pinned", new)
                assert says("evidence", evidence.submit(b"more", About("note", user="anna")).record.record_cid)
            packs = set((medium.folder / "packs").iterdir())
            assert store.gc()["home"].blocks
            assert not packs <= set((medium.folder / "packs").iterdir())
            assert says("get", medium.known["letter"])
            assert says("get", new)
            assert says("pinned", new)
    finally:
        child.communicate(timeout=60)
    assert child.returncode == 0


@pytest.mark.parametrize("medium", ["modes", "folder"], indirect=True)
def test_what_becomes_writable_is_written(medium: Medium) -> None:
    """By the same process, which has read it so far."""
    medium.seal()
    child = subprocess.Popen(
        medium.program(_BESIDE), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=medium.folder.parent
    )
    assert child.stdout
    assert child.stdin
    child.stdin.write(f"get {medium.known['letter']}\n")
    child.stdin.flush()
    assert child.stdout.readline() == "True\n"
    medium.unseal()
    assert child.communicate("put x\n", timeout=60)[0] == "True\n"
    with Store([Blocks(path=medium.folder)]) as store:
        assert store.get(to_text(raw_cid(b"by the child"))) == b"by the child"


def test_where_no_store_is_reading_makes_none(tmp_path: Path) -> None:
    """It is an empty store, until a put makes it, here or in another process; which is then found."""
    path, nothing = tmp_path / "a" / "store", to_text(raw_cid(b"nothing"))
    with Store({"here": Blocks(path=path)}) as store, Store({"there": Blocks(path=path)}) as other:
        for _ in range(2):
            assert (list(store.ls()), list(store.verify()), store.has(nothing)) == ([], [], False)
            for ask in store.get, store.pin:
                with pytest.raises(ContentNotFoundError):
                    ask(nothing)
            store.unpin(nothing)
            assert store.gc()["here"].blocks == 0
        assert list(tmp_path.iterdir()) == []
        first = other.put(b"there").cid
        assert store.get(first) == b"there"
        assert other.get(store.put(b"here").cid) == b"here"
        assert len(list(store.ls())) == 2


def test_a_store_in_a_folder_that_cannot_be_entered_is_told(tmp_path: Path) -> None:
    """By every command, with the path: somebody else's home, say. It is not called absent."""
    home = tmp_path / "home"
    home.mkdir()
    with Store([Blocks(path=home / "store")]) as store:
        cid = store.put(b"x").cid
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"STORES": [{"id": "home", "type": "blocks", "path": str(home / "store")}]}))
    home.chmod(0)
    try:
        for command in ("ls", "get", "put", "verify", "status"):
            given = {"get": [cid], "put": [str(config)]}.get(command, [])
            arguments = [sys.executable, "-c", _AS_ANYBODY, "-m", "pointsman", "store", command, *given]
            done = subprocess.run(
                [*arguments, "--config", str(config)], capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode in (1, 3), done.stderr
            said = done.stdout + done.stderr
            assert str(home) in said
            assert "cannot be" in said or "is no folder that can be written" in said
            assert "Traceback" not in said
            assert "there is no store" not in said
            assert "PermissionError" not in said
    finally:
        home.chmod(0o700)
