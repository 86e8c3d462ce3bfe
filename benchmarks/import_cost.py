"""What importing costs: time and memory of a fresh interpreter, with Pointsman and without.

    python benchmarks/import_cost.py [--quick] [--litellm-python PATH]

Target: `import pointsman` <= 60 ms in all, interpreter included, and <= 25 MB. Modules are compiled
to bytecode by a first run that does not count.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from time import perf_counter

from _measure import arguments, interleaved, over, table

_PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
_ANSWER = """
from attrs import frozen
from pointsman import Completion, Router, hookimpl
@frozen
class Hello:
    @hookimpl
    def generate(self, request):
        return Completion("hello")
Router([Hello()]).generate("hi")
"""
_BARE = "bare python"
#: what the interpreter runs
_PROGRAMS = {
    _BARE: "pass",
    "import pointsman": "import pointsman",
    "from pointsman import Router": "from pointsman import Router",
    "... and a first answer": _ANSWER,
    "import requests": "import requests",
    "import openai": "import openai",
}


def timed(python: str, code: str, cpu: list[float]) -> Callable[[], float]:
    """Return a function that runs `code` in a fresh interpreter: it returns wall time, and notes CPU time, in ms."""

    def run() -> float:
        used, started = getrusage(RUSAGE_CHILDREN), perf_counter()
        subprocess.run([python, "-c", code], check=True)
        wall, after = perf_counter() - started, getrusage(RUSAGE_CHILDREN)
        cpu.append((after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime) * 1e3)
        return wall * 1e3

    run()
    cpu.clear()
    return run


def peak(python: str, code: str) -> float:
    """Return the most memory that a fresh interpreter needs for `code`, in MB."""
    ran = subprocess.run([python, "-c", f"{code}\n{_PEAK}"], capture_output=True, text=True, check=True)
    return int(ran.stdout) / 1024


def main() -> None:
    """Measure, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--litellm-python", metavar="PATH", help="a Python that has litellm, to compare with")
    given = parser.parse_args()
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or its import waits for a server
    programs = {name: (sys.executable, code) for name, code in _PROGRAMS.items()}
    if given.litellm_python:
        programs["import litellm"] = (given.litellm_python, "import litellm")
    cpu: dict[str, list[float]] = {name: [] for name in programs}
    wall = interleaved(
        {name: timed(*program, cpu[name]) for name, program in programs.items()}, 2 if given.quick else 25
    )
    rows = [
        [
            name,
            f"{median(wall[name]):.0f} ms",
            f"{median(cpu[name]):.0f} ms",
            f"{over(wall, name, _BARE):+.0f} ms",
            f"{peak(*program):.1f} MB",
        ]
        for name, program in programs.items()
    ]
    table(["", "wall", "CPU", "over bare", "peak memory"], rows)


if __name__ == "__main__":
    main()
