"""The contract suite itself: it passes for good providers, and it fails for each of many bad ones.

The `Bad` classes are not collected here: one test runs them and looks at what fails.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import define, field, frozen
from pointsman import Chunk, Completion, Health, Request, Secret, Usage, errors, hookimpl
from pointsman.testing import Failure, ProviderContract, Scripted, Silent
from pointsman.testing.contract import RAISES

pytest_plugins = ["pytester"]


@frozen
class Shout:
    """Answers in capitals: the smallest provider."""

    suffix: str = "!"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion(text=request.prompt.upper() + self.suffix)

    @hookimpl
    def health(self) -> Health:
        return Health.ok()


class TestTheSmallestProvider(ProviderContract):
    """A provider of fifteen lines fulfils the contract as it is."""

    def make_provider(self) -> object:
        return Shout()


@frozen
class Streamer:
    """Streams only, without an end if it is told so."""

    endless: bool = False

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        while True:
            if request.scope.cancelled:
                raise errors.UnavailableError("cancelled")
            yield Chunk("word ")
            if not self.endless:
                break
        yield Chunk(finish_reason="stop")


class TestAStreamerOnly(ProviderContract):
    """A provider that has only `stream` is held to what it has."""

    def make_provider(self) -> object:
        return Streamer()

    def make_failing(self, failure: Failure) -> object:
        return Streamer(endless=True) if failure == "endless" else None


class TestScripted(ProviderContract):
    """The double that a test scripts fulfils the whole contract, with every failure."""

    def make_provider(self) -> object:
        return Scripted()

    def make_failing(self, failure: Failure) -> object:
        if failure in ("silent", "endless"):
            return Silent() if failure == "silent" else None
        return Scripted([RAISES[failure]("it failed; try another one")])


# -- bad providers: each breaks one rule -----------------------------------------------------------


class Bad(ProviderContract):
    """A provider with one fault. `breaks` names the tests that must fail."""

    patience_s = 1.0
    timeout_s = 5.0
    threads = 4
    breaks: ClassVar[str] = ""
    made: ClassVar[type | object]

    def make_provider(self) -> object:
        return self.made() if isinstance(self.made, type) else self.made


class BadHookless(Bad):
    breaks = "test_hooks_are_those_of_a_provider"
    made = type("Hookless", (), {})


class BadMisspelled(Bad):
    breaks = "test_hooks_are_those_of_a_provider"
    made = type("Misspelled", (), {"genrate": hookimpl(lambda self, request: Completion("x"))})


class BadSignature(Bad):
    breaks = "test_hooks_are_those_of_a_provider"
    made = type("Signature", (), {"generate": hookimpl(lambda self, prompt: Completion("x"))})


class BadClassOfItsOwn(Bad):
    """Is no attrs class: its options cannot be read from a configuration."""

    breaks = "test_answers_through_the_router"
    made = type("Plain", (), {"generate": hookimpl(lambda self, request: Completion("x"))})


def answering(completion: Completion, **more: object) -> object:
    return type("Answering", (), {"generate": hookimpl(lambda self, request: completion), **more})()


def streaming(*chunks: Chunk) -> object:
    return type("Streaming", (), {"stream": hookimpl(lambda self, request: (chunk for chunk in chunks))})()


class BadEmpty(Bad):
    breaks = "test_answers"
    made = answering(Completion("  "))


class BadBackend(Bad):
    breaks = "test_answers"
    made = answering(Completion("x", backend="me"))


class BadFinish(Bad):
    breaks = "test_answers"
    made = answering(Completion("x", "eos"))  # type: ignore[arg-type]  # the fault


class BadUnfinished(Bad):
    breaks = "test_answers"
    made = streaming(Chunk("x"))


class BadLate(Bad):
    breaks = "test_answers"
    made = streaming(Chunk("x", finish_reason="stop"), Chunk("y"))


class BadType(Bad):
    breaks = "test_answers"
    made = answering("text")  # type: ignore[arg-type]  # the fault


class BadUsage(Bad):
    breaks = "test_counts_tokens"
    made = answering(Completion("x", usage=Usage(1, 1, cached_tokens=2)))


class BadDeclared(Bad):
    breaks = "test_declares_lawfully"
    made = answering(Completion("x"), capabilities={"tool"})


class BadTools(Bad):
    breaks = "test_calls_tools"
    made = answering(Completion("x"), capabilities={"tools"})


class BadSchema(Bad):
    breaks = "test_fulfils_a_schema"
    made = answering(Completion("x"), capabilities={"schema"})


class BadPickle(Bad):
    breaks = "test_values_pickle"
    made = answering(Completion(type("Local", (str,), {})("x")))


class BadStream(Bad):
    """Streams another text than it generates."""

    breaks = "test_streams_what_it_generates"

    class made(Shout):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            yield Chunk("other", finish_reason="stop")


class BadHealthAsks(Bad):
    breaks = "test_tells_its_health"

    class made(Shout):
        @hookimpl
        def health(self) -> Health:
            self.generate(Request(messages=(ProviderContract().request().messages)))
            return Health.ok()


class BadHealthRaises(Bad):
    breaks = "test_tells_its_health"

    class made(Shout):
        @hookimpl
        def health(self) -> Health:
            raise OSError("down")


class BadHealthHangs(Bad):
    breaks = "test_tells_its_health"

    class made(Shout):
        @hookimpl
        def health(self) -> Health:
            threading.Event().wait(3)
            return Health.ok()


class BadThreads(Bad):
    """Keeps the running call's prompt on itself."""

    breaks = "test_keeps_threads_apart"

    @define
    class made:
        prompt: str = ""

        @hookimpl
        def generate(self, request: Request) -> Completion:
            self.prompt = request.prompt
            threading.Event().wait(0.01)
            return Completion(self.prompt)


