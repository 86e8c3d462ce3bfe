"""The fault server puts on the wire what each fault says: read with a bare socket, byte by byte."""

import json
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from pointsman.testing import Answer, Ask, Event, Fault, FaultServer, WireError, faults
from pointsman.testing.faults import CATALOGUE

pytest_plugins = ["pytester"]

Server = Callable[..., FaultServer]


class Heard(NamedTuple):
    """All that came, and how it ended: "eof", "reset", or "open" if it just became silent."""

    data: bytes
    end: str

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.data.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def chunks(self) -> list[bytes]:
        """The chunks of a chunked body; the last is empty if the body has its end."""
        rest, found = self.body, []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            found.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return found

    @property
    def texts(self) -> list[str]:
        """The pieces of content of a stream of chat completions."""
        data = [line[6:] for line in b"".join(self.chunks).split(b"\n") if line.startswith(b"data: {")]
        choices = [choice for event in data for choice in json.loads(event).get("choices", ())]
        return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


def talk(
    server: FaultServer,
    *,
    path: str = "/v1/chat/completions",
    stream: bool = False,
    silence: float = 10.0,
    until: bytes = b"",
    **more: Any,
) -> Heard:
    """Send one request and hear what comes, until it ends or nothing comes for `silence` seconds.

    :param until: what is waited for patiently, however short `silence` is.
    """
    body = {"model": "m", "messages": [{"role": "user", "content": "hello you"}], "stream": stream, **more}
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(raw)}\r\n\r\n"
    data = b""
    with socket.socket() as sock:
        try:
            sock.settimeout(10)
            sock.connect(("127.0.0.1", server.port))  # a reset on connect may be seen here already
            sock.sendall(head.encode() + raw)
            while True:
                sock.settimeout(silence if until in data else 10)
                if not (piece := sock.recv(65536)):
                    break
                data += piece
        except ConnectionError:
            return Heard(data, "reset")
        except TimeoutError:
            return Heard(data, "open")
    return Heard(data, "eof")


@pytest.fixture
def hear(no_leaks: None, fault_server: Server) -> Callable[..., Heard]:
    return lambda fault, **options: talk(fault_server(fault), **options)


Hear = Callable[..., Heard]


