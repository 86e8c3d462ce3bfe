"""Every way a plugin can be bad is a reported fact, and never a crash (FAULTS row 40)."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define, frozen
from pointsman import (
    Backend,
    BackendError,
    Chunk,
    Completion,
    ConfigError,
    PluginInfo,
    Request,
    Router,
    hookimpl,
)
from pointsman._discovery import GROUPS, MIDDLEWARE, ORDERS, PROVIDERS, STORES, Catalogue, check
from pointsman.testing import Scripted

Install = Callable[..., Path]

GOOD = """
@frozen
class Good:
    model: str = "good-model"

    @hookimpl
    def generate(self, request):
        return Completion("good")
"""

BAD = {
    "import error": (
        "import no_such_module_anywhere",
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    ),
    "raises at import": ("raise RuntimeError('kaputt')", "RuntimeError: kaputt"),
    "exits at import": ("raise SystemExit(3)", "SystemExit: 3"),
    "syntax error": ("def broken(:", "SyntaxError"),
    "shows a key": ("raise ValueError('sk-proj-abcdefghijklmnopqrstuvwxyz')", "ValueError: ***"),
    "missing module": (None, "ModuleNotFoundError: No module named 'pointsman_bad'"),
    "missing attribute": ("Other = 1", "AttributeError: module 'pointsman_bad' has no attribute 'Bad'"),
    "not a class": ("def Bad(): ...", "the entry point gives a function, expected a class"),
    "an instance": ("@frozen\nclass C: ...\nBad = C()", "the entry point gives a C, expected a class"),
    "not attrs": (
        "class Bad:\n  @hookimpl\n  def generate(self, request): ...",
        "pointsman_bad.Bad is not an attrs class; decorate it with @attrs.frozen",
    ),
    "no hook": (
        "@frozen\nclass Bad:\n  x: int = 0",
        "implements none of the hooks of pointsman.providers: expected generate or stream",
    ),
    "health only": (
        "@frozen\nclass Bad:\n  @hookimpl\n  def health(self): ...",
        "implements none of the hooks of pointsman.providers",
    ),
    "misspelled": (
        "@frozen\nclass Bad:\n  @hookimpl\n  def genrate(self, request): ...",
        "pointsman_bad.Bad.genrate is marked with @hookimpl, but there is no such hook; did you mean generate?",
    ),
    "unknown": (
        "@frozen\nclass Bad:\n  @hookimpl\n  def zzz(self): ...\n  @hookimpl\n  def generate(self, request): ...",
        "Bad.zzz is marked with @hookimpl, but there is no such hook; expected one of answered, close, ",
    ),
    "wrongly signed": (
        "@frozen\nclass Bad:\n  @hookimpl\n  def generate(self, prompt): ...",
        "Bad.generate takes (self, prompt), expected (self, request)",
    ),
    "wrongly signed health": (
        "@frozen\nclass Bad:\n  @hookimpl\n  def generate(self): ...\n  @hookimpl\n  def health(self, request): ...",
        "Bad.health takes (self, request), expected (self)",
    ),
    "unmarked": (
        "@frozen\nclass Bad:\n  def generate(self, request): ...",
        "pointsman_bad.Bad.generate is not marked with @hookimpl",
    ),
    "unmarked second": (
        "@frozen\nclass Bad:\n  @hookimpl\n  def generate(self, request): ...\n  def stream(self, request): ...",
        "pointsman_bad.Bad.stream is not marked with @hookimpl",
    ),
    "a wrapper": (
        "@frozen\nclass Bad:\n  @hookimpl(wrapper=True)\n  def generate(self, request):\n    return (yield)",
        "pointsman_bad.Bad.generate is a wrapper; only a middleware wraps",
    ),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_plugin_is_quarantined(how: str, install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """A bad plugin is named with its distribution, version and cause, once in the log; all others work."""
    code, cause = BAD[how]
    install("pointsman-bad", {"bad": "Bad"}, code=code, version="0.3")
    install("pointsman-good", {"good": "Good"}, code=GOOD, version="2.1")
    catalogue = Catalogue()
    with caplog.at_level(logging.WARNING, "pointsman"):
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"plugin 'bad' \(pointsman-bad 0\.3\)"):
                catalogue.load(PROVIDERS, "bad")
    found = {info.name: info for info in catalogue.infos()}
    assert (found["bad"].status, found["bad"].distribution, found["bad"].version) == (
        "quarantined",
        "pointsman-bad",
        "0.3",
    )
    assert cause in found["bad"].cause
    assert "bad" not in catalogue.names(PROVIDERS)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert all(f"'{word}'" in lines[0] for word in ("bad", "pointsman-bad", "0.3"))
    assert catalogue.load(PROVIDERS, "good")().model == "good-model"
    assert catalogue.infos() == tuple(sorted(catalogue.infos(), key=lambda i: (i.group, i.name)))


def test_a_router_lives_among_bad_plugins(install: Install) -> None:
    """`Router()` answers with what works, and `plugins()` tells of all the rest."""
    for number, (code, _) in enumerate(BAD.values()):
        name = f"pointsman-bad{number}"
        install(name, {f"bad{number}": "Bad"}, code=code)
    install("pointsman-good", {"good": "Good"}, code=GOOD)
    with Router() as router:
        status = {info.name: info.status for info in router.plugins()}
        assert {status[f"bad{number}"] for number in range(len(BAD))} == {"quarantined"}
        assert (status["good"], status["priority"], status["weighted"]) == ("loaded", "loaded", "available")
        assert router.generate("hi", backend="good").text == "good"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[pointsman.providers]\nbad\n", ""),
        ("[pointsman.providers]\nbad = not a reference!\n", "bad"),
        ("[pointsman.providers]\nbad =\n", "bad"),
        ("bad = x:y\n[pointsman.providers\nworse", ""),
        ("\x00\xff", ""),
    ],
)
def test_broken_metadata_costs_only_its_own_distribution(install: Install, text: str, cause: str) -> None:
    """A distribution whose list of entry points is broken does not hide the plugins of others."""
    site = install("pointsman-good", {"good": "Good"}, code=GOOD)
    info = install("pointsman-bad", {}) / "pointsman_bad-1.0.dist-info"
    (info / "entry_points.txt").write_text(text, encoding="latin-1")
    (site / "half_removed-1.0.dist-info").mkdir()
    catalogue = Catalogue()
    with suppress(ConfigError):
        catalogue.load(PROVIDERS, "bad")
    assert catalogue.load(PROVIDERS, "good")().model == "good-model"
    status = {i.name: i.status for i in catalogue.infos() if i.group == PROVIDERS}
    assert status["good"] == "loaded"
    assert status.get("bad", "quarantined") == "quarantined"
    if cause:
        assert status["bad"] == "quarantined"


def test_a_distribution_without_a_name_is_still_reported(install: Install) -> None:
    """Metadata without name and version is no reason to fall over."""
    site = install("pointsman-odd", {"odd": "Odd"}, code="Odd = 1")
    (site / "pointsman_odd-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    catalogue = Catalogue()
    with pytest.raises(ConfigError, match=r"plugin 'odd' \(unknown \?\) is unfit"):
        catalogue.load(PROVIDERS, "odd")
    found = {info.name: info for info in catalogue.infos()}
    assert found["odd"].status == "quarantined"


def test_two_distributions_with_one_name(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """The distribution that is called after the plugin owns the name; the other is quarantined and told whose it is."""
    install("aaa-squatter", {"good": "Good"}, code=GOOD.replace('"good"', '"squatter"'), version="9.9")
    install("pointsman-good", {"good": "Good"}, code=GOOD)
    with caplog.at_level(logging.WARNING, "pointsman"):
        catalogue = Catalogue()
        rivals = {info.distribution: info for info in catalogue.infos() if info.name == "good"}
    assert rivals["pointsman-good"].status == "available"
    assert rivals["aaa-squatter"].status == "quarantined"
    assert rivals["aaa-squatter"].cause == "the name 'good' belongs to pointsman-good 1.0; uninstall one of them"
    assert ["aaa-squatter" in record.getMessage() for record in caplog.records] == [True]
    assert catalogue.load(PROVIDERS, "good").__module__ == "pointsman_good"
    assert len(catalogue.infos()) == len(set(catalogue.infos()))


def test_a_name_that_is_not_installed(install: Install) -> None:
    """A misspelt name is answered with the nearest one, an odd one with all there are."""
    install("pointsman-good", {"good": "Good"}, code=GOOD)
    catalogue = Catalogue()
    with pytest.raises(ConfigError, match=r"no plugin 'goood' in pointsman\.providers; did you mean 'good'"):
        catalogue.load(PROVIDERS, "goood")
    with pytest.raises(ConfigError, match=r"expected one of .*'good'"):
        catalogue.load(PROVIDERS, "qqqqqq")
    with pytest.raises(
        ConfigError, match=r"no plugin 'alphabetical' in pointsman\.orders; expected one of 'priority', 'weighted'"
    ):
        Router([Scripted()], order="alphabetical")


def test_nothing_is_imported_that_is_not_named(install: Install) -> None:
    """Listing the plugins, and using one of them, imports no other one."""
    site = install("pointsman-bomb", {"bomb": "Bomb"}, code="raise SystemExit('imported')")
    install("pointsman-good", {"good": "Good"}, code=GOOD)
    code = """
