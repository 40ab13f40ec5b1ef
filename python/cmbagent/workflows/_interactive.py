"""The system workflows in which a human takes part at every turn."""

from __future__ import annotations

from typing import Any


def _define(workflow_id: str, name: str, description: str, *phases: dict[str, Any]) -> dict[str, Any]:
    about = {"id": workflow_id, "name": name, "description": description}
    return {**about, "phases": list(phases), "is_system": True}


def _phase(phase_type: str, **config: Any) -> dict[str, Any]:
    return {"type": phase_type, "config": config}


INTERACTIVE_WORKFLOWS: list[dict[str, Any]] = [
    _define(
        "interactive_planning",
        "Interactive Planning",
        "Planning with a human until the plan is approved, multi-step execution",
        _phase("hitl_planning"),
        _phase("control"),
    ),
    _define(
        "interactive_control",
        "Interactive Execution",
        "Planning, approval of the plan by a human, execution with a question before each step",
        _phase("planning"),
        _phase("hitl_checkpoint", checkpoint_type="after_planning"),
        _phase("hitl_control", approval_mode="before_step"),
    ),
    _define(
        "full_interactive",
        "Fully Interactive",
        "Planning with a human, execution with questions before and after each step",
        _phase("hitl_planning"),
        _phase("hitl_control", approval_mode="both"),
    ),
    _define(
        "error_recovery",
        "Error Recovery",
        "Planning, execution with a question when a step fails",
        _phase("planning"),
        _phase("hitl_control", approval_mode="on_error"),
    ),
    _define(
        "progressive_review",
        "Progressive Review",
        "Planning, execution with a question after each step",
        _phase("planning"),
        _phase("hitl_control", approval_mode="after_step"),
    ),
    _define(
        "smart_approval",
        "Smart Approval",
        "Planning, approval of the plan with remarks by a human, long multi-step execution",
        _phase("planning", max_plan_steps=5),
        _phase(
            "hitl_checkpoint",
            checkpoint_type="after_planning",
            options=["approve", "reject", "modify", "add_feedback"],
        ),
        _phase("control", max_rounds=150),
    ),
]
"""Their definitions, as `WorkflowDefinition.from_dict` takes them."""
