"""`build`: a plugin's class and what a person wrote, turned into an instance without guessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from attrs import Factory, field, frozen, validators
from pointsman import Secret
from pointsman._written import Written
from pointsman.config import build, load
from pointsman.errors import ConfigError

if TYPE_CHECKING:
    from somewhere import Session  # a name that does not exist while the program runs


@frozen
class Base:
    """Where an option may be inherited from."""

    api_key: Secret | None = field(default=None, converter=Secret.of)


def _even(_: Any, __: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"found {value}, expected an even number")


@frozen
class Plugin(Base):
    """Every kind of option."""

    count: int = 1
    share: float = 0.5
    loud: bool = False
    name: str = ""
    limit: int | None = None
    level: int | Literal["auto"] = "auto"
    words: tuple[str, ...] = ()
    sizes: list[int] = Factory(list)
    abilities: frozenset[Literal["tools", "schema"]] = frozenset()
    headers: Mapping[str, str] = Factory(dict)
    extra: Mapping[str, Any] = Factory(dict)
    shares: Sequence[float] = ()
    model_path: str = ""
    folder: Path = Path()
    session: Session | None = None
    given: Fraction | None = None
    even: int = field(default=0, validator=_even)
    mode: str = field(default="fast", validator=validators.in_(["fast", "slow"]))
    upper: str = field(default="", converter=str.upper)
    token: Secret | None = None
    model: str | None = None
    _private: int = 0
    derived: int = field(init=False, default=3)


@frozen
class Strict:
    """One option that must be written."""

    model_path: str
    engine: str = "a"

    def __attrs_post_init__(self) -> None:
        if self.engine == self.model_path:
            raise ValueError("engine and model_path are the same")


FITS: list[tuple[str, Any, Any]] = [
    ("count", 3, 3),
    ("share", 3, 3.0),
    ("share", 0.25, 0.25),
    ("loud", True, True),
    ("name", "5", "5"),
    ("limit", None, None),
    ("limit", 4, 4),
    ("level", 4, 4),
    ("level", "auto", "auto"),
    ("words", ["a", "b"], ("a", "b")),
    ("sizes", (1, 2), [1, 2]),
    ("abilities", ["tools", "tools"], frozenset({"tools"})),
    ("headers", {"X-A": "1"}, {"X-A": "1"}),
    ("extra", {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
    ("shares", [1, 0.5], (1.0, 0.5)),
    ("folder", "/a/b", Path("/a/b")),
    ("given", Fraction(1, 2), Fraction(1, 2)),
    ("upper", "abc", "ABC"),
    ("token", "abc", Secret("abc")),
    ("token", Secret("abc"), Secret("abc")),
    ("api_key", "abc", Secret("abc")),
    ("api_key", "", None),
    ("model", "m", "m"),
]


@pytest.mark.parametrize(("name", "written", "value"), FITS)
def test_a_value_of_the_right_type_arrives_as_the_type_of_its_field(name: str, written: Any, value: Any) -> None:
    """Lists become tuples where the field is one, text becomes Secret, Path or Enum; a whole number may be a float."""
    got = getattr(build(Plugin, {name: written}, "P"), name)
    assert got == value
    assert type(got) is type(value)


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"count": "5"}, 'P.count: found "5", expected a whole number'),
    ({"count": True}, "P.count: found true, expected a whole number"),
    ({"count": None}, "P.count: found null, expected a whole number"),
    ({"share": "0.5"}, 'P.share: found "0.5", expected a number'),
    ({"share": False}, "P.share: found false, expected a number"),
    ({"loud": "false"}, 'P.loud: found "false", expected true or false'),
    ({"name": 5}, "P.name: found 5, expected text"),
    ({"level": "high"}, 'P.level: found "high", expected a whole number or one of "auto"'),
    ({"words": "abc"}, 'P.words: found "abc", expected a list, each text'),
    ({"words": {"a": 1}}, "P.words: found a mapping, expected a list, each text"),
    ({"sizes": [1, "2"]}, 'P.sizes[1]: found "2", expected a whole number'),
    ({"abilities": "tools"}, 'P.abilities: found "tools", expected a list, each one of "tools", "schema"'),
    ({"abilities": ["tools", "wings"]}, 'P.abilities[1]: found "wings", expected one of "tools", "schema"'),
    ({"extra": []}, "P.extra: found a list, expected a mapping"),
    ({"share": float("nan")}, "P.share: found NaN, expected a number"),
    ({"headers": [1]}, "P.headers: found a list, expected a mapping, each value text"),
    ({"headers": {"X-A": 1}}, "P.headers.X-A: found ***, expected text"),
    ({"shares": [0.5, None]}, "P.shares[1]: found null, expected a number"),
    ({"folder": 3}, "P.folder: found 3, expected a path"),
    ({"given": "1/2"}, 'P.given: found "1/2", expected an object of Fraction, which only a program can give'),
    ({"even": 3}, "P.even: found 3, expected an even number"),
    ({"mode": "medium"}, "P.mode: 'mode' must be in ['fast', 'slow'] (got 'medium')"),
    ({"upper": 3}, "P.upper: descriptor 'upper' for 'str' objects doesn't apply to a 'int' object"),
    ({"api_key": 12345}, "P.api_key: found ***, which was refused (TypeError); expected a key (text)"),
    ({"token": 12345}, "P.token: found ***, expected a key (text)"),
    ({"private": 3}, "P.private: unknown key; "),
    ({"_private": 3}, "P._private: unknown key; expected one of "),
    ({"derived": 3}, "P.derived: unknown key; expected one of "),
    ({"name": "x" * 100 + "5", "count": "y" * 100}, "P.count: found 102 characters, expected a whole number"),
]


@pytest.mark.parametrize(("written", "line"), MISFITS, ids=[line for _, line in MISFITS])
def test_a_misfit_names_its_path_what_was_found_and_what_was_expected(written: dict[str, Any], line: str) -> None:
    """Nothing is coerced, keys are masked, long values are counted, and a plugin's own words are passed on."""
    with pytest.raises(ConfigError) as raised:
        build(Plugin, written, "P")
    assert len(raised.value.problems) == 1
    assert line in raised.value.problems[0]
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_all_misfits_of_one_plugin_are_told_at_once() -> None:
    """Types, validators and unknown names together; attrs alone would stop at the first."""
    with pytest.raises(ConfigError) as raised:
        build(Plugin, {"count": "x", "even": 3, "mode": "y", "nmae": "z", "headers": {"X-A": 1, "X-B": 2}}, "P")
    assert sorted(line.split(":")[0] for line in raised.value.problems) == [
        "P.count",
        "P.even",
        "P.headers.X-A",
        "P.headers.X-B",
        "P.mode",
        "P.nmae",
    ]


