"""Without any configuration: a node of this machine is used if one answers, and missed only if it was there once."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman import Store
from pointsman.testing import faults

pytestmark = pytest.mark.kubo


@pytest.fixture
def at(usual_address: Callable[[str], None]) -> Callable[[str], Store]:
    """A function that returns the store of a machine where nothing is configured; a node would be at this address."""

    def at(address: str) -> Store:
        usual_address(address)
        return Store()

    return at


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
        assert not (tmp_path / "store" / "outbox.sqlite").exists()


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
    with at(kubo.api) as store:
        assert store.sync() == ()
        assert [copy.state for copy in store.status(second.cid)] == ["kept", "kept"]
    assert kubo.run("cat", second.cid) == b"without it"
