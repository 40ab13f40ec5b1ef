"""Carry out a plan that already exists."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cmbagent.errors import ConfigurationError
from cmbagent.utils import default_agents_llm_model
from cmbagent.workflows._calls import Call
from cmbagent.workflows.results import RunResult, control_result, whole_control_times
from cmbagent.workflows.utils import load_plan, plan_steps

_MODELS = default_agents_llm_model
# They concern the planning that this function does not do.
_PLANNING_ARGUMENTS = frozenset(
    {"max_plan_steps", "n_plan_reviews", "plan_instructions", "planner_model", "plan_reviewer_model"}
)


def control(
    task: str,
    plan: str | os.PathLike[str] | list[dict[str, Any]] | dict[str, Any] | None = None,
    max_rounds: int = 100,
    *,
    engineer_instructions: str | None = "",
    researcher_instructions: str | None = "",
    hardware_constraints: str | None = "",
    max_n_attempts: int = 3,
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    web_surfer_model: str = _MODELS["web_surfer"],
    retrieve_assistant_model: str = _MODELS["retrieve_assistant"],
    idea_maker_model: str = _MODELS["idea_maker"],
    idea_hater_model: str = _MODELS["idea_hater"],
    plot_judge_model: str = _MODELS["plot_judge"],
    work_dir: str | os.PathLike[str] | None = None,
    clear_work_dir: bool = False,
    api_keys: Any = None,
    callbacks: Any = None,
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
    """Carry out a plan without planning.

    Args:
        task: the task, verbatim for all agents.
        plan: path of a JSON file with `sub_tasks`, or the plan itself.
        max_rounds: upper limit of model calls in a step.
        engineer_instructions: wishes for the engineer; `None` is the same as empty, as for all texts.
        researcher_instructions: wishes for the researcher.
        hardware_constraints: what the machine offers; empty lets the engine look.
        max_n_attempts: how often failing code is tried again.
        engineer_model: model of the engineer.
        researcher_model: model of the researcher.
        web_surfer_model: kept for older programs; no agent uses it.
        retrieve_assistant_model: kept for older programs; no agent uses it.
        idea_maker_model: model that makes ideas.
        idea_hater_model: model that criticises them.
        plot_judge_model: model that judges plots; where it takes no pictures, the engineer's does, or one
            of a provider that there is a key for.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        clear_work_dir: `True` deletes the contents of `work_dir` first; nothing is deleted without it.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        callbacks: see `cmbagent.callbacks`.
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
        **ignored: the planning arguments of earlier versions; a warning names them.

    Returns:
        A dict with `chat_history` (all steps), `final_context`, `initialization_time_control` and
        `execution_time_control` (seconds, all steps together), `status`, `error` and more.

    Raises:
        FileNotFoundError: there is no file at `plan`.
        ValueError: no plan was given, or it holds no steps.
        CmbagentError: a model could not be reached, or an argument cannot be used.
    """
    arguments = locals()
    if plan is None:
        raise ConfigurationError(
            "control() needs plan=: the path of a JSON file with 'sub_tasks', or the steps"
        )
    # Read before the directory is cleared: the plan may lie in it.
    if isinstance(plan, (list, dict)):
        steps = plan_steps(plan, "the given plan")
    else:
        steps = plan_steps(load_plan(plan), os.fspath(plan))
    call = Call(control, arguments, _PLANNING_ARGUMENTS)
    params = {"preloaded_plan": steps, "files": "plain", "fail_softly": True}
    executor = call.run(
        "control",
        "Control",
        [call.phase("control", params)],
        shared_state={"planning_context": {"hardware_constraints": hardware_constraints or ""}},
    )
    return whole_control_times(control_result(executor, planned=False))
