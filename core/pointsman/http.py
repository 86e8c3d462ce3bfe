"""HTTP for plugin authors: pooled connections, true limits, typed errors, event streams.

    client = Client("https://api.example.com/v1", auth=("Authorization", "Bearer ", key))
    answer = client.post_json("chat", body, request.scope)          # .data is the JSON, .headers its headers
    with client.post_events("chat", body, request.scope) as events:
        for event in events:                                        # Event(name, data)
            piece = event.json()                                    # raises what an error event means
            events.content_seen()                                   # the model speaks: idle_timeout counts now

Everything that goes wrong is raised as the `BackendError` that says what follows from it. Nothing is
retried, no redirect followed, no `.netrc` read. The proxy variables, `REQUESTS_CA_BUNDLE`,
`CURL_CA_BUNDLE` and `SSL_CERT_FILE` count. No error that comes from here holds a key: neither its text,
nor its traceback with local variables, nor a cause.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from urllib3.exceptions import DecodeError
from urllib3.response import BaseHTTPResponse

from ._classify import classify, error_in
from ._events import Event, EventParser, parsed
from ._http_transport import CONNECT_S, Call, Route, forget, send
from .errors import BackendError, BackendTimeout, ConfigError, InvalidRequestError, UnavailableError, UnusableAnswer
from .scope import Scope
from .secret import Secret, redact

if TYPE_CHECKING:
    import requests

__all__ = ["Answer", "Client", "Event", "EventParser", "Events", "classify", "error_in"]

MAX_BODY = 64 << 20  #: bytes of a plain answer; a longer one is unusable
_ERROR_BODY = 64 << 10
_ERROR_BODY_S = 5.0  # an error is worth no longer wait for its text
_DONE_S = 0.05
_JSON = "application/json"
_WEB = r"https?://([^\s:/?\[\]]+|\[[0-9A-Fa-f:.%]+\])(:\d{1,5})?"


class Answer(NamedTuple):
    """A plain answer: the Python values of its JSON, and its headers (looked up in any case)."""

    data: Any
    headers: Mapping[str, str]


class Client:
    """Speaks JSON with one server. Cheap to make, thread-safe, and safe to use in a forked child.

    Clients of the same server share their connections, process-wide.

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
        problem = _unusable(base_url)
        if problem:
            del base_url  # a password in it may not be seen in the traceback
            raise ConfigError(f"base_url: {problem}")
        parts = urlsplit(base_url)
        self.host = parts.hostname or ""
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix, self._query = parts.path.rstrip("/"), parts.query
        self._session, self._auth = session, auth
        self._route: Route | None = None
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}
        for name, value in self._headers.items():
            _check_header(name, value)
        if auth is not None and auth[2] is not None:
            _check_header(auth[0], auth[2])

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
        return Events(self._exchange("POST", path, body, scope, accept="text/event-stream"))

    def close(self) -> None:
        """Close the idle connections to this server. The client stays usable."""
        if self._route is not None:
            forget(self._route)

    def _whole(self, method: str, path: str, body: Any, scope: Scope) -> Answer:
        exchange = self._exchange(method, path, body, scope, accept=_JSON)
        value = exchange.json()
        if isinstance(value, BackendError):
            raise value
        return Answer(value, exchange.headers)

    def _exchange(self, method: str, path: str, body: Any, scope: Scope, *, accept: str) -> _Exchange:
        try:
            data = None if body is None else json.dumps(body).encode()
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"the request holds a value that JSON cannot carry: {error}") from None
        exchange = _Exchange(scope, self.host)
        # The key is in the local variables of `_open` and below. So no exception leaves it, and what is raised
        # is raised here, outside any handler, with no context that could lead there.
        failure = self._open(exchange, method, path, data, accept)
        if failure is None and exchange.status != 200:
            failure = exchange.refusal()
        if failure is not None:
            exchange.close()
            raise failure
        return exchange

    def _open(self, exchange: _Exchange, method: str, path: str, data: bytes | None, accept: str) -> Exception | None:
        target = f"{self._prefix}/{path.lstrip('/')}"
        if self._query:  # it may hold a key, like the headers
            target += ("&" if "?" in path else "?") + self._query
        headers = {"accept": accept, "accept-encoding": "gzip, deflate" if accept == _JSON else "identity"}
        if data is not None:
            headers["content-type"] = _JSON
        if self._session is None:
            headers["user-agent"] = "pointsman"
        headers.update((name, _revealed(value)) for name, value in self._headers.items())
        if self._auth is not None and self._auth[2] is not None:
            headers[self._auth[0].lower()] = self._auth[1] + self._auth[2].reveal()
        try:
            if self._session is None:
                self._route = self._route or Route.to(self._origin)
                exchange.answered(send(self._route, target, method=method, body=data, headers=headers, call=exchange))
            else:
                self._through(self._session, exchange, method, target, data, headers)
        except Exception as error:
            return exchange.failed(error)
        return None

    def _through(
        self, session: requests.Session, exchange: _Exchange, method: str, target: str, data: bytes | None, headers: Any
    ) -> None:
        wait = exchange.timeout()
        response = session.request(
            method,
            self._origin + target,
            data=data,
            headers=headers,
            auth=session.auth or _as_it_is,  # without any, requests would look for a key in .netrc
            stream=True,
            allow_redirects=False,
            timeout=(CONNECT_S if wait is None else min(wait, CONNECT_S), wait),
        )
        exchange.answered(response.raw)
        exchange.wake = getattr(response.raw, "shutdown", None)


