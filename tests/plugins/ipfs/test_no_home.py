"""A user without a home, as in a container that runs under a number which nobody has entered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pointsman import ConfigError, Router, Store
from pointsman_echo import Echo
from pointsman_ipfs import Blocks, Kubo, Receipts
from pointsman_ipfs.evidence import Evidence


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "POINTSMAN_STORE", "IPFS_PATH", "IPFS_API"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_001)


def test_what_has_a_path_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a store with a folder, nor a node, which has an address by default; nor the default stores with one."""
    with Store({"home": Blocks(path=tmp_path / "home"), "node": Kubo()}) as store:
        assert store.put(b"x").stored_in == ("home",)
    monkeypatch.setenv("POINTSMAN_STORE", str(tmp_path / "named"))
    with Store() as store:
        assert store.put(b"x").stored_in == ("blocks",)


def test_receipts_in_a_store_that_is_given_need_no_home(tmp_path: Path) -> None:
    """They are kept there, and so is how far their chain is."""
    with Store({"home": Blocks(path=tmp_path)}) as store:
        with Router([Echo(suffix="!")], middleware=[Receipts(store=store)]) as router:
            answer = router.generate("Who pays the deposit back?")
        assert answer.warnings == ()
        assert store.has(str(answer.receipt))
    assert list((tmp_path / "receipts").iterdir()) != []


def test_what_needs_a_home_says_what_to_set() -> None:
    """It is an error of the configuration, with the variable."""
    with pytest.raises(ConfigError, match=r"path: found '~/.*whose user has no home here.*; set POINTSMAN_STORE$"):
        Blocks()
    for given in None, {"node": Kubo()}:
        with pytest.raises(ConfigError, match=r"no home: set HOME or POINTSMAN_STORE, or give outbox=$"):
            Store(given)


def test_a_key_in_no_home_cannot_be_read(tmp_path: Path) -> None:
    """As any file that is not there."""
    with (
        Store([Blocks(path=tmp_path)]) as store,
        pytest.raises(ConfigError, match=r"identity: ~/key\.txt cannot be read"),
    ):
        Evidence(store, identity=Path("~/key.txt"))
