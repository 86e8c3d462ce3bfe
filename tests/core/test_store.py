"""`Store`: one store acknowledges, the outbox brings it to the others, reads go from one to the next."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from attrs import define, field, frozen
from pointsman import (
    AllBackendsFailed,
    BackendError,
    BackendTimeout,
    ConfigError,
    ContentNotFoundError,
    Health,
    InvalidRequestError,
    Scope,
    Store,
    StoreBackend,
    UnavailableError,
    UnusableAnswer,
    hookimpl,
)
from pointsman.content import Collected, Copy, Entry, Finding, Progress, Source, Stored

Make = Callable[..., Store]


@define(eq=False)
class Memory:
    """A store in memory. A CAR file of it is the CID, a line break and the bytes. It fails as it is told."""

    local: bool = True
    read_only: str = ""
    kept: dict[str, bytes] = field(factory=dict)
    pinned: set[str] = field(factory=set)
    fails: dict[str, list[BaseException | None]] = field(factory=dict)  #: hook -> what its next calls raise
    asked: list[str] = field(factory=list)
    breaks_after: int | None = None  #: bytes of a file after which it fails, once
    damaged: set[str] = field(factory=set)
    healthy: Health = field(factory=Health.ok)
    sign: bytes = b"\n"  #: behind the CID in a CAR

    def _begin(self, hook: str) -> None:
        self.asked.append(hook)
        errors = self.fails.get(hook, [])
        error = errors.pop(0) if len(errors) > 1 else (errors or [None])[0]
        if error is not None:
            raise error

    @hookimpl
    def store(self, source: Source, scope: Scope) -> Stored:
        self._begin("store")
        data = bytearray()
        if source.path is not None:
            data += source.path.read_bytes()
        else:
            assert source.file is not None
            while piece := source.file.read(7):
                data += piece
                source.progress(len(piece))
                if self.breaks_after is not None and len(data) > self.breaks_after:
                    self.breaks_after = None
                    raise UnavailableError("the disk is gone", retry_same=False)
        return self._keep(bytes(data), source.pin)

    def _keep(self, data: bytes, pin: bool) -> Stored:
        cid = "m" + sha256(data).hexdigest()
        self.kept[cid] = data
        self.damaged.discard(cid)
        if pin:
            self.pinned.add(cid)
        return Stored(cid, len(data))

    def _get(self, cid: str) -> bytes:
        if not cid.startswith("m"):
            raise InvalidRequestError(f"{cid}: no CID")
        if cid not in self.kept:
            raise ContentNotFoundError(f"{cid[:6]} is not here")
        if cid in self.damaged:
            raise UnusableAnswer(f"{cid[:6]} is damaged")
        return self.kept[cid]

    @hookimpl
    def fetch(self, cid: str, offset: int, length: int | None, scope: Scope) -> Iterator[bytes]:
        self._begin("fetch")
        data = self._get(cid)[offset : None if length is None else offset + length]
        for start in range(0, len(data), 10):
            if self.breaks_after is not None and start >= self.breaks_after:
                self.breaks_after = None
                raise UnavailableError("the disk is gone", retry_same=False)
            yield data[start : start + 10]

    @hookimpl
    def has(self, cid: str, scope: Scope) -> bool:
        self._begin("has")
        return cid in self.kept and cid not in self.damaged

    @hookimpl
    def entries(self, cid: str | None, scope: Scope) -> Iterator[Entry]:
        self._begin("entries")
        yield from (Entry("", one, len(self.kept[one]), "file") for one in sorted(self.pinned))

    @hookimpl
    def export_car(self, cid: str, scope: Scope) -> Iterator[bytes]:
        self._begin("export_car")
        yield cid.encode() + self.sign
        yield self._get(cid)

    @hookimpl
    def import_car(self, source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
        self._begin("import_car")
        cid, _, data = source.read().partition(b"\n")
        stored = self._keep(data, pin)
        if stored.cid != cid.decode():
            raise UnusableAnswer("it is not what its CID says")
        return [stored]

    @hookimpl
    def pin(self, cid: str, scope: Scope) -> None:
        self._begin("pin")
        self._get(cid)
        self.pinned.add(cid)

    @hookimpl
    def unpin(self, cid: str, scope: Scope) -> None:
        self._begin("unpin")
        self.pinned.discard(cid)

    @hookimpl
    def collect(self, scope: Scope) -> Collected:
        self._begin("collect")
        gone = [self.kept.pop(cid) for cid in list(self.kept) if cid not in self.pinned]
        return Collected(len(gone), sum(map(len, gone)))

    @hookimpl
    def verify(self, cid: str | None, progress: Progress, scope: Scope) -> Iterator[Finding]:
        self._begin("verify")
        yield from (Finding(one, "damaged") for one in sorted(self.damaged) if cid in (None, one))

    @hookimpl
    def health(self) -> Health:
        return self.healthy


@frozen
class ReadOnly:
    """What a gateway is: a store that gives and takes nothing."""

    inner: Memory
    read_only = "it only gives out"

    @hookimpl
    def fetch(self, cid: str, offset: int, length: int | None, scope: Scope) -> Iterator[bytes]:
        return self.inner.fetch(cid, offset, length, scope)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A function that makes a store of these, with an outbox of its own; it is closed after the test."""
    made = list[Store]()

    def make(*stores: object, **options: Any) -> Store:
        named = {chr(ord("a") + number): one for number, one in enumerate(stores)}
        made.append(Store(named, outbox=options.pop("outbox", tmp_path / "outbox.sqlite"), **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def until(true: Callable[[], object]) -> None:
    """Wait until something is so, as it will be within moments."""
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


def down() -> UnavailableError:
    return UnavailableError("it is away")


# Content in


@pytest.mark.parametrize("given", ["bytes", "file", "path", "text path", "pieces", "bytearray"])
def test_content_of_every_form_is_kept(make: Make, tmp_path: Path, given: str) -> None:
    """Bytes, an open file from where it stands, a path, pieces: the same bytes have the same CID."""
    path = tmp_path / "letter"
    path.write_bytes(b"Dear Sir")
    file = io.BytesIO(b"xxDear Sir")
    file.seek(2)
    forms: dict[str, Any] = {"bytes": b"Dear Sir", "file": file, "path": path, "text path": str(path)}
    forms |= {"pieces": iter([b"Dear", b" ", b"", b"Sir"]), "bytearray": bytearray(b"Dear Sir")}
    store = make(Memory())
    stored = store.put(forms[given])
    assert stored == Stored("m" + sha256(b"Dear Sir").hexdigest(), 8, "file", ("a",), ())
    assert store.get(stored.cid) == b"Dear Sir"
    assert not (tmp_path / "outbox.sqlite").exists()  # nothing has ever waited


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no/such/file", "nothing is there; to keep a text, give its bytes"),
        ("\0", "nothing is there"),
        (io.StringIO("text"), "a file that reads text, expected one that was opened in binary mode"),
        (7, "found int, expected bytes, a path, a binary file, or bytes in pieces"),
        (["text"], "found a piece of type str, expected bytes"),
    ],
)
def test_what_cannot_be_kept_is_told(make: Make, given: Any, says: str) -> None:
    """The message says what was found and what was expected; nothing is kept, and the store is not blamed."""
    memory = Memory()
    store = make(memory)
    with pytest.raises(InvalidRequestError, match=says):
        store.put(given)
    assert memory.kept == {}
    assert store.put(b"x").stored_in == ("a",)


