"""The `pointsman` command, run as a person or a program runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from pointsman.cli import _app as app
from pointsman.testing import FaultServer, faults

COMMANDS = (["generate"], ["batch"], ["health"], ["order"], ["plugins"], ["config", "check"])
KEY = "sk-test-0123456789abcdef"

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What the command finds: no key, no configuration, an empty home."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "SYSTEMROOT", "LANG")}
    return kept | {"HOME": str(folder), "PYTHONUTF8": "1"} | more


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command in an empty folder and return what it printed."""

    def run(*arguments: str, stdin: str | bytes | None = "", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pointsman", *arguments],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=tmp_path,
            env=environment(tmp_path, **more),
            timeout=120,
        )
        text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in text.stderr
        return text

    return run


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """Write pointsman.json with these backends."""

    def configure(*backends: dict[str, Any], **sections: Any) -> None:
        (tmp_path / "pointsman.json").write_text(json.dumps({"BACKENDS": backends, **sections}))

    return configure


ECHO = {"id": "echo", "type": "echo", "suffix": "", "priority": 50}


def hosted(url: str, **more: Any) -> dict[str, Any]:
    """A backend that talks to the fault server."""
    return {"id": "main", "type": "openai", "model": "m", "api_key": KEY, "base_url": url, "priority": 10, **more}


# -- help -------------------------------------------------------------------------------------------


def test_help_shows_commands_examples_and_exit_codes_and_imports_no_plugin(tmp_path: Path) -> None:
    """`--help` costs nothing but click: no rich, no attrs or cattrs, no pluggy, no HTTP, no log, no plugin."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pointsman", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        check=True,
    )
    for word in ("generate", "health", "order", "plugins", "config", "Examples:", "Exit codes:", "POINTSMAN_CONFIG"):
        assert word in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    heavy = {"rich", "attr", "attrs", "cattrs", "pluggy", "requests", "structlog", "logging", "asyncio", "tomllib"}
    assert "click" in imported
    assert not imported & (heavy | {"pointsman_openai", "pointsman_local", "pointsman_echo"})


def test_help_is_cheap(tmp_path: Path) -> None:
    """The rule is 0.15 s in all; the bound is twice that in CPU time, for machines that do other things too."""

    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "pointsman", "--help"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment(tmp_path))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cost() for _ in range(5)) <= 0.3


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_documents_itself(run: Run, command: list[str]) -> None:
    """Each --help tells the exit codes."""
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Exit codes:" in done.stdout
    assert "--json" in done.stdout


def test_what_may_be_unchecked_tells_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    """`store verify` exits with 3 where a store could not be looked at, and its table of codes has that."""
    assert app.run(["store", "verify", "--help"]) == 0
    assert "  3    nothing is wrong, and not all could be looked at\n" in capsys.readouterr().out
    assert app.run(["store", "gc", "--help"]) == 0
    assert "  3  " not in capsys.readouterr().out


def test_the_version_is_that_of_the_package(run: Run) -> None:
    """`--version` prints it, alone."""
    import pointsman

    assert run("--version").stdout == f"pointsman {pointsman.__version__}\n"


def test_without_click_it_says_what_to_install(tmp_path: Path) -> None:
    """The core alone has no command line; it says so in one sentence."""
    program = "import sys; sys.modules['click'] = None; from pointsman.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 2
    assert 'pip install "pointsman[cli]"' in done.stderr
    assert "Traceback" not in done.stderr


# -- generate ---------------------------------------------------------------------------------------


def test_the_answer_alone_is_on_stdout(run: Run, configure: Callable[..., None]) -> None:
    """Words need no quotes, and an answer ends with one line break."""
    configure(ECHO)
    done = run("generate", "three", "rivers")
    assert (done.returncode, done.stdout, done.stderr) == (0, "three rivers\n", "")


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_a_prompt_may_come_through_a_pipe(run: Run, configure: Callable[..., None], arguments: list[str]) -> None:
    """Without a prompt, or with -, standard input is read, whatever its size and whatever it begins with."""
    configure(ECHO)
    prompt = "--help " + "naïve " * 50_000
    done = run("generate", *arguments, stdin=prompt)
    assert (done.returncode, done.stdout.strip()) == (0, prompt.strip())


def test_a_prompt_may_end_with_what_comes_through_a_pipe(run: Run, configure: Callable[..., None]) -> None:
    """Instructions first, and a last - for the text that they are about."""
    configure(ECHO)
    assert run("generate", "Summarise", "this:", "-", stdin="A letter.\n").stdout == "Summarise this:\n\nA letter.\n"


def test_a_prompt_that_looks_like_an_option_stands_behind_two_dashes(run: Run, configure: Callable[..., None]) -> None:
    """As everywhere in the shell."""
    configure(ECHO)
    assert run("generate", "--", "--json").stdout == "--json\n"


def test_json_has_the_whole_completion(run: Run, configure: Callable[..., None]) -> None:
    """Programs get text, backend, finish reason and attempts."""
    configure(ECHO)
    whole = json.loads(run("generate", "--json", "x").stdout)
    assert (whole["text"], whole["backend"], whole["finish_reason"]) == ("x", "echo", "stop")
    assert [attempt["outcome"] for attempt in whole["attempts"]] == ["answered"]


def test_a_stream_is_printed_while_it_comes(run: Run, configure: Callable[..., None]) -> None:
    """`--stream` prints the same text; with --json, a line for each piece, and the completion last."""
    with FaultServer([faults.well("one two three")]) as server:
        configure(hosted(server.url))
        assert run("generate", "--stream", "x").stdout == "one two three\n"
        *pieces, last = map(json.loads, run("generate", "--stream", "--json", "x").stdout.splitlines())
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces) == last["completion"]["text"] == "one two three"


def test_options_reach_the_backend(run: Run, configure: Callable[..., None], tmp_path: Path) -> None:
    """System prompt, schema, limits and model are sent as they were written."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    with FaultServer([faults.well('{"name": "Ada"}')]) as server:
        configure(hosted(server.url), ECHO)
        options = ["--backend", "main", "--system", "Be brief.", "--schema", "s.json", "--model", "other"]
        done = run("generate", *options, "--max-tokens", "7", "--temperature", "0.5", "--timeout", "50", "Who?")
        asked = server.log[-1].body
    assert done.stdout == '{"name": "Ada"}\n'
    assert (asked["model"], asked["temperature"]) == ("other", 0.5)
    assert 7 in (asked.get("max_tokens"), asked.get("max_completion_tokens"))
    assert "Be brief." in json.dumps(asked)
    assert asked["response_format"]["json_schema"]["schema"]["required"] == ["name"]


