"""The functions of earlier versions: one call each, a dict back."""

from __future__ import annotations

from offline import models

from cmbagent import one_shot, planning_and_control_context_carryover
from cmbagent.testing import code, notes, plan, review

SCRIPT = {
    "planner": plan(("engineer", "Compute the golden ratio."), ("researcher", "Report it.")),
    "plan_reviewer": review("State how many digits are wanted."),
    "engineer": code("print(f'golden ratio = {(1 + 5 ** 0.5) / 2:.12f}')", filename="golden.py"),
    "researcher": notes("# The golden ratio\n\nIt is 1.618033988750."),
}

with models(SCRIPT) as api_keys:
    quick = one_shot(
        "Compute the golden ratio to 12 digits.",
        agent="engineer",
        work_dir="example_output/one_shot",
        api_keys=api_keys,
    )
    long = planning_and_control_context_carryover(
        "Compute the golden ratio to 12 digits and report it.",
        max_plan_steps=2,
        work_dir="example_output/planning_and_control",
        api_keys=api_keys,
    )

print(f"one_shot took {quick['execution_time']:.2f} s")
said = [message for message in long["chat_history"] if message["name"] == "researcher_response_formatter"]
print(said[-1]["content"])