def test_the_next_store_takes_what_the_first_one_cannot(make: Make) -> None:
    """Content that can be read only once is read again for it; what came first stands in the attempts."""
    first, second, seen = Memory(breaks_after=20), Memory(), list[int]()
    stored = make(first, second).put(iter([b"0123456789"] * 5), progress=seen.append)
    assert (stored.size, stored.stored_in, stored.waiting_for) == (50, ("b",), ("a",))
    assert second.kept[stored.cid] == b"0123456789" * 5
    until(lambda: stored.cid in first.kept)
    assert sum(seen) == 27 + 50


def test_a_file_is_read_again_from_where_it_stood(make: Make) -> None:
    """It is not copied for that."""
    file = io.BytesIO(b"head" + b"body" * 20)
    file.seek(4)
    assert make(Memory(breaks_after=9), Memory()).put(file).size == 80


def test_what_nobody_takes_is_an_error_with_all_reasons(make: Make) -> None:
    """A group of them; of one store alone, its own."""
    with pytest.raises(AllBackendsFailed, match="a: it is away; b: it is away") as several:
        make(Memory(fails={"store": [down()]}), Memory(fails={"store": [down()]}), max_retries=0).put(b"x")
    assert [attempt.backend for attempt in several.value.attempts] == ["a", "b"]
    with pytest.raises(UnavailableError, match="it is away") as one:
        make(Memory(fails={"store": [down()]}), max_retries=0).put(b"x")
    assert one.value.backend == "a"


