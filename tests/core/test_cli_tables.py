"""What `health`, `order`, `plugins` and `config check` tell people, and programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pointsman.cli._output import _plain

CONFIG = """
[[BACKENDS]]
id = "main"
type = "openai"
model = "gpt-x"
api_key = "${NO_SUCH_KEY}"
priority = 10

[[BACKENDS]]
id = "spare"
type = "echo"
suffix = "!"
priority = 90

[[BACKENDS]]
id = "old"
type = "gemini"
enabled = false
"""


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, without any key in its environment."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "SYSTEMROOT", "LANG")}
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=kept | {"HOME": str(folder), "PYTHONUTF8": "1"} | more,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done


def test_a_row_is_a_line_whatever_its_cells_say() -> None:
    """What others say neither begins a line nor moves the cursor of whoever looks at it."""
    said = "no\nroute\r\x1b[2K\x85é\u2028"
    assert _plain(("store", "reason"), [{"store": "a", "reason": said}]).splitlines() == [
        "STORE  REASON",
        r"a      no route\r\x1b[2K\x85é\u2028",
    ]


def rows(text: str) -> list[list[str]]:
    """The lines of a table, cut where two spaces part them."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration of three backends."""
    (tmp_path / "pointsman.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def broken_plugin(tmp_path: Path) -> str:
    """A folder for PYTHONPATH with a plugin that fails to import."""
    site = tmp_path / "site"
    info = site / "pointsman_bad-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pointsman-bad\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[pointsman.providers]\nbad = pointsman_bad:Bad\n")
    (site / "pointsman_bad.py").write_text("raise RuntimeError('no luck')\n")
    return str(site)


def test_health_tells_each_backend_and_what_to_do(folder: Path) -> None:
    """A table with the reason; exit code 1, because one that is enabled cannot be used."""
    done = run(folder, "health")
    head, main, spare, old = rows(done.stdout)
    assert head == ["BACKEND", "TYPE", "MODEL", "STATUS", "REASON"]
    assert main[:4] == ["main", "openai", "gpt-x", "unconfigured"]
    assert "NO_SUCH_KEY" in main[4]
    assert spare == ["spare", "echo", "healthy"]
    assert old == ["old", "gemini", "disabled"]
    assert done.returncode == 1


def test_health_is_for_programs_too(folder: Path) -> None:
    """`--json` has the same facts, and the same exit code."""
    done = run(folder, "health", "--json")
    found = {one["backend"]: (one["status"], "NO_SUCH_KEY" in one["reason"]) for one in json.loads(done.stdout)}
    assert found == {"main": ("unconfigured", True), "spare": ("healthy", False), "old": ("disabled", False)}
    assert done.returncode == 1


def test_health_is_well_when_all_that_is_enabled_is(folder: Path) -> None:
    """Exit code 0 with every enabled backend usable, and without a configuration if any is."""
    (folder / "pointsman.toml").write_text(CONFIG.replace('type = "openai"', 'type = "openai"\nenabled = false'))
    assert run(folder, "health").returncode == 0
    (folder / "pointsman.toml").unlink()
    assert run(folder, "health").returncode == 0


def test_order_tells_each_place_and_why_others_are_left_out(folder: Path) -> None:
    """Those that would be asked come first, with their place; the others with the reason."""
    done = run(folder, "order", "any prompt")
    head, first, *others = rows(done.stdout)
    assert head == ["PLACE", "BACKEND", "TYPE", "MODEL", "WHY"]
    assert first == ["1", "spare", "echo", "priority 90"]
    assert [row[:2] for row in others] == [["-", "main"], ["-", "old"]]
    assert "NO_SUCH_KEY" in others[0][-1]
    assert "disabled" in others[1][-1]
    assert done.returncode == 0
    assert json.loads(run(folder, "order", "--json").stdout)[0] == {
        "place": 1,
        "backend": "spare",
        "type": "echo",
        "model": None,
        "why": "priority 90",
    }


def test_order_fails_where_nobody_could_be_asked(folder: Path) -> None:
    """Exit code 1, and every reason."""
    done = run(folder, "order", "--local-only")
    assert done.returncode == 1
    assert "local_only" in done.stdout


@pytest.mark.parametrize("command", ["order", "health"])
def test_where_there_is_no_backend_it_says_so(folder: Path, command: str) -> None:
    """An empty configuration is no empty table."""
    (folder / "none.json").write_text("{}")
    done = run(folder, command, "--config", "none.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no backend" in done.stderr


def test_plugins_lists_what_is_installed(tmp_path: Path) -> None:
    """Name, kind, distribution and version; ready means that it was imported and fits."""
    done = run(tmp_path, "plugins")
    table = rows(done.stdout)
    assert table[0] == ["NAME", "KIND", "DISTRIBUTION", "VERSION", "STATUS"]
    assert ["echo", "providers", "pointsman-echo", "0.1.0", "ready"] in table
    assert ["weighted", "orders", "pointsman", "0.1.0", "ready"] in table
    assert done.returncode == 0


def test_plugins_reports_a_broken_one_with_its_cause(tmp_path: Path, broken_plugin: str) -> None:
    """It is quarantined by name, distribution, version and cause; the others are listed as ever."""
    done = run(tmp_path, "plugins", "--json", PYTHONPATH=broken_plugin)
    by_name = {one["name"]: one for one in json.loads(done.stdout)}
    assert by_name["bad"] == {
        "name": "bad",
        "kind": "providers",
        "distribution": "pointsman-bad",
        "version": "1.2",
        "status": "quarantined",
        "cause": by_name["bad"]["cause"],
    }
    assert "no luck" in by_name["bad"]["cause"]
    assert by_name["echo"]["status"] == "ready"
    assert done.returncode == 1
    assert "no luck" in run(tmp_path, "plugins", PYTHONPATH=broken_plugin).stdout


def test_config_check_of_stores_does_not_miss_backends(tmp_path: Path) -> None:
    """A file of stores alone is whole; it is said where one sees how they are."""
    (tmp_path / "pointsman.toml").write_text('[[STORES]]\nid = "home"\ntype = "blocks"\npath = "home"\n')
    done = run(tmp_path, "config", "check")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "pointsman.toml: nothing to mend; 0 of 0 enabled backends can be asked",
        "`pointsman store status` says how its stores are: home",
    ]


