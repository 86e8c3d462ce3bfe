"""What is given to be kept, where it is not what it should be: the caller is told, and nothing half-read is kept."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from array import array
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from attrs import define
from pointsman import (
    BackendError,
    BackendTimeout,
    ConfigError,
    InvalidRequestError,
    Scope,
    Store,
    UnavailableError,
    hookimpl,
)
from pointsman.content import Source, Stored
from pointsman_ipfs import Blocks


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Store]:
    """Two embedded stores: what the first one cannot take, the second one is asked to."""
    with Store({"home": Blocks(path=tmp_path / "home"), "office": Blocks(path=tmp_path / "office")}) as store:
        yield store


class Broken:
    """A file that fails in the middle, or reads a text, once; and has nothing more to say after that."""

    def __init__(self, error: Exception | None) -> None:
        self._answers = iter([b"Dear ", error or "text"])

    def read(self, size: int = -1) -> Any:
        answer = b"" if size == 0 else next(self._answers, b"")
        if isinstance(answer, Exception):
            raise answer
        return answer


def pieces(error: Exception | None) -> Iterator[Any]:
    yield b"Dear "
    if error is not None:
        raise error
    yield "text"


@pytest.mark.parametrize("form", [Broken, pieces])
@pytest.mark.parametrize("error", [RuntimeError("mine"), OSError(5, "mine"), UnavailableError("mine"), None])
@pytest.mark.parametrize("call", ["put", "import_car"])
def test_a_source_that_fails_is_kept_by_no_store(two: Store, form: Any, error: Exception | None, call: str) -> None:
    """What it gave before is no content: no other store takes that for all of it. It is the caller's error, and no
    store's."""
    with pytest.raises(
        InvalidRequestError, match=r"content: (cannot be read: \w+: .*mine|found a .* text|.*type str)|no CAR"
    ):
        getattr(two, call)(form(error))
    assert list(two.ls()) == []
    assert two.put(b"x").stored_in == ("home",)  # it is not blamed


def test_what_cannot_be_read_at_all_is_told(two: Store, tmp_path: Path) -> None:
    """A file that is closed, or open for writing only."""
    (tmp_path / "letter").write_bytes(b"Dear Sir")
    with (tmp_path / "letter").open("rb") as closed, (tmp_path / "copy").open("wb") as written:
        closed.close()
        for file in (closed, written):
            with pytest.raises(
                InvalidRequestError, match=r"content: cannot be read: (ValueError: .*closed|Unsupported)"
            ):
                two.put(file)


@pytest.mark.parametrize("heeds_none", [True, False])
def test_a_file_that_reads_more_than_it_is_asked_for_is_refused(two: Store, heeds_none: bool) -> None:
    """What it gave too much would be lost, or would stand in a block of another size. It is the caller's error."""

    class Careless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(0 if size == 0 and heeds_none else 3_000_000)

    says = f"content: found a file that reads 3,000,000 bytes for {'1,048,576' if heeds_none else 0}, .*iter"
    with pytest.raises(InvalidRequestError, match=says):
        two.put(Careless(bytes(7_000_000)))
    assert list(two.ls()) == []


def test_a_file_in_an_archive_is_kept(two: Store, tmp_path: Path) -> None:
    """`tarfile` gives one without the number that a file of the system has."""
    (tmp_path / "letter").write_bytes(b"Dear Sir")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "letter", "letter")
    with tarfile.open(tmp_path / "all.tar") as archive:
        member = archive.extractfile("letter")
        assert member is not None
        assert two.get(two.put(member).cid) == b"Dear Sir"


