"""The matrix of faults, for a provider in the dialect of its own service; and programs that providers ask."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from traceback import TracebackException
from typing import Any

import pytest
from attrs import fields_dict, frozen
from pointsman import BackendError, Chunk, Completion, Message, Request, Scope, hookimpl
from pointsman.testing import FaultServer, faults
from pointsman.testing.matrix import Case, cases

KEY = "sk-0123456789abcdefghij"
_numbers = count(1)
Played = Callable[[Any, Iterable[int]], dict[str, str]]
_TESTS = Path(__file__).parents[1]


@pytest.fixture
def fake_program(tmp_path: Path) -> Callable[[str], str]:
    """A function that writes a program in Python, and returns its path. Its code finds `sys`, `os` and `args`."""

    def write(code: str, name: str = "program") -> str:
        path = tmp_path / name
        path.write_text(
            f"#!{sys.executable} -IS\nimport json, os, subprocess, sys, time\nargs = sys.argv[1:]\n{code}\n"
        )
        path.chmod(0o755)
        return str(path)

    return write


@frozen
class Kind:
    """One program, as the tests that hold for every one of them see it."""

    name: str
    cls: type[Any]
    options: Mapping[str, Any]  #: of a real one, without the address
    server: FaultServer  #: of `warm`
    warm: Any  #: one that is kept for all tests that do it no harm

    def asking(self, prompt: str = "Hello", *earlier: Message, timeout: float = 60.0, **fields: Any) -> Request:
        """Return a request whose last turn is the user's."""
        return Request((*earlier, Message("user", prompt)), scope=Scope(timeout), **fields)

    def answered(self, request: Request, provider: Any = None) -> Completion:
        """Return what a provider answers: `warm`, unless another one is named."""
        chunks: list[Chunk] = list((provider or self.warm).stream(request))
        text, thinking = ("".join(getattr(chunk, name) for chunk in chunks) for name in ("text", "thinking"))
        warnings = tuple(warning for chunk in chunks for warning in chunk.warnings)
        facts = {name: getattr(chunks[-1], name) for name in fields_dict(Chunk) if name != "restarted"}
        return Completion(**{**facts, "text": text, "thinking": thinking, "warnings": warnings})

    def played(self, script: Any, request: Request | None = None, provider: Any = None) -> Any:
        """Return the answer, or the error, that comes of a script of the server, and how often it was asked."""
        mark = f"Number {next(_numbers)}."
        self.server.play(script)
        try:
            found: Any = self.answered(request or self.asking(mark), provider)
        except BackendError as error:
            found = error
        return found, sum(mark.encode() in seen.raw for seen in self.server.asked)

    def shown(self, error: BaseException) -> str:
        """Return all that an error shows, with the local variables of whoever raised it; those of tests apart."""
        trace = error.__traceback__
        while trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(_TESTS):
            trace = trace.tb_next
        told = TracebackException(type(error), error, trace, capture_locals=True).format()
        return "".join(told) + repr(vars(error))

    @property
    def sent(self) -> Any:
        """The body of the last request."""
        return self.server.asked[-1].body

    @property
    def turns(self) -> list[tuple[str, Any]]:
        """The roles and texts of the last request, in order."""
        body = self.sent
        instructions = [("system", body["instructions"])] if body.get("instructions") else []
        return [
            *instructions,
            *((each["role"], _text(each["content"])) for each in body.get("messages") or body["input"]),
        ]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or ())


_KINDS = ("codex", "copilot", "copilot responses")


@pytest.fixture(scope="session")
def kinds(real_program: Callable[[str], str]) -> Iterator[Callable[[str], Kind]]:
    """A function that returns one of the programs; each is started once for all tests."""
    made: dict[str, Kind] = {}
    with ExitStack() as stack:

        def kind(name: str) -> Kind:
            if name not in made:
                made[name] = stack.enter_context(_kept(name, real_program))
            made[name].server.play(faults.well())
            return made[name]

        yield kind


@contextmanager
def _kept(name: str, real_program: Callable[[str], str]) -> Iterator[Kind]:
    from pointsman_codex import Codex
    from pointsman_copilot import Copilot

    options: dict[str, Any] = {"program": real_program(name.split()[0]), "model": "gpt-5.5"}
    if name != "codex":
        options |= {"cache": real_program("cache"), "wire_api": "responses" if " " in name else "completions"}
    cls: Any = Codex if name == "codex" else Copilot

    class Kept(cls):  # type: ignore[misc]
        """Goes on when a test, or its router, closes it: to start the program for each test would take minutes."""

        @hookimpl
        def close(self) -> None:
            """Leave it to the end of all tests."""

    with FaultServer() as server:
        warm = Kept(base_url=server.url, api_key=KEY, **options)
        kept = Kind(name, cls, options, server, warm)
        kept.answered(kept.asking())  # now: what it starts is no leak of a test
        yield kept
        cls.close(warm)


