"""Measures the package from outside and prints one JSON object a line.

Fields: ``name``, ``value``, ``unit``, and where there is something to compare with ``peer`` (what it is),
``peer_value`` and ``ratio``. Every measurement runs in processes of its own; the model server is one of them.

    python benches/bench.py [NAME ...]      import, runs, phases, scripts, durable, kills; all without a name
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import durable

PROCESSES = 11
PHASES = 1000
SCRIPTS = 20
ORIGINAL = "cmbagent 0.0.1.post63"
ORIGINAL_CALLS = 30  # measured there: three steps (engineer, researcher, engineer) and one review

MEMORY = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import bench; print(bench.peak_mb())"
)
THIRD_PARTY = """
import sys
before = set(sys.modules)
import cmbagent
site = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
found = sorted({n.split(".")[0] for n, m in sys.modules.items() if n not in before
                and any((getattr(m, "__file__", None) or "").startswith(p) for p in site)} - {"cmbagent"})
print(len(found))
"""


def emit(name: str, value: float, unit: str, peer: str = "", peer_value: float | None = None) -> None:
    """Prints one measurement; the ratio is value over peer."""
    line: dict[str, Any] = {"name": name, "value": round(value, 6), "unit": unit}
    if peer_value is not None:
        line |= {"peer": peer, "peer_value": round(peer_value, 6)}
        line |= {"ratio": round(value / peer_value, 3) if peer_value else None}
    print(json.dumps(line), flush=True)


def peak_mb() -> float:
    """This process's peak resident memory in MB.

    Linux counts the parent's pages before ``exec`` in ``ru_maxrss``, so there it is read from ``/proc``.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# --- importing ---------------------------------------------------------------------------------