def test_content_that_comes_slowly_is_not_waited_for_beyond_the_deadline(two: Store) -> None:
    """Neither from a generator nor from a pipe, long before there is enough for a block."""
    begun, (read, write) = monotonic(), os.pipe()

    def drip() -> Iterator[bytes]:
        while monotonic() < begun + 30:
            os.write(write, b"x")
            sleep(0.02)
            yield b"x"

    dripping = threading.Thread(target=lambda: deque(drip(), 0), daemon=True)
    dripping.start()
    try:
        with open(read, "rb") as pipe:
            for given in (pipe, drip()):
                with pytest.raises(BackendTimeout):
                    two.put(given, timeout=0.3)
            assert monotonic() < begun + 10
    finally:
        begun = 0.0
        dripping.join()
        os.close(write)


def test_a_pipe_that_does_not_wait_is_not_at_its_end(two: Store) -> None:
    """Nothing to read yet is not the end of the content."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.write(write, b"Dear ")
    with open(read, "rb") as file, pytest.raises(InvalidRequestError, match="nothing to read yet"):
        two.put(file)
    os.close(write)


def test_an_empty_path_is_not_this_folder(two: Store) -> None:
    """A variable that was not set does not publish the folder where a program happens to run."""
    with pytest.raises(InvalidRequestError, match=r"found an empty path"):
        two.put("")


def test_views_of_larger_items_are_kept_whole(two: Store) -> None:
    """A view of numbers is its bytes, each of them."""
    numbers = array("I", range(1000))
    given: Any = [memoryview(numbers)]
    assert two.get(two.put(given).cid) == numbers.tobytes()


def test_a_piece_that_is_none_is_no_end(two: Store) -> None:
    """A generator that has nothing to say in the middle has not ended: what would be kept is not all of it."""
    with pytest.raises(InvalidRequestError, match="found a piece of type NoneType, expected bytes"):
        two.put(piece for piece in (b"Dear ", None, b"Sir"))  # type: ignore[misc] # that is the mistake
    assert list(two.ls()) == []


@pytest.mark.parametrize("given", [{}, {b"Dear": 1}, {b"Dear", b"Sir"}, frozenset({b"Dear"})])
def test_pieces_without_an_order_are_refused(two: Store, given: Any) -> None:
    """A mapping or a set would be kept in whatever order it happens to have."""
    with pytest.raises(InvalidRequestError, match=f"content: found {type(given).__name__}, expected bytes, a path"):
        two.put(given)


def test_a_view_that_leaves_bytes_out_is_kept_as_it_reads(two: Store) -> None:
    """Bytes need not lie side by side."""
    given: Any = memoryview(b"D.e.a.r.")[::2]
    assert two.get(two.put(given).cid) == b"Dear"


def test_what_may_not_be_looked_at_is_not_said_to_be_absent(two: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not enter a folder is told so: root may enter all, so the system's answer is played."""

    def refused(path: Any, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", refused)
        with pytest.raises(InvalidRequestError, match=r"^locked/letter: cannot be read: Permission denied$"):
            two.put("locked/letter")


@pytest.mark.parametrize("progress", [3, lambda: None, lambda size: 1 / 0])
def test_progress_that_fails_is_the_callers_error(two: Store, progress: Any) -> None:
    """No store is blamed for it, and none keeps what was begun."""
    with pytest.raises(InvalidRequestError, match=r"home: progress: it failed: \w+Error: "):
        two.put(b"Dear Sir", progress=progress)
    assert list(two.ls()) == []
    assert two.put(b"x", progress=None).stored_in == ("home",)
    assert list(two.verify(progress=None)) == []  # type: ignore[arg-type] # as a put takes it


@pytest.mark.parametrize("part", [{"offset": 1.5}, {"offset": float("nan")}, {"offset": "1"}, {"length": 2.0}])
def test_a_part_is_given_in_whole_numbers(two: Store, part: dict[str, Any]) -> None:
    """What is none is the caller's error, and no store's."""
    letter = two.put(b"Dear Sir").cid
    with pytest.raises(InvalidRequestError, match=r"offset .*, length .*: expected integers"):
        two.open(letter, **part)


def test_a_target_is_a_path(two: Store) -> None:
    """What is none is the caller's error, as where content is given."""
    letter = two.put(b"Dear Sir").cid
    for target in 5, b"letter", None:
        with pytest.raises(InvalidRequestError, match=r"^target: found \w+, expected a path where nothing is$"):
            two.extract(letter, target)  # type: ignore[arg-type] # this is the rule


@define(eq=False)
class Whole:
    """A store whose plugin reads everything at once, after it has read nothing."""

    got: bytes = b""

    @hookimpl
    def store(self, source: Source, scope: Scope) -> Stored:
        assert source.file is not None
        assert source.file.read(0) == b""
        self.got = source.file.read()
        return Stored("cid", len(self.got))


@define(eq=False)
class Half:
    """A store that fails when it has read some of it."""

    @hookimpl
    def store(self, source: Source, scope: Scope) -> Stored:
        assert source.file is not None
        source.file.read(6)
        raise UnavailableError("it is away", retry_same=False)


@define(eq=False)
class Closing(Half):
    """A store that closes what it has read some of, as libraries do that send files."""

    @hookimpl
    def store(self, source: Source, scope: Scope) -> Stored:
        assert source.file is not None
        with source.file:
            return super().store(source, scope)


@pytest.mark.parametrize("before", [{}, {"half": Half()}, {"closing": Closing()}], ids=["first", "again", "closed"])
@pytest.mark.parametrize("form", ["pipe", "pieces", "bytes"])
def test_who_reads_without_a_size_gets_all_of_it(before: dict[str, Any], form: str) -> None:
    """As of every file of Python, though a pipe has less at once, or another store has read some of it."""
    end, begin = os.pipe()

    def write() -> None:
        for piece in (b"Dear Sir ", b"or Madam"):
            os.write(begin, piece)
            sleep(0.05)
        os.close(begin)

    writer = threading.Thread(target=write)
    writer.start()
    whole = Whole()
    stores: dict[str, object] = {**before, "whole": whole}
    with os.fdopen(end, "rb") as pipe, Store(stores) as store:
        given: dict[str, Any] = {"pipe": pipe, "pieces": iter([b"Dear Sir ", b"or Madam"])}
        store.put(given.get(form, b"Dear Sir or Madam"))
        writer.join()
    assert whole.got == b"Dear Sir or Madam"


@define(eq=False)
class Dripping:
    """A store whose plugin heeds no limits, and ends its program where it is to say what a CID is."""

    @hookimpl
    def fetch(self, cid: str, offset: int, length: int | None, scope: Scope) -> Iterator[bytes]:
        while True:
            sleep(0.01)
            yield b"x"

    @hookimpl
    def resolve(self, cid: str, scope: Scope) -> str:
        raise SystemExit(7)

    @hookimpl
    def pin(self, cid: str, scope: Scope) -> None:
        raise SystemExit(7)


def test_content_that_only_drips_is_given_up_in_time() -> None:
    """Though its plugin does not look at the time: it is looked at between two pieces."""
    with Store([Dripping()]) as store:
        began = monotonic()
        with pytest.raises(BackendTimeout, match="the time was up before the end of the content"):
            store.get("cid", timeout=0.2)
        assert monotonic() - began < 10


def test_a_store_is_not_blamed_for_content_that_comes_slowly(two: Store) -> None:
    """Half of the time is kept for the other store, of what the first one takes; it has the content, and the next."""

    def slow() -> Iterator[bytes]:
        yield b"Dear "
        sleep(2.6)
        yield b"Sir"

    assert two.put(slow(), timeout=5).stored_in == ("home",)
    assert two.put(b"more").stored_in == ("home",)


@pytest.mark.parametrize("form", ["path", "file", "bytes"])
def test_content_is_taken_as_long_as_the_call_may_take(two: Store, tmp_path: Path, form: str) -> None:
    """Though another store could be asked: half of the time is kept for that one only while nothing moves."""
    (letter := tmp_path / "letter").write_bytes(data := os.urandom(25 << 20))
    with letter.open("rb") as file:
        given: dict[str, Any] = {"path": letter, "file": file, "bytes": data}
        assert two.put(given[form], timeout=4, progress=lambda _: sleep(0.1)).stored_in == ("home",)


def test_content_that_flows_is_read_as_long_as_the_call_may_take(two: Store, tmp_path: Path) -> None:
    """Though another store could be asked: half of the time is kept for that one until the first piece is there."""
    data = os.urandom(3 << 20)
    cid = two.put(data, store="home").cid
    with two.open(cid, timeout=5) as content:
        read = content.read(1 << 20)
        sleep(2.6)
        assert read + b"".join(content) == data


def test_a_store_that_is_closed_meanwhile_opens_nothing_again(two: Store, tmp_path: Path, no_leaks: None) -> None:
    """What is under way ends with an error; no other store of it is asked: nobody would close that again."""

    def closing() -> Iterator[bytes]:
        yield bytes(5 << 20)
        two.close()
        yield bytes(5 << 20)

    with pytest.raises(UnavailableError, match="the store was closed meanwhile"):
        two.put(closing())
    assert not (tmp_path / "office").exists()


def test_no_plugin_ends_the_program() -> None:
    """Not where it only names what is asked for, either."""
    with Store([Dripping()]) as store, pytest.raises(BackendError, match="the plugin failed with SystemExit: 7"):
        store.pin("cid")


def test_content_that_is_closed_is_not_at_its_end(two: Store) -> None:
    """Who reads on is told, as of every file of Python: what came before is not all."""
    with two.open(two.put(bytes(3 << 20)).cid) as content:
        pieces = iter(content)
        assert next(pieces)
    for rest in pieces, content:
        with pytest.raises(ValueError, match="closed file"):
            list(rest)


@pytest.mark.parametrize("timeout", ["1", float("nan"), -1, [], True, 10**400])
def test_a_timeout_is_a_number_of_seconds(two: Store, timeout: Any) -> None:
    """What is none is refused as a router refuses it, by every call; 0 is one."""
    letter = two.put(b"Dear Sir").cid
    calls = (two.get, two.has, two.pin, two.unpin, lambda cid, timeout: two.sync(timeout=timeout))
    for call in calls:
        with pytest.raises(ConfigError, match=r"^timeout: found .*, expected a number from 0 upwards$"):
            call(letter, timeout=timeout)
    with pytest.raises(ConfigError, match=r"^patience: found .*, expected a number from 0 upwards$"):
        two.sync(patience=timeout)
    with pytest.raises(BackendTimeout):
        two.get(letter, timeout=0)


def test_a_store_that_is_closed_is_asked_for_nothing(two: Store, tmp_path: Path) -> None:
    """As a router: it says what to do. Closing it again changes nothing, and what it kept is there for the next one."""
    cid = two.put(b"x").cid
    two.close()
    two.close()
    asked: dict[str, Any] = {"put": b"y", "import_car": b"y", "extract": (cid, tmp_path / "out")}
    asked |= dict.fromkeys(("get", "open", "export_car", "has", "ls", "pin", "unpin", "status"), cid)
    asked |= dict.fromkeys(("gc", "verify", "sync", "health"), ())
    for name, given in asked.items():
        with pytest.raises(ConfigError, match="this store is closed; make another one"):
            list(getattr(two, name)(*(given if isinstance(given, tuple) else [given])))
    with Store({"home": Blocks(path=tmp_path / "home")}) as store:
        assert store.get(cid) == b"x"


@pytest.mark.parametrize("name", ["timeout", "idle_timeout", "max_retries", "health_ttl"])
def test_a_setting_of_a_store_that_is_no_number_is_named(tmp_path: Path, name: str) -> None:
    """When the store is made, and not in a thread of it later."""
    options: Any = {name: "x"}
    with pytest.raises(ConfigError, match=rf'Store\.{name}: found "x", expected'):
        Store([Blocks(path=tmp_path)], **options)
