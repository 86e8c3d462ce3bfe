"""The mediator's questions: who is asked, in which order, and what becomes of the answer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock, NonCallableMock

import pytest
from mediator import Mediator
from pointsman import (
    AllBackendsFailed,
    Backend,
    BackendTimeout,
    Completion,
    ConfigError,
    Request,
    Router,
    Store,
    UnavailableError,
    hookimpl,
)
from pointsman.testing import FaultServer, faults
from pointsman.testing.doubles import Scripted
from pointsman_ipfs import Blocks

from backends import LLMRouterBackend, OpenAIBackend, load

Serve = Callable[..., FaultServer]
Made = Callable[..., Mediator]
KINDS = "document, image, video, audio, email, text, financial, medical"


@pytest.fixture
def mediator(tmp_path: Path, no_leaks: None) -> Iterator[Made]:
    """A function that makes a mediator which asks these backends, and keeps its evidence in one store."""
    with Store({"home": Blocks(path=tmp_path / "home")}) as store, ExitStack() as made:
        yield lambda *backends: made.enter_context(Mediator(backends, store))


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a server that is not there."""
    with faults.nobody_listens() as url:
        yield url


def attempts(mediator: Mediator, prompt: str = "Hello") -> list[str]:
    """Whom one question was sent to."""
    assert mediator.router is not None
    return [str(attempt.backend) for attempt in mediator.router.generate(prompt).attempts]


# -- who is asked ---------------------------------------------------------------------------------------


def test_backends_are_asked_in_their_order(mediator: Made, fault_server: Serve, dead: str) -> None:
    """The next one answers where one does not: whole chains, objects of Pointsman and routers among them."""
    server = fault_server()
    first = LLMRouterBackend(id="first", provider="openai", model="a", base_url=dead, max_retries=0)
    second = Router([Backend(Scripted(UnavailableError("away")), id="second", priority=900)])
    third = LLMRouterBackend(
        id="third", provider="openai", model="b", base_url=dead, max_retries=0, fallback_providers=["echo"]
    )
    fourth = OpenAIBackend(id="fourth", model="c", base_url=server.url)
    with first, second, third, fourth:
        made = mediator(first, second, third, fourth)
        assert made.generate("Hello") == "Hello"
        assert attempts(mediator(first, second, fourth, third)) == ["first", "second", "second", "fourth"]
        assert made.router is not None
        assert [one.id for one in made.router.backends] == ["first", "second", "third", "third/echo", "fourth"]
    assert server.asked[0].body["temperature"] == 0.7


def test_an_answer_is_text_and_takes_the_options_of_a_backend(mediator: Made) -> None:
    """A limit that a backend cannot be given is left out, as in `LLMRouterBackend`."""
    double = Scripted()
    made = mediator(double)
    assert made.generate("Hello", max_tokens=7, temperature=0.0) == "You said: Hello"
    assert (double.requests[0].max_tokens, double.requests[0].temperature) == (7, 0.0)
    with pytest.raises(ConfigError, match="did you mean max_tokens"):
        made.generate("Hello", max_token=7)  # type: ignore[call-arg]  # the mistake under test


def test_one_backend_is_asked_through_its_own_router(tmp_path: Path) -> None:
    """So that its limits and cool-downs are counted once, whoever asks it; it may be given without a list."""
    with LLMRouterBackend(provider="echo") as backend, Mediator(backend, path=tmp_path) as made:
        assert made.router is backend.router
        assert made.backends == [backend]


def test_a_backend_that_is_given_twice_is_asked_once(mediator: Made) -> None:
    """As where one is the fallback of another one, too."""
    spare = LLMRouterBackend(id="spare", provider="echo")
    chain = LLMRouterBackend(id="chain", provider="echo", options={"suffix": "!"}, fallback_providers=[spare])
    made = mediator(chain, spare)
    assert made.router is not None
    assert [one.id for one in made.router.backends] == ["chain", "spare"]


