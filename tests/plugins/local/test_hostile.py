"""Hostile and broken files: whatever is in one, the caller gets an answer or a typed error, in time, and lives."""

from __future__ import annotations

import os
import random
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import inf, nan
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pointsman import BackendError, Completion, InvalidModelError, Message, Request, Scope, UnavailableError
from pointsman_local import Local

pytestmark = pytest.mark.usefixtures("no_leaks")

#: Seconds to load, and for the whole of one file.
LOAD, WHOLE = 3.0, 60.0
HUGE = 2**32 - 1

METADATA: list[dict[str, Any]] = [
    *({"block_count": n} for n in (0, 1, 3, 5, 2**31, HUGE)),
    *({"layer_norm_rms_eps": x} for x in (nan, inf, -1.0, 0.0, 1e30)),
    *({"context_length": n} for n in (0, 1, 2**31, HUGE)),
    *({"embedding_length": n} for n in (0, 1, 127, 2**31, HUGE)),
    *({"head_count": n} for n in (0, 1, 3, 2**31)),
    *({"head_count_kv": n} for n in (0, 3, 8, 2**31)),
    *({"feed_forward_length": n} for n in (0, 255, HUGE)),
    *({"rope_dimension_count": n} for n in (0, 1, 33, HUGE)),
    *({"rope_freq_base": x} for x in (0.0, nan, -1.0)),
    *({"vocab_size": n} for n in (0, 7, HUGE)),
    *({"eos_token_id": n} for n in (1024, HUGE, None)),
    *({"bos_token_id": n} for n in (1024, HUGE)),
    *({"eot_token_id": n} for n in (5_000, None)),
    *({"unk_token_id": n} for n in (70_000, None)),
    *({"tokenizer_model": name} for name in ("gpt2", "bert", "t5", "rwkv", "none", "\x00", None)),
    *({"file_type": n} for n in (99, HUGE)),
    *({"expert_count": n} for n in (1, 4, HUGE)),
]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = [
    LOOP,
    "{% set x = namespace(s='ab') %}{% for a in range(60) %}{% set x.s = x.s + x.s %}{% endfor %}{{ x.s }}",
    "{{ 'ab' * 999999999 }}",
    "{{ 'ab' * 99999999999999999999 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f('ab') }}",
    "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "{{ " + "[" * 100_000 + "]" * 100_000 + " }}",
    "{{ " + "not " * 100_000 + "1 }}",
    "{% if a %}" * 30_000 + "{% endif %}" * 30_000,
    "{% for a in b %}" * 20_000,
    "{{ 1 " + "+ 1 " * 50_000 + "}}",
    "{% if",
    "{{ messages[99999999999] }}",
    "{{ messages.x.y.z }}",
    "{{ raise_exception('always') }}",
    "{{ none + 1 }}",
    "{{ 1 / 0 }}",
    "{{ 1 % 0 }}",
    "{{ range(10**18) | list }}",
    "{{ range(0, 10, 0) | list }}",
    "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}{{ l | tojson }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch /tmp/pointsman-owned').read() }}",
    "{% include '/etc/passwd' %}",
    "{{ messages | tojson(indent=999999999) }}",
    "{{ 'a' | center(999999999) }}",
    "{{ '%99999999999d' % 1 }}",
    "",
    "x" * 5_000_000,
    "\x00",
    "é" * 100_000,
]


def of_metadata(write: Callable[..., Path], folder: Path, _base: bytes) -> Iterator[Path]:
    """Metadata that are out of every range."""
    for number, over in enumerate(METADATA):
        yield write(folder / f"{number}.gguf", **over)


def of_templates(write: Callable[..., Path], folder: Path, _base: bytes) -> Iterator[Path]:
    """Templates that loop, recurse, explode, break out, or are none."""
    for number, template in enumerate(TEMPLATES):
        yield write(folder / f"{number}.gguf", template=template)


def of_flips(_write: Callable[..., Path], folder: Path, base: bytes) -> Iterator[Path]:
    """One bit flipped: mostly in the header, some in the weights."""
    rng = random.Random(3)
    for number in range(60):
        data = bytearray(base)
        place = rng.randrange(1_500 if number < 30 else 30_000 if number < 50 else len(base))
        data[place] ^= 1 << rng.randrange(8)
        yield _written(folder / f"{number}.gguf", data)


def of_runs(_write: Callable[..., Path], folder: Path, base: bytes) -> Iterator[Path]:
    """A run of bytes overwritten: with noise, with zeros, with ones."""
    rng = random.Random(4)
    for number in range(24):
        data = bytearray(base)
        place, length = rng.randrange(40_000), rng.randrange(1, 64)
        data[place : place + length] = (rng.randbytes(length), bytes(length), b"\xff" * length)[number % 3]
        yield _written(folder / f"{number}.gguf", data)


