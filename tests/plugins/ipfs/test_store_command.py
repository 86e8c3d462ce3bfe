"""`pointsman store`, run as a person or a program runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from pointsman import ConfigError, Scope, Store
from pointsman.content import Source
from pointsman_ipfs import Blocks, Kubo
from pointsman_ipfs.evidence import About, Evidence

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
EMPTY = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
#: The command, showing at once how far it is.
SOON = "import pointsman.cli._bytes as shown; from pointsman.cli import main; shown._SOON = 0.0; main()"
FOLDER = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"  # an empty one


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command in an empty folder, with a store of its own, and return what it printed."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "SYSTEMROOT", "LANG")}
    kept |= {"IPFS_API": "no node of whoever runs the tests"}
    environment = kept | {"HOME": str(tmp_path), "PYTHONUTF8": "1", "POINTSMAN_STORE": str(tmp_path / "kept")}

    def run(
        *arguments: str, stdin: bytes = b"", code: int = 0, group: str = "store"
    ) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "pointsman", group, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, cwd=tmp_path, env=environment, timeout=120)
        assert b"Traceback" not in done.stderr
        assert done.returncode == code, done.stderr.decode()
        return done

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files and a hidden one."""
    made = tmp_path / "letters"
    (made / "old").mkdir(parents=True)
    (made / "a.txt").write_bytes(b"hello world")
    (made / "old" / "b.txt").write_bytes(b"bye")
    (made / ".hidden").write_bytes(b"x")
    return made


def test_files_folders_and_the_standard_input(run: Run, folder: Path, tmp_path: Path) -> None:
    """Each has a line with its CID, on stdout, and comes back byte for byte."""
    done = run("put", "letters/a.txt", "letters", "-", stdin=b"\x00binary\xff")
    lines = [line.split("  ") for line in done.stdout.decode().splitlines()]
    assert [line[1] for line in lines] == ["letters/a.txt", "letters", "-"]
    assert lines[0][0] == HELLO
    assert run("get", lines[2][0]).stdout == b"\x00binary\xff"
    assert run("get", f"{lines[1][0]}/old/b.txt").stdout == b"bye"
    assert run("get", HELLO, "--offset", "2", "--length", "5").stdout == b"llo w"
    run("get", lines[1][0], "--output", "back")
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == [".hidden", "a.txt", "b.txt", "old"]
    assert done.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are of POSIX")
def test_a_disk_without_room_is_no_mistake_of_whoever_asks(run: Run, tmp_path: Path) -> None:
    """Its exit code is 1, not that of bad input, and nothing is left there."""
    import resource

    cid = run("put", "-", stdin=bytes(3 << 20)).stdout.decode().split()[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        assert b"cannot be written: File too large" in run("get", cid, "-o", "back", code=1).stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "back").exists()
    (tmp_path / "back").mkdir()
    assert b"something is there" in run("get", cid, "-o", "back", code=2).stderr


def test_programs_read_json(run: Run, folder: Path) -> None:
    """With all that is known of each."""
    (one,) = json.loads(run("put", "--json", "letters").stdout)
    assert (one["path"], one["size"], one["kind"], one["stored_in"]) == ("letters", 15, "folder", ["blocks"])
    without = json.loads(run("put", "--json", "--no-hidden", "letters").stdout)[0]
    assert (without["size"], without["cid"] != one["cid"]) == (14, True)
    assert {entry["name"]: entry["size"] for entry in json.loads(run("ls", one["cid"], "--json").stdout)} == {
        ".hidden": 1,
        "a.txt": 11,
        "old": None,
    }
    assert {entry["cid"] for entry in json.loads(run("ls", "--json").stdout)} == {one["cid"], without["cid"]}
    assert json.loads(run("status", one["cid"], "--json").stdout) == [
        {"store": "blocks", "status": "kept", "reason": ""}
    ]