def test_costs_nothing_unused() -> None:
    """The pytest plugin, which every test run loads, imports neither asyncio nor any part of the kit."""
    code = """if True:
        import sys, pytest
        before = set(sys.modules)
        import pointsman.testing.plugin
        print(*sorted(set(sys.modules) - before))"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["pointsman", "pointsman.testing", "pointsman.testing.plugin"]


def test_every_row_has_its_fault() -> None:
    """Each row of A, B and C that a provider can play is in the catalogue, with its number in the docstring."""
    for rows, make in CATALOGUE.values():
        assert not rows or (make.__doc__ or "").startswith("Row"), make.__doc__
    assert {row for rows, _ in CATALOGUE.values() for row in rows} == set(range(1, 29))
    assert set(CATALOGUE) < set(faults.__all__)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_fault_plays(name: str, stream: bool, fault_server: Server) -> None:
    """Every fault can be played with its defaults, on plain and streamed requests, and leaves the server well."""
    server = fault_server([CATALOGUE[name][1](), faults.well()])
    talk(server, stream=stream, silence=0.05)
    server.wait_for(1)
    assert talk(server, stream=stream).status == 200


class TestBeforeAnyAnswer:
    """Rows 1 to 14."""

    @pytest.mark.parametrize(
        ("fault", "status", "word"),
        [
            (faults.status(503), 503, "server_error"),
            (faults.rate_limited(), 429, "rate_limit_exceeded"),
            (faults.bad_key(), 401, "invalid_api_key"),
            (faults.no_permission(), 403, "unsupported_country"),
            (faults.no_money(), 402, "billing_error"),
            (faults.no_quota(), 429, "insufficient_quota"),
            (faults.bad_key_under_400(), 400, "API_KEY_INVALID"),
            (faults.unknown_model(), 404, "model_not_found"),
            (faults.unknown_model(status=400), 400, "model_not_found"),
            (faults.context_too_long(), 400, "context_length_exceeded"),
            (faults.content_filtered(), 400, "content_policy_violation"),
            (faults.bad_request(), 400, "invalid_value"),
            (faults.bad_request(status=422), 422, "invalid_value"),
        ],
        ids=repr,
    )
    def test_errors_by_status(self, hear: Hear, fault: Fault, status: int, word: str) -> None:
        """An error has its status and OpenAI's four facts."""
        heard = hear(fault)
        assert heard.status == status
        error = json.loads(heard.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert word in error.values()

    @pytest.mark.parametrize("kind", ["html", "text", "empty"])
    def test_errors_without_json(self, hear: Hear, kind: Any) -> None:
        """A gateway's error is a page, a line of text, or nothing."""
        heard = hear(faults.status(502, body=kind))
        assert heard.status == 502
        assert (b"<html" in heard.body, bool(heard.body)) == (kind == "html", kind != "empty")

    def test_hints(self, hear: Hear) -> None:
        """Each way of saying when to come again is there as it was asked for."""
        assert hear(faults.rate_limited(3)).headers["retry-after"] == "3"
        assert hear(faults.rate_limited(retry_after_ms=250)).headers["retry-after-ms"] == "250"
        assert hear(faults.rate_limited(in_seconds=60)).headers["retry-after"].endswith(" GMT")
        assert json.loads(hear(faults.rate_limited(in_body=9)).body)["error"]["details"][0]["retryDelay"] == "9s"
        assert "retry-after" not in hear(faults.rate_limited()).headers

    @pytest.mark.parametrize("when", ["request", "headers", "body"])
    def test_reset(self, hear: Hear, when: Any) -> None:
        """The connection ends with RST, before, within or after the headers."""
        heard = hear(faults.reset(when))
        assert heard.end == "reset"
        assert (bool(heard.data), b"\r\n\r\n" in heard.data) == (when != "request", when == "body")

    def test_reset_on_connect(self, no_leaks: None, fault_server: Server) -> None:
        """RST comes although nothing has been asked."""
        server = fault_server(faults.reset_on_connect())

        def listen() -> None:
            with socket.create_connection(("127.0.0.1", server.port), 10) as sock:  # it may be seen here already
                sock.recv(1)

        with pytest.raises(ConnectionResetError):
            listen()
        assert server.wait_for(1)[0].fault == "reset_on_connect()"

    def test_hang_up(self, hear: Hear) -> None:
        """FIN and not a byte."""
        assert hear(faults.hang_up()) == (b"", "eof")

    def test_nobody_listens(self) -> None:
        """The port refuses."""
        with faults.nobody_listens() as url, pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])))

    def test_silent(self, hear: Hear) -> None:
        """The connection stays open and nothing comes."""
        assert hear(faults.silent(), silence=0.5) == (b"", "open")

    @pytest.mark.parametrize("part", ["headers", "body"])
    def test_drip(self, fault_server: Server, part: Any) -> None:
        """One byte at a time, after the head where it is the body that drips."""
        head = b"Content-Length: 60000\r\n\r\n" if part == "body" else b""
        first = b" " if part == "body" else b"H"
        server = fault_server([faults.drip(600, part=part), faults.drip(0.001, part=part)])
        slow = talk(server, silence=0.3, until=head + first)
        assert (slow.data.partition(head)[2] if head else slow.data, slow.end) == (first, "open")
        with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            came = b""
            while len(came.partition(head)[2] if head else came) < 20:
                came += sock.recv(100)
        assert all(seen.wait_closed() for seen in server.log)

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_redirect(self, hear: Hear, status: int) -> None:
        """A redirect names its place: another one, or itself."""
        assert hear(faults.redirect(status)).headers["location"].endswith("/elsewhere")
        loop = hear(faults.redirect(status, loop=True))
        assert (loop.status, loop.headers["location"][-20:]) == (status, "/v1/chat/completions")

    def test_unsupported(self, fault_server: Server) -> None:
        """The request with the parameter is refused, the one without is answered."""
        server = fault_server(faults.unsupported("top_p"))
        refused = talk(server, top_p=1)
        assert (refused.status, json.loads(refused.body)["error"]["param"]) == (400, "top_p")
        assert talk(server).status == 200


