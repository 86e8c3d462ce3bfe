"""FAULTS 37: a batch that is killed with kill -9, again and again, loses no item and pays for none twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import sleep
from typing import Any

from pointsman.testing import FaultServer, faults

ITEMS, KILLS = 600, 20

#: Answers after a moment, and writes down each prompt that it was asked. Every tenth fails, for good.
PROGRAM = f"""
import os, sys, time
from attrs import frozen
from pointsman import Completion, InvalidRequestError, Request, Router, hookimpl

journal, seen, told = sys.argv[1:]
seen, told = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in (seen, told))

@frozen
class Provider:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        os.write(seen, f"{{request.prompt}}\\n".encode())
        time.sleep(0.01)
        if request.prompt.endswith("7"):
            raise InvalidRequestError("it ends with 7")
        return Completion("answer " + request.prompt)

def tell(position, result):
    os.write(told, f"{{position}}\\n".encode())
    os.write(1, b".")

with Router([Provider()]) as router:
    results = router.batch(map(str, range({ITEMS})), max_workers=4, journal=journal, on_result=tell)
for position, result in enumerate(results):
    assert getattr(result, "text", "error") == ("error" if position % 10 == 7 else f"answer {{position}}"), result
assert len(results) == {ITEMS}
print("whole", flush=True)
"""


def lines_of(path: Path) -> list[int]:
    """The numbers that stand in a file; the last may be cut off."""
    return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def recorded(journal: Path) -> set[int]:
    """The positions in a journal, read as anybody reads it."""
    if not journal.exists():
        return set()
    with closing(sqlite3.connect(journal)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return set()
        return {row[0] for row in db.execute("SELECT position FROM items")}


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    """Killed at any instant, from its start to the middle of a commit: each item is recorded once, then never asked."""
    chance = random.Random(37)
    journal, seen, told = tmp_path / "run.db", tmp_path / "seen", tmp_path / "told"
    command = [sys.executable, "-c", PROGRAM, str(journal), str(seen), str(told)]
    done: set[int] = set()
    for number in range(KILLS):
        asked_before, told_before = len(lines_of(seen)), len(lines_of(told))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            if number % 4:  # after so many results are told, old and new; else at any instant of its start
                wanted = len(done) + chance.randint(1, 12)
                assert len(run.stdout.read(wanted)) == wanted
                sleep(chance.uniform(0, 0.01))
            else:
                sleep(chance.uniform(0, 0.25))
            run.kill()
            assert run.wait() == -signal.SIGKILL
        assert not done & set(lines_of(seen)[asked_before:]), "what was recorded has been asked again"
        now = recorded(journal)
        assert done <= now, "a record was lost"
        assert set(lines_of(told)[told_before:]) <= now, "a result was told before it was durable"
        done = now
    assert 0 < len(done) < ITEMS
    asked_before = len(lines_of(seen))
    last = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert last.stdout.endswith("whole\n")
    assert recorded(journal) == set(range(ITEMS))
    assert sorted(lines_of(seen)[asked_before:]) == sorted(set(range(ITEMS)) - done), "each of the others, once"
    again = len(lines_of(seen))
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert len(lines_of(seen)) == again


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an output file; at most the last one may be none."""
    *lines, last = path.read_text("utf-8").split("\n") if path.exists() else [""]
    found = [json.loads(line) for line in lines]
    try:
        json.loads(last)
    except ValueError:
        return found
    raise AssertionError("a line without its end looks whole")


def test_the_command_is_killed_and_resumed(tmp_path: Path) -> None:
    """`pointsman batch --resume` ends with every row once, in order; the service saw what was recorded once."""
    chance, count = random.Random(46), 150
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": f"n{n}", "prompt": f"p{n}"}) + "\n" for n in range(count))
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "pointsman", "batch", "in.jsonl", "-o", "out.jsonl", "--resume"]
    with FaultServer(faults.later(0.05, faults.well())) as server:  # so that it is killed long before its end
        backend = {
            "id": "main",
            "type": "openai",
            "model": "m",
            "api_key": "sk-of-nobody-0123456789",
            "base_url": server.url,
        }
        (tmp_path / "pointsman.json").write_text(json.dumps({"BACKENDS": [backend]}))

        def asked() -> Counter[str]:
            return Counter(str(visit.body["messages"][-1]["content"]) for visit in server.log if visit.body)

        done: set[int] = set()
        for number in range(6):
            before = asked()
            with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as run:
                goal = len(server.log) + chance.randint(3, 12)
                while number and len(server.log) < goal and run.poll() is None:
                    sleep(0.001)
                sleep(chance.uniform(0, 0.3 if number == 0 else 0.02))
                run.kill()
                assert run.wait() == -signal.SIGKILL
            assert not {f"p{n}" for n in done} & (asked() - before).keys()
            now = recorded(tmp_path / "out.jsonl.journal")
            assert done <= now
            assert {row["line"] - 1 for row in rows(tmp_path / "out.jsonl")} <= now
            done = now
        last = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        times = asked()
    assert last.returncode == 0, last.stderr
    assert [(row["line"], row["id"], row["text"]) for row in rows(tmp_path / "out.jsonl")] == [
        (n + 1, f"n{n}", f"You said: p{n}") for n in range(count)
    ]
    assert set(times) == {f"p{n}" for n in range(count)}
    assert sum(times.values()) - count <= 6 * 8, "only what ran when it was killed is asked twice"
