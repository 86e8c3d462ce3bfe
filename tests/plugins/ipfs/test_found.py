"""`Store()` without a configuration: the embedded store, and a node of this machine once one was there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pointsman import Store


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An embedded store of this test's own, and no node."""
    monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "content"))
    monkeypatch.setenv("IPFS_PATH", str(tmp_path))
    monkeypatch.delenv("IPFS_API", raising=False)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Hold the usual port of nodes, without listening: no node of the person who runs the tests answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 5001))
        yield


@pytest.mark.usefixtures("nobody")
def test_no_node_was_ever_there() -> None:
    """Nothing waits for a node that nobody has seen, whatever is put and unpinned, and nothing is said against it."""
    with Store() as store:
        stored = store.put(b"x" * 10_000)
        assert (stored.stored_in, stored.waiting_for) == (("blocks",), ())
        assert list(store.verify()) == []
        store.unpin(stored.cid)
        assert store.sync() == ()
        assert store.status(stored.cid)[0].state == "kept"
        assert store.health()["kubo"].status == "unconfigured"
        assert "outbox" not in store.health()["kubo"].reason


@pytest.mark.kubo
def test_a_node_is_used_while_it_answers_and_remembered(
    spare_kubo: Any, running: Callable[[Any], AbstractContextManager[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets what is put; when it is away, the next program brings it the rest once it is back."""
    with running(spare_kubo) as node:
        monkeypatch.setenv("IPFS_API", node.api)
        with Store() as store:
            first = store.put(b"first")
            assert first.waiting_for == ("kubo",)
            assert store.sync() == ()
            assert [copy.state for copy in store.status(first.cid)] == ["kept", "kept"]
    with Store() as store:
        second = store.put(b"second")
        assert second.waiting_for == ("kubo",)
        store.unpin(first.cid)
        assert {waiting.what for waiting in store.sync()} == {"put", "unpin"}
    with running(spare_kubo) as node:
        monkeypatch.setenv("IPFS_API", node.api)
        with Store() as store:
            assert store.sync() == ()
            assert [copy.state for copy in store.status(second.cid)] == ["kept", "kept"]
            assert first.cid not in {entry.cid for entry in store.ls(store="kubo")}
