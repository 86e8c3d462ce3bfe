"""Evidence on a real Kubo: its links are links to every IPFS program, and a pin of a record keeps what it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyrage
import pytest
from pointsman import InvalidRequestError, Store
from pointsman_ipfs import Blocks, Kubo
from pointsman_ipfs.evidence import About, Evidence, Record
from pointsman_ipfs.proof import verify

pytestmark = pytest.mark.kubo
ABOUT = About("document", "The notice of 3 May", "eviction", "anna", metadata={"page": 1})
SIZES = (28, (5 << 20) + 1)  #: what is small goes with its record, what is large before it


def submitted(evidence: Evidence, noise: Callable[[int, int], bytes]) -> list[tuple[Record, bytes]]:
    data = [noise(size, size) for size in SIZES for _ in range(2)]
    return [(evidence.submit(one, ABOUT).record, one) for one in data]


def shown(node: Any, records: list[tuple[Record, bytes]]) -> None:
    """`ipfs dag get` shows each record, and its links lead to the evidence and to the record before it."""
    before: Record | None = None
    for record, data in records:
        said = json.loads(node.run("dag", "get", record.record_cid))
        assert said["data"] == {"/": record.cid}
        assert (said["description"], said["metadata"]) == ("The notice of 3 May", {"page": 1})
        assert node.run("cat", record.cid) == data
        if before is not None:
            link = said["previous"]["/"]
            stat = json.loads(node.run("block", "stat", "--enc=json", "--offline", link))
            assert node.run("block", "get", link) == node.run("block", "get", before.record_cid)
            assert stat["Size"] == len(node.run("block", "get", before.record_cid))
        before = record


def test_a_car_of_a_record_is_read_by_kubo(kubo: Any, tmp_path: Path, noise: Callable[[int, int], bytes]) -> None:
    """With its evidence, and the record before it; and what Kubo exports is read here."""
    with Store({"home": Blocks(path=tmp_path / "home")}) as store, Evidence(store) as evidence:
        records = submitted(evidence, noise)
        for record, _ in records:
            car = b"".join(store.export_car(record.record_cid))
            done = json.loads(kubo.run("dag", "import", "--enc=json", stdin=car).splitlines()[0])
            assert done["Root"]["Cid"] == {"/": record.record_cid}
            assert done["Root"]["PinErrorMsg"] == ""
    shown(kubo, records)
    with Store({"new": Blocks(path=tmp_path / "new")}) as store, Evidence(store) as evidence:
        for record, _ in records:
            store.import_car(kubo.run("dag", "export", record.record_cid))
        assert evidence.reindex().records == 4
        assert list(evidence.records()) == [record for record, _ in records]
        for record, data in records:
            assert evidence.read(record) == data


def test_the_node_takes_and_shows_whatever_metadata_may_say(kubo: Any, tmp_path: Path) -> None:
    """Integers at their limits too: what a node cannot read would never reach it, nor be shown to anybody."""
    said = {"integers": [-(2**63), 2**63 - 1], "numbers": [1e308, 5e-324], "straße \0": {"": [[], {}, None, True]}}
    with Store({"node": Kubo(url=kubo.api)}) as store, Evidence(store, tmp_path / "evidence.sqlite") as evidence:
        for beyond in (-(2**63) - 1, 2**63, -(2**64)):
            with pytest.raises(InvalidRequestError, match="64 bits with its sign"):
                About("document", metadata={"integer": beyond})
        record = evidence.submit(b"x", About("document", metadata=said)).record
    assert json.loads(kubo.run("dag", "get", record.record_cid))["metadata"] == said


@pytest.mark.parametrize("alone", [False, True])
def test_collections_of_the_node_take_nothing(
    spare_kubo: Any,
    running: Callable[[Any], AbstractContextManager[Any]],
    tmp_path: Path,
    noise: Callable[[int, int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,
) -> None:
    """Whether the node is the only store or the second one: `ipfs repo gc` leaves what the records link to."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where the outbox of a node alone is
    with running(spare_kubo) as node:
        stores = {"node": Kubo(url=node.api)} if alone else {"home": Blocks(path=tmp_path), "node": Kubo(url=node.api)}
        with Store(stores) as store, Evidence(store, tmp_path / "evidence.sqlite") as evidence:
            records = submitted(evidence, noise)
            assert store.sync() == ()
            pins = json.loads(node.run("pin", "ls", "--type=recursive", "--enc=json"))["Keys"]
            assert {record.record_cid for record, _ in records} <= pins.keys()
            node.run("repo", "gc")
            shown(node, records)
            node.run("pin", "rm", records[0][0].record_cid)
            node.run("repo", "gc")
            before = json.loads(node.run("dag", "get", records[1][0].record_cid))["previous"]["/"]
            node.run("block", "stat", "--offline", before)
            evidence.confirm(records[0][0])
            found = evidence.reindex()
            assert (found.records, len(found.unreadable)) == (4, 1 if alone else 0)
            assert list(evidence.records()) == [record for record, _ in records]
            for record, data in records[1:]:
                assert evidence.read(record) == data


