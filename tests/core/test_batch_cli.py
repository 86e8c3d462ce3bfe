"""`pointsman batch`, as a person or a program runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from pointsman._journal import Journal
from pointsman.testing import FaultServer, faults

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
ECHO = {"id": "echo", "type": "echo", "suffix": "!"}
KEY = "sk-of-the-batch-0123456789abcdef"


def command(*arguments: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "pointsman", "batch", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """What the command finds: no key, an empty home."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "SYSTEMROOT", "LANG")}
    return kept | {"HOME": str(folder), "PYTHONUTF8": "1"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command in a folder with a configuration, and return what it printed."""
    configure(tmp_path, ECHO)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        found = subprocess.run(
            command(*arguments), input=stdin, capture_output=True, cwd=tmp_path, env=environment(tmp_path), timeout=120
        )
        done = Done(found.args, found.returncode, found.stdout.decode(), found.stderr.decode())
        assert "Traceback" not in done.stderr
        return done

    return run


def configure(folder: Path, *backends: dict[str, Any], **sections: Any) -> None:
    """Write pointsman.json with these backends."""
    (folder / "pointsman.json").write_text(json.dumps({"BACKENDS": backends, **sections}))


def hosted(url: str, **more: Any) -> dict[str, Any]:
    """A backend that talks to the fault server."""
    return {"id": "main", "type": "openai", "model": "m", "api_key": KEY, "base_url": url, **more}


def rows(text: str) -> list[dict[str, Any]]:
    """The values of JSON lines."""
    return [json.loads(line) for line in text.split("\n")[:-1]]


INPUT = b"""\xef\xbb\xbfplain, "as it stands"

{"id": "x", "prompt": "one", "max_tokens": 3}
{"id": 7, "messages": [{"role": "user", "content": "two"}]}
{bad
{"prompt": "three", "max_tokns": 1}
\xff\xfe
  [1, 2]\r
{"id": null}
"""


def test_every_line_gets_its_line_in_order(run: Run, tmp_path: Path) -> None:
    """Plain lines and objects; a bad line is an error with its number, and stops no other; empty lines are none."""
    (tmp_path / "in.jsonl").write_bytes(INPUT)
    done = run("in.jsonl", "-o", "out.jsonl", "--workers", "3")
    assert (done.returncode, done.stdout) == (1, "")
    found = rows((tmp_path / "out.jsonl").read_text("utf-8"))
    assert [(row["line"], row.get("id"), row.get("text")) for row in found] == [
        (1, None, 'plain, "as it stands"!'),
        (3, "x", "one!"),
        (4, 7, "two!"),
        (5, None, None),
        (6, None, None),
        (7, None, None),
        (8, None, "[1, 2]!"),
        (9, None, None),
    ]
    assert "id" in found[7]
    said = {row["line"]: row["error"]["message"] for row in found if "error" in row}
    assert "not JSON" in said[5]
    assert said[6].startswith("max_tokns: no such option; did you mean max_tokens?")
    assert "not UTF-8" in said[7]
    assert "either prompt or messages" in said[9]
    assert "4 of 8 answered" in done.stderr
    assert "  line 6: InvalidRequestError: max_tokns: no such option" in done.stderr
    assert "--resume --retry-failed" in done.stderr


def test_a_failure_is_one_line_of_the_summary(run: Run, tmp_path: Path) -> None:
    """Whatever its message repeats of the item."""
    configure(tmp_path, {"id": "echo", "type": "echo"})
    done = run("-", stdin=b'{"prompt": "x", "a\\n  line 7: b": 1}\n')
    assert "  line 1: InvalidRequestError: a\\n  line 7: b: no such option" in done.stderr


def test_answers_go_to_standard_output_where_no_file_is_named(run: Run) -> None:
    """The answers alone; the summary is on stderr; the exit code is 0, since all were answered."""
    done = run("-", stdin=b"a\nb")
    assert [row["text"] for row in rows(done.stdout)] == ["a!", "b!"]
    assert done.returncode == 0
    assert done.stderr.startswith("2 of 2 answered in 0:0")


def test_no_prompts_are_no_answers(run: Run, tmp_path: Path) -> None:
    """An empty file is done."""
    (tmp_path / "in").touch()
    done = run("in", "-o", "out")
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 of 0 answered" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing", "-o", "out"], "missing: No such file"),
        (["in", "-o", "in"], "the same file"),
        (["in", "--resume"], "--resume needs a file"),
        (["in", "-o", "old"], "old exists: --resume goes on with that run"),
        (["in", "-o", "old", "--resume"], "old exists, but not old.journal"),
        (["in", "-o", "out", "--retry-failed"], "goes with --resume"),
        (["in", "-o", "out", "--workers", "0"], "workers"),
        (["in", "-o", "out", "--backend", "nobody"], "nobody"),
        (["in", "-o", "out", "--schema", "in"], "not JSON"),
        (["in", "-o", "out", "--config", "none.json"], "none.json"),
        (["in", "-o", "no/such/folder/out"], "unable to open"),
        (["in", "-o", "out", "--journal", "old"], "old exists"),
    ],
)
def test_a_mistake_is_told_before_anything_is_asked_or_written(
    run: Run, tmp_path: Path, arguments: list[str], says: str
) -> None:
    """Exit code 2, one message, and every file is as it was."""
    (tmp_path / "in").write_text("a\n")
    (tmp_path / "old").write_text("precious\n")
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert (tmp_path / "old").read_text() == "precious\n"
    assert not (tmp_path / "out").exists()


def test_resume_asks_only_what_has_no_result(run: Run, tmp_path: Path) -> None:
    """A run with failures, its mended input, and --retry-failed: each answer is asked for once."""

    def asked() -> list[str]:
        return sorted(visit.body["messages"][-1]["content"] for visit in server.log if visit.body)

    script = [
        faults.well("one"),
        faults.status(400),
        faults.well("three"),
        faults.well("bad mended"),
        faults.well("two"),
    ]
    with FaultServer(script) as server:
        configure(tmp_path, hosted(server.url, max_retries=0))
        (tmp_path / "in").write_text('1\n2\n3\n{"prompt": "4", "top_k": "x"}\n')
        first = run("in", "-o", "out", "--workers", "1")
        assert (first.returncode, asked()) == (1, ["1", "2", "3"])
        (tmp_path / "in").write_text('1\n2\n3\n{"prompt": "4"}\n')
        second = run("in", "-o", "out", "--workers", "1", "--resume")
        assert (second.returncode, asked()) == (1, ["1", "2", "3", "4"])
        assert "3 of them stood in the journal" in second.stderr
        third = run("in", "-o", "out", "--workers", "1", "--resume", "--retry-failed")
        assert (third.returncode, asked()) == (0, ["1", "2", "2", "3", "4"])
    found = rows((tmp_path / "out").read_text())
    assert [row["text"] for row in found] == ["one", "two", "three", "bad mended"]
    assert KEY not in "".join(done.stdout + done.stderr for done in (first, second, third))


def test_the_journal_of_a_running_batch_protects_its_output(run: Run, tmp_path: Path) -> None:
    """A second run is refused, and does not touch what the first has written."""
    (tmp_path / "in").write_text("a\n")
    (tmp_path / "out").write_text("of the first\n")
    journal = Journal(tmp_path / "out.journal")
    try:
        done = run("in", "-o", "out", "--resume")
    finally:
        journal.close()
    assert done.returncode == 2
    assert "another batch is using it" in done.stderr
    assert (tmp_path / "out").read_text() == "of the first\n"


def test_max_cost_asks_no_more(run: Run, tmp_path: Path) -> None:
    """When the answers have cost so much, the rest is told as not asked; --resume with more goes on where it ended."""
    (tmp_path / "in").write_text("".join(f"p{n}\n" for n in range(60)))
    with FaultServer(faults.well()) as server:
        configure(tmp_path, hosted(server.url, prices={"input": 1e6, "output": 0}))  # a dollar for each token
        first = run("in", "-o", "out", "--workers", "1", "--max-cost", "20", "--json")
        asked = len(server.log)
        second = run("in", "-o", "out", "--workers", "2", "--max-cost", "1e9", "--resume")
        assert len(server.log) == 60
    told = json.loads(first.stderr)
    assert first.returncode == 1
    assert told["answered"] == asked < 30
    assert told["failed"] == 60 - asked
    assert 20 <= told["cost"] < 20 + 3 * told["cost"] / asked
    assert second.returncode == 0
    assert "60 of 60 answered" in second.stderr
    assert [row["line"] for row in rows((tmp_path / "out").read_text())] == list(range(1, 61))


def test_max_cost_says_that_it_cannot_count_what_has_no_price(run: Run, tmp_path: Path) -> None:
    """Once, and the run goes on."""
    (tmp_path / "in").write_text("a\nb\n")
    done = run("in", "-o", "out", "--max-cost", "1")
    assert done.returncode == 0
    assert done.stderr.count("--max-cost counts known costs only") == 1


def test_the_summary_counts_tokens_and_cost(run: Run, tmp_path: Path) -> None:
    """What came in, what went out, and what it cost, as far as that is known."""
    with FaultServer(faults.well()) as server:
        configure(tmp_path, hosted(server.url, prices={"input": 1000, "output": 1000}))
        done = run("-", "--json", stdin=b"a\nb\n")
        plain = run("-", stdin=b"a\nb\n")
    told = json.loads(done.stderr)
    assert told["cost"] == pytest.approx((told["input_tokens"] + told["output_tokens"]) / 1000)
    assert told["cost"] == pytest.approx(sum(row["cost"] for row in rows(done.stdout)))
    assert f"{told['input_tokens']} tokens in, {told['output_tokens']} out; ${told['cost']:.4f}" in plain.stderr


def test_options_reach_the_backend(run: Run, tmp_path: Path) -> None:
    """System prompt, limits and model are those of every row that has none of its own."""
    with FaultServer(faults.well()) as server:
        configure(tmp_path, hosted(server.url))
        options = ["--system", "Be brief.", "--model", "other", "--max-tokens", "7", "--workers", "1"]
        run("-", *options, stdin=b'a\n{"prompt": "b", "max_tokens": 5}\n')
        asked = [visit.body for visit in server.log]
    assert [body["model"] for body in asked] == ["other", "other"]
    assert [body.get("max_tokens") or body["max_completion_tokens"] for body in asked] == [7, 5]
    assert all("Be brief." in json.dumps(body) for body in asked)


def test_text_of_any_kind_stays_valid(run: Run) -> None:
    """Line separators, lone surrogates and control characters do not break a line."""
    done = run("-", stdin=json.dumps({"prompt": "\u2028 \ud800 \x00 naïve"}).encode())
    (row,) = rows(done.stdout)
    assert row["text"] == "\u2028 \ud800 \x00 naïve!"


def test_a_reader_that_leaves_ends_it(run: Run, tmp_path: Path) -> None:
    """As `head` does: no traceback, no complaint."""
    (tmp_path / "in").write_text("p\n" * 4_000)
    with subprocess.Popen(
        command("in"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(tmp_path)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(60) == 141  # as of a program that a closed pipe ends
    assert "Traceback" not in said


# -- Ctrl-C -------------------------------------------------------------------------------------------


def waiting(server: FaultServer, count: int) -> None:
    """Wait until the server has been asked so often."""
    end = monotonic() + 60
    while len(server.log) < count:
        assert monotonic() < end
        sleep(0.01)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_writes_what_is_there_and_says_how_to_go_on(run: Run, tmp_path: Path, times: int) -> None:
    """Exit code 130 and a summary; what was answered is in OUT; --resume asks only the rest."""
    (tmp_path / "in").write_text("1\n2\n3\n4\n")
    with FaultServer([faults.well("one"), faults.well("two"), faults.silent()]) as server:
        configure(tmp_path, hosted(server.url, max_retries=0))
        with subprocess.Popen(
            command("in", "-o", "out", "--workers", "1", "--timeout", "600"),
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(tmp_path),
        ) as process:
            assert process.stderr is not None
            waiting(server, 3)
            for _ in range(times):
                process.send_signal(signal.SIGINT)
            said = process.stderr.read().decode()
            assert process.wait(60) == 130
        assert "Traceback" not in said
        if times == 1:
            assert "2 of 4 answered" in said
            assert "interrupted; the same command with --resume goes on" in said
            assert [row["text"] for row in rows((tmp_path / "out").read_text())] == ["one", "two"]
    with FaultServer(faults.well()) as server:
        configure(tmp_path, hosted(server.url))
        assert run("in", "-o", "out", "--resume").returncode == 0
        assert len(server.log) == 2


# -- progress -----------------------------------------------------------------------------------------


def test_a_terminal_shows_a_bar_and_then_the_summary(tmp_path: Path) -> None:
    """Rate, failures, tokens and time left, on a line that is gone in the end."""
    configure(tmp_path, ECHO)
    (tmp_path / "in").write_text("p\n" * 4_000)
    parent, child = pty.openpty()
    with subprocess.Popen(
        command("in", "-o", "out"), stderr=child, cwd=tmp_path, env=environment(tmp_path) | {"TERM": "xterm"}
    ) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        assert process.wait(60) == 0
    os.close(parent)
    text = shown.decode()
    assert "/4,000  " in text
    assert "/s  0 failed" in text
    assert " left" in text
    assert "4,000 of 4,000 answered" in text.rpartition("\x1b[2K")[2]


def test_elsewhere_progress_is_plain_lines() -> None:
    """A log gets a line now and then, without escapes: the same words."""
    from pointsman import Completion, RateLimitError, Usage
    from pointsman.cli._progress import Tally, duration

    tally = Tally(1000)
    for _ in range(3):
        tally.count(Completion("x", usage=Usage(100, 400), cost=0.25))
    tally.count(RateLimitError("no"))
    words = str(tally).split("  ")
    assert words[0] == "4/1,000"
    assert words[2:5] == ["1 failed", "1,500 tokens", "$0.7500"]
    assert words[5].endswith(" left")
    assert [duration(s) for s in (0.2, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
