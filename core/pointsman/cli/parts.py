"""For plugin authors: what a command is made of, so that one of a plugin looks and behaves like ours.

`config_option` and `json_option` pass `config_file` and `as_json_`; `router_of` and `store_of` open what that file
describes; `answer`, `table` and `as_json` write to stdout, `note` and `complain` to stderr, `written` to a file.
`in_a_line` is for names and for what others say. `Bytes` shows how far bytes are, of `size_of` a path.

A command returns its exit code. It may let a `BackendError` or a `ConfigError` out: people get its message, and the
exit code is 1 or 2.
"""

from ._bytes import Bytes, size_of, written
from ._output import answer, as_json, complain, in_a_line, note, table
from ._router import config_option, find_config, json_option, router_of, store_of

__all__ = [
    "Bytes",
    "answer",
    "as_json",
    "complain",
    "config_option",
    "find_config",
    "in_a_line",
    "json_option",
    "note",
    "router_of",
    "size_of",
    "store_of",
    "table",
    "written",
]
