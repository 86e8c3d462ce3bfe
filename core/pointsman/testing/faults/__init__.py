"""The catalogue of faults: each a function that returns a `Fault` for a `FaultServer`.

`before` has those before any answer, `answers` the healthy answers and those that are none, `streams`
those of streams. `CATALOGUE` maps every name to its row and its maker. `timetables` plays them by the clock.
"""

from ._fault import CATALOGUE, Fault, Play, fault
from .answers import (
    bad_gzip,
    bad_utf8,
    broken_json,
    cut_json,
    empty_body,
    empty_choices,
    error_under_200,
    finish_error,
    html,
    length,
    models,
    no_finish,
    no_such_page,
    null_content,
    plain_text,
    refusal,
    safety_stop,
    thinking_only,
    well,
    whitespace,
    wrong_length,
)
from .before import (
    UNRESOLVABLE_URL,
    bad_key,
    bad_key_under_400,
    bad_request,
    content_filtered,
    context_too_long,
    drip,
    hang_up,
    no_money,
    no_permission,
    no_quota,
    nobody_listens,
    rate_limited,
    redirect,
    reset,
    reset_on_connect,
    silent,
    status,
    unknown_model,
    unsupported,
)
from .streams import (
    BIG_TEXT,
    CALL,
    HOSTILE,
    HOSTILE_TEXT,
    STORY,
    blank_lines_only,
    broken_event_after,
    comments_only,
    cut_after,
    cut_in_tool_call,
    empty_stream,
    error_event_after,
    error_first,
    hostile_text,
    late_first_token,
    lifecycle_then_error,
    no_done,
    no_finish_stream,
    pings_after,
    pings_only,
    reset_after,
    slow_for_ever,
    stall_after,
)
from .timetables import Timetable, flapping, later

# fmt: off
__all__ = [  # noqa: RUF022 - plain alphabet
    "BIG_TEXT", "CALL", "CATALOGUE", "Fault", "HOSTILE", "HOSTILE_TEXT", "Play", "STORY", "Timetable",
    "UNRESOLVABLE_URL",
    "bad_gzip", "bad_key", "bad_key_under_400", "bad_request", "bad_utf8", "blank_lines_only",
    "broken_event_after", "broken_json", "comments_only", "content_filtered", "context_too_long", "cut_after",
    "cut_in_tool_call", "cut_json", "drip", "empty_body", "empty_choices", "empty_stream", "error_event_after",
    "error_first", "error_under_200", "fault", "finish_error", "flapping", "hang_up", "hostile_text", "html",
    "late_first_token", "later", "length", "lifecycle_then_error", "models", "no_done", "no_finish", "no_finish_stream",
    "no_money", "no_permission", "no_quota", "no_such_page", "nobody_listens", "null_content", "pings_after",
    "pings_only", "plain_text", "rate_limited", "redirect", "refusal", "reset", "reset_after",
    "reset_on_connect", "safety_stop", "silent", "slow_for_ever", "stall_after", "status", "thinking_only",
    "unknown_model", "unsupported", "well", "whitespace", "wrong_length",
]
# fmt: on
