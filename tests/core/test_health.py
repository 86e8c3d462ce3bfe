"""Health: cached, refreshed off the path of calls, bounded in time; and the end of a router."""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from attrs import define, field
from pointsman import (
    AuthenticationError,
    Backend,
    BackendError,
    Completion,
    ConfigError,
    Health,
    Request,
    Router,
    hookimpl,
)
from pointsman import _health as health_module
from pointsman.errors import UnavailableError
from pointsman.testing import Scripted


@define(eq=False)
class Patient:
    """Says how it is by calling `tell`, and counts how often it was asked."""

    tell: Callable[[], Any] = Health.ok
    asked: int = 0
    closed: int = 0
    closing: Callable[[], object] = bool
    ever: threading.Event = field(factory=threading.Event)

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("well")

    @hookimpl
    def health(self) -> Any:
        self.asked += 1
        self.ever.set()
        return self.tell()

    @hookimpl
    def close(self) -> None:
        self.closed += 1
        self.closing()


@define
class Mute:
    """Has no `health`."""

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("yes")


def raising(error: BaseException) -> Callable[[], Any]:
    def tell() -> Any:
        raise error

    return tell


@pytest.mark.parametrize(
    ("tell", "status", "reason"),
    [
        (Health.ok, "healthy", ""),
        (lambda: Health.degraded("slow"), "degraded", "slow"),
        (lambda: Health.unavailable("no route"), "unavailable", "no route"),
        (lambda: Health.unconfigured("set SOME_KEY"), "unconfigured", "set SOME_KEY"),
        (raising(ValueError("no idea")), "unavailable", "health raised ValueError: no idea"),
        (raising(ValueError("sk-proj-abcdefghijklmnopqrst")), "unavailable", "health raised ValueError: ***"),
        (raising(SystemExit(2)), "unavailable", "health raised SystemExit: 2"),
        (lambda: True, "unavailable", "hook health returned bool, expected Health: the plugin is at fault"),
        (lambda: None, "unavailable", "hook health returned NoneType, expected Health: the plugin is at fault"),
    ],
)
def test_every_finding_is_told(tell: Callable[[], Any], status: str, reason: str) -> None:
    """Whatever a health hook does, the caller gets a status and a reason that a person can act on, and no key."""
    with Router({"a": Patient(tell), "mute": Mute()}) as router:
        found = router.health()
    assert found["a"].status == status
    assert found["a"].reason == reason
    assert found["mute"] == Health.ok()


@pytest.mark.parametrize(("refused", "error"), [(True, AuthenticationError), (False, BackendError)])
def test_a_key_that_health_found_refused_is_an_error_of_the_key(refused: bool, error: type[BackendError]) -> None:
    """Who asks after that gets the type of error that a call would have had; of all else only a general one."""
    finding = Health.unconfigured("no such key", refused=refused)
    with Router({"a": Patient(lambda: finding)}) as router:
        assert router.health() == {"a": finding}
        with pytest.raises(BackendError, match=r"^a: unconfigured: no such key") as caught:
            router.generate("hi")
    assert type(caught.value) is error


def test_a_missing_variable_is_a_reason() -> None:
    """A backend that the configuration could not complete is unconfigured, and its hook is not asked."""
    patient = Patient()
    with Router([Backend(patient, id="a", missing="OPENAI_API_KEY is not set")]) as router:
        assert router.health() == {"a": Health.unconfigured("OPENAI_API_KEY is not set")}
    assert patient.asked == 0


def test_a_hanging_hook_costs_its_bound_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks are asked side by side; one that hangs is given up, reported, and does not pile up threads."""
    monkeypatch.setattr(health_module, "LIMIT", 1.0)
    gate = threading.Event()
    hanging = {f"h{n}": Patient(lambda: gate.wait(30) and Health.ok()) for n in range(5)}
    everyone = hanging | {"well": Patient()}
    with Router(everyone, health_ttl=0.0) as router:
        started = monotonic()
        found = router.health()
        assert monotonic() - started < 4.5, "five hooks of half a minute each, asked side by side"
        assert {found[name].status for name in hanging} == {"unavailable"}
        assert "health did not answer within 1 s" in found["h0"].reason
        assert found["well"] == Health.ok()
        router.health()
        assert {patient.asked for patient in hanging.values()} == {1}, "one that is being asked is not asked again"
        assert router.generate("x").backend == "well"
        gate.set()
        for thread in [t for t in threading.enumerate() if t.name.startswith("health of")]:
            thread.join(10)
        assert router.health()["h0"] == Health.ok()


def test_a_finding_is_good_for_its_time() -> None:
    """Within `health_ttl` seconds nothing is asked again; afterwards it is."""
    fresh, stale = Patient(), Patient()
    with Router([fresh], health_ttl=60) as router:
        for _ in range(3):
            router.health()
    with Router([stale], health_ttl=0) as router:
        for _ in range(3):
            router.health()
    assert (fresh.asked, stale.asked) == (1, 3)


def test_no_call_waits_for_health() -> None:
    """A call never asks for health itself; an old finding is looked into beside it."""
    gate = threading.Event()
    patient = Patient()
    with Router([patient], health_ttl=0) as router:
        router.generate("x")
        assert patient.asked == 0, "nobody has wanted to know"
        router.health()
        patient.ever.clear()
        patient.tell = lambda: Health.unavailable("down") if gate.wait(30) else Health.ok()
        for _ in range(20):
            assert router.generate("x").text == "well"
        assert patient.ever.wait(10), "asked in the background"
        assert patient.asked == 2, "by one thread, not by a herd"
        gate.set()


def test_the_ill_are_left_out_and_the_answering_are_well() -> None:
    """A backend known to be unavailable is not asked while others are; if nobody else is left it may prove us wrong."""
    ill = Patient(lambda: Health.unavailable("down"))
    with Router({"ill": ill, "well": Patient()}) as router:
        router.health()
        assert router.generate("x").backend == "well"
    with Router({"ill": ill}) as router:
        assert not router.health()["ill"].usable
        assert router.generate("x").text == "well"
        assert router.health()["ill"] == Health.ok()


def test_the_unconfigured_are_never_asked() -> None:
    """What only a person can mend is not tried in despair."""
    with Router({"a": Patient(lambda: Health.unconfigured("set SOME_KEY"))}) as router:
        router.health()
        with pytest.raises(BackendError, match="a: unconfigured: set SOME_KEY"):
            router.generate("x")


def test_closing_releases_every_plugin_once(caplog: pytest.LogCaptureFixture) -> None:
    """`close` reaches every provider exactly once, whatever another one raises, and nothing works afterwards."""
    broken, well = Patient(closing=raising(OSError("stuck"))), Patient()
    router = Router({"broken": broken, "well": well, "mute": Mute()})
    with caplog.at_level(logging.WARNING, "pointsman"), router:
        router.generate("x")
    router.close()
    assert (broken.closed, well.closed) == (1, 1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "close failed" in line
    assert "stuck" in line
    for call in (router.generate, router.stream, router.order):
        with pytest.raises(ConfigError, match="this router is closed"):
            call("x")


def test_one_provider_may_serve_two_routers() -> None:
    """Cool-downs and health belong to a router, not to the provider: another one starts afresh."""
    provider = Scripted([UnavailableError("down", retry_same=False), "well"])
    with Router([provider]) as one, Router([provider]) as two:
        with pytest.raises(UnavailableError):
            one.generate("x")
        assert one.order()[0].reason.startswith("cooling down")
        assert two.generate("x").text == "well"
