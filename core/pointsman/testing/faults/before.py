"""Faults before any answer (rows 1 to 14)."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Literal

from ..answers import WireError
from ._fault import CATALOGUE, Fault, Play, fault

if TYPE_CHECKING:
    from .._connection import Exchange

#: A host that no resolver knows (RFC 6761): row 6, DNS failure.
UNRESOLVABLE_URL = "http://nowhere.invalid/v1"

_PAGE = b"<!DOCTYPE html><html><head><title>%d</title></head><body><h1>Bad gateway</h1></body></html>"


@contextmanager
def nobody_listens() -> Iterator[str]:
    """Row 6: yield a URL whose port refuses connections, for as long as the block lasts."""
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port, and it refuses
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@fault(4, 5)
def status(
    code: int = 503,
    error: WireError | None = None,
    *,
    body: Literal["json", "html", "text", "empty"] = "json",
    headers: Mapping[str, str] | None = None,
) -> Play:
    """Rows 4, 5 and every other error by status: an error object of the wire, or another body, or none."""

    async def play(x: Exchange) -> None:
        if body == "json":
            await x.respond(code, x.wire.error(error or WireError(status=code)), headers=headers)
            return
        page = {"html": _PAGE % code, "text": b"upstream connect error", "empty": b""}[body]
        await x.respond(code, page, content_type="text/plain" if body == "text" else "text/html", headers=headers)

    return play


@fault(1, 2, 3)
def rate_limited(
    retry_after: float | str | None = None,
    *,
    retry_after_ms: float | None = None,
    in_seconds: float | None = None,
    in_body: float | None = None,
) -> Play:
    """Rows 1 to 3: 429.

    :param retry_after: `Retry-After` in seconds, or any text.
    :param retry_after_ms: `retry-after-ms` in milliseconds.
    :param in_seconds: `Retry-After` as the HTTP date that lies so many seconds ahead.
    :param in_body: seconds, as Google's `RetryInfo` among the error's details.
    """

    async def play(x: Exchange) -> None:
        headers: dict[str, str] = {}
        if in_seconds is not None:
            when = datetime.now(UTC) + timedelta(seconds=in_seconds)
            headers["Retry-After"] = format_datetime(when, usegmt=True)
        if retry_after is not None:
            headers["Retry-After"] = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
        if retry_after_ms is not None:
            headers["retry-after-ms"] = f"{retry_after_ms:g}"
        extra: dict[str, Any] = {}
        if in_body is not None:
            info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{in_body:g}s"}
            extra["details"] = [info]
        error = WireError("Rate limit reached for requests", "requests", "rate_limit_exceeded", None, 429, extra)
        await x.respond(429, x.wire.error(error), headers=headers)

    return play


def _error(row: int, name: str, doc: str, default: WireError) -> Any:
    """Define a fault that sends one error object under its status."""

    def make(message: str | None = None, *, status: int = default.status, code: str | None = default.code) -> Play:
        async def play(x: Exchange) -> None:
            error = WireError(message or default.message, default.type, code, default.param, status)
            await x.respond(status, x.wire.error(error))

        return play

    make.__name__, make.__doc__ = name, doc
    return fault(row)(make)


bad_key = _error(
    8,
    "bad_key",
    "Row 8: 401, the key is wrong.",
    WireError("Incorrect API key provided: sk-te**ting.", "invalid_request_error", "invalid_api_key", None, 401),
)
no_permission = _error(
    8,
    "no_permission",
    "Row 8: 403, the key may not do this here.",
    WireError("Country, region, or territory not supported", "request_forbidden", "unsupported_country", None, 403),
)
no_money = _error(
    8,
    "no_money",
    "Row 8: 402, nothing is left to pay with.",
    WireError("Insufficient credits", "billing_error", None, None, 402),
)
no_quota = _error(
    8,
    "no_quota",
    "Row 8: 429 that waiting does not cure.",
    WireError("You exceeded your current quota", "insufficient_quota", "credit_balance_exhausted", None, 429),
)
bad_key_under_400 = _error(
    8,
    "bad_key_under_400",
    "Row 8: the key is wrong, said with 400.",
    WireError("API key not valid. Please pass a valid API key.", "invalid_request_error", "API_KEY_INVALID", None, 400),
)
unknown_model = _error(
    9,
    "unknown_model",
    "Row 9: 404 (or `status=400`) for a model that is not there.",
    WireError(
        "The model `x` does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
        "model",
        404,
    ),
)
context_too_long = _error(
    10,
    "context_too_long",
    "Row 10: 400, more tokens than fit the model.",
    WireError(
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.",
        "invalid_request_error",
        "context_length_exceeded",
        "messages",
        400,
    ),
)
content_filtered = _error(
    11,
    "content_filtered",
    "Row 11: 400, a filter refused the prompt.",
    WireError(
        "Your request was rejected by the safety system.",
        "invalid_request_error",
        "content_policy_violation",
        None,
        400,
    ),
)


@fault(12)
def unsupported(parameter: str = "temperature", *, always: bool = False) -> Play:
    """Row 12: 400 while the request has `parameter` (or `always`), a healthy answer without it."""

    async def play(x: Exchange) -> None:
        body = x.seen.body if isinstance(x.seen.body, dict) else {}
        if not always and parameter not in {**body, **body.get("generationConfig", {})}:
            await x.answer()
            return
        message = f"Unsupported parameter: '{parameter}' is not supported with this model."
        error = WireError(message, "invalid_request_error", "unsupported_parameter", parameter, 400)
        await x.respond(400, x.wire.error(error))

    return play


@fault(13)
def bad_request(message: str = "Invalid value: 'robot'.", *, status: int = 400, shape: str = "object") -> Play:
    """Row 13: any other 400 or 422. `shape="detail"` is how FastAPI servers say it."""

    async def play(x: Exchange) -> None:
        detail = [{"loc": ["body", "messages", 0, "role"], "msg": message, "type": "value_error"}]
        error = WireError(message, "invalid_request_error", "invalid_value", "messages[0].role", status)
        await x.respond(status, {"detail": detail} if shape == "detail" else x.wire.error(error))

    return play


@fault(6)
def reset(when: Literal["request", "headers", "body"] = "request") -> Play:
    """Row 6: RST after the request has been read, within the response's headers, or within its body.

    A reset before anything is read is `reset_on_connect`.
    """

    async def play(x: Exchange) -> None:
        if when == "headers":
            await x.send_apart([b"HTTP/1.1 200 OK\r\nContent-"])
        elif when == "body":
            await x.send_apart([b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"])
        x.reset()

    return play


def reset_on_connect() -> Fault:
    """Row 6: RST as soon as the connection is there, before a request is read.

    On a connection that was kept open it comes as soon as the next request has been read.
    """
    return Fault("reset_on_connect()", _reset, on_connect=True)


async def _reset(x: Exchange) -> None:
    x.reset()


CATALOGUE["reset_on_connect"] = ((6,), reset_on_connect)


@fault(6)
def hang_up() -> Play:
    """Row 6: FIN after the request, without a byte of response."""

    async def play(x: Exchange) -> None:
        x.close()

    return play


@fault(7)
def silent() -> Play:
    """Row 7: accepts the connection, reads the request and says nothing."""

    async def play(x: Exchange) -> None:
        await x.hold()

    return play


@fault(7)
def drip(interval: float = 1.0, *, part: Literal["headers", "body"] = "headers") -> Play:
    """Row 7: one byte every `interval` seconds, of the headers or, after them, of a healthy body."""

    async def play(x: Exchange) -> None:
        filler = b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 60_000
        if part == "body":
            await x.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n")
            filler = b" " * 59_998 + b"{}"
        for number in range(len(filler)):
            await x.send(filler[number : number + 1])
            await x.sleep(interval)

    return play


@fault(14)
def redirect(status: int = 307, *, loop: bool = False, to: str | None = None) -> Play:
    """Row 14: a redirect to `to`, to this server's `/elsewhere`, or (loop) to the path that was asked."""

    async def play(x: Exchange) -> None:
        place = to or x.origin + (x.seen.path if loop else "/elsewhere")
        await x.respond(status, b"", headers={"Location": place})

    return play
