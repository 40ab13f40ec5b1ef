"""Functions that run a workflow with a human's say in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cmbagent.utils import default_agents_llm_model, default_formatter_model
from cmbagent.utils import default_llm_model as _default_llm_model
from cmbagent.workflows._calls import Call, Definition
from cmbagent.workflows.results import RunResult

_MODELS = default_agents_llm_model


def hitl_interactive_workflow(
    task: str,
    max_rounds_planning: int = 50,
    max_rounds_control: int = 100,
    max_plan_steps: int = 5,
    max_human_iterations: int = 3,
    max_n_attempts: int = 3,
    approval_mode: str = "both",
    allow_plan_modification: bool = True,
    allow_step_skip: bool = True,
    allow_step_retry: bool = True,
    show_step_context: bool = True,
    planner_model: str = _MODELS["planner"],
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    default_llm_model: str = _default_llm_model,
    default_formatter_model: str = default_formatter_model,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    clear_work_dir: bool = False,
    callbacks: Any = None,
    approval_manager: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    replay: str | os.PathLike[str] | None = None,
    strict: bool = False,
    resume: bool = False,
    limits: Mapping[str, Any] | None = None,
) -> RunResult:
    """Plan with a human, then carry the plan out with a human.

    Args:
        task: the task, verbatim for all agents.
        max_rounds_planning: upper limit of model calls for each plan.
        max_rounds_control: upper limit of model calls in a step.
        max_plan_steps: most steps a plan may have.
        max_human_iterations: how many plans a human is shown at most.
        max_n_attempts: how often failing code is tried again.
        approval_mode: when a human is asked: `before_step`, `after_step`, `both` or `on_error`.
        allow_plan_modification: let the human edit the plan.
        allow_step_skip: let the human leave out steps.
        allow_step_retry: let the human have a failed step tried again.
        show_step_context: show what a step found when asking about it.
        planner_model: model that writes the plan.
        engineer_model: model that writes code.
        researcher_model: model that writes text.
        default_llm_model: model of agents without a setting of their own.
        default_formatter_model: model that gives a second opinion on failing code.
        work_dir: where files go; `None` means the default directory.
        api_keys: provider name → key; `None` reads the environment.
        clear_work_dir: empty the directory first.
        callbacks: the caller's callbacks.
        approval_manager: asks the human; `None` as in `WorkflowExecutor`.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        options: settings for every phase, see `WorkflowExecutor`.
        record: a new file in which every model call is written down, see `docs/replay.md`.
        replay: a file written so: calls are answered from it, without a model, a key or a network.
        strict: whether a request that differs from the recorded one is an error; else it is a warning.
        resume: go on with the run of the same task in `work_dir`, if there is one that a crash, a stop or an
            error has ended; one that is completed gives its results again.
        limits: what the run may take, such as `{"max_cost": 2.0}`, and how fast; see `docs/limits.md`.

    Returns:
        A dict with `final_context` (the workflow's context as a dict), `phase_timings` in seconds,
        `work_dir`, `hitl_feedback` (all that was said), `planning_feedback_history` and `step_feedback`.

    Raises:
        RuntimeError: a phase failed, or the human rejected the plan or ended the run.
        CmbagentError: a model could not be reached, or an argument cannot be used.
    """
    call = Call(hitl_interactive_workflow, locals())
    phases = [
        call.phase("hitl_planning", max_rounds=max_rounds_planning),
        call.phase("hitl_control", max_rounds=max_rounds_control),
    ]
    return _run(call, "hitl_interactive", phases, ("planning_feedback_history", "step_feedback"))


def hitl_planning_only_workflow(
    task: str,
    max_rounds_planning: int = 50,
    max_rounds_control: int = 100,
    max_plan_steps: int = 5,
    max_human_iterations: int = 3,
    allow_plan_modification: bool = True,
    planner_model: str = _MODELS["planner"],
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    default_llm_model: str = _default_llm_model,
    default_formatter_model: str = default_formatter_model,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    clear_work_dir: bool = False,
    callbacks: Any = None,
    approval_manager: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    replay: str | os.PathLike[str] | None = None,
    strict: bool = False,
    resume: bool = False,
    limits: Mapping[str, Any] | None = None,
) -> RunResult:
    """Plan with a human, then carry the plan out without questions.

    The parameters are those of `hitl_interactive_workflow`.

    Returns:
        A dict as there, without `step_feedback`.

    Raises:
        RuntimeError: a phase failed, or the human rejected the plan.
        CmbagentError: a model could not be reached, or an argument cannot be used.
    """
    call = Call(hitl_planning_only_workflow, locals())
    phases = [
        call.phase("hitl_planning", max_rounds=max_rounds_planning),
        call.phase("control", max_rounds=max_rounds_control),
    ]
    return _run(call, "hitl_planning_only", phases, ("planning_feedback_history",))


def hitl_error_recovery_workflow(
    task: str,
    max_rounds_planning: int = 50,
    max_rounds_control: int = 100,
    max_plan_steps: int = 4,
    n_plan_reviews: int = 1,
    max_n_attempts: int = 3,
    allow_step_retry: bool = True,
    allow_step_skip: bool = True,
    planner_model: str = _MODELS["planner"],
    plan_reviewer_model: str = _MODELS["plan_reviewer"],
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    default_llm_model: str = _default_llm_model,
    default_formatter_model: str = default_formatter_model,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    clear_work_dir: bool = False,
    callbacks: Any = None,
    approval_manager: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    replay: str | os.PathLike[str] | None = None,
    strict: bool = False,
    resume: bool = False,
    limits: Mapping[str, Any] | None = None,
) -> RunResult:
    """Plan and carry the plan out without questions, until a step fails.

    The parameters are those of `hitl_interactive_workflow`, and `n_plan_reviews`, how often the plan is
    reviewed and rewritten, by `plan_reviewer_model`.

    Returns:
        A dict as there, without `planning_feedback_history`.

    Raises:
        RuntimeError: a phase failed, or the human ended the run.
        CmbagentError: a model could not be reached, or an argument cannot be used.
    """
    call = Call(hitl_error_recovery_workflow, locals())
    phases = [
        call.phase("planning", max_rounds=max_rounds_planning),
        call.phase("hitl_control", max_rounds=max_rounds_control, approval_mode="on_error"),
    ]
    return _run(call, "hitl_error_recovery", phases, ("step_feedback",))


def _run(call: Call, workflow_id: str, phases: list[Definition], histories: tuple[str, ...]) -> RunResult:
    context = call.run(workflow_id, workflow_id.replace("_", " "), phases).context
    return RunResult(
        final_context=context.to_dict(),
        phase_timings=context.phase_timings,
        work_dir=call.work_dir,
        hitl_feedback=context.shared_state.get("all_hitl_feedback") or [],
        **{name: context.shared_state.get(name) or [] for name in histories},
    )
