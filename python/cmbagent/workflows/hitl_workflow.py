"""Functions that run a workflow with a human's say in one call."""

from __future__ import annotations

import os
from typing import Any

from cmbagent.utils import default_agents_llm_model, default_formatter_model
from cmbagent.utils import default_llm_model as _default_llm_model
from cmbagent.workflows import _calls
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

    Returns:
        A dict with `final_context` (the workflow's context as a dict), `phase_timings` in seconds,
        `work_dir`, `hitl_feedback` (all that was said), `planning_feedback_history` and `step_feedback`.

    Raises:
        RuntimeError: a phase failed, or the human rejected the plan or ended the run.
        CmbagentError: a model could not be reached, or an argument cannot be used.
    """
    params = _params(default_llm_model, default_formatter_model)
    phases = [
        _phase(
            "hitl_planning",
            params,
            max_rounds=max_rounds_planning,
            max_plan_steps=max_plan_steps,
            max_human_iterations=max_human_iterations,
            allow_plan_modification=allow_plan_modification,
            max_n_attempts=max_n_attempts,
            planner_model=planner_model,
        ),
        _phase(
            "hitl_control",
            params,
            max_rounds=max_rounds_control,
            max_n_attempts=max_n_attempts,
            approval_mode=approval_mode,
            allow_step_skip=allow_step_skip,
            allow_step_retry=allow_step_retry,
            show_step_context=show_step_context,
            engineer_model=engineer_model,
            researcher_model=researcher_model,
        ),
    ]
    keys = ("planning_feedback_history", "step_feedback")
    return _run("hitl_interactive", phases, task, work_dir, clear_work_dir, api_keys, callbacks,
                approval_manager, keys)  # fmt: skip


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
) -> RunResult:
    """Plan with a human, then carry the plan out without questions.

    The parameters are those of `hitl_interactive_workflow`.

    Returns:
        A dict as there, without `step_feedback`.

    Raises:
        RuntimeError: a phase failed, or the human rejected the plan.
        CmbagentError: a model could not be reached, or an argument cannot be used.
    """
    params = _params(default_llm_model, default_formatter_model)
    phases = [
        _phase(
            "hitl_planning",
            params,
            max_rounds=max_rounds_planning,
            max_plan_steps=max_plan_steps,
            max_human_iterations=max_human_iterations,
            allow_plan_modification=allow_plan_modification,
            planner_model=planner_model,
        ),
        _phase(
            "control",
            params,
            max_rounds=max_rounds_control,
            engineer_model=engineer_model,
            researcher_model=researcher_model,
        ),
    ]
    return _run("hitl_planning_only", phases, task, work_dir, clear_work_dir, api_keys, callbacks,
                approval_manager, ("planning_feedback_history",))  # fmt: skip


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
    params = _params(default_llm_model, default_formatter_model)
    phases = [
        _phase(
            "planning",
            params,
            max_rounds=max_rounds_planning,
            max_plan_steps=max_plan_steps,
            n_plan_reviews=n_plan_reviews,
            max_n_attempts=max_n_attempts,
            planner_model=planner_model,
            plan_reviewer_model=plan_reviewer_model,
        ),
        _phase(
            "hitl_control",
            params,
            max_rounds=max_rounds_control,
            max_n_attempts=max_n_attempts,
            approval_mode="on_error",
            allow_step_retry=allow_step_retry,
            allow_step_skip=allow_step_skip,
            engineer_model=engineer_model,
            researcher_model=researcher_model,
        ),
    ]
    return _run("hitl_error_recovery", phases, task, work_dir, clear_work_dir, api_keys, callbacks,
                approval_manager, ("step_feedback",))  # fmt: skip


def _params(llm_model: str, formatter_model: str) -> dict[str, Any]:
    return {"default_llm_model": llm_model, "default_formatter_model": formatter_model}


def _phase(phase_type: str, params: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"type": phase_type, "config": {**settings, "params": dict(params)}}


def _run(
    workflow_id: str,
    phases: list[dict[str, Any]],
    task: str,
    work_dir: str | os.PathLike[str] | None,
    clear: bool,
    api_keys: Any,
    callbacks: Any,
    approval_manager: Any,
    histories: tuple[str, ...],
) -> RunResult:
    place = _calls.prepare_work_dir(work_dir, clear)
    executor = _calls.run_phases(
        workflow_id,
        workflow_id.replace("_", " "),
        phases,
        task,
        place,
        api_keys=api_keys,
        callbacks=callbacks,
        approval_manager=approval_manager,
    )
    shared = executor.context.shared_state
    return RunResult(
        final_context=executor.context.to_dict(),
        phase_timings=executor.context.phase_timings,
        work_dir=place,
        hitl_feedback=shared.get("all_hitl_feedback") or [],
        **{name: shared.get(name) or [] for name in histories},
    )