def python(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def start_ms(statement: str) -> list[float]:
    """Milliseconds from start to end of fresh interpreters that run one statement."""
    times = []
    for _ in range(PROCESSES):
        started = time.perf_counter()
        python("-c", statement)
        times.append((time.perf_counter() - started) * 1e3)
    return times


def bench_import() -> None:
    """Time, memory and modules of ``import cmbagent``."""
    python("-c", "import cmbagent")
    bare = statistics.median(start_ms("pass"))
    modules = statistics.median(start_ms("import asyncio, json"))
    ours = statistics.median(start_ms("import cmbagent"))
    used = statistics.median(start_ms("from cmbagent.workflows import WorkflowExecutor"))
    emit("import cmbagent, process", ours, "ms", "python -c pass", bare)
    emit("import cmbagent, alone", ours - bare, "ms", "import asyncio, json", modules - bare)
    emit("import WorkflowExecutor, alone", used - bare, "ms", "import asyncio, json", modules - bare)
    # Both figures hold the modules of this file, so only their difference says something.
    empty, loaded = float(python("-c", MEMORY)), float(python("-c", "import cmbagent; " + MEMORY))
    emit("import cmbagent, peak memory added", loaded - empty, "MB")
    emit("import cmbagent, third-party packages", int(python("-c", THIRD_PARTY)), "packages")


# --- runs against a model server in another process ----------------------------------------------


def serve(delay: float) -> None:
    """The server's process: prints its address, then for every line read the calls since the last."""
    from cmbagent.testing import ModelServer, code, notes, plan, review

    steps = (("engineer", "Compute."), ("researcher", "Describe."), ("engineer", "Compute again."))
    script = {
        "planner": plan(*steps),
        "plan_reviewer": review("Print the number with its unit."),
        "engineer": code("print('length = 4.2 m')", filename=None),
        "researcher": notes("# Length\n\nThe length is 4.2 m.\n"),
    }
    with ModelServer(script, delay=delay) as server:
        print(json.dumps(server.variables), flush=True)
        seen = 0
        for _ in sys.stdin:
            calls = server.calls[seen:]
            seen += len(calls)
            facts = {
                "calls": len(calls),
                "prompt": sum(len(each.system) + len(each.prompt) for each in calls),
                "completion": sum(len(each.reply) for each in calls),
                "seconds": sum(each.seconds for each in calls),
                "errors": server.errors,
            }
            print(json.dumps(facts), flush=True)


def one_run(kind: str, work_dir: str) -> None:
    """The run's process: prints wall and CPU seconds, peak memory, and the scripts' own seconds."""
    import cmbagent.display
    from cmbagent.workflows import one_shot, planning_and_control_context_carryover

    class Scripts:
        seconds = 0.0

        def event(self, kind: str, data: dict[str, Any]) -> None:
            if kind == "script_finished":
                self.seconds += data["seconds"]

    scripts = Scripts()
    cmbagent.display.make_display = lambda verbose=None: scripts  # type: ignore[assignment,return-value]
    keys = dict.fromkeys(("OPENAI", "ANTHROPIC", "GEMINI", "MISTRAL"), "bench")
    started, cpu = time.perf_counter(), time.process_time()
    if kind == "carryover":
        result = planning_and_control_context_carryover("Find the length.", work_dir=work_dir, api_keys=keys)
    else:
        result = one_shot("Find the length.", agent=kind, work_dir=work_dir, api_keys=keys)
    wall = time.perf_counter() - started
    if result.get("status") == "failed":
        raise SystemExit(f"the run failed: {result.get('error')}")
    facts = {"wall": wall, "cpu": time.process_time() - cpu, "scripts": scripts.seconds}
    facts["memory"] = peak_mb()
    print(json.dumps(facts))


def bench_runs() -> None:
    """Calls, characters, time and memory of the standard runs, against an instant and a slow server."""
    for delay in (0.0, 0.5):
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        variables = json.loads(server.stdout.readline())
        try:
            for kind in ("carryover", "engineer", "researcher"):
                best: dict[str, Any] | None = None
                for _ in range(5 if delay == 0 else 1):
                    with tempfile.TemporaryDirectory() as work_dir:
                        out = subprocess.run(
                            [sys.executable, __file__, "--run", kind, work_dir],
                            env={**os.environ, **variables},
                            check=True,
                            capture_output=True,
                            text=True,
                        ).stdout
                    server.stdin.write("\n")
                    server.stdin.flush()
                    facts = json.loads(out.splitlines()[-1]) | {
                        "server": json.loads(server.stdout.readline())
                    }
                    best = facts if best is None or facts["wall"] < best["wall"] else best
                assert best is not None
                report_run(kind, delay, best)
        finally:
            server.stdin.close()
            server.wait(timeout=10)


def report_run(kind: str, delay: float, facts: dict[str, Any]) -> None:
    """Prints the measurements of one kind of run (the fastest of its repeats)."""
    names = {
        "carryover": "3 steps, 1 review",
        "engineer": "one_shot engineer",
        "researcher": "one_shot researcher",
    }
    name, server = f"{names[kind]}, server {delay} s", facts["server"]
    if server["errors"]:
        raise SystemExit(f"{name}: {server['errors']}")
    if delay == 0:
        peer = ORIGINAL_CALLS if kind == "carryover" else None
        emit(f"{name}: calls", server["calls"], "calls", ORIGINAL, peer)
        emit(f"{name}: prompts", server["prompt"], "characters")
        emit(f"{name}: answers", server["completion"], "characters")
        emit(f"{name}: CPU", facts["cpu"], "s")
        emit(f"{name}: peak memory", facts["memory"], "MB")
    emit(f"{name}: wall", facts["wall"], "s", "calls x delay", server["calls"] * delay or None)
    emit(f"{name}: scripts", facts["scripts"], "s")
    emit(f"{name}: server", server["seconds"], "s")
    emit(f"{name}: engine", facts["wall"] - facts["scripts"] - server["seconds"], "s")


# --- phases --------------------------------------------------------------------------------------


def bench_phases() -> None:
    """Time a phase of a chain of Python phases that do nothing, beside the bare coroutines."""
    import asyncio

    from cmbagent.phases import Phase, PhaseConfig, PhaseContext, PhaseRegistry, PhaseResult, PhaseStatus
    from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

    class Idle(Phase):
        config_class = PhaseConfig
        phase_type = "idle"  # type: ignore[assignment]
        display_name = "Idle"  # type: ignore[assignment]

        async def execute(self, context: PhaseContext) -> PhaseResult:
            return PhaseResult(status=PhaseStatus.COMPLETED, context=context)

    PhaseRegistry.register_class("idle", Idle)
    config = {"phase_type": "idle"}
    phases = [{"type": "idle", "config": config} for _ in range(PHASES)]
    workflow = WorkflowDefinition(id="idle", name="Idle", phases=phases)
    times, bare = [], []
    with tempfile.TemporaryDirectory() as work_dir:
        for _ in range(5):
            executor = WorkflowExecutor(workflow, "nothing", work_dir, {}, verbose=False, store=":memory:")
            started = time.perf_counter()
            executor.run_sync()
            times.append(time.perf_counter() - started)
            assert len(executor.results) == PHASES

            async def alone(executor: WorkflowExecutor = executor) -> None:
                for each in executor.phases:
                    await each.execute(executor.context.to_phase_context("x"))

            started = time.perf_counter()
            asyncio.run(alone())
            bare.append(time.perf_counter() - started)
    value, beside = min(times) / PHASES * 1e6, min(bare) / PHASES * 1e6
    emit(f"chain of {PHASES} Python phases, a phase", value, "us", "awaiting the same phases bare", beside)


# --- scripts -------------------------------------------------------------------------------------


def bench_scripts() -> None:
    """Time a script that does nothing: spawned bare, and run with and without the sandbox."""
    from cmbagent.phases import Phase, PhaseConfig, PhaseContext, PhaseRegistry, PhaseResult, PhaseStatus
    from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

    times: dict[str, list[float]] = {"default": [], "off": []}

    class Scripts(Phase):
        config_class = PhaseConfig
        phase_type = "scripts"  # type: ignore[assignment]
        display_name = "Scripts"  # type: ignore[assignment]

        async def execute(self, context: PhaseContext) -> PhaseResult:
            await context.run.execute("pass")  # starts the supervisor
            for _ in range(SCRIPTS):
                started = time.perf_counter()
                await context.run.execute("pass")
                times[self.config.params["sandbox"]].append(time.perf_counter() - started)
            return PhaseResult(status=PhaseStatus.COMPLETED, context=context)

    PhaseRegistry.register_class("scripts", Scripts)
    configs = [{"phase_type": "scripts", "params": {"sandbox": mode}} for mode in times]
    phases = [{"type": "scripts", "config": config} for config in configs]
    bare = []
    # In turns, so that whatever else the machine does meets all of them.
    for _ in range(5):
        with tempfile.TemporaryDirectory() as work_dir:
            workflow = WorkflowDefinition(id="scripts", name="Scripts", phases=phases)
            WorkflowExecutor(workflow, "nothing", work_dir, {}, verbose=False, store=":memory:").run_sync()
            for _ in range(SCRIPTS):
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", "pass"], cwd=work_dir, check=True)
                bare.append(time.perf_counter() - started)
    confined, free, beside = (statistics.median(each) * 1e3 for each in (*times.values(), bare))
    emit("a script that does nothing, recorded and logged", free, "ms", "bare spawn", beside)
    emit("the sandbox, a script", confined - free, "ms", "bare spawn", beside)


def bench_durable() -> None:
    """What durability costs, beside the bare disk and other packages."""
    durable.bench(emit)


def bench_kills() -> None:
    """Runs killed at random points."""
    durable.kills(emit)


BENCHES = {
    "import": bench_import,
    "runs": bench_runs,
    "phases": bench_phases,
    "scripts": bench_scripts,
    "durable": bench_durable,
    "kills": bench_kills,
}


def main() -> None:
    """Runs what the command line names."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--serve"]:
        serve(float(arguments[1]))
    elif arguments[:1] == ["--run"]:
        one_run(arguments[1], arguments[2])
    else:
        unknown = sorted(set(arguments) - set(BENCHES))
        if unknown:
            raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
        for name in arguments or BENCHES:
            BENCHES[name]()


if __name__ == "__main__":
    main()