class Events(Iterator[Event]):
    """The events of one answer, as they come. One thread reads them; any thread may cancel the scope.

    Until `content_seen` is called, `scope.first_byte_by` limits the wait, whatever else the server sends;
    from then on `scope.idle_timeout` after each call of it; and `scope.deadline` always. Close it, or use it
    in a `with` statement: that closes the connection at once unless the answer has been read to its end.
    """

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange, self._parser = exchange, EventParser()
        self._ready: deque[Event] = deque()
        self._whole = False
        self.headers: Mapping[str, str] = exchange.headers
        exchange.began = False

    def __next__(self) -> Event:
        while True:
            if self._ready:
                event = self._ready.popleft()
                if event.data != "[DONE]":
                    return event
                self.ending(_DONE_S)  # what is left is the end of the body, and then the connection can be kept
            if self._exchange.done:
                raise StopIteration
            try:
                piece = self._exchange.read()
                self._ready.extend(self._parser.feed(piece) if piece else self._parser.end())
            except BackendError:
                self.close()
                if self._whole and not self._exchange.scope.cancelled:
                    raise StopIteration from None
                raise

    def content_seen(self) -> None:
        """Say that the model spoke: to be called for each event that holds content, and for no other."""
        self._exchange.began, self._exchange.content_at = True, monotonic()

    def ending(self, wait_s: float = 2.0) -> None:
        """Say that the answer is whole: the rest may take `wait_s`, and if it fails the iteration just ends.

        `data: [DONE]` says the same by itself, and is not handed out.
        """
        self._whole, self._exchange.until = True, monotonic() + wait_s

    def close(self) -> None:
        """End the exchange; if the answer has not been read to its end, close the connection."""
        self._exchange.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Exchange(Call):
    """One request on its way, and what comes back."""

    def __init__(self, scope: Scope, host: str) -> None:
        super().__init__(scope)
        self.host, self.status, self.done = host, 0, False
        self.raw: BaseHTTPResponse | None = None
        self.headers: Mapping[str, str] = {}

    def answered(self, raw: BaseHTTPResponse) -> None:
        self.raw, self.status, self.headers, self.began = raw, raw.status, raw.headers, True

    def read(self) -> bytes:
        """Return what has come, b"" at the end."""
        return self._read("read1", 1 << 16)

    def read_all(self, limit: int = MAX_BODY) -> bytes:
        data = self._read("read", limit + 1)
        if len(data) > limit == MAX_BODY:
            self.close()
            raise UnusableAnswer(f"{self.host} answered with more than {limit} bytes")
        self.close()
        return data

    def json(self) -> Any:
        """Return the values of the answer, or the error that it is."""
        try:
            return parsed(self.read_all().decode("utf-8-sig"), self.host)
        except UnicodeDecodeError:
            return UnusableAnswer(f"{self.host} sent what is not UTF-8")

    def _read(self, how: str, size: int) -> bytes:
        try:
            self.left()
            data: bytes = getattr(self.raw, how)(size, decode_content=True)
        except Exception as error:
            failure = self.failed(error)
        else:
            if not data:
                self.close()
            return data
        self.close()
        raise failure  # outside the handler: see Client._exchange

    def refusal(self) -> BackendError:
        """Return what an answer with another status than 200 means."""
        if 300 <= self.status < 400:
            to = re.match(r"\w+://([^/?#@\s]+)", self.headers.get("location", ""))
            what = f"HTTP {self.status}: {self.host} redirects to {to[1] if to else 'elsewhere'}: mend base_url"
            return UnavailableError(what, status=self.status, retry_same=False)
        self.until = min(self.until, monotonic() + _ERROR_BODY_S)
        try:
            body = self.read_all(_ERROR_BODY)
        except BackendError as error:
            if self.scope.cancelled:
                return error
            body = b""
        return classify(self.status, self.headers, body, where=self.host)

    def failed(self, error: Exception) -> BackendError:
        """Return what an exception of the lower libraries means, without it as a cause: it could hold the key."""
        if isinstance(error, BackendError):
            return error
        if self.scope.cancelled:
            return UnavailableError("the call was cancelled", retry_same=False, try_next=False)
        kinds = f"{type(error).__name__} {error}"
        if self.content_at is not None:
            late = BackendTimeout(f"{self.host} stopped in the middle of its answer")
        else:
            late = BackendTimeout(f"{self.host} did not {'finish' if self.began else 'begin to answer'} in time")
        try:
            self.left()
        except TimeoutError:
            return late
        if isinstance(error, TimeoutError) or "Timeout" in kinds:
            return late
        if isinstance(error, DecodeError) or "IncompleteRead" in kinds or "InvalidChunk" in kinds:
            return UnusableAnswer(f"{self.host} sent an answer that is cut or broken", status=self.status or None)
        what = next((words for name, words in _TROUBLE.items() if name in kinds), "the connection broke")
        return UnavailableError(f"{self.host}: {what} ({type(error).__name__})", retry_same=False)

    def close(self) -> None:
        if not self.done:
            self.done = True
            self.finish(failed=self.raw is None)
            if self.raw is not None:
                self.raw.close()
                self.raw = None  # it refers to the pool, which must be free to go