@pytest.mark.parametrize("code", [0, 2])
def test_programs_read_what_was_kept_before_an_error(run: Run, folder: Path, code: int) -> None:
    """The list is whole in any case, and the exit code says whether it is all that was asked for."""
    names = ["letters/a.txt", "letters/old/b.txt", *["nowhere"][:code]]
    done = run("put", "--json", *names, code=code)
    assert [row["path"] for row in json.loads(done.stdout)] == names[:2]
    assert (b"nothing is there" in done.stderr) is bool(code)
    run("export", HELLO, "-o", "hello.car")
    names = ["hello.car", *["letters/a.txt"][:code]]
    done = run("import", "--json", *names, code=code)
    assert [(row["file"], row["cid"]) for row in json.loads(done.stdout)] == [("hello.car", HELLO)]
    assert (b"this is no CAR file" in done.stderr) is bool(code)


def test_what_is_damaged_is_named(run: Run, folder: Path, tmp_path: Path) -> None:
    """And the exit code says so, until it is put again."""
    run("put", "letters/a.txt")
    assert run("verify").stderr == b"everything is as its CID says\n"
    for path in (tmp_path / "kept" / "packs").iterdir():
        path.write_bytes(path.read_bytes().replace(b"hello world", b"hello World"))
    assert f"{HELLO}  damaged".encode() in run("verify", code=1).stdout
    assert b"was damaged on this disk" in run("get", HELLO, code=1).stderr
    assert b"degraded      1 blocks are damaged" in run("status", code=1).stdout
    run("put", "letters/a.txt")
    run("verify")


def test_where_no_store_is_that_is_said(run: Run, tmp_path: Path) -> None:
    """A path with a mistake in it is no store that is well: reading says so, and makes none."""
    for command in "verify", "ls":
        assert f"there is no store at {tmp_path / 'kept'} yet" in run(command).stderr.decode()
    run("get", HELLO, code=1)
    assert not (tmp_path / "kept").exists()


def test_what_could_not_be_looked_at_is_not_called_damaged(run: Run, tmp_path: Path) -> None:
    """Of a store that is away nothing is known: `unchecked`, with the reason, and exit code 3."""
    (tmp_path / "file").write_text("where the folder of a store should be")
    entries = (f'[[STORES]]\nid = "{path}"\ntype = "blocks"\npath = "{path}"\n' for path in ("kept", "file"))
    (tmp_path / "pointsman.toml").write_text("".join(entries))
    (row,) = json.loads(run("verify", "--json", code=3).stdout)
    assert (row["store"], row["status"]) == ("file", "unchecked")
    assert "it cannot be verified: " in row["problem"]
    assert "cannot be used as a store" in row["problem"]


def test_car_files_go_in_and_out(run: Run, folder: Path, tmp_path: Path) -> None:
    """Through files and through pipes; a file that is there is not written over, one that breaks is taken away."""
    cid = run("put", "letters").stdout.split()[0].decode()
    run("export", cid, "-o", "letters.car")
    piped = run("export", cid, "--output", "-").stdout
    assert run("export", cid).stdout == piped
    assert (tmp_path / "letters.car").read_bytes() == piped
    assert b"File exists" in run("export", cid, "-o", "letters.car", code=2).stderr
    other = Blocks(path=tmp_path / "other")
    other.store(Source(folder), Scope())
    assert b"".join(other.export_car(cid, Scope())) == piped
    other.close()
    run("unpin", cid)
    run("gc")
    run("get", cid, "-o", "gone", code=1)
    assert run("import", "letters.car").stdout.decode() == f"{cid}  letters.car\n"
    assert run("import", "-", stdin=piped).stdout.decode() == f"{cid}  -\n"
    cut = run("import", "-", stdin=piped[:-3], code=2).stderr
    assert b"it was cut" in cut
    assert b"store status" not in cut, "no store is to blame"
    run("export", EMPTY, "-o", "empty.car", code=1)
    assert not (tmp_path / "empty.car").exists()