class BadLeak(Bad):
    breaks = "test_leaves_nothing_behind"

    class made(Shout):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()
            return Completion("x")


class BadIterator(Bad):
    breaks = "test_leaving_a_stream_stops_the_work"

    class made(Shout):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            return iter([Chunk("x"), Chunk(finish_reason="stop")])


class BadDeafStream(Bad):
    """Goes on after a cancel."""

    breaks = "test_cancelling_ends_a_stream"

    class made(Shout):
        @hookimpl
        def stream(self, request: Request) -> Iterator[Chunk]:
            for _ in range(300):
                yield Chunk("x")
                threading.Event().wait(0.01)


class Failing(Bad):
    """Fails in one way, which is not the right one."""

    made = Shout

    def make_failing(self, failure: Failure) -> object:
        class Wrong(Shout):
            @hookimpl
            def generate(_, request: Request) -> Completion:
                raise self.wrong(failure)

        return Wrong()

    def wrong(self, failure: Failure) -> Exception:
        return ValueError("a plain one")


class BadForeign(Failing):
    breaks = "test_raises_the_right_class[bad_key]"


class BadClass(Failing):
    breaks = "test_raises_the_right_class[bad_key]"

    def wrong(self, failure: Failure) -> Exception:
        return errors.BackendError("something")


class BadMessage(Failing):
    breaks = "test_raises_the_right_class[unavailable]"

    def wrong(self, failure: Failure) -> Exception:
        return RAISES[failure]("")


class UnpicklableError(errors.RateLimitError):
    def __init__(self) -> None:
        super().__init__("slower, please")
        self.why = threading.Lock()


class BadPickledError(Failing):
    breaks = "test_raises_the_right_class[rate_limited]"

    def wrong(self, failure: Failure) -> Exception:
        return UnpicklableError()


class BadSwallows(Failing):
    """Answers as if nothing had happened."""

    breaks = "test_raises_the_right_class[bad_request]"

    def make_failing(self, failure: Failure) -> object:
        return Shout()


