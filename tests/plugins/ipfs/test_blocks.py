"""The embedded store: what it keeps, how it names and mends damage, what it collects, and how it stands by itself."""

from __future__ import annotations

import io
import os
import random
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman import (
    BackendTimeout,
    ConfigError,
    ContentNotFoundError,
    InvalidRequestError,
    Scope,
    Store,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.content import Collected, Source
from pointsman_ipfs import Blocks
from pointsman_ipfs.dag import cid as cids
from pointsman_ipfs.dag.car import Reader, header, record, write
from pointsman_ipfs.dag.cbor import Ref, encode
from pointsman_ipfs.dag.unixfs import PROFILES
from pointsman_ipfs.embedded import _holding

Open = Callable[..., Blocks]
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
EMPTY = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
LARGE = (4 << 20) + 5000  #: bytes of what gets a pack of its own


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    """A function that opens the store of this test, once more each time; all are closed after it."""
    opened = list[Blocks]()

    def open_(path: Path = tmp_path / "store", **options: Any) -> Blocks:
        opened.append(Blocks(path=path, **options))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.fixture
def blocks(open_: Open) -> Blocks:
    return open_()


def put(blocks: Blocks, data: bytes, **how: Any) -> str:
    return blocks.store(Source(file=io.BytesIO(data), **how), Scope()).cid


def get(blocks: Blocks, cid: str, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join(blocks.fetch(cid, offset, length, Scope()))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def packs(blocks: Blocks) -> list[Path]:
    return sorted((blocks.path / "packs").iterdir())


def pinned(blocks: Blocks) -> set[str]:
    return {entry.cid for entry in blocks.entries(None, Scope())}


def problems(blocks: Blocks, cid: str | None = None) -> set[str]:
    return {found.cid for found in blocks.verify(cid, bool, Scope())}


def flip(blocks: Blocks, part: bytes, at: int = 0) -> None:
    """Change one bit of the stored bytes that begin with `part`, in every place where they stand."""
    flipped = 0
    for path in packs(blocks):
        data = path.read_bytes()
        for found in re.finditer(re.escape(part), data):
            with path.open("r+b") as file:
                file.seek(found.start() + at)
                file.write(bytes([data[found.start() + at] ^ 1]))
            flipped += 1
    assert flipped


def remove_index(blocks: Blocks) -> None:
    for path in blocks.path.glob("index.sqlite*"):
        path.unlink()


# Kept and given back


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, LARGE, 12_345_678])
def test_content_comes_back(open_: Open, size: int) -> None:
    """Whole and in parts, to the store that took it and to one that opens the folder."""
    data, first = noise(size), open_()
    cid = put(first, data)
    first.close()
    for blocks in (first, open_()):
        assert get(blocks, cid) == data
        for offset, length in ((0, 3), (size // 2, 70_000), (size - 1 if size else 0, None), (size + 5, 1)):
            assert get(blocks, cid, offset, length) == data[offset:][:length]
        assert blocks.has(cid, Scope())
        assert pinned(blocks) == {cid}
        assert problems(blocks) == set()


def test_identifiers_are_those_of_ipfs(blocks: Blocks, tmp_path: Path) -> None:
    """Of each profile; a folder has its hidden files, unless they are not wanted."""
    assert (put(blocks, b"hello world"), put(blocks, b"")) == (HELLO, EMPTY)
    assert put(blocks, b"hello world", profile="cid-v0") == "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mars.txt").write_bytes(b"Hello Mars!\n")
    (folder / "venus.txt").write_bytes(b"Hello Venus!\n")
    stored = blocks.store(Source(folder), Scope())
    assert (stored.cid, stored.size, stored.kind) == (
        "bafybeih7e5dmkyk25up5vxug4q3hrg2fxbzf23dfrac2fns5h7z4aa7ioi",
        25,
        "folder",
    )
    assert [(one.name, one.size, one.kind) for one in blocks.entries(stored.cid, Scope())] == [
        ("mars.txt", 12, "file"),
        ("venus.txt", 13, "file"),
    ]
    assert get(blocks, f"{stored.cid}/venus.txt") == b"Hello Venus!\n"
    (folder / ".hidden").write_bytes(b"x")
    assert blocks.store(Source(folder, hidden=False), Scope()).cid == stored.cid
    assert blocks.store(Source(folder), Scope()).cid != stored.cid
    blocks.extract(stored.cid, tmp_path / "out", Scope())
    assert (tmp_path / "out" / "mars.txt").read_bytes() == b"Hello Mars!\n"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profile_is_an_option(open_: Open, profile: str) -> None:
    """Of the store, and of one put; an unknown one is refused."""
    blocks = open_(profile=profile)
    assert put(blocks, b"hello world" * 50_000) == put(blocks, b"hello world" * 50_000, profile=profile)
    with pytest.raises(ValueError, match="profile"):
        open_(profile="other")
    with pytest.raises(
        InvalidRequestError, match="profile: found 'other', expected unixfs-v1-2025 or cid-v0 or cid-v1"
    ):
        put(blocks, b"", profile="other")


def test_what_is_not_there_is_told(blocks: Blocks) -> None:
    """Unknown, malformed, a folder, no folder: each is its own error."""
    put(blocks, b"hello world")
    for ask in (
        get,
        lambda blocks, cid: list(blocks.entries(cid, Scope())),
        lambda blocks, cid: blocks.pin(cid, Scope()),
    ):
        with pytest.raises(ContentNotFoundError, match=f"block {EMPTY} is not in this store"):
            ask(blocks, EMPTY)
        with pytest.raises(InvalidRequestError):
            ask(blocks, "../../etc/passwd")
    assert not blocks.has(EMPTY, Scope())
    with pytest.raises(InvalidRequestError, match="expected 'folder'"):
        list(blocks.entries(HELLO, Scope()))


def test_a_put_that_fails_leaves_nothing(blocks: Blocks) -> None:
    """Whatever its size, whether it was read, cancelled or out of time; the next one is none the worse."""

    class Breaks(io.RawIOBase):
        left = 0

        def read(self, size: int = -1) -> bytes:
            if self.left <= 0:
                raise InvalidRequestError("it cannot be read any more")
            self.left -= size
            return noise(size, self.left)

    for left in (100, 3 << 20, 20 << 20):
        source = Breaks()
        source.left = left
        with pytest.raises(InvalidRequestError):
            blocks.store(Source(file=source), Scope())  # type: ignore[arg-type] # it reads
        cancelled, late = Scope(), Scope(0.0)
        cancelled.cancel()
        for scope in (cancelled, late):
            with pytest.raises(BackendTimeout):
                blocks.store(Source(file=io.BytesIO(noise(left))), scope)
    assert (packs(blocks), pinned(blocks)) == ([], set())
    assert get(blocks, put(blocks, b"hello world")) == b"hello world"


# Damage


def test_a_flipped_bit_is_found_and_mended_by_another_copy(blocks: Blocks) -> None:
    """On reading and by `verify`; what is put again, or imported, is whole again. The wrong bytes are put aside."""
    data = noise(3 << 20)
    cid = put(blocks, data)
    leaf = cids.to_text(cids.raw_cid(data[1 << 20 : 2 << 20]))
    car = b"".join(blocks.export_car(cid, Scope()))
    for n, mend in enumerate((lambda: put(blocks, data), lambda: blocks.import_car(io.BytesIO(car), True, Scope()))):
        flip(blocks, data[1 << 20 :][:50], 77 + n)
        assert get(blocks, cid, 0, 1 << 20) == data[: 1 << 20]
        with pytest.raises(
            UnusableAnswer,
            match=f"block {leaf} was damaged on this disk: .* has been put aside",
        ):
            get(blocks, cid)
        assert not blocks.has(cid, Scope())
        assert problems(blocks) == {leaf, cid}
        assert problems(blocks, cid) == {leaf}
        assert blocks.health().status == "degraded"
        mend()
        assert get(blocks, cid) == data
        assert problems(blocks) == set()
        assert blocks.health().status == "healthy"
    assert {one.name.partition(".")[0] for one in (blocks.path / "quarantine").iterdir()} == {leaf}


def test_verify_finds_what_nobody_has_read(blocks: Blocks) -> None:
    """And goes on after it: each damaged block is named."""
    data = [noise(2000, n) for n in range(20)]
    names = [put(blocks, one) for one in data]
    for n in (3, 9):
        flip(blocks, data[n][:40], 1999)
    assert problems(blocks) == {names[3], names[9]}
    assert problems(blocks) == {names[3], names[9]}  # until they are mended
    put(blocks, data[3])
    assert problems(blocks) == {names[9]}


def test_what_is_put_again_is_not_taken_on_trust(blocks: Blocks) -> None:
    """A block that is there, and damaged, is written anew by the put that needs it."""
    data = noise(LARGE)
    cid = put(blocks, data)
    flip(blocks, data[:60], 20)
    assert put(blocks, data) == cid
    assert get(blocks, cid) == data


@pytest.mark.parametrize("what", ["gone", "no database", "cut"])
def test_the_index_can_be_made_anew(open_: Open, what: str) -> None:
    """The packs say all: blocks, what is pinned, and what is not any more, in whatever order it was said."""
    blocks, names = open_(), list[str]()
    for n in range(40):
        names.append(put(blocks, noise(500 * n, n), pin=n % 5 > 0))
        if n % 7 == 0:
            blocks.close()  # the next put goes on with the pack, or begins another one
    large = put(blocks, noise(LARGE))
    for n in range(0, 40, 4):
        blocks.unpin(names[n], Scope())
    blocks.pin(names[8], Scope())
    expected = {large, *(name for n, name in enumerate(names) if (n % 4 and n % 5) or n == 8)}
    assert pinned(blocks) == expected
    blocks.close()
    index = blocks.path / "index.sqlite"
    if what == "gone":
        remove_index(blocks)
    elif what == "cut":
        os.truncate(index, index.stat().st_size // 2)
    else:
        remove_index(blocks)
        index.write_bytes(b"this is no database" * 500)
    again = open_()
    assert pinned(again) == expected
    assert problems(again) == set()
    assert all(again.has(name, Scope()) for name in names)


def test_a_damaged_head_hides_no_more_than_its_block(open_: Open) -> None:
    """With the index gone, the block that a wrong byte belongs to is missed, and all else is there."""
    blocks, data = open_(), [noise(3000, n) for n in range(9)]
    names = [put(blocks, one) for one in data]
    blocks.close()
    flip(blocks, cids.parse(names[4]) + data[4][:9], 2)
    remove_index(blocks)
    again = open_()
    assert {name for name in names if not again.has(name, Scope())} == {names[4]}
    assert put(again, data[4]) == names[4]
    assert problems(again) == set()


def test_a_pack_that_is_gone_is_told(open_: Open) -> None:
    """By `verify`, by health, and by who asks for what was in it."""
    blocks = open_()
    small, large = put(blocks, b"hello world"), put(blocks, noise(LARGE))
    blocks.close()
    max(packs(blocks), key=lambda path: path.stat().st_size).unlink()
    again = open_()
    assert not again.has(large, Scope())
    assert large in problems(again)
    assert get(again, small) == b"hello world"
    put(again, noise(LARGE))
    assert problems(again) == set()


def test_packs_are_car_files(blocks: Blocks) -> None:
    """Any program that reads such files can get the blocks out, should this one be lost."""
    data = {put(blocks, one): one for one in (noise(100), noise(5000), b"")}
    blocks.close()
    (path,) = packs(blocks)
    with path.open("rb") as file:
        read = {cids.to_text(cid): block for cid, block in Reader(file)}
    assert data.items() <= read.items()
    marks = [cid for cid in read if cid not in data]
    assert len(marks) == 3
    assert all(cids.codec_of(cids.parse(cid)) == cids.DAG_CBOR for cid in marks)


def test_content_cannot_pass_for_a_mark(open_: Open) -> None:
    """What looks like one, stored as content, is content: it does not pin, and does not end what counts."""
    blocks = open_()
    first = put(blocks, b"first")
    name = packs(blocks)[0].stem
    fake = encode({"at": 171, "seq": 1 << 62, "pack": name, "unpins": [Ref(cids.parse(first))]})
    root = cids.cbor_cid(fake)
    blocks.import_car(io.BytesIO(header([root]) + record(root, fake)), False, Scope())
    blocks.close()
    remove_index(blocks)
    again = open_()
    assert first in pinned(again)
    assert again.has(cids.to_text(root), Scope())


# Pins and collection


def test_what_no_pin_keeps_is_collected(blocks: Blocks) -> None:
    """What pinned things share stays; what is gone is unknown then, and may be put again."""
    shared = noise(1 << 20)
    kept, gone = put(blocks, shared + b"kept"), put(blocks, shared + b"gone")
    loose = put(blocks, b"loose", pin=False)
    blocks.unpin(gone, Scope())
    assert blocks.has(gone, Scope())
    collected = blocks.collect(Scope())
    assert collected.blocks == 3  # a piece, the node above, and what was never pinned
    assert [blocks.has(one, Scope()) for one in (kept, gone, loose)] == [True, False, False]
    with pytest.raises(ContentNotFoundError):
        get(blocks, gone)
    assert get(blocks, kept) == shared + b"kept"
    assert blocks.collect(Scope()) == Collected(0, 0)
    assert get(blocks, put(blocks, shared + b"gone")) == shared + b"gone"


def test_a_pin_needs_all_of_it(blocks: Blocks) -> None:
    """Content that is not whole cannot be pinned; nor is an import of it, unless it is not pinned."""
    data = noise(3 << 20)
    cid = put(blocks, data, pin=False)
    every = list(Reader(io.BytesIO(b"".join(blocks.export_car(cid, Scope())))))
    part = b"".join(write([every[0][0]], every[:-1]))
    other = Blocks(path=blocks.path.parent / "other")
    with pytest.raises(UnusableAnswer, match=r"1 blocks are not there that others link to, .* without a pin"):
        other.import_car(io.BytesIO(part), True, Scope())
    assert packs(other) == []
    other.import_car(io.BytesIO(part), False, Scope())
    with pytest.raises(ContentNotFoundError):
        other.pin(cid, Scope())
    (root,) = other.import_car(io.BytesIO(b"".join(write([every[0][0]], every[-1:] + every[:1]))), True, Scope())
    assert (root.cid, root.size, root.kind) == (cid, 3 << 20, "file")
    assert pinned(other) == {cid}
    other.close()


def test_nothing_is_collected_while_something_pinned_is_not_whole(
    blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What belongs to it cannot be known; it is told what to do."""
    monkeypatch.setattr(_holding, "PATIENCE_S", 0.2)  # what was pinned so long ago is not being written
    data = noise(LARGE)
    cid = put(blocks, data)
    loose = put(blocks, b"loose", pin=False)
    flip(blocks, cids.parse(cid), 0)  # the node above the pieces: its head
    node = next(
        block for one, block in Reader(io.BytesIO(b"".join(blocks.export_car(cid, Scope())))) if one == cids.parse(cid)
    )
    flip(blocks, node, 5)
    with pytest.raises(UnusableAnswer, match=f"nothing was removed: {cid} is pinned and not whole"):
        blocks.collect(Scope())
    assert blocks.has(loose, Scope())
    blocks.unpin(cid, Scope())
    assert blocks.collect(Scope()).blocks == 6


def test_packs_that_have_become_empty_are_written_anew(open_: Open) -> None:
    """Room is given back; what is pinned keeps its bytes, and its pin, also when the index is lost then."""
    blocks = open_()
    names = [put(blocks, noise(300_000, n)) for n in range(12)]
    large = put(blocks, noise(LARGE))
    blocks.close()
    before = sum(path.stat().st_size for path in packs(blocks))
    for name in (*names[:9], large):
        blocks.unpin(name, Scope())
    blocks.close()
    again = open_()
    assert again.collect(Scope()).blocks == 9 + 6
    assert sum(path.stat().st_size for path in packs(again)) < before / 4
    again.close()
    remove_index(again)
    third = open_()
    assert pinned(third) == set(names[9:])
    assert problems(third) == set()
    assert [get(third, name) for name in names[9:]] == [noise(300_000, n) for n in range(9, 12)]
    assert third.collect(Scope()) == Collected(0, 0)


def test_readers_do_not_notice_that_packs_are_written_anew(open_: Open) -> None:
    """Another process reads on: what it has open goes on, what it looks up is found where it is now."""
    first, second = open_(), open_()
    names = [put(first, noise(300_000, n)) for n in range(10)]
    assert [get(second, name) for name in names] == [noise(300_000, n) for n in range(10)]
    reading = second.fetch(names[9], 0, None, Scope())
    for name in names[:8]:
        first.unpin(name, Scope())
    first.close()
    open_().collect(Scope())
    assert b"".join(reading) == noise(300_000, 9)
    assert [get(second, name) for name in names[8:]] == [noise(300_000, n) for n in (8, 9)]


# Threads, processes, the system


def test_threads_put_and_read_at_once(blocks: Blocks) -> None:
    """Small things and large ones, the same and others; all are there, each once."""
    seen, failures = list[tuple[str, bytes]](), list[BaseException]()

    def work(number: int) -> None:
        try:
            for n in range(30):
                data = noise((200, 70_000, LARGE)[n % 3 if n > 25 else n % 2], number % 4 * 100 + n)
                cid = put(blocks, data)
                assert get(blocks, cid, 0, 100) == data[:100]
                seen.append((cid, data))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(seen) == 240
    assert all(get(blocks, cid) == data for cid, data in dict(seen).items())
    assert pinned(blocks) == {cid for cid, _ in seen}
    assert problems(blocks) == set()


def test_another_process_sees_what_is_acknowledged_at_once(open_: Open) -> None:
    """Although the index is told a moment later."""
    first, second = open_(), open_()
    for n in range(50):
        cid = put(first, noise(100, n))
        assert get(second, cid) == noise(100, n)
        assert cid in pinned(second)


def test_a_forked_child_opens_it_anew(blocks: Blocks) -> None:
    """And leaves what is its parent's as it is."""
    before = put(blocks, b"before")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if get(blocks, before) == b"before":
                os.write(writer, put(blocks, b"of the child").encode())
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    os.close(writer)
    cid = os.read(reader, 100).decode()
    os.close(reader)
    assert get(blocks, cid) == b"of the child"
    assert get(blocks, put(blocks, b"after")) == b"after"
    assert problems(blocks) == set()


def test_a_forked_child_keeps_its_index_when_its_parent_closes(blocks: Blocks) -> None:
    """SQLite removes the log with the last connection: the child has locks of its own, and is seen."""
    put(blocks, b"before")
    (reader, writer), (told, tell) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(writer)
            put(blocks, b"of the child, before")
            os.write(tell, b".")
            os.read(reader, 1)  # until its parent closes the other end
            put(blocks, b"of the child")
            assert get(blocks, put(blocks, b"before")) == b"before"
            with blocks._opened().places.index.changing() as (db, _):
                (log,) = (Path(row[2]) for row in db.execute("PRAGMA database_list"))
            code = 0 if Path(f"{log}-wal").exists() else 2
        finally:
            os._exit(code)
    os.close(tell)
    os.read(told, 1)
    blocks.close()
    for end in (writer, reader, told):
        os.close(end)
    assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, open_: Open) -> None:
    """By health, which makes nothing, and by every call, with what to do."""
    (tmp_path / "file").write_text("x")
    blocks = open_(tmp_path / "file" / "store")
    assert "no folder that can be written; choose another path" in blocks.health().reason
    with pytest.raises(UnavailableError, match=r"cannot be used as a store: Not a directory .*; choose another path"):
        put(blocks, b"x")
    fresh = open_(tmp_path / "fresh")
    assert fresh.health().status == "healthy"
    assert not fresh.path.exists()


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """POINTSMAN_STORE, else the folder for data of programs, else in the home."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("POINTSMAN_STORE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Blocks().path == tmp_path / ".local" / "share" / "pointsman" / "store"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Blocks().path == tmp_path / "data" / "pointsman" / "store"
    monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "named"))
    assert Blocks().path == tmp_path / "named"
    monkeypatch.setenv("POINTSMAN_STORE", "~/named")
    assert Blocks().path == Blocks(path="~/named").path == tmp_path / "named"


def test_an_empty_path_is_no_folder() -> None:
    """A variable that was not set does not make a store of the folder where a program happens to run."""
    with pytest.raises(ConfigError, match=r"STORES\[0\]\.path: found an empty text, expected the path of a folder"):
        Store.from_config({"STORES": [{"id": "a", "type": "blocks", "path": ""}]})
    for path, says in {
        3: "found int, expected the path",
        "~nobody-here/x": "'~nobody-here/x', whose user has no home",
    }.items():
        with pytest.raises(ValueError, match=says):
            Blocks(path=path)


def test_the_index_is_of_its_own_kind(open_: Open) -> None:
    """Another program's database at its place is put aside and not written to."""
    blocks = open_()
    cid = put(blocks, b"x")
    blocks.close()
    remove_index(blocks)
    with sqlite3.connect(blocks.path / "index.sqlite") as db:
        db.execute("CREATE TABLE theirs(x)")
    db.close()
    again = open_()
    assert get(again, cid) == b"x"
    aside = next(blocks.path.glob("index.sqlite.damaged-*"))
    with sqlite3.connect(aside) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    db.close()


def test_damage_in_the_middle_of_the_index_is_mended(open_: Open) -> None:
    """Pages that are wrong are found while it is used, by `verify` at the latest: it is put aside and made anew."""
    blocks, data = open_(), [noise(100, n) for n in range(3000)]
    names = [put(blocks, one) for one in data]
    blocks.close()
    index = blocks.path / "index.sqlite"
    with index.open("r+b") as file:
        for page in range(1, index.stat().st_size >> 12, 2):
            file.seek(page << 12)
            file.write(b"\xff" * 600)
    with Store([open_()]) as store:
        assert list(store.verify()) == []
        assert [store.get(name) for name in names] == data
        assert len(list(store.ls())) == len(data)
        assert store.put(b"more").stored_in == ("blocks",)
    assert list(blocks.path.glob("index.sqlite.damaged-*"))


def test_damage_of_the_only_copy_is_an_error_of_its_own(store: Store, tmp_path: Path) -> None:
    """In the middle of a file, too, where the store is asked again."""
    cid = store.put(noise(3 << 20)).cid
    for pack in (tmp_path / "home" / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    with pytest.raises(UnusableAnswer, match="was damaged on this disk"):
        store.get(cid)
