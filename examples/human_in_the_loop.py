"""A human changes the plan before it is carried out: the run waits, whoever answers does so from anywhere."""

from __future__ import annotations

import time

from offline import models

from cmbagent.approvals import QueueApprovalManager
from cmbagent.testing import code, notes, plan, review
from cmbagent.workflows import WorkflowExecutor, get_workflow

SCRIPT = {
    "planner": plan(
        ("engineer", "Sum the first hundred squares."),
        ("researcher", "Report the sum."),
        ("researcher", "Report it again, at length."),
    ),
    "plan_reviewer": review("Say which squares."),
    "engineer": code("print('sum =', sum(n * n for n in range(1, 101)))", filename="squares.py"),
    "researcher": notes("# The sum\n\nThe sum of the first hundred squares is 338350."),
}

with models(SCRIPT) as api_keys:
    manager = QueueApprovalManager()
    executor = WorkflowExecutor(
        workflow=get_workflow("deep_research_hitl"),
        task="Sum the first hundred squares and report the sum.",
        work_dir="example_output/human_in_the_loop",
        api_keys=api_keys,
        approval_manager=manager,
    )
    run = executor.start()
    while not manager.pending():
        if run.done():
            run.result()  # raises what has ended it
        time.sleep(0.1)

    (asked,) = manager.pending()
    for number, step in enumerate(asked.plan, 1):
        print(f"{number}. {step['sub_task_agent']}: {step['sub_task']}")
    print("the last step goes")
    manager.answer(asked.id, "modify", "One report is enough.", {"plan": asked.plan[:-1]})
    context = run.result()

print(context.approvals[0]["approval_status"], "→", [step["status"] for step in context.step_results])
