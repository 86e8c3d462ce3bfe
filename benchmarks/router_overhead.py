"""What routing one call costs over calling the provider object itself.

    python benchmarks/router_overhead.py [--quick]

Target: <= 15 us more, in CPU time. The provider does nothing, so that nothing hides the router.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import process_time

from _measure import arguments, interleaved, over, table
from attrs import frozen
from pointsman import Backend, Chunk, Completion, Message, Request, Router, hookimpl

_ANSWER = Completion("hello")


@frozen
class Hello:
    """Answers at once."""

    model: str = "hello-1"

    @hookimpl
    def generate(self, request: Request) -> Completion:
        """Say hello."""
        return _ANSWER


def timed(call: Callable[[], object], calls: int) -> Callable[[], float]:
    """Return a function that makes the call many times, and returns microseconds of CPU for one."""

    def run() -> float:
        gc.collect()
        started = process_time()
        for _ in range(calls):
            call()
        return (process_time() - started) / calls * 1e6

    run()
    return run


def streamed(router: Router) -> Callable[[], list[Chunk]]:
    """Return a call that reads a whole stream."""
    return lambda: list(router.stream("hi"))


def main() -> None:
    """Measure, and print a table."""
    given = arguments(__doc__).parse_args()
    calls, rounds = (50, 2) if given.quick else (2000, 25)
    provider = Hello()
    base = "the provider object"
    # A caller of the bare provider makes the request too.
    contestants = {base: timed(lambda: provider.generate(Request((Message("user", "hi"),), model="hello-1")), calls)}
    for number in (1, 2, 8):
        router = Router([Backend(Hello(), id=f"b{n}") for n in range(number)])
        what = f"Router.generate, {number} backend{'s' if number > 1 else ''}"
        contestants[what] = timed(lambda router=router: router.generate("hi"), calls)  # type: ignore[misc]
        contestants[f"... with options, {number}"] = timed(
            lambda router=router: router.generate("hi", max_tokens=64, temperature=0.2),  # type: ignore[misc]
            calls,
        )
    contestants["Router.stream, 1 backend"] = timed(streamed(Router([Hello()])), calls)
    found = interleaved(contestants, rounds)
    head = ["CPU for one call", "least", "over the provider"]
    table(head, [[name, f"{min(found[name]):.1f} us", f"{over(found, name, base):+.1f} us"] for name in contestants])


if __name__ == "__main__":
    main()
