"""Receipts: what is in them, when there is one, and how they become a chain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any

import dag_cbor
import pytest
from attrs import evolve, frozen
from multiformats import CID
from pointsman import (
    Backend,
    Completion,
    ConfigError,
    Image,
    IncompleteAnswer,
    Message,
    RateLimitError,
    Request,
    Router,
    Store,
    Tool,
    ToolCall,
    Usage,
    hookimpl,
)
from pointsman.config import load
from pointsman.testing import Scripted
from pointsman_ipfs import Blocks, Receipts
from pointsman_ipfs.proof import verify
from pointsman_ipfs.receipts import matches

Chain = Callable[..., list[str]]
EVIDENCE = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
LONG = "A long letter. " * 400


@frozen
class Busy:
    """A provider that has no time."""

    model: str = "busy-1"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        raise RateLimitError("come back later", retry_after=60)


@pytest.fixture
def said(block_of: Callable[[str], bytes]) -> Callable[[str | None], dict[str, Any]]:
    """A function that returns what a receipt says, as the library `dag-cbor` reads it."""

    def said(receipt: str | None) -> dict[str, Any]:
        found = dag_cbor.decode(block_of(str(receipt)))
        assert isinstance(found, dict)
        return found

    return said


Said = Callable[[str | None], dict[str, Any]]


def all_bytes(folder: Path) -> bytes:
    """Return what is in all files of a folder."""
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_receipt_says_what_was_asked_and_who_answered(kept: Path, said: Said, says: Any) -> None:
    """Request, options, attempts, backend, model, answer, usage, cost, time and cited evidence stand in it."""
    backends = [Backend(Busy(), id="busy", max_retries=0), Backend(says, id="b")]
    before = datetime.now(UTC)
    with Router(backends, receipts=True) as router:
        answer = router.generate(f"What does {EVIDENCE} say?", max_tokens=64, temperature=0.5, stop=["END"])
        assert answer.receipt is not None
    found = said(answer.receipt)
    assert found["request"] == {
        "messages": [{"role": "user", "content": f"What does {EVIDENCE} say?"}],
        "stop": ["END"],
        "options": {"max_tokens": 64, "temperature": 0.5},
        "model": "says-1",
    }
    assert found["answer"] == {"text": answer.text, "finish_reason": "stop", "request_id": "req-1"}
    assert (found["usage"], found["cost"]) == ({"input_tokens": 3, "output_tokens": 5}, 0.25)
    assert [(one["backend"], one["outcome"]) for one in found["attempts"]] == [
        ("busy", answer.attempts[0].outcome),
        ("b", "answered"),
    ]
    assert found["attempts"][0]["error"] == "RateLimitError"
    assert "come back later" in found["attempts"][0]["reason"]
    assert (found["backend"], found["model"], found["evidence"]) == ("b", "says-1", [EVIDENCE])
    assert before <= datetime.fromisoformat(found["time"]) <= datetime.now(UTC)
    assert (found["receipt"], found["number"], found["previous"]) == (1, 0, None)
    assert {"key", "signature", "salt", "altered"}.isdisjoint(found)


def test_every_kind_of_request_is_recorded_and_verifies(kept: Path, said: Said) -> None:
    """Tools, calls and their results, pictures, schema, system and fields of the provider's own have their places."""
    picture = b"\x89PNG" + bytes(100)
    request = Request(
        (
            Message("system", "Be brief."),
            Message("user", ("Look:", Image(picture), Image(url="https://me:secret@host/x.png?token=abc"))),
            Message("assistant", "", (ToolCall("1", "look", '{"at": 1}'),)),
            Message("tool", LONG, tool_call_id="1", is_error=True),
            Message("user", "And?"),
        ),
        system="You look.",
        tools=(Tool("look", "Looks.", {"type": "object"}),),
        tool_choice="look",
        schema={"type": "object", "required": ["a"]},
        extra={"user": "u-1", "extra_headers": {"Authorization": "Bearer 123456"}},
    )
    answer = Completion("{}", tool_calls=(ToolCall("2", "look", "{}"),), thinking=LONG)
    with Router([Scripted(answer)], receipts=True) as router:
        receipt = router.generate(request).receipt
    found = said(receipt)
    asked = found["request"]
    assert asked["messages"][1]["content"][0] == "Look:"
    assert asked["messages"][1]["content"][2] == {"image": "https://host/x.png?***"}
    assert asked["messages"][2]["tool_calls"] == [{"id": "1", "name": "look", "arguments": '{"at": 1}'}]
    assert asked["messages"][3]["tool_call_id"] == "1"
    assert asked["tools"][0]["parameters"] == {"type": "object"}
    assert (asked["tool_choice"], asked["system"], asked["schema"]) == ("look", "You look.", request.schema)
    assert asked["extra"] == {"user": "u-1", "extra_headers": "***"}
    with Store([Blocks(path=kept)]) as store:
        assert store.get(str(asked["messages"][1]["content"][1]["image"])) == picture
        assert store.get(str(asked["messages"][3]["content"])).decode() == LONG
    assert asked["messages"][3]["content"] == found["answer"]["thinking"]  # kept once
    assert isinstance(found["answer"]["thinking"], CID)
    assert [check for check in verify(kept) if not check.holds] == []


