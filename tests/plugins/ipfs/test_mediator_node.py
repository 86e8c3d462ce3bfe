"""The mediator and an IPFS node: used when it answers at its usual address, and only then; never believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from mediator import Mediator
from pointsman.testing import FaultServer, faults
from pointsman_ipfs.evidence import Evidence

pytestmark = pytest.mark.kubo
LEASE = b"The lease of 1 May. " * 40
Made = Callable[[str], Mediator]


@pytest.fixture
def at(usual_address: Callable[[str], None], no_leaks: None) -> Made:
    """A function that returns a mediator where nothing is configured; a node would be at this address."""

    def at(address: str, **options: Any) -> Mediator:
        usual_address(address)
        return Mediator(**options)

    return at


@pytest.fixture(params=["of this machine", "of its own"])
def here(request: pytest.FixtureRequest, at: Any, tmp_path: Path) -> Made:
    """The same, with evidence in the store of this machine, or in a folder of the mediator's own."""
    options = {} if request.param == "of this machine" else {"path": tmp_path / "case"}
    return lambda address: at(address, **options)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nothing listens."""
    with faults.nobody_listens() as url:
        yield url.removesuffix("/v1")


def test_a_node_that_answers_gets_all_of_it(here: Made, kubo: Any) -> None:
    """The record is pinned there, so that its evidence stays, too; every IPFS program shows both."""
    with here(kubo.api) as mediator:
        result = mediator.submit_evidence(LEASE, "document", "anna", "The lease")
        assert (result["stored_in"], result["waiting_for"], result["ipfs_available"]) == (["blocks"], ["kubo"], True)
        assert mediator.store.sync() == ()
    assert kubo.run("cat", result["cid"]) == LEASE
    shown = json.loads(kubo.run("dag", "get", result["record_cid"]))
    assert (shown["data"], shown["description"], shown["user"]) == ({"/": result["cid"]}, "The lease", "anna")
    assert b"recursive" in kubo.run("pin", "ls", "--type=recursive", result["record_cid"])


@pytest.mark.parametrize("options", [{}, {"path": "case"}])
def test_a_wrong_address_keeps_nobody_from_submitting(
    usual_address: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]
) -> None:
    """No evidence waits until a variable of the environment is right; health says what is wrong with it."""
    usual_address("http://127.0.0.1:1")
    monkeypatch.setenv("IPFS_API", "nonsense")
    monkeypatch.chdir(tmp_path)
    with Mediator(**options) as mediator:
        result = mediator.submit_evidence(LEASE, "document")
        assert (result["stored_in"], result["waiting_for"], result["ipfs_available"]) == (["blocks"], [], False)
        health = mediator.store.health()["kubo"]
    assert (health.status, health.reason.partition(":")[0]) == ("unconfigured", "IPFS_API")


def test_without_a_node_nothing_waits_for_one(here: Made, nobody: str) -> None:
    """Nor does anybody who asks later hear of it."""
    with here(nobody) as mediator:
        result = mediator.submit_evidence(LEASE, "document")
        assert (result["stored_in"], result["waiting_for"], result["ipfs_available"]) == (["blocks"], [], False)
        assert [copy.store for copy in mediator.store.status(result["record_cid"])] == ["blocks"]


def test_what_answers_there_and_is_no_node_gets_nothing(here: Made, fault_server: Callable[..., FaultServer]) -> None:
    """Another program has that port: it is asked who it is, and sent no evidence."""
    server = fault_server(faults.html())
    with here(server.origin) as mediator:
        result = mediator.submit_evidence(LEASE, "document")
        assert (result["stored_in"], result["waiting_for"]) == (["blocks"], [])
        assert mediator.retrieve_evidence(result["cid"]) == LEASE
    assert {seen.path for seen in server.asked} <= {"/api/v0/version"}


def test_a_node_that_was_there_once_gets_what_came_while_it_was_away(
    here: Made, nobody: str, spare_kubo: Any, running: Callable[[Any], AbstractContextManager[Any]]
) -> None:
    """Also what a program submitted that never saw it."""
    with running(spare_kubo) as node, here(node.api) as mediator:
        mediator.submit_evidence(b"The first letter", "email")
        assert mediator.store.sync() == ()
    with here(nobody) as mediator:
        result = mediator.submit_evidence(LEASE, "document")
        assert result["waiting_for"] == ["kubo"]
        assert mediator.retrieve_evidence(result["cid"]) == LEASE
    with running(spare_kubo) as node, here(node.api) as mediator:
        assert mediator.store.sync() == ()
        assert node.run("cat", result["cid"]) == LEASE


def test_the_stores_of_the_configuration_are_all_there_are(at: Any, kubo: Any, tmp_path: Path) -> None:
    """A node at its usual address, which STORES does not name, is not asked for anything."""
    at(kubo.api, path=tmp_path / "other").close()
    source = {"STORES": [{"id": "home", "type": "blocks", "path": str(tmp_path / "home")}]}
    with Mediator.from_config(source) as mediator:
        result = mediator.submit_evidence(b"of this house only", "text")
        assert [one.id for one in mediator.store.stores] == ["home"]
        assert (result["stored_in"], result["waiting_for"], result["ipfs_available"]) == (["home"], [], False)
        mediator.store.sync()
    assert result["cid"].encode() not in kubo.run("refs", "local")


def test_a_node_of_the_configuration_is_used(tmp_path: Path, kubo: Any, no_leaks: None) -> None:
    """Alone, it is where evidence is durable; the index is on this machine."""
    source = {"STORES": [{"id": "node", "type": "kubo", "url": kubo.api}]}
    with Mediator.from_config(source, path=tmp_path / "case") as mediator:
        result = mediator.submit_evidence(LEASE, "document", description="The lease")
        found = mediator.get_evidence_by_cid(result["cid"])
        assert (result["stored_in"], result["ipfs_available"]) == (["node"], True)
        assert found is not None
        assert (found["data"], found["verified"]) == (LEASE, True)


def test_damaged_bytes_come_back_from_the_node(at: Any, kubo: Any, tmp_path: Path) -> None:
    """A bit flips on this machine: nobody who asks notices."""
    with at(kubo.api, path=tmp_path / "case") as mediator:
        result = mediator.submit_evidence(LEASE, "document")
        assert mediator.store.sync() == ()
        for pack in tmp_path.rglob("*.car"):
            data = bytearray(pack.read_bytes())
            data[data.index(LEASE)] ^= 1
            pack.write_bytes(data)
        found = mediator.get_evidence_by_cid(result["cid"])
        assert found is not None
        assert (found["data"], found["verified"]) == (LEASE, True)


def test_what_others_keep_on_the_node_is_no_part_of_a_folder_of_ones_own(at: Any, kubo: Any, tmp_path: Path) -> None:
    """Neither its lists nor its log have it, also when the index is made anew; the log of the folder stays one log."""
    with at(kubo.api, path=tmp_path / "one") as mediator:
        mediator.submit_evidence(LEASE, "document", "anna", "The lease")
        assert mediator.store.sync() == ()
    with at(kubo.api, path=tmp_path / "other") as mediator:
        first = mediator.submit_evidence(b"Of another case", "text", "anna")
        assert mediator.store.sync() == ()
        for _ in range(2):
            assert [one["cid"] for one in mediator.get_user_evidence("anna")] == [first["cid"]]
            assert [one.previous for one in mediator.evidence.records()] == [()]
            assert mediator.evidence.reindex().records == 1


def test_a_folder_that_was_lost_comes_back_from_the_node_when_somebody_says_so(
    at: Any, kubo: Any, tmp_path: Path
) -> None:
    """Its records are in no list by themselves: nobody knows whose they are. Once taken, the log goes on there."""
    case = tmp_path / "case"
    with at(kubo.api, path=case) as mediator:
        submitted = [mediator.submit_evidence(data, "document", "anna") for data in (LEASE, b"A letter")]
        assert mediator.store.sync() == ()
    rmtree(case)
    with at(kubo.api, path=case) as mediator:
        assert mediator.get_user_evidence("anna") == []
        with Evidence(mediator.store, case / "evidence.sqlite") as all_of_it:
            all_of_it.reindex()
        submitted.append(mediator.submit_evidence(b"The answer", "document", "anna"))
        found = [one["record_cid"] for one in mediator.get_user_evidence("anna")]
        assert set(found) >= {one["record_cid"] for one in submitted}
        assert mediator.evidence.find(found[0])[0].previous
        assert mediator.retrieve_evidence(submitted[0]["cid"]) == LEASE


def test_what_the_node_alone_has_is_found_by_the_cid_of_its_record(at: Any, kubo: Any, tmp_path: Path) -> None:
    """On another machine, say, with the same node: all that was said, and the bytes."""
    with at(kubo.api, path=tmp_path / "one") as mediator:
        result = mediator.submit_evidence(LEASE, "document", "anna", "The lease")
        assert mediator.store.sync() == ()
    with at(kubo.api, path=tmp_path / "other") as mediator:
        found = mediator.get_evidence_by_cid(result["record_cid"])
        assert found is not None
        assert (found["username"], found["description"], found["data"]) == ("anna", "The lease", LEASE)
        assert mediator.retrieve_evidence(result["cid"]) == LEASE
