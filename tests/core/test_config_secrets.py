"""No key that a configuration holds is ever shown: not by a value, an error, a traceback, a log or a pickle."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import random
import string
import traceback
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen
from pointsman import Secret
from pointsman._written import Written
from pointsman.config import Settings, build, load
from pointsman.errors import ConfigError

#: Where a person may write a key: option -> a value that holds it.
PLACES: list[Any] = [
    lambda key: {"api_key": key},
    lambda key: {"access_token": key},
    lambda key: {"token": key},
    lambda key: {"headers": {"Authorization": f"Bearer {key}"}},
    lambda key: {"headers": {"X-Own": key, "X-Wrong": 5}},
    lambda key: {"api_key": [key]},
    lambda key: {"api_key": {"deep": key}},
    lambda key: {"password": key, "base_url": f"http://user:{key}@127.0.0.1"},
    lambda key: {"licence": key},
]


@frozen
class Guarded:
    """A plugin that refuses everything, and says what it was given."""

    def _refuse(self, _: Any, value: Any) -> None:
        raise ValueError(f"cannot use {value} of {self}")

    api_key: Secret | None = field(default=None, converter=Secret.of, validator=_refuse)
    access_token: str = field(default="", validator=_refuse)
    token: int = 0
    password: str = ""
    licence: Secret | None = None
    base_url: str = ""
    headers: dict[str, str] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        raise ValueError(f"password {self.password} does not open {self.base_url} {self.headers}")


def a_key(seed: int) -> str:
    """A key that looks like none, so that only knowing it can mask it."""
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=24))


def everything_shown(value: object) -> str:
    """All that a program could print of a value."""
    return f"{value!r} {value!s} {value:} {json.dumps(value, default=repr)}"


def everything_told(error: BaseException) -> str:
    """All that a program could print of an error, the local variables of our frames too."""
    frame = error.__traceback__
    assert frame is not None
    told = traceback.TracebackException(type(error), error, frame.tb_next, capture_locals=True)
    copied = pickle.loads(pickle.dumps(error))
    return "".join(told.format()) + everything_shown(error) + repr(error.__dict__) + repr(copied) + str(copied)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("through", ["file", "mapping", "variable"])
def test_settings_and_errors_show_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: Any, through: str
) -> None:
    """A key in any option, written in a file, a mapping or a variable, is in nothing that could be printed."""
    caplog.set_level(logging.DEBUG)
    key = a_key(PLACES.index(place))
    monkeypatch.setenv("THE_KEY", key)
    options = place("${THE_KEY}" if through == "variable" else key)
    whole: dict[str, Any] = {"BACKENDS": [{"id": "a", "type": "echo", "enabled": False, **options}]}
    whole["STORES"] = [{"id": "s", "type": "blocks", "enabled": False, **options}]
    whole["ROUTER"] = {"rate_limit_storage": f"redis://:{'${THE_KEY}' if through == 'variable' else key}@127.0.0.1"}
    source: Any = whole
    if through == "file":
        source = tmp_path / "p.json"
        source.write_text(json.dumps(whole))
    settings = load(source)
    (store,) = settings.stores
    assert key not in everything_shown(settings) + everything_shown(settings.backends[0]) + everything_shown(store)
    with pytest.raises(ConfigError) as refused:
        build(Guarded, Written(options), "STORES[0]")
    assert key not in everything_told(refused.value)
    whole["ROUTER"] = {"timeout": -1}
    if through == "file":
        source.write_text(json.dumps(whole))
    with pytest.raises(ConfigError) as wrong:
        load(source)
    assert key not in everything_told(wrong.value)
    assert key not in caplog.text


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle.dumps])
def test_settings_that_may_hold_keys_are_never_pickled(duplicate: Any) -> None:
    """A pickle would hold the keys; whoever needs the settings elsewhere loads them there."""
    with pytest.raises(TypeError, match="never pickled"):
        duplicate(Written({"id": "a", "type": "blocks", "password": "x"}))
    settings = load({"BACKENDS": [{"id": "a", "type": "openai", "model": "m", "api_key": a_key(3)}]})
    for held in (settings, settings.backends[0]):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(held)


def test_settings_without_entries_may_be_pickled() -> None:
    """There is nothing in them to hide."""
    settings = load({"ROUTER": {"timeout": 3}})
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert isinstance(settings, Settings)


@pytest.mark.parametrize("name", ["p.json", "p.toml"])
def test_a_file_that_cannot_be_parsed_shows_none_of_its_text(tmp_path: Path, name: str) -> None:
    """The parsers' own errors hold the whole file; ours has the place only."""
    key = a_key(99)
    (tmp_path / name).write_text(f'{{"api_key": "{key}" "oops"}}' if name == "p.json" else f'api_key = "{key}" oops')
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / name)
    assert key not in everything_told(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize("wrong", ["model", "max_tokens", "timeout", "priority", "enabled", "prices", "type"])
def test_a_key_at_the_wrong_option_is_masked_where_it_looks_like_one(wrong: str) -> None:
    """People paste keys into the wrong line: what begins as keys do is masked wherever it stands."""
    key = f"sk-proj-{a_key(7)}"
    with pytest.raises(ConfigError) as raised:
        load({"BACKENDS": [{"id": "a", "type": "echo", wrong: [key] if wrong == "model" else key, key: 1}]})
    assert key not in everything_told(raised.value)
