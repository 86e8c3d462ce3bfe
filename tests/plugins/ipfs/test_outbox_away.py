"""The outbox of stores that are away for long, that fail in odd ways, or that somebody has turned off."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from time import monotonic, sleep, time
from typing import BinaryIO

import pytest
from attrs import define
from pointsman import ConfigError, Scope, Store, StoreBackend, UnavailableError, _courier, hookimpl
from pointsman._outbox import Outbox, Waiting
from pointsman.content import Stored
from pointsman_ipfs import Blocks, Gateway, Kubo
from pointsman_ipfs.dag.cid import raw_cid, to_text


class Panic(BaseException):
    """What an extension that is not written in Python raises."""


@define(eq=False)
class Failing:
    """A store that fails when something is brought to it, the first time."""

    errors: list[BaseException]

    @hookimpl
    def store(self, source: object, scope: Scope) -> Stored:
        raise UnavailableError("nothing can be put there", retry_same=False)

    @hookimpl
    def import_car(self, source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
        if self.errors:
            raise self.errors.pop(0)
        return [Stored("bafkreibnoelefnzgwbcacyt4vh52ymxvzbjq7mmqhtcnwarfq4lzegsiqe", 1)]


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.sqlite")


def taken(outbox: Outbox) -> Waiting:
    job = outbox.take("office")
    assert job is not None
    return job


def test_how_long_something_takes_does_not_depend_on_how_much_waits(outbox: Outbox) -> None:
    """A put, an unpin, a status and a look for what is due read some rows of the file, and not all."""
    later = time() + 300
    with outbox._changing() as db:
        rows = ((store, f"cid{number}", later) for number in range(5000) for store in ("home", "office"))
        db.executemany("INSERT INTO jobs(store, cid, what, since, due) VALUES(?, ?, 'put', 0, ?)", rows)
    steps = list[None]()
    outbox._db.set_progress_handler(lambda: steps.append(None), 1000)
    outbox.add("new", ["office"])
    assert [one.store for one in outbox.waiting("cid7")] == ["home", "office"]
    assert not outbox.drop("new")
    assert outbox.take("office") is None
    assert outbox.next_due("office") == pytest.approx(300, abs=60)
    assert not outbox.drop("cid7", "home")
    assert [one.store for one in outbox.waiting("cid7")] == ["office"]
    assert len(steps) < 10
    outbox.close()


def test_a_new_try_finds_what_is_not_due(outbox: Outbox) -> None:
    """Who wants all to be tried now gets what waits for later, the first first, and each once."""
    for number, cid in enumerate(("later", "sooner")):
        outbox.add(cid, ["office"])
        outbox.failed(taken(outbox), "away", 100.0 - number)
    began = time()
    jobs = [outbox.take("office", tried_before=began) for _ in range(3)]
    assert [job and job.cid for job in jobs] == ["sooner", "later", None]
    outbox.close()


@pytest.mark.parametrize("after", [0.0, -5.0, nan, inf, 1e300])
def test_a_hint_that_is_none_is_not_obeyed(outbox: Outbox, after: float) -> None:
    """What a store says of when to come again lies between a second and an hour: nothing is tried without end, or
    never."""
    outbox.add("cid", ["office"])
    outbox.failed(taken(outbox), "away", after)
    assert 0 < (outbox.next_due("office") or 0) <= 3600
    outbox.close()


@pytest.mark.parametrize("error", [Panic("odd"), KeyboardInterrupt(), UnavailableError("caf\udce9: it is away")])
def test_whatever_a_store_raises_it_is_tried_again(tmp_path: Path, error: BaseException) -> None:
    """In the same process, and a second later: also what is no error of Python, and a path that is no text."""
    with Store({"home": Blocks(path=tmp_path / "home"), "office": Failing([error])}) as store:
        store.put(b"x")
        ends = monotonic() + 20
        while left := store.waiting():
            assert monotonic() < ends, left
            sleep(0.01)


def test_a_store_that_fails_again_and_again_is_tried_no_further(tmp_path: Path) -> None:
    """With a node that hangs, each try takes its time, and thousands may wait; the next `sync` begins with others."""
    away, home = Failing([]), Blocks(path=tmp_path / "home")
    with Store({"home": home, "office": away}, max_retries=0) as store:
        outbox = Outbox(tmp_path / "home" / "outbox.sqlite")
        for number in range(8):
            outbox.add(store.put(b"%d" % number, store="home").cid, ["office"])
            outbox.failed(taken(outbox), "it is away", 3000)  # else it is tried meanwhile
        outbox.close()
        away.errors = [UnavailableError("away", retry_same=False, retry_after=3000)]
        tries = [sorted(one.tries for one in store.sync()) for _ in range(3)]
    assert [sum(one) for one in tries] == [8 + 3, 8 + 6, 8 + 9]
    assert tries[-1][0] == 2


def test_what_cannot_be_read_elsewhere_keeps_nothing_else_from_a_store(tmp_path: Path) -> None:
    """It is no failure of the store that was to get it, though a source is away, too, or has what is damaged."""
    home, away = Blocks(path=tmp_path / "home"), Gateway(url="http://127.0.0.1:1")
    with Store({"home": home, "web": away, "office": Blocks(path=tmp_path / "office")}, max_retries=0) as store:
        outbox = Outbox(tmp_path / "home" / "outbox.sqlite")
        for number in range(8):
            cid = store.put(b"%d" % number, store="home").cid if number == 7 else to_text(raw_cid(b"lost %d" % number))
            outbox.add(cid, ["office"])
            outbox.failed(taken(outbox), "it is away", 3000 + number)  # else it is tried meanwhile
        outbox.close()
        assert cid not in [one.cid for one in store.sync()]
        assert store.has(cid, store="office")


def test_what_one_source_lacks_is_tried_more_and_more_seldom_while_another_is_away(tmp_path: Path) -> None:
    """It was tried each second for ever, so that `sync` got no turn and did not end."""
    home, away = Blocks(path=tmp_path / "home"), Gateway(url="http://127.0.0.1:1")
    with Store({"home": home, "web": away, "office": Blocks(path=tmp_path / "office")}, max_retries=0) as store:
        store.put(b"here", store="home")
        outbox = Outbox(tmp_path / "home" / "outbox.sqlite")
        outbox.add(to_text(raw_cid(b"lost")), ["office"])
        for _ in range(6):
            job = outbox.take("office", tried_before=time() + 1)
            assert job is not None
            outbox.failed(job, "it is away", 3000)
        (waits,) = store.sync()
        assert (waits.tries, "block" in waits.reason, "web: " in waits.reason) == (7, True, True)
        assert (outbox.next_due("office") or 0) > 10
        outbox.close()


def test_a_store_that_is_turned_off_is_asked_for_nothing(tmp_path: Path) -> None:
    """What waits for it waits, and says why."""
    home = Blocks(path=tmp_path / "home")
    with Store({"home": home, "office": Failing([UnavailableError("away")])}) as store:
        store.put(b"x")
    office = StoreBackend(Failing([]), id="office", enabled=False)
    with Store([StoreBackend(home, id="home"), office]) as store:
        assert [one.reason for one in store.sync()] == ["disabled in the configuration"]


def test_the_outbox_may_be_named_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the folder of a store: else what waits would depend on where the program was started."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    away = {"home": Blocks(path="~/home"), "node": Kubo(url="http://127.0.0.1:9")}
    with Store(away, outbox="~/waits.sqlite") as store:
        assert store.put(b"x").waiting_for == ("node",)
    assert (tmp_path / "waits.sqlite").exists()


def test_a_store_that_hangs_keeps_nobody_from_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plugin does not heed that nobody waits any more: it is left behind, and what it was to get waits."""
    monkeypatch.setattr(_courier, "_ENDING_S", 0.1)
    begun, may_end = threading.Event(), threading.Event()

    @define(eq=False)
    class Hanging(Failing):
        @hookimpl
        def import_car(self, source: BinaryIO, pin: bool, scope: Scope) -> Sequence[Stored]:
            begun.set()
            may_end.wait(30)
            return []

    home = Blocks(path=tmp_path / "home")
    with Store({"home": home, "office": Hanging([])}) as store:
        cid = store.put(b"x").cid
        assert begun.wait(20)
    (left,) = [one for one in threading.enumerate() if one.name == "outbox of office"]
    with Store({"home": home}) as store:
        assert [(one.store, one.cid) for one in store.waiting()] == [("office", cid)]
    may_end.set()
    left.join(20)