def of_cuts(_write: Callable[..., Path], folder: Path, base: bytes) -> Iterator[Path]:
    """Cut anywhere: after no byte, within the header, within the weights, one byte too early."""
    rng = random.Random(5)
    places = [0, 1, 4, 8, 16, 24, *(rng.randrange(24, 40_000) for _ in range(10)), len(base) - 1]
    for number, place in enumerate([*places, *(rng.randrange(len(base)) for _ in range(8))]):
        yield _written(folder / f"{number}.gguf", base[:place])


def of_headers(_write: Callable[..., Path], folder: Path, base: bytes) -> Iterator[Path]:
    """Headers that announce more than there is, or what no reader knows."""
    most = 2**64 - 1
    key = struct.pack("<Q", 1) + b"k"
    headers = [
        struct.pack("<4sIQQ", b"GGUF", version, tensors, keys)
        for version, tensors, keys in ((3, most, 1), (3, 1, most), (1, 0, 0), (9, 0, 0), (0x03000000, 0, 0), (3, 0, 0))
    ]
    one = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
    values = [
        struct.pack("<Q", most),
        key + struct.pack("<I", 99),
        key + struct.pack("<IQ", 8, most),
        key + struct.pack("<IIQ", 9, 8, 2**61),
        key + struct.pack("<IIQ", 9, 0, most),
        key + struct.pack("<IIQ", 9, 9, 5) * 100,
        key + struct.pack("<IIQ", 9, 10, 2**60),
    ]
    for number, data in enumerate(
        [*headers, *(one + value for value in values), b"GGUF", b"\x00" * 4096, os.urandom(4096)]
    ):
        yield _written(folder / f"{number}.gguf", data + base[-1000:] * (number % 2))


GROUPS = [of_metadata, of_templates, of_flips, of_runs, of_cuts, of_headers]


def _written(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


def tried(path: Path, engine: Any) -> tuple[str, Completion | BackendError, float]:
    """Ask the model in a file; return how it ended and how long it took. The file is gone afterwards."""
    started = monotonic()
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_parallel": 1, "memory_limit_mib": 2048}
    local = Local(model_path=str(path), engine=engine, load_timeout=LOAD, hang_timeout=LOAD, **options)
    try:
        local.health()
        assert isinstance(local.capabilities, frozenset)
        assert local.context_window > 0
        return (
            path.name,
            local.generate(Request((Message("user", "x"),), max_tokens=2, scope=Scope(WHOLE))),
            monotonic() - started,
        )
    except BackendError as error:
        return path.name, error, monotonic() - started
    finally:
        local.close()
        path.unlink()


def ends(paths: Iterable[Path], engine: str) -> list[tuple[str, Completion | BackendError, float]]:
    """Try every file, some at a time; fewer files than threads wait on disk."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda path: tried(path, engine), paths))


@pytest.mark.parametrize("engine", ["xllamacpp", pytest.param("llama-cpp-python", marks=pytest.mark.llama_cpp_python)])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_hostile_files(
    group: Callable[..., Iterator[Path]], engine: str, write_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    """Each file ends in an answer or a typed error, within its time; the caller lives, and nothing is left."""
    base = write_gguf(tmp_path / "base.gguf").read_bytes()
    # The second engine takes a second to start: every third file has to do there.
    found = ends(islice(group(write_gguf, tmp_path, base), 0, None, 1 if engine == "xllamacpp" else 3), engine)
    for name, end, seconds in found:
        assert isinstance(end, (Completion, BackendError)), (name, end)
        assert seconds < WHOLE - 1, (name, end)
        if isinstance(end, BackendError):
            assert str(tmp_path) in end.message or not isinstance(end, InvalidModelError), (name, end)
    assert not Path("/tmp/pointsman-owned").exists()
    if group in (of_cuts, of_headers):
        assert all(isinstance(end, InvalidModelError) for _, end, _ in found), found


def test_there_are_enough(write_gguf: Callable[..., Path], tmp_path: Path) -> None:
    """The groups hold more than two hundred files."""
    base = write_gguf(tmp_path / "base.gguf").read_bytes()[:50_000]
    counted = sum(1 for group in GROUPS[2:] for _ in group(write_gguf, tmp_path, base))
    assert counted + len(METADATA) + len(TEMPLATES) >= 200


@pytest.mark.skipif(sys.platform != "linux", reason="devices")
@pytest.mark.parametrize("path", ["/dev/zero", "/proc/self/mem", "/", "\0", "a" * 5_000])
def test_things_that_are_no_files(path: str) -> None:
    """Devices, folders and impossible names are typed errors, and nothing is read from them."""
    local = Local(model_path=path)
    with pytest.raises(BackendError) as caught:
        local.generate(Request((Message("user", "x"),)))
    assert not isinstance(caught.value, UnavailableError)
    assert not local.health().usable
