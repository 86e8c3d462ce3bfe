"""Every fault at once: many threads, two backends that fail in every way, and one that is well."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pointsman import Usage
from pointsman.testing import Clock, Fault, Seen, faults

Staged = Callable[..., Any]

#: What a provider does that gets no answer through. Those that only wait are not among them: this test does not.
NO_ANSWERS = (
    faults.status(500),
    faults.status(503, body="html"),
    faults.rate_limited(),
    faults.rate_limited(1),
    faults.rate_limited(3600),
    faults.bad_key(),
    faults.no_quota(),
    faults.unknown_model(),
    faults.context_too_long(),
    faults.reset("headers"),
    faults.reset("body"),
    faults.redirect(),
    faults.html(),
    faults.empty_body(),
    faults.broken_json(),
    faults.cut_json(),
    faults.bad_gzip(),
    faults.bad_utf8(),
    faults.error_under_200(),
    faults.empty_choices(),
    faults.whitespace(),
    faults.thinking_only(),
    faults.error_first(),
    faults.lifecycle_then_error(),
    faults.empty_stream(),
)
#: What breaks a stream after its first content.
BREAKS = (
    faults.cut_after(3),
    faults.reset_after(2),
    faults.broken_event_after(3),
    faults.error_event_after(1),
    faults.no_finish_stream(3),
    faults.finish_error(),
)


class Moody:
    """A script that plays any of its faults, or answers well, as a generator of random numbers says."""

    def __init__(self, seed: int, *moods: Fault) -> None:
        self._random = random.Random(seed)
        self._moods = moods

    def __call__(self, seen: Seen) -> Fault:
        """Return what is played now."""
        return faults.well() if self._random.random() < 0.3 else self._random.choice(self._moods)


@pytest.mark.parametrize("way", ["plain", "streamed"])
@pytest.mark.parametrize("seed", range(3))
def test_every_call_gets_its_own_answer(stage: Staged, way: str, seed: int) -> None:
    """While one backend is well every caller gets the whole answer to their own question, once, with its usage."""
    clock = Clock()
    moods = NO_ANSWERS + (BREAKS if way == "streamed" else ())
    on = stage(Moody(seed, *moods), clock=clock, timeout=600.0, on_break="restart", third=faults.well())
    on.spare.play(Moody(seed + 100, *moods))
    prompts = [f"Question {number} of {seed}." for number in range(8 * 12)]

    def ask(prompt: str) -> Any:
        clock.advance(2.0)
        return on.ask(way, prompt)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, prompts))
    assert [got.error for got in found] == [None] * len(prompts)
    assert [got.text for got in found] == [f"You said: {prompt}" for prompt in prompts]
    assert {got.completion.usage for got in found} == {Usage(19, 8, 4, 2)}
    self_asked = Counter(seen.prompt for name in on.servers for seen in on.servers[name].asked)
    for prompt, got in zip(prompts, found, strict=True):
        names = Counter(backend for backend, _, _ in got.attempts)
        assert max(names.values()) <= 2
        assert [outcome for _, outcome, _ in got.attempts].count("answered") == 1
        assert got.attempts[-1] == (got.completion.backend, "answered", None)
        # A kept connection that ends at once, without a byte, is replaced within the same attempt.
        assert sum(names.values()) <= self_asked[prompt] <= 2 * sum(names.values())
        if got.chunks:
            begun = max((n for n, chunk in enumerate(got.chunks) if chunk.restarted), default=0)
            models = {chunk.model for chunk in got.chunks[begun:]} - {None}
            assert models <= {f"model-of-{got.completion.backend}"}