def test_an_option_that_must_be_written_is_asked_for() -> None:
    """A field without a default is named with what it takes."""
    with pytest.raises(ConfigError, match=r"^P\.model_path: missing, expected text$"):
        build(Strict, {}, "P")
    with pytest.raises(ConfigError) as raised:
        build(Strict, {"modelpath": "x"}, "P")
    assert raised.value.problems == (
        "P.modelpath: unknown key; did you mean model_path?",
        "P.model_path: missing, expected text; is modelpath meant for it?",
    )


def test_what_the_class_refuses_as_a_whole_is_told_at_the_path_of_the_plugin() -> None:
    """`__attrs_post_init__` speaks for all fields together."""
    with pytest.raises(ConfigError, match=r"^P: engine and model_path are the same$"):
        build(Strict, {"model_path": "a"}, "P")


def test_common_options_reach_the_class_only_where_it_has_such_a_field() -> None:
    """`model` is a field here, `priority` is not, and neither is a mistake."""
    assert build(Plugin, {"id": "a", "type": "b", "model": "m", "priority": 3}, "P") == Plugin(model="m")


def test_a_type_that_is_imported_late_is_no_hindrance() -> None:
    """An annotation that cannot be resolved while the program runs takes whatever a program gives."""
    session = object()
    assert build(Plugin, {"session": session}, "P").session is session


