"""The benchmarks run. What they find is for people: no test depends on the speed of a machine."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("import_cost.py", ["bare python", "import pointsman", "peak memory"]),
        ("router_overhead.py", ["the provider object", "2 backends", "8 backends"]),
        ("rate_limit.py", ["pointsman, memory", "limits, memory", "tokens_per_minute"]),
        ("http_call.py", ["requests", "urllib3", "pointsman", "CPU / requests"]),
        ("store.py", ["write, one fsync", "Store.put each", "bare SHA-256", "memory of a put"]),
        ("evidence.py", ["Store.put", "submit, encrypted", "a bare query: find", "records()"]),
        ("receipts.py", ["without receipts", "with receipts", "without content", "signed", "caller's thread"]),
        ("batch.py", ["without a journal", "with a journal", "resumed", "memory MB"]),
        pytest.param("kubo.py", ["add with requests", "get from the gateway"], marks=pytest.mark.kubo),
    ],
)
def test_a_benchmark_runs(name: str, says: list[str]) -> None:
    """Each benchmark works by itself, and prints a table with a line for each contestant."""
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--quick"], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert [word for word in says if word not in ran.stdout] == []


def test_every_benchmark_is_described() -> None:
    """The README names each benchmark, or its family."""
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    names = [path.name for path in BENCHMARKS.glob("[a-z]*.py") if not path.name.startswith("local_")]
    assert [name for name in names if f"benchmarks/{name}" not in text] == []
