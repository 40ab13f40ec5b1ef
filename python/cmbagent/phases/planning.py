"""The planning phase: a plan is written, reviewed and written again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cmbagent.phases._builtin import BuiltinPhase
from cmbagent.phases.base import PhaseConfig


@dataclass
class PlanningPhaseConfig(PhaseConfig):
    """Settings of the planning phase.

    Attributes:
        max_rounds: upper limit of model calls in the phase.
        max_plan_steps: most steps a plan may have.
        n_plan_reviews: how often the plan is reviewed and rewritten.
        planner_model: model that writes the plan.
        plan_reviewer_model: model that reviews it.
        plan_instructions: the user's wishes for the plan, binding.
        hardware_constraints: what the machine offers; empty lets the engine look.
        engineer_instructions: the user's wishes for the engineer, known to the planner.
        researcher_instructions: the user's wishes for the researcher, known to the planner.
        max_n_attempts: retries of failing code that the later control phase allows.
    """

    phase_type: str = "planning"
    max_rounds: int = 50
    max_plan_steps: int = 3
    n_plan_reviews: int = 1
    planner_model: str = "gpt-4.1-2025-04-14"
    plan_reviewer_model: str = "o3-mini-2025-01-31"
    plan_instructions: str = ""
    hardware_constraints: str = ""
    engineer_instructions: str = ""
    researcher_instructions: str = ""
    max_n_attempts: int = 3


class PlanningPhase(BuiltinPhase):
    """Turn the task into a plan of steps, each with one agent in charge."""

    config_class: ClassVar[type[PhaseConfig] | None] = PlanningPhaseConfig
    _native_type: ClassVar[str] = "planning"
    _output: ClassVar[dict[str, tuple[str, str]]] = {
        "final_plan": ("array", "the steps, each with sub_task, sub_task_agent and bullet_points"),
        "number_of_steps_in_plan": ("integer", "how many there are"),
        "plan_file_path": ("string", "the plan on disk, planning/final_plan.json"),
        "planning_context": ("object", "the state the control phase starts from"),
        "shared": ("object", "plan_steps, current_step, number_of_steps_in_plan, planning_context"),
    }

    @property
    def phase_type(self) -> str:
        """`planning`."""
        return "planning"

    @property
    def display_name(self) -> str:
        """`Planning`."""
        return "Planning"

    def get_required_agents(self) -> list[str]:
        """Return the agents of the phase, under the names older programs know."""
        return ["planner", "plan_reviewer", "plan_setter", "planner_response_formatter"]
