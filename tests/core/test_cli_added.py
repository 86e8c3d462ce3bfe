"""Commands that plugins add to the command line, and what becomes of those that do not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pointsman.cli import main

GOOD = """
import click
from pointsman import ConfigError, InvalidRequestError
from pointsman.cli import parts

@click.command()
@click.argument("name")
@parts.json_option
@parts.config_option
def count(name, as_json_, config_file):
    "Count the letters of NAME."
    if name == "wrong":
        raise ConfigError("NAME: found 'wrong', expected another")
    if name == "failed":
        raise InvalidRequestError("nothing is counted")
    with parts.router_of(config_file) as router:
        found = {"letters": len(name), "backends": len(router.backends)}
    parts.as_json(found) if as_json_ else parts.table(list(found), [found])
    return 0 if name else 1

@click.command()
@parts.config_option
def recount(config_file):
    "Count the stores."
    with parts.store_of(config_file) as store:
        parts.note(f"{len(store.stores)} store(s)")
    return 1
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command with a distribution on its path that has these entry points and this source."""

    def run(*arguments: str, code: str = GOOD, **entries: str) -> subprocess.CompletedProcess[str]:
        info = tmp_path / "site" / "pointsman_more-1.2.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pointsman-more\nVersion: 1.2\n")
        lines = [f"{name.replace('__', '.')} = pointsman_more:{one}" for name, one in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[pointsman.commands]", *lines]))
        (tmp_path / "site" / "pointsman_more.py").write_text(code)
        (tmp_path / "pointsman.json").write_text(
            '{"BACKENDS": [], "STORES": [{"id": "kept", "type": "blocks", "path": "kept"}]}'
        )
        path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONUTF8": "1", "PYTHONPATH": path}
        command = [sys.executable, "-m", "pointsman", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, timeout=60
        )
        assert "Traceback" not in done.stderr
        return done

    return run


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_plugin_adds_a_command(run: Run) -> None:
    """It is listed with its distribution, documents itself with the exit codes, and its result is the exit code."""
    assert "count     Added by pointsman-more." in run("--help", count="count").stdout
    told = run("count", "--help", count="count").stdout
    assert "Count the letters of NAME." in told
    assert "Exit codes:" in told
    done = run("count", "--json", "four", count="count")
    assert json.loads(done.stdout) == {"letters": 4, "backends": 0}
    assert run("count", "", count="count").returncode == 1
    assert "Missing argument 'NAME'" in run("count", count="count").stderr


def test_a_plugin_adds_a_command_to_a_group_of_ours(run: Run) -> None:
    """`store.recount` is `pointsman store recount`, and no command of another name."""
    assert "recount  Added by pointsman-more." in run("store", "--help", store__recount="recount").stdout
    done = run("store", "recount", store__recount="recount")
    assert (done.returncode, done.stderr) == (1, "1 store(s)\n")
    assert "recount" not in run("--help", store__recount="recount").stdout
    assert "No such command 'recount'" in run("recount", store__recount="recount").stderr


@pytest.mark.parametrize(("name", "code", "says"), [("wrong", 2, "expected another"), ("failed", 1, "is counted")])
def test_errors_of_an_added_command_are_messages(run: Run, name: str, code: int, says: str) -> None:
    """A `ConfigError` ends with 2, a `BackendError` with 1, as in our own commands."""
    done = run("count", name, count="count")
    assert done.returncode == code
    assert says in done.stderr


BAD = {
    "raises": ("tell", "raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "no module": ("tell", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "no command": ("tell", "def one(): ...", "the entry point gives a function, expected a click.Command"),
    "ours": ("generate", GOOD + "one = count", "the command 'generate' is Pointsman's own; give it another name"),
    "ours in a group": ("store__put", GOOD + "one = count", "the command 'store.put' is Pointsman's own"),
    "no group": ("shop__put", GOOD + "one = count", "'shop.put' names a group of commands that is not there: 'shop'"),
    "no group but a command": ("health__put", GOOD + "one = count", "a group of commands that is not there: 'health'"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_command_that_does_not_fit_is_quarantined(run: Run, how: str) -> None:
    """`pointsman plugins` says why; `--help` works as ever, and so does every command of ours."""
    name, code, says = BAD[how]
    assert run("--help", code=code, **{name: "one"}).returncode == 0
    done = run("plugins", "--json", code=code, **{name: "one"})
    found = {row["name"]: row for row in json.loads(done.stdout) if row["kind"] == "commands"}
    assert found[name.replace("__", ".")]["status"] == "quarantined"
    assert says in found[name.replace("__", ".")]["cause"]
    assert done.returncode == 1


def test_calling_a_broken_command_says_what_is_wrong(run: Run) -> None:
    """The message names the plugin, its distribution and the cause; the exit code is 2."""
    done = run("tell", code="raise RuntimeError('no luck')", tell="one")
    assert done.returncode == 2
    assert "plugin 'tell' (pointsman-more 1.2) is unfit: RuntimeError: no luck" in done.stderr


def test_a_command_of_ours_stays_ours(run: Run) -> None:
    """A plugin cannot take the place of `generate`."""
    assert "Answer PROMPT" in run("generate", "--help", code="raise RuntimeError('no luck')", generate="one").stdout


@pytest.mark.parametrize(
    ("project", "name"),
    [
        (project["project"]["name"], name)
        for file in sorted((Path(__file__).parents[2] / "plugins").glob("*/pyproject.toml"))
        for project in [tomllib.loads(file.read_text())]
        for name in project["project"].get("entry-points", {}).get("pointsman.commands", ())
    ],
)
def test_a_command_whose_plugin_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: str, name: str
) -> None:
    """Each command that a distribution of this project adds is known without it; the exit code is 2."""
    monkeypatch.setattr("pointsman.cli._added.entries_of", lambda groups: iter(()))
    assert main([*name.split("."), "--help"]) == 2
    words = name.replace(".", " ")
    assert capsys.readouterr().err == f"pointsman: the command {words!r} is not installed: pip install {project}\n"
