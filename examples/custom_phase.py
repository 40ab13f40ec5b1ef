"""A phase of one's own between planning and control: it checks the plan before money is spent on it."""

from __future__ import annotations

from dataclasses import dataclass

from offline import models

from cmbagent.phases import Phase, PhaseConfig, PhaseContext, PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.testing import code, notes, plan
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor


@dataclass
class ReportLastConfig(PhaseConfig):
    phase_type: str = "report_last"
    agent: str = "researcher"


class ReportLastPhase(Phase):
    config_class = ReportLastConfig

    @property
    def phase_type(self) -> str:
        return "report_last"

    @property
    def display_name(self) -> str:
        return "Does the plan end with a report?"

    async def execute(self, context: PhaseContext) -> PhaseResult:
        last = context.shared_state["plan_steps"][-1]["sub_task_agent"]
        if last != self.config.agent:
            error = f"the last step is {last}'s, expected {self.config.agent}'s"
            return PhaseResult(status=PhaseStatus.FAILED, context=context, error=error)
        context.output_data = {"report_last": True}
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


PhaseRegistry.register_class("report_last", ReportLastPhase)

WORKFLOW = WorkflowDefinition(
    id="checked_research",
    name="Checked Research",
    phases=[
        {"type": "planning", "config": {"max_plan_steps": 2, "n_plan_reviews": 0}},
        {"type": "report_last"},
        {"type": "control"},
    ],
)

SCRIPT = {
    "planner": plan(("engineer", "Sum the first hundred squares."), ("researcher", "Report the sum.")),
    "engineer": code("print('sum =', sum(n * n for n in range(1, 101)))", filename="squares.py"),
    "researcher": notes("# The sum\n\nThe sum of the first hundred squares is 338350."),
}

with models(SCRIPT) as api_keys:
    executor = WorkflowExecutor(
        workflow=WORKFLOW,
        task="Sum the first hundred squares and report the sum.",
        work_dir="example_output/custom_phase",
        api_keys=api_keys,
    )
    executor.run_sync()

print([result.status.value for result in executor.results])