def test_two_backends_of_one_id_are_told(mediator: Made) -> None:
    """They could not be told apart in any error."""
    with pytest.raises(ConfigError, match="llm-router"):
        mediator(LLMRouterBackend(provider="echo"), LLMRouterBackend(provider="echo"))


@pytest.mark.parametrize(
    ("given", "found"),
    [([5], "int"), ("openai", "str"), ([{"type": "openai"}], "dict"), ([OpenAIBackend], "the class OpenAIBackend")],
)
def test_what_is_no_backend_is_told(given: Any, found: str, tmp_path: Path) -> None:
    """With its place; and nothing is made on the disk."""
    with pytest.raises(ConfigError, match=rf"Mediator\.backends\[0\]: found {found}.*expected a backend"):
        Mediator(given, path=tmp_path / "case")
    assert not (tmp_path / "case").exists()


class Called:
    """A backend as the complaint generator's own ones are: a callable with an id."""

    def __init__(self, id: str, answer: object) -> None:
        self.id, self.answer, self.prompts = id, answer, list[str]()

    def __call__(self, text: str) -> object:
        self.prompts.append(text)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_callable_that_takes_a_text_and_returns_one_is_a_backend(mediator: Made) -> None:
    """It gets the prompt as it is, and no options; of a conversation all texts."""
    called = Called("theirs", "Yes.")
    made = mediator(called)
    assert made.backends == [called]
    assert (made.query_backend("Is it?"), made.generate("Sure?", max_tokens=7, temperature=0.0)) == ("Yes.", "Yes.")
    made.generate([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    assert called.prompts == ["Is it?", "Sure?", "Be brief.\n\nWhy?"]
    made.submit_evidence(b"x", "text")
    assert made.analyze_evidence()["recommended_by"] == "theirs"


def test_the_next_one_answers_where_a_callable_fails(mediator: Made) -> None:
    """Whatever it raises or returns in place of text; a function without an id is called by its name and its place."""
    first, second = Called("first", RuntimeError("llm_router_error")), Called("second", None)
    made = mediator(first, second, str.upper)
    assert made.generate("hello") == "HELLO"
    assert made.router is not None
    assert [one.id for one in made.router.backends] == ["first", "second", "upper-3"]
    with pytest.raises(AllBackendsFailed, match=r"llm_router_error.*second: it returned NoneType, expected text"):
        mediator(first, second).generate("hello")
    with LLMRouterBackend(provider="echo", fallback_providers=[Called("spare", "x")]) as chain:
        assert [one.id for one in chain.router.backends] == ["llm-router", "spare"]


def test_what_generates_a_text_is_a_backend(mediator: Made) -> None:
    """As those of the package `backends` do, of whatever class it is; a hook takes no text."""

    class Generating:
        id = "mine"

        def generate(self, prompt: str, **options: Any) -> str:
            return f"{prompt} Yes."

    class Hooked:
        @hookimpl
        def generate(self, request: Request) -> Completion:
            raise AssertionError

    made = mediator(Generating())
    assert made.generate("Is it?", max_tokens=5) == "Is it? Yes."
    made.submit_evidence(b"x", "text")
    assert made.analyze_evidence()["recommended_by"] == "mine"
    with pytest.raises(ConfigError, match="found Hooked, expected a backend of the package"):
        mediator(Hooked())


@pytest.mark.parametrize(
    "double", [Mock(return_value="Yes.", id="double"), NonCallableMock(generate=lambda prompt: "Yes.", id="double")]
)
def test_a_double_is_a_backend(mediator: Made, double: object) -> None:
    """That of the standard library, which has every attribute that it is asked for: the generator's tests give it."""
    made = mediator(double)
    made.submit_evidence(b"x", "text")
    assert made.generate("Is it?") == "Yes."
    assert [one.id for one in made.router.backends] == ["double"]


def test_without_a_backend_nobody_is_asked(mediator: Made) -> None:
    """The error says how to give one; evidence needs none."""
    made = mediator()
    with pytest.raises(ConfigError, match=r"no backend: give it one, as in Mediator\(backends=\[backend\]\)"):
        made.generate("Hello")


def test_the_backends_that_are_given_stay_open(tmp_path: Path) -> None:
    """They are their owner's, who may ask them on, or give them to the next mediator."""
    with LLMRouterBackend(provider="echo") as one, OpenAIBackend(model="m") as other:
        with Mediator([one, other], path=tmp_path) as made:
            assert made.generate("Hello") == "Hello"
        assert one.generate("Hello") == "Hello"


# -- the configuration ----------------------------------------------------------------------------------


def configured(folder: Path, **sections: Any) -> Mediator:
    """A mediator from a file; its evidence is in `store` beside that, unless STORES says otherwise."""
    stores = [{"id": "home", "type": "blocks", "path": "store"}]
    (folder / "config.json").write_text(json.dumps({"STORES": stores, **sections}))
    return Mediator.from_config(folder / "config.json")


def test_the_section_mediator_names_whom_it_asks(tmp_path: Path, no_leaks: None, fault_server: Serve) -> None:
    """In its own order, chains whole, and nobody else."""
    ill = fault_server(faults.status(503))
    entry = {"type": "openai", "model": "m", "max_retries": 0}
    backends = [
        {"id": "main", "base_url": fault_server().url, **entry},
        {"id": "other", "type": "echo"},
        {"id": "chain", "base_url": ill.url, **entry, "type": "llm_router", "provider": "openai"}
        | {"fallback_providers": ["echo/loud"]},
    ]
    with configured(tmp_path, BACKENDS=backends, MEDIATOR={"backends": ["chain", "main"]}) as made:
        assert made.router is not None
        assert [one.id for one in made.router.backends] == ["chain", "chain/echo/loud", "main"]
        assert attempts(made) == ["chain", "chain/echo/loud"]
    with configured(tmp_path, BACKENDS=backends) as made:
        assert made.router is not None
        assert [one.id for one in made.router.backends] == ["main", "other", "chain", "chain/echo/loud"]


def test_its_limits_hold_for_every_question(tmp_path: Path, no_leaks: None, fault_server: Serve) -> None:
    """`timeout` is the whole time of one, `max_retries` its further attempts; a call says otherwise where it wants."""
    server = fault_server(faults.status(500))
    entry = {"id": "main", "type": "openai", "model": "m", "base_url": server.url}
    with configured(tmp_path, BACKENDS=[entry], MEDIATOR={"max_retries": 0}) as made:
        with pytest.raises(UnavailableError):
            made.generate("Hello")
        assert len(server.asked) == 1
    entry["base_url"] = fault_server(faults.silent()).url
    with configured(tmp_path, BACKENDS=[entry], MEDIATOR={"timeout": 0.3}) as made, pytest.raises(BackendTimeout):
        made.generate("Hello")


def test_the_section_router_holds(tmp_path: Path, no_leaks: None) -> None:
    """For several backends as for one."""
    entries = [{"id": "a", "type": "echo"}, {"id": "b", "type": "echo"}]
    for count in 1, 2:
        with configured(tmp_path, BACKENDS=entries[:count], ROUTER={"timeout": 7}) as made:
            assert made.router is not None
            assert made.router._shared.policy.timeout == 7


def test_the_section_stores_says_where_evidence_is(tmp_path: Path, no_leaks: None) -> None:
    """There and nowhere else; `close` lets all of it go."""
    stores = [
        {"id": "home", "type": "blocks", "path": "home"},
        {"id": "office", "type": "blocks", "path": "office"},
    ]
    with configured(tmp_path, STORES=stores) as made:
        result = made.submit_evidence(b"The lease", "document")
        assert (result["stored_in"], result["waiting_for"]) == (["home"], ["office"])
        assert made.store.sync() == ()
    for name in "home", "office":
        with Store({name: Blocks(path=tmp_path / name)}) as store:
            assert store.get(result["cid"]) == b"The lease"
    assert (tmp_path / "home" / "evidence.sqlite").exists()


def test_receipts_are_where_the_evidence_is(tmp_path: Path, no_leaks: None) -> None:
    """A recommendation has a receipt, which names its evidence; it is durable when the mediator is closed."""
    entries = [{"id": name, "type": "echo"} for name in ("a", "b")]
    for count in 1, 2:
        for options in {"delay": 3600}, {"store_id": "home"}:
            with configured(tmp_path, BACKENDS=entries[:count], ROUTER={"receipts": options}) as made:
                (cid,) = submitted(made, ("email", f"Letter {count}", "eviction"))
                receipts = [made.analyze_evidence("anna", "eviction")["receipt"]]
                receipts += [made.backends[0].router.generate("Hello").receipt]
            with Store({"home": Blocks(path=tmp_path / "store")}) as store:
                assert cid.encode() in b"".join(store.export_car(receipts[0]))
                assert all(map(store.has, receipts))


def test_a_part_of_a_chain_is_no_backend_of_its_own(tmp_path: Path) -> None:
    """It is told, with those that are."""
    entry = {"id": "chain", "type": "llm_router", "provider": "echo", "fallback_providers": ["echo/loud"]}
    with pytest.raises(ConfigError, match=r"MEDIATOR\.backends\[0\]: found 'chain/echo/loud', expected one of 'chain'"):
        configured(tmp_path, BACKENDS=[entry], MEDIATOR={"backends": ["chain/echo/loud"]})


def test_arguments_go_before_the_file(tmp_path: Path, no_leaks: None) -> None:
    """A store that a program gives is the one, and stays open; `path` says where the index is."""
    source = {"BACKENDS": [{"id": "a", "type": "echo"}], "STORES": [{"id": "b", "type": "blocks", "path": "/nowhere"}]}
    with Store({"home": Blocks(path=tmp_path / "home")}) as store:
        with Mediator.from_config(source, store=store, path=tmp_path / "case") as made:
            cid = made.submit_evidence(b"The lease", "document")["cid"]
            assert made.generate("Hello") == "Hello"
        assert store.get(cid) == b"The lease"
        assert (tmp_path / "case" / "evidence.sqlite").exists()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"BACKENDS": [{"id": "a", "type": "echo"}], "MEDIATOR": {"backends": ["b"]}},
            r"MEDIATOR\.backends\[0\]: found",
        ),
        ({"STORES": [{"id": "a", "type": "blocs"}]}, r"STORES\[0\]\.type: found .*did you mean 'blocks'"),
        ({"MEDIATOR": {"timeout": -1}}, r"MEDIATOR\.timeout: found -1"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_path(tmp_path: Path, sections: Any, words: str) -> None:
    """As everywhere."""
    with pytest.raises(ConfigError, match=words):
        configured(tmp_path, **sections)


# -- the analysis ---------------------------------------------------------------------------------------


def submitted(mediator: Mediator, *pieces: tuple[str, str | None, str | None]) -> list[str]:
    """Submit pieces of (type, description, claim), and return their CIDs."""
    return [
        mediator.submit_evidence(f"{number}: {piece}".encode(), piece[0], "anna", piece[1], piece[2])["cid"]
        for number, piece in enumerate(pieces)
    ]


def test_an_analysis_counts_what_a_user_has_for_a_claim(mediator: Made) -> None:
    """By type, the most first; that of others and for other claims is not in it."""
    made = mediator(Scripted("Good."))
    cids = submitted(made, ("email", "A", "eviction"), ("document", "B", "eviction"), ("email", "C", "eviction"))
    submitted(made, ("video", "D", "deposit"))
    made.submit_evidence(b"of bob", "audio", "bob", "E", "eviction")
    made.state.username = "anna"
    for user in None, "anna":
        found = made.analyze_evidence(user, "eviction")
        assert (found["total_evidence"], found["has_evidence"], found["claim_type"]) == (3, True, "eviction")
        assert list(found["evidence_by_type"].items()) == [("email", 2), ("document", 1)]
        assert [one["cid"] for one in found["evidence_items"]] == cids[::-1]
    assert made.analyze_evidence()["evidence_by_type"] == {"email": 2, "video": 1, "document": 1}


def test_gaps_are_told_in_words(mediator: Made) -> None:
    """The usual kinds of which there is nothing; what nobody described, and what names no claim, by its CID."""
    made = mediator(Scripted("Good."))
    assert made.analyze_evidence("anna", "eviction")["gaps"] == [
        "There is no evidence of the user 'anna' for the claim 'eviction'."
    ]
    bare, loose = submitted(made, ("document", " ", "eviction"), ("email", "A letter", None))
    assert made.analyze_evidence("anna")["gaps"] == [
        "There is nothing of these kinds: image, video, audio, text, financial, medical.",
        f"Nobody has described: {bare}.",
        f"No claim is named for: {loose}.",
    ]
    again = [made.submit_evidence(b"The same", "text", "ben", " ")["cid"] for _ in range(2)]
    assert f"Nobody has described: {again[0]}." in made.analyze_evidence("ben")["gaps"]
    cids = submitted(made, *[("text", None, "deposit")] * 25)[::-1]
    told = f"Nobody has described: {', '.join(cids[:20])}, and 5 more."
    assert told in made.analyze_evidence("anna", "deposit")["gaps"]


def test_a_recommendation_cites_evidence_by_its_cid(mediator: Made) -> None:
    """What the model names by number, or by CID, stands below its answer, and nothing else of the evidence."""
    double = Scripted("The lease [2] is strong.")
    made = mediator(double)
    letter, lease = submitted(made, ("email", "A letter", "eviction"), ("document", "The lease", "eviction"))
    found = made.analyze_evidence("anna", "eviction")
    assert found["recommendation"].startswith("The lease [2] is strong.\n\nEvidence:\n[2] ")
    assert letter in found["recommendation"]
    assert lease not in found["recommendation"]
    assert (found["recommended_by"], found["recommendation_error"], found["unknown_citations"]) == (
        "scripted",
        None,
        [],
    )
    double._lines[:] = [f"Rely on {lease}."]
    assert f"\n[1] {lease}, document" in made.analyze_evidence("anna", "eviction")["recommendation"]


def test_a_recommendation_that_cites_nothing_is_of_all(mediator: Made) -> None:
    """Whoever reads it later knows which evidence the model was told of."""
    made = mediator(Scripted("It is strong."))
    cids = submitted(made, ("email", "A letter", "eviction"), ("document", "The lease", "eviction"))
    found = made.analyze_evidence("anna", "eviction")
    assert re.findall(r"^\[\d\] (\w+)", found["recommendation"], re.MULTILINE) == cids[::-1]


def test_a_cid_that_the_model_made_up_is_told(mediator: Made) -> None:
    """Also one that is cut or misspelt: no program takes it for evidence. A number of nothing is not listed."""
    invented = "bafkreiceze73ajatq3vaohh4fwwoylyw4vjm3erclr5swdt2mus3cgvske"
    double = Scripted()
    made = mediator(double)
    (cid,) = submitted(made, ("email", "A letter", "eviction"))
    double._lines[:] = [f"See {invented}, {cid[:40]}, {cid.title()} and [7], [0] and [1]."]
    found = made.analyze_evidence("anna", "eviction")
    assert found["unknown_citations"] == [invented, cid[:40], cid.title()]
    assert found["recommendation"].partition("Evidence:\n")[2].count("\n") == 0
    assert f"\n[1] {cid}, email" in found["recommendation"]


def test_a_question_has_what_was_said_of_evidence_and_none_of_its_content(mediator: Made) -> None:
    """Of the newest twenty pieces, with long words cut; how many more there are is told."""
    double = Scripted("Good.")
    made = mediator(double)
    cids = submitted(made, *[("document", f"Page {number} " + "x" * 999, "eviction") for number in range(25)])
    made.analyze_evidence("anna", "eviction")
    prompt = double.requests[0].prompt
    assert re.findall(r"\[\d+\] (baf\w+)", prompt) == cids[:4:-1]
    assert "(and 5 older pieces)" in prompt
    assert "Page 24" in prompt
    assert len(prompt) < 20 * 400
    assert "24: (" not in prompt
    made.analyze_evidence("anna", "eviction", max_tokens=60)
    assert [asked.max_tokens for asked in double.requests] == [800, 60]


def test_without_evidence_nobody_is_asked(mediator: Made) -> None:
    """The recommendation says what to do first."""
    double = Scripted("Good.")
    found = mediator(double).analyze_evidence("anna", "eviction")
    assert (found["total_evidence"], found["has_evidence"], found["evidence_by_type"]) == (0, False, {})
    assert found["recommendation"].startswith("There is no evidence of the user 'anna' for the claim 'eviction' yet.")
    assert double.calls == 0


def test_whose_evidence_it_is_that_is_not_there_is_told(mediator: Made) -> None:
    """Others may have some: who names nobody learns whose was looked for."""
    made = mediator(Scripted("Good."))
    made.submit_evidence(b"of bob", "audio", "bob")
    for user in "anonymous", "anna":
        found = made.analyze_evidence()
        assert found["gaps"] == [f"There is no evidence of the user {user!r}."]
        assert found["recommendation"].startswith(f"There is no evidence of the user {user!r} yet.")
        made.state.username = "anna"


def test_where_nobody_answers_the_counts_are_there(mediator: Made, dead: str) -> None:
    """And the reason, for a person and for a program."""
    backends = [OpenAIBackend(id=name, model="m", base_url=dead, max_retries=0) for name in ("main", "spare")]
    for made, words in (mediator(*backends), "main: "), (mediator(), "this mediator has no backend"):
        submitted(made, ("email", "A letter", "eviction"))
        found = made.analyze_evidence("anna", "eviction")
        assert found["total_evidence"] >= 1
        assert found["recommendation"].startswith("There is no recommendation, since no backend gave one: ")
        assert words in found["recommendation_error"]
        assert found["recommended_by"] is None
    with pytest.raises(AllBackendsFailed):
        mediator(*backends).generate("Hello")


def test_the_limits_of_the_configuration_hold_for_it(tmp_path: Path, no_leaks: None, fault_server: Serve) -> None:
    """A backend that says nothing costs the analysis no more than MEDIATOR allows."""
    entry = {"id": "main", "type": "openai", "model": "m", "base_url": fault_server(faults.silent()).url}
    with configured(tmp_path, BACKENDS=[entry], MEDIATOR={"timeout": 0.3, "max_retries": 0}) as made:
        submitted(made, ("email", "A letter", "eviction"))
        assert "main: " in made.analyze_evidence("anna")["recommendation_error"]


def test_an_answer_that_was_cut_says_so(mediator: Made) -> None:
    """A sentence without its end is no recommendation that a person should take for whole."""
    made = mediator(Scripted(Completion("You should not", finish_reason="length")))
    submitted(made, ("email", "A letter", "eviction"))
    assert "You should not ... (the answer was cut here)" in made.analyze_evidence("anna")["recommendation"]


# -- what importing costs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["import mediator", "from mediator import Mediator", "from backends import LLMRouterBackend, load"]
)
def test_importing_loads_no_store(code: str) -> None:
    """Neither a plugin nor what encrypts, reads CBOR or speaks HTTP is loaded before it is used."""
    heavy = "('pointsman_', 'requests', 'urllib3', 'multiformats', 'dag_cbor', 'pyrage')"
    code = f"import sys\n{code}\nprint([name for name in sys.modules if name.startswith({heavy})])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_loading_a_configuration_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants backends alone gets no folder of evidence."""
    monkeypatch.chdir(tmp_path)
    load({"BACKENDS": [{"id": "a", "type": "echo"}], "STORES": [{"id": "b", "type": "blocks", "path": "store"}]})
    assert list(tmp_path.iterdir()) == []
