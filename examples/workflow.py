"""A ready-made workflow: plan, review, then carry the plan out step by step."""

from __future__ import annotations

from offline import models

from cmbagent.testing import code, notes, plan, review
from cmbagent.workflows import WorkflowExecutor, get_workflow

SCRIPT = {
    "planner": plan(
        ("engineer", "Estimate pi by sampling.", "Print the estimate with its error."),
        ("researcher", "Write a short report.", "Quote the estimate as printed."),
    ),
    "plan_reviewer": review("Fix and print the seed, so that the estimate can be repeated."),
    "engineer": code(
        """
        import random

        random.seed(7)
        n = 200_000
        inside = sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(n))
        p = inside / n
        print(f"seed = 7, samples = {n}")
        print(f"pi = {4 * p:.4f} +- {4 * (p * (1 - p) / n) ** 0.5:.4f}")
        """,
        filename="sample_pi.py",
    ),
    "researcher": notes("# Estimating pi\n\nThe estimate is the one printed by `sample_pi.py`."),
}

with models(SCRIPT) as api_keys:
    executor = WorkflowExecutor(
        workflow=get_workflow("deep_research"),
        task="Estimate pi by random sampling and report the estimate with its error.",
        work_dir="example_output/workflow",
        api_keys=api_keys,
    )
    context = executor.run_sync()  # in an async function or a notebook cell: await executor.run()

print([step["sub_task"] for step in context.plan or []])
print(f"{context.phase_timings['total']:.1f} s, results in {context.work_dir}")