@pytest.fixture(params=_KINDS)
def kind(request: pytest.FixtureRequest, kinds: Callable[[str], Kind]) -> Kind:
    """Each of the programs in turn, with both wires of copilot."""
    return kinds(request.param)


@pytest.fixture(params=_KINDS[:2])
def program(request: pytest.FixtureRequest, kinds: Callable[[str], Kind]) -> Kind:
    """Each of the programs in turn."""
    return kinds(request.param)


@pytest.fixture
def made(no_leaks: None) -> Iterator[Callable[..., Any]]:
    """A function that makes providers which are closed afterwards: name it after `kind` or `program`."""
    with ExitStack() as stack:

        def make(kind: Kind, **options: Any) -> Any:
            provider = kind.cls(**{"base_url": kind.server.url, **kind.options, **options})
            stack.callback(provider.close)
            return provider

        yield make


@pytest.fixture
def processes() -> Callable[[str], list[int]]:
    """A function that returns the processes which have a word in their command line."""

    def find(word: str) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if word.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    return find


@pytest.fixture
def soon() -> Callable[[Callable[[], bool]], bool]:
    """A function that waits until something is so, for some seconds, and says whether it is."""

    def wait(is_so: Callable[[], bool], timeout: float = 15.0) -> bool:
        end = monotonic() + timeout
        while not (found := is_so()) and monotonic() < end:
            sleep(0.01)
        return found

    return wait


class StandIn:
    """Stands for every host on the internet: a proxy that ends TLS, and answers as it is told.

    :param certificate: of all hosts that may be asked; whoever trusts its authority is answered.
    """

    def __init__(self, certificate: Path) -> None:
        self.log: list[tuple[str, str, bytes]] = []  #: (host, "METHOD /path", body) of each request
        self.answer: Callable[[str, str], tuple[int, Any]] = lambda host, what: (
            404,
            {},
        )  #: to (host, what): JSON, or text
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.set_alpn_protocols(["http/1.1"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        """What to set as proxy."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """End every connection and thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def hosts(self) -> set[str]:
        """Return whom anybody asked."""
        return {host for host, _, _ in self.log}

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError):
            asked = self._read(connection.makefile("rb", 0))
            host = asked[0].split()[1].partition(":")[0]
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self._context.wrap_socket(connection, server_side=True) as tls:
                self._open.append(tls)
                stream = tls.makefile("rb")
                while True:
                    head, body = self._read(stream)
                    what = " ".join(head.split()[:2])
                    self.log.append((host, what, body))
                    status, told = self.answer(host, what)
                    data = told.encode() if isinstance(told, str) else json.dumps(told).encode()
                    kind = "text/event-stream" if isinstance(told, str) else "application/json"
                    lines = f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}", "", ""
                    tls.sendall("\r\n".join(lines).encode() + data)

    def _read(self, stream: Any) -> tuple[str, bytes]:
        head, length = stream.readline().decode(), 0
        if not head:
            raise ValueError("closed")
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return head, stream.read(length)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, an authority of our own, and `all.pem`, its certificate for the hosts of these tests."""
    assert shutil.which("openssl"), "openssl is not installed: it makes the certificates of these tests"
    folder = tmp_path_factory.mktemp("authority")
    names = "github.com *.github.com *.githubcopilot.com *.githubusercontent.com chatgpt.com *.openai.com"
    (folder / "names").write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names.split()))
    new = "openssl req -newkey rsa:2048 -nodes -subj"
    for command in (
        f"{new} /CN=authority -x509 -days 2 -keyout ca.key -out ca.pem",
        f"{new} /CN=github.com -keyout all.key -out all.csr",
        "openssl x509 -req -in all.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out all.crt",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "all.pem").write_text((folder / "all.crt").read_text() + (folder / "all.key").read_text())
    return folder


@pytest.fixture
def internet(authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Everything but this machine, as programs see it that are started now; name it before what starts them."""
    stand_in = StandIn(authority / "all.pem")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, stand_in.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CODEX_CA_CERTIFICATE"):
        monkeypatch.setenv(name, str(authority / "ca.pem"))
    yield stand_in
    stand_in.close()


@pytest.fixture
def played(no_leaks: None) -> Played:
    """A function that plays rows through a router with providers that `make` makes, and returns what went wrong."""

    def play(make: Any, rows: Iterable[int]) -> dict[str, str]:
        picked = [case for case in cases() if case.row in set(rows)]
        assert picked

        def result(case: Case) -> tuple[str, str]:
            return f"{case.row} {case.fault} {case.way}", case.play(make).problem

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(result, [case for case in picked if not case.alone]))
        found += [result(case) for case in picked if case.alone]
        return {name: problem for name, problem in found if problem}

    return play
