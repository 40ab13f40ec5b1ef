"""What durability costs: steps, many workflows at once, growing state, resumes, kills, many processes.

Everything is on the disk that holds the repository, for in memory there is nothing to wait for. Beside
the figures are those of LangGraph and DBOS where `benches/requirements.txt` is installed: the same steps
in the same run, each with what it calls durable.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peers

HERE = Path(__file__).parent
STEPS = 200
WORKFLOWS, CHAIN, SLEEP = 200, 10, 0.05
GROWTH, TAIL = 50, 20_000
PROCESSES = 200
KILLS = 300

Emit = Callable[..., None]


def directory() -> tempfile.TemporaryDirectory[str]:
    """A directory on the repository's disk."""
    target = HERE.parent / "target"
    target.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=target)


def fdatasync_us(place: Path, number: int) -> float:
    """Microseconds of a page written to a file and brought to the disk."""
    with (place / "bare").open("wb", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(number):
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
        return (time.perf_counter() - started) / number * 1e6


def make(place: Path, store: Any, work: Any, number: int) -> Any:
    """An executor of so many phases that await `work`."""
    from cmbagent.phases import Phase, PhaseConfig, PhaseContext, PhaseRegistry, PhaseResult, PhaseStatus
    from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

    class Idle(Phase):
        config_class = PhaseConfig
        phase_type = "idle"  # type: ignore[assignment]
        display_name = "Idle"  # type: ignore[assignment]

        async def execute(self, context: PhaseContext) -> PhaseResult:
            await work(context)
            return PhaseResult(status=PhaseStatus.COMPLETED, context=context)

    PhaseRegistry.register_class("idle", Idle)
    phases = [{"type": "idle", "config": {}} for _ in range(number)]
    workflow = WorkflowDefinition(id="idle", name="Idle", phases=phases)
    return WorkflowExecutor(workflow, "nothing", place, {}, verbose=False, store=store)


async def nothing(context: Any) -> None:
    """A step without work."""


# --- in processes of their own: `durable.py NAME PLACE` prints what was measured as JSON -------------


def steps(place: Path) -> dict[str, float]:
    """Microseconds a durable step that does nothing, and of the bare writes beside it."""
    from cmbagent.store import Store

    store = Store(place / "store.db")
    ours, bare = [], []
    for _ in range(7):
        executor = make(place, store, nothing, STEPS)
        started = time.perf_counter()
        executor.run_sync()
        ours.append((time.perf_counter() - started) / STEPS * 1e6)
        bare.append(fdatasync_us(place, STEPS))
    beyond = statistics.median(a - b for a, b in zip(ours, bare, strict=True))
    return {"us": statistics.median(ours), "bare": statistics.median(bare), "beyond": beyond}


def at_once(place: Path) -> dict[str, float]:
    """Seconds of many workflows at once, each of steps that wait."""
    from bench import peak_mb

    from cmbagent.store import Store

    async def wait(context: Any) -> None:
        await asyncio.sleep(SLEEP)

    async def all_of_them(executors: list[Any]) -> None:
        await asyncio.gather(*(executor.run() for executor in executors))

    store = Store(place / "store.db")
    executors = [make(place / str(n), store, wait, CHAIN) for n in range(WORKFLOWS)]
    started = time.perf_counter()
    asyncio.run(all_of_them(executors))
    return {"seconds": time.perf_counter() - started, "mb": peak_mb()}


def growth(place: Path) -> dict[str, float]:
    """Bytes on disk a byte of a state that grows, and milliseconds a step beyond the disk's."""
    import random
    import sqlite3

    from cmbagent.store import Store

    dice = random.Random(1)

    async def grow(context: Any) -> None:
        tail = "".join(dice.choices("abcdefghij klmnop", k=TAIL))
        context.shared_state["text"] = context.shared_state.get("text", "") + tail

    store = Store(place / "store.db")
    executor = make(place, store, grow, GROWTH)
    started = time.perf_counter()
    executor.run_sync()
    seconds = time.perf_counter() - started
    made = time.perf_counter()
    for _ in range(GROWTH):
        dice.choices("abcdefghij klmnop", k=TAIL)
    made = time.perf_counter() - made
    assert len(executor.results[-1].context.shared_state["text"]) == GROWTH * TAIL
    with sqlite3.connect(place / "store.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = (place / "store.db").stat().st_size
    bare = fdatasync_us(place, GROWTH) / 1e3
    return {"ratio": size / (GROWTH * TAIL), "ms": (seconds - made) / GROWTH * 1e3, "bare": bare}


def interrupted(place: Path) -> dict[str, float]:
    """A run whose last step fails, to be gone on with."""
    from cmbagent.store import Store

    async def fail(context: Any) -> None:
        context.shared_state["text"] = context.shared_state.get("text", "") + "x" * TAIL
        if context.phase_id.startswith(f"phase_{GROWTH - 1}_"):
            raise RuntimeError("the power goes out")

    executor = make(place, Store(place / "store.db"), fail, GROWTH)
    try:
        executor.run_sync()
    except RuntimeError:
        return {}
    raise SystemExit("the step did not fail")


def resumed(place: Path) -> dict[str, float]:
    """Go on with it; the step says when it began."""
    from cmbagent.store import Store
    from cmbagent.workflows import WorkflowExecutor

    began: list[float] = []

    async def note(context: Any) -> None:
        began.append(time.time())
        assert len(context.shared_state["text"]) == (GROWTH - 1) * TAIL

    store = Store(place / "store.db")
    # Registers the phase's type.
    make(place, store, note, 0)
    WorkflowExecutor.resume(store.runs()[0].id, store, verbose=False).run_sync()
    return {"began": began[0]}


def one_of_many(place: Path) -> dict[str, float]:
    """A short durable run on a store that many processes use."""
    executor = make(place / str(os.getpid()), place / "store.db", nothing, CHAIN)
    executor.run_sync()
    return {"steps": len(executor.results)}


def apart(what: Callable[[Path], dict[str, float]], place: Path) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, what.__name__, str(place)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    facts: dict[str, float] = json.loads(out.splitlines()[-1])
    return facts


# --- the measurements --------------------------------------------------------------------------------


def bench(emit: Emit) -> None:
    """Steps, workflows at once, growth, resumes, many processes; peers beside them."""
    with directory() as name:
        facts = apart(steps, Path(name))
        emit("durable Python step that does nothing", facts["us"], "us", "fdatasync", facts["bare"])
        emit("durable Python step beyond fdatasync (bar 300)", facts["beyond"], "us")
        beside(emit, "durable step that does nothing", facts["us"], peers.steps, Path(name), STEPS)
    title = f"{WORKFLOWS} workflows x {CHAIN} steps x {SLEEP} s at once"
    with directory() as name:
        facts = apart(at_once, Path(name))
        emit(f"{title} (bar 0.75)", facts["seconds"], "s", "ideal", CHAIN * SLEEP)
        emit(f"{title}: peak memory (bar 60)", facts["mb"], "MB")
        beside(emit, title, facts["seconds"], peers.at_once, Path(name), WORKFLOWS, CHAIN, SLEEP)
    with directory() as name:
        facts = apart(growth, Path(name))
        emit(f"state grown to 1 MB over {GROWTH} steps: disk a byte (bar 1.2)", facts["ratio"], "x")
        emit(
            f"state grown to 1 MB over {GROWTH} steps: a step (bar 1 beyond fdatasync)",
            facts["ms"], "ms", "fdatasync", facts["bare"],
        )  # fmt: skip
        beside(
            emit, "state grown to 1 MB: disk a byte", facts["ratio"], peers.growth, Path(name), GROWTH, TAIL
        )
    times = []
    for _ in range(5):
        with directory() as name:
            apart(interrupted, Path(name))
            started = time.time()
            times.append(apart(resumed, Path(name))["began"] - started)
    emit(
        "resume to the first new step, fresh process, 1 MB of state (bar 0.3)", statistics.median(times), "s"
    )
    with directory() as name:
        started = time.perf_counter()
        with ThreadPoolExecutor(PROCESSES) as pool:
            ended = list(pool.map(lambda _: apart(one_of_many, Path(name)), range(PROCESSES)))
        assert all(each["steps"] == CHAIN for each in ended)
        emit(f"{PROCESSES} processes on one store, none failed", time.perf_counter() - started, "s")


def beside(
    emit: Emit, title: str, ours: float, measure: Callable[..., dict[str, float]], *about: Any
) -> None:
    """Print the peers' figures for the same thing; the ratio is theirs over ours."""
    for peer, value in measure(*about).items():
        emit(f"{title}: {peer}", value, "", "cmbagent", ours)


def kills(emit: Emit) -> None:
    """Kill runs at random points and go on with them; every one has to end as if nobody had."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from crash import Undisturbed, survive

    with directory() as name:
        whole = Undisturbed(Path(name) / "whole")
        with ThreadPoolExecutor(2) as pool:
            ended = list(
                pool.map(lambda n: survive(n, Path(name) / str(n), whole), range(1000, 1000 + KILLS))
            )
    emit(f"{KILLS} runs killed at random points: finished calls repeated (bar 0)", 0, "calls")
    emit(
        f"{KILLS} runs killed at random points: calls in flight sent again",
        sum(e["repeated"] for e in ended),
        "calls",
    )


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]))))
