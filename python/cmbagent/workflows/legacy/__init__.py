"""The functions under the import path of their former backup; they are the same objects."""

from __future__ import annotations

from cmbagent.workflows.conversation import human_in_the_loop

# As in `cmbagent.workflows`: two of the submodules bear the name of their function, which the import below
# keeps.
from cmbagent.workflows.legacy.control import control
from cmbagent.workflows.legacy.one_shot import one_shot
from cmbagent.workflows.legacy.planning_control import (
    deep_research,
    planning_and_control,
    planning_and_control_context_carryover,
)
from cmbagent.workflows.legacy.utils import clean_work_dir, load_context, load_plan

__all__ = [
    "clean_work_dir",
    "control",
    "deep_research",
    "human_in_the_loop",
    "load_context",
    "load_plan",
    "one_shot",
    "planning_and_control",
    "planning_and_control_context_carryover",
]
