"""What one call over HTTP costs the client: CPU time against one loopback server in another process.

    python benchmarks/http_call.py [--quick] [--litellm-python PATH]

Every client lives in a process of its own and takes turns. Target: a routed call of the `openai`
plugin <= 0.9 x a bare `requests.Session().post(json=...)` of the same body, and <= 1/6 of LiteLLM's Router; one of
any other plugin <= 1.1 x that of `openai`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from _clients import CLIENTS
from _measure import arguments, interleaved, table, times

_HERE = Path(__file__).parent
_BASE, _OURS = "requests", "pointsman"


def child(stack: ExitStack, *command: str) -> subprocess.Popen[str]:
    """Start a process that ends when its stdin closes."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(30)
        process.stdout.close()

    stack.callback(end)
    return process


def asked(process: subprocess.Popen[str], calls: int) -> tuple[float, float]:
    """Let a client make so many calls; return milliseconds of CPU and of wall time for one."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{calls}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r}: ended with {process.wait(30)}")
    cpu, wall = (float(word) / calls * 1e3 for word in line.split()[-2:])
    return cpu, wall


def timed(process: subprocess.Popen[str], calls: int, wall: list[float]) -> Callable[[], float]:
    """Return a function that returns milliseconds of CPU for one call, and notes the wall time."""
    asked(process, max(10, calls // 10))

    def run() -> float:
        cpu, waited = asked(process, calls)
        wall.append(waited)
        return cpu

    return run


def main() -> None:
    """Measure, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--litellm-python", metavar="PATH", help="a Python that has litellm, to compare with")
    given = parser.parse_args()
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or its import waits for a server
    pythons = {name: sys.executable for name in CLIENTS if name != "litellm"}
    if given.litellm_python:
        pythons["litellm"] = given.litellm_python
    for name in [name for name in pythons if name.endswith(" package")]:
        if find_spec(name.removesuffix(" package").partition(".")[0]) is None:
            del pythons[name]
    calls, rounds = (5, 2) if given.quick else (200, 15)
    wall: dict[str, list[float]] = {name: [] for name in pythons}
    with ExitStack() as stack:
        server = child(stack, sys.executable, str(_HERE / "_server.py"))
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        clients = {
            name: child(stack, python, str(_HERE / "_clients.py"), name, url) for name, python in pythons.items()
        }
        found = interleaved({name: timed(clients[name], calls, wall[name]) for name in clients}, rounds)
    rows = [
        [name, f"{median(found[name]):.3f} ms", f"{median(wall[name]):.3f} ms"]
        + [f"{times(found, name, base):.2f} x" for base in (_BASE, _OURS)]
        for name in found
    ]
    table(["one call", "CPU", "wall", f"CPU / {_BASE}", f"CPU / {_OURS}"], rows)


if __name__ == "__main__":
    main()
