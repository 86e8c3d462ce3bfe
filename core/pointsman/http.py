"""HTTP for plugin authors: pooled connections, true limits, typed errors, event streams.

    client = Client("https://api.example.com/v1", auth=("Authorization", "Bearer ", key))
    answer = client.post_json("chat", body, request.scope)          # .data is the JSON, .headers its headers
    with client.post_events("chat", body, request.scope) as events:
        for event in events:                                        # Event(name, data)
            piece = event.json()                                    # raises what an error event means
            events.content_seen()                                   # the model speaks: idle_timeout counts now

Everything that goes wrong is raised as the `BackendError` that says what follows from it. Nothing is
retried (but a request that a kept connection lost at once, without a byte of answer, is sent once
more), no redirect followed, no `.netrc` read. The proxy variables, `REQUESTS_CA_BUNDLE`,
`CURL_CA_BUNDLE` and `SSL_CERT_FILE` count. No error that comes from here holds a key: neither its text,
nor its traceback with local variables, nor a cause.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from string import punctuation
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from . import errors as e
from ._classify import classify, error_in
from ._events import Event, EventParser, parsed
from ._http_transport import CONNECT_S, Exchange, Headers, Server, revealed
from .scope import Scope
from .secret import Secret, redact
from .values import Usage

if TYPE_CHECKING:
    import requests

__all__ = ["Answer", "Client", "Event", "EventParser", "Events", "charged", "classify", "error_in", "promised_form"]

_ERROR_BODY_S = 5.0  # an error is worth no longer wait for its text
_DONE_S = 0.05
_ACCEPT = {"accept": "application/json, text/event-stream", "accept-encoding": "identity"}
_URL = re.compile(r"(https?://(?:[\w.-]+|\[[\da-f:.%]+\])(?::\d{1,5})?)(/[^?#]*)?(?:\?([^#]*))?", re.ASCII | re.I)


class Answer(NamedTuple):
    """A plain answer: the Python values of its JSON, and its headers, to be looked up with `get`, in any case."""

    data: Any
    headers: Mapping[str, str]


class Client:
    """Speaks JSON with one server. Thread-safe, and safe to use in a forked child.

    It keeps its connections, for all threads, until it is closed or gone.

    :param base_url: what every path is appended to; a query in it is sent with every request.
    :param headers: sent with every request. Give values that are secret as `Secret`.
    :param auth: (header, what stands before the key, the key); without a key nothing is sent.
    :param session: a `requests.Session` to send through instead, for its adapters, proxies and headers. It
        must be fit for use by many threads. Its limits are weaker: each single wait for bytes gets the time
        that was left when the request began, deadline and cancelling count between the pieces of a body, and
        nothing but that single wait bounds the headers.
    :raises ConfigError: the URL, or a header, cannot be sent.
    """

    _origin = _prefix = ""  # of one that could not be made: a traceback shows its repr, too

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str | Secret] | None = None,
        auth: tuple[str, str, Secret | None] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        url = _URL.fullmatch(base_url)
        if url is None:
            base_url = redact(re.sub("//.*@", "//***@", base_url))  # a password may not be seen in the traceback
            raise e.ConfigError(f"base_url: found {base_url!r}, expected http(s)://HOST and no user name or password")
        self._origin, self._prefix, self._query = url[1], (url[2] or "").rstrip("/"), url[3]
        self.host = self._origin.partition("//")[2]
        self._session = session
        self._server: Server | None = None
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}
        if auth is not None and auth[2] is not None:
            self._headers[auth[0].lower()] = Secret(auth[1] + auth[2].reveal())
            self._key = auth[2]  # a key is masked in messages as long as somebody holds it
            _check_header(auth[0], self._headers[auth[0].lower()], "the key, sent as the header")
        for name, value in self._headers.items():
            _check_header(name, value)

    def __repr__(self) -> str:
        return f"Client({self._origin}{self._prefix})"

    def post_json(self, path: str, body: Any, scope: Scope) -> Answer:
        """Send `body` as JSON and return the JSON of the answer.

        :raises BackendError: there is none; an error object under status 200 counts as an error.
        """
        return self._whole("POST", path, body, scope)

    def get_json(self, path: str, scope: Scope) -> Answer:
        """Fetch the JSON at `path`. Raises as `post_json` does."""
        return self._whole("GET", path, None, scope)

    def post_events(self, path: str, body: Any, scope: Scope) -> Events:
        """Send `body` as JSON and return the stream of events that answers it, once its headers are there."""
        return Events(self._begun("POST", path, body, scope))

    def close(self) -> None:
        """Close the idle connections. The client stays usable."""
        if self._server is not None:
            self._server.close()

    def _whole(self, method: str, path: str, body: Any, scope: Scope) -> Answer:
        exchange = self._begun(method, path, body, scope)
        value = parsed(exchange.step(exchange.read_all), self.host)
        if isinstance(value, e.BackendError):
            raise value
        return Answer(value, exchange.answer.headers)

    def _begun(self, method: str, path: str, body: Any, scope: Scope) -> Exchange:
        exchange = Exchange(scope, self.host)
        exchange.step(self._send, exchange, method, path, body)
        if exchange.answer.status != 200:
            raise exchange.step(_refusal, exchange)
        return exchange

    def _send(self, exchange: Exchange, method: str, path: str, body: Any) -> None:
        try:
            data = b"" if body is None else json.dumps(body).encode()
        except (TypeError, ValueError) as error:
            raise e.InvalidRequestError(f"the request holds a value that JSON cannot carry: {error}") from None
        target = quote(f"{self._prefix}/{path.lstrip('/')}", safe=punctuation)
        if self._query:
            target += ("&" if "?" in path else "?") + self._query
        headers: Headers = {**_ACCEPT, **self._headers}
        if data:
            headers = {"content-type": "application/json", "content-length": str(len(data)), **headers}
        if self._session is None:
            self._server = self._server or Server(self._origin)
            self._server.send(exchange, method, target, headers, data)
            return
        url, sent = self._origin + target, {name: revealed(value) for name, value in headers.items()}
        auth = self._session.auth or (lambda request: request)  # without any, requests would look into .netrc
        wait = min(exchange.left(), CONNECT_S), exchange.left()
        answer = self._session.request(
            method, url, data=data, headers=sent, auth=auth, stream=True, allow_redirects=False, timeout=wait
        )
        exchange.answer, exchange.wake = answer.raw, getattr(answer.raw, "shutdown", None)


class Events(Iterator[Event]):
    """The events of one answer, as they come. One thread reads them; any thread may cancel the scope.

    Until `content_seen` is called, `scope.first_byte_by` limits the wait, whatever else the server sends;
    from then on `scope.idle_timeout` after each call of it; and `scope.deadline` always. Close it, or use it
    in a `with` statement: that closes the connection at once unless the answer has been read to its end.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._events = exchange, _events(exchange)
        self.headers: Mapping[str, str] = exchange.answer.headers

    def __next__(self) -> Event:
        return next(self._events)

    def content_seen(self) -> None:
        """Say that the model spoke: to be called for each event that holds content, and for no other."""
        idle = self._exchange.scope.idle_timeout
        self._exchange.step_by = inf if idle is None else monotonic() + idle
        self._exchange.late = "stopped in the middle of its answer"

    def ending(self, wait_s: float = 2.0) -> None:
        """Say that the answer is whole: the rest may take `wait_s`, and if it fails the iteration just ends.

        `data: [DONE]` says the same by itself, and is not handed out.
        """
        _ending(self._exchange, wait_s)

    def close(self) -> None:
        """End the exchange; if the answer has not been read to its end, close the connection."""
        self._exchange.close()

    __del__ = close

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _events(exchange: Exchange) -> Iterator[Event]:
    parser = EventParser()
    while not exchange.done:
        for event in exchange.step(parser.feed, exchange.read() or b"\n\n"):
            if event.data != "[DONE]":
                yield event
            else:  # what is left is the end of the body, and then the connection can be kept
                _ending(exchange, _DONE_S)


