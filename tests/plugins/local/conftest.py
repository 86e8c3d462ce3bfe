"""Small model files with random weights, made on the spot, and shorthands for asking them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from pointsman import Message, Request
from pointsman_local import Local

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: ChatML that shows tools and calls, as Qwen 2.5 writes them.
TOOLS = """{%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}{%- for tool in tools %}
{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\n</tools>\nReturn a json object within <tool_call></tool_call>:\n<tool_call>\n' }}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- elif message.tool_calls %}{{- '<|im_start|>assistant' }}{%- for call in message.tool_calls %}
{{- '\n<tool_call>\n{"name": "' }}{{- call.function.name }}{{- '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WIDTH, INNER, VOCABULARY = 128, 256, 1024
METADATA: dict[str, Any] = {
    "context_length": 4096,
    "embedding_length": WIDTH,
    "block_count": 4,
    "feed_forward_length": INNER,
    "head_count": 4,
    "head_count_kv": 4,
    "layer_norm_rms_eps": 1e-5,
    "rope_dimension_count": WIDTH // 4,
    "vocab_size": VOCABULARY,
    "file_type": 1,
    "tokenizer_model": "llama",
    "add_space_prefix": False,
    "add_bos_token": False,
    "bos_token_id": 1,
    "eos_token_id": 4,
    "eot_token_id": 4,
    "unk_token_id": 0,
}


def write_model(
    path: Path, *, template: str | None = CHATML, seed: int = 0, tool_token: bool = False, **over: Any
) -> Path:
    """Write a model of 2 MB: a llama with random weights that never ends by itself and writes valid UTF-8.

    :param over: metadata that differ: the names of `GGUFWriter.add_...`; None leaves one out.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {**METADATA, **over}.items():
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    _add_tokens(writer, tool_token=tool_token)
    if template is not None:
        writer.add_chat_template(template)
    for name, tensor in _tensors(rng):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokens(writer: Any, *, tool_token: bool) -> None:
    kinds = gguf.TokenType
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, *[kinds.CONTROL] * 4, *[kinds.BYTE] * 256]
    if tool_token:
        tokens.append("<tool_call>")
        types.append(kinds.USER_DEFINED)
    words = ["▁", *map(chr, range(33, 127))]
    words += ["".join(letters) for n in (2, 3) for letters in itertools.product("etaoinshrdlu", repeat=n)]
    words = words[: VOCABULARY - len(tokens)]
    tokens += words
    types += [kinds.NORMAL] * len(words)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(rank) for rank in range(len(tokens))])
    writer.add_token_types(types)


def _tensors(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    def matrix(rows: int, columns: int, scale: float = 0.05) -> np.ndarray[Any, Any]:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float16)

    ones = np.ones(WIDTH, np.float32)
    yield "token_embd.weight", matrix(VOCABULARY, WIDTH, 0.5)
    output = matrix(VOCABULARY, WIDTH, 0.5)
    output[: len(SPECIAL) + 256] = 0  # control tokens and single bytes: never chosen freely
    yield "output.weight", output
    yield "output_norm.weight", ones
    for block in range(4):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{block}.{part}.weight", matrix(WIDTH, WIDTH)
        for part, rows, columns in (("gate", INNER, WIDTH), ("up", INNER, WIDTH), ("down", WIDTH, INNER)):
            yield f"blk.{block}.ffn_{part}.weight", matrix(rows, columns)
        yield f"blk.{block}.attn_norm.weight", ones
        yield f"blk.{block}.ffn_norm.weight", ones


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a model file (see `write_model`) once for the same arguments, and returns its path."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = write_model(folder / f"tiny-{len(made)}.gguf", **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    """The function `write_model`."""
    return write_model


@pytest.fixture(scope="session")
def tools_template() -> str:
    """A chat template that knows tools."""
    return TOOLS


@pytest.fixture
def local(no_leaks: None, model_file: Callable[..., Path]) -> Iterator[Callable[..., Local]]:
    """A function that builds a `Local` over a tiny model (or the `model_path` given); all are closed afterwards."""
    made: list[Local] = []

    def make(model_path: str | Path | None = None, **options: Any) -> Local:
        options = {"n_ctx": 512, "n_threads": 1, "n_parallel": 2, "load_timeout": 60.0, **options}
        made.append(Local(model_path=str(model_path or model_file()), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def endless(local: Callable[..., Local], model_file: Callable[..., Path]) -> Callable[..., Local]:
    """The same over a model whose answers are too long to end while a test looks, on the fastest machine."""
    path = model_file(context_length=1 << 16)
    return lambda **options: local(path, **{"n_ctx": 1 << 15, **options})


@pytest.fixture
def request_for() -> Callable[..., Request]:
    """A function that builds a request from a prompt and fields."""

    def make(prompt: str = "Name three rivers.", **fields: Any) -> Request:
        return Request(messages=(Message("user", prompt),), **fields)

    return make