class TestNoAnswers:
    """Rows 15 to 20: all under 200."""

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("fault", [faults.html(), faults.plain_text(), faults.empty_body()], ids=repr)
    def test_no_json(self, hear: Hear, fault: Fault, stream: bool) -> None:
        """What is no JSON has a right length and the status 200."""
        heard = hear(fault, stream=stream)
        assert heard.status == 200
        assert len(heard.body) == int(heard.headers["content-length"])
        with pytest.raises(ValueError, match="Expecting"):
            json.loads(heard.body)

    @pytest.mark.parametrize("fault", [faults.broken_json(), faults.cut_json()], ids=repr)
    def test_bad_json(self, hear: Hear, fault: Fault) -> None:
        """JSON that begins well and is none; in a stream it is the first event."""
        heard = hear(fault)
        assert heard.body.startswith(b"{")
        with pytest.raises(ValueError, match=":"):
            json.loads(heard.body)
        first = hear(fault, stream=True).body.partition(b"\n\n")[0]
        with pytest.raises(ValueError, match=":"):
            json.loads(first.removeprefix(b"data: "))

    def test_wrong_length(self, hear: Hear) -> None:
        """The length is a lie in either direction."""
        long, short = hear(faults.wrong_length(50)), hear(faults.wrong_length(-5))
        assert int(long.headers["content-length"]) == len(long.body) + 50
        assert int(short.headers["content-length"]) == len(short.body) - 5
        assert long.end == "eof"

    @pytest.mark.parametrize("how", ["not", "cut"])
    def test_bad_gzip(self, hear: Hear, how: Any) -> None:
        """The encoding is gzip, the bytes are not, or not all of it."""
        heard = hear(faults.bad_gzip(how))
        assert heard.headers["content-encoding"] == "gzip"
        unpack = zlib.decompressobj(31)
        if how == "not":
            with pytest.raises(zlib.error):
                unpack.decompress(heard.body)
        else:
            unpack.decompress(heard.body)
            assert not unpack.eof

    @pytest.mark.parametrize("stream", [False, True])
    def test_bad_utf8(self, hear: Hear, stream: bool) -> None:
        """There are bytes in the text that no UTF-8 has."""
        with pytest.raises(UnicodeDecodeError):
            hear(faults.bad_utf8(), stream=stream).body.decode()

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (faults.null_content(), {"content": None, "finish_reason": "stop"}),
            (faults.whitespace(), {"content": " \n\t \n", "finish_reason": "stop"}),
            (faults.thinking_only(), {"content": "", "finish_reason": "stop"}),
            (faults.refusal(), {"content": None, "refusal": "I'm sorry, I can't help with that."}),
            (faults.safety_stop("x"), {"content": "x", "finish_reason": "content_filter"}),
            (faults.length(), {"content": "Once upon a", "finish_reason": "length"}),
            (faults.finish_error(), {"finish_reason": "error"}),
            (faults.no_finish(), {"finish_reason": "absent"}),
        ],
        ids=repr,
    )
    def test_answers_that_lack(self, hear: Hear, fault: Fault, expected: dict[str, Any]) -> None:
        """The JSON is whole and lacks what the fault says."""
        choice = json.loads(hear(fault).body)["choices"][0]
        facts = {"finish_reason": "absent", **choice["message"], **choice}
        assert {name: facts[name] for name in expected} == expected

    def test_empty_choices(self, hear: Hear) -> None:
        """There is a list of choices, and nothing in it."""
        assert json.loads(hear(faults.empty_choices()).body)["choices"] == []

    def test_error_under_200(self, hear: Hear) -> None:
        """The status is 200 and the body is an error, also as the only event of a stream."""
        heard = hear(faults.error_under_200())
        assert (heard.status, json.loads(heard.body)["error"]["code"]) == (200, "rate_limit_exceeded")
        chunks = hear(faults.error_under_200(), stream=True).chunks
        assert [b"rate_limit_exceeded" in chunk for chunk in chunks] == [True, False]