def test_a_car_without_a_root_is_told(run: Run, tmp_path: Path) -> None:
    """A pack of a store is one: what it holds is kept, and nothing of it pinned."""
    run("put", "-", stdin=b"hello world")
    (pack,) = (tmp_path / "kept" / "packs").iterdir()
    done = run("import", str(pack))
    assert (done.stdout, done.stderr.decode()) == (b"", f"{pack}: it names no root, so that nothing of it is pinned\n")
    assert json.loads(run("import", "--json", str(pack)).stdout) == []


def test_collection_says_what_it_took(run: Run) -> None:
    """What is pinned stays; pins can be set and taken."""
    run("put", "-", stdin=b"kept")
    loose = run("put", "--no-pin", "-", stdin=b"loose").stdout.split()[0].decode()
    run("pin", loose)
    assert json.loads(run("gc", "--json").stdout) == [{"store": "blocks", "blocks": 0, "bytes": 0}]
    run("unpin", loose)
    assert json.loads(run("gc", "--json").stdout) == [{"store": "blocks", "blocks": 1, "bytes": 5}]
    assert json.loads(run("status", loose, "--json", code=1).stdout)[0]["status"] == "absent"


def test_copies_are_brought_to_the_other_store(run: Run, tmp_path: Path) -> None:
    """`sync` says what waits; the exit code is 1 while anything does."""
    entry = '[[STORES]]\nid = "{0}"\ntype = "blocks"\npath = "{0}"\n'
    (tmp_path / "pointsman.toml").write_text(entry.format("near") + entry.format("far"))
    (tmp_path / "far").write_text("a file where the store should be")
    (one,) = json.loads(run("put", "--json", "-", stdin=b"hello world").stdout)
    assert (one["stored_in"], one["waiting_for"]) == (["near"], ["far"])
    (waiting,) = json.loads(run("sync", "--json", code=1).stdout)
    assert (waiting["store"], waiting["cid"], waiting["what"]) == ("far", HELLO, "put")
    assert "cannot be used as a store" in waiting["reason"]
    (tmp_path / "far").unlink()
    assert run("sync").stderr == b"nothing waits\n"
    assert [row["status"] for row in json.loads(run("status", HELLO, "--json").stdout)] == ["kept", "kept"]
    (one,) = json.loads(run("put", "--json", "-", stdin=b"brought before it is told").stdout)
    assert (one["stored_in"], one["waiting_for"]) == (["near", "far"], [])
    run("export", HELLO, "--output", "hello.car")
    for path in tmp_path.glob("*/"):
        shutil.rmtree(path)
    os.mkfifo(tmp_path / "late.car")

    def write_later() -> None:
        with Store([Blocks(path=tmp_path / "far")]) as far:
            while not far.has(HELLO):
                sleep(0.02)
        (tmp_path / "late.car").write_bytes(b"\x11\xa2eroots\x80gversion\x01")  # of no root

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_later)
        (one,) = json.loads(run("import", "--json", "hello.car", "late.car").stdout)
        writing.result()
    assert (one["stored_in"], one["waiting_for"]) == (["near", "far"], [])


@pytest.mark.parametrize("other", ["near", "./near", "x/../near", "link"])
def test_two_stores_of_one_folder_are_refused(run: Run, tmp_path: Path, other: str) -> None:
    """They would be one copy, and believed to be two: by whatever path, `Store` and `config check` name both."""
    for name in "near", "x":
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("near")
    entry = '[[STORES]]\nid = "{0}"\ntype = "blocks"\npath = "{1}"\n'
    (tmp_path / "pointsman.toml").write_text(entry.format("one", "near") + entry.format("two", other))
    says = f"pointsman.toml: stores 'one' and 'two': found one folder, {tmp_path}"
    assert says in run("ls", code=2).stderr.decode()
    checked = run("check", code=2, group="config").stderr.decode()
    assert says in checked
    with pytest.raises(ConfigError, match="stores 'one' and 'two': found one folder"):
        Store({"one": Blocks(path=tmp_path / "near"), "two": Blocks(path=tmp_path / other)})


