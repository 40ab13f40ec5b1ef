"""From a topic to results: ideas are made, criticised, one is selected, planned and carried out."""

from __future__ import annotations

from offline import models

from cmbagent.approvals import AutoApprovalManager
from cmbagent.testing import code, ideas, notes, plan
from cmbagent.workflows import idea_to_execution

MADE = ideas(
    ("Needles", "Estimate pi by dropping needles on a ruled floor."),
    ("Darts", "Estimate pi by throwing darts at a square."),
)
CRITIQUE = {
    "critiques": [{"title": title, "feasibility": "minutes on one core"} for title in ("Needles", "Darts")]
}
SCRIPT = {
    "idea_maker": [MADE, MADE, ideas(("Darts", "Estimate pi by throwing darts at a square."))],
    "idea_hater": CRITIQUE,
    "planner": plan(("engineer", "Throw the darts."), ("researcher", "Report the estimate.")),
    "engineer": code(
        """
        import random

        random.seed(3)
        inside = sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(100_000))
        print("pi =", 4 * inside / 100_000)
        """,
        filename="darts.py",
    ),
    "researcher": notes("# Darts\n\nThe estimate is the one that `darts.py` printed."),
}

with models(SCRIPT) as api_keys:
    results = idea_to_execution(
        "Find a way to estimate pi with random numbers, and use it.",
        n_ideas=2,
        n_plan_reviews=0,
        max_plan_steps=2,
        # Nobody is asked here; leave it out to choose an idea and to see the plan yourself.
        approval_manager=AutoApprovalManager("approve"),
        work_dir="example_output/idea_to_execution",
        api_keys=api_keys,
    )

print("ideas:", [idea["title"] for idea in results["ideas"]])
print("selected:", results["selected_idea"]["title"])
print("steps:", [step["status"] for step in results["step_results"]])
