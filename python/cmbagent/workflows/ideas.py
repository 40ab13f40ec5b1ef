"""Make research ideas, and carry one out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cmbagent.utils import default_agents_llm_model
from cmbagent.workflows._calls import Call, Definition
from cmbagent.workflows.results import RunResult, control_result, idea_result

_MODELS = default_agents_llm_model
_SELECT = "Which idea shall be pursued? Choose or rewrite one."


def idea_generation(
    task: str,
    max_rounds: int = 50,
    n_ideas: int = 3,
    n_reviews: int = 1,
    idea_maker_model: str = _MODELS["idea_maker"],
    idea_hater_model: str = _MODELS["idea_hater"],
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    clear_work_dir: bool = False,
    hitl_after_ideas: bool = True,
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
    """Make research ideas on a topic, have them criticised and improved, and select one.

    Args:
        task: the topic and the data, verbatim for all agents.
        max_rounds: upper limit of model calls.
        n_ideas: how many ideas are made.
        n_reviews: how often they are criticised and improved.
        idea_maker_model: model that makes ideas.
        idea_hater_model: model that criticises them.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        clear_work_dir: `True` deletes the contents of `work_dir` first.
        hitl_after_ideas: let a human choose or rewrite the selected idea.
        callbacks: see `cmbagent.callbacks`.
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
        A dict with `ideas`, `reviews`, `selected_idea` (the human's where there was one), `chat_history`,
        `final_context`, `status`, `run_id`, `phase_timings` and `total_time` (seconds) and more.

    Raises:
        RuntimeError: the human rejected the ideas.
        CmbagentError: a model could not be reached, or an argument cannot be used.
    """
    call = Call(idea_generation, locals())
    phases = [call.phase("idea_generation"), *([_checkpoint("custom", _SELECT)] if hitl_after_ideas else [])]
    return idea_result(call.run("idea_generation", "Idea Generation", phases))


def idea_to_execution(
    task: str,
    n_ideas: int = 3,
    n_reviews: int = 1,
    idea_maker_model: str = _MODELS["idea_maker"],
    idea_hater_model: str = _MODELS["idea_hater"],
    max_rounds_planning: int = 50,
    max_plan_steps: int = 5,
    n_plan_reviews: int = 1,
    planner_model: str = _MODELS["planner"],
    plan_reviewer_model: str = _MODELS["plan_reviewer"],
    plan_instructions: str | None = "",
    max_rounds_control: int = 100,
    max_n_attempts: int = 3,
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    engineer_instructions: str | None = "",
    researcher_instructions: str | None = "",
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    clear_work_dir: bool = False,
    hitl_enabled: bool = True,
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
    """Make research ideas, select one, plan it and carry it out.

    Args:
        task: the topic and the data, verbatim for all agents; planning and control also get the idea.
        n_ideas: how many ideas are made.
        n_reviews: how often they are criticised and improved.
        idea_maker_model: model that makes ideas.
        idea_hater_model: model that criticises them.
        max_rounds_planning: upper limit of model calls while planning.
        max_plan_steps: most steps the plan may have.
        n_plan_reviews: how often the plan is reviewed and rewritten.
        planner_model: model of the planner.
        plan_reviewer_model: model of the plan's reviewer.
        plan_instructions: wishes for the plan; `None` is the same as empty, as for all texts.
        max_rounds_control: upper limit of model calls in a step.
        max_n_attempts: how often failing code is tried again.
        engineer_model: model of the engineer.
        researcher_model: model of the researcher.
        engineer_instructions: wishes for the engineer.
        researcher_instructions: wishes for the researcher.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        clear_work_dir: `True` deletes the contents of `work_dir` first.
        hitl_enabled: let a human choose the idea and review the plan.
        callbacks: see `cmbagent.callbacks`.
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
        What `planning_and_control_context_carryover` returns, with `ideas`, `reviews`, `selected_idea` and
        `idea_chat_history`. A step that exhausts its attempts ends the run with `status` `"failed"`.

    Raises:
        RuntimeError: the human rejected the ideas or the plan.
        CmbagentError: planning failed, a model could not be reached, or an argument cannot be used.
    """
    call = Call(idea_to_execution, locals())
    executor = call.run(
        "idea_to_execution",
        "Idea to Execution",
        [
            call.phase("idea_generation"),
            *([_checkpoint("custom", _SELECT)] if hitl_enabled else []),
            call.phase("planning", max_rounds=max_rounds_planning),
            *([_checkpoint("after_planning")] if hitl_enabled else []),
            call.phase("control", {"fail_softly": True}, max_rounds=max_rounds_control),
        ],
    )
    ideas = idea_result(executor)
    result = control_result(executor, planned=True)
    result["idea_chat_history"] = ideas["chat_history"]
    result.update({name: ideas[name] for name in ("ideas", "reviews", "selected_idea")})
    return result


def _checkpoint(kind: str, message: str = "") -> Definition:
    return {"type": "hitl_checkpoint", "config": {"checkpoint_type": kind, "custom_message": message}}
