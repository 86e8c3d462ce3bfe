"""HTTP for plugin authors: pooled connections, true limits, typed errors, event streams.

    client = Client("https://api.example.com/v1", auth=("Authorization", "Bearer ", key))
    answer = client.post_json("chat", body, request.scope)          # .data is the JSON, .headers its headers
    with client.post_events("chat", body, request.scope) as events:
        for event in events:                                        # Event(name, data)
            piece = event.json()                                    # raises what an error event means
            events.content_seen()                                   # the model speaks: idle_timeout counts now
    with client.upload("files", scope) as upload:                   # a body of any length, sent as it is made
        upload.send(piece)
        data = upload.answer().read_all()
    with client.open("GET", "files/1", scope) as body:              # one of any length, read as it comes
        for piece in body: ...

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
from contextlib import contextmanager
from math import inf
from string import punctuation
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from . import errors as e
from ._classify import classify, error_in
from ._events import Event, EventParser, parsed
from ._http_body import Body, Refusal, Upload, answered, idle, refused
from ._http_connect import Server
from ._http_transport import CONNECT_S, Exchange, Headers, revealed
from .scope import Scope
from .secret import Secret, keys_in, shown_url
from .values import Usage

if TYPE_CHECKING:
    import requests

__all__ = ["Answer", "Body", "Client", "Event", "EventParser", "Events", "Refusal", "Upload"]  # and the functions below
__all__ += ["charged", "classify", "error_in", "promised_form"]

_DONE_S = 0.05
_ACCEPT = {"accept": "application/json, text/event-stream", "accept-encoding": "identity"}
_ANY = {"accept": "*/*", "accept-encoding": "identity"}
_PORT = r"\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]"
_URL = re.compile(
    rf"(https?://(?:[\w.-]+|\[[\da-f:.%]+\])(?::(?:{_PORT}))?|http\+unix://[\w.%~-]+)(/[^?#]*)?(?:\?([^#]*))?",
    re.ASCII | re.I,
)


class Answer(NamedTuple):
    """A plain answer: the Python values of its JSON, and its headers, to be looked up with `get`, in any case."""

    data: Any
    headers: Mapping[str, str]


class Client:
    """Speaks JSON with one server. Thread-safe, and safe to use in a forked child.

    It keeps its connections, for all threads, until it is closed or gone.

    :param base_url: what every path is appended to; a query in it is sent with every request. The host of an
        `http+unix://` URL is the path of a unix socket, quoted: `http+unix://%2Frun%2Fserver.sock/v1`.
    :param headers: sent with every request. Give values that are secret as `Secret`.
    :param auth: (header, what stands before the key, the key); without a key nothing is sent.
    :param session: a `requests.Session` to send through instead, for its adapters, proxies and headers. It
        must be fit for use by many threads. Its limits are weaker: each single wait for bytes gets the time
        that was left when the request began, deadline and cancelling count between the pieces of a body, and
        nothing but that single wait bounds the headers. `open` and `upload` do not go through one.
    :param refusal: says what an answer means whose status is not 200.
    :param named: what the option is called that holds `base_url`, for messages.
    :param proxied: whether a proxy that the environment names may stand between.
    :raises ConfigError: the URL, or a header, cannot be sent.
    """

    _origin = _prefix = ""  # of one that could not be made: a traceback shows its repr, too

    def __init__(  # noqa: PLR0913 - all optional, all by name
        self,
        base_url: str,
        *,
        headers: Mapping[str, str | Secret] | None = None,
        auth: tuple[str, str, Secret | None] | None = None,
        session: requests.Session | None = None,
        refusal: Refusal = classify,
        named: str = "base_url",
        proxied: bool = True,
    ) -> None:
        url = _URL.fullmatch(base_url)
        if url is None:
            base_url = shown_url(base_url)  # a password may not be seen in the traceback
            raise e.ConfigError(f"{named}: found {base_url}, expected http(s)://HOST, a port up to 65535, no login")
        self._origin, self._prefix, self._query = url[1], (url[2] or "").rstrip("/"), url[3]
        self._keys = keys_in(self._query or "")  # masked where the server repeats them
        self.host = unquote(self._origin.partition("//")[2])
        self._session, self._refusal, self._named, self._proxied = session, refusal, named, proxied
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

    def open(
        self, method: str, path: str, scope: Scope, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Body:
        """Send `body` as it is, and return the body of the answer, to be read as it comes, once its headers are there.

        They must come within `scope.idle_timeout`, too.

        :param method: `GET`, `HEAD` (its answer has headers only), `POST` or another.

        :raises BackendError: there is none, or its status is not 200.
        :raises ConfigError: the client has a session: `requests` loses what tells that a body is not whole.
        """
        exchange, server = self._direct(scope)
        length = {"content-length": str(len(body))} if body or method not in ("GET", "HEAD") else {}
        sent = {**_ANY, **self._headers, **length, **(headers or {})}
        exchange.step_by = min(exchange.step_by, idle(exchange))
        exchange.step(server.send, exchange, method, self._target(path), sent, body)
        return answered(exchange, self._refusal)

    def upload(self, path: str, scope: Scope, headers: Mapping[str, str] | None = None) -> Upload:
        """Begin to post a body that is sent in pieces. Raises as `open` does."""
        exchange, server = self._direct(scope)
        sent = {**_ANY, **self._headers, "transfer-encoding": "chunked", **(headers or {})}
        patience_s = scope.first_byte_by - monotonic()
        exchange.step(server.begin, exchange, "POST", self._target(path), sent)
        return Upload(exchange, self._refusal, patience_s)

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
        exchange = Exchange(scope, self.host, self._named)
        exchange.step(self._send, exchange, method, path, body)
        if exchange.answer.status != 200:
            raise exchange.step(refused, exchange, self._refusal)
        return exchange

    def _direct(self, scope: Scope) -> tuple[Exchange, Server]:
        if self._session is not None:
            raise e.ConfigError(f"session: {self.host} must be asked without one: what it sends may be cut unseen")
        exchange = Exchange(scope, self.host, self._named)
        return exchange, exchange.step(self._reached)

    def _reached(self) -> Server:
        self._server = self._server or Server(self._origin, self._proxied)
        return self._server

    def _target(self, path: str) -> str:
        target = quote(f"{self._prefix}/{path.lstrip('/')}", safe=punctuation)
        return target + ("&" if "?" in path else "?") + self._query if self._query else target

    def _send(self, exchange: Exchange, method: str, path: str, body: Any) -> None:
        try:
            data = b"" if body is None else json.dumps(body).encode()
        except (TypeError, ValueError) as error:
            raise e.InvalidRequestError(f"the request holds a value that JSON cannot carry: {error}") from None
        target = self._target(path)
        headers: Headers = {**_ACCEPT, **self._headers}
        if data:
            headers = {"content-type": "application/json", "content-length": str(len(data)), **headers}
        if self._session is None:
            self._reached().send(exchange, method, target, headers, data)
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
