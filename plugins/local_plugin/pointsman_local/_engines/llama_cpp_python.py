"""The second engine, where xllamacpp is missing or does not run: llama-cpp-python, one request at a time.

Written for llama-cpp-python 0.3. It uses `Llama.generate`, and not the chat completions above it, which
take the whole text apart again for each token, ignore output schemas and count nothing while streaming.
"""

from __future__ import annotations

import codecs
import ctypes
import json
import random
import re
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any

from . import Cancelled, Emit, EngineMissing, Refused

_BATCH = 256
#: What llama.cpp itself takes for a file without a chat template.
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LEAST_LEVEL = 3  # GGML_LOG_LEVEL_ERROR
#: our name -> (the engine's, what it is without a wish): the values that xllamacpp has
_SAMPLING = {
    "temperature": ("temp", 0.8),
    "top_p": ("top_p", 0.95),
    "top_k": ("top_k", 40),
    "min_p": ("min_p", 0.05),
    "typical_p": ("typical_p", 1.0),
    "repeat_penalty": ("repeat_penalty", 1.0),
    "frequency_penalty": ("frequency_penalty", 0.0),
    "presence_penalty": ("presence_penalty", 0.0),
}
#: A character beyond U+FFFF as its converter writes it; llama.cpp reads that as two characters.
_PAIR = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)


def _joined(pair: re.Match[str]) -> str:
    high, low = int(pair[1], 16), int(pair[2], 16)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def load(settings: dict[str, Any]) -> LlamaCppPython:
    """Load the model.

    :raises EngineMissing: llama-cpp-python is not there.
    :raises Exception: of any class: the model cannot be loaded; why, is on fd 2.
    """
    try:
        import llama_cpp
        from llama_cpp import llama_cpp as low
    except (ImportError, OSError, RuntimeError) as error:  # its library is found and loaded while importing
        raise EngineMissing(f"llama_cpp cannot be imported: {error}") from error
    say = low.llama_log_callback(_say)
    low.llama_log_set(say, ctypes.c_void_p(0))
    defaults = low.llama_model_default_params

    def without_extra_buffers() -> Any:
        parameters = defaults()
        parameters.use_extra_bufts = False  # builds by gcc 12 crash on processors with AMX (llama.cpp issue 20824)
        return parameters

    low.llama_model_default_params = without_extra_buffers  # `Llama` has no parameter for it
    llama = llama_cpp.Llama(
        settings["path"],
        n_ctx=settings["n_ctx"],
        n_batch=_BATCH,
        n_ubatch=_BATCH,
        n_threads=settings["n_threads"],
        n_threads_batch=settings["n_threads"],
        n_gpu_layers=settings["n_gpu_layers"],
        verbose=True,  # False would point fds 1 and 2 elsewhere while it loads
    )
    return LlamaCppPython(llama, low, say, settings["chat_template"])


def _say(level: int, text: bytes, _user: Any) -> None:
    if level == _LEAST_LEVEL:
        sys.stderr.write(text.decode("utf-8", "replace"))
        sys.stderr.flush()


