"""Part of the contract: what a good answer looks like, whole and streamed."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any, get_args

import pytest

from ...errors import BackendError
from ...router import Router
from ...values import Capability, Completion, FinishReason, Health, Tool, Usage
from ._suite import Subject, Suite, needs

_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}


class Answers(Suite):
    """Generate, stream, usage, finish reasons, health, capabilities, threads, pickling."""

    def test_hooks_are_those_of_a_provider(self, subject: Subject) -> None:
        """It implements `generate` or `stream`, and nothing that is misspelled or of the wrong signature."""
        assert subject.ways(), "it implements neither generate nor stream: mark the method with @hookimpl"

    def test_declares_lawfully(self, subject: Subject) -> None:
        """What the router reads beside the hooks is of the promised types."""
        capabilities: Any = getattr(subject.provider, "capabilities", frozenset())
        unknown = set(capabilities) - set(get_args(Capability))
        assert not unknown, f"capabilities: found {unknown}, expected some of {get_args(Capability)}"
        for name, kinds in (
            ("model", (str, type(None))),
            ("local", (bool,)),
            ("context_window", (int, type(None))),
        ):
            found = getattr(subject.provider, name, None if type(None) in kinds else False)
            assert isinstance(found, kinds), (
                f"{name}: found {found!r}, expected {' or '.join(k.__name__ for k in kinds)}"
            )

    def test_answers(self, subject: Subject) -> None:
        """Each way of asking gives a whole answer with a lawful finish reason."""
        for way, ask in subject.ways():
            answer = self.answered(ask, self.request())
            assert isinstance(answer.text, str), f"{way}: text is {answer.text!r}"
            assert answer.text.strip() or answer.tool_calls, f"{way}: the answer is empty: {answer!r}"
            self._check_finish(way, answer)
            assert answer.backend is None, f"{way}: backend is the router's to fill, found {answer.backend!r}"
            assert not answer.attempts, f"{way}: attempts are the router's to fill"

    def _check_finish(self, way: str, answer: Completion) -> None:
        allowed = get_args(FinishReason)
        assert answer.finish_reason in allowed, f"{way}: finish_reason {answer.finish_reason!r}, expected {allowed}"
        assert answer.finish_reason in ("stop", "length", "tool_calls"), f"{way}: a good answer has no {answer!r}"

    def test_answers_through_the_router(self, subject: Subject) -> None:
        """A router takes it (an attrs class with lawful hooks), asks it either way, and gets the answer."""
        with Router({"subject": subject.provider}, timeout=self.timeout_s) as router:
            answer = router.generate(self.request())
            with router.stream(self.request()) as stream:
                pieces = list(stream)
            assert (answer.backend, stream.completion.backend) == ("subject", "subject")
            assert "".join(piece.text for piece in pieces) == stream.completion.text

    def test_streams_what_it_generates(self, subject: Subject) -> None:
        """Streamed and whole answers have the same shape; the same text where the model answers the same twice."""
        answers = [[self.answered(ask, self.request()) for _ in range(2)] for _, ask in subject.ways()]
        same = all(first.text == second.text for first, second in answers)
        first, last = answers[0][0], answers[-1][0]
        assert not same or first.text == last.text, f"the stream gives {last.text!r}, generate {first.text!r}"
        assert bool(first.usage) == bool(last.usage), "only one of stream and generate reports usage"
        assert first.model == last.model, f"stream names the model {last.model!r}, generate {first.model!r}"

    def test_counts_tokens(self, subject: Subject) -> None:
        """Usage, where it is reported, is possible: cached within input, reasoning within output."""
        for way, ask in subject.ways():
            usage = self.answered(ask, self.request()).usage
            if usage is not None:
                self._check_usage(way, usage)

    def _check_usage(self, way: str, usage: Usage) -> None:
        assert 0 <= usage.cached_tokens <= usage.input_tokens, f"{way}: {usage}: input_tokens includes cached"
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens, f"{way}: {usage}: output_tokens includes reasoning"
        assert usage.total_tokens > 0, f"{way}: {usage}: report None where nothing was counted"

    @needs("health")
    def test_tells_its_health(self, subject: Subject) -> None:
        """Health of a well service is good, comes within seconds, and asks the model nothing."""
        asked: list[str] = []
        hooks = [getattr(type(subject.provider), name) for name, _ in subject.ways()]
        watched = {getattr(hook, "__code__", None) for hook in hooks}

        def note(frame: Any, event: str, _arg: Any) -> None:
            if event == "call" and frame.f_code in watched:
                asked.append(frame.f_code.co_name)

        threading.setprofile(note)
        try:
            ended = self.run(_profiled, note, subject.health)
        finally:
            threading.setprofile(None)
        assert ended.error is None, f"health raised {ended.error!r}: what is wrong belongs into Health.reason"
        health: Health = ended.value
        assert health.usable, f"the service is well, but health says {health!r}"
        assert not asked, f"health called {asked}: it must cost no tokens"

    def test_keeps_threads_apart(self, subject: Subject) -> None:
        """Many threads at once each get a whole answer, and their own where the model answers the same twice."""
        prompts = [f"Repeat the number {n * 7919}." for n in range(self.threads)]
        for way, ask in subject.ways():
            alone = [[self.answered(ask, self.request(prompt)).text for prompt in prompts] for _ in range(2)]
            for number, answers in enumerate(self._at_once(ask, prompts)):
                for answer in answers:
                    assert answer.text.strip() or answer.tool_calls, f"{way}: thread {number} got nothing: {answer!r}"
                    if alone[0] == alone[1]:
                        expected = alone[0][number]
                        assert answer.text == expected, f"{way}: {number} got {answer.text!r}, alone {expected!r}"

    def _at_once(self, ask: Callable[..., Completion], prompts: list[str]) -> list[list[Completion]]:
        barrier = threading.Barrier(len(prompts))

        def one(prompt: str) -> list[Completion]:
            barrier.wait(self.patience_s)
            return [ask(self.request(prompt)) for _ in range(3)]

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)  # what can go wrong between two threads shall go wrong here
        try:
            begun = [self.begin(one, prompt) for prompt in prompts]
            ended = [self.ended(*each, within=self.timeout_s * 3) for each in begun]
        finally:
            sys.setswitchinterval(interval)
        for each in ended:
            if each.error is not None:
                raise each.error
        return [each.value for each in ended]

    def test_values_pickle(self, subject: Subject) -> None:
        """Answers and findings survive pickling, equal: batches and other processes need it."""
        values: list[Any] = [self.answered(ask, self.request()) for _, ask in subject.ways()]
        if subject.has("stream"):
            values += self.answered(lambda: list(subject.stream(self.request())))
        if subject.has("health"):
            values.append(self.answered(subject.health))
        for value in values:
            assert pickle.loads(pickle.dumps(value)) == value, f"{value!r} is not what was pickled"  # noqa: S301 - our own

    def test_calls_tools(self, subject: Subject) -> None:
        """Who declares "tools" calls the tool that must be called, whole, in JSON; who does not is never asked to."""
        tool = Tool("report_name", "Reports a name.", _SCHEMA)
        if not _declares(subject, "tools"):
            self._check_spared(subject, "tools", tools=(tool,))
            return
        for way, ask in subject.ways():
            answer = self.answered(ask, self.request("Report the name Ann.", tools=(tool,), tool_choice="report_name"))
            assert answer.tool_calls, f"{way}: no tool was called: {answer!r}"
            assert answer.finish_reason in ("tool_calls", "stop"), f"{way}: finish_reason {answer.finish_reason!r}"
            for call in answer.tool_calls:
                assert call.name == tool.name, f"{way}: called {call.name!r}, offered {tool.name!r}"
                assert isinstance(call.parsed(), dict), f"{way}: arguments {call.arguments!r} are no JSON object"

    def test_fulfils_a_schema(self, subject: Subject) -> None:
        """Who declares "schema" answers in JSON of that form; who does not is never asked to."""
        if not _declares(subject, "schema"):
            self._check_spared(subject, "schema", schema=_SCHEMA)
            return
        for way, ask in subject.ways():
            answer = self.answered(ask, self.request("Give the name Ann, as JSON.", schema=_SCHEMA))
            found = json.loads(answer.text)
            assert isinstance(found.get("name"), str), f"{way}: {answer.text!r} does not fulfil the schema"

    def _check_spared(self, subject: Subject, capability: Capability, **options: Any) -> None:
        """A router asks it nothing that it does not declare, and says so."""
        with (
            Router({"subject": subject.provider}, timeout=self.timeout_s) as router,
            pytest.raises(BackendError, match=f"not capable of {capability}") as caught,
        ):
            router.generate(self.request(**options))
        assert not caught.value.attempts, f"it was asked: {caught.value.attempts}"


def _declares(subject: Subject, capability: Capability) -> bool:
    return capability in getattr(subject.provider, "capabilities", ())


def _profiled(note: Callable[[Any, str, Any], None], call: Callable[[], Any]) -> Any:
    sys.setprofile(note)
    try:
        return call()
    finally:
        sys.setprofile(None)
