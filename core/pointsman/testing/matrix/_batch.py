"""Row 37: a batch that is killed and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from .. import faults
from ._play import Run, case

#: Items, workers, and after how many reported results each child but the last is killed.
_ITEMS, _WORKERS, _KILLS = 60, 4, (7, 13, 19)

_CHILD = """if True:
    import json, sys
    from pointsman import Router
    from pointsman.testing.matrix._provider import chosen

    url, journal, items, workers, name = sys.argv[1:]
    provider = chosen(name)(base_url=url, model="model-of-primary", api_key="sk-batch-0123456789")
    with Router({"primary": provider}) as router:
        found = router.batch(
            (f"Item {n}" for n in range(int(items))),
            int(workers),
            journal=journal,
            on_result=lambda position, result: print(position, flush=True),
        )
        print(json.dumps([getattr(one, "text", repr(one)) for one in found]))
"""


def _run_child(url: str, name: str, journal: Path, kill_after: int | None) -> list[str]:
    """Run the batch in a process of its own, kill it after so many results, and return the lines it wrote."""
    command = [sys.executable, "-c", _CHILD, url, str(journal), str(_ITEMS), str(_WORKERS), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - Python, and our own code
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line.strip())
            if len(lines) == kill_after:
                child.kill()
    return [line for line in lines if line]


@case(37, f"kill -9, {len(_KILLS)} times, then resumed", "plain")
def killed(run: Run) -> None:
    """No item is lost, and none that had been reported is asked again."""
    on = run.stage(faults.later(0.02, faults.well()), None)
    server = on.servers["primary"]
    reported: set[str] = set()
    with TemporaryDirectory() as folder:
        for kill_after in (*_KILLS, None):
            before = len(server.asked)
            lines = _run_child(server.url, run.make.name, Path(folder) / "run.db", kill_after)
            asked = {seen.prompt for seen in server.asked[before:]}
            run.check(asked & reported, set(), "items that were asked again although they had been reported")
            reported |= {f"Item {line}" for line in lines if line.isdigit()}
    run.note()
    run.check(json.loads(lines[-1]), [f"You said: Item {n}" for n in range(_ITEMS)], "results of the resumed batch")
    twice = sum(Counter(seen.prompt for seen in server.asked).values()) - _ITEMS
    run.check_that(twice <= len(_KILLS) * _WORKERS, f"only what ran when it was killed was asked again, not {twice}")
    run.told = f"{_ITEMS} of {_ITEMS} answered, {twice} asked twice"
