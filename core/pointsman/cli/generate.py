"""`pointsman generate`: the answer alone on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._output import answer, as_json, note
from ._router import config_option, json_option, router_of

if TYPE_CHECKING:
    from pointsman import Completion, Router

_DEMONSTRATION = """
A small demonstration model answered; it is often wrong. For a real one:
  - set the key of a provider:  export OPENAI_API_KEY=... OPENAI_MODEL=...
  - or name a GGUF model:       export POINTSMAN_MODEL=/path/to/model.gguf
  - or write pointsman.toml; docs/configuration.md says how.
`pointsman order` shows who would answer next, and why."""


@click.command(no_args_is_help=False)
@click.argument("prompt", nargs=-1)
@click.option("--stream", "streamed", is_flag=True, help="Print the answer while it comes.")
@json_option
@click.option("--backend", metavar="ID", help="Ask this backend only.")
@click.option("--system", metavar="TEXT", help="Instructions that stand before the prompt.")
@click.option("--schema", "schema_file", metavar="FILE", help="JSON Schema that the answer must fulfil.")
@click.option("--max-tokens", type=int, metavar="N", help="Longest answer, in tokens.")
@click.option("--temperature", type=float, metavar="X", help="From 0 (steady) to 2 (wild).")
@click.option("--model", metavar="NAME", help="Model for the first backend of the order.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Longest time to wait, in all.")
@click.option("--local-only", is_flag=True, help="Send nothing off this machine.")
@click.option("--drop-unsupported", is_flag=True, help="Leave out what a model does not take.")
@config_option
def generate(
    prompt: tuple[str, ...],
    streamed: bool,
    as_json_: bool,
    schema_file: str | None,
    config_file: str | None,
    **options: Any,
) -> int:
    """Answer PROMPT.

    PROMPT is read from standard input if it is not given; a last - stands for standard input too.
    The answer alone is printed on standard output; everything else goes to standard error.
    """
    from pointsman.errors import BackendError, ConfigError

    options = {name: value for name, value in options.items() if value is not None and value is not False}
    text = _prompt(prompt)
    try:
        if schema_file:
            options["schema"] = read_schema(schema_file)
        with router_of(config_file) as router:
            show = _stream if streamed else _whole
            completion = show(router, text, options, for_programs=as_json_)
            _remarks(router, completion)
    except (BackendError, ConfigError) as error:
        if as_json_:
            from ._failures import as_values

            as_json(as_values(error), indent=None if streamed else 2)
        raise
    return 0


def _prompt(words: tuple[str, ...]) -> str:
    text = " ".join(words)
    if words[-1:] in ((), ("-",)):
        before, piped = " ".join(words[:-1]), _standard_input(asked=bool(words))
        text = f"{before}\n\n{piped}" if before else piped
    if not text.strip():
        raise click.UsageError("the prompt is empty")
    return text


def _standard_input(*, asked: bool) -> str:
    if sys.stdin is None or (not asked and sys.stdin.isatty()):
        raise click.UsageError("no prompt: write it behind the command, or pipe it in")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the prompt on standard input is not UTF-8 text (byte {error.start})") from None


def read_schema(name: str) -> dict[str, Any]:
    try:
        schema = json.loads(Path(name).read_text("utf-8-sig"))
    except OSError as error:
        raise click.UsageError(f"--schema {name}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise click.UsageError(
            f"--schema {name}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--schema {name}: not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise click.UsageError(f"--schema {name}: found a {type(schema).__name__}, expected a JSON Schema (an object)")
    return schema


def _whole(router: Router, text: str, options: dict[str, Any], *, for_programs: bool) -> Completion:
    completion = router.generate(text, **options)
    if for_programs:
        as_json(_values(completion))
    else:
        answer(completion.text if completion.text.endswith("\n") else completion.text + "\n")
    return completion


def _stream(router: Router, text: str, options: dict[str, Any], *, for_programs: bool) -> Completion:
    last = "\n"
    with router.stream(text, **options) as stream:
        try:
            for chunk in stream:
                if for_programs and chunk.text:
                    as_json({"text": chunk.text}, indent=None)
                elif chunk.text:
                    answer(chunk.text)
                    last = chunk.text[-1]
        finally:
            if last != "\n":
                answer("\n")
        if for_programs:
            as_json({"completion": _values(stream.completion)}, indent=None)
        return stream.completion


def _values(completion: Completion) -> dict[str, Any]:
    import attrs

    return attrs.asdict(completion)


def _remarks(router: Router, completion: Completion) -> None:
    """Say on stderr what a person should know about this answer."""
    for attempt in completion.attempts:
        if attempt.outcome == "failed":
            note(f"{attempt.backend} failed ({attempt.error}: {attempt.reason})")
    if any(attempt.backend != completion.backend for attempt in completion.attempts):
        note(f"{completion.backend} answered instead")
    for warning in completion.warnings:
        note(warning)
    if completion.finish_reason == "length":
        note("the answer was cut at the limit of tokens; --max-tokens sets it")
    answered = next((backend for backend in router.backends if backend.id == completion.backend), None)
    if getattr(getattr(answered, "provider", None), "demonstration", False):
        note(_DEMONSTRATION if sys.stdout.isatty() else _DEMONSTRATION.lstrip())
