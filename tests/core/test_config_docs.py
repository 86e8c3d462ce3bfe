"""docs/configuration.md says what is true: its examples run, and its tables name every option there is."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

import attrs
import pytest
from pointsman import Router, StoreBackend
from pointsman.config import ALIASES, COMMON, load
from pointsman.errors import ConfigError
from pointsman.service import Service
from pointsman_claude import Claude
from pointsman_codex import Codex
from pointsman_copilot import Copilot
from pointsman_gemini import Gemini
from pointsman_hf import HuggingFace
from pointsman_ipfs import Gateway, Kubo, Receipts
from pointsman_local import Local
from pointsman_openai import OpenAI
from pointsman_openrouter import OpenRouter

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
(MISTAKES,) = (index for index, (language, _) in enumerate(BLOCKS) if language == "text")
EXAMPLES = [block for index, block in enumerate(BLOCKS) if block[0] in ("toml", "json") and index != MISTAKES - 1]

SERVICES: dict[str, type[Service]] = {
    "openai": OpenAI, "openrouter": OpenRouter, "hf": HuggingFace, "claude": Claude, "gemini": Gemini
}  # fmt: skip


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    return re.split(r"^#", TEXT.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def names(title: str) -> list[str]:
    """What the first column of a table names."""
    return re.findall(r"^\| `(\w+)` \|", section(title), re.MULTILINE)


def options(cls: type[attrs.AttrsInstance]) -> set[str]:
    """The options that a plugin has beyond those of every backend."""
    return {a.name for a in attrs.fields(cls) if a.init and not a.name.startswith("_")} - COMMON


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the examples find: a key, and an empty folder."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("language", "text"), EXAMPLES)
def test_each_configuration_is_one(tmp_path: Path, language: str, text: str) -> None:
    """Every example loads, and its backends can be built."""
    path = tmp_path / f"pointsman.{language}"
    path.write_text(text)
    settings = load(path)
    assert settings.backends or settings.stores
    assert not any(backend.missing for backend in settings.backends)
    Router.from_config(path).close()


def test_the_mistakes_are_told_as_shown(tmp_path: Path) -> None:
    """The lines under "Mistakes" are what that file gives, in that order."""
    (tmp_path / "p.toml").write_text(BLOCKS[MISTAKES - 1][1])
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "p.toml")
    assert "\n".join(raised.value.problems) + "\n" == BLOCKS[MISTAKES][1]


@pytest.mark.parametrize("program", [text for language, text in BLOCKS if language == "python"])
def test_each_program_runs(program: str) -> None:
    """Every Python example is executed; each asserts what it shows."""
    exec(compile(program, "an example", "exec", dont_inherit=True), {"__name__": "example"})


def test_the_tables_name_every_option_and_no_other() -> None:
    """A new option that nobody documents fails here."""
    assert sorted(names("What every backend has")) == sorted(COMMON)
    of_programs = {"self", "backends", "clock"}
    arguments = {name for name in signature(Router.__init__).parameters if not name.startswith("_")}
    assert sorted(names("ROUTER")) == sorted(arguments - of_programs)
    of_stores = {a.name for a in attrs.fields(StoreBackend) if a.init} - {"provider", "missing"}
    assert set(names("STORES")) == of_stores
    assert set(names("blocks")) == {"path", "profile"}
    assert set(names("kubo")) == options(Kubo)
    assert set(names("gateway")) == options(Gateway)
    assert set(names("receipts")) == options(Receipts) - {"store"}  # which a program gives
    shared = options(Service)
    assert set(names("Services on HTTP")) - set(SERVICES) == shared
    for title, cls in SERVICES.items():
        assert set(names(title)) == options(cls) - shared
    for title, cls in {"codex": Codex, "copilot": Copilot, "local": Local}.items():
        assert set(names(title)) == options(cls)


def test_the_variables_are_those_that_count() -> None:
    """The table of variables says what the classes say."""
    row = r"^\| `(\w+)` \| (`[^|]*`) \| `(\w+)` \| `(\w+)` \|$"
    found = {name: (re.findall(r"\w+", keys), model, url) for name, keys, model, url in
             re.findall(row, section("Services on HTTP"), re.MULTILINE)}  # fmt: skip
    assert found == {name: (list(cls.KEYS), cls.MODEL, cls.URL) for name, cls in SERVICES.items()}


def test_the_aliases_are_as_documented() -> None:
    """The table of types is the one that is used."""
    assert dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", section("Types"), re.MULTILINE)) == ALIASES
