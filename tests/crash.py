"""Kills a whole run at a random point, goes on with it in a fresh process, and compares what comes of it.

As a program, `crash.py begin|resume WORK_DIR`, it is the run that is killed: it tells the kind of every event
on a line of its own, and at the end what the run came to.
"""

from __future__ import annotations

import collections
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TASK = "Measure the length and say what it means."

# The first script fails, with half a file; both have a child in a session of its own.
SCRIPT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with open("pids", "a") as file:
    print(os.getpid(), child.pid, file=file)
os.makedirs("data", exist_ok=True)
with open("data/length.csv", "w") as file:
    print("length", file=file, flush=True)
    time.sleep(0.03)
    {middle}
    print(4.25, file=file)
print("length = 4.25 m")
"""


def answers() -> dict[str, Any]:
    """What the models say, however often they are asked the same."""
    from cmbagent.testing import Reply, code, notes, plan, review

    def reply(said: Any) -> Reply:
        # The same price in every directory, however long its name is.
        text = said if isinstance(said, str) else json.dumps(said)
        return Reply(text, prompt_tokens=100, completion_tokens=10)

    bad = code(SCRIPT.format(middle="raise ValueError('no ruler')"), filename="measure.py")
    good = code(SCRIPT.format(middle="pass"), filename="measure.py")
    return {
        "planner": reply(plan(("engineer", "measure"), ("researcher", "interpret"))),
        "plan_reviewer": reply(review("Name the unit.")),
        "engineer": lambda call: reply(good if "no ruler" in call.prompt else bad),
        "researcher": reply(notes("# Length\n\nThe length is 4.25 m.")),
    }


CALLS = ["planner", "plan_reviewer", "planner", "engineer", "engineer", "researcher"]


class Run:
    """The run in a directory of its own, with a server and a store of its own."""

    def __init__(self, place: Path) -> None:
        from cmbagent.testing import ModelServer

        self.place, self.work_dir = place, place / "work"
        place.mkdir(parents=True)
        self.server = ModelServer(answers(), delay=0.02)

    def start(self, what: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **self.server.variables, "CMBAGENT_STORE": str(self.place / "store.db")}
        return subprocess.Popen(
            [sys.executable, __file__, what, str(self.work_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def finish(self, what: str) -> list[str]:
        """The lines of a life that ends by itself."""
        process = self.start(what)
        said, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        return said.splitlines()

    def kill(self, dice: random.Random, events: int) -> None:
        """Kill a first life somewhere: around an event, in a call of a model, or in a script."""
        with self.start("begin") as process:
            assert process.stdout is not None
            where, number = dice.choice(("event", "call", "script")), dice.randrange(events + 1)
            for _ in range(number if where == "event" else 0):
                process.stdout.readline()
            calls, scripts = dice.randint(1, len(CALLS)), dice.randint(1, 2)
            while where != "event" and process.poll() is None:
                reached = {"call": len(self.server.calls) / calls, "script": len(self.pids()) / 2 / scripts}
                if reached[where] >= 1:
                    break
                time.sleep(0.001)
            time.sleep(dice.random() * 0.05)
            process.send_signal(signal.SIGKILL)

    def store(self) -> Any:
        from cmbagent.store import Store

        return Store(self.place / "store.db")

    def pids(self) -> list[int]:
        """The processes of the scripts."""
        file = self.work_dir / "control" / "pids"
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def plain(self, value: Any) -> Any:
        """Without the place, times, and calls whose outcome is unknown, which no two runs share."""
        if isinstance(value, dict):
            gone = ("Unknown Calls", "Unknown Cost ($)")
            return {self.plain(k): self.plain(v) for k, v in value.items() if k not in gone}
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        if isinstance(value, str):
            stamp = r"\d{8}_\d{6}(_\d+)?|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
            return re.sub(stamp, "STAMP", value.replace(str(self.place), "PLACE"))
        return value

    def rests(self) -> list[Path]:
        """The reports of what no other report says."""
        return list(self.work_dir.glob("cost/cost_report_rest_*.json"))

    def files(self) -> dict[str, Any]:
        """The files with their contents, but for those that hold durations or numbers of processes."""
        found = {}
        for path in sorted(self.work_dir.rglob("*")):
            if path.is_dir() or path in self.rests():
                continue
            name = self.plain(str(path.relative_to(self.work_dir)))
            content: Any = None
            if path.suffix == ".pkl":
                content = pickle.loads(path.read_bytes())
            elif path.suffix == ".json" and "time" not in path.parts:
                content = json.loads(path.read_text())
            elif path.name != "pids":
                content = path.read_text()
            if path.name == ".cmbagent-run.json":
                content.pop("run_id")
                content["products"] = sorted(map(self.plain, content["products"]))
            # The sandbox's report names the directory of temporary files, which each life has its own.
            if "time" in path.parts or path.name == "sandbox.json":
                content = None
            assert name not in found, f"two files are {name}"
            found[name] = self.plain(content)
        return found


class Undisturbed:
    """What comes of the run when nobody kills it."""

    def __init__(self, place: Path) -> None:
        run = Run(place)
        with run.server:
            said = run.finish("begin")
        run.server.assert_calls(CALLS)
        self.events = len(said) - 1
        self.result = run.plain(json.loads(said[-1]))
        self.files = run.files()
        (info,) = run.store().runs()
        self.usage = info.usage


def survive(seed: int, place: Path, whole: Undisturbed) -> dict[str, int]:
    """Kill a run somewhere, go on with it, and check what came of it.

    Returns:
        `finished` and `repeated` calls, and `begun`: whether the store knew of the run at all.
    """
    dice = random.Random(seed)
    run = Run(place)
    with run.server:
        run.kill(dice, whole.events)
        runs = run.store().runs()
        records = run.store().records(runs[0].id) if runs else []
        finished = sum(r["entry"]["entry"] == "finished" and r["entry"]["effect"] == "call" for r in records)
        orphans, before = run.pids(), len(run.server.calls)
        said = run.finish("resume")
    info, *others = run.store().runs()
    assert not others, "it is the same run"
    same(run.plain(json.loads(said[-1])), whole.result)
    same(run.files(), whole.files)
    after = run.server.agents()[before:]
    assert after == CALLS[finished:], f"{finished} calls were finished, then came {after}"
    asked = collections.Counter((call.agent, call.system, call.prompt) for call in run.server.calls)
    twice = sum(asked.values()) - len(CALLS)
    assert twice in (0, 1), f"{twice} calls were made twice"
    usage = dict(info.usage)
    unknown = usage.pop("unknown_calls", 0)
    bound = usage.pop("unknown_cost", 0.0)
    assert usage == whole.usage, "what is known is exact"
    assert twice <= unknown <= 1 and (bound > 0) == (unknown > 0), (twice, unknown, bound)
    # What may have been paid besides is on disk too, and nothing else is.
    rests = [row for path in run.rests() for row in json.loads(path.read_text())]
    said_so = [(row["Agent"], row["Unknown Calls"], row["Total Tokens"]) for row in rests]
    assert said_so == [("Total", 1, 0)] * unknown
    assert info.status == "completed"
    gone(orphans + run.pids())
    return {"begun": len(runs), "finished": finished, "repeated": twice}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare, and name what differs."""
    assert set(found) == set(expected), sorted(set(found) ^ set(expected))
    for name, value in expected.items():
        assert found[name] == value, name


def gone(pids: list[int]) -> None:
    """Wait until processes have ended; those of a killed host are killed by their supervisor."""
    give_up = time.monotonic() + 20
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < give_up, f"orphans: {left}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def main(resume: bool, work_dir: str) -> None:
    """Be the run."""
    import cmbagent.display
    from cmbagent import deep_research

    class Teller:
        def event(self, kind: str, data: dict[str, Any]) -> None:
            if kind not in ("call_text", "script_output"):
                print(kind, flush=True)

    cmbagent.display.make_display = lambda verbose=None: Teller()  # type: ignore[assignment,return-value]
    result = deep_research(TASK, work_dir=work_dir, api_keys={"OPENAI": "sk-test"}, resume=resume)
    kept = {name: result[name] for name in ("status", "error", "final_context", "chat_history")}
    print(json.dumps(kept), flush=True)


if __name__ == "__main__":
    main(sys.argv[1] == "resume", sys.argv[2])
