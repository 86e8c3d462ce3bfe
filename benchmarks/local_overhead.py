"""What the child process costs over the engine called directly: CPU per token, in interleaved pairs.

    python benchmarks/local_overhead.py [--pairs 7] [--tokens 128] [--model FILE.gguf]

Both sides load the same file with the same parameters and answer the same request, one at a time with one
thread. Counted is CPU time of every thread: of this process while it calls the engine directly, and of this
process and the child together while it calls the provider. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import xllamacpp
from pointsman import Message, Request
from pointsman_local import Local

PROMPT = "Write a long story about a railway switch and the woman who sets it."


def child_cpu() -> float:
    """Return the seconds of CPU that our children have used so far."""
    total = 0
    for pid in Path(f"/proc/self/task/{os.getpid()}").parent.glob("*/children"):
        for child in pid.read_text().split():
            total += sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{child}/task").glob("*/schedstat"))
    return total / 1e9


def direct(path: str, tokens: int) -> Callable[[], int]:
    """Load the engine in this process, as the child does; return a call that generates."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.n_batch = parameters.n_ubatch = 128
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.n_gpu_layers = 0
    parameters.verbosity = 1
    parameters.warmup = parameters.fit_params = parameters.kv_unified = False
    parameters.cache_ram_mib = 64
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.hostnames = [f"{tempfile.mkdtemp()}/s.sock"]
    server = xllamacpp.Server(parameters)
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
        "seed": 1,
        "cache_prompt": False,
        "stream": True,
        "return_progress": True,
        "stream_options": {"include_usage": True},
    }

    def generate() -> int:
        usage: list[int] = []

        def take(event: Any) -> bool:
            if "usage" in event:
                usage.append(event["usage"]["completion_tokens"])
            return False

        server.handle_chat_completions(body, take)
        return usage[-1]

    return generate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--model")
    options = parser.parse_args()
    local = Local(model_path=options.model, n_ctx=4096, n_threads=1, n_parallel=1, engine="xllamacpp")
    request = Request((Message("user", PROMPT),), max_tokens=options.tokens, temperature=0, seed=1)
    local.generate(request)
    path = str(local._launch.file())
    generate = direct(path, options.tokens)
    generate()
    ratios, own = [], []
    for _ in range(options.pairs):
        before = process_time()
        tokens = generate()
        engine = (process_time() - before) / tokens
        before, child = process_time(), child_cpu()
        usage = local.generate(request).usage
        parent, child = process_time() - before, child_cpu() - child
        assert usage is not None
        through = (parent + child) / usage.output_tokens
        ratios.append(through / engine)
        own.append(parent / usage.output_tokens)
        print(
            f"direct {engine * 1e6:7.0f} us/token   child {through * 1e6:7.0f} us/token   ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(
        f"child over engine called directly: {median(ratios):.3f} (target <= 1.05); "
        f"parent's part {median(own) * 1e6:.0f} us/token"
    )
    local.close()
    os._exit(0)  # the engine in this process does not end by itself


if __name__ == "__main__":
    main()