import sys, json
from pointsman import Router
from pointsman._discovery import Catalogue
listed = [info.status for info in Catalogue().infos() if info.name == "bomb"]
before = sorted(m for m in sys.modules if m.startswith("pointsman_"))
router = Router.from_config({"BACKENDS": [{"id": "x", "type": "good"}]})
assert router.generate("hi").text == "good"
print(json.dumps([listed, before, sorted(m for m in sys.modules if m.startswith("pointsman_"))]))
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [["available"], [], ["pointsman_good"]]


def test_a_plugin_may_be_told_its_options_only_by_a_configuration(install: Install) -> None:
    """A provider that cannot be built without options is fit, and simply not part of `Router()`."""
    code = "@frozen\nclass Needs:\n  url: str\n  @hookimpl\n  def generate(self, request): return Completion(self.url)"
    install("pointsman-needs", {"needs": "Needs"}, code=code)
    with Router() as router:
        assert "needs" not in {backend.type for backend in router.backends}
        assert {info.status for info in router.plugins() if info.name == "needs"} == {"loaded"}


def test_a_plugin_that_fails_while_it_is_built_costs_only_itself(install: Install) -> None:
    """What a constructor raises is reported, and does not end `Router()`."""
    code = "@frozen\nclass Bad:\n  @hookimpl\n  def generate(self, request): ...\n"
    code += "  def __attrs_post_init__(self): raise OSError('no such program')"
    install("pointsman-bad", {"bad": "Bad"}, code=code)
    install("pointsman-good", {"good": "Good"}, code=GOOD)
    with Router() as router:
        assert router.generate("hi", backend="good").text == "good"
        (info,) = (info for info in router.plugins() if info.name == "bad")
    assert (info.status, info.cause) == ("quarantined", "it cannot be built: OSError: no such program")