def test_a_put_that_ends_after_the_store_was_closed_opens_no_outbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would close it again, nor end the thread that brings what waits there."""
    store = Store({"home": Blocks(path=tmp_path / "home"), "office": Blocks(path=tmp_path / "office")})
    close = store._post.close

    def closed() -> None:
        close()
        with pytest.raises(ConfigError, match="this store is closed"):
            store.put(b"x")

    monkeypatch.setattr(store._post, "close", closed)
    store.close()
    assert not (tmp_path / "home" / "outbox.sqlite").exists()


def test_what_no_store_can_give_out_waits_with_the_reason(tmp_path: Path) -> None:
    """As where the store that has it was turned off since."""
    home, office = Blocks(path=tmp_path / "home"), Failing([UnavailableError("away")])
    with Store({"home": home, "office": office}) as store:
        store.put(b"x")
    with Store([StoreBackend(home, id="home", enabled=False), StoreBackend(office, id="office")]) as store:
        assert [one.reason for one in store.sync()] == ["no other store is configured that could give it out"]


def test_where_no_thread_can_be_started_the_next_put_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put meanwhile is kept, and acknowledged."""
    stores = {"home": Blocks(path=tmp_path / "home"), "office": Blocks(path=tmp_path / "office")}
    with Store(stores) as store:
        with monkeypatch.context() as full:

            def no_room(thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            full.setattr(threading.Thread, "start", no_room)
            assert store.put(b"x").stored_in == ("home",)
        store.put(b"y")
        ends = monotonic() + 20
        while left := store.waiting():
            assert monotonic() < ends, left
            sleep(0.01)
    assert {"outbox of office", "pointsman-blocks"}.isdisjoint(one.name for one in threading.enumerate())
