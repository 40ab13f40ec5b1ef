"""Workflows: definitions, the executor, and the functions that run one in a single call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmbagent import _former
from cmbagent.workflows.composer import (
    DEEP_RESEARCH_FULL_HITL_WORKFLOW,
    DEEP_RESEARCH_HITL_WORKFLOW,
    DEEP_RESEARCH_WORKFLOW,
    IDEA_GENERATION_WORKFLOW,
    IDEA_TO_EXECUTION_WORKFLOW,
    ONE_SHOT_RESEARCHER_WORKFLOW,
    ONE_SHOT_WORKFLOW,
    SYSTEM_WORKFLOWS,
    WorkflowDefinition,
    WorkflowExecutor,
    get_workflow,
    list_workflows,
)

# Three submodules bear the name of the function they hold. Importing them first sets the attribute to the
# module, and these imports then set it to the function, for good: later imports find the module loaded.
from cmbagent.workflows.control import control
from cmbagent.workflows.conversation import human_in_the_loop
from cmbagent.workflows.deep_research import deep_research
from cmbagent.workflows.hitl_workflow import (
    hitl_error_recovery_workflow,
    hitl_interactive_workflow,
    hitl_planning_only_workflow,
)
from cmbagent.workflows.ideas import idea_generation, idea_to_execution
from cmbagent.workflows.one_shot import one_shot
from cmbagent.workflows.planning_control import planning_and_control, planning_and_control_context_carryover
from cmbagent.workflows.utils import clean_work_dir, load_context, load_plan

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = [
    "DEEP_RESEARCH_FULL_HITL_WORKFLOW",
    "DEEP_RESEARCH_HITL_WORKFLOW",
    "DEEP_RESEARCH_WORKFLOW",
    "IDEA_GENERATION_WORKFLOW",
    "IDEA_TO_EXECUTION_WORKFLOW",
    "ONE_SHOT_RESEARCHER_WORKFLOW",
    "ONE_SHOT_WORKFLOW",
    "SYSTEM_WORKFLOWS",
    "WorkflowDefinition",
    "WorkflowExecutor",
    "clean_work_dir",
    "control",
    "deep_research",
    "get_workflow",
    "hitl_error_recovery_workflow",
    "hitl_interactive_workflow",
    "hitl_planning_only_workflow",
    "human_in_the_loop",
    "idea_generation",
    "idea_to_execution",
    "list_workflows",
    "load_context",
    "load_plan",
    "one_shot",
    "planning_and_control",
    "planning_and_control_context_carryover",
]


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(_former.missing(__name__, name))