def test_what_can_be_read_once_is_not_asked_for_twice(make: Make) -> None:
    """With one store there is no copy of it to read again, so that one is not asked again."""
    memory = Memory(fails={"store": [UnavailableError("busy", retry_same=True)]})
    with pytest.raises(UnavailableError, match="busy"):
        make(memory, max_retries=3).put(iter([b"x"]))
    assert memory.asked == ["store"]
    assert make(Memory(fails={"store": [down(), None]}), max_retries=1).put(b"x").size == 1


def test_a_store_may_be_named(make: Make) -> None:
    """Then no other one is asked, nor gets a copy."""
    a, b = Memory(), Memory()
    store = make(a, b)
    stored = store.put(b"x", store="b")
    assert (stored.stored_in, stored.waiting_for, a.asked) == (("b",), (), [])
    with pytest.raises(ContentNotFoundError):
        store.get(stored.cid, store="a")
    assert store.get(stored.cid) == b"x"
    with pytest.raises(ConfigError, match="no store 'c'"):
        store.get(stored.cid, store="c")


def test_what_is_not_pinned_stays_where_it_is(make: Make) -> None:
    """And goes with the next collection."""
    store = make(Memory(), b := Memory())
    loose, kept = store.put(b"loose", pin=False), store.put(b"kept")
    assert loose.waiting_for == ()
    until(lambda: kept.cid in b.kept)
    assert store.gc() == {"a": Collected(1, 5), "b": Collected(0, 0)}
    assert (store.has(loose.cid), store.has(kept.cid)) == (False, True)


def test_a_store_that_cannot_be_written_is_not(make: Make) -> None:
    """It is asked for reading only, as long as it says why, and misses nothing that it could not get."""
    inner = Memory()
    cid = inner._keep(b"from afar", pin=True).cid
    store = make(Memory(), ReadOnly(inner))
    assert store.put(b"x").waiting_for == ()
    assert store.get(cid) == b"from afar"
    with pytest.raises(UnavailableError, match="b: it only gives out"):
        store.put(b"x", store="b")
    assert [copy.state for copy in store.status(cid)] == ["absent", "unknown"]
    with pytest.raises(UnavailableError, match="a: it only gives out"):
        make(ReadOnly(inner)).unpin(cid)


# Content out


def test_reads_go_from_store_to_store_in_the_middle(make: Make) -> None:
    """Not a byte is given twice or left out; the one that failed has a circuit like any backend."""
    data = bytes(range(100))
    first, second = Memory(), Memory()
    store = make(first, second)
    cid = store.put(data).cid
    until(lambda: cid in second.kept)
    for offset, length in ((0, None), (5, None), (5, 50), (0, 30)):
        first.breaks_after = 20
        with store.open(cid, offset, length) as content:
            assert content.read() == data[offset:][:length]
    first.breaks_after = 0
    assert store.get(cid) == data