@pytest.mark.kubo
def test_a_node_among_the_stores(run: Run, folder: Path, tmp_path: Path, spare_kubo: Any, running: Any) -> None:
    """Each command with a Kubo in STORES, while it is away and when it is back; CARs are the node's own to the byte."""
    entry = f'[[STORES]]\nid = "node"\ntype = "kubo"\nurl = "unix://{spare_kubo.socket}"\n'
    (tmp_path / "pointsman.toml").write_text(f'[[STORES]]\nid = "home"\ntype = "blocks"\npath = "kept"\n{entry}')
    spare_kubo.run("config", "--json", "Addresses.API", json.dumps([f"/unix{spare_kubo.socket}"]))
    done = run("put", "--json", "letters")
    (one,) = json.loads(done.stdout)
    assert (one["stored_in"], one["waiting_for"]) == (["home"], ["node"])
    assert done.stderr.startswith(b"in the outbox wait 1 for node: ")
    assert len(done.stderr.splitlines()) == 1
    assert [row["store"] for row in json.loads(run("sync", "--json", code=1).stdout)] == ["node"]
    assert b"1 in the outbox wait for it" in run("status", code=1).stdout
    assert b"`pointsman store status` says" in run("ls", "--store", "node", code=1).stderr
    with running(spare_kubo) as node:
        assert run("sync").stderr == b"nothing waits\n"
        assert [row["status"] for row in json.loads(run("status", one["cid"], "--json").stdout)] == ["kept", "kept"]
        assert run("get", f"{one['cid']}/a.txt", "--store", "node").stdout == b"hello world"
        for more, code in ((), 0), (("nowhere",), 2):  # what comes after it may fail
            put = run("put", "-", *more, stdin=b"brought before it ends %d" % code, code=code)
            at_once = run("status", put.stdout.decode().split()[0], "--json").stdout
            assert [row["status"] for row in json.loads(at_once)] == ["kept", "kept"]
        assert one["cid"] in run("ls", "--store", "node").stdout.decode()
        assert run("ls", one["cid"], "--store", "node").stdout == run("ls", one["cid"], "--store", "home").stdout
        exported = run("export", one["cid"], "-o", "-", "--store", "node").stdout
        assert exported == node.run("dag", "export", one["cid"])
        (tmp_path / "file").write_bytes(b"from there")
        theirs = node.run("add", "--quieter", tmp_path / "file").decode().strip()
        car = node.run("dag", "export", theirs)
        assert run("import", "-", stdin=car).stdout.decode() == f"{theirs}  -\n"
        assert run("get", theirs, "--store", "home").stdout == b"from there"
        run("unpin", one["cid"])
        assert one["cid"] not in node.run("pin", "ls", "--type=recursive").decode()
        assert [row["store"] for row in json.loads(run("gc", "--json").stdout)] == ["home"]
        assert run("verify").stderr == b"everything is as its CID says\n"
        run("status")