# -- plugins that fit, and do something else than they promise ----------------------------------------


@define
class Returns:
    """Returns whatever it was given, from every hook."""

    what: Any
    model: str | None = None

    @hookimpl
    def generate(self, request: Request) -> Any:
        return self.what

    @hookimpl
    def stream(self, request: Request) -> Any:
        return self.what

    @hookimpl
    def health(self) -> Any:
        return self.what


@pytest.mark.parametrize("what", ["text", None, 42, {"text": "x"}, Chunk("x")], ids=repr)
def test_a_hook_that_returns_the_wrong_type(what: Any) -> None:
    """What is not of the promised type is the plugin's fault, the next answers, and it is left alone for long."""
    bad = Backend(Returns(what), id="bad")
    with Router([bad, Scripted("yes")]) as router:
        assert router.generate("hi").text == "yes"
        assert "".join(chunk.text for chunk in router.stream("hi")) == "yes"
        assert f"returned {type(what).__name__}, expected" in router.health()["bad"].reason
    with Router([bad]) as router:
        with pytest.raises(BackendError, match=f"hook generate returned {type(what).__name__}, expected Completion"):
            router.generate("hi")
        with pytest.raises(BackendError) as caught:
            list(router.stream("hi"))
        assert (caught.value.retry_after or 0) > 3000