def test_content_is_a_file(make: Make) -> None:
    """Read in any portions, as text through a wrapper, in pieces; closing it early ends what gives it."""
    store = make(Memory())
    cid = store.put(b"one\ntwo\n" * 10).cid
    with store.open(cid) as content:
        assert (content.read(3), content.read(0), content.read(20)) == (b"one", b"", b"\ntwo\non")
        assert b"".join(content) == (b"one\ntwo\n" * 10)[10:]
        assert content.read() == b""
    with io.TextIOWrapper(io.BufferedReader(store.open(cid))) as text:
        assert list(text) == ["one\n", "two\n"] * 10
    early = store.open(cid)
    early.close()
    with pytest.raises(ValueError, match="closed"):
        early.readinto(bytearray(1))
    assert store.get(store.put(b"").cid) == b""


def test_unknown_content_is_told_as_such(make: Make) -> None:
    """One error that says that no store has it; a CID that is none is the caller's mistake, and told at once."""
    a, b = Memory(), Memory()
    store = make(a, b)
    with pytest.raises(ContentNotFoundError, match="no store has it: a: mffff is not here; b: mffff is not here"):
        store.get("mffff")
    with pytest.raises(ContentNotFoundError):
        store.open("mffff")
    with pytest.raises(InvalidRequestError, match="x: no CID"):
        store.get("x")
    assert (a.asked, b.asked) == (["fetch"] * 3, ["fetch"] * 2)
    assert store.health()["a"] == Health.ok()  # nobody is blamed for that


def test_a_store_that_is_away_does_not_hide_what_the_others_say(make: Make) -> None:
    """`has` says what those say that can be asked; it raises where none can."""
    away, here = Memory(fails={"has": [down()]}), Memory()
    cid = here._keep(b"x", pin=True).cid
    store = make(away, here, max_retries=0)
    assert store.has(cid)
    assert not store.has("mffff")
    assert [copy.state for copy in store.status(cid)] == ["unknown", "kept"]
    with pytest.raises(BackendError, match="away"):
        make(Memory(fails={"has": [down()]}), max_retries=0).has(cid)


def test_what_is_damaged_is_brought_back(make: Make) -> None:
    """The right bytes come from the next store, and the first one gets them back; pins are left as they are."""
    a, b = Memory(), Memory()
    store = make(a, b)
    cid = store.put(b"evidence").cid
    until(lambda: cid in b.kept)
    a.damaged.add(cid)
    assert store.get(cid) == b"evidence"
    until(lambda: not a.damaged)
    assert store.get(cid, store="a") == b"evidence"


def test_verify_names_what_is_wrong_and_repairs_it(make: Make) -> None:
    """Each finding with its store; what no other store has stays damaged; of one that is away nothing is known."""
    a, b = Memory(), Memory()
    store = make(a, b)
    both, alone = store.put(b"both").cid, store.put(b"alone", store="a").cid
    until(lambda: both in b.kept)
    a.damaged |= {both, alone}
    assert {(one.cid, one.store, one.mended) for one in store.verify()} == {(both, "a", False), (alone, "a", False)}
    assert {(one.cid, one.mended) for one in store.verify(repair=True)} == {(both, True), (alone, False)}
    assert a.damaged == {alone}
    b.fails["verify"] = [down()]
    assert [(one.problem, one.unchecked) for one in store.verify(both)] == [("it cannot be verified: it is away", True)]


def test_listing_and_exporting_fall_back_until_they_have_begun(make: Make) -> None:
    """And `CAR` files of one store are read by another."""
    a, b = Memory(fails={"entries": [down()], "export_car": [down()]}), Memory()
    store = make(a, b, max_retries=0)
    cid = store.put(b"x", store="b").cid
    assert [entry.cid for entry in store.ls()] == [cid]
    assert make(Memory(), Memory()).import_car(store.export_car(cid)) == (Stored(cid, 1, "file", ("a",), ("b",)),)
    with pytest.raises(UnusableAnswer, match="not what its CID says"):
        make(Memory()).import_car(b"mffff\nother")