def test_a_stream_has_a_receipt_once_it_is_whole(kept: Path, said: Said, chain: Chain, says: Any) -> None:
    """One that is left, or breaks, before its end is no answer, and has none; nor has a call that fails."""
    with Router([says], receipts=True, max_retries=0) as router:
        with router.stream("hi") as stream:
            assert "".join(chunk.text for chunk in stream) == "You said: hi"
        left = router.stream("hi")
        next(iter(left))
        left.close()
        with pytest.raises(IncompleteAnswer):
            list(router.stream("break"))
        with Router([Busy()], receipts=True, max_retries=0) as busy, pytest.raises(RateLimitError):
            busy.generate("hi")
        following = router.stream("again")
        list(following)
    first, second = said(stream.completion.receipt), said(following.completion.receipt)
    assert (first["number"], first["answer"]["text"]) == (0, "You said: hi")
    assert (second["number"], second["previous"]) == (1, stream.completion.receipt)


def test_the_receipt_is_known_before_it_is_kept(kept: Path, says: Any) -> None:
    """Nobody waits for the disk; when `close` returns, all are durable, in few commits."""
    receipts = Receipts(delay=3600)
    with Router([says], middleware=[receipts]) as router:
        answers = [router.generate("hi") for _ in range(100)]
        assert len({answer.receipt for answer in answers}) == 100
        assert not list(kept.rglob("*.car"))
        assert receipts.waiting == 100
    (trail,) = (kept / "receipts").iterdir()
    assert trail.read_text().split()[0] == answers[-1].receipt
    assert len(trail.read_text().splitlines()) == 1
    assert all(check.holds for check in verify(kept))


def test_a_receipt_is_durable_soon(kept: Path, says: Any) -> None:
    """Without `close` too."""
    receipts = Receipts(delay=0.01)
    with Router([says], middleware=[receipts]) as router:
        router.generate("hi")
        for _ in range(1000):
            if not receipts.waiting:
                break
            sleep(0.01)
        assert all(check.holds for check in verify(kept) if check.what.startswith("chain"))
        assert receipts.waiting == 0


def test_threads_share_one_chain(kept: Path, said: Said, says: Any) -> None:
    """Eight threads at once: every number once, each receipt names the one before, no fork."""
    found: list[str | None] = []
    with Router([says], receipts={"delay": 0}) as router:

        def work() -> None:
            found.extend(router.generate("hi").receipt for _ in range(50))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(found)) == 400
    checks = [str(check) for check in verify(kept)]
    assert [check for check in checks if "receipts 0 to 399, not signed" in check]
    assert all(check.startswith("holds") for check in checks)


def test_the_next_router_goes_on_behind_the_last(kept: Path, chain: Chain, said: Said, says: Any) -> None:
    """Its chain names the newest receipt of those before it; one that is alive goes on by itself."""
    first = chain(2)
    with Router([says], receipts=True) as other:
        begun = other.generate("hi")
        beside = chain(1)
    third = chain(1)
    assert said(begun.receipt)["after"] == [first[-1]]
    assert "after" not in said(beside[0])  # what the first one left has been taken up by the other, who lives
    assert sorted(said(third[0])["after"]) == sorted([str(begun.receipt), beside[0]])
    assert all(check.holds for check in verify(kept))