class TestStreams:
    """Rows 21 to 28."""

    def test_well(self, hear: Hear) -> None:
        """A healthy stream: chunked, with a finish reason, usage if asked, and `[DONE]`."""
        heard = hear(faults.well("a b c"), stream=True, stream_options={"include_usage": True})
        assert heard.texts == ["a ", "b ", "c"]
        assert heard.chunks[-2:] == [b"data: [DONE]\n\n", b""]
        assert b'"choices": [], "usage": {"prompt_tokens": 19' in heard.chunks[-3]
        assert b'"usage"' not in hear(faults.well("a b c"), stream=True).body

    @pytest.mark.parametrize(
        ("fault", "piece"),
        [
            (faults.pings_only(0.01), b'event: ping\ndata: {"type": "ping"}\n\n'),
            (faults.comments_only(0.01), b": keep-alive\n\n"),
            (faults.blank_lines_only(0.01), b"\n"),
        ],
        ids=repr,
    )
    def test_only(self, fault_server: Server, fault: Fault, piece: bytes) -> None:
        """The same that is no content comes again and again."""
        server = fault_server(fault)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            body = b'{"stream": true}'
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            data = b""
            sock.settimeout(10)
            while data.count(b"%x\r\n%b\r\n" % (len(piece), piece)) < 5:
                came = sock.recv(1000)
                assert came, "the server ended the stream"
                data += came

    @pytest.mark.parametrize(
        ("fault", "end", "mark"),
        [
            (faults.cut_after(3), "eof", False),
            (faults.reset_after(3), "reset", False),
            (faults.stall_after(3), "open", False),
            (faults.no_finish_stream(3), "eof", True),
            (faults.error_event_after(3), "eof", True),
        ],
        ids=repr,
    )
    def test_breaks_after_three(self, hear: Hear, fault: Fault, end: str, mark: bool) -> None:
        """Three pieces come, no finish reason, and then the end that the fault says, with or without the last chunk."""
        heard = hear(fault, stream=True, silence=0.3, until=b"three")
        assert heard.texts == ["one ", "two ", "three "]
        assert (heard.end, heard.chunks[-1] == b"") == (end, mark)
        assert b'"finish_reason": "' not in heard.body

    def test_cut_silently(self, hear: Hear) -> None:
        """Without chunks the cut cannot be told from an end."""
        heard = hear(faults.cut_after(3, silently=True), stream=True)
        assert (heard.end, heard.headers["connection"]) == ("eof", "close")
        assert "transfer-encoding" not in heard.headers

    def test_errors_in_streams(self, hear: Hear) -> None:
        """An error is the first event, or comes after those that begin an answer, or after content."""
        for fault, before in ((faults.error_first(), 0), (faults.lifecycle_then_error(), 1)):
            kinds = [b'"error"' in chunk for chunk in hear(fault, stream=True).chunks]
            assert kinds == [False] * before + [True, False]

    def test_broken_event(self, hear: Hear) -> None:
        """The fourth event of content is no JSON, and the stream ends well."""
        heard = hear(faults.broken_event_after(3), stream=True)
        assert heard.chunks[-1] == b""
        with pytest.raises(ValueError, match="control character"):
            json.loads(heard.chunks[-2].removeprefix(b"data: "))

    def test_empty_streams(self, hear: Hear) -> None:
        """Nothing, the end mark only, or a finish without content."""
        assert hear(faults.empty_stream(), stream=True).chunks == [b""]
        assert hear(faults.empty_stream("done"), stream=True).chunks == [b"data: [DONE]\n\n", b""]
        finish = hear(faults.empty_stream("finish"), stream=True)
        assert (finish.texts, b'"finish_reason": "stop"' in finish.body) == ([], True)

    def test_no_done(self, hear: Hear) -> None:
        """All but the end mark."""
        heard = hear(faults.no_done(), stream=True)
        assert b"[DONE]" not in heard.body
        assert b'"finish_reason": "stop"' in heard.body

    @pytest.mark.parametrize("how", ["cut", "end"])
    def test_cut_in_tool_call(self, hear: Hear, how: Any) -> None:
        """The arguments of the call are no JSON yet."""
        heard = hear(faults.cut_in_tool_call(how), stream=True)
        assert (heard.chunks[-1] == b"") == (how == "end")
        assert b'{\\"amount\\": ' in heard.body
        assert b"Ann" not in heard.body

    def test_hostile_framing(self, hear: Hear) -> None:
        """Each way of framing is on the wire as its name says."""
        heard = {how: hear(faults.hostile_text(how), stream=True) for how in faults.HOSTILE}
        text = {how: b"".join(each.chunks) for how, each in heard.items()}
        for mark in "\u2028\u2029\u0085":
            assert mark.encode() in text["separators"]
        assert b"\n" not in text["cr"]
        assert text["crlf"].count(b"\r\n") == text["crlf"].count(b"\n") > 10
        assert any(chunk.endswith(b"\r") for chunk in heard["split_crlf"].chunks)
        assert any(chunk[:1] and chunk[0] & 0xC0 == 0x80 for chunk in heard["split_utf8"].chunks)
        assert text["bom"].startswith(b"\xef\xbb\xbfdata: ")
        assert text["comments"].startswith(b": a comment\n")
        assert b'data: {\ndata:  "id"' in text["multiline_data"]
        assert b"\n\ndata:{" in text["no_space"]
        assert b"\n\ndata: {" not in text["no_space"]
        assert max(map(len, heard["big_event"].chunks)) > 1 << 20
        usage, stop = b'"usage": {', b'"finish_reason": "stop"'
        assert text["usage_before"].find(usage) < text["usage_before"].find(stop)
        assert text["usage_in"].find(usage) > text["usage_in"].find(stop)


class Parrot:
    """A wire format of one line: text in, words out."""

    def ask(self, body: Any) -> Ask:
        return Ask(prompt=str(body["say"]), streamed=body["stream"])

    def body(self, answer: Answer, ask: Ask) -> Any:
        return {"said": answer.text, "end": answer.finish_reason}

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        return [*(Event({"word": word}) for word in answer.pieces), Event({"end": answer.finish_reason}, "finish")]

    def error(self, error: WireError) -> Any:
        return {"wrong": error.message}

    def error_event(self, error: WireError) -> Event:
        return Event(self.error(error), "error")