def test_an_export_goes_on_in_the_middle(make: Make) -> None:
    """The next store gives out the same CAR from the start: what came before is compared, and not given out again."""
    a, b = Memory(), Memory()
    store = make(a, b, max_retries=0)
    cid = store.put(b"0123456789", store="b").cid
    assert b"".join(store.export_car(cid)) == cid.encode() + b"\n0123456789"
    other = Memory(kept=b.kept, sign=b"|")
    with pytest.raises(AllBackendsFailed, match="b: it does not go on where the store before it stopped"):
        list(make(a, other, max_retries=0).export_car(cid))


# What other stores have still to get


def test_a_store_that_is_away_gets_it_when_it_is_back(make: Make) -> None:
    """What waits is told by the put, by `status`, by `health` and by `sync`, with the reason."""
    a, b = Memory(), Memory(fails={"import_car": [down()]})
    store = make(a, b)
    stored = store.put(b"x")
    assert (stored.stored_in, stored.waiting_for) == (("a",), ("b",))
    (waiting,) = store.sync()
    assert (waiting.store, waiting.cid, waiting.what, waiting.reason) == ("b", stored.cid, "put", "b: it is away")
    assert store.status(stored.cid) == (Copy("a", "kept"), Copy("b", "waiting", "b: it is away"))
    health = store.health()["b"]
    assert (health.status, health.reason) == ("degraded", "1 in the outbox wait for it: b: it is away")
    b.fails.clear()
    assert store.sync() == ()
    assert store.status(stored.cid) == (Copy("a", "kept"), Copy("b", "kept"))
    assert stored.cid in b.pinned
    assert store.health()["b"] == Health.ok()


def test_what_waits_survives_a_restart(make: Make) -> None:
    """The next `Store` goes on with it by itself, be it of another process."""
    a, b = Memory(), Memory(fails={"import_car": [down()]})
    first = make(a, b)
    cids = {first.put(bytes([n])).cid for n in range(20)}
    first.sync()
    first.close()
    assert not b.kept
    b.fails.clear()
    second = make(a, b)
    second.sync()
    assert b.pinned == cids


def test_a_store_that_was_only_found_is_missed_once_it_was_there(make: Make) -> None:
    """One that never was there gets nothing and is in no answer; one that was gets what came while it was away."""
    a, b = Memory(), Memory(healthy=Health.unconfigured("no node answers"))
    never = make(a, b, found=True)
    stored = never.put(b"x")
    assert (stored.waiting_for, never.status(stored.cid)) == ((), (Copy("a", "kept"),))
    for b.healthy in (Health.ok(), Health.unconfigured("no node answers")):
        assert make(a, b, found=True).put(b"y").waiting_for == ("b",)
    until(lambda: never.put(b"z").waiting_for == ("b",))  # others have seen it: that is looked at once a second


def test_two_stores_of_one_outbox_do_each_thing_once(make: Make) -> None:
    """They may be of two processes: a job is leased."""
    a, b = Memory(), Memory()
    stores = [make(a, b) for _ in range(3)]
    cids = {stores[n % 3].put(bytes([n])).cid for n in range(60)}
    until(lambda: b.pinned == cids)
    until(lambda: all(store.sync() == () for store in stores))  # one may be about to note that the last one is done
    assert b.asked.count("import_car") == 60


def test_unpinning_takes_back_what_waits(make: Make) -> None:
    """A store that cannot be told now is told later."""
    a, b = Memory(), Memory(fails={"import_car": [down()], "unpin": [down()]})
    store = make(a, b, max_retries=0)
    cid = store.put(b"x").cid
    store.unpin(cid)
    (waiting,) = store.sync()
    assert waiting.what == "unpin"
    b.fails.clear()
    assert store.sync() == ()
    assert (a.pinned, b.pinned) == (set(), set())
    with pytest.raises(UnavailableError, match="away"):
        make(Memory(fails={"unpin": [down()]}), max_retries=0).unpin(cid)