def test_many_commits_become_one_page(kept: Path, chain: Chain, says: Any) -> None:
    """A pin for each commit would be many: one page takes their place, and nothing is lost to `gc`."""
    receipts = Receipts(delay=0)
    with Router([says], middleware=[receipts]) as router:
        for _ in range(300):
            router.generate("hi")
            while receipts.waiting:
                sleep(0.001)
    with Store([Blocks(path=kept)]) as store:
        assert len(list(store.ls())) < 150
        store.gc()
    assert all(check.holds for check in verify(kept))
    chain(1)
    assert all(check.holds for check in verify(kept))


def test_the_store_of_the_configuration_keeps_them(tmp_path: Path, kept: Path) -> None:
    """`ROUTER.receipts` of a configuration takes the options, and STORES keep them; without STORES the embedded one."""
    config = {
        "BACKENDS": [{"id": "echo", "type": "echo"}],
        "STORES": [{"id": "mine", "type": "blocks", "path": str(tmp_path / "mine")}],
        "ROUTER": {"receipts": {"content": False, "delay": 0.5}},
    }
    with Router.from_config(config) as router:
        receipt = router.generate("a prompt of mine").receipt
    assert not kept.exists()
    assert b"a prompt of mine" not in all_bytes(tmp_path / "mine")
    with Store([Blocks(path=tmp_path / "mine")]) as store:
        assert store.has(str(receipt))
    with Router.from_config({**config, "STORES": [], "ROUTER": {"receipts": True}}) as router:
        router.generate("hi")
    assert kept.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"contents": False}, "receipts.contents: unknown key; did you mean content"),
        ({"enabled": False}, "receipts.enabled: unknown key; expected one of"),
        ({"delay": -1}, "receipts.*delay"),
        ({"key": "short"}, "key: found something else, expected a private key of Ed25519"),
        ({"key_path": "/nowhere/key.pem"}, "key_path: /nowhere/key.pem cannot be read"),
        ("yes", "receipts: found str, expected True, False, or a mapping of options"),
        (None, "receipts: found NoneType, expected True, False, or a mapping of options"),
    ],
)
def test_wrong_options_are_named(options: Any, says: str) -> None:
    """An option that does not fit is an error when the router is made."""
    with pytest.raises(ConfigError, match=says):
        Router([Busy()], receipts=options)


def test_one_of_several_stores_may_keep_them(tmp_path: Path, says: Any) -> None:
    """With `store_id`, no other gets them: what is on a node of IPFS may be found by others."""
    with Store({"home": Blocks(path=tmp_path / "a"), "node": Blocks(path=tmp_path / "b")}) as store:
        for only, stores in (("node", ("node",)), (None, ("home", "node"))):
            receipts = Receipts(store=store, store_id=only)
            with Router([says], middleware=[receipts]) as router:
                receipt = str(router.generate("hi").receipt)
            store.sync()
            assert tuple(copy.store for copy in store.status(receipt) if copy.state == "kept") == stores


# -- without content ---------------------------------------------------------------------------------


def test_a_store_that_is_not_there_keeps_no_receipt(tmp_path: Path, kept: Path) -> None:
    """A `store_id` of no store is told when the router is made: else every answer would come without a receipt."""
    stores = [{"id": "mine", "type": "blocks", "path": str(tmp_path / "mine")}]
    config = {"BACKENDS": [{"id": "echo", "type": "echo", "suffix": ""}], "ROUTER": {"receipts": {"store_id": "none"}}}
    with pytest.raises(ConfigError, match=r"store_id: found 'none', expected one of 'mine'"):
        Router.from_config({**config, "STORES": stores})
    with pytest.raises(ConfigError, match=r"^receipts: store_id: found 'none', expected one of 'blocks'$"):
        Router([Scripted()], receipts={"store_id": "none"})
    with Router.from_config({**config, "STORES": stores, "ROUTER": {"receipts": {"store_id": "mine"}}}) as router:
        assert router.generate("hi").receipt


