"""A phase of one's own that acts through the run: it reads papers before the plan is made.

The phase asks a model for the papers that matter, checks with a script which of them the local library holds,
lets a human drop them, and hands the list on. Its calls are recorded, limited and stopped like those of the
phases that come with the package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from offline import models

from cmbagent.phases import Phase, PhaseConfig, PhaseContext, PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.testing import code, notes, plan
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

PAPERS = {
    "type": "object",
    "properties": {"papers": {"type": "array", "items": {"type": "string"}}},
    "required": ["papers"],
}


@dataclass
class LiteratureReviewConfig(PhaseConfig):
    phase_type: str = "literature_review"
    max_rounds: int = 3
    library: str = "[]"


class LiteratureReviewPhase(Phase):
    config_class = LiteratureReviewConfig

    @property
    def phase_type(self) -> str:
        return "literature_review"

    @property
    def display_name(self) -> str:
        return "Literature Review"

    async def execute(self, context: PhaseContext) -> PhaseResult:
        run = context.run
        found = await run.call(
            f"Which papers matter for this task? Give their arXiv numbers.\n\n{context.task}",
            agent="reader",
            schema=PAPERS,
        )
        script = await run.execute(
            f"have = {self.config.library}\n"
            f"print([paper for paper in {json.dumps(found['papers'])} if paper in have])\n",
            filename="library.py",
        )
        decision = await run.ask(f"In the library: {script['output'].strip()}. Use them?", ["use", "drop"])
        papers = found["papers"] if decision["resolution"] == "use" else []
        context.output_data = {"papers": papers, "shared": {"papers": papers}}
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


PhaseRegistry.register_class("literature_review", LiteratureReviewPhase)

WORKFLOW = WorkflowDefinition(
    id="informed_research",
    name="Informed Research",
    phases=[
        {"type": "literature_review", "config": {"library": '["2007.01650"]'}},
        {"type": "planning", "config": {"max_plan_steps": 2, "n_plan_reviews": 0}},
        {"type": "control"},
    ],
)

SCRIPT = {
    "reader": {"papers": ["2007.01650"]},
    "planner": plan(
        ("engineer", "Estimate the ratio.", "print it"), ("researcher", "Report.", "quote the ratio")
    ),
    "engineer": code("print('ratio =', 355 / 113)", filename="ratio.py"),
    "researcher": notes("# Report\n\nThe ratio is 3.14159."),
}

with models(SCRIPT) as api_keys:
    executor = WorkflowExecutor(
        workflow=WORKFLOW,
        task="Estimate the ratio of circumference to diameter and report it.",
        work_dir="example_output/literature_review",
        api_keys=api_keys,
    )
    executor.run_sync()

print("papers:", executor.results[0].context.output_data["papers"])
