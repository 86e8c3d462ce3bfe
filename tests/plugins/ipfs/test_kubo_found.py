"""Without any configuration: a node of this machine is used if one answers, and missed only if it was there once."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman import ConfigError, ContentNotFoundError, Store
from pointsman.testing import faults
from pointsman_ipfs import Blocks, Kubo, usual_node

pytestmark = pytest.mark.kubo


@pytest.fixture
def at(usual_address: Callable[[str], None]) -> Callable[[str], Store]:
    """A function that returns the store of a machine where nothing is configured; a node would be at this address."""

    def at(address: str) -> Store:
        usual_address(address)
        return Store()

    return at


def notes(store: Store) -> list[str]:
    """What the error of a read says beside its message."""
    with pytest.raises(ContentNotFoundError) as caught:
        store.get("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
    return getattr(caught.value, "__notes__", [])


def test_a_node_that_somebody_configured_is_missed(usual_address: Callable[[str], None], tmp_path: Path) -> None:
    """Though it never was there: who reads is told that it was not asked."""
    with faults.nobody_listens() as nobody:
        usual_address(nobody.removesuffix("/v1"))
        with Store([Blocks(path=tmp_path / "blocks"), Kubo()]) as store:
            store.health()
            assert "not asked: kubo: unconfigured: no node answers" in "".join(notes(store))


def test_a_node_that_never_was_there_is_not_missed(at: Callable[[str], Store], tmp_path: Path) -> None:
    """Nothing waits for it, nothing asks it, and no answer of the store speaks of it; only health says what to do."""
    with faults.nobody_listens() as nobody, at(nobody.removesuffix("/v1")) as store:
        kept = store.put(b"alone")
        assert (kept.stored_in, kept.waiting_for) == (("blocks",), ())
        assert [(copy.store, copy.state) for copy in store.status(kept.cid)] == [("blocks", "kept")]
        assert list(store.verify()) == []
        assert [found.store for found in store.verify(store="kubo")] == ["kubo"]
        store.unpin(kept.cid)
        assert store.sync() == ()
        assert store.health()["kubo"].status == "unconfigured"
        assert notes(store) == []
        assert not (tmp_path / "store" / "outbox.sqlite").exists()


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ("127.0.0.1:45831", "'127.0.0.1:45831'"),
        ("/ip4/127.0.0.1/udp/5001", "'/ip4/127.0.0.1/udp/5001'"),
        ("ftp://me:hidden@host", "'ftp://***@host'"),
        ("hidden", "'***'"),  # what has no form of an address may be a key
    ],
)
def test_a_wrong_address_of_the_environment_is_told(
    usual_address: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, wrong: str, shown: str
) -> None:
    """The default store works without the node; its health names the variable, what it has, and what is expected."""
    usual_address("http://127.0.0.1:1")
    monkeypatch.setenv("IPFS_API", wrong)
    with Store() as store:
        health = store.health()["kubo"]
        assert health.status == "unconfigured"
        assert health.reason.startswith(f"IPFS_API: found {shown}, expected http(s)://HOST:PORT")
        assert "hidden" not in health.reason
        assert store.put(b"x").stored_in == ("blocks",)
    with pytest.raises(ConfigError, match="IPFS_API: found"):
        usual_node()


def test_a_node_that_was_there_once_is_missed(kubo: Any, at: Callable[[str], Store]) -> None:
    """What is put while it answers goes there, too; what is put when it has gone waits for it, and is told."""
    with at(kubo.api) as store:
        first = store.put(b"with the node")
        assert (first.stored_in, first.waiting_for) == (("blocks",), ("kubo",))
        assert store.sync() == ()
        assert [copy.state for copy in store.status(first.cid)] == ["kept", "kept"]
    with faults.nobody_listens() as nobody, at(nobody.removesuffix("/v1")) as store:
        second = store.put(io.BytesIO(b"without it"))
        assert second.waiting_for == ("kubo",)
        assert [copy.state for copy in store.status(second.cid)] == ["kept", "waiting"]
        assert [copy.state for copy in store.status(first.cid)] == ["kept", "unknown"]
        assert "no node answers" in store.status(first.cid)[1].reason
        assert [found.store for found in store.verify()] == ["kubo"]
        assert "not asked: kubo: unconfigured: no node answers" in "".join(notes(store))
    with at(kubo.api) as store:
        assert store.sync() == ()
        assert [copy.state for copy in store.status(second.cid)] == ["kept", "kept"]
    assert kubo.run("cat", second.cid) == b"without it"