@pytest.mark.parametrize("of_the_call", [False, True])
def test_without_content_only_digests_are_kept(kept: Path, said: Said, says: Any, of_the_call: bool) -> None:
    """Nobody can tell from it what was asked and answered; who has both can prove that it was that.

    It is so where the receipts have no content, and where the call is private.
    """
    options: dict[str, Any] = {"system": "You know.", "max_tokens": 9, **({"private": True} if of_the_call else {})}
    with Router([says], middleware=[Receipts(content=of_the_call)]) as router:
        answers = [router.generate("Where is the money?", **options) for _ in range(2)]
    assert b"money" not in all_bytes(kept)
    assert b"You know" not in all_bytes(kept)
    records = [said(answer.receipt) for answer in answers]
    assert records[0]["request"]["digest"] != records[1]["request"]["digest"]  # the same question: the salt differs
    del options["system"]
    assert records[0]["request"]["options"] == options
    asked = {"messages": [{"role": "user", "content": "Where is the money?"}], "system": "You know."}
    answered = {"text": "You said: Where is the money?"}
    for name, content in (("request", asked), ("answer", answered)):
        assert records[0][name]["digest"] == sha256(records[0]["salt"] + dag_cbor.encode(content)).digest()
    request = Request((Message("user", "Where is the money?"),), system="You know.", max_tokens=9)
    assert matches(records[0], request=request, completion=answers[0])
    assert not matches(records[0], request=evolve(request, system="You?"))
    assert not matches(records[0], completion=evolve(answers[0], text="You said: Where is the money!"))
    checks = list(verify(kept))
    assert {check.status for check in checks} == {"holds", "unchecked"}
    assert [check.text for check in checks if not check.holds] == [
        "of 2 what was asked and answered is not here, only digests of that"
    ]


def test_what_dag_cbor_has_no_place_for_is_told(kept: Path, said: Said, says: Any) -> None:
    """Halves of characters, numbers of any size and objects are written in another way, and the receipt says so."""
    extra = {"far": 1 << 70, "near": [-(1 << 63) - 1, 1 << 63], "inf": float("inf"), "object": object(), "deep": [[1]]}
    extra["tuple"] = (1, 2)
    with Router([says], receipts=True) as router:
        answer = router.generate("half \ud800 a character", extra=extra)
        plain = router.generate("whole")
    found = said(answer.receipt)
    assert found["altered"] == ["values"]
    assert found["request"]["extra"] == {
        "far": str(1 << 70),
        "near": ["-9223372036854775809", "9223372036854775808"],
        "inf": "inf",
        "object": "<object>",
        "deep": [[1]],
        "tuple": [1, 2],
    }
    assert found["request"]["messages"][0]["content"] == "half \\ud800 a character"
    assert "altered" not in said(plain.receipt)
    assert all(check.holds for check in verify(kept))


def test_a_digest_stands_for_what_dag_cbor_has_no_place_for_too(kept: Path, said: Said, says: Any) -> None:
    """There is a receipt of every answer, and who has what was asked can prove that it was that."""
    options: Any = {"system": "half \ud800", "extra": {"far": 1 << 70, "inf": float("inf"), "object": object()}}
    with Router([says], receipts={"content": False}) as router:
        answer = router.generate("What?", **options)
    found, request = said(answer.receipt), Request((Message("user", "What?"),), **options)
    assert matches(found, request=request, completion=answer)
    assert not matches(found, request=evolve(request, extra={**options["extra"], "far": 1}))
    assert all(check.status != "fails" for check in verify(kept))


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize(
    "odd",
    [
        {"model": 3, "request_id": 7, "raw_finish_reason": 1},
        {"thinking": 3, "tool_calls": (ToolCall(None, "f", {"a": 1}),)},  # type: ignore[arg-type] # that is odd
        {"usage": Usage(1 << 70, 1)},
        {"usage": Usage(-1, 1)},
        {"usage": Usage(True, 1)},
        {"usage": Usage(1, 1, cost=float("nan"))},
        {"cost": Decimal("0.1")},
    ],
)
def test_odd_words_of_a_provider_spoil_no_chain(kept: Path, said: Said, odd: dict[str, Any], content: bool) -> None:
    """A server that calls its model 3, or counts tokens below zero, has a receipt that holds, and says what it is."""
    with Router([Scripted([Completion("hi", **odd)])], receipts={"content": content}) as router:
        answer = router.generate("What?")
    found = said(answer.receipt)
    if content or not odd.keys() & {"thinking"}:
        assert found["altered"] == ["values"]
    assert found["model"] == str(odd.get("model", "scripted-model"))
    assert found.get("usage", {"input_tokens": 1, "output_tokens": 1}) == {"input_tokens": 1, "output_tokens": 1}
    assert "cost" not in found
    assert all(check.status != "fails" for check in verify(kept))