_TROUBLE = {
    "NameResolution": "no such host: check base_url and the network",
    "CERTIFICATE_VERIFY": "its certificate is not trusted: check base_url, or name your authorities in SSL_CERT_FILE",
    "SSL": "TLS failed: is base_url http or https?",
    "ProxyError": "the proxy failed: check HTTPS_PROXY and NO_PROXY",
    "NewConnection": "no connection: is the server running, and is base_url right?",
    "BadStatusLine": "it does not speak HTTP: is base_url http or https?",
}


def _unusable(url: str) -> str | None:
    if not re.match(rf"{_WEB}([/?]|\Z)", re.sub("//[^/?]*@", "//", url)):
        return f"found {redact(re.sub('//.*@', '//***@', url))!r}, expected http://HOST or https://HOST"
    if re.match("https?://[^/?]*@", url):
        return "holds a user name or password; give it as api_key or in headers"
    return None


def _check_header(name: str, value: str | Secret) -> None:
    bad = re.search("[\\r\\n\\0]|[^\\0-\\xff]", _revealed(value))
    if bad is None and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
        return
    problem = f"character {bad.start() + 1} of its value" if bad else "its name"
    del value, bad  # neither may be seen in the traceback
    raise ConfigError(f"header {name!r}: {problem} cannot be sent: only Latin-1 without line breaks can")


def _revealed(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value.strip()


def _as_it_is(request: Any) -> Any:
    return request
