"""Workflows as the command line names and configures them."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbagent.cli._app import UsageError

if TYPE_CHECKING:
    from cmbagent.workflows import WorkflowDefinition

_MODEL_FIELDS = {
    "planning": ("planner_model", "plan_reviewer_model"),
    "control": ("engineer_model", "researcher_model"),
    "idea_generation": ("idea_maker_model", "idea_hater_model"),
}
"""The models that a phase is bound to ask, by phase type."""


def find_workflow(name: str) -> WorkflowDefinition:
    """The system workflow with this id.

    Raises:
        UsageError: when there is none; the message has the ids and the nearest.
    """
    from cmbagent.workflows import SYSTEM_WORKFLOWS

    if name in SYSTEM_WORKFLOWS:
        return SYSTEM_WORKFLOWS[name]
    near = difflib.get_close_matches(name, SYSTEM_WORKFLOWS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(f"Unknown workflow: {name}.{hint} Available: {', '.join(SYSTEM_WORKFLOWS)}")


def configured(
    definition: WorkflowDefinition, settings: dict[str, Any], model: str | None
) -> WorkflowDefinition:
    """A copy of a workflow with settings put into every phase that has them.

    Args:
        definition: The workflow; it stays as it is.
        settings: Config field → value.
        model: For every agent whose model is not in ``settings``.

    Raises:
        UsageError: when a setting fits no phase of the workflow.
    """
    from cmbagent.phases import PhaseRegistry

    left = set(settings)
    phases = []
    for phase in definition.phases:
        config_class = PhaseRegistry.get(phase["type"]).config_class
        names = {each.name for each in dataclasses.fields(config_class)} if config_class else set()
        models = {name: model for name in names if model and (name == "model" or name.endswith("_model"))}
        chosen = {name: value for name, value in settings.items() if name in names}
        left -= set(chosen)
        config = {**phase.get("config", {}), **models, **chosen}
        if model:
            # Agents whose model is no field of the phase, such as the one that gives a second opinion.
            others = {"default_llm_model": model, "default_formatter_model": model}
            config["params"] = {**others, **config.get("params", {})}
        phases.append({**phase, "config": config})
    if left:
        options = {"max_n_attempts": "--max-attempts"}
        named = ", ".join(sorted(options.get(each, "--" + each.replace("_", "-")) for each in left))
        raise UsageError(f"The workflow {definition.id} has no phase that {named} applies to.")
    return dataclasses.replace(definition, phases=phases)


def restarted(definition: WorkflowDefinition, work_dir: Path, step: int) -> WorkflowDefinition:
    """A copy of a workflow that begins at a step of the plan in ``work_dir``.

    Args:
        definition: A workflow with a control phase.
        work_dir: Where the earlier run left its plan and its contexts.
        step: 1-based number of the step to go on at.

    Raises:
        UsageError: when the workflow has no control phase.
        CmbagentError: when the files of the earlier run are missing or the plan is shorter.
    """
    from cmbagent.workflows._calls import restart_settings

    types = [phase["type"] for phase in definition.phases]
    if "control" not in types:
        raise UsageError(f"The workflow {definition.id} has no steps to restart at.")
    at = types.index("control")
    control = dict(definition.phases[at])
    control["config"] = {**control.get("config", {}), "params": restart_settings(str(work_dir), step)}
    return dataclasses.replace(definition, phases=[control, *definition.phases[at + 1 :]])


def missing_keys(phases: list[Any], keys: dict[str, Any]) -> list[str]:
    """What has to be set before the phases can ask their models; empty when nothing is.

    Args:
        phases: The phases of an executor.
        keys: Provider in capitals → key or ``None``.
    """
    from cmbagent import _core

    lacks: dict[str, list[str]] = {}
    for phase in phases:
        names: tuple[str, ...] = _MODEL_FIELDS.get(phase.phase_type, ())
        if phase.phase_type == "planning" and not phase.config.n_plan_reviews:
            names = ("planner_model",)
        elif phase.phase_type == "one_shot":
            names = (f"{phase.config.agent}_model",)
        for model in (getattr(phase.config, name, None) or "" for name in names):
            provider = _core.route(model).upper() if model else ""
            if provider and not keys.get(provider) and not os.environ.get(f"{provider}_BASE_URL"):
                lacks.setdefault(provider, []).append(model)
    return [
        f"{', '.join(dict.fromkeys(models))}: set {name}_API_KEY (for a server of your own: {name}_BASE_URL)"
        for name, models in lacks.items()
    ]


def asks(phase: dict[str, Any]) -> bool:
    """Whether a phase of a definition asks a human."""
    config = phase.get("config", {})
    if phase["type"] in ("hitl_planning", "hitl_control"):
        return True
    if phase["type"] == "hitl_checkpoint":
        return bool(config.get("require_approval", True))
    return bool(config.get("hitl_after_each_step") or config.get("hitl_enabled"))
