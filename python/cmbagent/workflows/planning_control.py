"""Plan a task, then carry out the plan step by step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cmbagent.utils import default_agents_llm_model, default_formatter_model
from cmbagent.utils import default_llm_model as _default_llm_model
from cmbagent.workflows._calls import (
    MASSGEN_ARGUMENTS,
    RETRIEVAL_ARGUMENTS,
    Call,
    approval_phases,
    restart_settings,
)
from cmbagent.workflows.results import RunResult, control_result, whole_control_times

_MODELS = default_agents_llm_model
_IGNORED = MASSGEN_ARGUMENTS | RETRIEVAL_ARGUMENTS


def planning_and_control_context_carryover(
    task: str,
    max_rounds_planning: int = 50,
    max_rounds_control: int = 100,
    max_plan_steps: int = 3,
    n_plan_reviews: int = 1,
    plan_instructions: str | None = "",
    engineer_instructions: str | None = "",
    researcher_instructions: str | None = "",
    hardware_constraints: str | None = "",
    max_n_attempts: int = 3,
    planner_model: str = _MODELS["planner"],
    plan_reviewer_model: str = _MODELS["plan_reviewer"],
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    idea_maker_model: str = _MODELS["idea_maker"],
    idea_hater_model: str = _MODELS["idea_hater"],
    camb_context_model: str = _MODELS["camb_context"],
    plot_judge_model: str = _MODELS["plot_judge"],
    web_surfer_model: str = _MODELS["web_surfer"],
    retrieve_assistant_model: str = _MODELS["retrieve_assistant"],
    default_llm_model: str = _default_llm_model,
    default_formatter_model: str = default_formatter_model,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    restart_at_step: int = -1,
    clear_work_dir: bool = False,
    researcher_filename: str | None = None,
    approval_config: Any = None,
    callbacks: Any = None,
    approval_manager: Any = None,
    hitl_after_planning: bool = False,
    parent_run_id: str | None = None,
    stage_name: str | None = None,
    verbose: bool | None = None,
    evaluate_plots: bool = False,
    max_n_plot_evals: int = 1,
    options: Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    replay: str | os.PathLike[str] | None = None,
    strict: bool = False,
    resume: bool = False,
    limits: Mapping[str, Any] | None = None,
    **ignored: Any,
) -> RunResult:
    """Plan a task and carry the plan out, each step knowing what the steps before it found.

    Args:
        task: the task, verbatim for all agents.
        max_rounds_planning: upper limit of model calls while planning.
        max_rounds_control: upper limit of model calls in a step.
        max_plan_steps: most steps the plan may have.
        n_plan_reviews: how often the plan is reviewed and rewritten.
        plan_instructions: wishes for the plan; `None` is the same as empty, as for all texts.
        engineer_instructions: wishes for the engineer.
        researcher_instructions: wishes for the researcher.
        hardware_constraints: what the machine offers; empty lets the engine look.
        max_n_attempts: how often failing code is tried again.
        planner_model: model of the planner.
        plan_reviewer_model: model of the plan's reviewer.
        engineer_model: model of the engineer.
        researcher_model: model of the researcher.
        idea_maker_model: model that makes ideas.
        idea_hater_model: model that criticises them.
        camb_context_model: model of `camb_context` and `classy_context`.
        plot_judge_model: model that judges plots; where it takes no pictures, the engineer's does, or one
            of a provider that there is a key for.
        web_surfer_model: kept for older programs; no agent uses it.
        retrieve_assistant_model: kept for older programs; no agent uses it.
        default_llm_model: model of agents without a setting of their own.
        default_formatter_model: model that gives a second opinion when two attempts fail alike.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        restart_at_step: 1 or more skips planning and goes on at that step of an earlier run in `work_dir`.
        clear_work_dir: `True` deletes the contents of `work_dir` first.
        researcher_filename: name of the researcher's file; `None`, or a sentence, lets the agent choose.
        approval_config: where a human is asked (`mode`: after_planning, before_each_step, on_error).
        callbacks: see `cmbagent.callbacks`.
        approval_manager: asks the human.
        hitl_after_planning: ask the human to review the plan.
        parent_run_id: noted in the run's metadata.
        stage_name: noted in the run's metadata.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        evaluate_plots: have a model that takes pictures judge new plots; the engineer mends what it finds.
        max_n_plot_evals: how many scripts' plots are judged in a step at most; later ones are accepted.
        options: settings for every phase, see `WorkflowExecutor`.
        record: a new file in which every model call is written down, see `docs/replay.md`.
        replay: a file written so: calls are answered from it, without a model, a key or a network.
        strict: whether a request that differs from the recorded one is an error; else it is a warning.
        resume: go on with the run of the same task in `work_dir`, if there is one that a crash, a stop or an
            error has ended; one that is completed gives its results again.
        limits: what the run may take, such as `{"max_cost": 2.0, "max_llm_calls": 50}`, and how fast; see
            `docs/limits.md`. Reaching one raises `OverLimitError`; `resume=True` with a higher one goes on.
        **ignored: arguments of earlier versions without effect here; a warning names them.

    Returns:
        A dict with `chat_history` (all steps), `planning_chat_history`, `final_context`, `status`, `error`,
        `initialization_time_control` and `execution_time_control` (seconds, last step),
        `execution_time_planning`,
        `step_results`, `run_id`, `phase_timings`, `total_time` and more. A step that exhausts its attempts
        ends the run with `status` `"failed"` and the reason in `error`.

    Raises:
        CmbagentError: planning failed, a model could not be reached, or an argument cannot be used.
    """
    call = Call(planning_and_control_context_carryover, locals(), _IGNORED)
    checkpoints, after_each_step, on_error = approval_phases(approval_config, hitl_after_planning)
    control = call.phase(
        "control",
        {"fail_softly": True, "researcher_filename": call.arguments["researcher_filename"]},
        max_rounds=max_rounds_control,
        hitl_after_each_step=after_each_step,
        hitl_enabled=on_error,
    )
    if restart_at_step > 0:
        restart = restart_settings(call.work_dir, restart_at_step)
        if hardware_constraints:
            restart["restored_context"]["hardware_constraints"] = hardware_constraints
        control["config"]["params"].update(restart)
        phases = [control]
    else:
        phases = [call.phase("planning", max_rounds=max_rounds_planning), *checkpoints, control]
    executor = call.run(
        "deep_research",
        "Deep Research",
        phases,
        metadata={"parent_run_id": parent_run_id, "stage_name": stage_name},
    )
    return control_result(executor, planned=True)


deep_research = planning_and_control_context_carryover


def planning_and_control(
    task: str,
    max_rounds_planning: int = 50,
    max_rounds_control: int = 100,
    max_plan_steps: int = 3,
    n_plan_reviews: int = 1,
    plan_instructions: str | None = "",
    engineer_instructions: str | None = "",
    researcher_instructions: str | None = "",
    hardware_constraints: str | None = "",
    max_n_attempts: int = 3,
    planner_model: str = _MODELS["planner"],
    plan_reviewer_model: str = _MODELS["plan_reviewer"],
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    web_surfer_model: str = _MODELS["web_surfer"],
    retrieve_assistant_model: str = _MODELS["retrieve_assistant"],
    idea_maker_model: str = _MODELS["idea_maker"],
    idea_hater_model: str = _MODELS["idea_hater"],
    work_dir: str | os.PathLike[str] | None = None,
    researcher_filename: str | None = None,
    default_llm_model: str = _default_llm_model,
    default_formatter_model: str = default_formatter_model,
    api_keys: Any = None,
    clear_work_dir: bool = False,
    callbacks: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    replay: str | os.PathLike[str] | None = None,
    strict: bool = False,
    resume: bool = False,
    limits: Mapping[str, Any] | None = None,
    **ignored: Any,
) -> RunResult:
    """Plan a task and carry the plan out, reporting the control phase as a whole.

    The parameters are those of `planning_and_control_context_carryover`.

    Returns:
        A dict with `chat_history`, `planning_chat_history`, `final_context`, `status`, `error` and, in
        seconds, `initialization_time_planning`, `execution_time_planning`, `initialization_time_control` and
        `execution_time_control` (all steps together).

    Raises:
        CmbagentError: planning failed, a model could not be reached, or an argument cannot be used.
    """
    call = Call(planning_and_control, locals(), _IGNORED)
    executor = call.run(
        "planning_and_control",
        "Planning and Control",
        [
            call.phase("planning", {"files": "plain"}, max_rounds=max_rounds_planning),
            call.phase(
                "control",
                {
                    "files": "plain",
                    "fail_softly": True,
                    "researcher_filename": call.arguments["researcher_filename"],
                },
                max_rounds=max_rounds_control,
            ),
        ],
    )
    return whole_control_times(control_result(executor, planned=True))
