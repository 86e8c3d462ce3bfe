"""What is wished for while the outbox has an older wish: the newest one holds, in every store."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import pytest
from attrs import field, frozen
from pointsman import Scope, Store, UnavailableError, _outbox, _post, hookimpl
from pointsman._outbox import Outbox, What
from pointsman.content import Stored
from pointsman_ipfs import Blocks


@frozen(kw_only=True)
class Remote(Blocks):
    """A store that may be away, and takes its time."""

    away: threading.Event = field(factory=threading.Event)
    begun: threading.Event = field(factory=threading.Event)
    may_get: threading.Event = field(factory=threading.Event)
    may_let: threading.Event = field(factory=threading.Event)

    @hookimpl
    def import_car(self, source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
        self.begun.set()
        assert self.may_get.wait(30)
        return super().import_car(source, pin, scope)

    @hookimpl
    def unpin(self, cid: str, scope: Scope) -> None:
        self.begun.set()
        if self.away.is_set():
            raise UnavailableError("it is away", retry_same=False)
        assert self.may_let.wait(30)
        super().unpin(cid, scope)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(path=tmp_path / "remote")


@pytest.fixture
def store(tmp_path: Path, remote: Remote) -> Iterator[Store]:
    with Store({"home": Blocks(path=tmp_path / "home"), "remote": remote}, max_retries=0) as store:
        yield store
        remote.may_get.set()
        remote.may_let.set()


def pinned(store: Store) -> dict[str, list[str]]:
    return {one.id: [entry.cid for entry in store.ls(store=one.id)] for one in store.stores}


def test_what_is_unpinned_while_it_is_brought_is_let_go(store: Store, remote: Remote) -> None:
    """It is pinned in no store when all is done, though the one that was just getting it had been asked before."""
    letter = store.put(b"Dear Sir")
    assert remote.begun.wait(10)
    remote.may_let.set()
    store.unpin(letter.cid)
    remote.may_get.set()
    assert store.sync() == ()
    assert pinned(store) == {"home": [], "remote": []}


PINNING: dict[str, Callable[[Store, str], object]] = {
    "put": lambda store, cid: store.put(b"Dear Sir", store="remote"),
    "pin": lambda store, cid: store.pin(cid),
    "import": lambda store, cid: store.import_car(b"".join(store.export_car(cid, store="remote")), store="remote"),
}


@pytest.mark.parametrize("how", PINNING)
@pytest.mark.parametrize("late", [False, True])
def test_an_old_wish_to_unpin_lets_nothing_go_that_was_pinned_since(
    store: Store, remote: Remote, how: str, late: bool
) -> None:
    """Not even where that was being done just then."""
    remote.may_get.set()
    letter = store.put(b"Dear Sir")
    assert store.sync() == ()
    remote.away.set()
    store.unpin(letter.cid)
    assert [one.what for one in store.waiting()] == ["unpin"]
    if late:
        remote.begun.clear()
        remote.away.clear()
        syncing = threading.Thread(target=store.sync)
        syncing.start()
        assert remote.begun.wait(10)
    if how == "pin":
        store.gc()  # then only the other one has it
    PINNING[how](store, letter.cid)
    remote.away.clear()
    remote.may_let.set()
    if late:
        syncing.join()
    assert store.sync() == ()
    assert letter.cid in pinned(store)["remote"]
    store.gc()
    assert store.get(letter.cid) == b"Dear Sir"
    store.unpin(letter.cid)
    assert pinned(store) == {"home": [], "remote": []}


def test_what_a_collection_took_before_it_was_pinned_again_is_brought(
    store: Store, remote: Remote, tmp_path: Path
) -> None:
    """An older wish to unpin it was being done when it was put, and a collection came before the store had it again."""
    remote.may_get.set()
    letter = store.put(b"Dear Sir", store="home")
    outbox = Outbox(tmp_path / "home" / "outbox.sqlite")
    outbox.add(letter.cid, ["remote"], "unpin")
    outbox.add(letter.cid, [], kept="remote")
    outbox.close()
    assert store.sync() == ()
    assert letter.cid in pinned(store)["remote"]


def test_a_wish_of_another_process_to_unpin_lets_nothing_go_that_was_pinned_since(
    tmp_path: Path, store: Store, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that process has made the outbox after this one had begun: that is looked at once a second."""
    monkeypatch.setattr(_post, "_LATE_S", 0.0)
    letter = store.put(b"Dear Sir", store="remote")
    remote.away.set()
    with Store({"home": Blocks(path=tmp_path / "home"), "remote": remote}, max_retries=0) as other:
        other.unpin(letter.cid)
        assert [one.what for one in other.waiting()] == ["unpin"]
    store.put(b"Dear Sir", store="remote")
    remote.away.clear()
    remote.may_let.set()
    assert store.sync() == ()
    assert letter.cid in pinned(store)["remote"]