def _ending(exchange: Exchange, wait_s: float) -> None:
    exchange.whole, exchange.step_by = True, monotonic() + wait_s


def _refusal(exchange: Exchange) -> e.BackendError:
    """Return what an answer with another status than 200 means."""
    status, headers, body = exchange.answer.status, exchange.answer.headers, b""
    with suppress(e.BackendError):
        body = exchange.read_all(_ERROR_BODY_S)
    if not 300 <= status < 400:
        return classify(status, headers, body, where=exchange.host)
    to = re.match(r"\w+://([^/?#@\s]+)", headers.get("location", ""))
    what = f"HTTP {status}: {exchange.host} redirects to {to[1] if to else 'elsewhere'}: mend base_url"
    return e.UnavailableError(what, status=status, retry_same=False)


def _check_header(name: str, value: str | Secret, what: str = "header") -> None:
    bad = re.search("[\\r\\n\\0]|[^\\0-\\xff]", revealed(value))
    if bad is None and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
        return
    problem = f"character {bad.start() + 1} of its value" if bad else "its name"
    del value, bad  # neither may be seen in the traceback
    raise e.ConfigError(f"{what} {name!r}: {problem} cannot be sent: only Latin-1 without line breaks can")


@contextmanager
def promised_form() -> Iterator[None]:
    """Say what it means when the JSON of an answer is not of the form that its API promises.

    :raises UnusableAnswer: for the `AttributeError`, `LookupError` or `TypeError` of who took it for granted.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError) as error:
        raise e.UnusableAnswer(f"the answer is not of the form that the API promises: {error!r:.200}") from error


@contextmanager
def charged(counted: Callable[[], Usage | None]) -> Iterator[None]:
    """Note with an error what it cost all the same: `counted` returns that."""
    try:
        yield
    except e.BackendError as error:
        error.usage = error.usage or counted()
        raise