def test_a_fallback_is_told_on_stderr(run: Run, configure: Callable[..., None]) -> None:
    """The answer is on stdout; who failed, why, and who answered is on stderr."""
    with FaultServer([faults.status(503)]) as server:
        configure(hosted(server.url, max_retries=0), ECHO)
        done = run("generate", "x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert "main failed (UnavailableError: " in done.stderr
    assert "echo answered instead" in done.stderr


def test_an_answer_that_was_cut_is_told_on_stderr(run: Run, configure: Callable[..., None]) -> None:
    """Finish reason `length` is a good answer, and worth knowing."""
    with FaultServer([faults.length("Once upon a")]) as server:
        configure(hosted(server.url))
        done = run("generate", "x")
    assert (done.returncode, done.stdout) == (0, "Once upon a\n")
    assert "--max-tokens" in done.stderr


@pytest.mark.parametrize("flags", [[], ["--stream"], ["--json"], ["--stream", "--json"]], ids=" ".join)
def test_when_nobody_answers_it_says_what_happened(run: Run, configure: Callable[..., None], flags: list[str]) -> None:
    """Exit code 1, the reason of each backend on stderr, an error object for programs, and never the key."""
    with FaultServer([faults.status(401)]) as server:
        configure(hosted(server.url), hosted(server.url, id="second"))
        done = run("generate", *flags, "x")
    assert done.returncode == 1
    assert "main: " in done.stderr
    assert "second: " in done.stderr
    assert "try again in" not in done.stderr  # no waiting mends a key
    assert KEY not in done.stdout + done.stderr
    if "--json" in flags:
        error = json.loads(done.stdout)["error"]
        assert error["type"] == "AllBackendsFailed"
        assert [attempt["backend"] for attempt in error["attempts"]] == ["main", "second"]
    else:
        assert done.stdout == ""


def test_a_stream_that_breaks_is_a_failure(run: Run, configure: Callable[..., None]) -> None:
    """What had come stays on stdout, the exit code is 1, and stderr says that it broke."""
    with FaultServer([faults.cut_after(3)]) as server:
        configure(hosted(server.url))
        done = run("generate", "--stream", "one two three four five six")
    assert done.returncode == 1
    assert done.stdout.strip()
    assert "broke" in done.stderr


def test_the_demonstration_model_says_what_it_is(run: Run) -> None:
    """Without any configuration the small model answers, and stderr says how to configure a real one."""
    done = run("generate", "--max-tokens", "8", "Say hello.")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert "small demonstration model" in done.stderr
    assert "OPENAI_API_KEY" in done.stderr


MISTAKES = [
    (["generate"], "the prompt is empty"),
    (["generate", " "], "the prompt is empty"),
    (["generate", "--backend", "ecko", "x"], "no backend 'ecko'; did you mean 'echo'?"),
    (["generate", "--schema", "none.json", "x"], "--schema none.json: No such file"),
    (["generate", "--schema", "broken.json", "x"], "--schema broken.json: line 1, column 7: not JSON"),
    (["generate", "--schema", "list.json", "x"], "--schema list.json: found a list, expected a JSON Schema"),
    (["generate", "--max-tokens", "many", "x"], "'many' is not a valid integer"),
    (["generate", "--max-tokens", "0", "x"], "max_tokens: found 0, expected a whole number from 1"),
    (["generate", "--max-token", "3", "x"], "--max-tokens"),
    (["generate", "--config", "none.toml", "x"], "none.toml: cannot be read: No such file or directory"),
    (["generate", "--config", "list.json", "x"], "list.json: found a list, expected a mapping"),
    (["health", "--config", "wrong.toml"], "wrong.toml: BACKENDS[0].suffx: unknown key; did you mean suffix?"),
    (["order", "--backend", "ecko"], "did you mean 'echo'?"),
    (["config", "check", "wrong.toml"], "wrong.toml: BACKENDS[0].suffx: unknown key; did you mean suffix?"),
    (["config", "check", "two.toml"], "two.toml: 2 things to mend:"),
    (["helth"], "helth"),
    ([], "Usage:"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(each) for each, _ in MISTAKES])
def test_a_persons_mistake_is_a_message_and_exit_code_2(
    run: Run, configure: Callable[..., None], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """No traceback, nothing on stdout, and the thing to mend by its name."""
    configure(ECHO)
    (tmp_path / "broken.json").write_text('{"a": ')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "wrong.toml").write_text('[[BACKENDS]]\nid = "a"\ntype = "echo"\nsuffx = "!"\n')
    (tmp_path / "two.toml").write_text('[[BACKENDS]]\nid = "a"\ntype = "ecco"\nsuffx = "!"\n\n[ROUTER]\ntimeout = 0\n')
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_prompt_that_is_no_text_is_refused(run: Run, configure: Callable[..., None]) -> None:
    """Bytes that are not UTF-8 are named by their place."""
    configure(ECHO)
    done = run("generate", stdin=b"caf\xe9")
    assert done.returncode == 2
    assert "not UTF-8 text (byte 3)" in done.stderr


def test_ctrl_c_ends_it_with_130_and_closes_the_connection(tmp_path: Path, configure: Callable[..., None]) -> None:
    """Whoever stops waiting is not kept: no traceback, and the provider sees the connection close."""
    with FaultServer([faults.silent()]) as server:
        configure(hosted(server.url))
        process = subprocess.Popen(
            [sys.executable, "-m", "pointsman", "generate", "x"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(tmp_path),
            # a test run in the background ignores SIGINT, and its children would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not server.log and process.poll() is None:
            sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert server.log[0].wait_closed(30)
    assert (process.returncode, out) == (130, b"")
    assert b"interrupted" in err
    assert b"Traceback" not in err


def test_a_reader_that_leaves_is_noticed_quietly(tmp_path: Path, configure: Callable[..., None]) -> None:
    """`pointsman ... | head -c 10` ends without a message, with the code of other programs: `pipefail` sees it."""
    configure(ECHO)
    process = subprocess.Popen(
        [sys.executable, "-m", "pointsman", "generate", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"many words " * 200_000)
    process.stdin.close()
    assert process.stdout.read(10) == b"many words"
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (141, b"")
    process.stderr.close()


@pytest.mark.parametrize("line", ["--help", "--version", "store --help", "store put --help"])
def test_a_reader_that_leaves_before_the_help_is_noticed_quietly(tmp_path: Path, line: str) -> None:
    """With the code of other programs, too."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pointsman", *line.split()]
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, env=environment(tmp_path), timeout=120)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_interrupt_after_all_is_done_changes_nothing(tmp_path: Path) -> None:
    """While Python takes itself down, which takes a tenth of a second: what was done has its own exit code."""
    program = (
        "import atexit, os, signal, sys; atexit.register(os.kill, os.getpid(), signal.SIGINT);"
        "from pointsman.cli import main; sys.argv[1:] = ['--version']; sys.exit(main())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, env=environment(tmp_path), timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"pointsman ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "arguments", [["generate", "hi"], ["generate", "hi", "--stream"], ["generate", "hi", "--json"], ["order"]]
)
def test_an_output_that_cannot_be_written_is_a_message(
    tmp_path: Path, configure: Callable[..., None], arguments: list[str]
) -> None:
    """A full disk costs the answer, and is told in one line: exit code 1, no traceback."""
    configure(ECHO)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pointsman", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(tmp_path),
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (1, "Error: standard output cannot be written: No space left on device\n")


def test_an_answer_cannot_move_a_terminal(tmp_path: Path, configure: Callable[..., None]) -> None:
    """Control characters of a model's text reach a pipe unchanged, and a terminal not at all."""
    configure(ECHO)
    prompt = "red \x1b[31m\x1b]0;title\x07 end\tof\nit"
    command = [sys.executable, "-m", "pointsman", "generate", prompt]
    piped = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment(tmp_path), check=True)
    assert piped.stdout.decode() == prompt + "\n"
    master, slave = pty.openpty()
    subprocess.run(command, stdout=slave, cwd=tmp_path, env=environment(tmp_path), check=True)
    os.close(slave)
    shown = ""
    with suppress(OSError), open(master, "rb", buffering=0) as terminal:  # it ends with EIO
        while piece := terminal.read(10_000):
            shown += piece.decode()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "end\tof\r\nit" in shown
