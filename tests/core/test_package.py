"""The shape of the project: what importing costs, which names are public, how large things may be."""

import ast
import io
import json
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pointsman
import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "pointsman"
PUBLISHED = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())
PLUGINS = [path for path in PUBLISHED if path.name.endswith("_plugin")]  # the others are what plugins share
MEMBERS = [ROOT / "core", ROOT / "backends", *PUBLISHED, ROOT / "examples" / "echo_plugin"]
SOURCES = sorted(path for member in MEMBERS for path in member.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project(member: Path) -> dict[str, Any]:
    return tomllib.loads((member / "pyproject.toml").read_text(encoding="utf-8"))


def modules_after(code: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter holds after running this."""
    code = f"import sys\n{code}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout))


# -- what importing costs -----------------------------------------------------------------------------

HEAVY = {"requests", "urllib3", "click", "rich", "structlog", "cattrs", "llama_cpp", "xllamacpp", "numpy", "openai"}


def test_importing_the_package_loads_nothing_of_weight() -> None:
    """`import pointsman` loads no library, no plugin, and no module of its own: names are loaded when used."""
    loaded = modules_after("import pointsman")
    assert not {name.partition(".")[0] for name in loaded} & {*HEAVY, "attrs", "attr", "pluggy", "asyncio"}
    assert {name for name in loaded if name.startswith("pointsman")} == {"pointsman"}


def test_importing_every_public_name_loads_no_client_and_no_plugin() -> None:
    """Even with all public names in hand, no HTTP client, no command line, no renderer and no plugin is there."""
    loaded = modules_after("from pointsman import *")
    assert not {name.partition(".")[0] for name in loaded} & (HEAVY | {"asyncio", "backends", "_pytest"})
    assert not {name for name in loaded if name.startswith("pointsman_")}
    assert "pointsman.http" not in loaded
    assert "pointsman.config" not in loaded


def test_an_answer_needs_neither_a_client_nor_a_renderer() -> None:
    """A routed call of a provider in memory loads nothing but the core."""
    loaded = modules_after(
        "from attrs import frozen\n"
        "from pointsman import Completion, Router, hookimpl\n"
        "@frozen\nclass P:\n    @hookimpl\n    def generate(self, request): return Completion('x')\n"
        "with Router([P()]) as router: router.generate('hi')"
    )
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def test_importing_starts_nothing() -> None:
    """No module of the core starts a thread, opens a connection or writes when it is imported."""
    code = """
import importlib, pkgutil, sys, threading
def watch(event, args):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork") or (
        event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")):
        raise RuntimeError((event, args))
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import pointsman
for module in pkgutil.iter_modules(pointsman.__path__):
    if module.name != "__main__":
        importlib.import_module(f"pointsman.{module.name}")
assert threading.active_count() == 1, threading.enumerate()
"""
    modules_after(code)


# -- which names are public ---------------------------------------------------------------------------


def test_every_public_name_has_its_type() -> None:
    """The names that the package gives out are those that type checkers know, and each one is there."""
    stub = parsed(CORE / "__init__.pyi")
    typed = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    public = vars(pointsman)["__all__"]
    assert typed == set(public)
    for name in public:
        value = getattr(pointsman, name)
        assert getattr(value, "__module__", "pointsman").startswith(("pointsman", "pluggy"))
    assert set(public) <= set(dir(pointsman))
    with pytest.raises(AttributeError, match="module 'pointsman' has no attribute 'Ruter'"):
        _ = pointsman.Ruter  # type: ignore[attr-defined] # which is the point


def test_the_version_is_that_of_the_distribution() -> None:
    """`pointsman.__version__` is what pip shows."""
    assert pointsman.__version__ == project(ROOT / "core")["project"]["version"]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_one_name_four_spellings(plugin: Path) -> None:
    """Type `x` = folder `x_plugin` = distribution `pointsman-x` = package `pointsman_x` = entry point `x`.

    A distribution of stores has several, which share their code: it is named after that, each store after its kind.
    """
    described = project(plugin)["project"]
    name = plugin.name.removesuffix("_plugin")
    assert plugin.name == f"{name}_plugin"
    assert described["name"] == f"pointsman-{name.replace('_', '-')}"
    package = plugin / f"pointsman_{name}"
    assert (package / "__init__.py").exists()
    assert (package / "py.typed").exists()
    points = {
        point: where
        for group, points in described["entry-points"].items()
        if group.startswith("pointsman.")
        for point, where in points.items()
    }
    assert name in points or "pointsman.stores" in described["entry-points"]
    assert all(where.startswith((f"pointsman_{name}:", f"pointsman_{name}.")) for where in points.values())


@pytest.mark.parametrize("member", MEMBERS, ids=short)
def test_distributions_are_alike(member: Path) -> None:
    """Every distribution runs on 3.11, is typed, and its own pyproject stays a page."""
    described = project(member)["project"]
    assert described["requires-python"] == ">=3.11"
    assert "Typing :: Typed" in described["classifiers"]
    packages = project(member)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert all((member / package / "py.typed").exists() for package in packages)
    assert len((member / "pyproject.toml").read_text().splitlines()) <= 40


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every absolute import in a file."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.name != "core"], ids=short)
def test_plugins_use_the_contract_only(member: Path) -> None:
    """A plain name of the core is contract, as is its version; others import nothing else with an underscore of it."""
    wrong = [
        f"{short(path)}: {module}.{name}"
        for path in member.rglob("*.py")
        for module, name in imported(path)
        if module.partition(".")[0] == "pointsman"
        and any(part.startswith("_") for part in [*module.split("."), name] if part != "__version__")
    ]
    assert wrong == []


def test_the_core_knows_no_provider() -> None:
    """The core imports no plugin, and cannot: they come through entry points."""
    wrong = [
        f"{short(path)}: {module}"
        for path in CORE.rglob("*.py")
        for module, _ in imported(path)
        if module.startswith(("pointsman_", "backends", "mediator"))
    ]
    assert wrong == []


# -- how large things may be --------------------------------------------------------------------------


def code_lines(path: Path) -> int:
    """Count the lines that hold code: not blank, not only a comment, not part of a docstring."""
    text = path.read_text(encoding="utf-8")
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            documented.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    coded: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            coded.update(range(token.start[0], token.end[0] + 1))
    return len(coded - documented)


def test_the_core_stays_small() -> None:
    """The core has at most 6,244 lines of code, without testing/ and cli/; a larger number wants a reason.

    4,300 of them ask models; the rest is `Store`: its loop, its outbox, the streams that its hooks move, which
    go on in another store where one breaks; what is given to it is looked at; stores that fail oddly; and, for plugins
    too, what holds locks, connections or calls when a process forks.
    """
    files = [path for path in CORE.rglob("*.py") if not {"testing", "cli"} & set(path.relative_to(CORE).parts)]
    sizes = {path.name: code_lines(path) for path in files}
    assert sum(sizes.values()) <= 6244, sizes


@pytest.mark.parametrize(("paths", "limit"), [(SOURCES, 400), (TESTS, 600)], ids=["sources", "tests"])
def test_no_file_is_long(paths: list[Path], limit: int) -> None:
    """No source file has more than 400 lines in all, no test file more than 600."""
    sizes = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {path: size for path, size in sizes.items() if size > limit} == {}


def test_no_function_is_long() -> None:
    """No function of the product has more than fifty lines."""
    long = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 50
    ]
    assert long == []


def test_every_test_states_its_rule() -> None:
    """Each test function says in a docstring which rule it checks."""
    silent = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path in TESTS
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []
