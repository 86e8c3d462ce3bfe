"""The default engine: llama.cpp's own server code, which batches by itself.

Written for xllamacpp 2026.10. Every answer is streamed inside, also where the caller wants it whole: only
a callback with `return_progress` can stop a prompt that is still being read.
"""

from __future__ import annotations

import secrets
from typing import Any

from . import Cancelled, Emit, EngineMissing, Refused

#: Tokens of prompts that are worked on in one step. It may take two steps until a cancelled one is let go, and
#: as many until another gets its turn. Larger ones are not faster on a CPU; on a GPU they are.
_BATCH, _GPU_BATCH = 128, 512


def load(settings: dict[str, Any]) -> Xllamacpp:
    """Load the model: blocks, holds the GIL, and may kill or hang the process if the file is hostile.

    :raises EngineMissing: xllamacpp is not there.
    :raises Exception: of any class: the model cannot be loaded; why, is on fd 2.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise EngineMissing(f"xllamacpp cannot be imported: {error}") from error
    return Xllamacpp(xllamacpp.Server(_parameters(xllamacpp, settings)), settings["n_parallel"])


def _parameters(module: Any, settings: dict[str, Any]) -> Any:
    parameters = module.CommonParams()
    parameters.model.path = settings["path"]
    slots, threads = settings["n_parallel"], settings["n_threads"]
    context = -(-settings["n_ctx"] // 256) * 256  # llama.cpp rounds each slot's context so
    for threading in (parameters.cpuparams, parameters.cpuparams_batch):
        threading.n_threads = threads
    batch = _GPU_BATCH if settings["n_gpu_layers"] else _BATCH
    needed = {
        "n_parallel": slots,
        "n_ctx": slots * context,
        "n_batch": batch,
        "n_ubatch": batch,
        "n_gpu_layers": settings["n_gpu_layers"],
        "verbosity": 1,  # only then does it say on fd 2 why a model does not load
        # It always opens an HTTP listener. Nobody else is to use it: a socket in a private directory, and a key.
        "hostnames": [settings["socket"]],
        "api_keys": [secrets.token_hex(16)],
        # Split and without flash attention: the only way in which a batch does not change what is answered.
        "kv_unified": False,
        "flash_attn_type": module.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }
    for name, value in needed.items():
        setattr(parameters, name, value)
    if settings["chat_template"] is not None:
        parameters.chat_template = settings["chat_template"]
    # `fit_params` loads everything twice, and may change what was asked for
    wished = {
        "fit_params": False,
        "warmup": False,
        "cache_ram_mib": 64,
        "endpoint_slots": False,
        "ctx_shift": False,
        "use_jinja": True,
    }
    for name, value in wished.items():
        if hasattr(parameters, name):  # names come and go from release to release
            setattr(parameters, name, value)
    return parameters


class Xllamacpp:
    """A model in llama.cpp's server."""

    def __init__(self, server: Any, slots: int) -> None:
        self._server = server
        self.slots = slots

    def answer(self, body: dict[str, Any], emit: Emit, cancelled: Cancelled) -> None:
        """Work on one request (see `Engine`)."""
        listener = _Listener(emit, cancelled)
        try:
            result = self._server.handle_chat_completions(_wire(body), listener)
        except ValueError as error:
            raise Refused("request", str(error)) from error
        except RuntimeError as error:
            raise _refused({"message": str(error)}) from error
        if isinstance(result, dict) and "error" in result:
            raise _refused(result["error"])
        if listener.error is not None:
            raise _refused(listener.error)
        if listener.reason is not None:
            emit({"end": listener.end()})


class _Listener:
    """Takes the pieces of one answer. An exception in here would end the answer in silence, so none is raised."""

    def __init__(self, emit: Emit, cancelled: Cancelled) -> None:
        self._emit = emit
        self._cancelled = cancelled
        self._calls: list[list[str]] = []
        self._usage: dict[str, Any] = {}
        self.error: dict[str, Any] | None = None
        self.reason: str | None = None

    def __call__(self, event: Any) -> bool:
        """Take what has come. True asks the engine to stop."""
        for piece in event if isinstance(event, list) else (event,):
            if "error" in piece:
                self.error = piece["error"]
            elif "prompt_progress" in piece:
                self._emit({"busy": True})
            else:
                self._usage = piece.get("usage") or self._usage
                for choice in piece.get("choices", ()):
                    self._delta(choice)
        return self._cancelled()

    def _delta(self, choice: dict[str, Any]) -> None:
        delta = choice["delta"]
        if text := delta.get("content"):
            self._emit({"text": text})
        if text := delta.get("reasoning_content"):
            self._emit({"reasoning": text})
        for part in delta.get("tool_calls") or ():
            self._call(part)
        self.reason = choice.get("finish_reason") or self.reason

    def _call(self, part: dict[str, Any]) -> None:
        while len(self._calls) <= part["index"]:
            self._calls.append(["", "", ""])
        call, function = self._calls[part["index"]], part.get("function") or {}
        call[0] = part.get("id") or call[0]
        call[1] = function.get("name") or call[1]
        call[2] += function.get("arguments") or ""
        self._emit({"busy": True})

    def end(self) -> dict[str, Any]:
        """Return what the last event says. A call that the limit of tokens cut is left out."""
        usage = self._usage
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return {
            "reason": self.reason,
            "usage": [usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), cached],
            "calls": self._calls[:-1] if self.reason == "length" else self._calls,
        }


def _wire(body: dict[str, Any]) -> dict[str, Any]:
    """Return the request in the form of OpenAI's chat completions, as llama.cpp's server reads it."""
    wire = {**body, **body["extra"], "stream": True, "return_progress": True, "stream_options": {"include_usage": True}}
    del wire["extra"]
    if schema := wire.pop("schema", None):
        wire["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if "seed" in wire:
        wire["cache_prompt"] = False  # a prompt found in the cache is computed in other steps, and rounds otherwise
    return wire


def _refused(error: dict[str, Any]) -> Refused:
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        return Refused("context", message, limit=error.get("n_ctx"), needed=error.get("n_prompt_tokens"))
    if "does not match the expected" in message:
        return Refused("unusable", message)
    if error.get("code") == 400 or "grammar" in message or "arguments as JSON" in message:
        return Refused("request", message)
    return Refused("engine", message)