def test_a_record_that_no_block_can_hold_becomes_files(kept: Path, said: Said, says: Any) -> None:
    """Ten thousand messages: request and answer are files of their own, and all is reached from the receipt."""
    turns = tuple(Message("user", f"{number} " + "x" * 400) for number in range(6000))
    messages = (*turns, Message("user", LONG))
    with Router([says], receipts=True) as router:
        receipt = router.generate(list(messages)).receipt
    found = said(receipt)
    assert isinstance(found["request"], CID)
    with Store([Blocks(path=kept)]) as store:
        asked = dag_cbor.decode(store.get(str(found["request"])))
        assert isinstance(asked, dict)
        assert [turn["content"] for turn in asked["messages"][:-1]] == [message.text for message in turns]
        assert asked["messages"][-1]["content"] in found["links"]
    assert [str(check) for check in verify(kept) if not check.holds] == []


def test_what_is_closed_begins_another_chain(kept: Path, said: Said, says: Any) -> None:
    """One `Receipts` may serve router after router; each has a chain, behind the one before."""
    receipts = Receipts()
    found = []
    for _ in range(2):
        with Router([says], middleware=[receipts]) as router:
            found.append(router.generate("hi").receipt)
    assert said(found[1])["after"] == [found[0]]


def test_a_router_without_the_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """`receipts=True` needs the distribution that has them."""
    monkeypatch.setattr("pointsman._discovery.entries_of", lambda groups: iter(()))
    with pytest.raises(ConfigError, match="pip install pointsman-ipfs"):
        Router([Busy()], receipts=True)


def test_an_answer_that_has_no_receipt_says_so(kept: Path, says: Any) -> None:
    """Where a receipt cannot be made, the answer comes all the same, with a warning."""
    receipts = Receipts()
    with Router([says], middleware=[receipts]) as router:
        router.generate("hi")
        receipts._used[-1].ledger.close()
        answer = router.generate("hi")
    assert answer.receipt is None
    assert answer.warnings == ("there is no receipt of this answer: whoever keeps receipts is closed",)


def test_a_configuration_is_checked_before_a_router_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of `ROUTER.receipts` that do not fit are told with their paths, beside all others; no key is shown."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    path = tmp_path / "pointsman.toml"
    path.write_text('[ROUTER]\nretries = 1\n[ROUTER.receipts]\ncontents = false\nkey = "${NO_SUCH_KEY}"\ndelay = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problems == (
        "ROUTER.retries: unknown key; did you mean max_retries?",
        "ROUTER.receipts.contents: unknown key; did you mean content?",
        "ROUTER.receipts.key: the variable NO_SUCH_KEY is not set",
        'ROUTER.receipts.delay: found "x", expected a number',
    )


def test_a_path_of_a_file_begins_at_its_folder(tmp_path: Path, kept: Path) -> None:
    """`key_path` is found wherever the program runs."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "key").write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    (folder / "p.toml").write_text('[[BACKENDS]]\nid="e"\ntype="echo"\n[ROUTER.receipts]\nkey_path = "key"\n')
    with Router.from_config(folder / "p.toml") as router:
        router.generate("hi")
    assert "all are signed" in "\n".join(map(str, verify(kept)))