class TestFace:
    """Scripts, paths, log, and the end."""

    @pytest.mark.parametrize(
        ("fault", "stream", "expected"),
        [
            (faults.well(), False, b'{"said": "You said: hi", "end": "stop"}'),
            (faults.status(503), False, b'{"wrong": "The server had an error'),
            (faults.cut_after(2), True, b'data: {"word": "two "}\n\n'),
            (faults.error_first(), True, b'data: {"wrong": "The server is overloaded."}\n\n'),
            (faults.length("so far"), True, b'data: {"end": "length"}\n\n'),
        ],
        ids=repr,
    )
    def test_other_wires(self, fault_server: Server, fault: Fault, stream: bool, expected: bytes) -> None:
        """The faults are those of any wire format that its author describes."""
        server = fault_server(fault, wires={"/say": Parrot()})
        assert expected in talk(server, path="/say", say="hi", stream=stream).data

    def test_script(self, fault_server: Server) -> None:
        """One after another, functions too; the last again and again."""
        server = fault_server([faults.status(500), lambda seen: faults.well(f"{seen.number} {seen.body['model']}")])
        heard = [talk(server) for _ in range(3)]
        assert [each.status for each in heard] == [500, 200, 200]
        assert b'"3 m"' in heard[2].body

    def test_paths(self, fault_server: Server) -> None:
        """A path with a script of its own counts by itself."""
        server = fault_server(paths={"/v1/models": faults.bad_key(), "/v1/chat/completions": faults.status(500)})
        assert talk(server).status == 500
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer sk-1234567890\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 401 ")
        assert [seen.method for seen in server.log] == ["POST", "GET"]
        assert [seen.method for seen in server.asked] == ["POST"]

    def test_log_hides_keys(self, fault_server: Server) -> None:
        """The log knows the key, and shows it to nobody who prints it."""
        server = fault_server()
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer sk-1234567890\r\n\r\n")
            sock.recv(1000)
        assert server.log[0].key == "sk-1234567890"
        assert "sk-1234567890" not in repr(server.log)

    def test_a_header_of_their_own_is_a_key_too(self, fault_server: Server) -> None:
        """Whatever a service calls the header of its key."""
        server = fault_server()
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nX-Quill-Key: quill-1234567890\r\n\r\n")
            sock.recv(1000)
        assert server.log[0].key == "quill-1234567890"
        assert server.log[0].headers["x-quill-key"] == "***"

    def test_log_of_a_client_that_leaves(self, fault_server: Server) -> None:
        """It is seen when, and that the answer was not at its end."""
        server = fault_server([faults.silent(), faults.well()])
        talk(server, silence=0.1)
        assert server.log[0].wait_closed()
        assert server.log[0].cancelled
        talk(server)
        assert server.log[1].ended_at is not None
        assert not server.log[1].cancelled
        assert server.log[1].sent > 300

    def test_mistakes_in_a_script_are_told(self) -> None:
        """An error in a function of the script is raised at the end."""

        def mistaken(seen: object) -> Fault:
            raise ZeroDivisionError

        server = FaultServer(mistaken).start()
        assert talk(server) == (b"", "eof")
        with pytest.raises(ExceptionGroup, match="script failed"):
            server.stop()

    def test_stops_in_the_middle(self, no_leaks: None) -> None:
        """Stopping ends what is running, and leaves no thread, no socket and no open port."""
        with FaultServer(faults.silent()) as server:
            heard: list[Heard] = []
            thread = threading.Thread(target=lambda: heard.append(talk(server)))
            thread.start()
            server.wait_active()
        thread.join(10)
        assert heard[0].data == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))

    def test_a_leak_is_found(self, pytester: pytest.Pytester) -> None:
        """`no_leaks` fails a test that leaves a thread, a socket and a child behind, and names them."""
        pytester.makepyfile(
            """
            import socket, subprocess, sys, threading

            kept = []

            def test_bad(no_leaks):
                threading.Thread(target=threading.Event().wait, args=(8,), daemon=True).start()
                kept.append(socket.socket())
                kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(8)"]))

            def test_good(no_leaks):
                pass

            def teardown_module():
                kept[0].close()
                kept[1].kill()
                kept[1].wait()
            """
        )
        run = pytester.inline_run("-p", "no:cacheprovider")
        run.assertoutcome(passed=2, failed=1)
        (failed,) = run.listoutcomes()[2]
        assert [word in str(failed.longrepr) for word in ("thread ", "socket:", "process ")] == [True] * 3