@pytest.mark.parametrize("call", ["put", "pin", "unpin", "import"])
def test_an_outbox_that_another_process_keeps_is_waited_for_no_longer_than_the_call_may_take(
    store: Store, remote: Remote, tmp_path: Path, call: str
) -> None:
    """That one is stopped, say. Who was not told that it is kept puts it again."""
    remote.may_get.set()
    letter = store.put(b"Dear Sir")
    assert store.sync() == ()
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: store.put(b"Dear Madam", timeout=0.5),
        "pin": lambda: store.pin(letter.cid, timeout=0.5),
        "unpin": lambda: store.unpin(letter.cid, timeout=0.5),
        "import": lambda: store.import_car(b"".join(store.export_car(letter.cid)), timeout=0.5),
    }
    with closing(sqlite3.connect(tmp_path / "home" / "outbox.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = monotonic()
        with pytest.raises(UnavailableError, match=r"the outbox .* cannot be used: "):
            calls[call]()
        assert monotonic() - began < 10


def test_what_was_told_not_to_be_kept_is_brought_to_nobody(store: Store, remote: Remote, tmp_path: Path) -> None:
    """Neither is it with what is put next."""
    remote.may_get.set()
    store.put(b"Dear Sir")
    with closing(sqlite3.connect(tmp_path / "home" / "outbox.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match=r"the outbox .* cannot be used: "):
            store.put(b"Dear Madam", timeout=0.2)
    letter = store.put(b"Dear Aunt")
    assert store.sync() == ()
    there = pinned(store)["remote"]
    assert (letter.cid in there, len(there)) == (True, 2)


@pytest.mark.parametrize("what", ["unpin", "put"])
def test_a_wish_waits_until_the_older_one_that_is_on_its_way_has_ended(tmp_path: Path, what: str) -> None:
    """In another process, say: what that one sends may come to the store last, and would stay there."""
    first, second = (Outbox(tmp_path / "outbox.sqlite") for _ in range(2))
    first.add("a", ["node"])
    under_way = first.take("node")
    assert under_way is not None
    second.add("a", ["node"], what)  # type: ignore[arg-type] # it is one of them
    assert second.take("node") is None
    first.done(under_way)
    after = second.take("node")
    assert after is not None
    assert after.what == what
    second.done(after)
    assert second.waiting() == []
    for one in first, second:
        one.close()


@pytest.mark.parametrize("what", ["unpin", "pin", "put"])
def test_what_a_reader_found_damaged_takes_the_place_of_no_wish(tmp_path: Path, what: What) -> None:
    """Else it would stay pinned there for ever, or never be pinned: who reads it after that finds it again."""
    outbox = Outbox(tmp_path / "outbox")
    outbox.add("a", ["node"], what)
    outbox.add("a", ["node"], "mend")
    assert [one.what for one in outbox.waiting()] == [what]
    outbox.add("b", ["node"], "mend")
    outbox.add("b", ["node"], what)
    assert [one.what for one in outbox.waiting()] == [what, what]
    outbox.close()


@pytest.mark.parametrize("was", ["killed", "failed"])
def test_what_waits_is_tried_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str
) -> None:
    """Once: whoever had it may have been killed, and what failed is due by a clock that is far behind."""
    before, after = Outbox(tmp_path / "outbox"), Outbox(tmp_path / "outbox")
    before.add("cid", ["remote"])
    job = before.take("remote")
    assert job is not None
    if was == "failed":
        before.failed(job, "it is away")
    real = _outbox.time
    monkeypatch.setattr(_outbox, "time", lambda: real() - 3600)
    assert after.next_due("remote") == 0.0
    taken = after.take("remote")
    assert taken is not None
    assert taken.cid == "cid"
    assert after.take("remote") is None
    assert not before.renew(job)
    after.failed(taken, "it is away")
    assert after.take("remote") is None
    assert 0 < (after.next_due("remote") or 0) < 10
    before.close()
    after.close()
