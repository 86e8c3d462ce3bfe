"""Runs one program, and lets nothing of it outlive whoever started this.

    python -I -S _guard.py PARENT HOME PROGRAM [ARGUMENT...]

The program gets the standard streams, the working directory and the environment of this process. When
it ends, when the process PARENT ends (however: this one is no part of it), or on SIGTERM, all that is
left of the program and of its children is killed, and the directory HOME removed with all that is in it.
"""

import ctypes
import os
import select
import shutil
import signal
import sys
import time

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>


class _Stop(Exception):
    """Somebody asked for the end."""


def main() -> None:
    """Run it, and end as it ended: with its exit code, or 128 and the number of its signal."""
    parent, home, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    me, program, code = os.getpid(), 0, 0
    try:
        program = os.fork()
        if not program:
            _become(command, me)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        code = _wait(program, int(parent))
    except _Stop:
        code = 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if program:
            _end(program)
        shutil.rmtree(home, ignore_errors=True)
    os._exit(code)


def _stop(*_: object) -> None:
    raise _Stop


def _become(command: list[str], guard: int) -> None:
    """In the forked process: turn into the program, which dies when the guard does."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setpgid(0, 0)
        if _LINUX:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == guard:
            os.execve(command[0], command, os.environ)  # noqa: S606 - the point of it
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _wait(program: int, parent: int) -> int:
    """Return how the program ended, or 0 when the parent did."""
    poller = None
    if hasattr(os, "pidfd_open"):
        try:
            poller = select.poll()
            for each in (program, parent):
                poller.register(os.pidfd_open(each), select.POLLIN)
        except OSError:  # an old kernel, or one of them has ended already
            poller = None
    while os.getppid() == parent:
        pid, status = os.waitpid(program, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if poller is not None:
            poller.poll()
        else:
            time.sleep(0.1)
    return 0


def _end(program: int) -> None:
    """Kill all that is left, until there is nothing."""
    for _ in range(1000):
        for victim in (-program, *_children()):
            try:
                os.kill(victim, signal.SIGKILL)
            except OSError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _children() -> list[int]:
    """Return the processes that are ours: orphans of the program become so, one generation after the other."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