def test_evidence_while_the_node_is_away(
    spare_kubo: Any,
    running: Callable[[Any], AbstractContextManager[Any]],
    tmp_path: Path,
    noise: Callable[[int, int], bytes],
) -> None:
    """It is durable at home, and on the node when that is back; what was taken from there is read from the other."""
    with running(spare_kubo) as node:
        stores = {"home": Blocks(path=tmp_path / "home"), "node": Kubo(url=node.api)}
    with Store(stores) as store, Evidence(store) as evidence:
        filed = evidence.submit(b"while it was away", ABOUT)
        assert (filed.stored_in, filed.waiting_for) == (("home",), ("node",))
        records = submitted(evidence, noise)
        found = evidence.reindex()
        assert found.records == 5
        assert [one.store for one in found.unreadable] == ["node"]
    with running(spare_kubo) as node:
        stores = {"home": Blocks(path=tmp_path / "home"), "node": Kubo(url=node.api)}
        with Store(stores) as store, Evidence(store) as evidence:
            assert store.sync() == ()
            shown(node, records)
            assert [one.state for one in store.status(records[0][0].record_cid)] == ["kept", "kept"]


def test_encrypted_evidence_on_a_node(kubo: Any, tmp_path: Path) -> None:
    """Shows links to ciphertext, and nothing else; whoever has the key opens what the node gives out."""
    key = pyrage.x25519.Identity.generate()
    with (
        Store({"node": Kubo(url=kubo.api)}) as store,
        Evidence(store, tmp_path / "evidence.sqlite", identity=str(key)) as evidence,
    ):
        record = evidence.submit(b"secret", ABOUT).record
        said = json.loads(kubo.run("dag", "get", record.record_cid))
        said.pop("merges", None)  # of logs that other tests have left on the node
        assert said.keys() == {"schema", "id", "data", "previous", "sealed"}
        assert pyrage.decrypt(kubo.run("cat", said["data"]["/"]), [key]) == b"secret"
        assert b"The notice of 3 May" in pyrage.decrypt(kubo.run("cat", said["sealed"]["/"]), [key])
        assert evidence.find(record.record_cid) == (record,)


def test_evidence_on_a_node_is_proven(own_kubo: Any, tmp_path: Path, noise: Callable[[int, int], bytes]) -> None:
    """From its last record, in a store that is a node: back to the first, encrypted or not; the copy verifies alone."""
    (tmp_path / "key.txt").write_text(str(pyrage.x25519.Identity.generate()))
    for keys in ({}, {"identity": tmp_path / "key.txt"}):
        index, copy = tmp_path / f"{len(keys)}.sqlite", tmp_path / f"{len(keys)}.car"
        with Store({"node": Kubo(url=own_kubo.api)}) as store, Evidence(store, index, **keys) as evidence:
            evidence.submit(noise((20 << 20) + 1, 7), ABOUT)
            last = evidence.submit(b"Paid in cash.", ABOUT).record
            with copy.open("wb") as file:
                checks = list(verify(last.record_cid, store=store, copy=file.write, **keys))
        for found in (checks, list(verify(copy, **keys))):
            assert all(check.holds for check in found), found
            assert f"log {last.record_cid}" in [check.what for check in found]