class LlamaCppPython:
    """A model in llama-cpp-python. One thread only may use it."""

    slots = 1

    def __init__(self, llama: Any, low: Any, say: Any, template: str | None) -> None:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        self._llama = llama
        self._low = low
        self._vocabulary = low.llama_model_get_vocab(llama.model)
        template = template or llama.metadata.get("tokenizer.chat_template") or _CHATML
        self._format = Jinja2ChatFormatter(template, self._text_of(llama.token_eos()), self._text_of(llama.token_bos()))
        self._cancelled: Cancelled = lambda: False
        self._emit: Emit = lambda event: None
        self._said = 0.0
        self._kept = (say, low.ggml_abort_callback(self._abort))  # the C side holds no reference
        low.llama_set_abort_callback(llama.ctx, self._kept[1], None)

    def answer(self, body: dict[str, Any], emit: Emit, cancelled: Cancelled) -> None:
        """Work on one request (see `Engine`)."""
        if body.get("tools") or "logit_bias" in body["extra"]:
            raise Refused("request", "the engine llama-cpp-python takes neither tools nor logit_bias; xllamacpp does")
        self._emit, self._cancelled, self._said = emit, cancelled, monotonic()
        prompt = self._prompt(body)
        grammar = self._grammar(body.get("schema"))
        if "seed" in body:
            self._llama.reset()  # a prompt found in the cache is computed in other steps, and rounds otherwise
        self._llama.set_seed(body.get("seed", random.getrandbits(31)))
        options = dict(_SAMPLING.values())
        options |= {_SAMPLING[key][0]: body[key] for key in _SAMPLING.keys() & body.keys()}
        options |= {_SAMPLING[key][0]: body["extra"][key] for key in _SAMPLING.keys() & body["extra"].keys()}
        held = self._llama.input_ids[: self._llama.n_tokens].tolist()
        cached = min(self._llama.longest_token_prefix(held, prompt), len(prompt) - 1)
        most = min(body.get("max_tokens") or len(self._llama.input_ids), self._llama.n_ctx() - len(prompt))
        try:
            tokens = self._llama.generate(prompt, grammar=grammar, **options)
            written, reason = self._write(tokens, most, tuple(body.get("stop") or ()))
        except RuntimeError as error:
            self._llama.reset()
            if cancelled():
                return
            raise Refused("engine", str(error)) from error
        emit({"end": {"reason": reason, "usage": [len(prompt), written, cached], "calls": []}})

    def _prompt(self, body: dict[str, Any]) -> list[int]:
        try:
            text = self._format(messages=body["messages"], **body["extra"].get("chat_template_kwargs", {})).prompt
        except Exception as error:
            raise Refused("request", f"the chat template refuses: {type(error).__name__}: {error}") from error
        tokens: list[int] = self._llama.tokenize(text.encode(), add_bos=True, special=True)
        if tokens[:2] == [self._llama.token_bos()] * 2:
            del tokens[0]  # the template has written it already
        if not tokens:
            raise Refused("request", "the chat template makes an empty prompt of this")
        limit = self._llama.n_ctx()
        if len(tokens) >= limit:
            raise Refused(
                "context", f"{len(tokens)} tokens, expected less than {limit}", limit=limit, needed=len(tokens)
            )
        return tokens

    def _grammar(self, schema: dict[str, Any] | None) -> Any:
        if schema is None:
            return None
        from llama_cpp.llama_grammar import LlamaGrammar, json_schema_to_gbnf

        try:
            text = _PAIR.sub(_joined, json_schema_to_gbnf(json.dumps(schema)))
        except Exception as error:
            raise Refused("request", f"schema: cannot be enforced: {type(error).__name__}: {error}") from error
        sampler = self._low.llama_sampler_init_grammar(self._vocabulary, text.encode(), b"root")
        if not sampler:  # it would be added to the chain unchecked, and kill us
            raise Refused("request", "schema: cannot be enforced: its grammar does not compile")
        self._low.llama_sampler_free(sampler)
        return LlamaGrammar.from_string(text, verbose=False)

    def _write(self, tokens: Iterator[int], most: int, stops: tuple[str, ...]) -> tuple[int, str]:
        """Emit the text of `tokens`. Return how many there were and why they ended."""
        text = _Text(stops)
        written = 0
        for token in tokens:
            if self._cancelled():
                break
            written += 1
            if self._low.llama_vocab_is_eog(self._vocabulary, token):
                self._say_text(text.rest())
                return written, "stop"
            self._say_text(text.add(self._piece(token)))
            if text.stopped:
                return written, "stop"
            if written >= most:
                break
        self._say_text(text.rest())
        return written, "length"

    def _say_text(self, text: str) -> None:
        if text:
            self._emit({"text": text})

    def _piece(self, token: int, *, special: bool = False) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._low.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _text_of(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _abort(self, _data: Any) -> bool:
        """Say whether to stop: asked by llama.cpp between the steps of its computation."""
        if monotonic() - self._said > 1:
            self._said = monotonic()
            self._emit({"busy": True})
        return self._cancelled()


class _Text:
    """Makes text out of the bytes of tokens: whole characters, and nothing of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # may be the beginning of a stop string
        self.stopped = False

    def add(self, piece: bytes) -> str:
        """Return what may be shown now."""
        text = self._held + self._decoder.decode(piece)
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[: min(ends)]
        keep = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """Return what was held back. The beginning of a character that never came whole is dropped."""
        text, self._held = self._held, ""
        return text
