"""Distributions that are really installed, on a path of their own, for the tests of discovery."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

Install = Callable[..., Path]

HEADER = """\
from collections.abc import Iterator
from attrs import define, field, frozen
from pointsman import Chunk, Completion, Health, Request, hookimpl
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A function that installs a distribution: `install(name, plugins, code=..., group=..., version=...)`.

    `plugins` maps entry-point names to objects of its module, whose name is the distribution's with
    underscores and whose source is `code`. It returns the directory that stands for site-packages.
    """
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def put(
        name: str,
        plugins: Mapping[str, str],
        *,
        code: str | None = "",
        group: str = "pointsman.providers",
        version: str = "1.0",
    ) -> Path:
        module = name.replace("-", "_")
        if code is not None:
            (site / f"{module}.py").write_text(HEADER + dedent(code))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{plugin} = {module}:{attribute}" for plugin, attribute in plugins.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        return site

    yield put
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(site)):
            del sys.modules[module]
