"""Every function of the package, wherever it may be called: a script, a running loop, a thread, a phase."""

import asyncio
import threading

import pytest

import cmbagent
from cmbagent import workflows
from cmbagent.approvals import AutoApprovalManager
from procs import executor
from scripted import STEPS, two_steps

KEYS = {"OPENAI": "sk-test"}


def approving():
    return {"approval_manager": AutoApprovalManager("approve")}


FUNCTIONS = {
    "planning_and_control_context_carryover": dict,
    "deep_research": dict,
    "planning_and_control": dict,
    "one_shot": dict,
    "control": lambda: {"plan": STEPS},
    "hitl_interactive_workflow": approving,
    "hitl_planning_only_workflow": approving,
    "hitl_error_recovery_workflow": approving,
}


def in_a_script(call, work_dir):
    return call()


def in_a_running_loop(call, work_dir):
    async def main():
        return call()

    return asyncio.run(main())


def in_a_task_beside_others(call, work_dir):
    async def main():
        ticks = asyncio.ensure_future(asyncio.sleep(0))
        result, _ = await asyncio.gather(asyncio.to_thread(call), ticks)
        return result

    return asyncio.run(main())


def in_a_thread(call, work_dir):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join(60)
    return results[0]


def in_a_phase(call, work_dir):
    results = []

    async def work(context):
        results.append(call())

    executor(work_dir / "outer", work).run_sync()
    return results[0]


PLACES = [in_a_script, in_a_running_loop, in_a_task_beside_others, in_a_thread, in_a_phase]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_runs_to_its_end(tmp_path, name, place):
    function = getattr(cmbagent, name, None) or getattr(workflows, name)

    def call():
        return function("the task", work_dir=tmp_path / "inner", api_keys=KEYS, **FUNCTIONS[name]())

    with two_steps() as server, server.environment():
        result = place(call, tmp_path)
    assert "engineer" in server.agents()
    assert result["final_context"] and result["phase_timings"]["total"] > 0
    assert result.get("status", "completed") == "completed"