def test_config_check_says_what_each_backend_is(folder: Path, broken_plugin: str) -> None:
    """Nothing to mend: exit code 0, although a variable is missing; 1 where a plugin is unfit."""
    done = run(folder, "config", "check")
    assert [row[:1] + row[-1:] for row in rows(done.stdout)[2:]] == [["spare", "ready"], ["old", "disabled"]]
    assert "NO_SUCH_KEY" in done.stdout
    assert done.stderr == "pointsman.toml: nothing to mend; 1 of 2 enabled backends can be asked\n"
    assert done.returncode == 0
    (folder / "bad.toml").write_text('[[BACKENDS]]\nid = "b"\ntype = "bad"\n')
    done = run(folder, "config", "check", "bad.toml", PYTHONPATH=broken_plugin)
    assert "no luck" in done.stdout
    assert done.returncode == 1


def test_config_check_sees_a_file_and_a_key_that_are_missing(folder: Path) -> None:
    """What a person must add is told without anything being asked: a model's file, a key."""
    (folder / "p.toml").write_text(
        '[[BACKENDS]]\nid = "gone"\ntype = "local"\nmodel_path = "gone.gguf"\n'
        '[[BACKENDS]]\nid = "keyless"\ntype = "openai"\nmodel = "m"\n'
        '[[BACKENDS]]\nid = "house"\ntype = "openai"\nbase_url = "http://127.0.0.1:9"\n'
    )
    done = run(folder, "config", "check", "--json", "p.toml")
    gone, keyless, house = json.loads(done.stdout)["backends"]
    assert (gone["status"], keyless["status"], house["status"]) == ("unconfigured", "unconfigured", "ready")
    assert "gone.gguf: no model file there" in gone["reason"]
    assert "OPENAI_API_KEY" in keyless["reason"]
    assert done.returncode == 0


def test_config_check_is_not_misled_by_a_rival(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A distribution that wants the name of another one's plugin is quarantined; the plugin of that name is ready."""
    place = tmp_path_factory.mktemp("rival")
    (place / "rival.py").write_text("raise ImportError('no luck')")
    facts = place / "rival-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[pointsman.providers]\necho = rival:Echo\n")
    done = run(folder, "config", "check", PYTHONPATH=str(place))
    assert [row[-1] for row in rows(done.stdout)[2:]] == ["ready", "disabled"]
    assert done.returncode == 0


def test_config_check_tells_everything_at_once(folder: Path) -> None:
    """Every problem is a line; programs get the list."""
    (folder / "p.json").write_text('{"BACKENDS": [{"id": "a", "type": "echo", "a": 1, "a": 2}, {"id": "a"}], "X": 1}')
    done = run(folder, "config", "check", "--json", "p.json")
    found = json.loads(done.stdout)
    assert found["file"] == "p.json"
    assert [line.split(":")[0] for line in found["problems"]] == [
        "BACKENDS[0].a",
        "BACKENDS[0].a",
        "BACKENDS[1].type",
        "BACKENDS[1].id",
        "X",
    ]
    assert all(line in done.stderr for line in found["problems"])
    assert done.returncode == 2


def test_the_configuration_is_found_in_the_documented_order(folder: Path) -> None:
    """--config, POINTSMAN_CONFIG, ./pointsman.json, ./pointsman.toml."""

    def backends(*arguments: str, **more: str) -> list[str]:
        return [one["backend"] for one in json.loads(run(folder, "order", "--json", *arguments, **more).stdout)]

    for name in ("option", "variable"):
        (folder / f"{name}.json").write_text(json.dumps({"BACKENDS": [{"id": name, "type": "echo"}]}))
    assert backends() == ["spare", "main", "old"]
    (folder / "pointsman.json").write_text('{"BACKENDS": [{"id": "json", "type": "echo"}]}')
    assert backends() == ["json"]
    assert backends(POINTSMAN_CONFIG="variable.json") == ["variable"]
    assert backends("--config", "option.json", POINTSMAN_CONFIG="variable.json") == ["option"]
    done = run(folder, "order", POINTSMAN_CONFIG="none.json")
    assert (done.returncode, done.stderr) == (2, "pointsman: POINTSMAN_CONFIG names none.json: no such file\n")
    (folder / "pointsman.json").unlink()
    (folder / "pointsman.toml").unlink()
    done = run(folder, "config", "check")
    assert done.returncode == 2
    assert "no configuration" in done.stderr


def test_attempts_are_shown_where_the_log_is_asked_for(folder: Path) -> None:
    """POINTSMAN_LOG=debug writes each attempt to stderr, and neither prompt nor answer."""
    done = run(folder, "generate", "secret words", POINTSMAN_LOG="debug")
    assert done.stdout == "secret words!\n"
    assert "attempt" in done.stderr
    assert "spare" in done.stderr
    assert "secret words" not in done.stderr
