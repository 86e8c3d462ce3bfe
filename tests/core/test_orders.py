"""Who is asked, in which order, and why the others are not."""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attrs import define, field, frozen
from pointsman import Backend, Completion, Health, Image, Message, Request, Router, hookimpl
from pointsman.errors import AllBackendsFailed, BackendError, ConfigError, QuotaError, UnavailableError
from pointsman.testing import Scripted


def ids(router: Router, **options: Any) -> list[str]:
    """Return the ids in the order in which they would be asked."""
    return [place.backend.id for place in router.order("hi", **options) if place.position]


def reasons(router: Router, **options: Any) -> dict[str, str]:
    """Return why each of the others is left out."""
    return {place.backend.id: place.reason for place in router.order("hi", **options) if place.position is None}


def many(*priorities: float, **settings: Any) -> Router:
    return Router([Backend(Scripted(), id=f"b{n}", priority=p) for n, p in enumerate(priorities)], **settings)


def test_lower_priority_numbers_are_asked_first() -> None:
    """Backends are sorted by priority, and equals stay in the order of the configuration."""
    with many(30, 10, 20, 10) as router:
        assert ids(router) == ["b1", "b3", "b2", "b0"]
        assert [place.position for place in router.order()] == [1, 2, 3, 4]
        assert router.order()[0].reason == "priority 10"


def test_bare_providers_are_asked_as_they_stand() -> None:
    """Providers without a word about priority come in the order in which they were given."""
    with Router({"z": Scripted(), "a": Scripted(), "m": Scripted()}) as router:
        assert ids(router) == ["z", "a", "m"]
        assert router.generate("hi").backend == "z"


def test_weights_share_the_calls() -> None:
    """Among equals of priority each comes first as often as its weight says; weight 0 only after its equals."""
    weights = {"heavy": 3.0, "light": 1.0, "none": 0.0}
    backends = [Backend(Scripted(), id=name, weight=weight) for name, weight in weights.items()]
    backends += [Backend(Scripted(), id="last", priority=200, weight=99.0)]
    with Router(backends, order="weighted") as router:
        orders = [ids(router) for _ in range(2000)]
    first = Counter(order[0] for order in orders)
    assert set(first) == {"heavy", "light"}
    assert 1400 < first["heavy"] < 1600, "five standard deviations around 1500"
    assert {tuple(order[2:]) for order in orders} == {("none", "last")}


@frozen
class Backwards:
    """The last backend first."""

    @hookimpl
    def order(self, backends: Sequence[Backend]) -> Any:
        return reversed(backends)  # an iterator will do, and so will fewer arguments


@frozen
class ByRequest:
    """What the request says."""

    @hookimpl
    def order(self, request: Request, backends: Sequence[Backend]) -> Sequence[Backend]:
        return [b for b in backends if b.id in request.extra["only"]] * 2


def test_an_order_may_be_any_plugin() -> None:
    """The order is a plugin like any other: an instance decides for each request, and may leave some out."""
    with many(1, 2, 3, order=Backwards()) as router:
        assert ids(router) == ["b2", "b1", "b0"]
    with many(1, 2, 3, order=ByRequest()) as router:
        assert ids(router, extra={"only": ["b2", "b1"]}) == ["b1", "b2"], "each is asked once"
        assert reasons(router, extra={"only": ["b2", "b1"]}) == {"b0": "left out by the order plugin"}
        with pytest.raises(AllBackendsFailed, match="b0: left out by the order plugin; b1: left out"):
            router.generate("hi", extra={"only": []})


def test_an_order_may_be_named_in_the_configuration(install: Any) -> None:
    """An installed order is chosen by its name, in a configuration as in Python."""
    code = """
        @frozen
        class Last:
            @hookimpl
            def order(self, request, backends):
                return list(backends)[::-1]
        """
    install("pointsman-last", {"last": "Last"}, code=code, group="pointsman.orders")
    install("pointsman-good", {"good": "Good"}, code="@frozen\nclass Good:\n  @hookimpl\n  def generate(self): ...")
    backends = [{"id": "one", "type": "good"}, {"id": "two", "type": "good"}]
    with Router.from_config({"BACKENDS": backends, "ROUTER": {"order": "last"}}) as router:
        assert ids(router) == ["two", "one"]
    with Router([Scripted()], order="last") as router:
        assert ids(router) == ["scripted"]