def test_an_installed_plugin_that_lies_is_quarantined(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """A plugin whose hook returns the wrong type is reported like one that cannot be loaded."""
    install(
        "pointsman-liar", {"liar": "Liar"}, code=GOOD.replace("Good", "Liar").replace('Completion("good")', '"good"')
    )
    with Router.from_config({"BACKENDS": [{"id": "l", "type": "liar"}]}) as router:
        with caplog.at_level(logging.WARNING, "pointsman"), pytest.raises(BackendError):
            router.generate("hi")
        (info,) = [info for info in router.plugins() if info.name == "liar"]
    assert (info.status, info.distribution) == ("quarantined", "pointsman-liar")
    assert "hook generate returned str, expected Completion" in info.cause
    assert sum("plugin quarantined" in record.getMessage() for record in caplog.records) == 1


def test_the_fault_of_a_class_is_not_told_of_a_plugin_that_has_its_name(install: Install) -> None:
    """An instance that a program gives is not the installed plugin, whatever the name of its class is."""
    install("pointsman-returns", {"returns": "Good"}, code=GOOD)
    with Router([Returns("text"), Scripted("yes")]) as router:
        assert router.backends[0].type == "returns"
        assert router.generate("hi").text == "yes"
        assert {info.status for info in router.plugins() if info.name == "returns"} == {"available"}


def test_a_wrapper_yields(install: Install) -> None:
    """A wrapper that is no generator would wrap nothing: it is told so where it is looked at."""
    code = "@frozen\nclass Bad:\n  @hookimpl(wrapper=True)\n  def generate(self, request): ..."
    install("pointsman-bad", {"bad": "Bad"}, code=code, group=MIDDLEWARE)
    with pytest.raises(ConfigError, match=r"pointsman_bad\.Bad\.generate is a wrapper without a yield"):
        Catalogue().load(MIDDLEWARE, "bad")


def test_a_wrapper_is_of_the_new_form(install: Install) -> None:
    """Of pluggy's two forms of wrappers, one: what it returns is looked at."""
    code = "@frozen\nclass Bad:\n  @hookimpl(hookwrapper=True)\n  def generate(self, request): yield"
    install("pointsman-bad", {"bad": "Bad"}, code=code, group=MIDDLEWARE)
    with pytest.raises(ConfigError, match="write @hookimpl"):
        Catalogue().load(MIDDLEWARE, "bad")


# -- what fits ----------------------------------------------------------------------------------------


@frozen
class Less:
    """Takes fewer arguments than the hook offers, as pluggy allows."""

    @hookimpl
    def generate(self) -> Completion:
        return Completion("no need to know")


def test_a_hook_may_take_fewer_arguments() -> None:
    """An implementation names only the arguments that it needs."""
    with Router([Less()]) as router:
        assert router.generate("hi").text == "no need to know"


@frozen
class Base:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("inherited")


@frozen
class Child(Base):
    extra: int = 0


def test_hooks_may_be_inherited_and_providers_may_be_equal() -> None:
    """A subclass has its parent's hooks, and two equal providers are still two backends."""
    with Router({"one": Child(), "two": Child()}) as router:
        assert router.generate("x", backend="two").backend == "two"
        assert router.generate("x").text == "inherited"


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_asks_for_its_own_hooks(group: str) -> None:
    """A provider is no order, no store and no observer: what is missing is named."""

    @frozen
    class Nothing:
        pass

    with pytest.raises(ConfigError, match=f"implements none of the hooks of {group}: expected {GROUPS[group][0]}"):
        check(Nothing, group)


def test_hooks_stand_in_the_specification() -> None:
    """The hooks that groups ask for are all specified, each with a docstring that says when and what."""
    from pointsman import hookspecs

    for hooks in GROUPS.values():
        for hook in hooks:
            assert len((getattr(hookspecs, hook).__doc__ or "").split()) > 15
    assert tuple(GROUPS) == (PROVIDERS, STORES, ORDERS, MIDDLEWARE)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Scripted(), "backends: found Scripted, expected a list of backends or a mapping of ids"),
        ("openai", "backends: found str, expected a list"),
        (["openai"], r"backends\[0\]: found str, expected a Backend or a provider; Router.from_config"),
        ([Scripted(), {"type": "openai"}], r"backends\[1\]: found dict, expected a Backend or a provider"),
        ([3], r"backends\[0\]: found int, expected a Backend or a provider"),
        ([Scripted], r"backends\[0\]: found the class Scripted, expected a Backend or a provider"),
        ([object()], "builtins.object is not an attrs class"),
        ([Scripted(), Scripted()], "two backends have the id 'scripted'; give each its own"),
    ],
)
def test_backends_that_are_none_are_refused(given: Any, says: str) -> None:
    """Whatever cannot be a backend is refused when the router is made, with what to write instead."""
    with pytest.raises(ConfigError, match=says):
        Router(given)


def test_a_mapping_names_its_backends() -> None:
    """The key of a mapping is the id, for bare providers and for `Backend` values; what was given stays as it was."""
    backend = Backend(Scripted(), id="mine", priority=1)
    with Router({"first": Scripted(), "second": backend}) as router:
        assert [b.id for b in router.backends] == ["first", "second"]
    assert backend.id == "mine"


def test_a_router_without_backends_says_what_to_do() -> None:
    """No backend at all is told as a matter of configuration."""
    with Router([]) as router, pytest.raises(ConfigError, match="no backend is configured"):
        router.generate("hi")


def test_infos_are_values() -> None:
    """What `plugins()` returns can be compared and shown, and holds nothing of the importing machinery."""
    info = PluginInfo("x", PROVIDERS, "pointsman-x", "1")
    assert info == PluginInfo("x", PROVIDERS, "pointsman-x", "1")
    assert "entry" not in repr(info)


def test_many_threads_find_a_plugin_once(install: Install) -> None:
    """Loading from many threads at once imports and reports once."""
    install("pointsman-good", {"good": "Good"}, code=GOOD)
    catalogue, found = Catalogue(), []
    threads = [threading.Thread(target=lambda: found.append(catalogue.load(PROVIDERS, "good"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
