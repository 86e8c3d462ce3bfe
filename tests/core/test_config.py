"""Configuration: what is accepted, what it becomes, and every problem told at once with its path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import fields
from pointsman import Backend, Router, Secret
from pointsman.config import ALIASES, Settings, load
from pointsman.errors import ConfigError
from pointsman_echo import Echo

#: DESIGN section 5, with types that are installed here.
WHOLE: dict[str, Any] = {
    "BACKENDS": [
        {"id": "main", "type": "openai", "model": "gpt-4o-mini", "api_key": "${OPENAI_API_KEY}", "priority": 10},
        {"id": "spare", "type": "local", "model_path": "model.gguf", "n_ctx": 4096, "n_threads": 8, "priority": 90},
        {
            "id": "llm-router",
            "type": "llm_router",
            "provider": "workstation",
            "model": "gpt-5-mini",
            "fallback_providers": ["openai", "echo/loud"],
            "max_tokens": 128,
            "temperature": 0.7,
            "rate_limit": 60,
            "rate_limit_window": 60,
        },
    ],
    "MEDIATOR": {"backends": ["llm-router"], "timeout": 30, "max_retries": 3},
    "STORES": [
        {"id": "blocks", "type": "blocks", "path": "kept"},
        {"id": "ipfs", "type": "kubo", "url": "http://127.0.0.1:5001"},
    ],
    "ROUTER": {
        "order": "weighted",
        "timeout": 60,
        "min_rate": 2,
        "on_break": "restart",
        "on_limit": "next",
        "rate_limit_storage": "redis://127.0.0.1",
    },
}

TOML = """
[[BACKENDS]]
id = "main"
type = "openai"
api_key = "${OPENAI_API_KEY}"
priority = 10
prices = { input = 0.15, output = 0.6 }

[ROUTER]
timeout = 60
"""


def backend(**options: Any) -> dict[str, Any]:
    """A configuration with one backend."""
    return {"BACKENDS": [{"id": "a", "type": "echo", **options}]}


def problems(source: Any) -> tuple[str, ...]:
    """What is wrong with a configuration, the options of its plugins too."""
    with pytest.raises(ConfigError) as raised:
        Router.from_config(source)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    return raised.value.problems


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment-0123456789")


def test_the_form_of_the_complaint_generator_is_read_whole() -> None:
    """Backends, mediator, stores and router of one mapping become values, and aliases the plugins' own names."""
    settings = load(WHOLE)
    assert [(b.id, b.type, b.model) for b in settings.backends] == [
        ("main", "openai", "gpt-4o-mini"),
        ("spare", "local", "model"),
        ("llm-router", "local", "gpt-5-mini"),
        ("llm-router/openai", "openai", None),
        ("llm-router/echo/loud", "echo", "loud"),
    ]
    assert settings.mediator == {"backends": ("llm-router",), "timeout": 30.0, "max_retries": 3}
    assert settings.paths == (
        "BACKENDS[0]",
        "BACKENDS[1]",
        "BACKENDS[2]",
        "BACKENDS[2].fallback_providers[0]",
        "BACKENDS[2].fallback_providers[1]",
    )
    assert [(one.id, one.type, one.priority) for one in settings.stores] == [
        ("blocks",) * 2 + (10,),
        ("ipfs", "kubo", 20),
    ]
    assert settings.router == {
        "order": "weighted",
        "timeout": 60.0,
        "min_rate": 2.0,
        "on_break": "restart",
        "on_limit": "next",
        "rate_limit_storage": Secret("redis://127.0.0.1"),
    }


def test_a_fallback_provider_shares_the_common_options_but_neither_model_nor_key() -> None:
    """`fallback_providers` become backends of their own, after the first, with its limits and sampling."""
    one = {"id": "r", "type": "llm_router", "provider": "echo", "model": "m", "suffix": "!", "max_tokens": 9}
    first, second = load({"BACKENDS": [one | {"fallback_providers": ["openai"], "priority": 3}]}).backends
    assert (first.defaults, second.defaults) == ({"max_tokens": 9}, {"max_tokens": 9})
    assert (first.priority, second.priority) == (3, 3)
    assert first.provider == Echo(suffix="!")
    assert (second.type, second.model) == ("openai", None)


def chain(*fallbacks: str, **options: Any) -> dict[str, Any]:
    """Return an entry of the complaint generator's form."""
    first = {"id": "r", "type": "llm_router", "provider": "copilot_cli", "model": "gpt-5-mini"}
    return {**first, "fallback_providers": list(fallbacks), **options}


def test_a_fallback_may_be_another_entry() -> None:
    """Where a fallback is the id of an entry, it has all the options of that one, in the place of the chain."""
    spare = {"id": "spare", "type": "echo", "model": "loud", "suffix": "?", "priority": 5, "max_tokens": 7}
    *_, last = load({"BACKENDS": [spare, chain("spare", priority=3, max_tokens=9)]}).backends
    assert (last.id, last.type, last.model, last.priority) == ("r/spare", "echo", "loud", 3)
    assert (last.provider, last.defaults) == (Echo(suffix="?"), {"max_tokens": 7})


def test_openai_is_asked_for_copilots_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copilot's models have OpenAI's names: without a model of its own, OpenAI is asked the same one."""
    (_, second) = load({"BACKENDS": [chain("openai")]}).backends
    assert second.model == "gpt-5-mini"
    monkeypatch.setenv("OPENAI_MODEL", "gpt-6-sol")
    (_, second) = load({"BACKENDS": [chain("openai")]}).backends
    assert second.model == "gpt-6-sol"
    (_, second) = load({"BACKENDS": [chain("openai/gpt-x")]}).backends
    assert second.model == "gpt-x"


def test_a_fallback_without_a_model_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other vendors no model is known: the backend is there, and says what to write."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    (_, second) = load({"BACKENDS": [chain("huggingface")]}).backends
    assert second.missing == 'no model: write "huggingface/MODEL", or HF_MODEL'
    monkeypatch.setenv("HF_MODEL", "openai/gpt-oss-20b")
    (_, second) = load({"BACKENDS": [chain("huggingface")]}).backends
    assert (second.missing, second.model) == ("", "openai/gpt-oss-20b")


def test_each_fallback_is_listed_once() -> None:
    """The same name twice is told, and is not a matter of ids that nobody has written."""
    with pytest.raises(ConfigError, match="each provider is listed once"):
        load({"BACKENDS": [chain("openai", "openai")]})


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("opneai", "did you mean 'openai'?"),
        ("hugging_face", "did you mean 'huggingface'?"),
        ("llm-router", "did you mean 'llm_router'?"),
        ("azure", "expected one of"),
        ("vllm", "expected one of"),
    ],
)
def test_a_type_that_nobody_knows_is_told_with_what_there_is(written: str, advice: str) -> None:
    """Aliases and types that are not installed count among the names; what is far from all is none of them."""
    with pytest.raises(ConfigError) as caught:
        load({"BACKENDS": [{"id": "a", "type": written}]})
    assert advice in str(caught.value)


@pytest.mark.parametrize("written", ["OpenAI", "HuggingFace", "Anthropic", "Copilot_CLI", " gemini "])
def test_the_case_of_a_type_does_not_matter(written: str) -> None:
    """Names that people write otherwise are known all the same."""
    (only,) = load({"BACKENDS": [{"id": "a", "type": written}]}).backends
    assert only.type in ("openai", "hf", "claude", "copilot", "gemini")


def test_toml_has_the_same_keys(tmp_path: Path) -> None:
    """A TOML file gives the same values as the JSON of the same form."""
    (tmp_path / "p.toml").write_text(TOML)
    entry = {"id": "main", "type": "openai", "api_key": "${OPENAI_API_KEY}", "priority": 10}
    whole = {"BACKENDS": [entry | {"prices": {"input": 0.15, "output": 0.6}}], "ROUTER": {"timeout": 60}}
    (tmp_path / "p.json").write_text(json.dumps(whole))
    from_toml, from_json = load(tmp_path / "p.toml"), load(str(tmp_path / "p.json"))
    assert from_toml.router == from_json.router
    assert from_toml.backends[0].prices == from_json.backends[0].prices == {"input": 0.15, "output": 0.6}
    assert from_toml.backends[0].provider == from_json.backends[0].provider


def test_an_empty_configuration_is_an_empty_value() -> None:
    """Every section may be left out."""
    assert load({}) == Settings()


def test_what_is_not_written_has_the_documented_default() -> None:
    """A backend has the defaults of `Backend`, and the router is told nothing."""
    settings, plain = load(backend()), Backend(Echo(), id="a", type="echo")
    (one,) = settings.backends
    public = {a.name: getattr(one, a.name) for a in fields(Backend)}
    assert public == {a.name: getattr(plain, a.name) for a in fields(Backend)}
    assert (one.priority, one.weight, one.enabled, one.verbose, one.defaults) == (100, 1, True, False, {})
    assert settings.router == settings.mediator == {}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_stands_for_the_plugins_own_name(alias: str, name: str) -> None:
    """A disabled backend shows what the alias stands for, whether or not it is installed."""
    assert load(backend(type=alias, enabled=False)).backends[0].type == name


WRONG = [
    (backend(max_tokens="many"), 'BACKENDS[0].max_tokens: found "many", expected a whole number'),
    (backend(max_tokens="5"), 'BACKENDS[0].max_tokens: found "5", expected a whole number'),
    (backend(max_tokens=5.0), "BACKENDS[0].max_tokens: found 5.0, expected a whole number"),
    (backend(max_tokens=True), "BACKENDS[0].max_tokens: found true, expected a whole number"),
    (backend(max_tokens=0), "BACKENDS[0].max_tokens: found 0, expected a whole number from 1 upwards"),
    (backend(temperature=3), "BACKENDS[0].temperature: found 3, expected a number from 0 to 2"),
    (backend(top_p=[1]), "BACKENDS[0].top_p: found a list, expected a number"),
    (backend(enabled="yes"), 'BACKENDS[0].enabled: found "yes", expected true or false'),
    (backend(enabled=1), "BACKENDS[0].enabled: found 1, expected true or false"),
    (backend(enabled=None), "BACKENDS[0].enabled: found null, expected true or false"),
    (backend(timeout=0), "BACKENDS[0].timeout: found 0, expected a number above 0"),
    (backend(weight=-1), "BACKENDS[0].weight: found -1, expected a number from 0 upwards"),
    (backend(model={"a": 1}), "BACKENDS[0].model: found a mapping, expected text"),
    (
        backend(prices={"in": 1}),
        "BACKENDS[0].prices: found a mapping, expected a mapping, each value a number from 0 upwards in US dollars for",
    ),
    (backend(prices={"input": "1"}), 'BACKENDS[0].prices.input: found "1", expected a number'),
    (backend(prices={"input": -1}), "BACKENDS[0].prices.input: found -1, expected a number from 0 upwards"),
    (backend(min_rate=-1), "BACKENDS[0].min_rate: found -1, expected a number from 0 upwards"),
    (backend(first_token_timeout=0), "BACKENDS[0].first_token_timeout: found 0, expected a number above 0"),
    (backend(idle_timeout="1"), 'BACKENDS[0].idle_timeout: found "1", expected a number above 0'),
    (backend(on_break="stop"), 'BACKENDS[0].on_break: found "stop", expected one of "raise", "restart", "continue"'),
    (backend(rate_limit=0), "BACKENDS[0].rate_limit: found 0, expected a whole number from 1 upwards"),
    (backend(rate_limit_window=0), "BACKENDS[0].rate_limit_window: found 0, expected a number above 0"),
    (backend(tokens_per_minute=1.5), "BACKENDS[0].tokens_per_minute: found 1.5, expected a whole number"),
    (backend(max_concurrency=0), "BACKENDS[0].max_concurrency: found 0, expected a whole number from 1 upwards"),
    (backend(type="local", model=7), "BACKENDS[0].model: found 7, expected text"),
    (backend(type="local", model_path="~nobody-here/x"), "BACKENDS[0].model_path: Could not determine home directory"),
    (backend() | {"MEDIATOR": {"timeout": "${NO_SUCH}"}}, "MEDIATOR.timeout: the variable NO_SUCH is not set"),
    (backend(**{"max tokens": 1}), "BACKENDS[0].max tokens: unknown key; did you mean max_tokens?"),
    (backend(suffx="!"), "BACKENDS[0].suffx: unknown key; did you mean suffix?"),
    (backend(max_token=1), "BACKENDS[0].max_token: unknown key; did you mean max_tokens?"),
    (backend(MODEL="m"), "BACKENDS[0].MODEL: unknown key; did you mean model?"),
    (backend(suffix=7), "BACKENDS[0].suffix: found 7, expected text"),
    (backend(suffix="${oops"), "BACKENDS[0].suffix: found a ${ that begins no variable; write ${NAME} or"),
    (backend(id=" "), 'BACKENDS[0].id: found " ", expected text that is not empty'),
    (backend(type="eco"), "BACKENDS[0].type: found \"eco\", which is no installed provider; did you mean 'echo'?"),
    (
        backend(type="zzz"),
        'BACKENDS[0].type: found "zzz", which is no installed provider; expected one of \'',
    ),
    ({"BACKENDS": [{"type": "echo"}]}, "BACKENDS[0].id: missing, expected text"),
    ({"BACKENDS": [{"id": "a", "typ": "echo"}]}, "BACKENDS[0].type: missing, expected text; is typ meant for it?"),
    ({"BACKENDS": [{"id": "${NO_SUCH}", "type": "echo"}]}, "BACKENDS[0].id: the variable NO_SUCH is not set"),
    ({"BACKENDS": ["echo"]}, 'BACKENDS[0]: found "echo", expected a mapping with id and type'),
    ({"BACKENDS": {"a": {}}}, "BACKENDS: found a mapping, expected a list, each a mapping with id and type"),
    ({"backends": []}, "backends: unknown key; did you mean BACKENDS?"),
    ({"ROUTER": {"timout": 3}}, "ROUTER.timout: unknown key; did you mean timeout?"),
    ({"ROUTER": {"on_refusal": "stop"}}, 'ROUTER.on_refusal: found "stop", expected one of "raise", "next"'),
    ({"ROUTER": {"middleware": "cache"}}, 'ROUTER.middleware: found "cache", expected a list, each text'),
    ({"ROUTER": {"middleware": [3]}}, "ROUTER.middleware[0]: found 3, expected text"),
    ({"ROUTER": {"middleware": ["a"]}}, "ROUTER.middleware[0]: no plugin 'a' in pointsman.middleware; "),
    ({"ROUTER": {"order": "weigthed"}}, "ROUTER.order: no plugin 'weigthed' in pointsman.orders; did you mean 'weight"),
    ({"ROUTER": {"on_limit": "fail"}}, 'ROUTER.on_limit: found "fail", expected one of "next", "wait"'),
    ({"ROUTER": {"on_break": 1}}, 'ROUTER.on_break: found 1, expected one of "raise", "restart", "continue"'),
    ({"ROUTER": {"rate_limit_storage": 5}}, "ROUTER.rate_limit_storage: found ***, expected a key (text)"),
    (backend(type="llm_router", model="m"), "BACKENDS[0].provider: missing, expected text"),
    (backend(type="llm_router", provider="eco"), 'BACKENDS[0].provider: found "eco", which is no installed provider'),
    (
        backend(type="llm_router", provider="echo", fallback_providers=["eco"]),
        "BACKENDS[0].fallback_providers[0]: found \"eco\", which is no installed provider; did you mean 'echo'?",
    ),
    ({"ROUTER": {"middleware": {"a": 3}}}, "ROUTER.middleware: found a mapping, expected a list, each text"),
    ({"ROUTER": {"timeout": "${NO_SUCH}"}}, "ROUTER.timeout: the variable NO_SUCH is not set"),
    ({"ROUTER": []}, "ROUTER: found a list, expected a mapping"),
    ({"STORES": [{"id": "a"}]}, "STORES[0].type: missing, expected text"),
    (backend() | {"MEDIATOR": {"backends": ["b"]}}, 'MEDIATOR.backends[0]: found "b", expected the id of a backend'),
]


@pytest.mark.parametrize(("source", "line"), WRONG, ids=[line for _, line in WRONG])
def test_each_problem_names_its_path_what_was_found_and_what_was_expected(source: Any, line: str) -> None:
    """One thing to mend gives one line."""
    (problem,) = problems(source)
    assert line in problem


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    """Backends first, then the other sections; options of the plugins' own are in the same error."""
    entries = [{"id": "a", "type": "echo", "suffx": 1, "timeout": -1}, {"id": "b"}, {"id": "a", "type": "echo"}]
    router = {"max_retries": -1, "order": "x"}
    found = problems({"ROUTER": router, "BACKENDS": entries, "nonsense": 1, "MEDIATOR": {"timeout": "x"}})
    assert [line.split(":")[0] for line in found] == [
        "BACKENDS[0].timeout",
        "BACKENDS[0].suffx",
        "BACKENDS[1].type",
        "BACKENDS[2].id",
        "nonsense",
        "ROUTER.max_retries",
        "ROUTER.order",
        "MEDIATOR.timeout",
    ]


