"""Sixteen requests at once against one after another: wall and CPU time, in interleaved pairs.

    python benchmarks/local_batch.py [--pairs 3] [--requests 16] [--tokens 64] [--threads 1] [--model FILE.gguf]

With one thread, CPU is what counts; with two, the wall. Every answer must be whole in both ways. Linux only.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import monotonic, process_time

from local_overhead import child_cpu
from pointsman import Completion, Message, Request
from pointsman_local import Local

TOPICS = ("rivers", "bread", "winter", "copper", "violins", "maps", "salt", "bridges", "whales", "clocks", "paper")


def timed(local: Local, requests: list[Request], threads: int) -> tuple[float, float, list[Completion]]:
    """Ask everything; return wall and CPU seconds, of both processes, and the answers."""
    wall, cpu = monotonic(), process_time() + child_cpu()
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(local.generate, requests))
    return monotonic() - wall, process_time() + child_cpu() - cpu, answers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model")
    options = parser.parse_args()
    count = options.requests
    local = Local(model_path=options.model, n_ctx=512, n_threads=options.threads, n_parallel=count, engine="xllamacpp")
    prompts = [f"Write a long letter about {TOPICS[n % len(TOPICS)]}, number {n}." for n in range(count)]
    requests = [
        Request((Message("user", prompt),), max_tokens=options.tokens, temperature=0, seed=1) for prompt in prompts
    ]
    local.generate(requests[0])
    walls, cpus, same = [], [], 0
    for _ in range(options.pairs):
        alone, together = timed(local, requests, 1), timed(local, requests, count)
        for one, other in zip(alone[2], together[2], strict=True):
            assert one.usage is not None and other.usage is not None  # noqa: PT018 - no test
            assert all(each.text and each.finish_reason in ("stop", "length") for each in (one, other))
            same += one.text == other.text
        walls.append(alone[0] / together[0])
        cpus.append(alone[1] / together[1])
        print(
            f"one after another {alone[0]:6.2f} s wall {alone[1]:6.2f} s CPU   at once {together[0]:6.2f} s wall "
            f"{together[1]:6.2f} s CPU   ratio {walls[-1]:.2f} wall {cpus[-1]:.2f} CPU",
            flush=True,
        )
    print(
        f"{count} at once, {options.threads} threads: {median(walls):.2f} x by wall, "
        f"{median(cpus):.2f} x by CPU (target >= 1.5)"
    )
    print(f"same text in both ways: {same} of {count * options.pairs}")
    local.close()


if __name__ == "__main__":
    main()
