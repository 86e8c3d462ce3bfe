"""The group of all commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from ._added import CODES, Extensible
from ._output import close_output, complain, settle_output
from .batch import batch
from .config import config
from .generate import generate
from .health import health
from .models import models
from .order import order
from .plugins import plugins
from .store import store

#: What other programs exit with when nobody reads their output any more: 128 + SIGPIPE. `pipefail` notices it.
_LEFT = 141
#: 128 + SIGINT.
_INTERRUPTED = 130
#: What `code` an error has of a disk that is full, or fails: that is nobody's mistake.
_FULL = {str(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)}

_EPILOG = f"""\b
Examples:
  pointsman generate "Name three rivers."
  cat letter.txt | pointsman generate "Summarise in one sentence:" -
  pointsman generate --backend main --schema person.json --json "Ada, 36"
  pointsman batch prompts.jsonl -o answers.jsonl
  pointsman store put letter.pdf photos/
  pointsman health
  pointsman models --backend main
  pointsman config check pointsman.toml

\b
The configuration is the file named by --config, else by POINTSMAN_CONFIG, else
./pointsman.json or ./pointsman.toml. Without one, every installed provider is
used that finds its key, its program or its model. POINTSMAN_LOG=debug shows
every attempt.

{CODES}"""


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from pointsman import __version__

        click.echo(f"pointsman {__version__}")
        context.exit()


class _Pointsman(Extensible):
    """Lets a reader of the output leave early."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Return what the command runs in; `--help` and `--version` write here."""
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            close_output()
            raise click.exceptions.Exit(_LEFT) from None

    def invoke(self, ctx: click.Context) -> int:
        """Run the command that was named, and return its exit code."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            close_output()
            return _LEFT
        return code if isinstance(code, int) else 0


@click.group(
    cls=_Pointsman,
    name="pointsman",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def app() -> None:
    """Send a language-model request to the right provider and get a whole answer back."""


for _command in (generate, batch, store, health, order, models, plugins, config):
    app.add_command(_command)
for _command in (*app.commands.values(), *config.commands.values(), *store.commands.values()):
    _command.epilog = _command.epilog or CODES


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. A person's mistake is a message, never a traceback."""
    settle_output()
    if sys.stdout is None:  # what is opened next would be in its place, and be written over
        complain("the standard output is closed; send it to /dev/null if nobody reads it")
        return 1
    try:
        code = app.main(arguments, prog_name="pointsman", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _end_at_once_next_time()
        complain("interrupted")
        return _INTERRUPTED
    except Exception as error:
        from pointsman.errors import BackendError, ConfigError, InvalidRequestError

        if not isinstance(error, BackendError | ConfigError):
            raise
        from ._failures import tell

        asked = sys.argv[1:] if arguments is None else arguments
        if asked[:1] != ["store"]:
            return tell(error)
        code, mistaken = tell(error, "store status"), isinstance(error, InvalidRequestError) and error.code not in _FULL
        return 2 if mistaken else code  # a CID that is none, a path where nothing is
    if code == _INTERRUPTED:
        _end_at_once_next_time()
    return code if isinstance(code, int) else 0


def _end_at_once_next_time() -> None:
    """Let Ctrl-C, once more, end the process as the first one did, whatever is still at work in it."""
    with suppress(ValueError):  # not in the thread to which signals come
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