class BadDeaf(Bad):
    """Obeys neither deadline nor cancel."""

    breaks = "test_cancelling_stops_the_work test_obeys_the_deadline[timeout]"
    made = Shout

    def make_failing(self, failure: Failure) -> object:
        class Deaf(Shout):
            @hookimpl
            def generate(self, request: Request) -> Completion:
                threading.Event().wait(4)
                return Completion("x")

        return Deaf()


class BadHasty(Bad):
    """Gives up before the time is up."""

    breaks = "test_obeys_the_deadline[first_byte_timeout]"
    made = Shout

    def make_failing(self, failure: Failure) -> object:
        return Scripted([errors.BackendTimeout("no")])


KEY = "sk-of-the-bad-provider-0123"


@frozen
class Keyed:
    """Holds its key well; the ones below show it."""

    api_key: Secret = field(factory=lambda: Secret(KEY))

    @hookimpl
    def generate(self, request: Request) -> Completion:
        return Completion("x")


class BadPlainKey(Bad):
    breaks = "test_keys_are_wrapped"
    made = answering(Completion("x"), api_key=KEY)


class BadRepr(Bad):
    breaks = "test_no_key_in_a_repr"

    class made(Keyed):
        def __repr__(self) -> str:
            return f"made({self.api_key.reveal()})"


class BadLog(Bad):
    breaks = "test_no_key_in_anything[None]"

    class made(Keyed):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            logging.getLogger("some.library").debug("sending %s", self.api_key.reveal())
            return Completion("x")


class BadPrint(Bad):
    breaks = "test_no_key_in_anything[None]"

    class made(Keyed):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            print(self.api_key.reveal())
            return Completion("x")


class BadValue(Bad):
    breaks = "test_no_key_in_anything[None]"

    class made(Keyed):
        @hookimpl
        def generate(self, request: Request) -> Completion:
            return Completion("x", request_id=self.api_key.reveal())


class BadLocals(Bad):
    """The key is in a local variable of a frame of the traceback."""

    breaks = "test_no_key_in_anything[bad_key]"
    made = Keyed

    def make_failing(self, failure: Failure) -> object:
        class Failed(Keyed):
            @hookimpl
            def generate(self, request: Request) -> Completion:
                header = f"Bearer {self.api_key.reveal()}"
                raise errors.AuthenticationError(f"refused with a header of {len(header)} characters")

        return Failed()


class BadCause(Bad):
    """The key is in the error that caused the error."""

    breaks = "test_no_key_in_anything[bad_key]"
    made = Keyed

    def make_failing(self, failure: Failure) -> object:
        class Failed(Keyed):
            @hookimpl
            def generate(self, request: Request) -> Completion:
                raise errors.AuthenticationError("refused") from ValueError(self.api_key.reveal())

        return Failed()


class GoodKeyed(Bad):
    made = Keyed


def outcomes(pytester: pytest.Pytester, *wanted: str) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Run classes of this file that are not collected, and return what passed, was skipped (nothing), and failed."""
    here = Path(__file__)
    options = ["-p", "no:cacheprovider", "-o", "python_classes=Bad* Good*", "--import-mode=importlib"]
    return pytester.inline_run(*options, *(f"{here}::{name}" for name in wanted)).listoutcomes()


def test_fails_for_what_is_bad(pytester: pytest.Pytester) -> None:
    """For every bad provider the test that names the broken rule fails."""
    bad = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Bad)]
    wanted = [f"{kind.__name__}::{test}" for kind in bad for test in kind.breaks.split()]
    passed, skipped, failed = outcomes(pytester, *wanted)
    assert not skipped
    assert len(wanted) > 35
    assert len(failed) == len(wanted), [report.nodeid for report in passed]


def test_passes_for_what_is_good(pytester: pytest.Pytester) -> None:
    """The provider that the bad ones with a key are made of is good: what fails above is their fault alone."""
    passed, skipped, failed = outcomes(pytester, "GoodKeyed")
    assert passed
    assert not skipped
    assert not failed