def test_a_relative_path_starts_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in a file mean the same wherever the program runs; URLs and `package:` are no paths."""
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "p.toml").write_text("[[STORES]]\nid='a'\ntype='blocks'\npath='m/kept'\n")
    (store,) = load(tmp_path / "p.toml").stores
    assert getattr(store.provider, "path", None) == tmp_path / "m/kept"
    built = build(Plugin, Written({"model_path": "m/x.gguf", "folder": "f"}, tmp_path), "P")
    assert (built.model_path, built.folder) == (str(tmp_path / "m/x.gguf"), tmp_path / "f")
    for path in ("/m/x.gguf", "package:llm-x/x.gguf", "hf://owner/repo/x.gguf", ""):
        assert build(Plugin, {"model_path": path}, "P").model_path == path
    assert build(Plugin, {"model_path": "~/x.gguf"}, "P").model_path == "/home/someone/x.gguf"
    assert build(Plugin, {"model_path": "x.gguf"}, "P").model_path == "x.gguf"


def test_text_of_a_variable_becomes_what_the_field_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment holds nothing but text, so numbers and truths are read from it, properly."""
    values = {"COUNT": " 12 ", "SHARE": "0.25", "LOUD": "Yes", "NAME": "7", "LEVEL": "3", "W": "a"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    written = {name.lower(): f"${{{name}}}" for name in values if name != "W"}
    built = build(Plugin, written | {"words": ["${W}", "b${W}"], "extra": {"a": "${W}"}, "upper": "x${W}"}, "P")
    assert built == Plugin(
        count=12,
        share=0.25,
        loud=True,
        name="7",
        level=3,
        words=("a", "ba"),
        extra={"a": "a"},
        upper="XA",
    )
    assert {type(built.name), type(built.words[0]), type(built.extra["a"]), type(built.upper)} == {str}


@pytest.mark.parametrize(
    ("name", "text"), [("count", "many"), ("count", "1.5"), ("loud", "maybe"), ("share", "a"), ("share", "nan")]
)
def test_text_of_a_variable_that_does_not_fit_is_shown_by_the_name_only(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """What a variable holds may be a key: a message names the variable and never shows its text."""
    monkeypatch.setenv("VALUE", text)
    with pytest.raises(ConfigError, match=r"found the text of \$\{VALUE\}, expected "):
        build(Plugin, {name: "${VALUE}"}, "P")


EXPANSIONS = [
    ("${SET}", "set"),
    ("${SET:-other}", "set"),
    ("${UNSET:-other}", "other"),
    ("${EMPTY:-other}", "other"),
    ("${UNSET:-}", ""),
    ("a ${SET} b ${SET}", "a set b set"),
    ("$${SET}", "${SET}"),
    ("$${SET} ${SET}", "${SET} set"),
    ("$SET {SET} $", "$SET {SET} $"),
    ("${NESTED}", "${SET}"),
]


@pytest.mark.parametrize(("written", "value"), EXPANSIONS)
def test_variables_are_read_as_documented(monkeypatch: pytest.MonkeyPatch, written: str, value: str) -> None:
    """Name, default, escape; an empty variable counts as unset; what a variable holds is not read again."""
    for name, text in {"SET": "set", "EMPTY": "", "NESTED": "${SET}"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("UNSET", raising=False)
    assert build(Plugin, {"name": written}, "P").name == value


@pytest.mark.parametrize("written", ["${", "${}", "${1A}", "${A B}", "${A", "${A:default}", "x${A-b}"])
def test_a_misspelt_variable_is_a_problem_and_not_text(written: str) -> None:
    """Whoever means the two characters writes `$${`."""
    with pytest.raises(ConfigError, match=r"BACKENDS\[0\]\.suffix: found a \$\{ that begins no variable"):
        load({"BACKENDS": [{"id": "a", "type": "echo", "suffix": written}]})


def test_a_variable_that_is_not_set_costs_its_own_backend_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """That backend names the variable and cannot be built; the others can."""
    monkeypatch.delenv("UNSET", raising=False)
    entries = [
        {"id": "a", "type": "echo", "suffix": "${UNSET} ${UNSET_TOO}", "timeout": "${UNSET}"},
        {"id": "b", "type": "echo"},
    ]
    first, second = load({"BACKENDS": entries}).backends
    assert first.missing == "set UNSET and UNSET_TOO in the environment; BACKENDS[0] needs it"
    assert (first.timeout, second.missing) == (None, "")
    with pytest.raises(ConfigError) as raised:
        build(Plugin, {"name": "${UNSET}"}, "P")
    assert raised.value.problems == ("P.name: the variable UNSET is not set",)


def test_common_options_may_come_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and truths of every backend are read from variables as those of a plugin are."""
    monkeypatch.setenv("FIRST", "5")
    entry = {"id": "a", "type": "${TYPE:-workstation}", "priority": "${FIRST}", "enabled": "${ON:-off}"}
    (one,) = load({"BACKENDS": [entry]}).backends
    assert (one.type, one.priority, one.enabled) == ("local", 5, False)