def test_null_says_that_there_is_no_limit() -> None:
    """A limit of time may be given up, as `Router(timeout=None)` does; for a backend `null` leaves it to the router."""
    limits = {"timeout": None, "first_token_timeout": None, "idle_timeout": None, "min_rate": None}
    settings = load({"ROUTER": limits, **backend(**limits, max_retries=None, model=None, prices=None)})
    assert settings.router == limits
    assert {getattr(settings.backends[0], name) for name in [*limits, "max_retries", "prices"]} == {None}


def test_two_entries_may_not_have_the_same_id() -> None:
    """A duplicate names the place that has the id already; stores and backends may share one."""
    one = {"id": "a", "type": "echo"}
    assert problems({"BACKENDS": [one, one]}) == (
        'BACKENDS[1].id: found "a", which BACKENDS[0] has; give each its own',
    )
    assert load({"BACKENDS": [one], "STORES": [{"id": "a", "type": "blocks"}]}).stores[0].id == "a"


def test_a_plugin_that_fails_while_it_is_built_costs_its_own_backend_only(install: Any) -> None:
    """What a constructor raises, other than that an option is wrong, is the reason why that backend is unconfigured."""
    code = "@frozen\nclass Bad:\n  @hookimpl\n  def generate(self, request): ...\n"
    code += "  def __attrs_post_init__(self): raise RuntimeError('no such device')"
    install("pointsman-bad", {"bad": "Bad"}, code=code)
    backends = [{"id": "a", "type": "bad"}, {"id": "b", "type": "echo"}]
    with Router.from_config({"BACKENDS": backends}) as router:
        assert router.generate("hi").backend == "b"
        health = router.health()["a"]
    assert (health.status, health.reason) == ("unconfigured", "it cannot be built: RuntimeError: no such device")


