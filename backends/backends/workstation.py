"""A GGUF model in this machine's memory: nothing leaves it, and no network is needed."""

from __future__ import annotations

from pathlib import Path

from .text_backend import MAX_TOKENS, TEMPERATURE, TextBackend, router_for


class WorkstationBackend(TextBackend):
    """Answers with a model file of this machine. Needs `pip install pointsman-local`.

    The model is loaded by the first call, in a process of its own, which `close` ends.

    :param id: its name.
    :param type: what an entry of a configuration says of itself: `workstation`, or `local`.
    :param model_path: the GGUF file, or `package:DISTRIBUTION/FILE`; without it, what the plugin finds.
    :param n_ctx: tokens that a request and its answer may have together.
    :param n_threads: of the processor.
    :param n_gpu_layers: layers of the model that the graphics card computes.
    :param n_parallel: requests answered at once.
    :param chat_template: in place of the one in the file.
    :param engine: "xllamacpp" or "llama-cpp-python".
    :param max_tokens: of an answer.
    :param temperature: from 0 to 2.
    :param timeout: seconds that one attempt may take.
    :param max_retries: further attempts, where trying again may help.
    :param verbose: show every attempt on stderr.
    :raises ConfigError: an argument is wrong. A plugin that is not installed is told by the first call.
    """

    def __init__(  # noqa: PLR0913 - the complaint generator's own names
        self,
        *,
        id: str = "workstation",
        type: str | None = None,
        model_path: str | Path | None = None,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_gpu_layers: int | None = None,
        n_parallel: int | None = None,
        chat_template: str | None = None,
        seed: int | None = None,
        engine: str | None = None,
        max_tokens: int | None = MAX_TOKENS,
        temperature: float | None = TEMPERATURE,
        top_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(id, router_for({**locals(), "options": None}, "local"))
