"""Runs one program, and lets nothing of it outlive whoever started this.

    python -I -S _guard.py PARENT HOME

It makes the directory HOME, says so with one byte on its standard output, and is told on its standard input what to
run: the length of a message in four bytes, then, as `marshal` writes it, the command, the environment, and an alarm.
The rest of both streams is the program's, which works in HOME/empty. When the program ends, when the process PARENT
ends (however: this one is no part of it), on SIGTERM, or when the program writes the alarm to its standard error, all
that is left of it and of its children is killed, and HOME removed with all that is in it. The last words of its
standard error go to ours.
"""

import ctypes
import marshal
import os
import select
import shutil
import signal
import sys
import time

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
_WORDS = 4000  # bytes that are kept of what it says
_LEAVES_S = 0.5  # for a program that tidies up when it is asked to end


class _Stop(Exception):
    """Somebody asked for the end."""


def main() -> None:
    """Run it, and end as it ended: with its exit code, or 128 and the number of its signal."""
    parent, home = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    me, program, code, words = os.getpid(), 0, 0, _Words()
    try:
        _make(home)
        command, environment, words.alarm = _told(parent)
        theirs = words.pipe()
        program = os.fork()
        if not program:
            _become(command, environment, home, theirs, me)
        _let_go(theirs)
        code = _wait(program, parent, words)
    except _Stop:
        code = 128 + signal.SIGTERM
    except OSError as error:
        code, words.kept = 1, f"{error.filename or home}: {error.strerror}".encode()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if program:
            _end(program)
        shutil.rmtree(home, ignore_errors=True)
    words.alarm = b""
    while words.hear(0, []):
        pass
    os.write(2, words.kept)
    os._exit(code)


def _stop(*_: object) -> None:
    raise _Stop


def _make(home: str) -> None:
    os.mkdir(home, 0o700)
    for name in ("empty", "tmp", "empty/.git"):  # the last: so that nobody looks for a repository above it
        os.mkdir(os.path.join(home, name), 0o700)
    os.write(1, b"\n")


def _told(parent: int) -> tuple[list[str], dict[str, str], bytes]:
    """Return what to run.

    :raises _Stop: nobody is there who would say so.
    """
    got, size = b"", 4
    while len(got) < size:
        while not select.select([0], [], [], 1.0)[0]:
            if os.getppid() != parent:  # a fork of it holds the other end
                raise _Stop
        piece = os.read(0, size - len(got))
        if not piece:
            raise _Stop
        got += piece
        if size == 4 == len(got):
            size += int.from_bytes(got, "big")
    return marshal.loads(got[4:])  # type: ignore[no-any-return]  # noqa: S302 - of our parent, and for this only


class _Words:
    """The end of what the program says on its standard error."""

    def __init__(self) -> None:
        self.kept = self.alarm = b""
        self._source: list[int] = []  # one, until all is read

    def pipe(self) -> int:
        """Return where the program writes."""
        source, theirs = os.pipe()
        self._source = [source]
        return theirs

    def hear(self, seconds: float, others: list[int]) -> bool:
        """Wait so long at most, until there are words or one of the others has ended; say whether there were any.

        :raises _Stop: it is the alarm.
        """
        ready = select.select([*self._source, *others], [], [], seconds)[0]
        if not self._source or self._source[0] not in ready:
            return False
        piece = os.read(self._source[0], 65536)
        if not piece:
            os.close(self._source.pop())
        seen = self.kept + piece
        self.kept = seen[-_WORDS:]
        if self.alarm and self.alarm in seen:
            self.alarm = b""
            raise _Stop
        return bool(piece)


def _become(command: list[str], environment: dict[str, str], home: str, errors: int, guard: int) -> None:
    """In the forked process: turn into the program, which dies when the guard does."""
    try:
        os.dup2(errors, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.chdir(os.path.join(home, "empty"))
        if _LINUX:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == guard:
            os.execve(command[0], command, environment)  # noqa: S606 - the point of it
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error.strerror}\n".encode())
    os._exit(127)


def _let_go(theirs: int) -> None:
    """Close the guard's copies of the program's streams, so that their ends are seen on both sides."""
    os.close(theirs)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)


def _wait(program: int, parent: int, words: _Words) -> int:
    """Return how the program ended.

    :raises _Stop: the parent has ended, or the alarm came.
    """
    ends: list[int] = []
    if hasattr(os, "pidfd_open"):
        try:
            ends = [os.pidfd_open(each) for each in (program, parent)]
        except OSError:  # an old kernel, or one of them has ended already
            ends = []
    while True:
        pid, status = os.waitpid(program, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if os.getppid() != parent:
            raise _Stop
        words.hear(10.0 if ends else 0.05, ends)


def _end(program: int) -> None:
    """Let the program end by itself if it does so at once; then kill all that is left, until there is nothing."""
    _kill(-program, signal.SIGTERM)
    end = time.monotonic() + _LEAVES_S
    while _alive(program) and time.monotonic() < end:
        time.sleep(0.005)
    for _ in range(1000):
        for victim in (-program, *_children()):
            _kill(victim, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _alive(program: int) -> bool:
    try:
        return not os.waitpid(program, os.WNOHANG)[0]
    except ChildProcessError:
        return False


def _kill(victim: int, how: int) -> None:
    try:
        os.kill(victim, how)
    except OSError:
        return


def _children() -> list[int]:
    """Return the processes that are ours: orphans of the program become so, one generation after the other."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