def test_pinning_reaches_every_store(make: Make) -> None:
    """One has it and pins it; the others get it."""
    a, b = Memory(), Memory()
    cid = a._keep(b"x", pin=False).cid
    store = make(a, b)
    store.pin(cid)
    store.sync()
    assert a.pinned == b.pinned == {cid}
    with pytest.raises(ContentNotFoundError):
        store.pin("mffff")


def test_content_that_is_gone_when_it_is_to_be_brought_waits_with_the_reason(make: Make) -> None:
    """The store that was to get it is not blamed for it."""
    a, b = Memory(), Memory(fails={"import_car": [down()]})
    store = make(a, b)
    cid = store.put(b"x").cid
    store.sync()
    a.kept.clear()
    b.fails.clear()
    (waiting,) = store.sync()
    assert "is not here" in waiting.reason
    assert store.put(b"y", store="b").stored_in == ("b",)
    a.damaged.add(cid)


def test_closing_ends_what_is_being_brought(make: Make) -> None:
    """At once: the scope of a running delivery is cancelled, and the job waits for the next time."""
    began, ended = threading.Event(), threading.Event()

    class Slow(Memory):
        @hookimpl
        def import_car(self, source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
            began.set()
            scope.on_cancel(ended.set)
            assert ended.wait(20)
            raise BackendTimeout("cancelled")

    a = Memory()
    store = make(a, define(Slow, eq=False)())
    cid = store.put(b"x").cid
    assert began.wait(20)
    store.close()
    assert ended.is_set()
    b = Memory()
    again = make(a, b)
    until(lambda: cid in b.kept)
    assert again.sync() == ()


def test_many_threads_put_at_once(make: Make) -> None:
    """Each is acknowledged for itself; all copies arrive."""
    a, b = Memory(), Memory()
    store = make(a, b)
    cids = list[str]()

    def work(number: int) -> None:
        for n in range(20):
            cids.append(store.put(f"{number} {n}".encode()).cid)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.sync() == ()
    assert set(cids) == a.pinned == b.pinned
    assert len(set(cids)) == 160


# Time, settings, plugins


def test_the_deadline_of_a_call_holds(make: Make) -> None:
    """It is handed to the store, of which half is the first one's while another one waits; None leaves it open."""
    limits = list[float]()

    @define(eq=False)
    class Watch(Memory):
        @hookimpl
        def has(self, cid: str, scope: Scope) -> bool:
            limits.append(scope.remaining())
            raise BackendTimeout("too slow")

    for timeout in (8, None):
        with pytest.raises(AllBackendsFailed):
            make(Watch(), Watch(), timeout=30, max_retries=0).has("m", timeout=timeout)
    assert [round(limit) for limit in limits] == [4, 8, 15, 30]


def test_settings_are_checked() -> None:
    """What is wrong is told with its name; so is what is no store."""
    with pytest.raises(ConfigError, match=r"Store\.timeout"):
        Store([Memory()], timeout=-1)
    with pytest.raises(ConfigError, match=r"stores\[0\]: found the class Memory, expected a StoreBackend or a store"):
        Store([Memory])
    with pytest.raises(ConfigError, match="two stores have the id 'memory'"):
        Store([Memory(), StoreBackend(Memory(), id="memory")])
    with pytest.raises(ConfigError, match="no store is configured"):
        Store([]).get("x")


def test_a_plugin_that_returns_something_else_is_at_fault(make: Make) -> None:
    """It is told so, and the next store is asked."""

    @define(eq=False)
    class Odd(Memory):
        @hookimpl
        def fetch(self, cid: str, offset: int, length: int | None, scope: Scope) -> Any:
            return ["text"]

    good = Memory()
    cid = good._keep(b"right", pin=True).cid
    assert make(Odd(), good).get(cid) == b"right"
    with pytest.raises(BackendError, match="hook fetch returned str, expected bytes: the plugin is at fault"):
        make(Odd()).get(cid)