@frozen
class Broken:
    """Does what it was told instead of ordering."""

    result: Any = None

    @hookimpl
    def order(self, request: Request, backends: Sequence[Backend]) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize("result", [ValueError("no idea"), None, 5, ["b0"], [Backend(Scripted())], {"b0": 1}], ids=repr)
def test_a_broken_order_does_not_cost_the_answer(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An order plugin that raises, or returns what is none, is reported, and priority takes its place."""
    with many(20, 10, order=Broken(result)) as router, caplog.at_level(logging.WARNING, "pointsman"):
        assert router.generate("hi").backend == "b1"
    said = [record.getMessage().split(" error=")[0] for record in caplog.records]
    assert said == ["event='order failed' plugin='Broken'"]


@pytest.mark.parametrize("order", [Scripted(), object(), "qqq", 5])
def test_an_order_that_is_none_is_refused(order: Any) -> None:
    """What cannot order is refused when the router is made."""
    with pytest.raises(ConfigError):
        Router([Scripted()], order=order)


# -- the gate ------------------------------------------------------------------------------------------


def test_every_reason_is_told() -> None:
    """`Router.order` says of each backend why it is left out, and a call goes only to those that are not."""
    backends = [
        Backend(Scripted(), id="off", enabled=False),
        Backend(Scripted(), id="missing", missing="OPENAI_API_KEY is not set"),
        Backend(Scripted(capabilities=frozenset({"tools"})), id="plain"),
        Backend(Scripted(local=False), id="far"),
        Backend(Scripted(healthy=Health.unavailable("no route to it")), id="ill"),
        Backend(Scripted(healthy=Health.unconfigured("no key: set SOME_KEY")), id="keyless"),
        Backend(Scripted(QuotaError("no money left")), id="poor", priority=1),
        Backend(Scripted(healthy=Health.degraded("slow today")), id="slow"),
        Backend(Scripted('"yes"'), id="well"),
    ]
    with Router(backends) as router:
        router.health()
        with pytest.raises(QuotaError):
            router.generate("hi", backend="poor")
        told = reasons(router, schema={}, local_only=True)
        assert told.pop("poor").startswith("cooling down for 3")
        assert told == {
            "off": "disabled in the configuration",
            "missing": "unconfigured: OPENAI_API_KEY is not set",
            "plain": "not capable of schema",
            "far": "local_only: it sends requests off this machine",
            "ill": "unavailable: no route to it; asked if all others fail",
            "keyless": "unconfigured: no key: set SOME_KEY",
        }
        assert ids(router, schema={}, local_only=True) == ["slow", "well"]
        assert router.generate("hi", schema={}, local_only=True, backend="well").backend == "well"


def test_the_reason_is_the_error_of_a_call_that_nobody_can_serve() -> None:
    """A call that goes nowhere says why, for each backend, as the drawn-up order does."""
    off = Backend(Scripted(), id="off", enabled=False)
    with Router([off]) as router, pytest.raises(BackendError, match=r"^off: disabled in the configuration$"):
        router.generate("hi")
    with Router([off, Backend(Scripted(local=False), id="far")]) as router:
        with pytest.raises(AllBackendsFailed) as caught:
            router.generate("hi", local_only=True)
        assert [str(error) for error in caught.value.exceptions] == [
            "off: disabled in the configuration",
            "far: local_only: it sends requests off this machine",
        ]


def test_a_named_backend_is_the_only_one() -> None:
    """`backend=` asks this one only, and a misspelt id is told with the nearest right one."""
    with Router({"main": Scripted(UnavailableError("down", retry_same=False)), "spare": Scripted()}) as router:
        with pytest.raises(UnavailableError):
            router.generate("hi", backend="main")
        assert reasons(router, backend="spare") == {"main": "the request asks for 'spare' only"}
        for call in (router.generate, router.order, lambda prompt, **o: next(router.stream(prompt, **o))):
            with pytest.raises(ConfigError, match="no backend 'spar'; did you mean 'spare'"):
                call("hi", backend="spar")
        with pytest.raises(ConfigError, match="expected one of 'main', 'spare'"):
            router.generate("hi", backend="qqq")


@pytest.mark.parametrize("path", ["generate", "stream", "agenerate", "astream"])
def test_local_only_never_leaves_the_machine(path: str) -> None:
    """On no path, not even as the last resort, does a `local_only` request reach a backend that is not local."""
    far, near = Scripted(local=False), Scripted(UnavailableError("down", retry_after=0.0))

    async def read() -> list[Any]:
        return [chunk async for chunk in router.astream("secret", local_only=True)]

    with Router({"far": far, "near": near, "truthy": Truthy()}) as router:
        calls: dict[str, Callable[[], Any]] = {
            "generate": lambda: router.generate("secret", local_only=True),
            "stream": lambda: list(router.stream("secret", local_only=True)),
            "agenerate": lambda: asyncio.run(router.agenerate("secret", local_only=True)),
            "astream": lambda: asyncio.run(read()),
        }
        for _ in range(2):
            with pytest.raises(UnavailableError):
                calls[path]()
    assert far.calls == 0
    assert near.calls == 4


@define
class Truthy:
    """Says something else than True about being local."""

    local: Any = "yes, nearly"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        raise AssertionError("a request that must stay here has left")


@pytest.mark.parametrize(
    ("options", "needed"),
    [({"tools": [{"name": "f"}]}, "tools"), ({"schema": {}}, "schema"), ({}, "images")],
)
def test_a_request_goes_only_where_it_can_be_served(options: dict[str, Any], needed: str) -> None:
    """What needs tools, a schema or images goes only to backends that declare it, also in a fallback."""
    prompt: Any = [Message("user", ("what?", Image(url="https://example.org/a.png")))] if needed == "images" else "hi"
    unable, able = Scripted(capabilities=frozenset()), Scripted('"yes"', capabilities=frozenset({needed}))  # type: ignore[arg-type]
    with Router({"unable": unable, "able": able}) as router:
        assert router.generate(prompt, **options).backend == "able"
        assert [p.reason for p in router.order(prompt, **options)][1] == f"not capable of {needed}"
    with Router([unable]) as router, pytest.raises(BackendError, match=f"not capable of {needed}"):
        router.generate(prompt, **options)
    assert unable.calls == 0


# -- cool-downs ------------------------------------------------------------------------------------------


def test_a_soft_cool_down_is_better_than_no_answer() -> None:
    """While all backends rest for reasons that are only guesses, the one that is due first is tried (row 33)."""
    down = UnavailableError("down", retry_same=False)
    with Router({"a": Scripted([down, "back"]), "b": Scripted([down, "back"])}) as router:
        with pytest.raises(AllBackendsFailed):
            router.generate("hi")
        answer = router.generate("hi")
        assert (answer.text, answer.backend) == ("back", "a")
        assert router.order()[0].backend.id == "a", "its success ended its cool-down"


def test_a_hard_cool_down_is_kept() -> None:
    """A backend's own word, and money, are no guesses: nobody is asked before the time (row 33)."""
    a, b = Scripted(QuotaError("empty")), Scripted(UnavailableError("down", retry_after=500.0, retry_same=False))
    with Router({"a": a, "b": b}) as router:
        for _ in range(3):
            with pytest.raises(AllBackendsFailed) as caught:
                router.generate("hi")
            assert 400 < (caught.value.retry_after or 0) <= 500
    assert (a.calls, b.calls) == (1, 1)


def test_a_cool_down_is_extended_and_never_shortened() -> None:
    """A second failure while one rests may lengthen the rest, and never ends it earlier (row 32)."""
    from pointsman._breaker import Breaker
    from pointsman.scope import Clock

    breaker = Breaker(Clock())
    left = []
    for hint in (100.0, 10.0, 200.0, 150.0):
        breaker.failed("a", "m", UnavailableError("down", retry_after=hint))
        pause = breaker.pause("a", "m")
        assert pause is not None
        left.append(round(pause.left))
    assert left == [100, 100, 200, 200]
    assert breaker.pause("b", "m") is None
    breaker.succeeded("a", "m")
    assert breaker.pause("a", "m") is None


def test_an_ended_cool_down_holds_nobody() -> None:
    """When its time is up a backend is asked again, without anybody's doing (row 31)."""
    a = Scripted([UnavailableError("down", retry_after=0.05, retry_same=False), "back"])
    with Router({"a": a, "b": Scripted("b")}) as router:
        assert router.generate("hi").backend == "b"
        pause = threading.Event()
        pause.wait(0.06)
        assert router.generate("hi").text == "back"


# -- middleware and observers --------------------------------------------------------------------------


@define(eq=False)
class Loud:
    """Wraps both hooks, observes, and counts how often it is closed."""

    name: str
    seen: list[str] = field(factory=list)
    closed: int = 0

    @hookimpl(wrapper=True)
    def generate(self, request: Request) -> Any:
        self.seen.append(f"{self.name} before")
        answer: Completion = yield
        self.seen.append(f"{self.name} after")
        return Completion(f"{self.name}({answer.text})", usage=answer.usage)

    @hookimpl(wrapper=True)
    def stream(self, request: Request) -> Any:
        chunks = yield
        return self._marked(chunks)

    def _marked(self, chunks: Any) -> Any:
        from attrs import evolve

        for chunk in chunks:
            yield evolve(chunk, text=chunk.text.upper())

    @hookimpl
    def answered(self, request: Request, completion: Completion) -> None:
        self.seen.append(f"{self.name} saw {completion.text} of {completion.backend} with {len(completion.attempts)}")
        raise RuntimeError("observers may fail")

    @hookimpl
    def close(self) -> None:
        self.closed += 1


def test_middleware_wraps_every_attempt(caplog: pytest.LogCaptureFixture) -> None:
    """The first middleware is the outermost; each wraps the call of every backend, whole and streamed, and observes."""
    seen: list[str] = []
    one, two = Loud("one", seen), Loud("two", seen)
    failing = Scripted(UnavailableError("down", retry_same=False))
    with Router({"a": failing, "b": Scripted("hi")}, middleware=[one, two]) as router:
        assert router.generate("x").text == "one(two(hi))"
        assert seen == [
            *("one before", "two before"),
            *("one before", "two before", "two after", "one after"),
            *("one saw one(two(hi)) of b with 2", "two saw one(two(hi)) of b with 2"),
        ], "one observer that raises does not silence the other"
        seen.clear()
        assert "".join(chunk.text for chunk in router.stream("x")) == "HI"
        assert seen == ["one saw HI of b with 1", "two saw HI of b with 1"]
    assert (one.closed, two.closed) == (1, 1)
    assert sum("answered failed" in record.getMessage() for record in caplog.records) == 4


@define(eq=False)
class Cache:
    """Answers by itself what it knows."""

    known: dict[str, str]

    @hookimpl
    def generate(self, request: Request) -> Completion | None:
        text = self.known.get(request.prompt)
        return None if text is None else Completion(text)


def test_middleware_may_answer_by_itself() -> None:
    """A middleware that returns an answer spares the provider the work; one that returns None passes on."""
    provider = Scripted("fresh")
    with Router([provider], middleware=[Cache({"known": "kept"})]) as router:
        assert [router.generate(prompt).text for prompt in ("known", "new")] == ["kept", "fresh"]
    assert provider.calls == 1


@frozen
class Failing:
    """A middleware with a bug."""

    @hookimpl(wrapper=True)
    def generate(self, request: Request) -> Any:
        yield
        raise KeyError("bug")


def test_a_bug_of_a_middleware_is_a_typed_error() -> None:
    """What a middleware raises reaches the caller as a `BackendError`."""
    with Router([Scripted()], middleware=[Failing()]) as router, pytest.raises(BackendError, match="KeyError"):
        router.generate("x")
    with pytest.raises(ConfigError, match=r"none of the hooks of pointsman\.middleware"):
        Router([Scripted()], middleware=[Backwards()])
