"""`pointsman.http` before servers that pack their answers, though they were asked not to."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from pointsman import RateLimitError, Scope, UnusableAnswer
from pointsman.http import Client

EVENTS = b'data: {"n": 1}\n\ndata: {"n": "gr\xc3\xbc\xc3\x9fe"}\n\ndata: [DONE]\n\n'
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "GZIP": gzip.compress}


class Packs(BaseHTTPRequestHandler):
    """Answers `/PACKING/WHAT` in chunks of a few bytes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        _, packing, what = self.path.split("/")
        body = EVENTS if what == "events" else json.dumps({"error": {"message": "slow down"}, "text": "grüße"}).encode()
        if what == "plain":
            body = json.dumps({"text": "grüße" * 1000}).encode()
        self.send_response(429 if what == "error" else 200)
        self.send_header("Content-Encoding", packing)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        packed = PACKERS.get(packing, gzip.compress)(body)
        packed = packed[: len(packed) // 2] if what == "cut" else packed
        for place in range(0, len(packed), 7):
            piece = packed[place : place + 7]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Serve on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Packs)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=[False, True], ids=["own transport", "session"])
def client(url: str, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Return a client of either way."""
    with requests.Session() as session:
        made = Client(url, session=session if request.param else None)
        yield made
        made.close()


@pytest.mark.parametrize("packing", PACKERS)
def test_a_packed_answer_is_unpacked(client: Client, packing: str) -> None:
    """A whole answer, a stream and an error, each in pieces of a few bytes."""
    assert client.post_json(f"{packing}/plain", {}, Scope(20)).data == {"text": "grüße" * 1000}
    with client.post_events(f"{packing}/events", {}, Scope(20)) as events:
        assert [event.json() for event in events] == [{"n": 1}, {"n": "grüße"}]
    with pytest.raises(RateLimitError, match="slow down"):
        client.post_json(f"{packing}/error", {}, Scope(20))


def test_one_that_is_cut_or_of_another_kind_is_no_answer(client: Client) -> None:
    """The end of what was packed must come; a packing that is not known is named."""
    with pytest.raises(UnusableAnswer, match="cut or broken"):
        client.post_json("gzip/cut", {}, Scope(20))
    with pytest.raises(UnusableAnswer, match="'br'"):
        client.post_json("br/plain", {}, Scope(20))
