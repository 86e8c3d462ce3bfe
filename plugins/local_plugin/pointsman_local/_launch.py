"""How a child process is started: its command line, its environment and its settings."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from attrs import frozen
from pointsman import UnavailableError

from ._gguf import Header
from ._model_file import check_size, locate, memory

EngineName = Literal["xllamacpp", "llama-cpp-python"]
_MODULES: dict[EngineName, str] = {"xllamacpp": "xllamacpp", "llama-cpp-python": "llama_cpp"}
#: Keys and tokens of our environment are none of the engine's business.
_PRIVATE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
#: What a process needs beside model and context: the engine's libraries, stacks and pools of its threads.
_BASE = 4 << 30
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from pointsman_local._serve import main; main()"


@frozen
class Launch:
    """What the options of a backend say about its child. Times are seconds."""

    model: str  #: names the model file (see `_model_file.locate`)
    engine: Literal["auto", "xllamacpp", "llama-cpp-python"] = "auto"
    n_ctx: int = 4096
    n_threads: int | None = None
    n_gpu_layers: int = 0
    n_parallel: int = 4
    chat_template: str | None = None
    memory_limit_mib: int | None = None
    load_timeout: float = 300.0
    hang_timeout: float = 120.0

    def engines(self) -> tuple[EngineName, ...]:
        """Return the engines to try, in this order: those that are installed.

        :raises UnavailableError: none is.
        """
        if found := self.installed():
            return found
        raise UnavailableError(
            f"No engine for local models is installed (engine = {self.engine!r}). Install one: "
            "pip install pointsman-local, or pip install 'pointsman-local[llama-cpp-python]'.",
            retry_same=False,
        )

    def installed(self) -> tuple[EngineName, ...]:
        """Return those of the wanted engines that are installed, the better one first. Imports none."""
        wanted: tuple[EngineName, ...] = tuple(_MODULES) if self.engine == "auto" else (self.engine,)
        return tuple(name for name in wanted if find_spec(_MODULES[name]) is not None)

    def context(self, header: Header) -> int:
        """Return the tokens of one request's context: never more than the model was trained for."""
        return min(self.n_ctx, header.context_length or self.n_ctx)

    def file(self, *, fetch: bool = True) -> Path:
        """Return the model's path (see `locate`).

        :raises InvalidModelError: it is larger than the memory it may use.
        """
        path = locate(self.model, fetch=fetch)
        if not self.n_gpu_layers:
            check_size(path, available=(self.memory_limit_mib or 0) << 20 or memory())
        return path

    def settings(self, path: Path, header: Header, engine: EngineName, socket: str) -> dict[str, Any]:
        """Return the first message to the child."""
        return {
            "op": "load",
            "parent": os.getpid(),
            "path": str(path),
            "engine": engine,
            "n_ctx": self.context(header),
            "n_threads": self.n_threads or _threads(),
            "n_gpu_layers": self.n_gpu_layers,
            "n_parallel": self.n_parallel,
            "chat_template": self.chat_template,
            "memory": self._memory(path, header),
            "load_timeout": self.load_timeout,
            "socket": socket,
        }

    def _memory(self, path: Path, header: Header) -> int:
        """Return the bytes of address space that the child may take; 0 for no limit.

        A driver of a GPU reserves far more than it uses, so there is none then. Otherwise it is the option,
        or what this file can need: keys and values of two bytes for each layer, place and token.
        """
        if self.n_gpu_layers:
            return 0
        if self.memory_limit_mib:
            return self.memory_limit_mib << 20
        layers, width = min(header.block_count, 1024), min(header.embedding_length, 1 << 16)
        context = 4 * layers * width * (self.context(header) + 256) * self.n_parallel
        return _BASE + 2 * check_size(path, available=0) + context


def _threads() -> int:
    """Return one less than the processors that we may use: the rest of the program wants to run too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def command() -> list[str]:
    """Return the command line of a child: our own Python, with our own search path."""
    import json

    return [sys.executable, "-P", "-c", _START, json.dumps(sys.path)]


def environment() -> dict[str, str]:
    """Return the environment of a child: ours without keys, and no debugger when llama.cpp aborts."""
    kept = {name: value for name, value in os.environ.items() if not _PRIVATE.search(name)}
    return {**kept, "GGML_NO_BACKTRACE": "1"}


def private_directory() -> Path:
    """Make a directory that only we can enter, short enough for the path of a socket in it (about 100 bytes)."""
    place = None if len(os.fsencode(tempfile.gettempdir())) < 70 else "/tmp"  # noqa: S108 - mkdtemp makes it 0700
    return Path(tempfile.mkdtemp(prefix="pointsman-", dir=place))
