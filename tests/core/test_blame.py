"""Whose fault it is, where a plugin returns what it must not: that plugin is quarantined, and no other."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from pointsman import Backend, BackendError, Chunk, Completion, ConfigError, Health, Request, Router, _health, hookimpl

_RELEASED = threading.Event()
PLUGINS = """
from attrs import frozen
from pointsman import Chunk, Completion, Health, hookimpl

@frozen
class Well:
    @hookimpl
    def generate(self, request): return Completion("well")
    @hookimpl
    def stream(self, request): yield Chunk("well", finish_reason="stop")

@frozen
class Exits(Well):
    def __attrs_post_init__(self): raise SystemExit(5)

@frozen
class Wrong:
    @hookimpl(wrapper=True)
    def generate(self, request):
        yield
        return "text"
    @hookimpl(wrapper=True)
    def stream(self, request):
        yield
        return ["text"]

@frozen
class Right:
    @hookimpl(wrapper=True)
    def generate(self, request): return (yield)
    @hookimpl(wrapper=True)
    def stream(self, request): return (yield)

@frozen
class Seven:
    @hookimpl
    def order(self, request, backends): return 7
"""
ENTRIES = """
[pointsman.providers]
blame-well = blame_plugins:Well
blame-exits = blame_plugins:Exits
[pointsman.middleware]
blame-wrong = blame_plugins:Wrong
blame-right = blame_plugins:Right
[pointsman.orders]
blame-seven = blame_plugins:Seven
"""


@pytest.fixture
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution whose plugins misbehave, on the path."""
    (tmp_path / "blame_plugins.py").write_text(PLUGINS)
    facts = tmp_path / "blame_plugins-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: blame-plugins\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("blame_plugins", None)


def quarantined(router: Router) -> list[tuple[str, str, str, str]]:
    """Name, distribution, version and cause of what is quarantined."""
    return [
        (one.name, one.distribution, one.version, one.cause) for one in router.plugins() if one.status == "quarantined"
    ]


def configured(**settings: Any) -> Router:
    """Two backends that are well."""
    backends = [{"id": name, "type": "blame-well"} for name in "ab"]
    return Router.from_config({"BACKENDS": backends, "ROUTER": settings})


def asked(router: Router, way: str) -> str:
    """The answer, whole or put together."""
    if way == "plain":
        return router.generate("?").text
    return "".join(chunk.text for chunk in router.stream("?"))


both_ways = pytest.mark.parametrize("way", ["plain", "streamed"])


@both_ways
@pytest.mark.usefixtures("_plugins")
def test_a_middleware_is_blamed_for_what_it_returns(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is named and quarantined; the provider and the other middleware are not, and no backend is left alone."""
    caplog.set_level(logging.WARNING, "pointsman")
    with configured(middleware=["blame-right", "blame-wrong", "blame-right"]) as router:
        for _ in range(2):
            with pytest.raises(BackendError, match="middleware blame-wrong is at fault"):
                asked(router, way)
        ((name, distribution, version, cause),) = quarantined(router)
        assert (name, distribution, version) == ("blame-wrong", "blame-plugins", "1.2")
        assert "returned str" in cause
        assert [place.position for place in router.order()] == [1, 2]
    assert caplog.text.count("quarantined") == 1


@frozen
class _Liar:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        return 7  # type: ignore[return-value] # the fault

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        return 7  # type: ignore[return-value] # the fault


@frozen
class _Through:
    @hookimpl(wrapper=True)
    def generate(self, request: Request) -> Generator[None, Completion, Completion]:
        return (yield)

    @hookimpl(wrapper=True)
    def stream(self, request: Request) -> Generator[None, Iterator[Chunk], Iterator[Chunk]]:
        return (yield)


@both_ways
def test_a_provider_is_blamed_where_middleware_is_around_it(way: str) -> None:
    """What wraps the provider passes its fault on, and is not blamed for it."""
    with (
        Router([Backend(_Liar(), id="liar")], middleware=[_Through()], max_retries=0) as router,
        pytest.raises(BackendError, match=r"returned int.*the plugin is at fault"),
    ):
        asked(router, way)


@pytest.mark.usefixtures("_plugins")
def test_an_order_that_is_none_is_reported_and_costs_no_answer() -> None:
    """The backends are asked by priority, and the order plugin is quarantined."""
    with configured(order="blame-seven") as router:
        assert router.generate("?").backend == "a"
        ((name, _, version, cause),) = quarantined(router)
        assert (name, version) == ("blame-seven", "1.2")
        assert "TypeError" in cause


@pytest.mark.usefixtures("_plugins")
def test_a_constructor_that_exits_ends_nothing() -> None:
    """`Router()` quarantines it; in a configuration it costs its own backend."""
    with Router() as router:
        assert "SystemExit" in {one[0]: one[3] for one in quarantined(router)}["blame-exits"]
        assert router.generate("?", backend="blame-well").text == "well"
    backends = [{"id": "a", "type": "blame-exits"}, {"id": "b", "type": "blame-well"}]
    with Router.from_config({"BACKENDS": backends}) as router:
        assert router.generate("?").backend == "b"
        assert router.health()["a"].reason == "it cannot be built: SystemExit: 5"


@frozen
class _Moody:
    @property
    def capabilities(self) -> frozenset[str]:
        raise RuntimeError("moody")

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("moody")


@frozen
class _Able:
    capabilities = frozenset({"schema"})

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("{}")


def test_attributes_that_raise_cost_no_other_backend() -> None:
    """What a provider cannot say of itself counts as not declared."""
    with Router([_Moody(), _Able()]) as router:
        assert router.generate("?").backend == "_moody"
        assert router.generate("?", schema={"type": "object"}).backend == "_able"


@frozen
class _Hangs:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("late")

    @hookimpl
    def health(self) -> Health:
        _RELEASED.wait(60)
        return Health.ok()


def test_health_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is quarantined by name, with the cause."""
    monkeypatch.setattr(_health, "LIMIT", 0.2)
    from pointsman._discovery import PROVIDERS, Catalogue, PluginInfo

    catalogue = Catalogue()
    catalogue.infos()
    assert catalogue._plugins is not None
    catalogue._plugins[PROVIDERS, "hangs"] = PluginInfo("hangs", PROVIDERS, "d", "3", "loaded")
    with Router([Backend(_Hangs(), type="hangs")], _catalogue=catalogue) as router:
        assert router.health()["hangs"].status == "unavailable"
        _RELEASED.set()
        assert [(name, version) for name, _, version, _ in quarantined(router)] == [("hangs", "3")]


def test_arguments_of_a_router_that_are_none() -> None:
    """Text for a list of middleware, a share below nothing, a configuration in the place of backends."""
    with pytest.raises(ConfigError, match="middleware: found text"):
        Router([_Able()], middleware="abc")
    with pytest.raises(ConfigError, match="weight: found -1"):
        Backend(_Able(), weight=-1)
    with pytest.raises(ConfigError, match="from_config"):
        Router({"BACKENDS": []})
