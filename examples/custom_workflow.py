"""A workflow of one's own: other phases, other settings, a limit on what it may cost."""

from __future__ import annotations

from offline import models

from cmbagent.approvals import AutoApprovalManager
from cmbagent.testing import code, notes, plan, review
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

WORKFLOW = WorkflowDefinition(
    id="careful_research",
    name="Careful Research",
    description="A plan of two steps, reviewed twice and agreed to; no script above ten minutes.",
    phases=[
        {"type": "planning", "config": {"max_plan_steps": 2, "n_plan_reviews": 2}},
        {"type": "hitl_checkpoint", "config": {"checkpoint_type": "after_planning"}},
        {"type": "control", "config": {"max_n_attempts": 2, "params": {"script_timeout_seconds": 600}}},
    ],
)

SCRIPT = {
    "planner": plan(("engineer", "Fit a line."), ("researcher", "Report slope and error.")),
    "plan_reviewer": review("State the noise of the data."),
    "engineer": code(
        """
        import random

        random.seed(1)
        xs = [n / 10 for n in range(100)]
        ys = [2 * x + random.gauss(0, 0.1) for x in xs]
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / sum((x - mean_x) ** 2 for x in xs)
        print(f"slope = {slope:.3f}, noise = 0.1")
        """,
        filename="fit.py",
    ),
    "researcher": notes("# A line\n\nThe slope is the one that `fit.py` printed."),
}

with models(SCRIPT) as api_keys:
    executor = WorkflowExecutor(
        workflow=WORKFLOW,
        task="Simulate a noisy line of slope 2 and fit its slope.",
        work_dir="example_output/custom_workflow",
        api_keys=api_keys,
        # Nobody is asked here; leave it out to be asked at the terminal.
        approval_manager=AutoApprovalManager("approve"),
        max_cost=5.00,
    )
    context = executor.run_sync()

print([result.status.value for result in executor.results])
print(context.approvals[0]["approval_status"], "a plan of", len(context.plan or []), "steps")