@pytest.mark.parametrize("patience", [0.2, None])
def test_what_was_not_brought_because_nobody_waits_was_not_tried(tmp_path: Path, patience: float | None) -> None:
    """A node that hangs is given up when nothing moves, or when the store is closed: without a reason against it."""
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        named = {"home": Blocks(path=tmp_path / "home"), "node": Kubo(url=f"http://127.0.0.1:{hangs.getsockname()[1]}")}
        with Store(named) as store:
            cid = store.put(b"x").cid
            with hangs.accept()[0]:  # it is being brought
                if patience is not None:
                    assert [one.cid for one in store.sync(patience=patience)] == [cid]
                store.close()
    rows = sqlite3.connect(tmp_path / "home" / "outbox.sqlite").execute("SELECT cid, tries, lease, reason FROM jobs")
    assert list(rows) == [(cid, 0, 0.0, "")]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["put", "nowhere"], 2, "nothing is there; to keep a text, give its bytes"),
        (["put"], 2, "Missing argument 'PATH...'"),
        (["put", "--profile", "other", "pointsman.json"], 2, "profile: found 'other'"),
        (["get", EMPTY, "--store", "a"], 1, f"block {EMPTY} is not in this store"),
        (["get", "no-cid"], 2, "expected a CID: bafkrei..., bafybei..., Qm..."),
        (["get", EMPTY, "-o", "x", "--offset", "1"], 2, "--offset and --length are for the standard output"),
        (["ls", "--store", "other"], 2, "no store 'other'; expected one of 'a', 'world'"),
        (["get", f"https://ipfs.io/ipfs/{EMPTY}"], 2, "found a URL, expected the CID in it"),
        (["get", FOLDER], 2, "name a file in it (CID/NAME), or write all of it to a path (extract, get --output)"),
        (["import", "nowhere.car"], 2, "nowhere.car cannot be read: No such file or directory"),
        (["import", "pointsman.json"], 2, "\n  in pointsman.json\n"),
        (["export", EMPTY, "-o", "pointsman.json"], 2, "cannot be written: File exists; name a path where nothing is"),
        (["verify", "--store", "world"], 1, "world: its plugin has no hook verify"),
        (["export", EMPTY, "-o", "no/such/folder"], 2, "cannot be written: No such file or directory"),
    ],
)
def test_a_persons_mistake_is_a_message(run: Run, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    """What was found, what was expected; 1 where a store says so, 2 where the usage is wrong."""
    stores = [
        {"id": "a", "type": "blocks", "path": "kept"},
        {"id": "world", "type": "gateway", "url": "http://127.0.0.1:9", "priority": 90},
    ]
    (tmp_path / "pointsman.json").write_text(json.dumps({"STORES": stores}))
    (tmp_path / "empty").mkdir()
    assert run("put", "--quiet", "empty").stdout.decode().startswith(FOLDER)
    assert says in run(*arguments, code=code).stderr.decode()


@pytest.mark.parametrize("arguments", [["verify", "no-cid"], ["status", "no-cid"], ["status", "no-cid/x"]])
def test_what_is_no_cid_is_not_called_damaged(run: Run, arguments: list[str]) -> None:
    """It is a mistake of the one who asks."""
    run("put", "-", stdin=b"hello world")
    done = run(*arguments, code=2)
    assert done.stdout == b""
    assert b"expected" in done.stderr


def test_a_name_is_one_line_of_a_listing(run: Run, tmp_path: Path) -> None:
    """Whatever is in it; programs get it as it is."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a\n\x1b[31mé").write_bytes(b"x")
    cid = run("put", "letters").stdout.split()[0].decode()
    _, line = run("ls", cid).stdout.decode().splitlines()
    assert line.endswith("  a\\n\\x1b[31mé")
    assert json.loads(run("ls", cid, "--json").stdout)[0]["name"] == "a\n\x1b[31mé"


def test_a_name_forges_no_line_beside_a_cid(run: Run, tmp_path: Path) -> None:
    """Of what is put and of a CAR, whatever is in it, be it no text at all; programs get it as it is."""
    names = f"a\n{EMPTY}  b", "é \x1b[2K\u2028", os.fsdecode(b"\xff")
    for name in names:
        (tmp_path / name).write_bytes(b"hello world")
        escaped = ascii(name)[1:-1].replace("\\xe9", "é")
        assert run("put", name).stdout.decode() == f"{HELLO}  {escaped}\n"
        run("export", HELLO, "-o", f"{name}.car")
        assert run("import", f"{name}.car").stdout.decode() == f"{HELLO}  {escaped}.car\n"
        assert json.loads(run("put", "--json", name).stdout)[0]["path"] == name


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("put - <&-", 2, "the standard input is closed; name a file instead of -"),
        ("import - <&-", 2, "the standard input is closed; name a file instead of -"),
        (f"get {HELLO} >&-", 1, "the standard output is closed"),
        ("ls >&-", 1, "the standard output is closed"),
        ("ls > /dev/full", 1, "standard output cannot be written: No space left on device"),
    ],
)
def test_closed_streams_and_full_disks_are_told(run: Run, tmp_path: Path, line: str, code: int, says: str) -> None:
    """No traceback; and what is opened next is not taken for the standard output."""
    run("put", "-", stdin=b"hello world")
    environment = {**os.environ, "POINTSMAN_STORE": str(tmp_path / "kept"), "HOME": str(tmp_path), "IPFS_API": "none"}
    command = ["sh", "-c", f"exec {sys.executable} -m pointsman store {line}"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == code
    assert says in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("line", ["put -", "verify", "get none"])
def test_a_closed_standard_error_changes_nothing(run: Run, tmp_path: Path, line: str) -> None:
    """Who starts it may have closed it: what is done, printed and returned is the same."""
    told = run(*line.split(), stdin=b"hello world", code=2 * ("none" in line))
    environment = {**os.environ, "POINTSMAN_STORE": str(tmp_path / "kept"), "HOME": str(tmp_path), "IPFS_API": "none"}
    command = ["sh", "-c", f"exec {sys.executable} -m pointsman store {line} 2>&-"]
    given: Any = {"input": b"hello world", "stdout": subprocess.PIPE}
    done = subprocess.run(command, **given, cwd=tmp_path, env=environment, timeout=120)
    assert (done.returncode, done.stdout) == (told.returncode, told.stdout)


def test_only_the_store_that_is_named_gives_it_out(run: Run, tmp_path: Path) -> None:
    """To the standard output and to a path: another one that has it is not asked."""
    (tmp_path / "two.toml").write_text(
        "".join(f'[[STORES]]\nid = "{name}"\ntype = "blocks"\npath = "{name}"\n' for name in ("one", "other"))
    )
    run("put", "--config", "two.toml", "--store", "one", "-", stdin=b"hello world")
    for output in "-", "out":
        done = run("get", "--config", "two.toml", "--store", "other", "-o", output, HELLO, code=1)
        assert b"other: " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["get", "export"])
def test_a_copy_that_was_cut_is_noticed(run: Run, tmp_path: Path, command: str, unbuffered: str) -> None:
    """Whoever reads a pipe leaves early: no message, and the exit code that other programs have then."""
    cid = run("put", "--quiet", "-", stdin=bytes(3 << 20)).stdout.split()[0].decode()
    line = [sys.executable, "-m", "pointsman", "store", command, "--quiet", "-o", "-", cid]
    environment = {**os.environ, "POINTSMAN_STORE": str(tmp_path / "kept"), "HOME": str(tmp_path)}
    environment["PYTHONUNBUFFERED"] = unbuffered
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment) as one:
        assert one.stdout is not None
        assert one.stderr is not None
        one.stdout.read(1000)
        one.stdout.close()
        assert (one.wait(60), one.stderr.read()) == (141, b"")


def _read_all(terminal: int) -> bytes:
    """Return what is written to a terminal until all have closed its other side, and close it."""
    seen = b""
    with suppress(OSError):  # the other side is closed
        while piece := os.read(terminal, 4096):
            seen += piece
    os.close(terminal)
    return seen


def test_a_person_at_a_terminal_sees_how_many_copies_are_left(tmp_path: Path) -> None:
    """While they are brought, by `put` as by `sync`; nothing is said with `--quiet`."""
    config = tmp_path / "pointsman.toml"
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        url = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        stores = '[[STORES]]\nid = "home"\ntype = "blocks"\npath = "kept"\n[[STORES]]\nid = "node"\ntype = "kubo"\n'
        config.write_text(f'{stores}url = "{url}"\n')
        (tmp_path / "a").write_bytes(b"hello world")
        for words in ("put", str(tmp_path / "a")), ("sync",), ("sync", "--quiet"):
            ours, theirs = pty.openpty()
            command = [sys.executable, "-c", SOON, "store", *words, "--timeout", "3", "--config", str(config)]
            done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"})
            os.close(theirs)
            seen = _read_all(ours)
            done.communicate(timeout=60)
            assert (b"1 left to bring to other stores" in seen) is ("--quiet" not in words), (words, seen)


def test_a_person_at_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    """A bar on stderr while it takes long; nothing of it stays, and stdout has the CID alone."""
    environment = {**os.environ, "HOME": str(tmp_path), "POINTSMAN_STORE": str(tmp_path / "kept"), "TERM": "xterm"}
    environment["IPFS_API"] = "no node of whoever runs the tests"
    ours, theirs = pty.openpty()
    source = tmp_path / "pipe"
    os.mkfifo(source)
    command = [sys.executable, "-m", "pointsman", "store", "put", "-"]
    feed = subprocess.Popen(
        ["sh", "-c", "for n in 1 2 3 4 5 6; do head -c 3000000 /dev/zero; sleep 0.3; done"], stdout=subprocess.PIPE
    )
    done = subprocess.Popen(
        command, stdin=feed.stdout, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path, env=environment
    )
    os.close(theirs)
    seen = _read_all(ours)
    out, _ = done.communicate(timeout=60)
    feed.wait()
    assert feed.stdout
    feed.stdout.close()
    assert done.returncode == 0
    assert b" MiB, " in seen
    assert b"MB" not in seen
    assert out.endswith(b"  -\n")


def test_progress_that_nobody_reads_ends_no_put(tmp_path: Path) -> None:
    """Whoever read stderr has left: what is put is kept all the same."""
    (tmp_path / "a").write_bytes(bytes(3 << 20))
    environment = {
        **os.environ,
        "POINTSMAN_STORE": str(tmp_path / "kept"),
        "IPFS_API": "no node of whoever runs the tests",
    }
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        command = [sys.executable, "-c", SOON, "store", "put", str(tmp_path / "a")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=60)
    finally:
        os.close(theirs)
    assert done.stdout.endswith(b"/a\n")
    with Store({"home": Blocks(path=tmp_path / "kept")}) as store:
        assert store.get(done.stdout.decode().split()[0]) == bytes(3 << 20)


def test_the_index_of_evidence_is_made_anew(run: Run, tmp_path: Path) -> None:
    """From the records in the store, wherever it is to be; what cannot be read is told, and the exit code."""
    with Store({"home": Blocks(path=tmp_path / "kept")}) as store, Evidence(store) as evidence:
        records = [evidence.submit(data, About("text")).record for data in (b"one", b"two")]
    assert run("reindex").stderr.decode() == f"2 records in {evidence.path}\n"
    done = run("reindex", "--index", "new.sqlite", "--json")
    assert json.loads(done.stdout) == {"index": str(tmp_path / "new.sqlite"), "records": 2, "unreadable": []}
    run("unpin", records[1].record_cid)
    done = run("reindex", code=1)
    assert records[1].record_cid in done.stdout.decode()
    assert "pinned in no store" in done.stdout.decode()
    (tmp_path / "text").write_text("no index")
    assert b"the file is no index of evidence" in run("reindex", "--index", "text", code=2).stderr


def test_a_long_verification_shows_how_far_it_is(tmp_path: Path) -> None:
    """Where it takes longer than a moment, stderr says how much has been read; `--quiet` says nothing of it."""
    config = tmp_path / "pointsman.toml"
    config.write_text('[[STORES]]\nid = "home"\ntype = "blocks"\npath = "kept"\n')
    with Store.from_config(config) as store:
        store.put(bytes(range(256)) * 8192)
    for more, shown in ((), True), (("--quiet",), False):
        command = [sys.executable, "-c", SOON, "store", "verify", "--config", str(config), *more]
        done = subprocess.run(command, capture_output=True, check=True)
        assert (b" MiB, " in done.stderr) is shown, done.stderr
        assert done.stderr.endswith(b"everything is as its CID says\n")