def test_a_disabled_backend_may_be_of_a_type_that_is_not_installed() -> None:
    """One configuration may serve machines with different plugins."""
    assert load(backend(type="gemini", enabled=False)).backends[0].enabled is False
    assert load(backend(type="gemini", enabled="${USE_GEMINI:-no}")).backends[0].enabled is False


FILES = [
    ("p.json", '{"BACKENDS": [{"id": "a", "id": "b", "type": "echo"}]}', "BACKENDS[0].id: written more than once"),
    ("p.json", '{"ROUTER": {}, "ROUTER": {}}', "ROUTER: written more than once; keep one of them"),
    ("p.json", '{"BACKENDS": [\n  {"id" "a"}]}', "p.json: not JSON: Expecting ':' delimiter: line 2 column 9"),
    ("p.json", '{"ROUTER": {"timeout": NaN}}', "ROUTER.timeout: found NaN, expected a number"),
    ("p.json", "[" * 200_000, "p.json: not JSON: "),
    ("p.json", "[]", "p.json: found a list, expected a mapping"),
    ("p.json", "", "p.json: not JSON: Expecting value: line 1 column 1"),
    ("p.toml", "[ROUTER]\ntimeout = ", "p.toml: not TOML: Invalid value (at end of document)"),
    ("p.toml", "[ROUTER]\na = 1\na = 2\n", "p.toml: not TOML: Cannot overwrite a value (at line 3, column 6)"),
    ("p.toml", "[ROUTER]\ntimeout = 2026-11-22", "ROUTER.timeout: found an object of date, expected a number"),
]


@pytest.mark.parametrize(("name", "text", "line"), FILES, ids=[line for _, _, line in FILES])
def test_a_broken_file_is_one_line_with_the_place(tmp_path: Path, name: str, text: str, line: str) -> None:
    """Syntax errors name file, line and column; a key that is written twice names its path."""
    (tmp_path / name).write_text(text)
    (problem,) = problems(tmp_path / name)
    assert line in problem


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Missing, a folder, not text: each is one line with the path."""
    (tmp_path / "latin.json").write_bytes(b'{"ROUTER": "\xe9"}')
    assert problems(tmp_path / "none.json") == (f"{tmp_path}/none.json: cannot be read: No such file or directory",)
    assert problems(tmp_path) == (f"{tmp_path}: cannot be read: Is a directory",)
    (latin,) = problems(tmp_path / "latin.json")
    assert latin.startswith(f"{tmp_path}/latin.json: not JSON: 'utf-8' codec can't decode byte 0xe9 in position 12")
    assert "null" in problems("a\0b")[0]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    (tmp_path / "p.json").write_text("\ufeff{}", "utf-8")
    assert load(tmp_path / "p.json") == Settings()
