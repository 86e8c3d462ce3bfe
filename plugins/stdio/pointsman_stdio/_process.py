"""One run of a program, under a guard that lets nothing of it outlive us, in a folder of its own."""

from __future__ import annotations

import contextlib
import marshal
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic

from attrs import field, frozen
from pointsman import UnavailableError

_GUARD = str(Path(__file__).with_name("_guard.py"))
_LEAVES_S, _STOPPED_S = 1.0, 10.0
#: Ways to the network that only the machine's owner knows.
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_AUTHORITIES = ("CODEX_CA_CERTIFICATE", "NODE_EXTRA_CA_CERTS")


class Ended(UnavailableError):
    """The process has ended: `status` is its exit code, or 128 and its signal."""


@frozen
class Launch:
    """What is started: an absolute path with its arguments, and what its environment has beside `surroundings`."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(factory=dict, repr=False)  #: it may hold a key
    #: Text that the program is ended for if it writes it to its standard error.
    alarm: str = ""


def surroundings(home: Path) -> dict[str, str]:
    """Return the environment of every program: its own home, the way to the network, and nothing of the user's."""
    names = [*_NETWORK, *(name.lower() for name in _NETWORK), *_AUTHORITIES]
    network = {name: os.environ[name] for name in names if name in os.environ}
    return {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home / "tmp"), "LANG": "C.UTF-8", **network}


class Process:
    """One thread reads it, up to `end`; one writes to it, and alone ends its input. Any may call `terminate`.

    Its pipes have no buffers, and so no locks that a fork could leave locked.

    :param name: of the program, for messages and for its folder.
    :raises UnavailableError: there is no folder for it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        try:
            #: Its own folder, for its owner's eyes only: removed when it ends, however that comes.
            self.home = Path(tempfile.gettempdir()).resolve() / f"pointsman-{name}-{secrets.token_hex(8)}"
            self._guard = subprocess.Popen(  # noqa: S603 - our own
                [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), str(self.home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"{name} gets no folder to work in: {error}", retry_same=False) from error
        assert self._guard.stdin and self._guard.stdout and self._guard.stderr  # noqa: S101, PT018 - we asked for pipes
        self._in, self._out, self._errors = self._guard.stdin, self._guard.stdout, self._guard.stderr
        self._ended: Ended | None = None

    def ready(self) -> None:
        """Wait until the folder is there.

        :raises UnavailableError: it cannot be made.
        """
        if not self._out.read(1):
            raise UnavailableError(f"{self._name} gets no folder to work in: {self.end().message}", retry_same=False)

    def start(self, launch: Launch) -> None:
        """Start the program."""
        environment = {**surroundings(self.home), **launch.environment}
        told = marshal.dumps((list(launch.command), environment, launch.alarm.encode()))
        self.write(len(told).to_bytes(4, "big") + told)

    def read(self, until: float | None = None) -> Iterator[bytes]:
        """Yield what it prints, as it comes, up to its end.

        :param until: `time.monotonic()` at which it is ended.
        """
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        while True:
            if until is not None and not poll.poll(max(0.0, until - monotonic()) * 1000):
                self.terminate()
                until = None
            try:
                piece = self._out.read(65536)
            except (OSError, ValueError):  # of a fork, which has let go of it
                return
            if not piece:
                return
            yield piece

    def write(self, data: bytes) -> None:
        """Send it. What has ended hears nothing; why, the one who reads finds out."""
        view = memoryview(data)
        with contextlib.suppress(OSError, ValueError):
            while view:
                view = view[self._in.write(view) or 0 :]

    def end_input(self) -> None:
        """Say that nothing more comes: a program that serves ends by that."""
        with contextlib.suppress(OSError):
            self._in.close()

    def terminate(self) -> None:
        """Have the program ended, and all its children; do not wait for that."""
        self._guard.terminate()

    def end(self) -> Ended:
        """Wait for the end, bring it about if it does not come, and return how it came. No second call costs more."""
        if self._ended is None:
            for patience, then in ((_LEAVES_S, self._guard.terminate), (_STOPPED_S, self._guard.kill)):
                try:
                    self._guard.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    then()
            code = self._guard.wait()
            shutil.rmtree(self.home, ignore_errors=True)  # if the guard was killed
            os.set_blocking(self._errors.fileno(), False)  # a fork may hold the other end
            said = _last_line(self._errors.read() or b"")
            for pipe in (self._out, self._errors):
                pipe.close()
            how = f"was killed (signal {abs(code) % 128})" if code > 128 or code < 0 else f"ended (exit code {code})"
            self._ended = Ended(f"{self._name} {how}" + (f": {said}" if said else ""), status=code)
        return self._ended

    def forget(self) -> None:
        """In a forked process: let go of the pipes, which belong to our parent's process."""
        for pipe in (self._in, self._out, self._errors):
            with contextlib.suppress(OSError):
                pipe.close()
        self._guard.returncode = 0  # not ours to wait for


def _last_line(data: bytes) -> str:
    """Return the line that says most: the last error, else the last line that says anything."""
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    told = [line for line in lines if any(map(str.isalpha, line))]
    told = [line for line in told if not line.startswith(("WARNING", "Stack backtrace", "at "))]
    told = [line for line in told if not line.partition(":")[0].isdigit()]
    return next((line for line in told if line.lower().startswith("error")), told[-1] if told else "")[:300]
